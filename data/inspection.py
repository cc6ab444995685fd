"""Reads every picture of a data set whole, as no reader does, and keeps what it showed, never the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.cores import cores
from data.dataset import Dataset, Sample
from data.errors import DataError
from data.images import find_images, find_masks, read_image
from data.readers import read_mask

DIGEST_BYTES = 16
MOST_THREADS = 8  # each holds a picture, which may be large


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What one image and its true mask showed.

    Attributes:
        image: the image file.
        size: (h, w) in pixels, upright; None where the image cannot be read.
        digest: the same for pictures of the same size and pixels; empty where the image cannot be read.
        problem: what is wrong with the image, in one line.
        mask_problem: what is wrong with its true mask, in one line; not looked for without a readable image.
    """

    image: Path
    size: tuple[int, int] | None = None
    digest: bytes = b""
    problem: str | None = None
    mask_problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class UnusedMasks:
    """Pictures in masks/ that no image gets as its true mask, by their paths below it."""

    other_formats: tuple[str, ...] = ()  # only PNG is read
    without_image: tuple[str, ...] = ()  # a PNG that no image is named like


def inspect_samples(samples: Sequence[Sample], num_classes: int) -> Iterator[Inspection]:
    """Yield what each image and its true mask show, in the samples' order; memory holds one picture a thread."""
    with ThreadPoolExecutor(min(MOST_THREADS, cores())) as executor:  # Pillow and hashlib let other threads work
        try:
            yield from executor.map(lambda sample: inspect_sample(sample, num_classes), samples)
        finally:  # after Ctrl-C, too
            executor.shutdown(wait=False, cancel_futures=True)


def inspect_sample(sample: Sample, num_classes: int) -> Inspection:
    """Decode an image and its true mask, if it has one; nothing is raised for bad ones."""
    try:
        picture = read_image(sample.image)
    except DataError as error:
        return Inspection(image=sample.image, problem=str(error))
    size = (picture.height, picture.width)
    mask_problem = None
    if sample.mask is not None:
        try:
            read_mask(sample, size, num_classes)
        except DataError as error:
            mask_problem = str(error)
    return Inspection(image=sample.image, size=size, digest=_digest(picture), mask_problem=mask_problem)


def find_unused_masks(dataset: Dataset) -> UnusedMasks:
    """Look through masks/ of a data set for pictures that are not used.

    Raises:
        DataError: a folder cannot be listed.
    """
    folder = dataset.root / "masks"
    if dataset.layout not in ("custom", "class_folders") or not folder.is_dir():
        return UnusedMasks()
    known = dataset.by_id()
    return UnusedMasks(
        other_formats=tuple(name for name in find_images(folder) if not name.lower().endswith(".png")),
        without_image=tuple(
            str(mask.path.relative_to(folder)) for name, mask in find_masks(folder).items() if name not in known
        ),
    )


def _digest(picture: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{picture.width} x {picture.height}".encode(), digest_size=DIGEST_BYTES)
    digest.update(picture.tobytes())
    return digest.digest()
