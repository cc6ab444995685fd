"""Image files: read any image as RGB or as bands, and any mask as class numbers."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from data.band_files import (
    BandLayout,
    StoredBands,
    array_layout,
    count_pages,
    image_shape,
    is_array,
    is_tiff,
    read_array,
    read_png,
    read_tiff,
    tiff_layout,
    turned_upright,
)
from data.band_image import CLIPPED, MARGIN, BandImage, Pixels, as_picture, clipped_share
from data.errors import DataError, reason
from data.file_kinds import (
    FORMAT_NAMES,
    IMAGE_FORMATS,
    PROGRAM_OF,
    conversion_advice,
    suffix_of,
)
from data.pixel_rule import AS_STORED, PixelRule, value_kind

# `read_reduced` does not resize images that are larger than asked for by less than this factor: that would cost more
# time than it saves. Photographs of 4032 pixels, usual for phones, leave the JPEG decoder with 1008.
REDUCTION_TOLERANCE = 1.25

# Pillow refuses images above some number of pixels, to protect servers from 'decompression bombs'. Here the files are
# the user's own, and satellite and microscope images exceed the limit. It is therefore switched off in this process.
Image.MAX_IMAGE_PIXELS = None
# For the same reason text and colour profiles in PNG files may be long: drawing programs store their settings there.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 28

# Pillow logs an error or warns before it raises one. The messages here say more.
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module=r"PIL\.")

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


# Raw modes of 16-bit colours, of which Pillow keeps the high byte of each value -> raw modes that give the low byte.
_LOW_BYTES = {
    **{f"{bands};16B": f"{bands};16L" for bands in ("RGB", "RGBX", "RGBA")},
    **{f"{bands};16L": f"{bands};16B" for bands in ("RGB", "RGBX", "RGBA")},
    **{f"{bands};16N": f"{bands};16{'B' if sys.byteorder == 'little' else 'L'}" for bands in ("RGB", "RGBX", "RGBA")},
}

_PHOTOMETRIC = TiffImagePlugin.PHOTOMETRIC_INTERPRETATION
_BAND_MODES = ("RGBA", "RGBa", "LA", "La", "PA")

MOST_PIXELS_OF_A_BYTE = 10_000  # deflate, in PNG and TIFF, reaches 8 * 1032; WebP images have at most 2 ** 28 pixels

_END_OF_JPEG = b"\xff\xd9"


def read_pixels(path: Path, *, at_least: int | None = None, rule: PixelRule = AS_STORED) -> Pixels:
    """Return the upright image as networks get it: in RGB, or its bands at full depth if the rule names bands.

    Args:
        path: The file.
        at_least: See `read_image`; it has no effect on bands.
        rule: What becomes of the values.

    Raises:
        DataError: See `read_image`; or the file has another number of bands or another kind of values than the rule.
    """
    if not rule.bands:
        return _read_picture(path, at_least, rule)
    stored = read_stored(path)
    try:
        return _scaled_bands(stored, rule)
    except DataError as error:
        raise _unreadable(path, error) from error


def read_stored(path: Path) -> StoredBands:
    """Return the values of a file, upright and otherwise as stored.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return _read_bands(path)
    except Exception as error:  # as in `_read_picture`
        raise _unreadable(path, error) from error


def read_image(path: Path, *, at_least: int | None = None, rule: PixelRule = AS_STORED) -> Image.Image:
    """Return the image in RGB as an image viewer shows it.

    The EXIF orientation is applied. Palette and grey images become RGB, transparent pixels white, 16 bits are scaled to
    8. If a file has several images, the first one is read. If the rule names bands, the first three of them are shown,
    or the first one as grey.

    Args:
        path: The file.
        rule: How values are scaled, and whether an alpha band is transparency.
        at_least: Number of pixels on the longer side that is sufficient. If a JPEG has this many at a half, a quarter
            or an eighth of its size, it is decoded at the smallest such size, sides rounded up, which is faster than
            decoding all pixels. Other formats are always decoded at full size.

    Raises:
        DataError: The file is missing or damaged, its pixels have no standard conversion to 8 bits, or its values have
            more bits than the rule allows.
    """
    return as_picture(read_pixels(path, at_least=at_least, rule=rule))


