"""Files whose values are kept as they are: TIFF with any number of bands and bits, NumPy arrays, PNG of 16 bits.

Letters: h w pixels of the upright image, c bands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

ARRAY_SUFFIX = ".npy"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
MOST_VALUES_OF_A_BYTE = 100_000  # constant images reach some 10,000 with deflate and more with zstd
GDAL_METADATA, GDAL_NODATA = 42112, 42113  # tags of TIFF
PIXEL_SIZE, TRANSFORM = 33550, 34264  # tags of GeoTIFF, of which each image with coordinates has one
REDUCED, MASK = 1, 4  # bits of the tag that says what a page of a TIFF is
EXTRA_SAMPLES, ORIENTATION, ALPHA_KINDS = 338, 274, {1, 2}  # tags of TIFF, and kinds of extra samples that are alpha
FEW_ROWS = 32  # an array with fewer rows than bands, and at most this many, is most likely (bands, h, w)

# tifffile logs a warning or an error before it raises one. The messages here say more.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True, slots=True)
class BandLayout:
    """What the header of a file says about its values.

    Attributes:
        size: (h, w) of the upright image.
        count: Number of bands, with the one that is marked as alpha.
        kind: Type of a value as NumPy names it, such as 'uint16'.
        bits: Bits of a value in the file: 12 for packed ones, although they are read as uint16.
        alpha: Whether the last band is marked as alpha.
        colours: Whether the values are numbers of colours in a palette.
        gaps: Whether pixels may have no value: by alpha, a value for nodata, a mask in the file or beside it, or NaN.
        rotated: Whether an orientation turns or flips the stored pixels.
    """

    size: tuple[int, int]
    count: int
    kind: str
    bits: int
    alpha: bool = False
    colours: bool = False
    gaps: bool = False
    rotated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBands:
    """The values of a file.

    Attributes:
        values: (h, w, c), as stored, upright.
        nodata: The value that stands for no value, if the file names one.
        alpha: Whether the last band is marked as alpha.
        bits: Bits of a value in the file.
        valid: (h, w), upright: where a mask, in the file or beside it, says that there is a value; None without a mask.
    """

    values: NDArray[Any]
    nodata: float | None = None
    alpha: bool = False
    bits: int = 8
    valid: NDArray[np.bool_] | None = None


def is_array(path: Path) -> bool:
    """Tell by its name whether a file is a NumPy array."""
    return path.suffix.lower() == ARRAY_SUFFIX


def is_tiff(path: Path) -> bool:
    """Tell by its first bytes whether a file is a TIFF.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def has_coordinates(path: Path) -> bool:
    """Tell whether a file is a GeoTIFF whose pixels have coordinates.

    Raises:
        Exception: It is missing or damaged; tifffile raises many kinds.
    """
    if not is_tiff(path):
        return False
    with _opened_tiff(path) as (_, page):
        return PIXEL_SIZE in page.tags or TRANSFORM in page.tags


def array_layout(path: Path) -> BandLayout:
    """Read the header of a NumPy array.

    Raises:
        DataError: It is not an image.
        OSError, ValueError: It is damaged.
    """
    with path.open("rb") as file:
        shape, kind = _array_header(file)
    return BandLayout(
        size=(shape[0], shape[1]), count=shape[2], kind=kind.name, bits=8 * kind.itemsize, gaps=kind.kind == "f"
    )


def read_array(path: Path) -> StoredBands:
    """Read a NumPy array (h, w) or (h, w, c). Nothing is unpickled.

    Raises:
        DataError: It is not an image.
        OSError, ValueError: It is damaged.
    """
    with path.open("rb") as file:
        shape, kind = _array_header(file)
        file.seek(0)
        values = np.lib.format.read_array(file, allow_pickle=False).reshape(shape)
    return StoredBands(values=native(values), bits=8 * kind.itemsize)


