"""`--format yolo`: polygons for the training programs of the YOLO family.

    images/<split>/<name>.<extension>       copies of the images; byte for byte, unless EXIF rotates them
    labels/<split>/<name>.txt               one line per polygon: class from 0, then x y x y ... from 0 to 1
    data.yaml                               the folders and the class names

Each <name> is a flat name, see flat_names.py. The package supervision draws the outlines: they run through the centres
of the border pixels and are not simplified. A seam joins each hole to the outline; it runs to the hole and back, and
encloses no area. Ignored pixels (255) belong to no polygon, so trainers take them for background.
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
from data.images import is_rotated
from stages.exports.components import components
from stages.exports.flat_names import flat_name
from stages.exports.labelled_images import LabelledImages
from stages.exports.upright_images import JPEG_QUALITY, save_upright

# Polygon corners are integer pixel positions, and a label file divides them by the width or height. A reader multiplies
# again, and then either rounds or truncates. With a quarter of a pixel added, both give the same integer.
SHIFT = 0.25

VAL_COMMENT = "# 'val' is required, so it repeats 'train': replace it by images with ground-truth masks.\n"

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
    """The polygons of one mask."""

    drawn: list[Polygon]
    lost: int  # single pixels and straight lines one pixel wide, which have fewer than three corners


def export_yolo(images: LabelledImages, out: Path) -> list[Path]:
    """Write the labels, copies of the images, and data.yaml; return the files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    files = []
    lost = turned = 0
    split = flat_name(images.split)
    for image in images:
        name = flat_name(image.id)
        picture = out / "images" / split / f"{name}{image.file.suffix}"
        label = out / "labels" / split / f"{name}.txt"
        polygons = mask_polygons(image.mask)
        lost += polygons.lost
        rotated = is_rotated(image.file)
        turned += rotated
        with atomic_write(picture) as temporary:
            if rotated:
                save_upright(image.file, temporary, picture.suffix, image.pixels)
            else:
                shutil.copyfile(image.file, temporary)
        with atomic_write(label) as temporary:
            lines = [f"{polygon.line(image.mask.shape)}\n" for polygon in polygons.drawn]
            temporary.write_text("".join(lines), encoding="utf-8")
        files += [picture, label]
    if lost:
        images.monitor.note(f"specks and thin lines left out, because a polygon needs at least three corners: {lost}")
    if turned:
        images.monitor.note(
            f"saved upright, because not all loaders apply the rotation in EXIF (JPEG quality {JPEG_QUALITY}): "
            f"{turned} of {len(images.samples)} images"
        )
    content = {
        "train": f"images/{split}",
        "val": f"images/{split}",
        "names": dict(enumerate(images.class_names)),
    }
    with atomic_write(out / "data.yaml") as temporary:
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        temporary.write_text(VAL_COMMENT + text, encoding="utf-8")
    return [*files, out / "data.yaml"]


def mask_polygons(mask: NDArray[np.uint8]) -> Polygons:
    """Outline the connected components of a mask (h, w). The filled polygons cover the same pixels."""
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
