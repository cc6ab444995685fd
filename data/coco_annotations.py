"""The entries of a COCO file of instances: categories, images and annotations, checked one by one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from data.class_names import NO_CLASSES, canonical_name
from data.dataset import list_names
from data.errors import DataError, reason

SECTIONS = ("images", "annotations", "categories")
SHOWN_ENTRIES = 3  # wrong entries in one message; the others are counted
MOST_PIXELS = 2**31  # of an image; pycocotools counts pixels in 32 bits
FAR_OUTSIDE = 10  # image sides; an outline with corners this far away is a mistake, and takes minutes to draw


class Region(NamedTuple):
    """One object, as polygons or as run lengths.

    Both are stored as bytes: COCO has 860,000 objects, and lists of numbers would need many times the memory.

    Attributes:
        class_index: Number of the class, from 1.
        polygons: float64 x0, y0, x1, y1, ... in pixels; empty if there are run lengths.
        counts: Compressed run lengths of pycocotools; empty if there are polygons.
    """

    class_index: int
    polygons: tuple[bytes, ...] = ()
    counts: bytes = b""

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the pixels of the object (height, width)."""
        with warnings.catch_warnings():  # pycocotools 2.0.11 does not yet follow a change in numpy 2
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            return np.asarray(run_lengths.decode(self._code(height, width)), bool)

    def area(self, height: int, width: int) -> float:
        """Return the number of pixels of the object."""
        return float(run_lengths.area(self._code(height, width)))

    def _code(self, height: int, width: int) -> Any:
        if not self.polygons:
            return {"size": [height, width], "counts": self.counts}
        polygons: Any = [np.frombuffer(polygon) for polygon in self.polygons]
        return run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of an image.

    Attributes:
        where: Its place in the file, for messages.
        category: Key of its category in `Instances.categories`.
        segmentation: Polygons or run lengths as in the file, not checked yet; None if it has only a box.
        area: Its area in pixels; None if the file does not have it.
    """

    where: str
    category: str
    segmentation: Any
    area: float | None

    def region(self, class_index: int, size: tuple[int, int]) -> Region | None:
        """Return the checked outline; None if it has no area.

        Args:
            class_index: Number of the class.
            size: (height, width) of the image.

        Raises:
            DataError: The outline is not one of an image of this size. pycocotools does not check, and would return
                random pixels or crash. The message has neither file nor entry.
        """
        if isinstance(self.segmentation, Mapping):
            return Region(class_index, counts=_counts(self.segmentation, size))
        polygons = self.segmentation
        if polygons and isinstance(polygons[0], (int, float)):  # some programs write one polygon without its list
            polygons = [polygons]
        corners = tuple(_corners(polygon, max(size)) for polygon in polygons)
        areas = tuple(one for one in corners if len(one) >= 6 * 8)  # fewer than three corners have no area
        return Region(class_index, polygons=areas) if areas else None


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image; `size` is (height, width) in pixels, None if the file does not have it."""

    where: str
    file_name: str
    size: tuple[int, int] | None
    annotations: list[Annotation] = field(default_factory=list)


class Instances(NamedTuple):
    """Content of a file: {key: name} of the categories by their numbers, images, and annotations of missing images."""

    categories: dict[str, str]
    images: tuple[ImageEntry, ...]
    stray: tuple[str, ...]


def read_instances(path: Path) -> Instances:
    """Read a file of COCO instances. Ids may be numbers or text.

    Raises:
        DataError: The file is unreadable, or entries are wrong: the first ones are named, the others counted.
    """
    content = _load(path)
    problems: list[str] = []
    images: dict[str, ImageEntry] = {}
    for where, entry in _entries(content, "images", problems):
        try:
            key = _key(entry, "id")
            if key in images:
                raise DataError(f"{images[key].where} has the same id")
            images[key] = ImageEntry(where, _text(entry, "file_name"), _size(entry))
        except DataError as error:
            problems.append(f"{where}: {error}")
    categories = _categories(content, problems)
    stray = []
    for where, entry in _entries(content, "annotations", problems):
        try:
            key, category = _key(entry, "image_id"), _key(entry, "category_id")
            if category not in categories:
                raise DataError(f"category_id {category} is not in 'categories'")
            if key not in images:
                stray.append(f"{where}, image_id {key}")
                continue
            segmentation = entry.get("segmentation") or None
            if not isinstance(segmentation, (list, Mapping, type(None))):
                raise DataError("'segmentation' is neither a list of polygons nor run lengths")
            images[key].annotations.append(Annotation(where, category, segmentation, _area(entry)))
        except DataError as error:
            problems.append(f"{where}: {error}")
    refuse_entries(path, problems)
    used = {annotation.category for image in images.values() for annotation in image.annotations}
    groups = _groups(content)
    categories = {
        key: name
        for key, name in categories.items()
        if key in used or not (key in groups or name.lower() in NO_CLASSES)
    }
    _check_names(categories, path)
    return Instances(categories, tuple(images.values()), tuple(stray))