def _read_picture(path: Path, at_least: int | None, rule: PixelRule) -> Image.Image:
    """Read an image by a rule without bands."""
    # Pillow's plug-ins raise almost any exception for damaged files, so that no narrower class will do here.
    try:
        if is_array(path):
            return _stored_as_rgb(read_array(path), rule)
        try:
            return _read_rgb(path, at_least, rule)
        except UnidentifiedImageError:
            if _other_layout(path) is None:
                raise
            return _stored_as_rgb(read_tiff(path), rule)
        except OSError as error:
            completed = _completed_jpeg(path) if "truncated" in str(error) else None
            if completed is None:
                raise
            return _read_rgb(completed, at_least, rule)
    except Exception as error:
        raise _unreadable(path, error) from error


def read_reduced(path: Path, side: int, rule: PixelRule = AS_STORED) -> Pixels:
    """Return the image as `read_pixels` does, reduced so that its longer side has about `side` pixels.

    An image is not resized if its longer side has at most `REDUCTION_TOLERANCE` times `side` pixels.

    Raises:
        DataError: See `read_image`.
    """
    image = read_pixels(path, at_least=side, rule=rule)
    longer = max(image.size)
    if longer <= REDUCTION_TOLERANCE * side:
        return image
    width, height = (max(1, round(one * side / longer)) for one in image.size)
    # The same filter as in the training views: a view of this size has the same pixels as one made from the full image.
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def as_pixels(image: Image.Image | NDArray[Any], rule: PixelRule = AS_STORED) -> Pixels:
    """Return an image in memory as networks get it, its values converted like those of a file by `read_pixels`.

    Args:
        image: A Pillow image, or an array (h, w) of grey values, (h, w, 3) of red, green, blue or (h, w, 4) with alpha,
            uint8 or uint16. If the rule names bands: all bands of a file, of any type. It is not rotated: an EXIF
            orientation is ignored.
        rule: What becomes of the values.

    Raises:
        DataError: The array has another shape or type, or the pixels have no standard conversion.
    """
    try:
        if not isinstance(image, Image.Image | np.ndarray):
            raise DataError(f"it is a {type(image).__name__}: give a path, a Pillow image or a NumPy array")
        if rule.bands:
            values = image if isinstance(image, np.ndarray) else np.asarray(_plain_bands(image))
            return _scaled_bands(StoredBands(values=values.reshape(image_shape(values.shape, values.dtype))), rule)
        if isinstance(image, np.ndarray):
            return _array_as_rgb(image, rule)
        if ";16" in _raw_mode(image) and rule.bits < 16:  # Pillow keeps only the upper 8 bits of them
            raise DataError("it has 16-bit colours: give the path of the file, or a uint16 array")
        return _to_rgb(image, io.BytesIO(), rule)
    except DataError as error:
        raise DataError(f"the given image cannot be used: {error}") from error


def _stored_as_rgb(stored: StoredBands, rule: PixelRule) -> Image.Image:
    """Return the values of a file that Pillow does not read in RGB."""
    count, kind = stored.values.shape[2], stored.values.dtype
    if count not in (1, 3, 4) or kind not in (np.uint8, np.uint16):
        raise DataError(
            f"it has {count} band{'s'[: count != 1]} of {kind}, but the images of this data set are read as 8-bit RGB: "
            "convert it, or remove it"
        )
    return _array_as_rgb(stored.values, rule)


def _array_as_rgb(values: NDArray[Any], rule: PixelRule) -> Image.Image:
    """Return an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) in RGB."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    shape_is_known = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if not shape_is_known or not values.size or values.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"it is an array of shape {values.shape} and type {values.dtype}; give (h, w), (h, w, 3) or "
            "(h, w, 4), uint8 from 0 to 255 or uint16"
        )
    share = 0.0
    if values.dtype == np.uint16:
        values, share = _scaled(values, rule)
    rgb = _to_rgb(Image.fromarray(np.ascontiguousarray(values)), io.BytesIO(), rule)
    return _with_clipped(rgb, share) if share else rgb


def _plain_bands(image: Image.Image) -> Image.Image:
    """Return an opened image as grey or RGB, with alpha or without, at its own depth."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I", "F") or image.mode.startswith("I;16"):
        return image
    return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))


def band_layout(path: Path) -> BandLayout:
    """Read the header of any image file.

    Raises:
        DataError: The file is missing or damaged.
    """
    gaps = False
    try:
        if is_array(path):
            return array_layout(path)
        if is_tiff(path):
            layout = tiff_layout(path)
            if not layout.colours:
                return layout
            gaps = layout.gaps
    except Exception as error:  # as in `_read_picture`
        raise _unreadable(path, error) from error
    with _opened(path) as image:
        size = image_size(path)
        bits = 16 if has_16_bits(image) else 8
        plain = {"1": 1, "L": 1, "LA": 2, "La": 2, "RGBA": 4, "RGBa": 4, "I": 1, "F": 1}.get(image.mode, 3)
        count = 1 if image.mode.startswith("I;16") else 2 if _raw_mode(image) == "LA;16B" else plain
        alpha = count in (2, 4)
        return BandLayout(size=size, count=count, kind=f"uint{bits}", bits=bits, alpha=alpha, gaps=alpha or gaps)


