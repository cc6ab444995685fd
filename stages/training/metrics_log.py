"""What a training stage writes of its progress."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.atomic_write import atomic_write


class MetricsLog:
    """metrics.jsonl: one JSON object a line, in order of iterations."""

    def __init__(self, path: Path, *, start: int) -> None:
        """Go on after iteration `start`; later lines, from a run cut off after its checkpoint, are dropped."""
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
                except (json.JSONDecodeError, KeyError, TypeError):  # a line cut off in the middle
                    continue
        with atomic_write(path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, **values: Any) -> None:
        """Append a line, unless one with the same names is there for the iteration; NaN becomes null."""
        if _kind(values) in self._written:
            return
        self._written.add(_kind(values))
        plain = {name: None if value != value else value for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(plain) + "\n")


def _kind(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return (values["iteration"], *sorted(values))
