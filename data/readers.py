"""The way in: finds out which layout a folder has, and checks what the readers only named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.class_folder_reader import read_class_folders
from data.coco_reader import find_coco, read_coco
from data.custom_reader import LABELS_FILE, read_custom
from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.errors import DataError
from data.images import shorter_side
from data.voc_reader import find_voc, read_voc

BATCH = 256  # images a thread takes at a time
LAYOUTS = (
    f"images/ with {LABELS_FILE}, or one folder of images a class, or Pascal VOC (JPEGImages/, ImageSets/, "
    "Annotations/), or COCO (annotations/instances_*.json)"
)


def open_dataset(root: Path | str, skip_bad: bool = False) -> Dataset:
    """Read the data set in a folder, whatever its layout.

    Args:
        root: the folder.
        skip_bad: leave out what names a missing image, with a warning, where the layout lists its images.

    Raises:
        DataError: there is no such folder, no layout fits it, or its files contradict each other.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is no folder: give the folder of a data set ({LAYOUTS})")
    if (root / LABELS_FILE).is_file():
        return read_custom(root, skip_bad=skip_bad)
    if find_coco(root):
        return read_coco(root)
    if (voc := find_voc(root)) is not None:
        return read_voc(voc)
    if (root / "images").is_dir():
        raise DataError(
            f"{root} has images/ but no {LABELS_FILE}: write one with the columns image,labels[,split], or let "
            "'toco init' begin one"
        )
    if not any(path.is_dir() for path in root.iterdir()):
        raise DataError(f"{root} holds no data set: expected {LAYOUTS}")
    return read_class_folders(root)


def read_mask(sample: Sample, size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    """Return the true mask (h, w) of a sample: 0 background, 1..num_classes, 255 ignore.

    Args:
        sample: a sample with a mask.
        size: (h, w) of its image.
        num_classes: number of foreground classes.

    Raises:
        DataError: there is no mask, or it is unreadable, of another size, or has other values.
    """
    if sample.mask is None:
        raise DataError(f"image '{sample.id}' has no mask")
    mask = sample.mask.read()
    if mask.shape != tuple(size):
        raise DataError(
            f"{sample.mask} is {mask.shape[0]} x {mask.shape[1]} (height x width), its image {size[0]} x "
            f"{size[1]}: give the mask the size of the image"
        )
    odd = (mask > num_classes) & (mask != IGNORE_INDEX)
    if odd.any():
        raise DataError(
            f"{sample.mask} has the value {mask[odd][0]} in {odd.sum()} pixels: allowed are 0 (background), "
            f"1 to {num_classes} (classes) and {IGNORE_INDEX} (ignore)"
        )
    return mask


def check_images(
    samples: Sequence[Sample], minimum_side: int, skip_bad: bool = False
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Open the header of every image, and return the usable samples and what is wrong with the others.

    A file that is cut off behind its header passes; reading it later raises.

    Args:
        samples: the samples of a split.
        minimum_side: smallest height and width in pixels.
        skip_bad: return the good ones instead of raising, as long as there are any.

    Raises:
        DataError: an image is missing, unreadable or too small; names the first and counts the others.
    """
    batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        found = list(threads.map(lambda batch: [_problem(sample, minimum_side) for sample in batch], batches))
    by_sample = [problem for batch in found for problem in batch]
    problems = tuple(problem for problem in by_sample if problem is not None)
    good = tuple(sample for sample, problem in zip(samples, by_sample, strict=True) if problem is None)
    if problems and not (skip_bad and good):
        more = f" (and {len(problems) - 1} more of {len(samples)} images)" if len(problems) > 1 else ""
        remedy = "mend or remove it, or go on without it with --skip-bad" if good else "no image is usable"
        raise DataError(f"{problems[0]}{more}: {remedy}")
    return good, problems


def _problem(sample: Sample, minimum_side: int) -> str | None:
    try:
        side = shorter_side(sample.image)
    except DataError as error:
        return str(error)
    if side < minimum_side:
        return f"{sample.image} is too small: its shorter side is {side} pixels, {minimum_side} are needed"
    return None
