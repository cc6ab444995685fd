import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.config import MakeLabels, Predict, TrainCam
from stages.run_folder.warning_log import LOG, WarningLog

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"


def logged(folder: Path) -> list[str]:
    """The warnings in a log, without their times."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [re.fullmatch(rf"{TIME} warning: (.*)", line)[1] for line in lines]  # type: ignore[index]


def test_log__keeps_what_came_before_the_folder_and_is_appended_to(tmp_path: Path, listener: Any) -> None:
    for number in (1, 2):
        monitor = listener()
        log = WarningLog(monitor)
        log.warn(f"early {number}")
        assert (
            logged(tmp_path) == ["early 1", "in two lines", "図 \\udce9"] if number == 2 else not os.listdir(tmp_path)
        )
        log.write_to(tmp_path)
        log.warn("in two\nlines")
        log.note("not a warning")
        log.warn("図 " + os.fsdecode(b"\xe9"))
        assert monitor.warnings == [f"early {number}", "in two\nlines", "図 \udce9"]
        assert monitor.notes == ["not a warning"]
    assert logged(tmp_path) == ["early 1", "in two lines", "図 \\udce9", "early 2", "in two lines", "図 \\udce9"]


def test_log__without_warnings_there_is_none(tmp_path: Path, listener: Any) -> None:
    log = WarningLog(listener())
    log.write_to(tmp_path)
    log.start("task", 1)
    log.advance()
    log.finish()
    assert not os.listdir(tmp_path)


@pytest.fixture
def data(draw_pictures: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The pictures, of which one is damaged."""
    root = draw_pictures(tmp_path / "data")
    (root / "images" / "c.jpg").write_bytes(b"no picture")
    return root


def test_stages__log_the_images_that_they_skip(
    data: Path, cam_settings: Callable[..., TrainCam], tmp_path: Path, listener: Any
) -> None:
    from stages.make_labels import make_labels
    from stages.predict import predict
    from stages.train_cam import train_cam

    run, monitor = tmp_path / "run", listener()
    settings = cam_settings(skip_bad=True, iterations=2, evaluate_every=0)
    with pytest.raises(KeyboardInterrupt):
        train_cam(data, run, settings, listener(stop=("advance", 1)))
    train_cam(data, run, settings, monitor, resume=True)
    skipped = f"skipped: {data / 'images/c.jpg'} is not a readable"
    assert sum(line.startswith(skipped) for line in logged(run / "cam")) == 2  # in each session
    make_labels(run, MakeLabels(relabel="none", device="cpu", workers=1, skip_bad=True), monitor)
    assert any(line.startswith(skipped) for line in logged(run / "labels"))
    out = tmp_path / "predicted"
    predict(run, [data / "images"], out, replace(Predict(), skip_bad=True, device="cpu"), monitor)
    assert any(line.startswith(skipped) for line in logged(out))
    assert {line for folder in (run / "cam", run / "labels", out) for line in logged(folder)} <= set(monitor.warnings)
