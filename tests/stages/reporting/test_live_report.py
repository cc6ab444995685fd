import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.reporting.live_report import REPORT, LiveReport, latest_panel
from stages.reporting.training_charts import training_charts


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose CAM network is in training."""
    (tmp_path / "cam/panels").mkdir(parents=True)
    lines = [{"iteration": step, "loss": 3.0 / step, "ptc": 0.5} for step in (20, 40, 60)]
    scores = [{"iteration": step, "cam_miou": step / 100} for step in (20, 40)]
    text = "".join(json.dumps(line) + "\n" for line in (*lines, *scores))
    (tmp_path / "cam/metrics.jsonl").write_text(text)
    for iteration in (999_950, 1_000_000):  # not in the order of their names
        Image.new("RGB", (8, 6), "red").save(tmp_path / f"cam/panels/{iteration:06d}.png")
    return tmp_path


def test_live_report__is_written_when_figures_come_but_not_too_often(run: Path, listener: Any) -> None:
    now, monitor, page = [0.0], listener(), run / REPORT
    live = LiveReport(monitor, run, clock=lambda: now[0])
    live.start("computing features", 5)
    live.advance(5)
    live.finish()
    assert not page.exists()
    live.start("training the CAM network", 100, 19, "steps")
    live.advance(1, loss=3.0)
    text = page.read_text()
    assert "Training the CAM network: 20 of 100 steps." in text
    assert 'http-equiv="refresh"' in text
    assert "The CAM network after 1000000 iterations" in text
    assert "Losses of the CAM network" in text
    assert "mIoU of the CAM network during training" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    page.unlink()
    for now[0] in (1.0, 30.0, 59.0):
        live.advance(1, loss=3.0)
    assert not page.exists()
    now[0] = 61.0
    live.advance(1, loss=3.0)
    assert "24 of 100 steps" in page.read_text()
    live.finish()
    text = page.read_text()
    assert "finished" in text
    assert 'http-equiv="refresh"' not in text
    assert f"toco report {run}" in text
    assert monitor.calls == ["start", "advance", "finish", "start", *["advance"] * 5, "finish"]
    assert monitor.steps == 24


def test_live_report__takes_at_most_2_percent_of_the_time(run: Path, listener: Any, monkeypatch: Any) -> None:
    now = [0.0]

    def slow(page: Any, refresh: int) -> str:
        now[0] += 10.0
        return "page"

    monkeypatch.setattr("stages.reporting.live_report.render_training", slow)
    live = LiveReport(listener(), run, clock=lambda: now[0])
    live.start("training", 10_000, unit="steps")
    written = []
    for _ in range(1200):
        before = now[0]
        live.advance(1, loss=1.0)
        written += [before] * (now[0] > before)
        now[0] += 1.0
    assert written == [0.0, 510.0, 1020.0]


def test_live_report__a_full_disk_does_not_stop_the_training(run: Path, listener: Any, full_disk: None) -> None:
    monitor = listener()
    live = LiveReport(monitor, run)
    live.start("training", 10, unit="steps")
    for _ in range(3):
        live.advance(1, loss=1.0)
    assert monitor.steps == 3
    assert monitor.warnings == [
        f"{run / REPORT} is not written any more while this trains: {os.strerror(errno.ENOSPC)}"
    ]


def test_live_report__is_not_written_while_masks_are_relabelled(run: Path, listener: Any) -> None:
    live = LiveReport(listener(), run)
    live.start("relabelling (linear)", 6, unit="rounds")
    live.advance(objects=0.3)
    live.finish()
    assert not (run / REPORT).exists()


def test_latest_panel__without_panels(tmp_path: Path) -> None:
    assert latest_panel("cam", tmp_path) is None


def test_training_charts__of_nothing_yet(tmp_path: Path) -> None:
    assert training_charts("cam", tmp_path) == {}
    assert training_charts("labels", tmp_path) == {}
