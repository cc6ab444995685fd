import numpy as np
import pytest

from data.small_objects import class_covers, describe_small, median_covers, patches_covered


def test_class_covers__leaves_background_and_ignored_pixels_out() -> None:
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[0, :10], mask[5:, :], mask[1, 0] = 3, 255, 1
    assert class_covers(mask) == {1: 0.005, 3: 0.05}


def test_median_covers__by_name_over_the_masks_that_show_the_class() -> None:
    masks = [{1: 0.1}, {1: 0.3, 2: 0.5}, {1: 0.2}, {7: 0.9}, {}]
    assert median_covers(masks, ("dent", "crack")) == {"dent": 0.2, "crack": 0.5}


@pytest.mark.parametrize(
    ("cover", "side", "patch", "patches"), [(0.002, 448, 16, 1.568), (0.002, 896, 16, 6.272), (1, 196, 14, 196)]
)
def test_patches_covered__grow_with_the_square_of_the_side(cover: float, side: int, patch: int, patches: float) -> None:
    assert patches_covered(cover, side, patch) == pytest.approx(patches)


def test_describe_small__the_smallest_first() -> None:
    covers = {"fray": 0.2, "crack": 0.005, "blowhole": 0.002}
    assert describe_small(covers, 196, 14) == [
        "blowhole covers 0.2 % of an image in the median, 0.39 patches of 14 pixels at --image-size 196",
        "crack covers 0.5 % of an image in the median, 0.98 patches of 14 pixels at --image-size 196",
    ]
    assert describe_small(covers, 896, 16) == []
