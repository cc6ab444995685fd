"""The objects in a mask: each connected component of a class is one object."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stages.exports.labelled_images import classes_in_mask

# 8-connectivity, as in OpenCV's contours: pixels that touch at a corner belong together.
NEIGHBOURS = np.ones((3, 3), dtype=bool)


class Component(NamedTuple):
    """One connected component, cropped to its bounding box."""

    class_number: int  # 1..C
    top: int  # first row of the bounding box, from 0
    left: int  # first column of the bounding box, from 0
    pixels: NDArray[np.bool_]  # (h, w) of the bounding box

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.pixels.sum())


def components(mask: NDArray[np.uint8]) -> Iterator[Component]:
    """Yield the connected components, sorted by class, then from top to bottom.

    Args:
        mask: (h, w): 0 background, 1..C classes, 255 ignored. Background and ignored pixels belong to no component.
    """
    for class_number in classes_in_mask(mask):
        numbers, _ = ndimage.label(mask == class_number, structure=NEIGHBOURS)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            yield Component(class_number, rows.start, columns.start, numbers[rows, columns] == number)
