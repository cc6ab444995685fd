"""Files of class-agnostic segments, one for each image: what SAM writes, label images, and arrays of NumPy.

    ID.json          as SAM's automatic mask generator and SA-1B have it: a list of {"segmentation": run lengths or
                     polygons}, or {"annotations": [...]} with such a list
    ID.npy           integers (h, w), or (n, h, w) if segments overlap; also n masks of True and False
    ID.png .tif      integers of 8, 16 or 32 bits; each page of a TIFF is one label image

ID is the path of the image below the folder of images; the image's own extension may stand before that of the file. In
a label image, pixels with the same number are one segment, and 0 and negative numbers are none.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import NDArray
from PIL import Image

from data.coco_annotations import Annotation, Region
from data.dataset import Sample, list_names
from data.errors import DataError, reason
from data.image_files import find_files, image_id
from data.images import image_size

ImageSize = tuple[int, int]  # (height, width)

# JSON before the first segment, with its "annotations" if it is not a list.
BEFORE_SEGMENTS = re.compile(r'\s*(\{.*?"annotations"\s*:\s*)?\[\s*(?=\{)', re.DOTALL)
REWRITE_OR_DELETE = "write it again, or delete it: the mask of its image is then made without segments"


def find_segment_files(folder: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """Return the segment file of each image that has one, by image id.

    Raises:
        DataError: The folder does not exist, or has a file for none of the images.
    """
    if not folder.is_dir():
        raise DataError(f"--segments {folder} is not a folder: give the folder of the segment files, slic or sam")
    images = {one.image.resolve() for one in samples}
    files = {name: path for name, path in find_files(folder, SEGMENT_READERS).items() if path.resolve() not in images}
    # Of several files of an image, the kind that comes first in SEGMENT_READERS.
    order = sorted(files, key=lambda name: [*SEGMENT_READERS].index(Path(name).suffix.lower()), reverse=True)
    by_id = {image_id(name): files[name] for name in order}
    found = {}
    for one in samples:
        if path := by_id.get(one.id) or by_id.get(one.id + one.image.suffix):
            found[one.id] = path
    if not found:
        example = f"{samples[0].id}.json" if samples else "ID.json"
        raise DataError(
            f"--segments {folder} has no file for any of the {len(samples)} images: expected is for example "
            f"{example!r} (or {', '.join([*SEGMENT_READERS][1:])}), found {list_names(files, 1)}"
        )
    return found


def describe_lacking(files: Mapping[str, Path], samples: Sequence[Sample]) -> str | None:
    """Say which images have no segment file; None if all have one."""
    lacking = [one.id for one in samples if one.id not in files]
    if not lacking:
        return None
    return (
        f"has no file for {len(lacking)} of {len(samples)} images, first '{lacking[0]}': their masks are made without "
        "segments"
    )


def check_segment_files(files: Mapping[str, Path], samples: Sequence[Sample]) -> None:
    """Check the format and the size of segment files by their headers, of JSON by its first segment.

    A file that is damaged further on is noticed when it is read. Images that cannot be opened are left out.

    Args:
        files: The segment files, by image id.
        samples: The images.

    Raises:
        DataError: A file cannot be used. The message names the first one and counts the others.
    """

    def problem(sample: Sample) -> str | None:
        with suppress(DataError):
            size = image_size(sample.image)
            try:
                _read(files[sample.id], size, header_only=True)
            except DataError as error:
                return str(error)
        return None

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        problems = [one for one in threads.map(problem, [one for one in samples if one.id in files]) if one]
    if problems:
        more = f" (and {len(problems) - 1} more of {len(files)} segment files)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}; {REWRITE_OR_DELETE}")


def read_segment_file(path: Path, size: ImageSize) -> list[NDArray[np.int64]]:
    """Return the pixels of each segment in a file, as row * width + column.

    Args:
        path: The file.
        size: Height and width of the image.

    Raises:
        DataError: The file is unreadable, holds something else, or is of another size.
    """
    try:
        return _read(path, size)
    except DataError as error:
        raise DataError(f"{error}; {REWRITE_OR_DELETE}") from error


def _read(path: Path, size: ImageSize, *, header_only: bool = False) -> list[NDArray[np.int64]]:
    try:
        return SEGMENT_READERS[path.suffix.lower()](path, size, header_only=header_only)
    except DataError as error:
        raise DataError(f"segments {path}: {error}") from error
    except Exception as error:  # as for images, damaged files raise almost any exception
        raise DataError(f"segments {path} cannot be read: {reason(error)}") from error


def pixels_by_number(labels: Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]) -> list[NDArray[np.int64]]:
    """Return the pixels of each positive number of a label image, as row * width + column."""
    flat = labels.ravel()
    pixel = np.flatnonzero(flat > 0)
    pixel = pixel[np.argsort(flat[pixel], kind="stable")]
    return np.split(pixel, np.flatnonzero(np.diff(flat[pixel])) + 1) if len(pixel) else []


def _read_json(path: Path, size: ImageSize, *, header_only: bool) -> list[NDArray[np.int64]]:
    text = path.read_text(encoding="utf-8-sig")
    content = _up_to_the_first_segment(text) if header_only else json.loads(text)
    entries = content
    if isinstance(content, Mapping):
        entries, about = content.get("annotations"), content.get("image")
        if "images" in content:
            raise DataError("it is a COCO file of many images, not the segments of one image")
        if isinstance(about, Mapping) and {"height", "width"} <= about.keys():
            _check_size([about["height"], about["width"]], size)
    if not isinstance(entries, list):
        raise DataError('it is neither a list of segments nor has "annotations"')
    pixels = []
    for number, entry in enumerate(entries[:1] if header_only else entries):
        try:
            region = _region(entry, size)
            if region and not header_only:
                pixels.append(np.flatnonzero(region.draw(*size)))
        except DataError as error:
            raise DataError(f"segment {number}: {error}") from error
    return [one for one in pixels if len(one)]


def _up_to_the_first_segment(text: str) -> Any:
    """Parse JSON as if it ended after its first segment: parsing all segments takes ten times longer.

    Text that seems to be cut off, or is of another form, is parsed as a whole, so that the error is that of the file.
    """
    start = BEFORE_SEGMENTS.match(text)
    if start and text.count("{") == text.count("}") and '"images"' not in text:
        ending = "]}" if start[1] else "]"
        if text.rstrip().endswith(ending[-1]):
            with suppress(ValueError):
                _, end = json.JSONDecoder().raw_decode(text, start.end())
                return json.loads(text[:end] + ending)
    return json.loads(text)


def _region(entry: Any, size: ImageSize) -> Region | None:
    segmentation = entry.get("segmentation") if isinstance(entry, Mapping) else None
    if not isinstance(segmentation, (list, Mapping)):
        raise DataError('it has no "segmentation" with run lengths or polygons')
    return Annotation("", "", segmentation, None).region(1, size) if segmentation else None


def _read_numpy(path: Path, size: ImageSize, *, header_only: bool) -> list[NDArray[np.int64]]:
    labels = np.load(path, mmap_mode="r" if header_only else None, allow_pickle=False)
    _check_labels(labels.shape, labels.dtype, size)
    return [] if header_only else _of_label_images(labels, size)


def _read_tiff(path: Path, size: ImageSize, *, header_only: bool) -> list[NDArray[np.int64]]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        for series in file.series:
            _check_labels(series.shape, series.dtype, size)
        wanted = () if header_only else file.series
        return [pixels for series in wanted for pixels in _of_label_images(series.asarray(), size)]


def _read_png(path: Path, size: ImageSize, *, header_only: bool) -> list[NDArray[np.int64]]:
    with Image.open(path, formats=("PNG",)) as image:
        bands = len(image.getbands())
        _check_labels((image.height, image.width, bands)[: 2 if bands == 1 else 3], np.dtype(np.uint8), size)
        return [] if header_only else _of_label_images(np.asarray(image), size)


def _of_label_images(labels: NDArray[Any], size: ImageSize) -> list[NDArray[np.int64]]:
    return [pixels for plane in labels.reshape(-1, *size) for pixels in pixels_by_number(plane)]


def _check_labels(shape: tuple[int, ...], kind: np.dtype[Any], size: ImageSize) -> None:
    if kind != np.bool_ and not np.issubdtype(kind, np.integer):
        raise DataError(f"it has values of type {kind}: segments are numbered by integers")
    if len(shape) not in (2, 3):
        raise DataError(f"it has the shape {shape}: label images are (h, w) or (n, h, w)")
    if len(shape) == 3 and shape[:2] == size:
        raise DataError(f"it has the shape {shape}: several label images are (n, h, w), and have no colours")
    _check_size(shape[-2:], size)


def _check_size(found: Sequence[Any], size: ImageSize) -> None:
    if tuple(found) != size:
        first, expected = (" x ".join(map(str, one)) for one in (found, size))
        raise DataError(f"it is {first} (height x width), its image is {expected}: segment the upright image itself")


class SegmentReader(Protocol):
    """Reads a file; with `header_only`, it is only checked, as far as this needs little time."""

    def __call__(self, path: Path, size: ImageSize, *, header_only: bool) -> list[NDArray[np.int64]]:
        """Return the pixels of each segment."""
        ...


SEGMENT_READERS: Mapping[str, SegmentReader] = {
    ".json": _read_json,
    ".npy": _read_numpy,
    ".png": _read_png,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}
