"""The objects in masks, and their scores: connected components of a class, where touching objects are separated.

A component is cut by a watershed that starts at the peaks of a height map:

    distance    the distance to the component's border: objects that touch are joined by a neck
    cam         the CAM of the class: each object has a peak of its own

A second peak counts only if the saddle between it and the higher peak is clearly lower than the peak itself. An object
that is cut in two is as wrong as two that are merged. What each map is worth on pictures whose objects are known is in
bench/instances.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from stages.exports.components import NEIGHBOURS, Component, components, numbered
from stages.exports.labelled_images import LabelledImage, LabelledImages, Separation
from stages.labels.store import LabelFile

# A peak is an object of its own if the saddle to a higher one is lower by this share of the peak. Of 0.1, 0.2 and 0.3,
# the value that did no harm to the demo's pictures of seed 0; bench/instances.md reports on those of seed 1.
PERSISTENCE = 0.3
SMALLEST_PART = 0.2  # of the area of the largest part; a smaller one is a piece of its neighbour, such as a tail
# Not chosen by measurement. Distances are exact to about one pixel: thin objects have no necks.
DISTANCE_ERROR = 1.0
# Area of the part by that of the largest disc in it. A disc has 1, a rectangle of 2:1 has 2.5, one of 4:1 has 5.1. A
# longer part is a piece of a road or a scratch, whose width varies: nothing is cut there.
LARGEST_SPREAD = 4.0

HOW: Mapping[Separation, str] = {
    "distance": "watershed on the distance to the border",
    "cam": "watershed on the CAM",
    "components": "connected components, touching objects are one",
}
Map = NDArray[np.floating[Any]]


@dataclass
class InstanceFinder:
    """Finds the objects of the images' masks, and counts what it separated and left out."""

    separation: Separation
    cams: LabelFile | None  # if objects are separated by them
    min_area: int  # pixels
    found: int = 0
    cut: int = 0  # components that were cut
    specks: int = 0  # pieces smaller than that, which are no objects
    lost: int = 0  # images in which a class has smaller pieces alone

    @classmethod
    def of(cls, images: LabelledImages) -> "InstanceFinder":
        """Open the CAMs beside the masks, if they are needed."""
        cams = LabelFile(images.labels.path.parent / "cams.h5", "cams") if images.separation == "cam" else None
        return cls(separation=images.separation, cams=cams, min_area=images.min_area)

    def __call__(self, image: LabelledImage) -> list[Component]:
        """Return the objects of one mask, sorted by class."""
        cams = class_maps(self.cams, image) if self.cams else {}
        objects: list[Component] = []
        shown = set()
        for whole in components(image.mask):
            shown.add(whole.class_number)
            parts = separate(whole, self.separation, cams.get(whole.class_number))
            self.cut += len(parts) > 1
            large = [one for one in parts if one.area >= self.min_area]
            self.specks += len(parts) - len(large)
            objects += large
        self.found += len(objects)
        self.lost += shown != {one.class_number for one in objects}
        return objects

    @property
    def summary(self) -> str:
        """One line: how many objects there are, how they were separated, and what was left out."""
        cut = "" if self.separation == "components" else f", {self.cut} components cut"
        specks = f"; pieces of fewer than {self.min_area} pixels left out (--min-area): {self.specks}"
        if self.lost:
            specks += f"; images that lost all objects of a class: {self.lost}"
        return f"{self.found} objects: {HOW[self.separation]}{cut}{specks if self.specks else ''}"


def open_score_maps(images: LabelledImages) -> LabelFile:
    """Open the maps that the masks were made from: relabelled scores if there are any, else CAMs."""
    folder = images.labels.path.parent
    relabelled = folder / "scores.h5"
    return LabelFile(relabelled, "scores") if relabelled.is_file() else LabelFile(folder / "cams.h5", "cams")


def mean_scores(file: LabelFile, image: LabelledImage, objects: Sequence[Component]) -> list[float | None]:
    """Average the map of its class over each object, 0..1; None if the file has no map of the class for the image."""
    maps = class_maps(file, image)
    return [
        float(maps[one.class_number][one.window][one.pixels].mean()) if one.class_number in maps else None
        for one in objects
    ]


def class_maps(file: LabelFile, image: LabelledImage) -> dict[int, Map]:
    """Read the maps (h, w) of an image's classes, 0..1, by class; none for an image that the file lacks."""
    if image.id not in file:
        return {}
    from stages.labels.stored_cams import read_cam  # imports torch

    maps = read_cam(file, image.id, image.mask.shape).numpy()
    return dict(zip(file.classes(image.id), maps, strict=True))


def separate(whole: Component, separation: Separation, cam: Map | None = None) -> list[Component]:
    """Cut a component into the objects of which there is evidence.

    Args:
        whole: The component.
        separation: The height map.
        cam: CAM (h, w) of the component's class in the image, 0..1; without one, nothing is cut by it.

    Returns:
        The objects, or the component alone.
    """
    if separation == "components" or (separation == "cam" and cam is None):
        return [whole]
    if separation == "distance" or cam is None:
        # What the border of the image cuts off is not known: it counts as a border of the object.
        heights = ndimage.distance_transform_edt(np.pad(whole.pixels, 1))[1:-1, 1:-1]
        parts = cut_at_saddles(whole.pixels, heights, PERSISTENCE, DISTANCE_ERROR)
        radii = ndimage.maximum(heights, parts, np.arange(1, parts.max() + 1))
        if (np.bincount(parts.ravel())[1:] > LARGEST_SPREAD * np.pi * radii**2).any():
            return [whole]
    else:
        heights = np.where(whole.pixels, cam[whole.window], 0)
        parts = cut_at_saddles(whole.pixels, heights, PERSISTENCE)
    return list(numbered(parts, whole.class_number, whole.top, whole.left))


def cut_at_saddles(
    pixels: NDArray[np.bool_], heights: Map, persistence: float, error: float = 0.0
) -> NDArray[np.int32]:
    """Cut a region into one part for each clear peak of a height map.

    Args:
        pixels: The region (h, w), connected.
        heights: Heights (h, w), 0 or more.
        persistence: A peak counts if the saddle to a higher one is lower than it by more than this share of the peak.
        error: And by this much more.

    Returns:
        The number of each pixel's part (h, w), from 1; 0 outside the region.
    """
    # Lowered and rebuilt under the map, a peak that is not clear becomes part of the slope or plateau of another.
    lowered = np.maximum(heights * (1 - persistence) - error, 0)
    alone = pixels.astype(np.int32)
    if lowered.max() <= heights[pixels].min():  # no saddle is low enough; spares specks the work
        return alone
    lowered = reconstruction(lowered, heights, footprint=NEIGHBOURS)
    peaks, count = ndimage.label(local_maxima(lowered, connectivity=2) & pixels, NEIGHBOURS)
    while count > 1:
        parts: NDArray[np.int32] = watershed(-heights, peaks, mask=pixels, connectivity=2)
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        large = 1 + np.flatnonzero(areas >= SMALLEST_PART * areas.max())
        if len(large) == count:
            return parts
        peaks, count = ndimage.label(np.where(np.isin(peaks, large), peaks, 0) > 0, NEIGHBOURS)
    return alone