def _read_bands(path: Path) -> StoredBands:
    if is_array(path):
        return read_array(path)
    valid = None
    if is_tiff(path):
        layout = tiff_layout(path)
        if not layout.colours:
            return read_tiff(path)
        if layout.gaps:  # nodata is the number of a colour
            valid = ~lacks_value(read_tiff(path), 1, AS_STORED)
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        _check_size(image, path.stat().st_size)
        turn = _transposition(image)
        if image.format == "PNG" and ";16" in _raw_mode(image):
            code = next((code for code, one in TRANSPOSITIONS.items() if one == turn), 1)
            values = turned_upright(read_png(path.read_bytes()), code)
        else:
            plain = _plain_bands(image)
            values = np.asarray(plain if turn is None else plain.transpose(turn))
    values = values.reshape(*values.shape[:2], -1)
    return StoredBands(values=values, alpha=values.shape[2] in (2, 4), bits=8 * values.dtype.itemsize, valid=valid)


def _scaled_bands(stored: StoredBands, rule: PixelRule) -> BandImage:
    """Choose the bands of the rule and scale them; where there is no value, they get the band's mean."""
    values = stored.values
    count = values.shape[2]
    if rule.count not in (count, count - stored.alpha) or max(band.number for band in rule.bands) > count:
        raise DataError(
            f"it has {count} band{'s'[: count != 1]}, but the images of this data set have {rule.count}: give it the "
            "same bands, or remove it"
        )
    if rule.kinds and (kind := value_kind(values.dtype)) not in rule.kinds:
        raise DataError(
            f"it has {kind} values ({values.dtype}), but the images of this data set have {' or '.join(rule.kinds)} "
            "ones: convert it, or remove it"
        )
    scaled = np.empty((*values.shape[:2], len(rule.bands)), np.float32)
    clipped = np.zeros(values.shape[:2], bool)
    for place, band in enumerate(rule.bands):
        plane, missing = one_band(stored, band.number, rule)
        plane = (plane - band.low) * (255 / (band.high - band.low))
        low, high = -255 * MARGIN, 255 * (1 + MARGIN)
        clipped |= ~missing & ((plane < low) | (plane > high))
        scaled[..., place] = np.where(missing, 255 * band.mean, plane.clip(low, high))
    return BandImage(scaled, rule.fill, float(clipped.mean()))


def one_band(stored: StoredBands, number: int, rule: PixelRule) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return a band as floating-point numbers (h, w), and where it has no value: NaN, infinite, nodata, transparent."""
    plane = stored.values[..., number - 1]
    exact = plane.dtype.itemsize < 4 or plane.dtype == np.float32  # 24 bits of precision are enough
    missing = lacks_value(stored, number, rule)
    return np.where(missing, 0, plane).astype(np.float32 if exact else np.float64), missing


def lacks_value(stored: StoredBands, number: int, rule: PixelRule) -> NDArray[np.bool_]:
    """Return where a band has no value, (h, w)."""
    plane = stored.values[..., number - 1]
    missing = np.zeros(plane.shape, bool) if plane.dtype.kind != "f" else ~np.isfinite(plane)
    if stored.nodata is not None:
        missing = missing | (plane == stored.nodata)
    if stored.alpha and rule.alpha and number < stored.values.shape[2]:
        missing = missing | (stored.values[..., -1] == 0)
    if stored.valid is not None:
        missing = missing | ~stored.valid
    return missing


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, of which only the header is read at first; any error in the block is a DataError."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            _check_size(image, path.stat().st_size)
            yield image
    except Exception as error:  # as in read_image
        raise _unreadable(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels; only the header of the file is read.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    if (other := _other_layout(path)) is not None:
        return other.size
    with _opened(path) as image:
        turned = _transposition(image) in {TRANSPOSITIONS[code] for code in (5, 6, 7, 8)}
        return (image.width, image.height) if turned else (image.height, image.width)


def _other_layout(path: Path) -> BandLayout | None:
    """Read the header of a file that Pillow does not read: an array, or a TIFF of other bands or bits.

    Raises:
        DataError: An array is damaged or is not an image.
    """
    if is_array(path):
        return band_layout(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with Image.open(path, formats=IMAGE_FORMATS):
            return None
    except Exception:
        try:
            return tiff_layout(path)
        except Exception:  # `_opened` says what is wrong
            return None


def shorter_side(path: Path) -> int:
    """Return the shorter side in pixels; faster than `image_size`, since the EXIF orientation is not needed.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    if (other := _other_layout(path)) is not None:
        return min(other.size)
    with _opened(path) as image:
        return min(image.size)


