"""Bounds what parallel tasks need together by the memory that is free."""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
# Limit and use of a container, and the part of the use that is files kept for rereading, an entry of memory.stat:
# cgroup version 2, and version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_memory() -> float:
    """Bytes of memory that this process may still use; infinite if the system does not say."""
    found = [math.inf]
    with suppress(OSError, ValueError, KeyError):
        found.append(1024 * _entry(MEMINFO, "MemAvailable:"))
    for limit, used, statistics, cached in CGROUP_FILES:
        try:
            free = float((CGROUP / limit).read_text()) - float((CGROUP / used).read_text())  # 'max' means no limit
        except (OSError, ValueError):
            continue
        with suppress(OSError, ValueError, KeyError):
            free += _entry(CGROUP / statistics, cached)  # given up for a process that needs memory
        found.append(free)
    return max(0.0, min(found))


def _entry(path: Path, name: str) -> float:
    """Read a number from a file of lines with a name and a number."""
    return float(dict(line.split()[:2] for line in path.read_text().splitlines())[name])


class MemoryBudget:
    """Gives tasks to an executor, but no more at once than memory allows; a task that needs more runs alone."""

    def __init__(self, total: float) -> None:
        """Share `total` bytes."""
        self.total = total
        self._running: deque[tuple[int, Future[object]]] = deque()

    def at_once(self, need: int) -> float:
        """Return how many tasks that need this many bytes may run at once."""
        return max(1.0, self.total // need) if math.isfinite(self.total) else math.inf

    def submit(self, need: int, executor: Executor, task: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Submit a task that needs this many bytes, after those that it has no place beside are done."""
        while self._running:
            self._running = deque((size, future) for size, future in self._running if not future.done())
            if not self._running or need + sum(size for size, _ in self._running) <= self.total:
                break
            wait([future for _, future in self._running], return_when="FIRST_COMPLETED")
        future = executor.submit(task, *arguments)
        self._running.append((need, future))  # type: ignore[arg-type]
        return future
