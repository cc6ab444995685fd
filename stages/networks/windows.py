"""Sliding windows: segment a large image piece by piece, each piece like a separate image.

Windows overlap. Each pixel takes its label from the window whose centre is nearest, because that window sees most of
the pixel's surroundings. Labels are joined rather than scores, so that memory does not grow with the number of classes.

Letters: h w pixels of the image.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import torch
from jaxtyping import UInt8
from torch import Tensor

from data.spans import spans


def label_in_windows(
    image: UInt8[Tensor, "3 h w"],
    side: int,
    label: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    batch_size: int = 1,
) -> UInt8[Tensor, "h w"]:
    """Label an image window by window.

    Args:
        image: The image.
        side: Side of a window, in pixels.
        label: Labels pieces of the image of equal size, (3, _h, _w) each; returns (_h, _w) for each, on the CPU.
        batch_size: Pieces per call of `label`.
    """
    height, width = image.shape[-2:]
    windows = list(product(spans(height, side), spans(width, side)))
    result = torch.empty(height, width, dtype=torch.uint8)
    for first in range(0, len(windows), batch_size):
        some = windows[first : first + batch_size]
        labels = label([image[:, rows.seen, columns.seen] for rows, columns in some])
        for (rows, columns), piece in zip(some, labels, strict=True):
            result[rows.kept, columns.kept] = piece[rows.kept_of_seen, columns.kept_of_seen]
    return result
