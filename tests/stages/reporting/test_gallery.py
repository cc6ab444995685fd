from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.dataset import Sample
from stages.reporting.gallery import Rank, Ranked, _likeness, choose


def ranked(classes: Sequence[tuple[int, ...]]) -> list[Ranked]:
    ranks: list[Rank] = ["best", "median", "worst"]
    return [
        Ranked(
            Sample(id=str(place), image=Path(f"{place}.jpg"), classes=own, mask=None),
            1 - place / len(classes),
            ranks[3 * place // len(classes)],
        )
        for place, own in enumerate(classes)
    ]


def places(chosen: list[Ranked]) -> list[int]:
    return [int(one.sample.id) for one in chosen]


def test_choose__best_median_and_worst() -> None:
    assert places(choose(ranked([(1,)] * 90), 6, 1)) == [0, 1, 44, 45, 88, 89]


def test_choose__all_images_if_there_are_few() -> None:
    assert places(choose(ranked([(1,)] * 4), 24, 1)) == [0, 1, 2, 3]
    assert choose([], 24, 1) == []


def test_choose__three_images_of_each_class_that_has_them() -> None:
    images = [(2,) if place in (10, 20, 30, 40) else (3,) if place == 50 else (1,) for place in range(90)]
    assert places(choose(ranked(images), 3, 4)) == [0, 10, 30, 40, 44, 50, 89]


@pytest.mark.parametrize(
    ("mask", "reference", "score"),
    [
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]], 1.0),
        ([[0, 1, 1, 1]], [[0, 0, 1, 1]], (1 / 2 + 2 / 3) / 2),
        ([[0, 0, 255, 1]], [[0, 0, 1, 1]], (1 + 1 / 2) / 2),  # ignored pixels count as wrong
        ([[0, 0, 2, 2]], [[0, 0, 1, 1]], 1 / 3),  # of the three labels in either mask, only background is right
        ([[0, 0, 1, 1]], [[255, 0, 1, 1]], 1.0),
        ([[0, 1]], [[255, 255]], 0.0),
    ],
)
def test_likeness__by_hand(mask: list[list[int]], reference: list[list[int]], score: float) -> None:
    given, wanted = np.array(mask, np.uint8), np.array(reference, np.uint8)
    assert _likeness(given, wanted) == pytest.approx(score)
