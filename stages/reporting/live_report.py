"""RUN/report.html while a stage trains: the curves so far, and the latest panel."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from PIL import Image

from data.atomic_write import atomic_write
from data.command_line import as_command
from data.errors import reason
from stages.reporting.gallery import data_url
from stages.reporting.page import Panel, TrainingPage, render_training
from stages.reporting.training_charts import TRAINED_NETWORKS, training_charts
from stages.runtime.monitor import Monitor
from stages.training.panel import PANELS

REPORT = "report.html"
SECONDS_BETWEEN_PAGES = 60  # between two versions of the page
TIMES_ITS_DURATION = 50  # and at least this many times the time that the last one took, so that it takes at most 2 %


class LiveReport:
    """A monitor that forwards everything, and keeps RUN/report.html up to date while a stage trains.

    An earlier report in its place is replaced; `toco report` writes the whole one again.
    """

    def __init__(self, monitor: Monitor, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Forward everything to `monitor`; write the page of `run`, by the time in seconds that `clock` returns."""
        self._monitor = monitor
        self._run = run
        self._clock = clock
        self._title, self._done, self._total = "", 0, 0
        self._next = -float("inf")  # time of the next version
        self._trains = False  # the running task has written a page

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start a task, as in `Monitor`."""
        self._title, self._done, self._total, self._trains = title, done, total, False
        self._monitor.start(title, total, done, unit)

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps, as in `Monitor`; only the training of a network gives a loss."""
        self._done += steps
        self._monitor.advance(steps, **figures)
        if "loss" in figures and self._clock() >= self._next:
            self._write(finished=False)

    def note(self, text: str) -> None:
        """Report a fact, as in `Monitor`."""
        self._monitor.note(text)

    def warn(self, text: str) -> None:
        """Report a problem, as in `Monitor`."""
        self._monitor.warn(text)

    def finish(self) -> None:
        """End the task, as in `Monitor`."""
        self._monitor.finish()
        if self._trains:
            self._write(finished=True)
        self._trains = False

    def _write(self, *, finished: bool) -> None:
        began = self._clock()
        try:
            text = render_training(self._page(finished), SECONDS_BETWEEN_PAGES)
            with atomic_write(self._run / REPORT) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except Exception as error:  # a page is not worth the training
            self._monitor.warn(f"{self._run / REPORT} is not written any more while this trains: {reason(error)}")
            self._next = float("inf")
            return
        now = self._clock()
        self._next, self._trains = now + max(SECONDS_BETWEEN_PAGES, TIMES_ITS_DURATION * (now - began)), True

    def _page(self, finished: bool) -> TrainingPage:
        stages = [stage for stage in reversed(TRAINED_NETWORKS) if (self._run / stage / "metrics.jsonl").is_file()]
        charts = {name: chart for stage in stages for name, chart in training_charts(stage, self._run / stage).items()}
        figures = {
            plot.title or curve.name: f"{curve.points[-1][1]:.4g}"
            for chart in list(charts.values())[:1]
            for plot in chart.plots
            for curve in plot.curves
        }
        return TrainingPage(
            run=self._run,
            title=self._title,
            done=self._done,
            total=self._total,
            finished=finished,
            written=datetime.now().strftime("%Y-%m-%d at %H:%M:%S"),
            figures=figures,
            panels=[panel for stage in stages if (panel := latest_panel(stage, self._run / stage))],
            charts=list(charts.values()),
            following=as_command("report", self._run),
        )


def latest_panel(stage: str, folder: Path) -> Panel | None:
    """Return the latest panel of a stage; None if it has drawn none."""
    files = sorted((folder / PANELS).glob("*.png"), key=lambda path: int(path.stem))
    if not files:
        return None
    with Image.open(files[-1]) as picture:
        return Panel(f"The {TRAINED_NETWORKS[stage]} after {int(files[-1].stem)} iterations", data_url(picture))
