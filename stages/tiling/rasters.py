"""Large images, read and written window by window with rasterio, an optional package.

GDAL, below rasterio, reads GeoTIFF, plain TIFF, PNG, JPEG, JPEG 2000 and many other kinds.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.band_files import has_coordinates
from data.dataset import Mask
from data.errors import DataError, SettingsError, reason
from data.file_kinds import IMAGE_SUFFIXES, suffix_of
from data.images import is_rotated, read_image
from data.palette import colour_map
from stages.runtime.extras import install_command

if TYPE_CHECKING:
    from rasterio import Affine
    from rasterio.io import DatasetReader, DatasetWriter

CACHE_MEGABYTES = 256  # of GDAL; its own default is 5 % of the machine's memory
BLOCK = 256  # pixels; side of the blocks of a written GeoTIFF
TIFF_SUFFIXES = (".tif", ".tiff")
PNG_BANDS, PNG_TYPES = (1, 3, 4), ("uint8", "uint16")


def check_rasterio() -> None:
    """Refuse to work without rasterio.

    Raises:
        SettingsError: Says how to install it.
    """
    if importlib.util.find_spec("rasterio") is None:
        raise SettingsError(
            "large images and GeoTIFF need the package 'rasterio', which is not installed: run "
            f"{install_command('geo')}"
        )


@contextmanager
def rasterio_errors(path: Path) -> Iterator[None]:
    """Turn an error of rasterio into one line, limit GDAL's cache, and silence the warning of images without place."""
    check_rasterio()
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES, GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except (RasterioError, CPLE_BaseError, OSError) as error:
            if not path.exists():
                raise DataError(f"{path} is missing") from error
            raise DataError(f"{path} cannot be read or written: {reason(error)}") from error


@contextmanager
def open_raster(path: Path) -> "Iterator[DatasetReader]":
    """Open an image for reading in windows. Its pixels are upright: an EXIF orientation is applied.

    Raises:
        DataError: The file is missing, damaged or of an unknown kind.
    """
    with rasterio_errors(path):
        import rasterio

        other = suffix_of(path.name) in IMAGE_SUFFIXES.difference(TIFF_SUFFIXES)
        if not other or (_can_be_opened(path) and not is_rotated(path)):
            with rasterio.open(path) as raster:
                yield raster
                return
        # GDAL ignores the orientation of photographs, and lacks some kinds that Pillow reads: AVIF.
        with rasterio.MemoryFile() as memory:
            pixels = np.moveaxis(np.asarray(read_image(path)), 2, 0)
            shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
            with memory.open(driver="GTiff", dtype="uint8", photometric="RGB", **shape) as written:
                written.write(pixels)
            with memory.open() as raster:
                yield raster


def _can_be_opened(path: Path) -> bool:
    import rasterio

    try:
        rasterio.open(path).close()
    except rasterio.errors.RasterioIOError:
        return False
    return True


def is_placed(raster: "DatasetReader") -> bool:
    """Tell whether an image has coordinates."""
    return not raster.transform.is_identity


def has_nodata(raster: "DatasetReader") -> bool:
    """Tell whether some pixels of an image may have no data: by a value, an alpha band or a mask in the file."""
    from rasterio.enums import MaskFlags

    return any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)


def _has_mask(raster: "DatasetReader") -> bool:
    """Tell whether an image has a mask of its valid pixels beside its bands."""
    from rasterio.enums import MaskFlags

    return any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in raster.mask_flag_enums)


def tile_suffix(raster: "DatasetReader", path: Path) -> str:
    """Return '.png' if PNG holds everything that the image has, otherwise '.tif'."""
    all_valid = not _has_mask(raster) and raster.nodata is None  # nodata: a transparent grey value or colour
    fits = raster.count in PNG_BANDS and raster.dtypes[0] in PNG_TYPES and not is_placed(raster) and all_valid
    return ".png" if fits and suffix_of(path.name) not in TIFF_SUFFIXES else ".tif"


