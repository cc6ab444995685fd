"""Where a run's settings come from: given, begun, a stored plan, or a new one. The plans are made without timing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toco_cli.planned
from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError, UserError
from stages.config import Run, TrainCam, TrainSeg
from stages.option import Given
from stages.planning.fingerprint import fingerprint_of
from stages.planning.hardware import Hardware
from stages.planning.planner import Plan, make_plan
from stages.run_folder.run_config import CONFIG, PLAN, AllSettings, write_config
from toco_cli.main import main
from toco_cli.planned import with_plan

CPU = Hardware(kind="cpu", name="2 CPU cores", cores=2, memory=8e9)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that were made."""
    made: list[Plan] = []

    def new_plan(data: Dataset, settings: AllSettings, given: Given, monitor: Any, **options: Any) -> Plan:
        made.append(make_plan(fingerprint_of(data), CPU, settings, given))
        return made[-1]

    monkeypatch.setattr(toco_cli.planned, "new_plan", new_plan)
    return made


@pytest.fixture
def settle(pictures: Path, listener: Callable[[], Any]) -> Callable[..., tuple[Run, AllSettings, list[str]]]:
    """Complete the settings of a run with given values of train-cam, and return the warnings, too."""

    def complete(out: Path, time: str | None = None, recipe: str | None = None, **cam: Any) -> Any:
        config = Run(overwrite=cam.pop("overwrite", "nothing"))
        given = Given(recipe, {"train_cam": frozenset(cam)})
        monitor = listener()
        done = with_plan(pictures, out, config, AllSettings(cam=TrainCam(**cam)), given, monitor, time=time)
        return (*done, monitor.warnings)

    return complete


def test_with_plan__a_new_run_is_planned_and_the_plan_is_stored_with_its_reasons(
    plans: list[Plan], settle: Callable[..., Any], tmp_path: Path
) -> None:
    _, settings, _ = settle(tmp_path / "run", iterations=77)
    assert settings == plans[0].settings
    text = (tmp_path / "run" / PLAN).read_text()
    assert "iterations = 77 # given" in text
    assert "freeze-encoder-until = 0.4 # lets the classifiers learn first" in text
    assert 'arch = "mlp" # a head on the same frozen features' in text
    assert "weight-decay" not in text  # has its default


def test_with_plan__a_stored_plan_may_be_edited_and_given_values_win(
    plans: list[Plan], settle: Callable[..., Any], tmp_path: Path
) -> None:
    _, first, _ = settle(tmp_path)
    stored = tmp_path / PLAN
    stored.write_text(stored.read_text().replace("iterations = 500", "iterations = 123"))
    _, settings, _ = settle(tmp_path)
    assert settings.cam == replace(first.cam, iterations=123)
    assert (settings.labels, settings.seg) == (first.labels, first.seg)
    assert settle(tmp_path, iterations=9)[1].cam.iterations == 9
    assert len(plans) == 1
    settle(tmp_path, time="3h")  # another time needs another plan
    settle(tmp_path, recipe="quick")
    assert [one.recipe for one in plans] == ["balanced", "balanced", "quick"]


def test_with_plan__a_run_that_was_begun_keeps_its_settings(
    plans: list[Plan], settle: Callable[..., Any], pictures: Path, tmp_path: Path
) -> None:
    begun = AllSettings(cam=TrainCam(iterations=31, long_side=40, seed=5), seg=TrainSeg(arch="conv"))
    write_config(tmp_path / CONFIG, pictures, Run(device="cpu", seed=5), begun.by_stage(), {})
    config, settings, warnings = settle(tmp_path)
    assert (config.seed, config.device) == (5, "cpu")
    assert (settings.cam.iterations, settings.cam.long_side, settings.cam.seed) == (31, 40, 5)
    assert settings.seg.arch == "conv"
    assert (plans, warnings) == ([], [])
    _, _, warnings = settle(tmp_path, time="1h", recipe="best")
    assert "--recipe and --time change nothing" in warnings[0]
    assert settle(tmp_path, overwrite="make-labels")[1].cam.iterations == 31
    assert settle(tmp_path, overwrite="train-cam")[1].cam.iterations == 500  # starts everything again
    assert len(plans) == 1


def test_with_plan__a_stage_that_was_begun_alone_keeps_its_settings(
    plans: list[Plan], settle: Callable[..., Any], cam_run: Path
) -> None:
    _, settings, _ = settle(cam_run)
    assert (settings.cam.iterations, settings.cam.image_size, settings.cam.weights) == (4, 32, "none")
    assert settings.seg.arch == "mlp"  # planned


@pytest.mark.parametrize("recipe", ["voc", "coco"])
def test_with_plan__published_recipes_are_not_planned(
    recipe: str, plans: list[Plan], settle: Callable[..., Any], tmp_path: Path
) -> None:
    _, settings, _ = settle(tmp_path / "run", recipe=recipe)
    assert settings == AllSettings()
    assert plans == []
    assert not (tmp_path / "run").exists()


def test_with_plan__what_does_not_fit_is_refused_with_the_command_that_starts_it(
    plans: list[Plan], settle: Callable[..., Any], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(fingerprint_of(arguments[0]), CPU, AllSettings(), Given())
        return replace(plan, minutes={"train-cam": 290.0}, budget=120.0)

    monkeypatch.setattr(toco_cli.planned, "new_plan", slow)
    with pytest.raises(SettingsError) as caught:
        settle(tmp_path / "run")
    assert str(caught.value).startswith("even the smallest plan takes about 4.83 h, more than the 2 h that it may take")
    assert f"'toco run {pictures} --out {tmp_path / 'run'} --time 6h'" in str(caught.value)
    assert not (tmp_path / "run" / PLAN).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train-cam\n", "is damaged"),
        ("[train-cam]\nstepz = 3\n", "'stepz' is not a setting"),
        ('[train-cam]\niterations = "many"\n', "'iterations' has the value 'many'"),
        ("[train-cam]\nrescale-min = 9.0\n", "--rescale-min 9.0 is above"),
    ],
)
def test_with_plan__a_damaged_plan_is_one_line(
    text: str, message: str, settle: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(ArtifactError, match=f"{PLAN}.*{message}"):
        settle(tmp_path)


def test_with_plan__mistakes_are_reported_before_a_plan_is_made(
    plans: list[Plan], settle: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"there is no file .*gone"):
        settle(tmp_path / "run", weights=str(tmp_path / "gone.safetensors"))
    assert plans == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipe voc", "--recipe voc has published settings"),
        ("--time soon", "--time 'soon' is not a time"),
        ("--train-cam.split test", "has no split 'test'"),
    ],
)
def test_plan__refuses_in_one_line(
    words: str, message: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(pictures), *words.split()]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


TINY = (
    "--train-cam.backbone vit_tiny_patch16_224 --train-cam.backbone-option patch_size=8 --train-cam.backbone-option "
    "embed_dim=32 --train-cam.backbone-option depth=2 --train-cam.backbone-option num_heads=2 --train-cam.weights none"
)


def test_plan__times_steps_and_prints_settings_reasons_and_minutes(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"plan {pictures} --out {tmp_path / 'run'} --device cpu --quiet {TINY} --train-cam.auxiliary-block -2"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    for part in (
        "recipe balanced",
        "backbone",
        "given",
        "Data: 8 training images",
        "Time: about",
        "train-cam",
        "Note:",
    ):
        assert part in out
    assert f"Next: toco run {pictures} --out {tmp_path / 'run'}" in out
    assert (tmp_path / "run" / PLAN).is_file()
