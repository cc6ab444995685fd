import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stages.runtime.memory
from stages.runtime.memory import MemoryBudget, free_memory


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "statistics", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\n", None, None, None, 5120),
        ("MemAvailable: 5 kB\n", "4096\n", "96\n", None, 4000),
        ("MemAvailable: 5 kB\n", "max\n", "96\n", None, 5120),
        ("MemAvailable: 5 kB\n", "100", "200", None, 0),
        ("MemAvailable: 5 kB\n", "4096\n", "4000\n", "anon 1\nactive_file 7\ninactive_file 3900\n", 3996),
        ("MemAvailable: 5 kB\n", "4096\n", "4000\n", "anon 1\n", 96),
        ("MemAvailable: 5 kB\n", "4096\n", "4000\n", "nonsense", 96),
        ("nonsense", None, None, None, math.inf),
        (None, None, None, None, math.inf),
    ],
)
def test_free_memory__is_the_least_of_machine_and_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meminfo: str | None,
    limit: str | None,
    used: str | None,
    statistics: str | None,
    expected: float,
) -> None:
    for name, text in (("meminfo", meminfo), ("limit", limit), ("used", used), ("statistics", statistics)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(stages.runtime.memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(stages.runtime.memory, "CGROUP", tmp_path)
    monkeypatch.setattr(stages.runtime.memory, "CGROUP_FILES", (("limit", "used", "statistics", "inactive_file"),))
    assert free_memory() == expected


@pytest.mark.parametrize(
    ("total", "needs", "at_once"),
    [(10.0, [4] * 6, 2), (10.0, [11] * 3, 1), (math.inf, [4] * 4, 4), (0.0, [1] * 3, 1), (10.0, [10, 1, 1], 2)],
)
def test_memory_budget__bounds_what_runs_at_once(total: float, needs: list[int], at_once: int) -> None:
    budget, lock, running, most, sizes = MemoryBudget(total), threading.Lock(), 0, 0, []

    def task(need: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            sizes.append(running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1
        return need

    with ThreadPoolExecutor(8) as pool:
        futures = [budget.submit(need, pool, task, need) for need in needs]
        assert [future.result() for future in futures] == needs
    assert most <= at_once


@pytest.mark.parametrize(("total", "need", "expected"), [(10.0, 4, 2), (10.0, 11, 1), (math.inf, 4, math.inf)])
def test_memory_budget__at_once(total: float, need: int, expected: float) -> None:
    assert MemoryBudget(total).at_once(need) == expected