def cut_window(raster: "DatasetReader", rows: slice, columns: slice, file: Path) -> bool:
    """Write a window of an image to a file, with its bands, bits, colours, coordinates, and what has no data.

    Args:
        raster: The image.
        rows: Its rows.
        columns: Its columns.
        file: The file, .png or .tif; its folder is made.

    Returns:
        False if no pixel of the window has data; the file is not written then.
    """
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.windows import Window

    window = Window.from_slices(rows, columns)
    if has_nodata(raster) and not raster.dataset_mask(window=window).any():
        return False
    height, width = rows.stop - rows.start, columns.stop - columns.start
    profile: dict[str, Any] = {"count": raster.count, "dtype": raster.dtypes[0], "height": height, "width": width}
    if file.suffix == ".png":
        profile["driver"] = "PNG"
    else:
        colours = raster.colorinterp
        profile |= {"driver": "GTiff", "compress": "deflate", "zlevel": 1, "nodata": raster.nodata}
        profile |= {"crs": raster.crs, "transform": _moved(raster.transform, columns.start, rows.start)}
        if colours[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
            profile["photometric"] = "RGB"
    pixels = raster.read(window=window)
    file.parent.mkdir(parents=True, exist_ok=True)
    with rasterio_errors(file), rasterio.open(file, "w", **profile) as written:
        if file.suffix != ".png" and raster.colorinterp[0] != ColorInterp.palette:
            written.colorinterp = raster.colorinterp
        if raster.colorinterp[0] == ColorInterp.palette:
            written.write_colormap(1, raster.colormap(1))
        written.descriptions = raster.descriptions
        written.write(pixels)
        if _has_mask(raster):
            written.write_mask(raster.dataset_mask(window=window))
    return True


def _moved(transform: "Affine", x: int, y: int) -> "Affine":
    """Return the transform of a window that begins at pixel x, y."""
    from rasterio import Affine

    a, b, c, d, e, f = transform[:6]
    return Affine(a, b, a * x + b * y + c, d, e, d * x + e * y + f)


@contextmanager
def new_mask_raster(
    file: Path, size: tuple[int, int], transform: Sequence[float] | None, crs: str | None, class_names: Sequence[str]
) -> "Iterator[DatasetWriter]":
    """Create a GeoTIFF for a mask: blocks, compressed, with the colours and the names of the classes.

    Args:
        file: The file.
        size: Height and width in pixels.
        transform: From pixels to coordinates, as in `LargeImage`; None if the image has no coordinates.
        crs: The coordinate system as WKT, if it is known.
        class_names: Names of the classes 1..C; they become metadata of the band.
    """
    import rasterio

    colours = {value: (*colour, 255) for value, colour in enumerate(colour_map().tolist())}
    with (
        rasterio_errors(file),
        rasterio.open(
            file,
            "w",
            driver="GTiff",
            dtype="uint8",
            count=1,
            height=size[0],
            width=size[1],
            crs=crs,
            transform=rasterio.Affine(*transform) if transform else None,
            nodata=255,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress="deflate",
            bigtiff="if_safer",
        ) as written,
    ):
        written.write_colormap(1, colours)
        written.update_tags(1, **{f"class_{number}": name for number, name in enumerate(class_names, start=1)})
        yield written


def write_placed_mask(file: Path, mask: Mask, image: Path, class_names: Sequence[str]) -> None:
    """Write the mask of an image to a GeoTIFF with the image's place.

    Raises:
        DataError: The image cannot be read.
    """
    transform = crs = None
    if has_coordinates(image):
        with open_raster(image) as raster:
            transform, crs = tuple(raster.transform)[:6], raster.crs.to_wkt() if raster.crs else None
    with new_mask_raster(file, (mask.shape[0], mask.shape[1]), transform, crs, class_names) as written:
        written.write(mask, 1)


def valid_pixels(path: Path) -> NDArray[np.bool_]:
    """Return where an image has data, (h, w)."""
    with open_raster(path) as raster:
        valid: NDArray[np.bool_] = raster.dataset_mask() > 0
        return valid
