"""The objects in masks, with their scores: connected components of a class, where touching objects are separated.

A component is cut by a watershed that starts at the peaks of a height map:

    distance    the distance to the component's border: objects that touch are joined by a neck
    cam         the CAM of the class: each object has a peak of its own

A second peak counts only if the saddle between it and the higher peak is clearly lower than the peak itself. An object
that is cut in two is as wrong as two that are merged. What each map is worth on pictures whose objects are known is in
bench/instances.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from stages.exports.components import NEIGHBOURS, Component, components, cropped
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


class Instance(NamedTuple):
    """One object."""

    region: Component
    score: float | None  # 0..1; None if the run has no map of its class

    @property
    def class_number(self) -> int:
        """The class, 1..C."""
        return self.region.class_number


@dataclass
class InstanceFinder:
    """Finds the objects of the images' masks, and counts what it separated."""

    separation: Separation
    cams: LabelFile
    scores: LabelFile | None
    found: int = 0
    cut: int = 0  # components that were cut

    @classmethod
    def of(cls, images: LabelledImages) -> "InstanceFinder":
        """Open the maps beside the masks."""
        folder = images.labels.path.parent
        scores = folder / "scores.h5"
        return cls(
            separation=images.separation,
            cams=LabelFile(folder / "cams.h5", "cams"),
            scores=LabelFile(scores, "scores") if scores.is_file() else None,
        )

    def __call__(self, image: LabelledImage) -> list[Instance]:
        """Return the objects of one mask, sorted by class."""
        evidence = class_maps(self.cams if self.scores is None else self.scores, image)
        cams = class_maps(self.cams, image) if self.separation == "cam" else {}
        objects: list[Instance] = []
        for whole in components(image.mask):
            parts = separate(whole, self.separation, cams.get(whole.class_number))
            self.cut += len(parts) > 1
            of_class = evidence.get(whole.class_number)
            objects += [Instance(one, None if of_class is None else mean_inside(of_class, one)) for one in parts]
        self.found += len(objects)
        return objects

    @property
    def summary(self) -> str:
        """One line: how many objects there are and how they were separated."""
        cut = "" if self.separation == "components" else f", {self.cut} components cut"
        return f"{self.found} objects: {HOW[self.separation]}{cut}"

    @property
    def score_text(self) -> str:
        """What the score of an object is."""
        return (
            f"mean {'CAM' if self.scores is None else 'probability'} of the class in the object, 0 to 1; it ranks "
            "objects, and is no measured probability"
        )


def class_maps(file: LabelFile, image: LabelledImage) -> dict[int, Map]:
    """Read the maps (h, w) of an image's classes, 0..1, by class; none for an image that the file lacks."""
    if image.id not in file:
        return {}
    from stages.labels.stored_cams import read_cam  # imports torch

    maps = read_cam(file, image.id, image.mask.shape).numpy()
    return dict(zip(file.classes(image.id), maps, strict=True))


def mean_inside(values: Map, region: Component) -> float:
    """Average a map (h, w) of the image over the pixels of a region."""
    return float(values[region.window][region.pixels].mean())


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
        # Nobody knows what the border of the image cuts off: it counts as a border of the object.
        heights = ndimage.distance_transform_edt(np.pad(whole.pixels, 1))[1:-1, 1:-1]
        parts = cut_at_saddles(whole.pixels, heights, PERSISTENCE, DISTANCE_ERROR)
        if not all(part.sum() <= LARGEST_SPREAD * np.pi * heights[part].max() ** 2 for part in parts):
            return [whole]
    else:
        heights = np.where(whole.pixels, cam[whole.window], 0)
        parts = cut_at_saddles(whole.pixels, heights, PERSISTENCE)
    return [cropped(whole, part) for part in parts] if len(parts) > 1 else [whole]


def cut_at_saddles(
    pixels: NDArray[np.bool_], heights: Map, persistence: float, error: float = 0.0
) -> list[NDArray[np.bool_]]:
    """Cut a region into one part for each clear peak of a height map.

    Args:
        pixels: The region (h, w), connected.
        heights: Heights (h, w), 0 or more.
        persistence: A peak counts if the saddle to a higher one is lower than it by more than this share of the peak.
        error: And by this much more.

    Returns:
        Disjoint parts (h, w) that cover the region.
    """
    # Lowered and rebuilt under the map, a peak that is not clear becomes part of the slope or plateau of another.
    lowered = reconstruction(np.maximum(heights * (1 - persistence) - error, 0), heights, footprint=NEIGHBOURS)
    peaks, count = ndimage.label(local_maxima(lowered, connectivity=2) & pixels, NEIGHBOURS)
    while count > 1:
        parts = watershed(-heights, peaks, mask=pixels, connectivity=2)
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        large = 1 + np.flatnonzero(areas >= SMALLEST_PART * areas.max())
        if len(large) == count:
            return [parts == number for number in range(1, count + 1)]
        peaks, count = ndimage.label(np.where(np.isin(peaks, large), peaks, 0) > 0, NEIGHBOURS)
    return [pixels]
