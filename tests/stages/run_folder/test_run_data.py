from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.readers import open_dataset
from stages.run_folder.run_data import spread, usable_samples


def test_usable_samples__all_of_a_split(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = replace(open_dataset(pictures), warnings=("one row is odd",))
    assert len(usable_samples(dataset, None, 8, False, monitor)) == 8
    assert len(usable_samples(dataset, "val", 8, False, monitor)) == 2
    assert monitor.warnings == ["one row is odd"] * 2


def test_usable_samples__too_small(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = open_dataset(pictures)
    with pytest.raises(DataError, match="is too small"):
        usable_samples(dataset, None, 50, False, monitor)
    good = usable_samples(dataset, None, 50, True, monitor)
    assert [sample.id for sample in good] == ["b", "c", "deep/e", "deep/f", "h"]
    assert len(monitor.warnings) == 3
    assert all(text.startswith("skipped: ") for text in monitor.warnings)


def test_usable_samples__many_bad_images_are_counted(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = open_dataset(pictures)
    one = dataset.split()[0]
    missing = tuple(replace(one, id=f"x{number}", image=pictures / f"x{number}.jpg") for number in range(14))
    dataset = replace(dataset, splits={"train": (one, *missing)})
    assert usable_samples(dataset, None, 1, True, monitor) == (one,)
    assert len(monitor.warnings) == 11
    assert monitor.warnings[-1] == "skipped: 4 more images"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (9, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (20, list(range(10)))],
)
def test_spread__evenly(count: int, expected: list[int]) -> None:
    assert spread(list(range(10)), count) == expected
