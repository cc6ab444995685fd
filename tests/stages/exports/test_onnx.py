import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import stages.exports.onnx
from data.errors import SettingsError
from data.readers import open_dataset
from stages.config import TrainSeg
from stages.exports.onnx import as_onnx, export_onnx
from stages.networks.student import Student, new_student
from stages.run_folder.artifacts import StageFolder, begin_stage, open_stage
from stages.run_folder.saving import save_weights
from stages.runtime.monitor import SilentMonitor

SIZES = [
    (1, 33, 70),
    (2, 100, 45),
    (3, 64, 131),
]  # batch, height, width; all differ from the example image of the export


def untrained(arch: str, encoder: str) -> tuple[TrainSeg, Student, Any]:
    config = TrainSeg(arch=arch, encoder=encoder, weights="none", image_size=64, long_side=80)
    torch.manual_seed(0)
    student, spec = new_student(config, 2)
    return config, student.eval(), spec


@pytest.fixture
def seg_folder(labelled_run: Any) -> StageFolder:
    config, student, spec = untrained("Unet", "resnet18")
    dataset = open_dataset(labelled_run.data)
    extra = {"model": asdict(spec)}
    folder = begin_stage(labelled_run.run, "seg", settings=config, dataset=dataset, extra=extra).path
    save_weights(folder / "model.safetensors", student.state_dict())
    return open_stage(labelled_run.run, "seg")


def images_of(size: tuple[int, int, int]) -> Tensor:
    batch, height, width = size
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(batch, 3, 1 + height // 8, 1 + width // 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (255 * images).to(torch.uint8)


def assert_equal_to_torch(session: Any, student: Student) -> None:
    for size in SIZES:
        images = images_of(size)
        labels, logits = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            expected = student(images)
        assert labels.dtype == np.uint8
        assert labels.shape == (size[0], *size[1:])
        np.testing.assert_array_equal(labels, logits.argmax(axis=1))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)
        assert (labels == expected.argmax(dim=1).numpy()).mean() >= 0.999


class Small(nn.Module):
    """One convolution; converted in a fraction of a Unet's time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images)
        return logits


def test_export_onnx__runs_at_any_size_as_torch_does(
    seg_folder: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    student = Student(Small(), long_side=80).eval()
    monkeypatch.setattr(stages.exports.onnx, "load_student", lambda _: student)
    files = export_onnx(seg_folder, tmp_path / "out", SilentMonitor())
    assert files == [tmp_path / "out" / "student.onnx", tmp_path / "out" / "classes.txt"]
    assert files[1].read_text() == "red\nblue\n"
    onnx.checker.check_model(str(files[0]), full_check=True)
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    (image,), outputs = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert [(one.name, one.type, one.shape) for one in outputs] == [
        ("labels", "tensor(uint8)", ["batch", "height", "width"]),
        ("logits", "tensor(float)", ["batch", 3, "height", "width"]),
    ]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == ["red", "blue"]
    assert metadata["long_side"] == "80"
    assert metadata["toco"].startswith("0.")
    assert len(student(images_of(SIZES[0])).argmax(dim=1).unique()) > 1  # otherwise the comparison would show nothing
    assert_equal_to_torch(session, student)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "encoder"),
    [
        ("Unet", "resnet18"),
        ("DeepLabV3Plus", "resnet50"),
        ("DeepLabV3Plus", "tu-tf_efficientnet_lite0"),
        ("Unet", "tu-mobilenetv3_small_050"),
    ],
)
def test_as_onnx__other_networks(arch: str, encoder: str) -> None:
    model = as_onnx(untrained(arch, encoder)[1]).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert_equal_to_torch(session, untrained(arch, encoder)[1])


class _Odd(nn.Module):
    """Its output shape depends on the pixel values, which an ONNX graph cannot express."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum().item() > 0 else images[:, :2]


def test_export_onnx__a_network_that_cannot_be_exported(
    seg_folder: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages.exports.onnx, "load_student", lambda _: Student(_Odd(), long_side=64))
    with pytest.raises(SettingsError, match="--arch Unet with --encoder resnet18 cannot be exported as ONNX") as caught:
        export_onnx(seg_folder, tmp_path / "out", SilentMonitor())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_as_onnx__head_on_features() -> None:
    """The position embeddings of the encoder are resized inside the exported network."""
    from stages.networks.frozen_encoder import FrozenEncoder
    from stages.networks.student import new_feature_student
    from stages.toco.build_backbone import build_backbone

    torch.manual_seed(0)
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    encoder = FrozenEncoder(build_backbone("vit_tiny_patch16_224", auxiliary_block=-1, **shape), (-1,))
    student, _ = new_feature_student(encoder, shape, TrainSeg(arch="conv"), 2, 64)
    session = onnxruntime.InferenceSession(as_onnx(student.eval()).SerializeToString())
    assert_equal_to_torch(session, student)
