import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import ArtifactError, DataError, SettingsError
from stages.import_checkpoint import import_checkpoint
from stages.networks.cam_model import load_cam_model
from stages.run_folder.artifacts import open_stage
from stages.runtime.monitor import Monitor, SilentMonitor

Golden = Callable[[str], dict[str, Any]]
HEADS = 3  # of the stored network, 16 channels each


class Warnings(SilentMonitor):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def state(golden: Golden) -> dict[str, Any]:
    arrays = golden("network")
    return {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("one\ntwo\nthree\nfour\n")
    return path


def bring(value: Any, classes: Path, monitor: Monitor | None = None, **more: Any) -> Path:
    """Save a checkpoint and import it."""
    path = classes.parent / "released.pth"
    torch.save(value, path)
    options: dict[str, Any] = {"classes": classes, "image_size": 64, "num_heads": HEADS, **more}
    return import_checkpoint(path, classes.parent / "run", monitor or SilentMonitor(), **options)


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": dict,
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "in a dict": lambda state: {"state_dict": state, "iteration": 20000},
    "both": lambda state: {"epoch": 1, "model": {f"module.{key}": value.half() for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapped", ["plain", "DataParallel", "in a dict"])
def test_import_checkpoint__gives_the_outputs_of_the_published_program(
    wrapped: str, golden: Golden, state: dict[str, Any], classes: Path, assert_golden: Callable[..., None]
) -> None:
    arrays = golden("network")
    monitor = Warnings()
    folder = bring(WRAPPED[wrapped](state), classes, monitor)
    assert monitor.lines == []
    stage = open_stage(folder.parent, "cam")
    assert stage.class_names == ("one", "two", "three", "four")
    model = load_cam_model(stage)
    for name, image in (("out64", arrays["image"]), ("out96x80", arrays["image_96x80"])):
        with torch.no_grad():
            outputs = model(image)
        assert_golden(outputs.cams.final, arrays[f"{name}/cam"], rtol=1e-4)
        assert_golden(outputs.cams.auxiliary, arrays[f"{name}/aux_cam"], rtol=1e-4)
        assert_golden(outputs.seg_logits, arrays[f"{name}/seg_logits"], rtol=1e-4)
        assert_golden(outputs.class_token, arrays[f"{name}/class_token"], rtol=1e-4)


def test_import_checkpoint__normalises_as_the_published_program(state: dict[str, Any], classes: Path) -> None:
    model = load_cam_model(open_stage(bring(WRAPPED["both"](state), classes).parent, "cam"))
    pixel = torch.tensor([123.675 + 58.395, 116.28, 103.53 - 57.375]).view(1, 3, 1, 1)
    torch.testing.assert_close(model.backbone.normalise(pixel).flatten(), torch.tensor([1.0, 0.0, -1.0]))
    assert torch.equal(model.projector.prototypes, state["proj_head.last_layer.weight_v"].half().float())


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: value for name, value in state.items() if name != key}


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a head is missing": (without("decoder.conv7.weight"), "lacks 'decoder.conv7.weight': it is not a complete"),
    "a block is incomplete": (without("encoder.blocks.3.attn.qkv.bias"), "it has no 'blocks.3.attn.qkv.bias'"),
    "an encoder of another shape": (
        lambda state: {**state, "encoder.norm.weight": state["encoder.norm.weight"][:7]},
        "has another shape of 'norm.weight'",
    ),
    "a decoder of another shape": (
        lambda state: {**state, "decoder.conv8.weight": state["decoder.conv8.weight"][:3]},
        "wrong shapes of 'decoder.conv8.weight', for example (3, 16, 1, 1) instead of (5, 16, 1, 1)",
    ),
    "positions of no square": (
        lambda state: {**state, "encoder.pos_embed": state["encoder.pos_embed"][:, :-1]},
        "position embeddings for 15 patches, which is not a square number",
    ),
    "NaN": (
        lambda state: {**state, "encoder.norm.bias": state["encoder.norm.bias"] * float("nan")},
        "has NaN or infinite values in 'encoder.norm.bias': its training diverged",
    ),
    "blocks with LayerScale": (
        lambda state: {**state, "encoder.blocks.0.ls1.gamma": torch.ones(48)},
        "the encoder is not a plain ViT, but has 'encoder.blocks.0.ls1.gamma'",
    ),
    "a classifier without classes": (
        lambda state: {**state, "classifier.weight": torch.tensor(1.0)},
        "the network does not fit (",
    ),
    "a transposed classifier": (
        lambda state: {**state, "classifier.weight": state["classifier.weight"].transpose(0, 1)},
        "wrong shapes of 'classifier.weight', 'aux_classifier.weight', 'decoder.conv8.weight', for example (48, 4,",
    ),
    "another network": (lambda state: {"fc.weight": torch.ones(1)}, "is not a checkpoint of the published program"),
    "no dict": (lambda state: torch.ones(2), "is not a checkpoint of the published program"),
}


@pytest.mark.parametrize("bad", BAD)
def test_import_checkpoint__what_does_not_fit(bad: str, state: dict[str, Any], classes: Path) -> None:
    change, message = BAD[bad]
    with pytest.raises(DataError) as error:
        bring(change(state), classes)
    assert message in str(error.value)
    assert "released.pth" in str(error.value)
    assert not (classes.parent / "run" / "cam").exists()


def test_import_checkpoint__tells_what_it_does_not_use(state: dict[str, Any], classes: Path) -> None:
    monitor = Warnings()
    bring({**state, "extra.weight": torch.ones(1)}, classes, monitor)
    assert [line.split(": ", 1)[1] for line in monitor.lines] == ["not used: 'extra.weight'"]


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


def test_import_checkpoint__never_unpickles(classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"released\.pth holds more than tensors and plain values, so to open it could"):
        bring({"model": Unsafe()}, classes)
    assert capsys.readouterr().out == ""


def test_import_checkpoint__files_that_are_none(classes: Path) -> None:
    path = classes.parent / "text.pth"
    with pytest.raises(DataError, match=r"there is no file .*text\.pth: check the path"):
        import_checkpoint(path, classes.parent / "run", SilentMonitor(), classes=classes)
    path.write_bytes(pickle.dumps({"a": 1})[:5])
    with pytest.raises(DataError, match=r"text\.pth (is not a file of torch\.save|holds more)"):
        import_checkpoint(path, classes.parent / "run", SilentMonitor(), classes=classes)


def test_import_checkpoint__classes_and_settings(state: dict[str, Any], classes: Path) -> None:
    with pytest.raises(SettingsError, match="either --data DATA, or --classes FILE"):
        bring(state, classes, data=classes.parent)
    with pytest.raises(SettingsError, match="--image-size 60 is not a multiple of the patch size 16"):
        bring(state, classes, image_size=60)
    with pytest.raises(DataError, match="a width of 48 cannot be divided by 5 attention heads: give --num-heads"):
        bring(state, classes, num_heads=5)
    classes.write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"has 4 classes, but .*names\.txt has 2: give the classes"):
        bring(state, classes)
    classes.write_text("one\ntwo\nthree\nfour\n")
    bring(state, classes)
    with pytest.raises(ArtifactError, match="exists: use"):
        bring(state, classes)
    bring(state, classes, overwrite=True)
