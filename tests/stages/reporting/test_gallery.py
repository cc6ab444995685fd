import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.dataset import Sample
from stages.reporting.gallery import Rank, Ranked, choose, object_iou


def ranked(classes: Sequence[tuple[int, ...]]) -> list[Ranked]:
    ranks: list[Rank] = ["worst", "median", "best"]
    return [
        Ranked(
            Sample(id=str(place), image=Path(f"{place}.jpg"), classes=own, mask=None),
            place / len(classes),
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
    ("mask", "reference", "expected", "score"),
    [
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]], (), 1.0),
        ([[0, 1, 1, 1]], [[0, 0, 1, 1]], (), 2 / 3),  # the background does not count
        ([[0, 0, 0, 0]], [[0, 0, 0, 1]], (), 0.0),  # although three of four pixels are right
        ([[0, 0, 255, 1]], [[0, 0, 1, 1]], (), 1 / 2),  # ignored pixels count as wrong
        ([[0, 0, 2, 2]], [[0, 0, 1, 1]], (), 0.0),
        ([[0, 2, 1, 1]], [[0, 0, 1, 1]], (), 1 / 2),  # a class that the image does not show
        ([[0, 0, 1, 1]], [[255, 0, 1, 1]], (), 1.0),
        ([[0, 0, 0, 1]], [[0, 0, 0, 0]], (), 3 / 4),  # an image without objects: what is left free
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]], (1,), 0.0),  # the label names a class, and the mask is empty
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]], (1, 2), 1 / 2),
    ],
)
def test_object_iou__by_hand(
    mask: list[list[int]], reference: list[list[int]], expected: tuple[int, ...], score: float
) -> None:
    given, wanted = np.array(mask, np.uint8), np.array(reference, np.uint8)
    assert object_iou(given, wanted, expected) == pytest.approx(score)


def test_object_iou__nothing_to_see() -> None:
    assert math.isnan(object_iou(np.zeros((1, 2), np.uint8), np.array([[0, 255]], np.uint8)))
