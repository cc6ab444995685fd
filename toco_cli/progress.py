"""Progress of a stage on stderr, as a bar in a terminal or as lines in a log file. Stdout holds results only."""

import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REDRAWS = 0.25
RATE_WINDOW_SECONDS = 60.0
BAR_WIDTH = 30
SHOWN_FIGURES = 4  # in training: the loss and three of its parts


class RichMonitor:
    """Show a bar in a terminal, and elsewhere (a pipe, a log file) a plain line at start, at end and every 30 s.

    Use it in a `with` block, so that the terminal is restored if a stage fails. No thread refreshes the bar: it changes
    only when the stage calls a method, so worker processes can be forked at any time.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show nothing until the first call of a method.

        Args:
            quiet: Show warnings only.
            stream: Where to write; stderr by default.
            clock: Returns the time in seconds.
        """
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._clock = clock
        self._console = Console(file=self._stream)  # obeys NO_COLOR and TERM
        self._draws = not quiet and self._stream.isatty() and self._console.is_interactive
        self._progress: _Progress | None = None
        self._shown_at = 0.0

    def __enter__(self) -> "RichMonitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a task, as in `stages.runtime.monitor.Monitor`."""
        self.finish()
        self._progress = _Progress(self._console, self._clock, disable=not self._draws)
        self._progress.add_task(title, total=total, completed=done, unit=unit, done_before=done, first=None, figures={})
        self._progress.start()
        self._shown_at = self._clock()
        if not self._draws:
            already = f" ({done} done already)" if done else ""
            self.note(f"{title}: {total} {unit}{already}")

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps. The bar is redrawn at most four times a second."""
        if self._progress is None:
            raise RuntimeError("advance() before start()")
        task = self._progress.advance_by(steps, figures)
        waited = self._clock() - self._shown_at
        if waited < (SECONDS_BETWEEN_REDRAWS if self._draws else SECONDS_BETWEEN_LINES):
            return
        self._shown_at = self._clock()
        if self._draws:
            self._progress.refresh()
        else:
            self.note(_joined(f"{task.description}: {_counts(task)}", _pace(task), _figures(task)))

    def note(self, text: str) -> None:
        """Print a line, above the bar if there is one; print nothing if quiet."""
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print a line, above the bar if there is one, even if quiet."""
        self._print(f"warning: {text}")

    def finish(self) -> None:
        """End the task with one line: how much was done, and how long it took."""
        if self._progress is None:
            return
        progress, self._progress = self._progress, None
        progress.stop()
        self.note(_summary(progress.tasks[0]))

    def _print(self, text: str) -> None:
        if self._draws and self._progress:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


class _Progress(Progress):
    """One task in two lines at the bottom of the terminal: title, bar, counts and pace; below them the figures."""

    def __init__(self, console: Console, clock: Callable[[], float], *, disable: bool) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None, table_column=Column(max_width=BAR_WIDTH)),  # narrower in a narrow terminal
            _CountsColumn(Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            auto_refresh=False,  # True would start a thread
            speed_estimate_period=RATE_WINDOW_SECONDS,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_time=clock,
            disable=disable,
        )

    def advance_by(self, steps: int, figures: dict[str, float]) -> Task:
        (task,) = self.tasks
        # Not beyond the total: rank 0 also counts for the other ranks, whose shares may be smaller.
        done = min(task.completed + steps, task.total or 0)
        first = task.fields["first"] or (done, self.get_time())
        self.update(task.id, completed=done, first=first, figures={**task.fields["figures"], **figures})
        return task

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(_figures(task), style="dim", no_wrap=True, overflow="ellipsis")


class _CountsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_joined(_counts(task), _pace(task)))


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _counts(task: Task) -> str:
    return f"{task.completed:.0f}/{task.total:.0f} {task.fields['unit']}"


def _pace(task: Task) -> str:
    """For example '12.3 images/s, 0:01:10 left'; empty before the second call of `advance`.

    What comes before the end of the first call tells little: networks warm up, and workers start.
    """
    rate = task.speed or _rate_since_first(task)  # rich needs two calls within the window
    if not rate:
        return ""
    return f"{_rate_text(rate)} {task.fields['unit']}/s, {timedelta(seconds=round((task.remaining or 0) / rate))} left"


def _summary(task: Task) -> str:
    if 0 < task.fields["done_before"] == task.completed:
        return f"{task.description}: {_counts(task)}, done already"
    rate = _mean_rate(task)
    rate_text = "" if rate is None else f" ({_rate_text(rate)} {task.fields['unit']}/s)"
    duration = timedelta(seconds=round(task.elapsed or 0))
    return _joined(f"{task.description}: {_counts(task)}{rate_text} in {duration}", _figures(task))


def _mean_rate(task: Task) -> float | None:
    """Steps per second since the start of the task, without those that an earlier run did."""
    return (task.completed - task.fields["done_before"]) / task.elapsed if task.elapsed else None


def _rate_since_first(task: Task) -> float | None:
    """Steps per second since the end of the first call of `advance`."""
    if task.fields["first"] is None:
        return None
    completed, then = task.fields["first"]
    seconds = task.get_time() - then
    return (task.completed - completed) / seconds if seconds else None


def _rate_text(rate: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1234."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _figures(task: Task) -> str:
    """The first figures that are not exactly 0, for example 'loss 0.512, loss ptc 0.081'."""
    shown = [
        f"{name.replace('_', ' ')} {_figure_text(value)}" for name, value in task.fields["figures"].items() if value
    ]
    return ", ".join(shown[:SHOWN_FIGURES])


def _figure_text(value: float) -> str:
    """Three decimals, or three digits if the value is very small or large: 0.512, 6e-05, 1.23e+04."""
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else f"{value:.3g}"
