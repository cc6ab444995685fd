import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from data.dataset import Dataset
from data.errors import ArtifactError
from stages.config import TrainSeg
from stages.networks.encoder_weights import IMAGENET, load_encoder_weights, normalisation_of
from stages.networks.student import (
    Student,
    StudentSpec,
    fitted_size,
    label_map,
    load_student,
    new_student,
    student_probabilities,
)
from stages.run_folder.artifacts import StageFolder, begin_stage, open_stage
from stages.run_folder.saving import save_weights

TIMM = "mobilenetv3_small_050"


def config(**changes: Any) -> TrainSeg:
    values = {"arch": "Unet", "encoder": "resnet18", "weights": "none", "image_size": 64, **changes}
    return TrainSeg(**values)


def finished_stage(run: Path, student: Student, spec: StudentSpec, changed: dict[str, Any]) -> StageFolder:
    dataset = Dataset(
        root=run,
        layout="custom",
        class_names=("red", "blue"),
        splits={"train": ()},
        train_split="train",
        val_split=None,
    )
    extra = {"model": asdict(spec) | changed}
    begin_stage(run, "seg", settings=config(), dataset=dataset, extra=extra)
    save_weights(run / "seg" / "model.safetensors", student.state_dict())
    return open_stage(run, "seg")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_student__any_size_gives_logits_of_that_size(dtype: torch.dtype) -> None:
    student, spec = new_student(config(), 2)
    assert spec.long_side == 62  # 64 * 500 / 512
    images = torch.randint(0, 256, (2, 3, 37, 65), dtype=torch.uint8).to(dtype)
    with torch.inference_mode():
        logits = student.eval()(images)
        assert logits.shape == (2, 3, 37, 65)
        # Padding is at the far ends, and is zero to the network.
        normalised = (images / 255 - torch.tensor(IMAGENET.mean)[:, None, None]) / torch.tensor(IMAGENET.std)[
            :, None, None
        ]
        padded = torch.nn.functional.pad(normalised, (0, 31, 0, 27))
        torch.testing.assert_close(logits, student.network(padded)[:, :, :37, :65], rtol=1e-3, atol=1e-4)


def test_student__a_single_image_can_be_trained_on() -> None:
    # DeepLab pools an image to one pixel, of which batch norm cannot take a deviation.
    student, _ = new_student(config(arch="DeepLabV3Plus"), 2)
    student.train()
    logits = student(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert logits.shape == (1, 3, 64, 64)
    logits.sum().backward()


def test_student__batch_norm_over_several_gpus_is_the_same_network() -> None:
    student, _ = new_student(config(arch="DeepLabV3Plus"), 2)
    names = list(student.state_dict())
    encoder = student.network.encoder
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = student.eval()(images)
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
        assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in encoder.modules())
        assert list(student.state_dict()) == names
        torch.testing.assert_close(student(images), expected, rtol=0, atol=0)


def test_new_student__same_seed_same_network() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(new_student(config(), 2)[0].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "Nonet"}, "--arch 'Nonet' is unknown: choose one of Unet, "),
        ({"encoder": "resnet19"}, "--encoder 'resnet19' is unknown: 'tu-NAME' takes timm's NAME; similar names:"),
        ({"encoder": "tu-resnet19"}, "--encoder 'tu-resnet19' is unknown: timm has no 'resnet19'; similar names:"),
        ({"arch": "DeepLabV3Plus", "encoder": "densenet121"}, "--encoder densenet121 at --image-size 64 does"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224"}, "at --image-size 64 does not work (Input height"),
        ({"weights": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"encoder": f"tu-{TIMM}.other"}, "does not work (Invalid pretrained tag (other) for mobilenetv3_small_050.)"),
    ],
)
def test_new_student__what_cannot_be_built_is_one_line(changes: dict[str, str], message: str) -> None:
    with pytest.raises((ValueError, ArtifactError), match=re.escape(message)) as caught:
        new_student(config(**changes), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "repository"),
    [("resnet18", "smp-hub/resnet18.imagenet"), (f"tu-{TIMM}", f"timm/{TIMM}.lamb_in1k")],
)
def test_new_student__no_network_says_how_to_bring_the_weights(
    encoder: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no such host\nmore of it")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    monkeypatch.setattr("stages.networks.hub.hub_problem", lambda: "")  # the hub answers, the download fails
    with pytest.raises(ValueError, match=r"could not be downloaded \(no such host\)") as caught:
        new_student(config(encoder=encoder, weights="pretrained"), 2)
    assert repository in str(caught.value)
    assert "--weights FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_new_student__nothing_to_download() -> None:
    with pytest.raises(ValueError, match="--encoder 'tu-efficientnet_lite1' has no pretrained weights to download"):
        new_student(config(encoder="tu-efficientnet_lite1", weights="pretrained"), 2)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("DeepLabV3Plus", TIMM),  # cut out of the network as it is
        ("FPN", "resnet18"),
        ("PSPNet", "resnet18"),  # takes the first three stages
        ("Unet", "convnext_atto"),  # 'stages.0' is 'stages_0' in the encoder
    ],
)
def test_load_encoder_weights__file_of_timm(arch: str, name: str, tmp_path: Path) -> None:
    path = half_precision_file(tmp_path, timm.create_model(name))
    student, _ = new_student(config(arch=arch, encoder=f"tu-{name}", weights=str(path)), 2)
    overlay = {"file": str(path)}
    by_timm = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    loaded = student.network.encoder.model.state_dict()
    assert loaded
    for key, value in loaded.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, by_timm[key]), key


