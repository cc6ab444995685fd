"""Polygons in the pixels of an image: how much of them lies in a tile.

A ring is an array (n, 2) of x, y in pixels, from the image's upper left corner; its last point is joined to its first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]


class Box(NamedTuple):
    """A rectangle in pixels, half open."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return float((self.right - self.left) * (self.bottom - self.top))

    @property
    def size(self) -> str:
        """Width and height for messages."""
        return f"{self.right - self.left:g} x {self.bottom - self.top:g}"

    def touches(self, other: "Box") -> bool:
        """Tell whether two boxes have a point in common."""
        return (
            self.left <= other.right
            and other.left <= self.right
            and self.top <= other.bottom
            and other.top <= self.bottom
        )

    def ring(self) -> Ring:
        """Return the corners."""
        left, top, right, bottom = self
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


class Shape(NamedTuple):
    """One object or region: the outer ring of a polygon and its holes. A ring of one point is a point."""

    rings: tuple[Ring, ...]

    def area(self, box: Box | None = None) -> float:
        """Area in square pixels, of the whole or of the part in a box."""
        outer, *holes = self.rings
        return ring_area(outer, box) - sum(ring_area(hole, box) for hole in holes)

    def bounds(self) -> Box:
        """Return the smallest box around it."""
        outer = self.rings[0]
        return Box(*outer.min(axis=0).tolist(), *outer.max(axis=0).tolist())

    def share_in(self, box: Box) -> float:
        """Return the share of the shape that lies in a box, 0..1; of a shape without area, that of its points."""
        whole = self.area()
        if whole > 0:
            return min(1.0, self.area(box) / whole)
        points = self.rings[0]
        inside = (points >= box[:2]).all(axis=1) & (points < box[2:]).all(axis=1)
        return float(inside.mean())


def ring_area(ring: Ring, box: Box | None = None) -> float:
    """Area inside a ring in square pixels, of the whole or of the part in a box (Sutherland and Hodgman, 1974).

    The clipped ring of a concave one may run along the border of the box twice, which adds no area.
    """
    points = ring if box is None else _clipped(ring, box)
    if len(points) < 3:
        return 0.0
    # Relative to a corner: products of large coordinates would lose the digits of a small area.
    x, y = (points - points[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _clipped(ring: Ring, box: Box) -> Ring:
    for axis, limit, sign in ((0, box.left, 1), (0, box.right, -1), (1, box.top, 1), (1, box.bottom, -1)):
        if not len(ring):
            break
        inside = sign * (ring[:, axis] - limit)  # >= 0 inside
        if (inside >= 0).all():
            continue
        ring = _cut(ring, inside)
    return ring


def _cut(ring: Ring, inside: NDArray[np.float64]) -> Ring:
    """Keep the points whose `inside` is not negative, and add those where an edge crosses zero."""
    following, inside_of_following = np.roll(ring, -1, axis=0), np.roll(inside, -1)
    crosses = (inside >= 0) != (inside_of_following >= 0)
    share = np.divide(inside, inside - inside_of_following, out=np.zeros_like(inside), where=crosses)
    crossing = ring + share[:, None] * (following - ring)
    both = np.stack([ring, crossing], axis=1)  # (n, 2, 2): a point, then the crossing behind it
    kept: Sequence[NDArray[np.bool_]] = (inside >= 0, crosses)
    return both[np.stack(kept, axis=1)]