def _array_header(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(file)
    return image_shape(shape, kind), kind


def image_shape(shape: tuple[int, ...], kind: np.dtype[Any]) -> tuple[int, int, int]:
    """Return (h, w, c) of an array that is an image.

    Raises:
        DataError: It is not an image.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f"it is an array of shape {shape}: an image is (h, w) or (h, w, bands)")
    if kind.kind not in "buif":
        raise DataError(f"it is an array of {kind}: an image holds integers or floating-point numbers")
    height, width, count = (*shape, 1)[:3]
    if len(shape) == 3 and height <= FEW_ROWS < min(width, count):
        raise DataError(f"it is an array of shape {shape}, most likely (bands, h, w): save np.moveaxis(array, 0, -1)")
    return height, width, count


def tiff_layout(path: Path) -> BandLayout:
    """Read the header of the first image in a TIFF.

    Raises:
        Exception: It is damaged; tifffile raises many kinds.
    """
    with _opened_tiff(path) as (tiff, page):
        shape = _size_and_count(tiff, page)
        kind = np.dtype(bool) if page.dtype is None and page.bitspersample == 1 else page.dtype
        if kind is None:
            raise DataError(f"its values of {page.bitspersample} bits have no type that is known")
        orientation = _orientation(page)
        alpha = _has_alpha(page, shape[2])
        return BandLayout(
            size=(shape[1], shape[0]) if orientation in (5, 6, 7, 8) else (shape[0], shape[1]),
            count=shape[2],
            kind=kind.name,
            bits=page.bitspersample,
            alpha=alpha,
            colours=page.photometric == 3,
            gaps=alpha
            or kind.kind == "f"
            or GDAL_NODATA in page.tags
            or _mask_page(tiff, page) is not None
            or _mask_beside(path) is not None,
            rotated=orientation in range(2, 9),
        )


def count_pages(path: Path) -> int:
    """Return the number of images in a TIFF, without reduced images, masks, and channels of one image.

    Raises:
        Exception: A page is damaged; tifffile raises many kinds.
    """
    with _opened_tiff(path) as (tiff, _):
        if _pages_are_channels(tiff.series[0]):
            return 1
        return sum(not page.aspage().subfiletype & (REDUCED | MASK) for page in tiff.pages)


def read_tiff(path: Path) -> StoredBands:
    """Read the first image in a TIFF; channels that are stored as pages of an OME or ImageJ file are its bands.

    Where 0 is white, values are inverted, as in an image viewer.

    Raises:
        Exception: It is damaged, or its compression is unknown; tifffile raises many kinds.
    """
    with _opened_tiff(path) as (tiff, page):
        shape = _size_and_count(tiff, page)
        series = tiff.series[0]
        source = series if _pages_are_channels(series) else page
        values = source.asarray()
        axes = [axis for axis, side in zip(source.axes, values.shape, strict=True) if side > 1 or axis in "YX"]
        values = values.reshape([side for axis, side in zip(source.axes, values.shape, strict=True) if axis in axes])
        order = [axes.index("Y"), axes.index("X"), *(i for i, axis in enumerate(axes) if axis not in "YX")]
        values = native(values.transpose(order)).reshape(shape)
        nodata = _nodata(page, values.dtype)
        if page.photometric == 0 and values.dtype.kind == "u":
            most = values.dtype.type((1 << page.bitspersample) - 1)
            values, nodata = most - values, None if nodata is None else float(most) - nodata
        mask = _mask_page(tiff, page)
        valid = None if mask is None else mask.asarray().reshape(*shape[:2], 1) > 0
        if mask is None and (beside := _mask_beside(path)):
            valid = read_tiff(beside).values.any(axis=2, keepdims=True)
            if valid.shape[:2] != shape[:2]:
                raise DataError(f"{beside.name}, the mask beside it, has another size")
        return StoredBands(
            values=turned_upright(values, _orientation(page)),
            nodata=nodata,
            alpha=_has_alpha(page, shape[2]),
            bits=page.bitspersample,
            valid=None if valid is None else turned_upright(valid, _orientation(page))[..., 0],
        )


@contextmanager
def _opened_tiff(path: Path) -> Iterator[tuple[Any, Any]]:
    import tifffile  # imported late: most data sets have no TIFF

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        values = int(page.imagewidth) * int(page.imagelength) * int(page.samplesperpixel)
        if values > 1 << 30 and values > MOST_VALUES_OF_A_BYTE * path.stat().st_size:
            raise DataError(
                f"its header says {page.imagewidth} x {page.imagelength} pixels, too many for a file of "
                f"{path.stat().st_size} bytes"
            )
        yield tiff, page


def _pages_are_channels(series: Any) -> bool:
    """Whether a file says that its pages are the channels of one image."""
    return "C" in series.axes and all(
        side == 1 or axis in "YXSC" for axis, side in zip(series.axes, series.shape, strict=True)
    )


def _size_and_count(tiff: Any, page: Any) -> tuple[int, int, int]:
    """Return (h, w, c) as stored.

    Raises:
        DataError: The image has more than two dimensions.
    """
    if page.imagedepth > 1:
        raise DataError(f"it is a volume of {page.imagedepth} layers: save one layer as an image")
    count = int(page.samplesperpixel)
    series = tiff.series[0]
    if _pages_are_channels(series):
        count = int(np.prod([side for axis, side in zip(series.axes, series.shape, strict=True) if axis in "SC"]))
    return int(page.imagelength), int(page.imagewidth), count


def _mask_page(tiff: Any, page: Any) -> Any | None:
    """Return the page that says where the first page has values, as GDAL writes it; None if there is none."""
    others = (tiff.pages[number].aspage() for number in range(1, len(tiff.pages)))  # read one by one
    of_image = takewhile(lambda one: one.subfiletype & (REDUCED | MASK), others)
    size = (page.imagewidth, page.imagelength)
    masks = (one for one in of_image if one.subfiletype & MASK and (one.imagewidth, one.imagelength) == size)
    return next(masks, None)


def _mask_beside(path: Path) -> Path | None:
    """Return the file with the mask of a TIFF that GDAL writes beside it; None if there is none."""
    beside = path.with_name(f"{path.name}.msk")
    if not beside.is_file() or not is_tiff(beside):
        return None
    with _opened_tiff(beside) as (_, page):  # without this entry, GDAL ignores the file, too
        return beside if "INTERNAL_MASK_FLAGS_" in str(page.tags.valueof(GDAL_METADATA)) else None


def _has_alpha(page: Any, count: int) -> bool:
    return count == page.samplesperpixel and count > 1 and not ALPHA_KINDS.isdisjoint(map(int, page.extrasamples))


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _nodata(page: Any, kind: np.dtype[Any]) -> float | None:
    """Return the value that GDAL notes as 'nodata', rounded to the type of the values; None if there is none."""
    tag = page.tags.get(GDAL_NODATA)
    try:
        value = float(str(tag.value).strip("\0 ")) if tag is not None else None
    except ValueError:
        return None
    if value is None or kind.kind != "f":
        return value
    with np.errstate(over="ignore"):
        return float(kind.type(value))


def read_png(contents: bytes) -> NDArray[Any]:
    """Decode a PNG of 16 bits: (h, w, c) uint16, as stored, also without the orientation of its EXIF block.

    Raises:
        Exception: It is damaged.
    """
    import imagecodecs

    values: NDArray[Any] = imagecodecs.png_decode(contents)
    return values if values.ndim == 3 else values[..., None]


def turned_upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (h, w, c) as an EXIF orientation from 1 to 8 says; other numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)
