"""The metrics log of a training stage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.atomic_write import atomic_write
from stages.training.loggers import Loggers


class MetricsLog:
    """metrics.jsonl: one JSON object per line, in order of iterations."""

    def __init__(self, path: Path, *, start: int, loggers: Loggers | None = None) -> None:
        """Continue after iteration `start`; drop later lines, which a run wrote after its last checkpoint.

        Args:
            path: The file.
            start: Number of finished iterations.
            loggers: Get the figures of each line, too.
        """
        self.path = path
        self.loggers = loggers or Loggers()
        kept = [values for values in read_metrics(path) if values["iteration"] <= start]
        self._written = {_kind(values) for values in kept}
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(values) + "\n" for values in kept))

    def write(self, **values: Any) -> None:
        """Append a line, unless the iteration has one with the same names already; NaN becomes null."""
        if _kind(values) in self._written:
            return
        self._written.add(_kind(values))
        plain = {name: None if value != value else value for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(plain) + "\n")
        figures = {name: value for name, value in plain.items() if name != "iteration" and value is not None}
        self.loggers.metrics(figures, values["iteration"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics log; an incomplete line, left by a process that was killed, is skipped."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
            float(values["iteration"])
        except (ValueError, KeyError, TypeError):
            continue
        found.append(values)
    return found


def _kind(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return (values["iteration"], *sorted(values))
