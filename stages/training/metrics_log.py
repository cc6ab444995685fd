"""The metrics log of a training stage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.atomic_write import atomic_write


class MetricsLog:
    """metrics.jsonl: one JSON object per line, in order of iterations."""

    def __init__(self, path: Path, *, start: int) -> None:
        """Continue after iteration `start`; drop later lines, which a run wrote after its last checkpoint."""
        self.path = path
        self._written: set[tuple[Any, ...]] = set()
        kept = []
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    values = json.loads(line)
                    if values["iteration"] <= start:
                        kept.append(line + "\n")
                        self._written.add(_kind(values))
                except (json.JSONDecodeError, KeyError, TypeError):  # an incomplete line
                    continue
        with atomic_write(path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, **values: Any) -> None:
        """Append a line, unless the iteration has one with the same names already; NaN becomes null."""
        if _kind(values) in self._written:
            return
        self._written.add(_kind(values))
        plain = {name: None if value != value else value for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(plain) + "\n")


def _kind(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return (values["iteration"], *sorted(values))
