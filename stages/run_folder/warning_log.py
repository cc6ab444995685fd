"""The warnings of a stage, for example which images were skipped, kept in its folder: FOLDER/log.txt."""

from datetime import datetime
from pathlib import Path

from stages.runtime.monitor import Monitor, Titled

LOG = "log.txt"


class WarningLog(Titled):
    """A monitor that forwards everything, and also writes each warning with its time to a file.

    Warnings that come before the folder is known are kept until then. Without warnings, there is no file. With several
    processes, rank 0 writes its own warnings; those of the other ranks are only shown.
    """

    def __init__(self, monitor: Monitor) -> None:
        """Forward everything to `monitor`."""
        super().__init__(monitor, "")
        self._lines: list[str] = []
        self._path: Path | None = None

    def write_to(self, folder: Path) -> None:
        """Append the warnings so far, and all later ones, to the folder's log."""
        self._path = folder / LOG
        self._write()

    def warn(self, text: str) -> None:
        """Report a problem, as in `Monitor`, and log it."""
        super().warn(text)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._lines.append(f"{now} warning: {' '.join(text.splitlines())}\n")
        self._write()

    def _write(self) -> None:
        if self._path is None or not self._lines:
            return
        # Names of files may hold bytes that are not text.
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(self._lines)
        self._lines.clear()
