"""Every command with --quiet and --json: one JSON document on stdout, and nothing but warnings on stderr."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from typer.main import get_command

from stages.config import Tile
from stages.runtime.monitor import Monitor, SilentMonitor
from stages.tile import tile
from toco_cli.commands import app
from toco_cli.main import main

COMMANDS = sorted(getattr(get_command(app), "commands", {}))
CAM = (
    "--backbone vit_tiny_patch16_224 --backbone-option patch_size=8 --backbone-option embed_dim=32 "
    "--backbone-option depth=2 --backbone-option num_heads=2 --auxiliary-block -2 --weights none --iterations 1 "
    "--batch-size 2 --image-size 32 --evaluate-every 0 --evaluate-images 1 --panel-every 0 --workers 0"
)
LABELS = "--relabel none --refine none --workers 1"
SEG = (
    "--arch Linknet --encoder tu-mobilenetv3_small_050 --weights none --iterations 1 --batch-size 2 --image-size 32 "
    "--evaluate-images 1 --panel-every 0 --workers 0"
)


def prefixed(stage: str, options: str) -> str:
    return options.replace("--", f"--{stage}.")


TRAIN = " ".join((prefixed("train-cam", CAM), prefixed("make-labels", LABELS), prefixed("train-seg", SEG)))
CASES = {
    "run": f"run photos --out new-run --device cpu {TRAIN}",
    "init": "init started",
    "check": "check photos",
    "tile": "tile photos/masks --out mask_tiles --size 32 --overlap 8",
    "join": "join tiles tiles/images --out joined",
    "plan": f"plan photos --device cpu --time 9h {TRAIN}",
    "import-checkpoint": "import-checkpoint released.pth imported --classes names.txt --num-heads 3",
    "train-cam": f"train-cam photos --out new-cam --device cpu {CAM}",
    "make-labels": f"make-labels with-cam --device cpu {LABELS}",
    "train-seg": f"train-seg with-labels --device cpu {SEG}",
    "evaluate": "evaluate run --device cpu --images 2",
    "evaluate --sweep": "evaluate run --sweep --device cpu --images 2",
    "report": "report run --device cpu --images 2 --gallery 3",
    "view": "view photos/images/a.jpg run --device cpu",
    "predict": "predict run photos/images --out predicted --device cpu",
    "export": "export run --out exported",
    "demo": "demo --out demo",
    "pick": "pick run --count 2 --format png --out picked",
    "import": "import run photos/masks --from png --skip-bad",
}
# Results as text have these words.
TEXT_CASES = {
    "init": ("init started-2", "labels.csv"),
    "tile": ("tile photos/masks --out mask_tiles-2 --size 32 --overlap 8", "remove the '#'"),
    "check": ("check photos", "Nothing|ready for training"),
    "plan": (f"plan photos --device cpu {TRAIN}", "Next: toco run photos --out runs/photos"),
    "evaluate": ("evaluate run --device cpu --images 2", "mean (mIoU)"),
    "view": ("view photos/images/a.jpg run --device cpu", "a-view.png"),
    "predict": ("predict run photos/images/a.jpg --out predicted-2 --device cpu", "predicted-2"),
    "export": ("export run --out exported-2", "files are in"),
}


def refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


@pytest.fixture(scope="module")
def folder(
    draw_pictures: Callable[[Path], Path],
    golden: Callable[[str], dict[str, Any]],
    whole_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the cases read; what they write has other names, so that each can run alone."""
    root = tmp_path_factory.mktemp("quiet")
    draw_pictures(root / "photos")
    shutil.copytree(whole_run, root / "run")
    for name, stages in {"with-cam": ("cam",), "with-labels": ("cam", "labels")}.items():
        for stage in stages:
            shutil.copytree(whole_run / stage, root / name / stage)
    tile([root / "photos/masks"], root / "tiles", Tile(size=32, overlap=8), SilentMonitor())
    state = {name.removeprefix("state/"): one for name, one in golden("network").items() if name.startswith("state/")}
    torch.save(state, root / "released.pth")
    (root / "names.txt").write_text("one\ntwo\nthree\nfour\n")
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Reports without charts, and the demo without its training: a note, a task, and the evaluation of the run."""
    import stages.demo
    import stages.report
    from stages.config import Evaluate
    from stages.evaluate import evaluate

    def demo(out: Path, monitor: Monitor, **settings: Any) -> Any:
        monitor.note("drawing pictures")
        return evaluate(folder / "run", replace(Evaluate(), device="cpu", images=2), monitor)

    monkeypatch.setattr(stages.demo, "demo", demo)
    monkeypatch.setattr(stages.report, "_charts", lambda *_: {})


def test_cases__are_all_commands() -> None:
    assert sorted({case.split()[0] for case in CASES}) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_commands__have_both_options(name: str) -> None:
    command = getattr(get_command(app), "commands", {})[name]
    assert {"--quiet", "--json"} <= {option for parameter in command.params for option in parameter.opts}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("case", CASES)
def test_quiet_and_json__print_one_document(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code = main([*CASES[case].split(), "--quiet", "--json"])
    out, err = capfd.readouterr()  # of the whole process, also what libraries print
    assert code == 0, err
    assert isinstance(json.loads(out, parse_constant=refuse), dict)
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []


@pytest.mark.parametrize("case", TEXT_CASES)
def test_quiet__prints_the_result_as_text(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words, result = TEXT_CASES[case]
    monkeypatch.chdir(folder)
    assert main([*words.split(), "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert any(part in out for part in result.split("|"))
    assert [line for line in err.splitlines() if not line.startswith("warning: ")] == []


def test_evaluate__without_ground_truth_judges_the_masks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree("photos", "bare", ignore=shutil.ignore_patterns("masks"))
    assert main(["evaluate", "run", "--data", "bare", "--device", "cpu", "--quiet"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("Nothing was measured: bare has no ground-truth masks") for line in lines)
    assert any(line.startswith("Judged without ground truth, from 8 masks") for line in lines)
    assert lines[-1].startswith("Or correct masks by hand: toco pick run --class ")
    assert lines[-2].startswith("Next: toco ")
    assert "classes" in lines[-3]
