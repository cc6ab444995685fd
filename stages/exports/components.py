"""Objects of a mask: each connected patch of a class counts as one."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stages.exports.labelled_images import classes_in_mask

# Pixels that touch at a corner belong together, as in the outlines that OpenCV draws.
NEIGHBOURS = np.ones((3, 3), dtype=bool)


class Component(NamedTuple):
    """One connected patch, cut out of its mask."""

    class_number: int  # 1..C
    top: int  # row of the cut-out's first pixel, from 0
    left: int  # column of the same
    pixels: NDArray[np.bool_]  # (h, w) of the cut-out, which touches the patch on all sides

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return int(self.pixels.sum())


def components(mask: NDArray[np.uint8]) -> Iterator[Component]:
    """Yield the connected patches of each class, in the order of classes, from top to bottom.

    Args:
        mask: (h, w): 0 background, 1..C classes, 255 ignored. Neither background nor ignored pixels are objects.
    """
    for class_number in classes_in_mask(mask):
        numbers, _ = ndimage.label(mask == class_number, structure=NEIGHBOURS)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            yield Component(class_number, rows.start, columns.start, numbers[rows, columns] == number)