def is_upright_jpeg(path: Path) -> bool:
    """Tell whether a file is a JPEG whose pixels are stored upright, so that it needs no EXIF orientation.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    if _other_layout(path) is not None:
        return False
    with _opened(path) as image:
        return image.format == "JPEG" and not _is_rotated(image)


def is_rotated(path: Path) -> bool:
    """Tell whether the EXIF orientation of a file turns or mirrors its stored pixels.

    Raises:
        DataError: The file is missing or its header is damaged.
    """
    if (other := _other_layout(path)) is not None:
        return other.rotated
    with _opened(path) as image:
        return _is_rotated(image)


# Raw modes of grey values with 2 and 4 bits -> the factor by which Pillow scales them to 0..255.
_GREY_STEPS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask file: a palette or grey image whose pixels are class numbers."""

    path: Path

    def __str__(self) -> str:
        """Return the name of the mask for messages."""
        return str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """Return the stored values (h, w), upright as those of images; the colours of a palette are ignored.

        Raises:
            DataError: The file is missing, is damaged, is an RGB image, or has values outside 0..255.
        """
        with _opened(self.path) as image:
            step = _GREY_STEPS.get(_raw_mode(image), 1)  # the raw mode is lost when the pixels are read
            mode, values = image.mode, np.array(upright(image)) // step
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


def _read_rgb(file: Path | io.BytesIO, at_least: int | None, rule: PixelRule) -> Image.Image:
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        if isinstance(file, Path):
            _check_size(image, file.stat().st_size)
        turn = _transposition(image)
        if at_least is not None:
            # draft() takes the smallest size with at least the given width and height. Only the longer side counts
            # here, so that the shorter one gets the limit 1. Both are those of the stored pixels, before `turn`.
            image.draft(None, (at_least, 1) if image.width >= image.height else (1, at_least))
        rgb = _to_rgb(image, file, rule)
        return rgb if turn is None else rgb.transpose(turn)


def _check_size(image: Image.Image, stored: int) -> None:
    """Refuse a damaged header that claims gigabytes of pixels, before memory for them is allocated."""
    pixels = image.width * image.height
    if pixels > MOST_PIXELS_OF_A_BYTE * stored and pixels > 1 << 30:
        raise DataError(f"its header says {image.width} x {image.height} pixels, too many for a file of {stored} bytes")


def _completed_jpeg(path: Path) -> io.BytesIO | None:
    """Return the contents of a JPEG that lacks only its end marker, completed; None if pixels are missing as well.

    The decoder makes up missing pixels from what follows. They are missing if other bytes give other pixels.
    """
    contents = path.read_bytes().rstrip(b"\xff")  # the marker may have been cut in two
    if not contents.startswith(b"\xff\xd8"):
        return None
    completed = io.BytesIO(contents + _END_OF_JPEG)
    with Image.open(completed) as one, Image.open(io.BytesIO(contents + 64 * b"\x5a" + _END_OF_JPEG)) as other:
        complete = one.tobytes() == other.tobytes()
    return completed if complete else None


