"""How a stage says where it is, whoever listens: a terminal, a log file, nobody."""

from typing import Protocol, runtime_checkable


@runtime_checkable  # where the tests check types as they run
class Monitor(Protocol):
    """Hears of a stage's progress; one task at a time, from `start` to `finish`."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a task; one still running is finished first.

        Args:
            title: What is being done, in a few words ('training the CAM model').
            total: How many steps the whole task has.
            done: How many of them an earlier run has done already; they do not count for the rate.
            unit: What a step is, in the plural ('images', 'steps').
        """

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count `steps` as done; each figure (`loss=0.51`) is shown until a newer one of its name comes."""

    def note(self, text: str) -> None:
        """Say something worth keeping: a score, a file that was written."""

    def warn(self, text: str) -> None:
        """Say what the user should know even where progress is not shown."""

    def finish(self) -> None:
        """End the task; nothing happens if none is running."""


class SilentMonitor:
    """The monitor of somebody who does not want to hear."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Ignore it."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""


class WarningsOnly(SilentMonitor):
    """The ear for a process that is not the first: warnings of its own share of the work are passed on."""

    def __init__(self, monitor: Monitor) -> None:
        """Pass warnings on to `monitor`."""
        self._monitor = monitor

    def warn(self, text: str) -> None:
        """Say what the user should know, as in `Monitor`."""
        self._monitor.warn(text)


class Titled:
    """A monitor's ear for one part of a longer work: it hears of each task, and in each note, which part it is."""

    def __init__(self, monitor: Monitor, title: str) -> None:
        """Pass all on to `monitor`, with `title` before it."""
        self._monitor = monitor
        self._title = title

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a task, as in `Monitor`."""
        self._monitor.start(self._title + title, total, done, unit)

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps, as in `Monitor`."""
        self._monitor.advance(steps, **figures)

    def note(self, text: str) -> None:
        """Say something worth keeping, as in `Monitor`."""
        self._monitor.note(self._title + text)

    def warn(self, text: str) -> None:
        """Say what the user should know, as in `Monitor`."""
        self._monitor.warn(self._title + text)

    def finish(self) -> None:
        """End the task."""
        self._monitor.finish()
