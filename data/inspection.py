"""Decode every image and ground-truth mask of a data set and record sizes, digests and problems, but no pixels.

The readers only look at file names; `check_images` reads headers. Damage behind a header is found here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.cores import cores
from data.dataset import Dataset, Sample
from data.errors import DataError
from data.image_files import find_images_and_unread, find_masks
from data.images import FileContents, file_contents, read_image
from data.mask_agreement import distinct_values
from data.mask_folders import MASKS_FOLDER
from data.readers import fitting_mask
from data.small_objects import class_covers
from data.written_folders import written_by_toco

DIGEST_BYTES = 16
MOST_THREADS = 8  # each holds one image, which may be large


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Results for one image and its ground-truth mask.

    Attributes:
        image: The image file.
        size: (h, w) of the upright image in pixels; None if it cannot be read.
        digest: Hash of size and pixels, the same for duplicates; empty if the image cannot be read.
        problem: What is wrong with the image, in one line; None if it is good.
        mask_problem: What is wrong with its ground-truth mask, in one line; None if it is good, if there is no mask, or
            if the image cannot be read.
        mask_values: The values in its ground-truth mask as stored; None if there is no mask or it cannot be read.
        mask_covers: Share of the image that each class in its ground-truth mask covers; empty without a usable mask.
        brightness: Grey values (0..255) that 0.1 % of the pixels are below and above; None if it cannot be read.
        grey_values: Number of different grey values; 0 if it cannot be read.
        contents: What its file has beside the pixels; None if it cannot be read.
    """

    image: Path
    size: tuple[int, int] | None = None
    digest: bytes = b""
    problem: str | None = None
    mask_problem: str | None = None
    mask_values: frozenset[int] | None = None
    mask_covers: Mapping[int, float] = field(default_factory=dict)
    brightness: tuple[int, int] | None = None
    grey_values: int = 0
    contents: FileContents | None = None


@dataclass(frozen=True, kw_only=True)
class UnusedMasks:
    """Images in masks/ that are not used as ground-truth masks, by their paths relative to masks/."""

    other_formats: tuple[str, ...] = ()  # only PNGs are read
    without_image: tuple[str, ...] = ()  # PNGs without an image of the same name


def inspect_samples(samples: Sequence[Sample], num_classes: int) -> Iterator[Inspection]:
    """Yield the inspection of each sample, in order; at most one image per thread is in memory."""
    with ThreadPoolExecutor(min(MOST_THREADS, cores())) as executor:  # Pillow and hashlib release the GIL
        try:
            yield from executor.map(lambda sample: inspect_sample(sample, num_classes), samples)
        finally:  # also after Ctrl-C
            executor.shutdown(wait=False, cancel_futures=True)


def inspect_sample(sample: Sample, num_classes: int) -> Inspection:
    """Decode an image and its ground-truth mask, if any; problems are returned, not raised."""
    try:
        image = read_image(sample.image, rule=sample.pixels)
        contents = file_contents(sample.image)
    except DataError as error:
        return Inspection(image=sample.image, problem=str(error))
    size = (image.height, image.width)
    histogram = np.asarray(image.convert("L").histogram())
    mask_problem = mask_values = None
    covers: dict[int, float] = {}
    if sample.mask is not None:
        try:
            mask = sample.mask.read()
            mask_values = distinct_values(mask)
            covers = class_covers(fitting_mask(mask, sample, size, num_classes))
        except DataError as error:
            mask_problem = str(error)
    return Inspection(
        image=sample.image,
        size=size,
        digest=_digest(image),
        mask_problem=mask_problem,
        mask_values=mask_values,
        mask_covers=covers,
        brightness=_brightness(histogram),
        grey_values=int(np.count_nonzero(histogram)),
        contents=contents,
    )


def find_unused_masks(dataset: Dataset) -> UnusedMasks:
    """List the images in masks/ that are not used.

    Raises:
        DataError: A folder cannot be listed.
    """
    folder = dataset.root / MASKS_FOLDER
    if dataset.layout not in ("custom", "class_folders") or written_by_toco(folder) or not folder.is_dir():
        return UnusedMasks()
    known = dataset.by_id()
    if dataset.layout == "class_folders" and any(
        name.startswith(f"{MASKS_FOLDER}/") for name in known
    ):  # it is a class
        return UnusedMasks()
    return UnusedMasks(
        other_formats=tuple(
            name for files in find_images_and_unread(folder) for name in files if not name.lower().endswith(".png")
        ),
        without_image=tuple(
            str(mask.path.relative_to(folder)) for name, mask in find_masks(folder).items() if name not in known
        ),
    )


def _brightness(histogram: NDArray[np.int64]) -> tuple[int, int]:
    counts = np.cumsum(histogram)
    low, high = np.searchsorted(counts, [counts[-1] / 1000, counts[-1] * 0.999])
    return int(low), int(high)


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.width} x {image.height}".encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return digest.digest()
