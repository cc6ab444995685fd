"""Picture files: any image as RGB, any mask as class indices, and what lies in a folder."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from data.errors import DataError, reason

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# What a file may contain, whatever its suffix says.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")

# `read_reduced` leaves images that are larger by no more than this: resizing would cost more than it saves, and
# 4032 pixels, as telephones have, come out of a JPEG's decoder at 1008.
SPARE = 1.25

# Pillow warns of and then refuses pictures above some number of pixels, to guard servers against uploaded
# 'bombs'. The files here are the user's own, and satellite and microscope tiles pass that limit, so it is
# switched off for this process.
Image.MAX_IMAGE_PIXELS = None

TRANSPOSITIONS = {  # EXIF orientation -> what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Return the picture in RGB as a viewer shows it.

    EXIF rotation is applied, palettes and grey become colours, transparency shows white, 16 bits are scaled
    to 8. Of a file with several pictures the first is taken.

    Args:
        path: The file.
        at_least: Pixels of the longer side that are enough. A JPEG is then decoded at a half, a quarter or an eighth
            of its size, sides rounded up, where that leaves so many; all else comes in its own size.

    Raises:
        DataError: the file is missing, damaged or of a kind that has no agreed look in 8 bits.
    """
    # Plug-ins meet a damaged file with nearly any exception, so nothing narrower will do.
    try:
        with Image.open(path, formats=FORMATS) as image:
            turn = _transposition(image)
            if at_least is not None:
                # Pillow takes the smallest size with so many pixels on either side; here the shorter one is free.
                image.draft(None, (at_least, 1) if image.width >= image.height else (1, at_least))
            rgb = _to_rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
    except Exception as error:
        raise _unreadable(path, error) from error


def read_reduced(path: Path, side: int) -> Image.Image:
    """Return the picture as `read_image` does, reduced so that its longer side has about `side` pixels.

    A picture of up to `SPARE` times as many comes as it is.

    Raises:
        DataError: as `read_image`.
    """
    image = read_image(path, at_least=side)
    longer = max(image.size)
    if longer <= SPARE * side:
        return image
    width, height = (max(1, round(one * side / longer)) for one in image.size)
    # The filter of the training views, which at this very size are then the same as from the whole picture.
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of what `read_image` gives, from the file's header alone.

    Raises:
        DataError: the file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = _transposition(image) in {TRANSPOSITIONS[code] for code in (5, 6, 7, 8)}
    except Exception as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def shorter_side(path: Path) -> int:
    """Return the shorter side in pixels; cheaper than `image_size`, since rotation does not matter to it.

    Raises:
        DataError: the file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            size: tuple[int, int] = image.size
    except Exception as error:
        raise _unreadable(path, error) from error
    return min(size)


def is_upright_jpeg(path: Path) -> bool:
    """Tell whether a file is a JPEG that programs which know nothing of EXIF rotation show like `read_image`.

    Raises:
        DataError: the file is missing or its header is damaged.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format == "JPEG" and _transposition(image) is None
    except Exception as error:
        raise _unreadable(path, error) from error


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in a palette or grey picture whose pixels are class indices."""

    path: Path

    def __str__(self) -> str:
        """Name the mask in messages."""
        return str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """Return the indices (h, w) as stored; the colours of a palette play no part.

        Raises:
            DataError: the file is missing, damaged, or holds colours or values above 255.
        """
        try:
            with Image.open(self.path, formats=FORMATS) as image:
                mode, values = image.mode, np.array(image)
        except Exception as error:
            raise _unreadable(self.path, error) from error
        if mode not in ("P", "L", "1", "I") and not mode.startswith("I;16"):
            raise DataError(
                f"{self.path} is a picture in '{mode}': a mask must be a palette or grey PNG whose values "
                "are class indices (0 background, 1.. the classes, 255 ignore)"
            )
        if values.max(initial=0) > 255 or values.min(initial=0) < 0:
            raise DataError(f"{self.path} has the value {values.max()}: masks hold values from 0 to 255")
        return values.astype(np.uint8)


def find_images(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder by their relative path (with '/'), sorted, without hidden ones.

    Raises:
        DataError: a folder cannot be listed.
    """
    return _find_files(folder, IMAGE_SUFFIXES)


def find_masks(folder: Path) -> dict[str, MaskFile]:
    """Return the PNG masks below a folder by image id; none if there is no such folder.

    Raises:
        DataError: a folder cannot be listed.
    """
    if not folder.is_dir():
        return {}
    return {image_id(name): MaskFile(path) for name, path in _find_files(folder, {".png"}).items()}


def image_id(relative: str) -> str:
    """Return the id of the image at a path relative to the images' folder: the path without extension."""
    return posixpath.splitext(relative)[0]


def leads_out(relative: str) -> bool:
    """Tell whether a path from a data set's own files would leave the folder it is relative to."""
    return relative.startswith("/") or ".." in relative.split("/")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bits(image)
    if image.mode == "F":
        raise DataError("it holds floating-point values, which have no agreed look; save it with 8 or 16 bits")
    if image.mode == "La":  # premultiplied grey, which converts only by way of its plain form
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
        raise DataError("it holds 32-bit or negative values, which have no agreed look; save it with 8 or 16 bits")
    return Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image, opened but not loaded, upright."""
    if image.format == "TIFF":  # Pillow turns these itself, in the size and on loading
        return None
    try:
        # A PNG's own getexif decodes the whole picture to look behind it; this reads what stands before.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block does not keep viewers from showing the picture either
        return None
    return TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} is missing")
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return DataError(f"{path} is empty")
        return DataError(f"{path} holds no readable JPEG, PNG, BMP, TIFF or WebP picture")
    return DataError(f"{path} cannot be read: {reason(error)}")


def _find_files(folder: Path, suffixes: frozenset[str] | set[str]) -> dict[str, Path]:
    def fail(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}")

    found: dict[str, Path] = {}
    visited: set[tuple[int, int]] = set()  # links to folders are followed, but not in circles
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                found[(below / name).as_posix()] = Path(parent, name)
    return dict(sorted(found.items()))
