from collections.abc import Callable
from functools import partial

import pytest

from bench import memory, student, workload


def test_main__prints_all_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At tiny sizes, and here: the memory of this process says nothing."""
    backbone = {"backbone": "vit_tiny_patch16_224", "image_size": 64, "backbone_option": ("depth=3",)}
    monkeypatch.setitem(workload.SIZES, "cpu", backbone)
    monkeypatch.setitem(student.SIZES["cpu"], "image_size", 64)
    monkeypatch.setattr(memory, "CLASSES", (3, 20))
    monkeypatch.setattr(memory, "CLASSES_OF_MASKS", (20, 40))
    monkeypatch.setattr(memory, "PICTURES", ((40, 30), (60, 40)))
    monkeypatch.setattr(memory, "IMAGES", ((2,), (1_001,)))
    ran: list[object] = []

    def here(device: str, run: Callable[[], None]) -> int:
        run()
        ran.append(run)
        return 2_000_000 * len(ran)

    monkeypatch.setattr(memory, "fresh_peak", here)
    memory.main(["--device", "cpu"])
    printed = capsys.readouterr().out
    assert printed.count("| exponent |\n") == printed.count("\n| exponent | ") >= 12
    assert "\n| images | 40 x 30 | 60 x 40 | exponent |" in printed
    assert "\n| classes | 2 | 1,001 | exponent |" in printed


@pytest.mark.slow  # each new process imports torch
def test_fresh_peak__is_of_what_runs() -> None:
    few, many = (memory.fresh_peak("cpu", partial(memory.list_samples, (count,), 20)) for count in (10, 200_000))
    assert 60e6 < many - few < 200e6


@pytest.mark.parametrize(
    ("sizes", "peaks", "expected"),
    [
        ([1, 4], [10, 40], "1.00"),
        ([1, 10, 100], [7, 3, 300], "2.00"),  # the last two count
        ([1, 4], [10, 10], "0.00"),
        ([1], [10], ""),
        ([1, 4], [0, 10], ""),  # less than what was there before
    ],
)
def test_exponent__by_hand(sizes: list[float], peaks: list[float], expected: str) -> None:
    assert memory.exponent(sizes, peaks) == expected
