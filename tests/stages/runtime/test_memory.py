import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stages.runtime.memory
from stages.runtime.memory import MemoryBudget, free_memory


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\n", None, None, 5120),
        ("MemAvailable: 5 kB\n", "4096\n", "96\n", 4000),
        ("MemAvailable: 5 kB\n", "max\n", "96\n", 5120),
        ("MemAvailable: 5 kB\n", "100", "200", 0),
        ("nonsense", None, None, math.inf),
        (None, None, None, math.inf),
    ],
)
def test_free_memory__is_the_least_of_machine_and_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meminfo: str | None,
    limit: str | None,
    used: str | None,
    expected: float,
) -> None:
    for name, text in (("meminfo", meminfo), ("limit", limit), ("used", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(stages.runtime.memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(stages.runtime.memory, "CGROUPS", ((tmp_path / "limit", tmp_path / "used"),))
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
