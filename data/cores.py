"""The number of CPU cores."""

import os


def cores() -> int:
    """Return the number of CPU cores that this process may use; containers and `taskset` may allow fewer than exist."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
