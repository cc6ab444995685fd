import json
import math
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor

import stages.networks.cam_model
import stages.toco.step
import stages.train_cam
from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.pixel_rule import BandRange, PixelRule
from data.readers import open_dataset
from stages.config import CAM_RECIPES, TrainCam
from stages.run_folder.warning_log import LOG
from stages.runtime.monitor import SilentMonitor
from stages.toco.losses import classification_loss
from stages.toco.model import LargeFieldOfView
from stages.toco.step import Phase
from stages.train_cam import LoadViews, phase_at, step_settings, train_cam

Settings = Callable[..., TrainCam]
LOSSES = {"classification", "auxiliary_classification", "ptc", "ctc", "segmentation", "regularised"}
# Loaders fork on Linux, of which Python 3.12 and later warn where threads run; torch warns of more loaders than cores.
LOADERS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)


@pytest.fixture
def undisturbed(trained_run: Path) -> Path:
    """RUN/cam of an undisturbed run."""
    return trained_run / "cam"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(folder: Path, other: Path) -> None:
    """The same weights, bit for bit, and the same metrics, line by line."""
    mine, theirs = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different
    assert (folder / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    assert {path.name for path in folder.iterdir()} - {LOG} == {
        "config.json",
        "sessions.jsonl",
        "model.safetensors",
        "metrics.jsonl",
    }


def test_train_cam__writes_its_folder(trained_run: Path, pictures: Path) -> None:
    folder = trained_run / "cam"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "sessions.jsonl",
        "model.safetensors",
        "metrics.jsonl",
    }
    config = json.loads((folder / "config.json").read_text())
    fingerprint = open_dataset(pictures).fingerprint
    assert config["dataset"] == {
        "root": str(pictures),
        "layout": "custom",
        "class_names": ["red", "blue"],
        "fingerprint": fingerprint,
        "pixels": {"bits": 16, "alpha": True, "clip": False},
    }
    assert config["settings"]["iterations"] == 4
    assert config["model"]["num_classes"] == 2
    training = [line for line in lines(folder) if "loss" in line]
    assert [line["iteration"] for line in training] == [1, 2, 3, 4]
    for line in training:
        assert {"iteration", "learning_rate", "loss"} | LOSSES == line.keys()
        assert all(math.isfinite(value) for value in line.values())
    assert [line["segmentation"] > 0 for line in training] == [False, True, True, True]
    assert all(line["ptc"] > 0 and line["ctc"] > 0 for line in training)
    scores = [line for line in lines(folder) if "loss" not in line]
    assert [line["iteration"] for line in scores] == [2, 4]
    for line in scores:
        assert line.keys() == {"iteration", "cam_miou", "auxiliary_cam_miou", "decoder_miou"}
        assert all(0 <= line[name] <= 1 for name in line.keys() - {"iteration"})


