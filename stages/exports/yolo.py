"""`--format yolo`: polygons for the segmentation networks of the YOLO family.

The folders are those of yolo_folder.py. A label file has one line per polygon: the class from 0, then x y x y ... from
0 to 1. The package supervision draws the outlines: they run through the centres of the border pixels and are not
simplified. A seam joins each hole to the outline; it runs to the hole and back, and encloses no area. Ignored pixels
(255) belong to no polygon, so trainers take them for background.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from supervision.dataset.utils import approximate_mask_with_polygons

from stages.exports.components import Component, components
from stages.exports.labelled_images import LabelledImage, LabelledImages
from stages.exports.yolo_folder import write_yolo_folder

# Polygon corners are integer pixel positions, and a label file divides them by the width or height. A reader multiplies
# again, and then either rounds or truncates. With a quarter of a pixel added, both give the same integer.
SHIFT = 0.25

Points = NDArray[np.number[Any]]  # (n, 2): x, y in pixels


class Polygon(NamedTuple):
    """One line of a label file."""

    class_number: int  # 1..C
    points: Points  # (n, 2), n >= 3

    def line(self, shape: tuple[int, ...]) -> str:
        """Format the polygon relative to an image of shape (h, w)."""
        height, width = shape
        relative = (self.points + SHIFT) / (width, height)
        return " ".join([str(self.class_number - 1), *(f"{number:.6f}" for number in relative.ravel())])


class Polygons(NamedTuple):
    """The polygons of some regions."""

    drawn: list[Polygon]
    lost: int  # single pixels and straight lines one pixel wide, which have fewer than three corners


def export_yolo(images: LabelledImages, out: Path) -> list[Path]:
    """Write the polygons, copies of the images, and data.yaml; return the files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    lost = 0

    def lines(image: LabelledImage, objects: list[Component]) -> list[str]:
        nonlocal lost
        polygons = region_polygons(objects)
        lost += polygons.lost
        return [polygon.line(image.mask.shape) for polygon in polygons.drawn]

    files = write_yolo_folder(images, out, lines)
    if lost:
        images.monitor.note(f"specks and thin lines left out, because a polygon needs at least three corners: {lost}")
    return files


def region_polygons(regions: Iterable[Component]) -> Polygons:
    """Outline connected regions. The filled polygons cover the same pixels."""
    drawn: list[Polygon] = []
    lost = 0
    for region in regions:
        for points in outlines(region.pixels):
            if len(points):
                drawn.append(Polygon(region.class_number, points + np.array([region.left, region.top])))
            else:
                lost += 1
    return Polygons(drawn, lost)


def outlines(pixels: NDArray[np.bool_]) -> Iterator[Points]:
    """Outline one connected component (h, w): arrays (n, 2) of x, y in pixels.

    The component is cut in two if no straight seam inside it joins a hole to the outline (one in a thousand very ragged
    components). A component or piece with fewer than three corners gives an empty array.
    """
    try:
        polygons = approximate_mask_with_polygons(pixels, approximation_percentage=0.0, bridge_holes=True)
    except ValueError:  # no seam was found
        yield from _outlines_of_halves(pixels)
        return
    yield from polygons or [np.empty((0, 2), dtype=np.int32)]


def _outlines_of_halves(pixels: NDArray[np.bool_]) -> Iterator[Points]:
    height, width = pixels.shape
    axis, middle = (1, width // 2) if width >= height else (0, height // 2)
    for half, start in zip(np.split(pixels, [middle], axis=axis), (0, middle), strict=True):
        left, top = (start, 0) if axis == 1 else (0, start)
        for piece in components(half.astype(np.uint8)):
            for points in outlines(piece.pixels):
                yield points + np.array([left + piece.left, top + piece.top])