def refuse_entries(path: Path, problems: list[str]) -> None:
    """Raise a DataError that names the first of the wrong entries and counts the others, if there are any."""
    if problems:
        more = len(problems) - SHOWN_ENTRIES
        others = f"; and {more} more wrong entries" if more > 0 else ""
        raise DataError(f"{path}: {'; '.join(problems[:SHOWN_ENTRIES])}{others}: correct or remove them")


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {reason(error)}; download or write it again") from error
    lacking = [name for name in SECTIONS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if lacking:
        raise DataError(f"{path} is not a file of COCO instances: it lacks lists of {list_names(lacking)}")
    checked: dict[str, Any] = content
    return checked


def _entries(content: dict[str, Any], section: str, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place in the file, entry) of a section."""
    for index, entry in enumerate(content[section]):
        where = f"{section}[{index}]"
        if isinstance(entry, dict):
            yield (f"{where} (id {entry['id']!r})" if "id" in entry else where), entry
        else:
            problems.append(f"{where} is not an object with keys")


def _categories(content: dict[str, Any], problems: list[str]) -> dict[str, str]:
    """Return {key: name}, sorted by the numbers of the categories."""
    categories: dict[str, str] = {}
    for where, entry in _entries(content, "categories", problems):
        try:
            key = _key(entry, "id")
            if key in categories:
                raise DataError(f"'{categories[key]}' has the same id")
            categories[key] = canonical_name(_text(entry, "name"))
        except DataError as error:
            problems.append(f"{where}: {error}")
    return dict(sorted(categories.items(), key=lambda item: _numbers_first(item[0])))


def _numbers_first(key: str) -> tuple[int, int, str]:
    """Return a value to sort by: numbers by their value, then text."""
    try:
        return 0, int(key), ""
    except ValueError:
        return 1, 0, key


def _groups(content: dict[str, Any]) -> set[str]:
    """Return the categories that may only group others: Roboflow writes one, with the name of the project."""
    categories = [entry for entry in content["categories"] if isinstance(entry, dict)]
    groups = {canonical_name(name) for one in categories if isinstance(name := one.get("supercategory"), str)}
    return {
        _key(entry, "id")
        for entry in categories
        if entry.get("supercategory") == "none" and canonical_name(entry["name"]) in groups
    }


def _check_names(categories: Mapping[str, str], path: Path) -> None:
    first: dict[str, str] = {}
    for key, name in categories.items():
        if first.setdefault(name, key) != key:
            raise DataError(f"{path}: the categories of id {first[name]} and {key} are both named '{name}': rename one")


def _key(entry: dict[str, Any], name: str) -> str:
    """Return an id as text, so that 7 and '7' are equal."""
    value = entry.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, str):
        value = canonical_name(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise DataError(f"'{name}' is missing" if value is None else f"'{name}' is {value!r}, not a whole number")
    return str(value)


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"'{name}' is missing" if value is None else f"'{name}' is {value!r}, not a text")
    return value


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width); None if one is missing or 0, as some programs write."""
    sides = []
    for name in ("height", "width"):
        value = entry.get(name) or 0
        try:
            side = int(value)
            whole = side == float(value) and side >= 0
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise DataError(f"'{name}' is {value!r}, not a number of pixels")
        sides.append(side)
    height, width = sides
    if height * width > MOST_PIXELS:
        raise DataError(f"height {height} and width {width} are too large for an image")
    return (height, width) if height and width else None


def _area(entry: dict[str, Any]) -> float | None:
    """Return the area; None if there is none that can be used."""
    value = entry.get("area")
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= MOST_PIXELS else None


def _corners(polygon: Any, longer_side: int) -> bytes:
    try:
        values = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty((0, 0))
    if values.ndim != 1 or len(values) % 2:
        raise DataError("a polygon is not a list of numbers x0, y0, x1, y1, ...")
    # One comparison for all corners, which is False for NaN as well.
    if len(values) and not np.abs(values).max() <= FAR_OUTSIDE * longer_side:
        raise DataError("a polygon has corners far outside the image")
    return values.tobytes()


def _counts(segmentation: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """Return compressed run lengths that add up to the image's size."""
    height, width = size
    given, counts = segmentation.get("size"), segmentation.get("counts")
    if given is not None and given != [height, width]:
        raise DataError(f"its run lengths are for an image of {given!r}, not of [{height}, {width}] (height, width)")
    runs = _decoded(counts) if isinstance(counts, str) else _listed(counts)
    if runs is None or runs.min(initial=0) < 0 or runs.max(initial=0) > MOST_PIXELS:
        raise DataError("its run lengths are damaged")
    if (total := int(runs.sum())) != height * width:
        raise DataError(f"its run lengths add up to {total} pixels, the image has {height} x {width} (height x width)")
    if isinstance(counts, str):
        return counts.encode()
    code: Any = run_lengths.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    packed: bytes = code["counts"]
    return packed


def _listed(counts: Any) -> NDArray[np.int64] | None:
    """Return a list of run lengths as an array; None if they are not whole numbers."""
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) <= MOST_PIXELS for count in counts):
        return None
    return np.array(counts, np.int64)


def _decoded(counts: str) -> NDArray[np.int64] | None:
    """Return the run lengths of COCO's compressed form; None if it is damaged.

    Each character carries 6 bits above '0': five bits of a number, the lowest first, and whether the number continues
    (32). The highest of its bits is the sign. From the fourth number on, a number is the difference to the run before
    the last one.
    """
    codes = np.frombuffer(counts.encode(errors="replace"), np.uint8).astype(np.int64) - ord("0")
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    starts = np.flatnonzero(np.concatenate([[True], (codes[:-1] & 32) == 0]))
    lengths = np.diff(starts, append=len(codes))
    if lengths.max() > 7:  # 35 bits: more than any number of pixels
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    negative = (codes[starts + lengths - 1] & 16) != 0
    numbers -= negative.astype(np.int64) << (5 * lengths)
    runs = numbers.copy()
    for first in (1, 2):  # runs 3, 5, ... continue run 1, and runs 4, 6, ... continue run 2
        runs[first::2] = np.cumsum(numbers[first::2])
    return runs
