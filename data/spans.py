"""Overlapping windows along an axis, and which pixels each of them decides."""

from itertools import pairwise
from typing import NamedTuple

OVERLAP = 4  # by default, neighbouring windows share 1/OVERLAP of their side


class Span(NamedTuple):
    """A window along one axis, in pixels of the image: the pixels that it sees, and the part of them that it labels."""

    seen: slice
    kept: slice

    @property
    def kept_of_seen(self) -> slice:
        """The labelled pixels, relative to the window's first pixel."""
        return slice(self.kept.start - self.seen.start, self.kept.stop - self.seen.start)


def spans(length: int, side: int, overlap: int | None = None) -> list[Span]:
    """Place windows of `side` pixels along an axis of `length` pixels; their labelled parts cover it exactly once.

    Each pixel is labelled by the window in which it is farthest from the border. The last window ends with the axis. An
    axis that is not longer than a window gets one window of its own length.

    Args:
        length: Pixels of the axis.
        side: Pixels of a window.
        overlap: Pixels that neighbouring windows share, less than `side`; by default 1/OVERLAP of the side.
    """
    step = side - (side // OVERLAP if overlap is None else overlap)
    starts = [*range(0, length - side, step), max(0, length - side)]
    # Cut half-way between the centres of neighbouring windows.
    cuts = [0, *((left + right + side) // 2 for left, right in pairwise(starts)), length]
    return [
        Span(seen=slice(start, min(start + side, length)), kept=slice(*kept))
        for start, kept in zip(starts, pairwise(cuts), strict=True)
    ]
