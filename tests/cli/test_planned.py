"""Where a run's settings come from: given, begun, a stored plan, or a new one. The plans are made without timing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import stages.run
import toco_cli.commands
import toco_cli.planned
from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError, UserError
from data.readers import open_dataset
from stages.config import MakeLabels, Run, TrainCam, TrainSeg
from stages.option import Given
from stages.planning.fingerprint import fingerprint_of
from stages.planning.hardware import Hardware
from stages.planning.planner import Plan, make_plan
from stages.run import check_run, complete_settings
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_config import CONFIG, PLAN, AllSettings, stored_settings, write_config
from stages.run_folder.saving import write_json
from stages.verdict.judge import ClassEvidence, ClassVerdict, Verdict
from toco_cli.main import main
from toco_cli.options import SETTINGS_OF_COMMANDS
from toco_cli.plan_table import plan_lines
from toco_cli.planned import warn_of_run_settings, with_plan, with_planned_cam, with_planned_seg

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


def test_plan_lines__say_when_no_time_is_predicted(
    plans: list[Plan], settle: Callable[..., Any], tmp_path: Path
) -> None:
    settle(tmp_path)
    untimed = [line.plain for line in plan_lines(replace(plans[0], minutes={})) if line.plain.startswith("Time")]
    assert untimed == ["Time: not predicted, because no step was timed; 'toco plan' times some steps."]
    timed = [line.plain for line in plan_lines(replace(plans[0], minutes={"train-cam": 3.0})) if "Time" in line.plain]
    assert timed[0].startswith("Time: about 3 min (train-cam 3 min)")


@pytest.mark.parametrize("name", ["run", "plan"])
def test_run__options_of_pixel_values_reach_train_cam_and_the_plan(name: str, tmp_path: Path) -> None:
    settings = SETTINGS_OF_COMMANDS[getattr(toco_cli.commands, name)]
    both = settings.combined(None, {}, {"config": {"bands": "4,3,2"}, "train_cam": {"alpha": "ignore"}})
    assert (both["train_cam"].bands, both["train_cam"].alpha) == ("4,3,2", "ignore")
    own = settings.combined(None, {}, {"config": {"bands": "4,3,2"}, "train_cam": {"bands": "all"}})
    assert own["train_cam"].bands == "all"
    with pytest.raises(SettingsError, match=r"--bands '4,x': give different numbers"):
        settings.combined(None, {}, {"config": {"bands": "4,x"}})
    for made, bands in ((both, "4,3,2"), (own, "all")):
        write_config(tmp_path / PLAN, tmp_path, made["config"], AllSettings(cam=made["train_cam"]).by_stage(), {}, {})
        stored = stored_settings(tmp_path / PLAN)
        assert stored is not None
        assert stored.stages["train-cam"]["bands"] == bands


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


def test_warn_of_run_settings__names_those_that_make_labels_does_not_use(
    cam_run: Path, pictures: Path, listener: Callable[[], Any]
) -> None:
    monitor = listener()
    warn_of_run_settings(cam_run, MakeLabels(), monitor)  # no run of `toco run`
    side = open_stage(cam_run, "cam").settings["image_size"]  # which make-labels takes from the training
    own = MakeLabels(refine="crf", scales=(1.0, 2.0), relabel="none", workers=3, image_size=side)
    write_config(cam_run / CONFIG, pictures, Run(), AllSettings(labels=own).by_stage(), {})
    warn_of_run_settings(cam_run, own, monitor)
    assert monitor.warnings == []
    warn_of_run_settings(cam_run, MakeLabels(relabel="mil"), monitor)
    (warning,) = monitor.warnings
    assert f"{cam_run / CONFIG} has --refine crf, --scales 1 2, which this command does not use" in warning
    assert f"toco run --config {cam_run / CONFIG} --overwrite make-labels" in warning


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
    assert ": --time changes nothing" in settle(tmp_path, time="1h")[2][0]
    assert ": --recipe changes nothing" in settle(tmp_path, recipe="best")[2][0]
    assert settle(tmp_path, overwrite="make-labels")[1].cam.iterations == 31
    assert settle(tmp_path, overwrite="train-cam")[1].cam.iterations == 500  # starts everything again
    assert len(plans) == 1


def test_with_plan__a_stored_plan_is_what_was_asked_for(
    plans: list[Plan], settle: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "vit.safetensors")
    monkeypatch.chdir(tmp_path)
    settle(tmp_path / "run", weights="vit.safetensors", backbone="vit_tiny_patch16_224")
    monkeypatch.chdir("/")
    _, settings, _ = settle(tmp_path / "run")  # relative to where the plan was made
    assert settings.cam.weights == str(tmp_path / "vit.safetensors")

    asked = AllSettings(cam=TrainCam(seed=0), seg=TrainSeg(seed=3))
    write_config(tmp_path / PLAN, tmp_path, Run(seed=3), asked.by_stage(), {}, {})
    config, settings, _ = settle(tmp_path)  # one stage has the default, which is not the value for all stages
    assert (config.seed, settings.cam.seed, settings.seg.seed) == (3, 0, 3)


def test_with_plan__says_that_a_stored_plan_is_for_another_data_set(
    plans: list[Plan], settle: Callable[..., Any], pictures: Path, tmp_path: Path
) -> None:
    settle(tmp_path)
    assert settle(tmp_path)[2] == []
    stored = tmp_path / PLAN
    stored.write_text(stored.read_text().replace(str(pictures.resolve()), "/data/others"))
    (warning,) = settle(tmp_path)[2]
    assert warning.startswith(f"{stored} is a plan for /data/others: to plan for {pictures}, give --recipe balanced or")


@pytest.mark.parametrize("starter", ["", "torchrun"])
def test_with_plan__a_time_is_kept_or_said_to_be_ignored(
    starter: str, settle: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def new_plan(data: Dataset, *arguments: Any, timed: bool, **options: Any) -> Plan:
        asked.append(timed)
        return make_plan(fingerprint_of(data), CPU, AllSettings(cam=TrainCam(weights="none")), Given())

    monkeypatch.setattr(toco_cli.planned, "new_plan", new_plan)
    if starter:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
    *_, warnings = settle(tmp_path, time="1h", iterations=3, image_size=32, weights="none")
    assert asked == [not starter]  # timed although neither steps nor images can be reduced
    assert warnings == (
        ["--time is not used with several processes or machines that start together: nothing is timed"]
        if starter
        else []
    )


def test_with_planned_stages__resume_keeps_begun_settings_and_plans_a_new_stage(
    plans: list[Plan], pictures: Path, cam_run: Path, tmp_path: Path, listener: Callable[[], Any]
) -> None:
    dataset = open_dataset(pictures)
    cam, seg = TrainCam(iterations=31), TrainSeg(iterations=31)
    assert with_planned_cam(dataset, cam_run, cam, Given(), listener(), resume=True) == cam
    assert with_planned_cam(dataset, tmp_path / "new", cam, Given(), listener(), resume=True).iterations == 500
    assert with_planned_seg(dataset, cam_run, seg, Given(), listener(), resume=True).iterations == 1500
    (cam_run / "seg").mkdir()
    (cam_run / "seg" / "metrics.jsonl").touch()
    assert with_planned_seg(dataset, cam_run, seg, Given(), listener(), resume=True) == seg


def test_new_plan__takes_the_sizes_of_objects_from_the_masks_of_an_earlier_run(
    draw_pictures: Callable[[Path], Path], tmp_path: Path, listener: Callable[[], Any]
) -> None:
    data, run = draw_pictures(tmp_path / "data"), tmp_path / "run"
    evidence = ClassEvidence(name="red", images=5, examined=5, empty=0, cover=0.001)
    judged = ClassVerdict(name="red", level="good", by_ground_truth=False, reasons=("5 masks",), evidence=evidence)
    verdict = Verdict(classes=(judged,), examined=5, measured=0, advice=None)
    (run / "labels").mkdir(parents=True)
    write_json(run / "labels" / "verdict.json", verdict.as_dict())

    def notes() -> str:
        dataset = open_dataset(data)
        plan = toco_cli.planned.new_plan(dataset, AllSettings(), Given(), listener(), timed=False, earlier=run)
        return "; ".join(plan.notes)

    assert "small objects" not in notes()  # ground truth counts more
    shutil.rmtree(data / "masks")
    assert "red was found by the earlier run on 0.1 % of an image in the median, 0.2 patches" in notes()


def test_with_planned_seg__is_for_the_device_of_the_student(
    pictures: Path, cam_run: Path, monkeypatch: pytest.MonkeyPatch, listener: Callable[[], Any]
) -> None:
    devices = []

    def new_plan(data: Dataset, settings: AllSettings, *arguments: Any, **options: Any) -> Plan:
        devices.append(settings.cam.device)
        return make_plan(fingerprint_of(data), CPU, settings, Given())

    monkeypatch.setattr(toco_cli.planned, "new_plan", new_plan)
    with_planned_seg(open_dataset(pictures), cam_run, TrainSeg(device="mps"), Given(), listener(), resume=False)
    assert devices == ["mps"]  # train-cam used the CPU


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
    with pytest.raises(SettingsError, match=f"--recipe {recipe} has published settings, which no --time changes"):
        settle(tmp_path / "run", recipe=recipe, time="2h")
    assert plans == []
    assert not (tmp_path / "run").exists()


def test_run__says_once_that_few_images_lack_a_class(
    plans: list[Plan], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    """Before the plan, for which steps are timed, and not again when the run starts."""
    said = listener()

    def checked(data: Path, out: Path, config: Run, monitor: Any, **settings: Any) -> Path:
        check_run(data, out, *complete_settings(config, AllSettings(**settings)), monitor)
        return out

    @contextmanager
    def monitor(quiet: bool) -> Iterator[Any]:
        yield said

    def planned(*arguments: Any, **options: Any) -> Plan:
        early.extend(said.warnings)
        return new_plan(*arguments, **options)

    early: list[str] = []
    new_plan = toco_cli.planned.new_plan
    monkeypatch.setattr(toco_cli.planned, "new_plan", planned)
    monkeypatch.setattr(stages.run, "run", checked)
    monkeypatch.setattr(toco_cli.commands, "_monitor", monitor)
    main(["run", str(pictures), "--out", str(tmp_path / "run"), "--make-labels.relabel", "mil"])
    assert ["too few images do not show" in text for text in early] == [True]
    assert sum("too few images do not show" in text for text in said.warnings) == 1


def test_with_plan__what_does_not_fit_is_refused_with_the_option_that_allows_it(
    settle: Callable[..., Any],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def slow(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(fingerprint_of(open_dataset(pictures)), CPU, AllSettings(), Given())
        return replace(plan, minutes={"train-cam": 13.9}, budget=1 / 3)

    monkeypatch.setattr(toco_cli.planned, "new_plan", slow)
    with pytest.raises(SettingsError) as caught:
        settle(tmp_path / "run")
    assert str(caught.value).startswith("even the smallest plan takes about 14 min, more than the limit of 0.3 min")
    assert "allow more with --time 16m" in str(caught.value)
    monkeypatch.setattr(toco_cli.commands, "new_plan", slow)
    assert main(["plan", str(pictures), "--out", str(tmp_path / "run")]) == 1
    assert "error: even the smallest plan takes about 14 min" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / PLAN).exists()  # which 'toco run' would use


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train-cam\n", "is damaged"),
        ("[train-cam]\nstepz = 3\n", "'stepz' is not a setting"),
        ('[train-cam]\niterations = "many"\n', "'iterations' has the value 'many'"),
        ("[train-cam]\nrescale-min = 9.0\n", "--rescale-min 9.0 is above"),
        ("[train-cam]\nweights = 3\n", "'weights' has the value 3"),
        ("train-cam = 3\n", "3 is not a table of settings"),
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
