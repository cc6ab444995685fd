"""Image files: read any image as RGB and any mask as class numbers, and list the images and masks in a folder."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from data.errors import DataError, reason
from data.file_kinds import FORMAT_NAMES, IMAGE_FORMATS, IMAGE_SUFFIXES, PROGRAM_OF, conversion_advice, suffix_of
from data.written_folders import written_by_toco

# `read_reduced` does not resize images that are larger than asked for by less than this factor: that would cost more
# time than it saves. Photographs of 4032 pixels, usual for phones, leave the JPEG decoder with 1008.
REDUCTION_TOLERANCE = 1.25

# Pillow refuses images above some number of pixels, to protect servers from 'decompression bombs'. Here the files are
# the user's own, and satellite and microscope images exceed the limit. It is therefore switched off in this process.
Image.MAX_IMAGE_PIXELS = None

# EXIF orientation -> operation that turns the stored pixels upright. Cameras store the pixels as the sensor reads them,
# and note how the camera was held. Orientation 1 is upright; 5 to 8 swap width and height.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Return the image in RGB as an image viewer shows it.

    The EXIF orientation is applied. Palette and grey images become RGB, transparent pixels white, 16 bits are scaled to
    8. If a file has several images, the first one is read.

    Args:
        path: The file.
        at_least: Number of pixels on the longer side that is sufficient. If a JPEG has this many at a half, a quarter
            or an eighth of its size, it is decoded at the smallest such size, sides rounded up, which is faster than
            decoding all pixels. Other formats are always decoded at full size.

    Raises:
        DataError: The file is missing or damaged, or its pixels have no standard conversion to 8 bits.
    """
    # Pillow's plug-ins raise almost any exception for damaged files, so that no narrower class will do here.
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            turn = _transposition(image)
            if at_least is not None:
                # draft() takes the smallest size with at least the given width and height. Only the longer side counts
                # here, so that the shorter one gets the limit 1. Both are those of the stored pixels, before `turn`.
                image.draft(None, (at_least, 1) if image.width >= image.height else (1, at_least))
            rgb = _to_rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
    except Exception as error:
        raise _unreadable(path, error) from error


def read_reduced(path: Path, side: int) -> Image.Image:
    """Return the image as `read_image` does, reduced so that its longer side has about `side` pixels.

    An image is not resized if its longer side has at most `REDUCTION_TOLERANCE` times `side` pixels.

    Raises:
        DataError: See `read_image`.
    """
    image = read_image(path, at_least=side)
    longer = max(image.size)
    if longer <= REDUCTION_TOLERANCE * side:
        return image
    width, height = (max(1, round(one * side / longer)) for one in image.size)
    # The same filter as in the training views: a view of this size has the same pixels as one made from the full image.
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels; only the header of the file is read.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            turned = _transposition(image) in {TRANSPOSITIONS[code] for code in (5, 6, 7, 8)}
    except Exception as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def stored_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels as stored, before the EXIF orientation is applied.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except Exception as error:
        raise _unreadable(path, error) from error
    return height, width


def shorter_side(path: Path) -> int:
    """Return the shorter side in pixels; faster than `image_size`, since the EXIF orientation is not needed.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    return min(stored_size(path))


def is_upright_jpeg(path: Path) -> bool:
    """Tell whether a file is a JPEG whose pixels are stored upright, so that it needs no EXIF orientation.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return image.format == "JPEG" and _transposition(image) is None
    except Exception as error:
        raise _unreadable(path, error) from error


