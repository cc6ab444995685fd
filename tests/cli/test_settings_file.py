from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stages.run
import toco_cli.commands
from toco_cli.main import main


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `toco run` was called with, in place of planning and running."""
    call: dict[str, Any] = {}

    def run(data: Path, out: Path, config: Any, monitor: Any, **settings: Any) -> Path:
        call.update(data=data, out=out, config=config, **settings)
        return out / "report.html"

    def unplanned(data: Path, out: Path, config: Any, settings: Any, *given: Any, **options: Any) -> Any:
        return config, settings

    monkeypatch.setattr(stages.run, "run", run)
    monkeypatch.setattr(toco_cli.commands, "with_plan", unplanned)
    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def to(text: str) -> str:
        (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
        return str(tmp_path / "settings.toml")

    return to


def test_take_settings__file_below_command_line_above_recipe(
    called: dict[str, Any], write: Callable[[str], str], tmp_path: Path
) -> None:
    file = write(
        'data = "photos"\nout = "runs/x"\nseed = 5\nrecipe = "coco"\n[train-cam]\niterations = 70\nscales = [1, 0.5]\n'
        '[make-labels]\nbackground = "auto"\n'  # its name until version 0.1
    )
    assert main(["run", "--config", file, "--train-seg.iterations", "9", "--out", "elsewhere"]) == 0
    assert called["data"] == tmp_path / "photos"
    assert called["out"] == Path("elsewhere")
    assert called["cam"].iterations == 70
    assert called["cam"].scales == (1.0, 0.5)
    assert called["cam"].batch_size == 8  # the recipe's
    assert called["cam"].seed == called["seg"].seed == 5
    assert (called["labels"].background_threshold, called["labels"].refine) == ("auto", "crf")
    assert called["seg"].iterations == 9


def test_take_settings__the_command_line_wins_for_all_stages(
    called: dict[str, Any], write: Callable[[str], str]
) -> None:
    file = write('data = "p"\nout = "r"\nseed = 1\n[train-seg]\nseed = 2\n')
    assert main(["run", "--config", file]) == 0
    assert (called["cam"].seed, called["seg"].seed) == (1, 2)
    assert main(["run", "--config", file, "--seed", "7", "--device", "cpu"]) == 0
    assert called["config"].seed == called["cam"].seed == called["seg"].seed == 7
    assert called["labels"].device == "cpu"


def test_take_settings__a_file_of_weights_is_beside_the_settings(
    called: dict[str, Any], write: Callable[[str], str], tmp_path: Path
) -> None:
    file = write('data = "p"\nout = "r"\n[train-cam]\nweights = "vit.safetensors"\n[train-seg]\nweights = "none"\n')
    assert main(["run", "--config", file]) == 0
    assert called["cam"].weights == str(tmp_path / "vit.safetensors")
    assert called["seg"].weights == "none"


def test_take_settings__a_cache_is_beside_the_settings(
    called: dict[str, Any], write: Callable[[str], str], tmp_path: Path
) -> None:
    assert main(["run", "--config", write('data = "p"\nout = "r"\ncache = "c"\n[train-seg]\ncache = "d"\n')]) == 0
    assert called["config"].cache == called["cam"].cache == str(tmp_path / "c")
    assert called["seg"].cache == str(tmp_path / "d")
    assert main(["run", "--config", write('data = "p"\nout = "r"\n'), "--cache", "here"]) == 0
    assert called["cam"].cache == called["seg"].cache == "here"


def test_take_settings__how_a_run_was_made_is_passed_over(called: dict[str, Any], write: Callable[[str], str]) -> None:
    assert main(["run", "--config", write('data = "p"\nout = "r"\n[made-with]\ntorch = "2"\n')]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[train-cam]\niteration = 3\n",
            "sets 'train-cam.iteration', which is not an option of 'toco run'; did you mean",
        ),
        ("[train-cam]\niterations = 'many'\n", "Invalid value for '--train-cam.iterations'"),
        ("[train-cam]\niterations = 0\n", "Invalid value for '--train-cam.iterations'"),
        ("[train-cam\n", "is not valid TOML"),
        ("out = 'p'\n", "DATA is missing"),
        (
            "data = 'p'\nout = 'r'\n[train-seg]\nimage-size = 100\n",
            "train-seg: --image-size 100 is not a multiple of 32",
        ),
    ],
)
def test_take_settings__bad_files_are_one_line(
    called: dict[str, Any], write: Callable[[str], str], capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert main(["run", "--config", write(text)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not called


def test_take_settings__no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", "gone.toml"]) == 2
    assert "gone.toml cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("crf", "refine", "fast"), [('"off"', "none", False), ('"full"', "crf", False), ('"fast"', "crf", True)]
)
def test_take_settings__crf_of_version_0_1(
    called: dict[str, Any], write: Callable[[str], str], crf: str, refine: str, fast: bool
) -> None:
    assert main(["run", "--config", write(f'data = "p"\nout = "r"\n[make-labels]\ncrf = {crf}\n')]) == 0
    assert (called["labels"].refine, called["labels"].crf_fast) == (refine, fast)


def test_take_settings__a_value_of_crf_that_never_was(
    called: dict[str, Any], write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", write('data = "p"\nout = "r"\n[make-labels]\ncrf = false\n')]) == 2
    assert "[make-labels] crf = False is not a value of any version" in capsys.readouterr().err
