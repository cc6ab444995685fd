"""Which classes a mask shows."""

import numpy as np
from numpy.typing import NDArray

from data.dataset import IGNORE_INDEX


def present_classes(mask: NDArray[np.uint8]) -> list[int]:
    """The classes 1..C of a mask (h, w), ascending; background (0) and ignored pixels (255) are none."""
    return [number for number in np.unique(mask).tolist() if number not in (0, IGNORE_INDEX)]