@pytest.mark.parametrize(
    "stop",
    [
        ("start", 1),
        ("advance", 1),
        ("advance", 2),
        ("advance", 3),
        ("advance", 4),
        ("note", 1),
        ("note", 2),
        ("finish", 1),
    ],
    ids=lambda stop: "-".join(map(str, stop)),
)
def test_train_cam__goes_on_after_ctrl_c(
    undisturbed: Path, pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path, stop: tuple[str, int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path, cam_settings(checkpoint_every=100), listener(stop))
    assert not (tmp_path / "cam" / "model.safetensors").exists()
    monitor = listener()
    folder = train_cam(pictures, tmp_path, cam_settings(), monitor, resume=True)
    assert_same_run(folder, undisturbed)
    assert monitor.calls.count("advance") == {"start": 4, "advance": 4 - stop[1], "note": 4 - 2 * stop[1]}.get(
        stop[0], 0
    )


def test_train_cam__a_cache_changes_nothing(
    pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without one, with a new one, with one that holds all, and with one that is there only when the run goes on."""
    settings = partial(cam_settings, image_size=16, evaluate_every=0)  # 36 of the images' 64 pixels are needed
    without = train_cam(pictures, tmp_path / "without", settings(), SilentMonitor())
    cached = settings(cache=str(tmp_path / "cache"))
    assert_same_run(train_cam(pictures, tmp_path / "cold", cached, SilentMonitor()), without)
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path / "later", settings(), listener(("advance", 2)))
    monkeypatch.setattr("data.image_cache.read_reduced", None)  # whatever is read now is from the cache
    assert_same_run(train_cam(pictures, tmp_path / "warm", cached, SilentMonitor()), without)
    assert_same_run(train_cam(pictures, tmp_path / "later", cached, SilentMonitor(), resume=True), without)


def test_train_cam__a_cache_that_cannot_be_written_to(pictures: Path, cam_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^images cannot be cached in .*file \(it is not a folder\): give another fol"):
        train_cam(pictures, tmp_path / "run", cam_settings(cache=str(tmp_path / "file")), SilentMonitor())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [1, 3])
def test_train_cam__goes_on_after_a_crash(
    undisturbed: Path, pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path, steps: int
) -> None:
    """Nothing is left but what was written on the way; twice in one run."""
    with pytest.raises(RuntimeError):
        train_cam(pictures, tmp_path, cam_settings(), listener(("advance", steps), RuntimeError))
    assert (tmp_path / "cam" / "checkpoint.pt").exists() == (steps > 2)
    with pytest.raises(RuntimeError):
        train_cam(pictures, tmp_path, cam_settings(), listener(("advance", 1), RuntimeError), resume=True)
    assert_same_run(train_cam(pictures, tmp_path, cam_settings(), SilentMonitor(), resume=True), undisturbed)


def test_train_cam__finishes_the_step_before_ctrl_c_counts(
    undisturbed: Path, pictures: Path, cam_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(iteration: int, config: TrainCam) -> Phase:
        if iteration == 1:
            signal.raise_signal(signal.SIGINT)
        return phase_at(iteration, config)

    with monkeypatch.context() as patch:
        patch.setattr(stages.train_cam, "phase_at", press)
        with pytest.raises(KeyboardInterrupt):
            train_cam(pictures, tmp_path, cam_settings(), SilentMonitor())
    assert [line["iteration"] for line in lines(tmp_path / "cam")] == [1, 2]
    assert_same_run(train_cam(pictures, tmp_path, cam_settings(), SilentMonitor(), resume=True), undisturbed)


@LOADERS
@pytest.mark.slow  # tests/test_faults.py has more kills
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_train_cam__resumes_after_sigkill_with_loaders(
    trained_run: Path,
    pictures: Path,
    cam_settings: Settings,
    tmp_path: Path,
    child_processes: Any,
) -> None:
    """The killed half and the other one load with two processes each, the undisturbed run with none."""
    from training_process import train  # type: ignore[import-not-found]  # not above: it gives all networks small heads

    settings = cam_settings(workers=2)
    (killed,) = child_processes.run(train, pictures, tmp_path / "run", settings, "cut")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(lines(tmp_path / "run" / "cam")) == 4
    assert (tmp_path / "run" / "cam" / "checkpoint.pt").is_file()
    (tmp_path / "run" / "cam" / ".checkpoint.pt.0.partial").write_bytes(b"as if killed while writing")
    folder = train_cam(pictures, tmp_path / "run", settings, SilentMonitor(), resume=True)
    assert_same_run(folder, trained_run / "cam")


def test_train_cam__goes_on_with_dropout(pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path) -> None:
    options = (*cam_settings().backbone_option, "drop_path_rate=0.5", "proj_drop_rate=0.3")
    settings = cam_settings(backbone_option=options, seg_weight=0.0, reg_weight=0.0, seed=2**40)
    whole = train_cam(pictures, tmp_path / "whole", settings, SilentMonitor())
    again = replace(settings, grad_checkpointing=True)  # what is computed again is dropped alike
    assert_same_run(train_cam(pictures, tmp_path / "again", again, SilentMonitor()), whole)
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path / "two", settings, listener(("advance", 3)))
    assert_same_run(train_cam(pictures, tmp_path / "two", settings, SilentMonitor(), resume=True), whole)


@pytest.mark.parametrize("first", [True, False])
def test_train_cam__checkpoints_activations_with_the_same_result(
    undisturbed: Path, pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path, first: bool
) -> None:
    """In one half of the run, which goes on without it or begins without it."""
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path, cam_settings(grad_checkpointing=first), listener(("advance", 2)))
    other = cam_settings(grad_checkpointing=not first)
    assert_same_run(train_cam(pictures, tmp_path, other, SilentMonitor(), resume=True), undisturbed)


COMPILES = pytest.mark.filterwarnings("default")  # what torch's compiler warns of is not ours


@COMPILES
@pytest.mark.slow
@pytest.mark.parametrize("grad_checkpointing", [False, True])
def test_train_cam__compiled(
    undisturbed: Path,
    pictures: Path,
    cam_settings: Settings,
    listener: Any,
    tmp_path: Path,
    grad_checkpointing: bool,
) -> None:
    """Three steps compiled, the last one not: the same names of weights, and the losses within rounding."""
    settings = cam_settings(compile=True, grad_checkpointing=grad_checkpointing, evaluate_every=0)
    monitor = listener(("advance", 3))
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path, settings, monitor)
    assert not monitor.warnings
    folder = train_cam(pictures, tmp_path, cam_settings(evaluate_every=0), SilentMonitor(), resume=True)
    expected = [line for line in lines(undisturbed) if "loss" in line]
    for one, other in zip(lines(folder)[:4], expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    weights = [load_file(one / "model.safetensors") for one in (folder, undisturbed)]
    assert weights[0].keys() == weights[1].keys()


@COMPILES
def test_train_cam__goes_on_where_torch_cannot_compile(
    undisturbed: Path, pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("no C++ compiler found\nand much more")

    monkeypatch.setattr("stages.networks.compilation._try_out", fail)
    monitor = listener()
    assert_same_run(train_cam(pictures, tmp_path, cam_settings(compile=True), monitor), undisturbed)
    expected = "--compile: torch cannot compile on this machine (no C++ compiler found); continuing without it"
    assert monitor.warnings == [expected]


def test_train_cam__another_seed_is_another_network(
    undisturbed: Path, pictures: Path, cam_settings: Settings, tmp_path: Path
) -> None:
    other = train_cam(pictures, tmp_path, cam_settings(seed=1), SilentMonitor())
    name = "classifier.weight"
    assert not torch.equal(
        load_file(other / "model.safetensors")[name], load_file(undisturbed / "model.safetensors")[name]
    )


def test_train_cam__finished_run_is_left_alone(
    undisturbed: Path, pictures: Path, cam_settings: Settings, listener: Any
) -> None:
    files = [path for path in undisturbed.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    monitor = listener()
    train_cam(pictures, undisturbed.parent, cam_settings(checkpoint_every=3), monitor, resume=True)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    assert monitor.notes == [f"{undisturbed} is finished already"]
    assert "start" not in monitor.calls


def test_train_cam__refuses_an_existing_folder(pictures: Path, cam_settings: Settings, tmp_path: Path) -> None:
    settings = cam_settings(iterations=1)
    folder = train_cam(pictures, tmp_path, settings, SilentMonitor())
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match="exists: use --resume to continue it, --overwrite to start again"):
        train_cam(pictures, tmp_path, settings, SilentMonitor())
    with pytest.raises(ArtifactError, match="started with --seed 0 and cannot be resumed with 5: give the same"):
        train_cam(pictures, tmp_path, cam_settings(iterations=1, seed=5), SilentMonitor(), resume=True)
    with pytest.raises(DataError):  # nothing is deleted before everything else is known to work
        train_cam(pictures, tmp_path, cam_settings(split="nosuch"), SilentMonitor(), overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == weights
    train_cam(pictures, tmp_path, cam_settings(iterations=1, seed=5), SilentMonitor(), overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != weights


def cut_off(path: Path) -> bytes:
    """Truncate a picture behind its header, which a first look does not notice; return what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


@LOADERS
@pytest.mark.parametrize("workers", [0, 2])
def test_train_cam__unreadable_image(
    undisturbed: Path,
    draw_pictures: Callable[[Path], Path],
    cam_settings: Settings,
    listener: Any,
    tmp_path: Path,
    workers: int,
) -> None:
    data = draw_pictures(tmp_path / "data")
    bad = data / "images" / "deep" / "g.jpg"
    whole = cut_off(bad)
    settings = cam_settings(workers=workers, evaluate_images=1)
    with pytest.raises(DataError) as caught:
        train_cam(data, tmp_path / "run", settings, SilentMonitor())
    assert str(caught.value).startswith(f"{bad} cannot be read")
    assert str(caught.value).endswith("fix or remove it, or skip it with --skip-bad")
    assert "\n" not in str(caught.value)
    done = [line["iteration"] for line in lines(tmp_path / "run" / "cam") if "loss" in line]
    assert done == list(range(1, len(done) + 1))
    assert len(done) < 4  # all images are seen within four steps

    monitor = listener()  # goes on without it from where it was
    skipping = cam_settings(workers=workers, evaluate_images=1, skip_bad=True)
    train_cam(data, tmp_path / "run", skipping, monitor, resume=True)
    assert monitor.calls.count("advance") == 4 - len(done)
    skipped, left_out = sorted(monitor.warnings, reverse=True)
    assert skipped.startswith(f"skipped: {bad} cannot")
    assert left_out == "mean IoU without 'blue', which no mask of the 1 measured images shows"

    with pytest.raises(DataError):
        train_cam(data, tmp_path / "mended", cam_settings(workers=workers), SilentMonitor())
    bad.write_bytes(whole)
    folder = train_cam(data, tmp_path / "mended", cam_settings(workers=workers), SilentMonitor(), resume=True)
    assert_same_run(folder, undisturbed)


def test_train_cam__unreadable_images_are_not_measured_either(
    draw_pictures: Callable[[Path], Path], cam_settings: Settings, listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    cut_off(data / "images" / "a.jpg")
    settings = cam_settings(skip_bad=True, evaluate_images=8)
    folder = train_cam(data, tmp_path / "run", settings, SilentMonitor())
    assert [line["iteration"] for line in lines(folder) if "cam_miou" in line] == [2, 4]


def test_train_cam__bad_mask_is_told_before_training(
    draw_pictures: Callable[[Path], Path], cam_settings: Settings, listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    (data / "masks" / "a.png").write_bytes((data / "masks" / "b.png").read_bytes())  # of another size
    with pytest.raises(DataError, match=r"a\.png is 64 x 64 \(height x width\), its image is 64 x 48"):
        train_cam(data, tmp_path / "run", cam_settings(), SilentMonitor())
    assert not (tmp_path / "run").exists()
    monitor = listener()
    train_cam(data, tmp_path / "run", cam_settings(iterations=1, skip_bad=True), monitor)
    assert monitor.warnings[0].startswith(f"not evaluated: {data / 'masks' / 'a.png'}")


def break_loss(patch: pytest.MonkeyPatch, at: int) -> None:
    calls = 0

    def broken(*arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1  # twice a step
        loss = classification_loss(*arguments)
        return loss * math.nan if calls > 2 * (at - 1) else loss

    patch.setattr(stages.toco.step, "classification_loss", broken)


@pytest.mark.parametrize("log_every", [1, 100])
def test_train_cam__broken_loss(
    undisturbed: Path,
    pictures: Path,
    cam_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_every: int,
) -> None:
    settings = cam_settings(log_every=log_every, checkpoint_every=1)
    with monkeypatch.context() as patch:
        break_loss(patch, at=3)
        with pytest.raises(
            ValueError, match=r"the loss is nan at iteration 3 in .*cam \(the last checkpoint is kept\)"
        ):
            train_cam(pictures, tmp_path, settings, SilentMonitor())
    assert torch.load(tmp_path / "cam" / "checkpoint.pt", weights_only=True)["iteration"] == 2
    folder = train_cam(pictures, tmp_path, cam_settings(), SilentMonitor(), resume=True)
    if log_every == 1:
        assert_same_run(folder, undisturbed)


def test_train_cam__broken_loss_and_ctrl_c(
    pictures: Path,
    cam_settings: Settings,
    listener: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A good checkpoint is not replaced by a broken state."""
    break_loss(monkeypatch, at=3)
    with pytest.raises(ValueError, match="the loss is nan at iteration 3"):
        train_cam(pictures, tmp_path, cam_settings(log_every=100), listener(("advance", 3)))
    assert torch.load(tmp_path / "cam" / "checkpoint.pt", weights_only=True)["iteration"] == 2


@pytest.mark.parametrize("damage", ["cut off", "other network", "no network"])
def test_train_cam__damaged_checkpoint(
    pictures: Path, cam_settings: Settings, listener: Any, tmp_path: Path, damage: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path, cam_settings(), listener(("advance", 1)))
    path = tmp_path / "cam" / "checkpoint.pt"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        state = torch.load(path, weights_only=True)
        state["module"] = {"other": torch.zeros(1)} if damage == "other network" else None
        torch.save(state, path)
    with pytest.raises(ArtifactError, match="start again with --overwrite") as caught:
        train_cam(pictures, tmp_path, cam_settings(), SilentMonitor(), resume=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "iteration", "phase"),
    [
        ("voc", 0, Phase(contrast=True, segment=False)),
        ("voc", 1_999, Phase(contrast=True, segment=False)),
        ("voc", 2_000, Phase(contrast=True, segment=True)),
        ("voc", 19_999, Phase(contrast=True, segment=True)),
        ("coco", 0, Phase(contrast=False, segment=False, auxiliary_labels=True)),
        ("coco", 7_999, Phase(contrast=False, segment=False, auxiliary_labels=True)),
        ("coco", 8_000, Phase(contrast=False, segment=True, auxiliary_labels=True)),
        ("coco", 11_999, Phase(contrast=False, segment=True, auxiliary_labels=True)),
        ("coco", 12_000, Phase(contrast=True, segment=True)),
        ("coco", 79_999, Phase(contrast=True, segment=True)),
    ],
)
def test_phase_at__recipes(recipe: str, iteration: int, phase: Phase) -> None:
    assert phase_at(iteration, TrainCam(**CAM_RECIPES[recipe])) == phase


def test_phase_at__encoder_start() -> None:
    config = TrainCam(iterations=10, freeze_encoder_until=0.3)
    assert [phase_at(iteration, config).encoder for iteration in (0, 2, 3, 9)] == [False, False, True, True]


def test_train_cam__coco_phases(
    pictures: Path, cam_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's shares of the run, on forty steps instead of 80,000."""
    shares = {name: CAM_RECIPES["coco"][name] for name in ("contrast_start", "seg_start", "auxiliary_labels_until")}
    settings = cam_settings(iterations=40, evaluate_every=0, evaluate_images=1, **shares)

    def stop(iteration: int, config: TrainCam) -> Phase:
        if iteration == 8:
            raise KeyboardInterrupt
        return phase_at(iteration, config)

    monkeypatch.setattr(stages.train_cam, "phase_at", stop)
    with pytest.raises(KeyboardInterrupt):
        train_cam(pictures, tmp_path, settings, SilentMonitor())
    trained = [{name for name in LOSSES if line[name] != 0} for line in lines(tmp_path / "cam")]
    classification = {"classification", "auxiliary_classification"}
    segmentation = {"segmentation", "regularised"}
    assert trained[:4] == [classification] * 4
    # The regularised loss is there in each step, a share of it only where pixels are labelled.
    assert all(classification | {"regularised"} <= now <= classification | segmentation for now in trained[4:6])
    assert all({"ptc", "ctc"} <= now for now in trained[6:])


@pytest.mark.parametrize(
    ("changes", "passes", "decoded"),
    [
        # One pass of the training images gives the classification losses.
        ({"ptc_weight": 0.0, "ctc_weight": 0.0, "seg_start": 1.0}, 1, 0),
        ({"contrast_start": 1.0, "seg_start": 1.0}, 1, 0),
        ({"ptc_weight": 0.0, "ctc_weight": 0.0, "seg_weight": 0.0, "reg_weight": 0.0, "seg_start": 0.0}, 1, 0),
        # CAMs need three more: the mirror images, half the size, one and a half.
        ({"ctc_weight": 0.0, "seg_start": 1.0}, 4, 0),
        ({"ptc_weight": 0.0, "ctc_weight": 0.0, "seg_start": 0.0}, 4, 2),
        # Class-token contrast needs two more: the second view and the local crops.
        ({"seg_start": 1.0}, 6, 0),
    ],
)
def test_train_cam__computes_nothing_for_losses_without_weight(
    pictures: Path,
    cam_settings: Settings,
    listener: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    passes: int,
    decoded: int,
) -> None:
    counts: dict[Any, int] = {PatchEmbed: 0, LargeFieldOfView: 0}

    def counted(kind: type, forward: Callable[..., Any], *arguments: Any) -> Any:
        counts[kind] += 1
        return forward(*arguments)

    for kind in counts:
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda *a, kind=kind, forward=forward: counted(kind, forward, *a))
    with pytest.raises(KeyboardInterrupt):  # before anything is measured
        train_cam(pictures, tmp_path, cam_settings(evaluate_every=0, **changes), listener(("advance", 2)))
    assert counts[PatchEmbed] == 2 * passes
    assert counts[LargeFieldOfView] == decoded


def test_train_cam__weight_zero_is_the_loss_left_out(pictures: Path, cam_settings: Settings, tmp_path: Path) -> None:
    settings = cam_settings(ptc_weight=0.0, ctc_weight=0.0, seg_weight=0.0, reg_weight=0.0, evaluate_every=0)
    for line in lines(train_cam(pictures, tmp_path, settings, SilentMonitor()))[:-1]:
        assert line["loss"] == pytest.approx(line["classification"] + line["auxiliary_classification"])
        assert line["ptc"] == line["ctc"] == line["segmentation"] == line["regularised"] == 0


@pytest.mark.parametrize(
    ("image_size", "asked", "patch", "expected"),
    [(448, None, 16, 96), (448, None, 14, 98), (96, None, 8, 24), (32, None, 16, 32), (32, 24, 8, 24), (48, 20, 8, 16)],
)
def test_step_settings__local_crops_are_whole_patches(
    image_size: int, asked: int | None, patch: int, expected: int
) -> None:
    config = TrainCam(image_size=image_size, local_crop_size=asked)
    assert step_settings(config, patch).local_crop_size == expected


def test_step_settings__crop_above_the_image() -> None:
    with pytest.raises(ValueError, match=r"--local-crop-size 48 .* is above --image-size 32"):
        step_settings(TrainCam(image_size=32, local_crop_size=50), 16)


def test_step_settings__passes_everything_on() -> None:
    config = TrainCam(
        ptc_weight=1.0, ctc_weight=2.0, seg_weight=3.0, reg_weight=4.0, temperature=5.0, momentum=0.6, scales=(1.0,)
    )
    settings = step_settings(config, 16)
    for name in ("ptc_weight", "ctc_weight", "seg_weight", "reg_weight", "temperature", "momentum", "scales"):
        assert getattr(settings, name) == getattr(config, name)
    assert (settings.high_threshold, settings.low_threshold, settings.local_crops) == (0.7, 0.25, 8)


def test_load_views__say_where_an_image_has_no_value(tmp_path: Path) -> None:
    values = np.full((40, 40, 1), 7, np.float32)
    np.save(tmp_path / "whole.npy", values)
    values[:, :20] = np.nan
    np.save(tmp_path / "half.npy", values)
    rule = PixelRule(bands=(BandRange(number=1, low=0.0, high=10.0, mean=0.0, std=1.0),), count=1)
    load = LoadViews(1, TrainCam(image_size=32, long_side=32, rescale_min=1.0, rescale_max=1.0))
    for name, part in (("whole", None), ("half", 0.5)):
        batch = load(Sample(id=name, image=tmp_path / f"{name}.npy", classes=(1,), mask=None, pixels=rule))
        assert (batch.missing is None) == (part is None)
        if batch.missing is not None:
            assert batch.missing.shape == (32, 32)
            assert batch.missing.float().mean() == part