def is_rotated(path: Path) -> bool:
    """Tell whether the EXIF orientation of a file turns or mirrors its stored pixels.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return _transposition(image) is not None
    except Exception as error:
        raise _unreadable(path, error) from error


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask file: a palette or grey image whose pixels are class numbers."""

    path: Path

    def __str__(self) -> str:
        """Return the name of the mask for messages."""
        return str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """Return the stored values (h, w); the colours of a palette are ignored.

        Raises:
            DataError: The file is missing, is damaged, is an RGB image, or has values outside 0..255.
        """
        try:
            with Image.open(self.path, formats=IMAGE_FORMATS) as image:
                mode, values = image.mode, np.array(image)
        except Exception as error:
            raise _unreadable(self.path, error) from error
        if mode not in ("P", "L", "1", "I") and not mode.startswith("I;16"):
            raise DataError(
                f"{self.path} is an image of mode '{mode}': a mask must be a palette or grey PNG whose values "
                "are class numbers (0 background, 1 and above the classes, 255 ignored)"
            )
        if values.max(initial=0) > 255 or values.min(initial=0) < 0:
            raise DataError(
                f"{self.path} has values from {values.min()} to {values.max()}: masks hold values from 0 to 255"
            )
        return values.astype(np.uint8)


def find_images(folder: Path) -> dict[str, Path]:
    """Return {relative path with '/': file} of all images below a folder, sorted.

    Hidden files, and the folders in it that toco wrote, are skipped.

    Raises:
        DataError: A folder cannot be listed.
    """
    return _find_files(folder, IMAGE_SUFFIXES)


def find_unread(folder: Path) -> dict[str, Path]:
    """Return {relative path with '/': file} of all pictures and videos below a folder whose kind is not read, sorted.

    Raises:
        DataError: A folder cannot be listed.
    """
    return _find_files(folder, PROGRAM_OF.keys())


def find_masks(folder: Path) -> dict[str, MaskFile]:
    """Return {image id: mask} of all PNGs below a folder; empty if the folder does not exist or toco wrote it.

    Raises:
        DataError: A folder cannot be listed.
    """
    if not folder.is_dir() or written_by_toco(folder):
        return {}
    return {image_id(name): MaskFile(path) for name, path in _find_files(folder, {".png"}).items()}


def image_id(relative: str) -> str:
    """Return the id of an image: its path relative to the folder of images, without extension, in Unicode form NFC."""
    return unicodedata.normalize("NFC", posixpath.splitext(relative)[0])


def escapes_folder(relative: str) -> bool:
    """Tell whether a relative path, read from a file of a data set, leads out of its folder."""
    return relative.startswith("/") or ".." in relative.split("/")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bits(image)
    if image.mode == "F":
        raise DataError("it has floating-point values, which have no standard range; save it with 8 or 16 bits")
    if image.mode == "La":  # premultiplied grey, which Pillow converts only to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.max(initial=0) > 0xFFFF or values.min(initial=0) < 0:
        raise DataError("it has 32-bit or negative values, which have no standard range; save it with 8 or 16 bits")
    return Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that turns an opened image upright; None if it is upright. Decodes no pixels."""
    if image.format == "TIFF":  # Pillow turns TIFFs itself: `size` and the loaded pixels are upright
        return None
    try:
        # The getexif of PNG files decodes all pixels, to find EXIF data behind them. The method of the base class reads
        # only what comes before the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # with a damaged EXIF block, image viewers show the stored pixels
        return None
    return TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} is missing")
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return DataError(f"{path} is empty")
        if suffix_of(path.name) in PROGRAM_OF:
            return DataError(f"{path} is a kind of file that is not read: {conversion_advice([path.name])}")
        return DataError(f"{path} is not a readable {FORMAT_NAMES} image")
    return DataError(f"{path} cannot be read: {reason(error)}")


def _find_files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    def fail(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}")

    found: dict[str, Path] = {}
    visited: set[tuple[int, int]] = set()  # links to folders are followed; this ends loops of links
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [one for one in folders if not one.startswith(".") and not written_by_toco(Path(parent, one))]
        below = Path(parent).relative_to(folder)
        for name in files:
            if not name.startswith(".") and suffix_of(name) in suffixes:
                found[(below / name).as_posix()] = Path(parent, name)
    return dict(sorted(found.items()))
