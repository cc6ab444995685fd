"""The connected components of the classes in a mask; instances.py makes objects of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

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
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the bounding box in the image."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

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
        yield from numbered(numbers, class_number)


def numbered(
    numbers: NDArray[np.signedinteger[Any]], class_number: int, top: int = 0, left: int = 0
) -> Iterator[Component]:
    """Yield regions of one class by their numbers (h, w), 1..n without a gap; 0 is outside. (top, left) is added."""
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
        yield Component(class_number, top + rows.start, left + columns.start, numbers[rows, columns] == number)
