"""How a stage reports its progress: an interface, and its simple implementations."""

from typing import Protocol, runtime_checkable


@runtime_checkable  # for the type checks at run time in the tests
class Monitor(Protocol):
    """Receives a stage's progress; one task at a time, from `start` to `finish`."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start a task; a task that is still running is finished first.

        Args:
            title: A few words, for example 'training the CAM network'.
            total: Number of steps of the whole task.
            done: Number of steps that an earlier run finished; they do not count for the rate.
            unit: Name of a step, in the plural: 'images', 'steps'.
        """

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count `steps` as done; show each figure (`loss=0.51`) until it gets a new value."""

    def note(self, text: str) -> None:
        """Report a fact worth keeping: a score, a file that was written."""

    def warn(self, text: str) -> None:
        """Report a problem, also if progress is not shown."""

    def finish(self) -> None:
        """End the task, if one is running."""


class SilentMonitor:
    """A monitor that shows nothing."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Do nothing."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class WarningsOnly(SilentMonitor):
    """Monitor for ranks above 0: forwards warnings, drops everything else."""

    def __init__(self, monitor: Monitor) -> None:
        """Forward warnings to `monitor`."""
        self._monitor = monitor

    def warn(self, text: str) -> None:
        """Report a problem, as in `Monitor`."""
        self._monitor.warn(text)


class Titled:
    """Monitor for one part of a longer command: adds the part's title to each task, note and warning."""

    def __init__(self, monitor: Monitor, title: str) -> None:
        """Forward everything to `monitor`, with `title` before it."""
        self._monitor = monitor
        self._title = title

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start a task, as in `Monitor`."""
        self._monitor.start(self._title + title, total, done, unit)

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps, as in `Monitor`."""
        self._monitor.advance(steps, **figures)

    def note(self, text: str) -> None:
        """Report a fact, as in `Monitor`."""
        self._monitor.note(self._title + text)

    def warn(self, text: str) -> None:
        """Report a problem, as in `Monitor`."""
        self._monitor.warn(self._title + text)

    def finish(self) -> None:
        """End the task."""
        self._monitor.finish()


class WarnsOnce(Titled):
    """Titled monitor of a command whose parts may find the same problem: it shows each warning once."""

    def __init__(self, monitor: Monitor, title: str, shown: set[str]) -> None:
        """Forward everything, but no warning in `shown`, which all parts of the command share and fill."""
        super().__init__(monitor, title)
        self._shown = shown

    def warn(self, text: str) -> None:
        """Report a problem, as in `Monitor`, if no part has done so."""
        if text not in self._shown:
            self._shown.add(text)
            super().warn(text)