def half_precision_file(folder: Path, network: torch.nn.Module) -> Path:
    state = network.state_dict()
    for key, value in state.items():
        state[key] = torch.randn(value.shape).half() if value.is_floating_point() else value
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def test_load_encoder_weights__file_of_the_library_itself(tmp_path: Path) -> None:
    encoder = smp.encoders.get_encoder("resnet18")
    save_file({**encoder.state_dict(), "fc.weight": torch.zeros(10, 512)}, tmp_path / "weights.safetensors")
    student, _ = new_student(config(weights=str(tmp_path / "weights.safetensors")), 2)
    for key, value in encoder.state_dict().items():
        assert torch.equal(student.network.encoder.state_dict()[key], value)


@pytest.mark.parametrize(
    ("encoder", "given", "message"),
    [
        ("tu-resnet18", "resnet34", "has 'layer1.2."),
        ("tu-resnet34", "resnet18", "has no 'layer1.2.conv1.weight', which --encoder 'tu-resnet34' needs"),
        ("tu-resnet18", "resnet18d", "has no 'conv1.weight', which --encoder 'tu-resnet18' needs"),
        (f"tu-{TIMM}", "mobilenetv3_small_075", "has 'blocks.0.0.conv_pw.weight' of shape (16, 16, 1, 1)"),
        ("resnet18", "resnet34", "has 'layer1.2."),
    ],
)
def test_load_encoder_weights__of_another_network(encoder: str, given: str, message: str, tmp_path: Path) -> None:
    save_file(timm.create_model(given).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        new_student(config(encoder=encoder, weights=str(tmp_path / "weights.safetensors")), 2)
    assert str(caught.value).startswith(f"--weights {tmp_path / 'weights.safetensors'} has ")
    assert str(caught.value).endswith(f"give the weights of {encoder.removeprefix('tu-')!r}, or another --encoder")


def test_load_encoder_weights__counters_of_batch_norm_may_lack() -> None:
    student, _ = new_student(config(encoder="tu-resnet18"), 2)
    state = timm.create_model("resnet18").state_dict()
    without = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    load_encoder_weights(student.network.encoder, without, "tu-resnet18")
    assert torch.equal(student.network.encoder.state_dict()["model.conv1.weight"], state["conv1.weight"])


def test_normalisation_of__follows_the_pretraining() -> None:
    assert normalisation_of("tu-tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation_of("tu-resnet18") == IMAGENET
    assert normalisation_of("resnet18") == IMAGENET


def test_load_student__is_the_network_that_was_saved(tmp_path: Path) -> None:
    # Another normalisation than ImageNet's, which only the weights tell.
    student, spec = new_student(config(encoder="tu-tf_efficientnet_lite0", long_side=50), 2)
    folder = finished_stage(tmp_path, student.eval(), spec, {})
    loaded = load_student(folder)
    assert loaded.long_side == 50
    assert not loaded.training
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    assert torch.equal(student_probabilities(student, [image]), student_probabilities(loaded, [image]))


def test_load_student__parts_that_do_not_fit(tmp_path: Path) -> None:
    student, spec = new_student(config(), 2)
    with pytest.raises(
        ArtifactError, match=r"lists 2 classes, and a network of 3.*run toco train-seg .* --overwrite with the options"
    ):
        finished_stage(tmp_path, student, spec, {"num_classes": 3})
    folder = finished_stage(tmp_path, student, spec, {"arch": "FPN"})
    with pytest.raises(ArtifactError, match=f"does not fit .*run toco train-seg {tmp_path} --overwrite"):
        load_student(folder)


class _Red(torch.nn.Module):
    """Logits that are the red channel itself, and minus it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images[:, :1], -images[:, :1]], dim=1)


def plain_student(network: torch.nn.Module, long_side: int) -> Student:
    return Student(network, IMAGENET, long_side=long_side).eval()


def test_student_probabilities__mirror_pair_is_summed_and_scales_compete() -> None:
    image = torch.randint(0, 256, (3, 16, 32), dtype=torch.uint8)
    student = plain_student(_Red(), 32)
    red = (image[0] / 255 - IMAGENET.mean[0]) / IMAGENET.std[0]
    (once,) = student_probabilities(student, [image])
    torch.testing.assert_close(once, torch.stack([2 * red, -2 * red]).softmax(dim=0))

    # A flat image has the same logits at all scales; the larger of two networks' would win.
    flat = torch.full((3, 16, 32), 200, dtype=torch.uint8)
    several = student_probabilities(student, [flat], scales=(1.0, 1.5))
    torch.testing.assert_close(several, student_probabilities(student, [flat]))


class _Width(torch.nn.Module):
    """The second class's logit grows with the width of the input."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(images[:, :1])
        return torch.cat([zero, zero + images.shape[-1] / 32], dim=1)


def test_student_probabilities__maximum_over_scales() -> None:
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    (result,) = student_probabilities(plain_student(_Width(), 64), [image], scales=(1.0, 2.0, 0.5))
    assert result.shape == (2, 32, 64)  # the longer side is that of training
    torch.testing.assert_close(result[1], torch.tensor([0.0, 8.0]).softmax(dim=0)[1].expand(32, 64))


def test_student_probabilities__no_scale() -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        student_probabilities(plain_student(_Red(), 32), [torch.zeros(3, 8, 8, dtype=torch.uint8)], ())


def test_fitted_size__keeps_the_shape() -> None:
    assert fitted_size((100, 200), 50.0) == (25, 50)
    assert fitted_size((3000, 10), 300.0) == (300, 1)
    assert fitted_size((3000, 1), 300.0) == (300, 1)


def test_label_map__is_the_argmax_of_the_resized_maps() -> None:
    probabilities = torch.randn(5, 7, 9).softmax(dim=0)
    resized = torch.nn.functional.interpolate(probabilities[None], size=(20, 31), mode="bilinear")
    assert torch.equal(label_map(probabilities, (20, 31)), resized[0].argmax(dim=0).to(torch.uint8))
