"""Drawn objects become COCO annotations, and average precision is that of hand-computed cases."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from bench import instances


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # pycocotools
def test_true_objects__are_those_of_the_drawing() -> None:
    content = {"images": [{"id": 7, "file_name": "0.jpg"}, {"id": 8, "file_name": "1.jpg"}], "categories": []}
    found = instances.true_objects(content, seed=3, crowded=True)["annotations"]
    assert [one["id"] for one in found] == list(range(1, len(found) + 1))
    for entry, image_id in ((7, "0"), (8, "1")):
        _, mask, _ = instances.scene(image_id, seed=3, crowded=True)
        own = [one for one in found if one["image_id"] == entry]
        assert len(own) >= 2  # objects touch
        drawn = np.zeros_like(mask)
        for one in own:
            pixels = run_lengths.decode(one["segmentation"]).astype(bool)
            assert one["area"] == pixels.sum()
            assert not drawn[pixels].any()
            drawn[pixels] = one["category_id"]
        np.testing.assert_array_equal(drawn, mask)


def content_of(*boxes: tuple[int, int], score: float | None = None) -> dict[str, Any]:
    """An image with squares of 10 pixels at these places (x, y)."""
    annotations = []
    for number, (x, y) in enumerate(boxes, 1):
        pixels = np.zeros((40, 40), np.uint8)
        pixels[y : y + 10, x : x + 10] = 1
        one: dict[str, Any] = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100}
        one |= {"bbox": [x, y, 10, 10], "segmentation": run_lengths.encode(np.asfortranarray(pixels))}
        annotations.append(one if score is None else {**one, "score": score})
    return {"images": [{"id": 1, "height": 40, "width": 40}], "categories": [{"id": 1}], "annotations": annotations}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(0, 0), (20, 20)], 100.0),
        ([(1, 1), (20, 20)], 100.0),  # 81 / 119 of the union is more than half
        ([(20, 20)], 100 * 51 / 101),  # one of two: precision 1 at 51 of the 101 recalls
        ([(4, 4)], 0.0),
    ],
)
def test_average_precision__by_hand(found: list[tuple[int, int]], expected: float) -> None:
    for kind in ("bbox", "segm"):
        truth = content_of((0, 0), (20, 20))
        precision = instances.average_precision(truth, content_of(*found, score=1.0), kind)
        assert precision == pytest.approx(expected)


def test_table__one_line_for_each_row() -> None:
    row = {"seed": 0, "pictures": "crowded", "masks": "pseudo", "instances": "split", "objects": 9, "found": 8}
    lines = instances.table([{**row, "boxes": 61.25, "outlines": 58.0}]).splitlines()
    assert lines[2:] == ["| 0 | crowded | pseudo | split | 9 | 8 | 61.2 | 58.0 |"]
    assert len({line.count("|") for line in lines}) == 1
