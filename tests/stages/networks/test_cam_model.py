import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from data.errors import ArtifactError
from stages.config import TrainCam
from stages.networks.cam_model import load_cam_model, new_cam_model
from stages.run_folder.artifacts import open_stage

Settings = Callable[..., TrainCam]
SHAPE = ("patch_size=8", "embed_dim=32", "depth=2", "num_heads=2")


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    for part in parts:
        assert part in text


def test_new_cam_model__from_scratch(cam_settings: Settings) -> None:
    model, spec = new_cam_model(cam_settings(image_size=48), 5)
    assert model.num_classes == 5
    assert model.backbone.patch_size == 8
    assert model.backbone.embed_dim == 32
    assert tuple(spec.position_grid) == (6, 6)  # made for the size that it is trained at
    assert spec.backbone_options == {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 48}


class TimeOut(Exception):
    """As some clients raise it: of no common kind."""


@pytest.mark.parametrize(
    "error",
    [
        OSError("We couldn't connect"),
        ConnectionError("Cannot reach the hub: offline mode"),
        FileNotFoundError("not in the cache"),
        type("LocalEntryNotFoundError", (FileNotFoundError, ValueError), {})("of an older client"),
        RuntimeError("Cannot send a request, as the client has been closed."),
        TimeOut("The read operation timed out\nwhile reading\nheaders"),
        OSError("long " * 500),
        TimeOut(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_new_cam_model__no_network(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def create_model(*arguments: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        new_cam_model(TrainCam(backbone="vit_tiny_patch16_224"), 2)
    assert_one_line(
        caught,
        "timm's weights of 'vit_tiny_patch16_224' could not be downloaded (",
        "download model.safetensors of 'timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k' on the Hugging Face hub",
        "on a machine with network, and give it with --weights FILE; or train from scratch: --weights none",
    )


def test_new_cam_model__no_network_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the hub's own client does when it is told to stay offline and has nothing."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"could not be downloaded .* --weights FILE"):
        new_cam_model(TrainCam(backbone="vit_tiny_patch16_224"), 2)


def test_new_cam_model__nothing_to_download() -> None:
    with pytest.raises(ValueError, match="timm has no pretrained weights of 'vit_base_patch16_xp_224'") as caught:
        new_cam_model(TrainCam(backbone="vit_base_patch16_xp_224"), 2)
    assert_one_line(caught, "give a file with --weights FILE, or --weights none")


@pytest.mark.parametrize("weights", ["pretrained", "none"])
def test_new_cam_model__unknown_weights_of_a_known_model(weights: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be built: Invalid pretrained tag \(nosuch\)") as caught:
        new_cam_model(TrainCam(backbone="vit_tiny_patch16_224.nosuch", weights=weights), 2)
    assert_one_line(caught)


def test_new_cam_model__shape_that_does_not_fit_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("Error(s) in loading state_dict for VisionTransformer:\n\tsize mismatch for cls_token")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match="cannot be built") as caught:
        new_cam_model(TrainCam(backbone="vit_tiny_patch16_224", backbone_option=("embed_dim=32",)), 2)
    assert_one_line(caught, "with --weights pretrained and --backbone-option embed_dim=32", "size mismatch")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("dept=2",), "unexpected keyword argument 'dept'"),
        (("depth=two",), "depth=two"),
        (("embed_dim=30", "num_heads=4"), "--backbone-option embed_dim=30 num_heads=4 cannot be built: dim should be"),
        (("num_heads=0",), "--backbone-option num_heads=0 cannot be built"),
        (("embed_dim=-3",), "--backbone-option embed_dim=-3 cannot be built"),
    ],
)
def test_new_cam_model__impossible_shapes(cam_settings: Settings, options: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError, match="'vit_tiny_patch16_224'") as caught:
        new_cam_model(cam_settings(backbone_option=options), 2)
    assert_one_line(caught, reason)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 36}, "--image-size 36 is not a multiple of the patch size 8 of 'vit_tiny_patch16_224': use 32"),
        ({"image_size": 47}, "--image-size 47 is not a multiple of the patch size 8 of 'vit_tiny_patch16_224': use 48"),
        ({"scales": (1.0, 0.2)}, "--scales 0.2 of --image-size 32 is less than one patch (8 pixels)"),
    ],
)
def test_new_cam_model__sizes_that_do_not_fit(cam_settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="'vit_tiny_patch16_224'") as caught:
        new_cam_model(cam_settings(**changes), 2)
    assert_one_line(caught, message)


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """Weights as timm gives them away: with a head, in half precision, for images of another size."""
    torch.manual_seed(3)
    vit = timm.create_model(
        "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2, img_size=40, num_classes=7
    )
    path = tmp_path / "vit.safetensors"
    save_file({name: value.half() for name, value in vit.state_dict().items()}, path)
    return path


