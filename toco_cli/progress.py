"""What a terminal or a log file shows of a stage's progress: on stderr, so that stdout holds results only."""

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REDRAWS = 0.25
RATE_WINDOW_SECONDS = 60.0
BAR_WIDTH = 30


class RichMonitor:
    """A bar where a person watches; elsewhere (a pipe, a log file) a plain line at start, end and every 30 s.

    Used with `with`, so that the terminal is put right again when a stage fails. Nothing runs in a thread of
    its own: what is shown changes when the stage advances, and worker processes can be forked at any time.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen, and show nothing yet.

        Args:
            quiet: Show warnings only.
            stream: Where to write; stderr if not given.
            clock: What tells the time, in seconds.
        """
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._clock = clock
        self._console = Console(file=self._stream)  # follows NO_COLOR and TERM by itself
        self._draws = self._stream.isatty() and not self._console.is_dumb_terminal
        self._task: _Task | None = None
        self._bar: _Bar | None = None
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
        self._task = _Task(title, total, done, unit, self._clock)
        self._shown_at = self._clock()
        if self._quiet:
            return
        if self._draws:
            self._bar = _Bar(self._console, self._task)
        else:
            self._line(self._task.opening())

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps; the bar is redrawn at most four times a second."""
        if self._task is None:
            raise RuntimeError("advance() before start()")
        self._task.advance(steps, figures)
        if self._quiet:
            return
        waited = self._clock() - self._shown_at
        if waited >= (SECONDS_BETWEEN_REDRAWS if self._bar else SECONDS_BETWEEN_LINES):
            self._shown_at = self._clock()
            if self._bar:
                self._bar.draw(self._task)
            else:
                self._line(self._task.running())

    def note(self, text: str) -> None:
        """Print a line above the bar; nothing where quiet."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Print a line above the bar, quiet or not."""
        self._line(f"warning: {text}")

    def finish(self) -> None:
        """End the task with one line that says how much was done and how long it took."""
        if self._task is None:
            return
        task, self._task = self._task, None
        if self._bar:
            self._bar.remove()
            self._bar = None
        if not self._quiet:
            self._line(task.closing())

    def _line(self, text: str) -> None:
        if self._bar:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


class _Task:
    """What is known of a running task: counts, figures and pace."""

    def __init__(self, title: str, total: int, done: int, unit: str, clock: Callable[[], float]) -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._first = done
        self._clock = clock
        self._started = clock()
        self._recent = deque([(self._started, done)])  # (time, done); the first is as old as the window, or older
        self._figures: dict[str, float] = {}

    def advance(self, steps: int, figures: dict[str, float]) -> None:
        # No more than there are: the first of several processes counts for the others, whose shares may be smaller.
        self.done = min(self.done + steps, self.total)
        self._figures.update(figures)
        now = self._clock()
        self._recent.append((now, self.done))
        while len(self._recent) > 2 and now - self._recent[1][0] >= RATE_WINDOW_SECONDS:
            self._recent.popleft()

    def rate(self) -> float | None:
        """Steps a second over the last minute; None before the first step."""
        (since, done_then), (until, done_now) = self._recent[0], self._recent[-1]
        return (done_now - done_then) / (until - since) if until > since and done_now > done_then else None

    def pace(self) -> str:
        """For example '12.3 images/s, 0:01:10 left'."""
        rate = self.rate()
        if rate is None:
            return ""
        left = timedelta(seconds=round(max(self.total - self.done, 0) / rate))
        return f"{_short(rate)} {self.unit}/s, {left} left"

    def figures(self) -> str:
        """For example 'loss 0.512, loss ptc 0.081'."""
        named = ((name.replace("_", " "), value) for name, value in self._figures.items())
        return ", ".join(f"{name} {_figure(value)}" for name, value in named)

    def opening(self) -> str:
        already = f" ({self.done} done already)" if self.done else ""
        return f"{self.title}: {self.total} {self.unit}{already}"

    def running(self) -> str:
        parts = (f"{self.title}: {self.done}/{self.total} {self.unit}", self.pace(), self.figures())
        return ", ".join(filter(None, parts))

    def closing(self) -> str:
        seconds = self._clock() - self._started
        rate = f" ({_short((self.done - self._first) / seconds)} {self.unit}/s)" if seconds > 0 else ""
        counts = f"{self.done}/{self.total} {self.unit}{rate} in {timedelta(seconds=round(seconds))}"
        return ", ".join(filter(None, (f"{self.title}: {counts}", self.figures())))


class _Bar:
    """The two lines at the bottom of the terminal, drawn over and over: bar, counts and pace; the figures."""

    def __init__(self, console: Console, task: _Task) -> None:
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, transient=True
        )
        self._live.start()
        self.draw(task)

    def draw(self, task: _Task) -> None:
        counts = ", ".join(filter(None, (f"{task.done}/{task.total} {task.unit}", task.pace())))
        room = self._live.console.width - len(task.title) - len(counts) - 2
        bar = [ProgressBar(task.total, task.done, width=min(room, BAR_WIDTH))] if room >= 4 else []
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(task.title), *bar, Text(counts, no_wrap=True, overflow="ellipsis"))
        figures = Text(task.figures(), style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(line, figures), refresh=True)

    def remove(self) -> None:
        self._live.stop()


def _short(rate: float) -> str:
    """Three digits are enough: 0.0123, 1.23, 12.3, 1234."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _figure(value: float) -> str:
    """Three decimals, or three digits where that would say nothing: 0.512, 6e-05, 1.23e+04."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