def _to_rgb(image: Image.Image, file: Path | io.BytesIO, rule: PixelRule) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.max(initial=0) > 0xFFFF or values.min(initial=0) < 0:
            raise DataError("it has 32-bit or negative values, which have no standard range; save it with 8 or 16 bits")
        scaled, share = _scaled(values, rule)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:  # 0 is white
            scaled = 255 - scaled  # Pillow does this only for 8 bits
        return _with_clipped(Image.fromarray(scaled).convert("RGB"), share)
    if image.mode == "F":
        raise DataError("it has floating-point values, which have no standard range; save it with 8 or 16 bits")
    show_alpha = has_alpha(image) and rule.alpha
    if not show_alpha and _raw_mode(image).startswith("RGBa"):  # would be divided by the band that is not alpha
        _set_raw_mode(image, _raw_mode(image).replace("RGBa", "RGBA"))
    band = image.mode in _BAND_MODES
    if ";16" in _raw_mode(image) and rule.bits < 16:
        image = _from_16_bit_bands(image, file, rule)
    if image.mode == "La":  # premultiplied grey, which Pillow converts only to LA
        image = image.convert("LA")
    if show_alpha or (not band and image.has_transparency_data):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return _with_clipped(canvas, clipped_share(image))
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Tell whether an opened image has a band that its file calls alpha. Palettes and transparent colours are none.

    Pillow also takes a fourth band of a TIFF for alpha if the file says nothing about it.
    """
    if image.mode not in _BAND_MODES:
        return False
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return True
    return not {1, 2}.isdisjoint(image.tag_v2.get(TiffImagePlugin.EXTRASAMPLES, ()))


def has_16_bits(image: Image.Image) -> bool:
    """Tell whether an opened image stores values of 16 bits. Decodes no pixels."""
    return image.mode.startswith("I;16") or image.mode == "I" or ";16" in _raw_mode(image)


class FileContents(NamedTuple):
    """What an image file has beside the pixels that are read."""

    pages: int  # full images in the file, of which the first is read
    bands: int  # of a TIFF of red, green, blue and possibly other bands; 1 for other files
    rotated: bool  # whether an EXIF orientation turns or flips the stored pixels


def file_contents(path: Path) -> FileContents:
    """Read the headers of an image file.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        pages = count_pages(path) if is_tiff(path) else 1
    except Exception as error:  # as in `_read_picture`
        raise _unreadable(path, error) from error
    if (other := _other_layout(path)) is not None:
        return FileContents(pages, 1, other.rotated)
    with _opened(path) as image:
        bands = 1
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            if image.tag_v2.get(_PHOTOMETRIC) == 2:
                bands = int(image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        elif image.format in ("PNG", "WEBP"):  # a JPEG of several pages has previews and depth maps of phones in them
            pages = getattr(image, "n_frames", 1)
        return FileContents(pages, bands, _is_rotated(image))


def _with_clipped(image: Image.Image, share: float) -> Image.Image:
    image.info[CLIPPED] = share
    return image


def _scaled(values: NDArray[np.integer[Any]], rule: PixelRule) -> tuple[NDArray[np.uint8], float]:
    """Scale values (h, w) or (h, w, bands) of `rule.bits` bits to 0..255; also return the share of clipped pixels."""
    most = (1 << rule.bits) - 1
    largest = values.max(initial=0)
    share = 0.0
    if largest > most:
        if not rule.clip:
            raise DataError(
                f"it has the value {largest}, but values of this data set have {rule.bits} bits (up to {most}): "
                "give a higher --image-bits"
            )
        above = values > most
        share = float((above if above.ndim == 2 else above.any(axis=2)).mean())
        values = np.minimum(values, most)
    return (values >> (rule.bits - 8)).astype(np.uint8), share


def _from_16_bit_bands(image: Image.Image, file: Path | io.BytesIO, rule: PixelRule) -> Image.Image:
    """Scale the bands of an opened image by all 16 bits; an alpha band stays scaled by 256."""
    raw_mode = _raw_mode(image)
    if raw_mode == "LA;16B":
        _set_raw_mode(image, "RGBA")
        both = np.asarray(image).astype(np.uint16)  # high and low byte of grey, high and low byte of alpha
        grey, share = _scaled(both[..., 0] << 8 | both[..., 1], rule)
        return _with_clipped(Image.fromarray(np.dstack([grey, grey, grey, both[..., 2].astype(np.uint8)])), share)
    if raw_mode not in _LOW_BYTES:
        raise DataError(
            f"its colours ({raw_mode}) cannot be scaled from {rule.bits} bits: save it as RGB with 8 or 16 bits"
        )
    with Image.open(file, formats=IMAGE_FORMATS) as again:
        _set_raw_mode(again, _LOW_BYTES[raw_mode])
        low = np.asarray(again)[..., :3].astype(np.uint16)
    high = np.asarray(image)
    scaled, share = _scaled(high[..., :3].astype(np.uint16) << 8 | low, rule)
    return _with_clipped(Image.fromarray(np.dstack([scaled, high[..., 3:]])), share)


def _raw_mode(image: Image.Image) -> str:
    """How an opened image stores its values, as Pillow calls it; empty if it does not say."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _set_raw_mode(image: Image.Image, raw_mode: str) -> None:
    """Let an opened image be decoded in another way."""
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile  # type: ignore[attr-defined]
    ]


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


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image, whose pixels are not read yet, with its EXIF orientation applied."""
    turn = _transposition(image)
    return image if turn is None else image.transpose(turn)


def _is_rotated(image: Image.Image) -> bool:
    """Whether an EXIF orientation turns or flips the stored pixels of an opened image."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return bool(image.tag_v2.get(ExifTags.Base.Orientation, 1) in TRANSPOSITIONS)
    return _transposition(image) is not None


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