def test_new_cam_model__from_a_file(cam_settings: Settings, weights_file: Path) -> None:
    model, spec = new_cam_model(cam_settings(weights=str(weights_file)), 2)
    stored = load_file(weights_file)
    for name, value in model.backbone.network.state_dict().items():
        torch.testing.assert_close(value, stored[name].float())
    assert model.backbone.positions is not None
    torch.testing.assert_close(model.backbone.positions, stored["pos_embed"].float())
    assert tuple(spec.position_grid) == (5, 5)  # resized for each image, not here
    assert model(torch.rand(1, 3, 32, 32)).patch_tokens.shape == (1, 32, 4, 4)


def test_new_cam_model__home_folder(
    cam_settings: Settings, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(weights_file.parent))
    monkeypatch.setenv("USERPROFILE", str(weights_file.parent))
    new_cam_model(cam_settings(weights="~/vit.safetensors"), 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [("depth=3", "it has no 'blocks.2.attn.proj.bias'"), ("embed_dim=64", "it has another shape of 'blocks.0.")],
)
def test_new_cam_model__file_of_another_model(
    cam_settings: Settings, weights_file: Path, option: str, message: str
) -> None:
    options = (*(text for text in SHAPE if text.split("=")[0] != option.split("=")[0]), option)
    with pytest.raises(ValueError, match="is of another model") as caught:
        new_cam_model(cam_settings(weights=str(weights_file), backbone_option=options), 2)
    assert_one_line(caught, f"--weights {weights_file} is of another model than --backbone", message)


def test_new_cam_model__damaged_or_missing_file(cam_settings: Settings, weights_file: Path) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"vit\.safetensors is not a complete \.safetensors file"):
        new_cam_model(cam_settings(weights=str(weights_file)), 2)
    with pytest.raises(ArtifactError, match=r"there is no file .*nosuch: check the path"):
        new_cam_model(cam_settings(weights=str(weights_file.parent / "nosuch")), 2)


def test_load_cam_model__is_the_network_that_was_trained(trained_run: Path) -> None:
    model = load_cam_model(open_stage(trained_run, "cam"))
    assert not model.training
    stored = load_file(trained_run / "cam" / "model.safetensors")
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


@pytest.fixture
def copied_run(trained_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "cam"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((trained_run / "cam" / name).read_bytes())
    return tmp_path / "run"


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "nosuch"},
        {"backbone_options": {"depth": 1}},
        {"auxiliary_block": 9},
        {"position_grid": [3, 3]},
        {"position_grid": 3},
        {"another": 1},
    ],
    ids=str,
)
def test_load_cam_model__parts_that_do_not_fit(copied_run: Path, change: dict[str, Any]) -> None:
    path = copied_run / "cam" / "config.json"
    config = json.loads(path.read_text())
    config["model"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError) as caught:
        load_cam_model(open_stage(copied_run, "cam"))
    again = f"run toco train-cam {config['dataset']['root']} --out {copied_run} --overwrite --recipe voc"
    assert_one_line(caught, f"model.safetensors does not fit {path} (", again, " --iterations 4")


def test_load_cam_model__other_number_of_classes(copied_run: Path) -> None:
    path = copied_run / "cam" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["num_classes"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError) as caught:
        load_cam_model(open_stage(copied_run, "cam"))
    assert_one_line(caught, f"{path} is damaged (it lists 2 classes, and a network of 3)", "undo changes")


def test_load_cam_model__no_shape(copied_run: Path) -> None:
    path = copied_run / "cam" / "config.json"
    config = json.loads(path.read_text())
    del config["model"]
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"does not fit .*config\.json \('model'\)"):
        load_cam_model(open_stage(copied_run, "cam"))


def test_load_cam_model__damaged_weights(copied_run: Path) -> None:
    path = copied_run / "cam" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError) as caught:
        load_cam_model(open_stage(copied_run, "cam"))
    assert_one_line(caught, f"{path} is not a complete .safetensors file", "make or copy it again")
