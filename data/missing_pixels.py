"""Pixels without a value: what a file names as nodata, NaN, or hides by a mask or alpha. Masks are 255 there, ignored.

Transparent pixels of other pictures than TIFF have a value: they are shown on white.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from PIL import Image

from data.band_files import StoredBands, image_shape, is_tiff
from data.dataset import IGNORE_INDEX, Mask
from data.errors import DataError, reason
from data.images import band_layout, lacks_value, read_stored
from data.pixel_rule import PixelRule


def missing_pixels(image: Path | Image.Image | NDArray[Any], rule: PixelRule) -> Bool[np.ndarray, "h w"] | None:
    """Return where an image has no value in any band that networks get; None if each pixel has one.

    Args:
        image: A file, upright as `read_pixels` reads it, or an image in memory as `as_pixels` takes it.
        rule: How networks get the values.

    Raises:
        DataError: The file is missing or damaged.
    """
    if isinstance(image, Path):
        if not may_have_missing_pixels(image, rule):
            return None
        stored = read_stored(image)
    elif rule.bands and isinstance(image, np.ndarray):
        stored = StoredBands(values=image.reshape(image_shape(image.shape, image.dtype)))
    else:
        return None
    colours = range(1, 1 + min(3, stored.values.shape[2] - stored.alpha))
    numbers = [band.number for band in rule.bands] or colours
    missing = np.logical_and.reduce([lacks_value(stored, number, rule) for number in numbers])
    return missing if missing.any() else None


def may_have_missing_pixels(image: Path, rule: PixelRule) -> bool:
    """Whether pixels have to be decoded to know; in most files the header says that each pixel has a value.

    Raises:
        DataError: The file is missing or damaged.
    """
    return (bool(rule.bands) or _has_tiff_contents(image)) and band_layout(image).gaps


def _has_tiff_contents(image: Path) -> bool:
    try:
        return is_tiff(image)
    except OSError as error:
        raise DataError(f"{image} cannot be read: {reason(error)}") from error


def without_missing_pixels(mask: Mask, image: Path | Image.Image | NDArray[Any], rule: PixelRule) -> Mask:
    """Return the mask of an image with 255 where the image has no value; the mask itself if each pixel has one.

    Raises:
        DataError: The file is missing, is damaged, or has another size than the mask.
    """
    missing = missing_pixels(image, rule)
    if missing is None:
        return mask
    if missing.shape != mask.shape:
        raise DataError(
            f"{image} has {missing.shape[1]} x {missing.shape[0]} pixels, its mask {mask.shape[1]} x {mask.shape[0]}: "
            "the image was replaced since the mask was made"
        )
    return np.where(missing, np.uint8(IGNORE_INDEX), mask)


def describe_missing_pixels(ids: Collection[str], done: str) -> str | None:
    """Say how many images have pixels without a value; None if none has.

    Args:
        ids: These images.
        done: What was done with them: 'labelled' or 'predicted'.
    """
    if not ids:
        return None
    has = "has" if len(ids) == 1 else "have"
    return (
        f"{len(ids)} of the images {done} now {has} pixels without a value (NaN, nodata or transparent), which are 255 "
        "in the masks"
    )
