import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stages.networks.hub
import stages.planning.weight_files
from data.errors import SettingsError
from stages.config import TrainCam, TrainSeg
from stages.planning.weight_files import HubFile, backbone_of_file, check_files, downloads_of
from stages.run_folder.run_config import AllSettings

DINO = AllSettings(cam=TrainCam(backbone="vit_small_patch14_dinov2.lvd142m"), seg=TrainSeg(arch="mlp"))


def weights(path: Path, width: int, patch: int, *more: str, depth: int = 12) -> Path:
    """Write the header of a file of weights, without the weights."""
    shapes = {
        "patch_embed.proj.weight": [width, 3, patch, patch],
        "pos_embed": [1, 197, width],
        "cls_token": [1, 1, width],
        **{f"blocks.{block}.attn.qkv.weight": [3 * width, width] for block in range(depth)},
        **{name: [width] for name in more},
    }
    header = json.dumps({name: {"dtype": "F16", "shape": shape} for name, shape in shapes.items()}).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((384, 14, "blocks.0.ls1.gamma"), "vit_small_patch14_dinov2"),
        ((768, 14, "blocks.0.ls1.gamma", "reg_token"), "vit_base_patch14_reg4_dinov2"),
        ((384, 16, "dist_token"), "deit_small_distilled_patch16_224"),
    ],
)
def test_backbone_of_file__by_the_shapes_of_its_tensors(shape: tuple[Any, ...], name: str, tmp_path: Path) -> None:
    assert backbone_of_file(weights(tmp_path / "model.safetensors", *shape)) == name


@pytest.mark.parametrize(
    "place", ["deit_small_patch16_224.safetensors", "deit_small_patch16_224.fb_in1k/model.safetensors"]
)
def test_backbone_of_file__its_name_tells_networks_of_one_shape_apart(place: str, tmp_path: Path) -> None:
    assert backbone_of_file(weights(tmp_path / place, 384, 16)) == "deit_small_patch16_224"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((384, 16), "may be of deit_small_patch16_224 or vit_small_patch16_224, which expect other colours"),
        ((400, 16), "width 400, depth 12 and patches of 16 pixels, which is not one of the usual ones"),
        ((768, 16, "norm_pre.weight"), "is not one of the usual ones"),
    ],
)
def test_backbone_of_file__asks_for_the_name_of_others(shape: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{message}.*: give its timm name with --backbone"):
        backbone_of_file(weights(tmp_path / "model.safetensors", *shape))


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 40, struct.pack("<Q", 2) + b"[]"])
def test_backbone_of_file__refuses_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(SettingsError, match=r"is not a \.safetensors file"):
        backbone_of_file(tmp_path / "w")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.networks.hub, "hub_problem", lambda: "it cannot be reached")
    monkeypatch.setattr(HubFile, "is_cached", lambda self: False)


def test_check_files__names_the_file_of_both_networks_at_once(no_hub: None) -> None:
    settings = replace(DINO, seg=TrainSeg(encoder="resnet50"))
    with pytest.raises(SettingsError) as caught:
        check_files(settings)
    text = str(caught.value)
    assert "model.safetensors of 'timm/vit_small_patch14_dinov2.lvd142m' for --train-cam.weights FILE" in text
    assert "resnet50" in text
    assert "for --train-seg.weights FILE" in text


def test_check_files__a_head_on_features_needs_no_file_of_its_own(no_hub: None) -> None:
    with pytest.raises(SettingsError, match=r"the student, mlp, uses the same network: no other file is needed"):
        check_files(DINO)


def test_check_files__is_quiet_with_files_with_random_weights_and_with_a_cache(
    no_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ("vit.safetensors", "none"):
        check_files(replace(DINO, cam=replace(DINO.cam, weights=given)))
    assert len(downloads_of(DINO)) == 1
    not_on_the_hub = TrainSeg(arch="Unet", encoder="tu-legacy_seresnet18")
    assert len(downloads_of(replace(DINO, seg=not_on_the_hub))) == 1
    monkeypatch.setattr(HubFile, "is_cached", lambda self: True)
    check_files(DINO)
