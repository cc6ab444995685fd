"""Sliding windows: a large image is segmented piece by piece, as if each piece were an image of its own.

Windows overlap, and each pixel is labelled by the window whose centre is nearest, which knows most of its
surroundings. Labels are put together, not scores, so that memory does not grow with the number of classes.

Letters: h w pixels of the image.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

OVERLAP = 4  # neighbours share one part in so many of their side


class Span(NamedTuple):
    """A window along one axis, in pixels of the image: what it sees, and the part of that which it labels."""

    seen: slice
    kept: slice

    @property
    def kept_of_seen(self) -> slice:
        """What it labels, counted from the window's own first pixel."""
        return slice(self.kept.start - self.seen.start, self.kept.stop - self.seen.start)


def spans(length: int, side: int) -> list[Span]:
    """Lay windows of `side` pixels along an axis of `length`; the last one ends with it, all labels cover it once.

    An axis that is no longer than a window has one, of its own length.
    """
    starts = [*range(0, length - side, side - side // OVERLAP), max(0, length - side)]
    # Half-way between the centres of neighbours.
    cuts = [0, *((left + right + side) // 2 for left, right in pairwise(starts)), length]
    return [
        Span(seen=slice(start, min(start + side, length)), kept=slice(*kept))
        for start, kept in zip(starts, pairwise(cuts), strict=True)
    ]


def label_in_windows(
    image: UInt8[Tensor, "3 h w"],
    side: int,
    label: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    batch_size: int = 1,
) -> UInt8[Tensor, "h w"]:
    """Label an image window by window.

    Args:
        image: The image.
        side: Of a window, in pixels.
        label: Labels pieces (3, _h, _w) of the image, all of one size: (_h, _w) of each, on the CPU.
        batch_size: Pieces that are given to it together.
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
