"""`--format onnx`: the student as one file that ONNX runtimes run, without toco or torch.

    student.onnx    input    image   uint8 (batch, 3, height, width): red, green, blue from 0 to 255, any size
                    outputs  labels  uint8 (batch, height, width): 0 background, 1..C classes
                             logits  float32 (batch, classes, height, width): the background's first
    classes.txt     line c is class c

The file's metadata: class_names (JSON; class c is class_names[c - 1]), long_side (what the longer side of images was
resized to in training, in pixels) and toco (its version).
"""

import io
import json
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
from data.errors import SettingsError
from stages.networks.student import STRIDE, Student, load_student
from stages.run_folder.artifacts import StageFolder
from stages.runtime.monitor import Monitor

OPSET = 18  # of 2023: runtimes since then know it


def export_onnx(folder: StageFolder, out: Path, monitor: Monitor) -> list[Path]:
    """Write the student of RUN/seg, and its classes' names; returns the files.

    Raises:
        ArtifactError: The folder's parts do not fit together.
        ValueError: The network uses something that ONNX lacks.
    """
    student = load_student(folder)
    network, classes = out / "student.onnx", out / "classes.txt"
    monitor.start("writing the student", 2, unit="files")
    try:
        model = as_onnx(student)
    except Exception as error:  # what is raised depends on which part of which network refuses
        spec = folder.config["model"]
        reason = " ".join(str(error.__cause__ or error).split("\n\n")[0].split())
        raise SettingsError(
            f"{folder.path}: --arch {spec['arch']} with --encoder {spec['encoder']} cannot be exported as ONNX "
            f"({reason}): train the student with others, 'toco train-seg --overwrite'"
        ) from error
    metadata = {
        "class_names": json.dumps(folder.class_names),
        "long_side": str(student.long_side),
        "toco": version("toco"),
    }
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
    """What is exported: the student, and the labels by its logits."""

    def __init__(self, student: Student) -> None:
        """Wrap a student."""
        super().__init__()
        self.student = student

    def forward(self, image: UInt8[Tensor, "b 3 h w"]) -> tuple[UInt8[Tensor, "b h w"], Float[Tensor, "b classes h w"]]:
        """Labels, and logits."""
        logits = self.student(image)
        return logits.argmax(dim=1).to(torch.uint8), logits


def as_onnx(student: Student) -> onnx.ModelProto:
    """Turn a student in evaluation mode, which is changed by it, into an ONNX model for images of any size and number.

    Raises:
        Exception: Of many kinds: the network cannot be turned.
    """
    student.network.requires_divisible_input_shape = False  # a question about sizes, which the student answers
    _fix_padding(student)
    free = {0: "batch", 2: "height", 3: "width"}
    chatter = io.StringIO()  # of the exporter, which prints the whole network where it fails
    with redirect_stdout(chatter), redirect_stderr(chatter):
        program = torch.onnx.export(
            LabelsAndLogits(student).eval(),
            (torch.zeros(2, 3, 3 * STRIDE - 1, 2 * STRIDE + 1, dtype=torch.uint8),),
            input_names=["image"],
            output_names=["labels", "logits"],
            opset_version=OPSET,
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("the exporter gave nothing")
    model: onnx.ModelProto = program.model_proto
    (image,), (labels, logits) = model.graph.input, model.graph.output
    if [dim.dim_param for dim in _dims(image)] != ["batch", "", "height", "width"]:
        raise ValueError("it takes images of one size only")
    for value, named in ((labels, ("batch", "height", "width")), (logits, ("batch", "", "height", "width"))):
        for dim, name in zip(_dims(value), named, strict=True):
            if name:  # in the place of what the exporter worked out, which is the same
                dim.dim_param = name
    return model


def _dims(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def _fix_padding(student: Student) -> None:
    """Put constant padding where TensorFlow's networks pad by the size of what comes in.

    At sides that are multiples of STRIDE, strides divide what they meet, and the padding does not depend on the size.
    The exporter would take it for a growing formula of height and width, for many minutes.
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
