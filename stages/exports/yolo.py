"""`--format yolo`: polygons as YOLO programs train on.

    images/<split>/<name>.<extension>       copies of the images, byte for byte
    labels/<split>/<name>.txt               a line a patch: class from 0, then x y x y ... from 0 to 1
    data.yaml                               where these are, and the classes' names

Names are flat, see flat_names.py. Outlines come from supervision: they run through the centres of the border's pixels
and are not simplified. A hole is joined to the outline by a seam that goes there and back and encloses nothing. Ignored
pixels (255) belong to no polygon, which trainers take for background.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from supervision.dataset.utils import approximate_mask_with_polygons

from data.atomic_write import atomic_write
from stages.exports.components import components
from stages.exports.flat_names import flat_name
from stages.exports.labelled_images import LabelledImages

# supervision and OpenCV write the numbers of pixels (0, 1, ...) over the width or height. Rounding readers get the same
# number back from a point a quarter of a pixel further on, and so do those that cut off what is behind the point.
SHIFT = 0.25

NO_OTHER_SPLIT = "# 'val' must name something: put images with true masks there to measure on.\n"


Points = NDArray[np.number[Any]]  # (n, 2): x, y in pixels


class Polygon(NamedTuple):
    """One line of a label file."""

    class_number: int  # 1..C
    points: Points  # at least three

    def line(self, shape: tuple[int, ...]) -> str:
        """Write it, relative to an image of shape (h, w)."""
        height, width = shape
        relative = (self.points + SHIFT) / (width, height)
        return " ".join([str(self.class_number - 1), *(f"{number:.6f}" for number in relative.ravel())])


class Polygons(NamedTuple):
    """What a mask gives."""

    drawn: list[Polygon]
    lost: int  # pixels and straight lines of one pixel's width have no polygon


def export_yolo(images: LabelledImages, out: Path) -> list[Path]:
    """Write labels, copies of the images and data.yaml; returns the files."""
    files = []
    lost = 0
    split = flat_name(images.split)
    for image in images:
        name = flat_name(image.id)
        picture = out / "images" / split / f"{name}{image.file.suffix}"
        label = out / "labels" / split / f"{name}.txt"
        polygons = mask_polygons(image.mask)
        lost += polygons.lost
        with atomic_write(picture) as temporary:
            shutil.copyfile(image.file, temporary)
        with atomic_write(label) as temporary:
            lines = [f"{polygon.line(image.mask.shape)}\n" for polygon in polygons.drawn]
            temporary.write_text("".join(lines), encoding="utf-8")
        files += [picture, label]
    if lost:
        images.monitor.note(f"left out, since less than three corners are no polygon: {lost} specks and thin lines")
    content = {
        "train": f"images/{split}",
        "val": f"images/{split}",
        "names": dict(enumerate(images.class_names)),
    }
    with atomic_write(out / "data.yaml") as temporary:
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        temporary.write_text(NO_OTHER_SPLIT + text, encoding="utf-8")
    return [*files, out / "data.yaml"]


def mask_polygons(mask: NDArray[np.uint8]) -> Polygons:
    """Outline the connected patches of a mask (h, w); drawn and filled, the polygons cover the same pixels."""
    drawn: list[Polygon] = []
    lost = 0
    for component in components(mask):
        for points in outlines(component.pixels):
            if len(points):
                drawn.append(Polygon(component.class_number, points + np.array([component.left, component.top])))
            else:
                lost += 1
    return Polygons(drawn, lost)


def outlines(pixels: NDArray[np.bool_]) -> Iterator[Points]:
    """Outline one connected patch (h, w) by x, y in pixels, shape (n, 2).

    Where no straight seam leads from a hole to the outline without leaving the patch (one in a thousand of very ragged
    ones), it is cut in two. What has no polygon, a whole patch or a piece that was cut off, gives an empty array.
    """
    try:
        polygons = approximate_mask_with_polygons(pixels, approximation_percentage=0.0, bridge_holes=True)
    except ValueError:  # no such seam
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
