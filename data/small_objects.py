"""Objects that are too small for the network: they cover few of its patches, so that its maps hardly show them.

Ground-truth masks tell how large the objects of a class are; without them, pseudo masks tell what was found of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from data.dataset import IGNORE_INDEX, Mask

# A class that covers fewer patches of an image in the median is small. Two by two patches are the least that can have
# an inside; a map is bilinear between the patches.
FEW_PATCHES = 4.0
LARGER = (
    "train with a larger --image-size, cut large images with 'toco tile' first, or make masks without CAMs "
    "(make-labels --relabel mil)"
)
LARGER_FEATURES = "make masks with a larger --feature-size, or cut large images with 'toco tile' first"


def class_covers(mask: Mask) -> dict[int, float]:
    """Return the share of the image that each class in a mask covers, 0..1."""
    counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
    return {int(number): float(counts[number] / mask.size) for number in np.flatnonzero(counts) if 0 < number < 255}


def median_covers(masks: Iterable[Mapping[int, float]], class_names: Sequence[str]) -> dict[str, float]:
    """Return the median share of an image that each class covers, 0..1, over the masks that show it.

    Args:
        masks: What `class_covers` returns for each mask.
        class_names: Names of the classes 1..C; other numbers are left out.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for covers in masks:
        for number, cover in covers.items():
            if number <= len(class_names):
                found[class_names[number - 1]].append(cover)
    return {name: median(values) for name, values in found.items()}


def patches_covered(cover: float, image_size: int, patch_size: int) -> float:
    """Return how many patches of the network's square input an object covers that has a share of the image."""
    return cover * (image_size / patch_size) ** 2


def describe_small(covers: Mapping[str, float], image_size: int, patch_size: int, verb: str = "covers") -> list[str]:
    """Describe the classes that are too small, the smallest first; empty if there are none.

    Args:
        covers: The median share of an image that each class covers.
        image_size: Side of the network's square input in pixels.
        patch_size: Side of a patch in pixels.
        verb: "was found on" for what pseudo masks show.
    """
    return [
        f"{name} {verb} {100 * cover:.2g} % of an image in the median, {patches:.2g} patches of {patch_size} pixels at "
        f"--image-size {image_size}"
        for name, cover in sorted(covers.items(), key=lambda item: item[1])
        if (patches := patches_covered(cover, image_size, patch_size)) < FEW_PATCHES
    ]
