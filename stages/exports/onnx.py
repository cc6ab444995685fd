"""`--format onnx`: the student as one file for any ONNX runtime, without toco or torch.

    student.onnx    input    image   uint8 (batch, 3, height, width): RGB from 0 to 255, any size
                    outputs  labels  uint8 (batch, height, width): 0 background, 1..C classes
                             logits  float32 (batch, C + 1, height, width): background first
                    of a network for bands, the input is float32 (batch, bands, height, width): for each band,
                    255 * (value - low) / (high - low), clipped to -255..510, and 255 * mean where there is no value
    classes.txt     one class name per line: line c is class c

Metadata of the file: class_names (JSON; class c is class_names[c - 1]), long_side (the length in pixels to which the
longer side of an image was resized in training), toco (the version), and of a network for bands their numbers, ranges
and means (bands, JSON).
"""

import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float, UInt8
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from data.atomic_write import atomic_write
from data.errors import SettingsError, reason
from stages.networks.inference import BatchTensor
from stages.networks.student import STRIDE, Student, load_student
from stages.run_folder.artifacts import StageFolder
from stages.runtime.monitor import Monitor

OPSET = 18  # released in 2023; newer runtimes support it


def export_onnx(folder: StageFolder, out: Path, monitor: Monitor) -> list[Path]:
    """Write the student of RUN/seg and its class names, and return both files.

    Raises:
        ArtifactError: The weights in `folder` do not fit its config.
        SettingsError: The network contains an operation that cannot be exported as ONNX.
    """
    student = load_student(folder)
    network, classes = out / "student.onnx", out / "classes.txt"
    monitor.start("writing the student", 2, unit="files")
    try:
        model = as_onnx(student, torch.float32 if folder.pixels.bands else torch.uint8)
    except Exception as error:  # the exporter raises many types, depending on the operation that fails
        spec = folder.config["model"]
        raise SettingsError(
            f"{folder.path}: --arch {spec['arch']} with --encoder {spec['encoder']} cannot be exported as ONNX "
            f"({reason(error.__cause__ or error)}): train another student with 'toco train-seg --overwrite'"
        ) from error
    metadata = {
        "class_names": json.dumps(folder.class_names),
        "long_side": str(student.long_side),
        "toco": version("toco"),
    }
    if folder.pixels.bands:
        metadata["bands"] = json.dumps(folder.pixels.as_dict()["bands"])
    onnx.helper.set_model_props(model, metadata)
    with atomic_write(network) as temporary:
        onnx.save(model, temporary)
    monitor.advance()
    with atomic_write(classes) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in folder.class_names), encoding="utf-8")
    monitor.advance()
    monitor.finish()
    return [network, classes]


class LabelsAndLogits(nn.Module):
    """The exported network: returns labels beside the student's logits."""

    def __init__(self, student: Student) -> None:
        """Wrap `student`."""
        super().__init__()
        self.student = student

    def forward(self, image: BatchTensor) -> tuple[UInt8[Tensor, "b h w"], Float[Tensor, "b classes h w"]]:
        """Return the likeliest class of each pixel (0 background, 1..C classes), and the logits."""
        logits = self.student(image)
        return logits.argmax(dim=1).to(torch.uint8), logits


def as_onnx(student: Student, input_type: torch.dtype = torch.uint8) -> onnx.ModelProto:
    """Convert a student in evaluation mode to an ONNX model for any batch size and image size.

    Changes `student` in place: its padding no longer depends on the image size.

    Raises:
        Exception: The network cannot be converted. The type depends on the operation that fails.
    """
    student.network.requires_divisible_input_shape = False  # the check cannot be exported; the student pads its input
    _fix_padding(student)
    free = {0: "batch", 2: "height", 3: "width"}
    printed = io.StringIO()  # if the export fails, the exporter prints the whole network
    with redirect_stdout(printed), redirect_stderr(printed), warnings.catch_warnings():
        # A Vision Transformer gets the position embeddings of each image's grid; the exported network does, too.
        warnings.filterwarnings("ignore", message="The tensor attribute .* was assigned during export")
        program = torch.onnx.export(
            LabelsAndLogits(student).eval(),
            (torch.zeros(2, len(student.mean), 3 * STRIDE - 1, 2 * STRIDE + 1, dtype=input_type),),
            input_names=["image"],
            output_names=["labels", "logits"],
            opset_version=OPSET,
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("the exporter returned no model")
    model: onnx.ModelProto = program.model_proto
    (image,), (labels, logits) = model.graph.input, model.graph.output
    if [dim.dim_param for dim in _dims(image)] != ["batch", "", "height", "width"]:
        raise ValueError("the exported network accepts only one image size")
    for value, named in ((labels, ("batch", "height", "width")), (logits, ("batch", "", "height", "width"))):
        for dim, name in zip(_dims(value), named, strict=True):
            if name:  # replaces a formula of the exporter that has the same value
                dim.dim_param = name
    return model


def _dims(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def _fix_padding(student: Student) -> None:
    """Replace padding that depends on the input size (the 'SAME' padding of TensorFlow's networks) by constant padding.

    The sides of the input are multiples of STRIDE. Each stride therefore divides its input evenly, and the padding is
    the same for all sizes. Without this, the exporter spends many minutes on growing formulas of height and width.
    """
    for name, convolution in list(student.named_modules()):
        if isinstance(convolution, Conv2dSame):
            plain = nn.Conv2d(
                convolution.in_channels,
                convolution.out_channels,
                convolution.kernel_size,  # type: ignore[arg-type]
                convolution.stride,  # type: ignore[arg-type]
                dilation=convolution.dilation,  # type: ignore[arg-type]
                groups=convolution.groups,
                bias=convolution.bias is not None,
            )
            plain.load_state_dict(convolution.state_dict())
            vertical, horizontal = (
                max(0, (kernel - 1) * dilation + 1 - stride)
                for kernel, dilation, stride in zip(plain.kernel_size, plain.dilation, plain.stride, strict=True)
            )
            before = (horizontal // 2, vertical // 2)
            padding = nn.ZeroPad2d((before[0], horizontal - before[0], before[1], vertical - before[1]))
            student.set_submodule(name, nn.Sequential(padding, plain))
