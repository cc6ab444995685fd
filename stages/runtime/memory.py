"""Bounds what parallel tasks need together by the memory that is free."""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

MEMINFO = Path("/proc/meminfo")
# Limit and use of a container: cgroup version 2, and version 1.
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_memory() -> float:
    """Bytes of memory that this process may still use; infinite if the system does not say."""
    found = [math.inf]
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        found.append(1024 * float(lines["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        pass
    for limit, used in CGROUPS:
        try:
            found.append(float(limit.read_text()) - float(used.read_text()))  # 'max' means no limit
        except (OSError, ValueError):
            continue
    return max(0.0, min(found))


class MemoryBudget:
    """Gives tasks to an executor, but no more at once than memory allows; a task that needs more runs alone."""

    def __init__(self, total: float) -> None:
        """Share `total` bytes."""
        self.total = total
        self._running: deque[tuple[int, Future[object]]] = deque()

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
