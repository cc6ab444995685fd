"""The demo's order of work, with stages that only note what they were given."""

from pathlib import Path
from typing import Any

import pytest

import stages.demo
from data.errors import ArtifactError
from stages.demo import demo
from stages.evaluate import Evaluation
from stages.preflight.checks import before_demo
from stages.runtime.monitor import SilentMonitor


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace all stages; drawing can be stopped by making `calls` hold 'stop'."""
    made: list[str] = []

    def draw(folder: Path, **_: Any) -> None:
        made.append("draw")
        folder.mkdir()
        if "stop" in made:
            raise KeyboardInterrupt
        (folder / "labels.csv").touch()

    def stage(name: str) -> Any:
        def run(*_: Any, **options: Any) -> None:
            made.append(name + (" resumes" if options.get("resume") else ""))

        return run

    monkeypatch.setattr(stages.demo, "draw_sample", draw)
    for name in ("train_cam", "make_labels", "train_seg"):
        monkeypatch.setattr(stages.demo, name, stage(name))

    def scores(*_: Any) -> Evaluation:
        made.append("scores")
        return Evaluation(class_names=(), columns=())

    monkeypatch.setattr(stages.demo, "demo_scores", scores)
    return made


STAGES = ["train_cam resumes", "make_labels resumes", "train_seg resumes", "scores"]


def test_demo__resumes_and_keeps_the_drawn_pictures(calls: list[str], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for _ in range(2):
        demo(out, SilentMonitor())
    assert calls == ["draw", *STAGES, *STAGES]


def test_demo__draws_again_if_it_was_stopped_while_drawing(calls: list[str], tmp_path: Path) -> None:
    calls.append("stop")
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "demo", SilentMonitor())
    calls.clear()
    demo(tmp_path / "demo", SilentMonitor())
    assert calls == ["draw", *STAGES]


def test_demo__starts_again_with_overwrite(calls: list[str], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo(out, SilentMonitor())
    (out / "run" / "cam").mkdir(parents=True)
    calls.clear()
    demo(out, SilentMonitor(), seed=1, overwrite=True)
    assert calls == ["draw", *STAGES]
    assert not (out / "run" / "cam").exists()
    before_demo(out, seed=1, overwrite=False)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("1", r"was made with --seed 1: use --overwrite"),
        ("", "was made by an earlier version: use --overwrite"),
        (None, "was not made by a demo: nothing is written there"),
    ],
)
def test_before_demo__of_a_folder_with_something_else(tmp_path: Path, mark: str | None, message: str) -> None:
    (tmp_path / "file").touch()
    if mark is not None:
        (tmp_path / ".toco-demo").write_text(mark)
    with pytest.raises(ArtifactError, match=message):
        before_demo(tmp_path, seed=0, overwrite=False)
