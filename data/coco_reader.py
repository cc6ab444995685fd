"""COCO: annotations/instances_*.json beside the folders of images; labels and masks come from the annotations."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, list_names
from data.errors import DataError, reason
from data.images import escapes_folder, image_id

JsonObject = Mapping[str, Any]  # one object of the JSON file

PARENTS = ("", "images", "JPEGImages")  # folders in which train2014/ and val2014/ are found in practice
SECTIONS = ("images", "annotations", "categories")
PROBED_IMAGES = 100  # a folder is the right one if it has one of the first images of the annotation file


@dataclass(frozen=True, slots=True)
class Region:
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


@dataclass(frozen=True, slots=True)
class CocoMask:
    """The mask of one image, stored as outlines and drawn when it is read.

    Attributes:
        source: Name of the mask in messages.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        regions: The objects, sorted by area, smallest first.
    """

    source: str
    height: int
    width: int
    regions: tuple[Region, ...]

    def __str__(self) -> str:
        """Return the name of the mask for messages."""
        return self.source

    def read(self) -> NDArray[np.uint8]:
        """Draw the mask (height, width).

        Where objects overlap, the smaller one is on top. Crowd regions count as their class. No pixel is ignored. The
        masks used for published results on weak supervision were made by the same rules.
        """
        mask = np.zeros((self.height, self.width), np.uint8)
        with warnings.catch_warnings():  # pycocotools 2.0.11 does not yet follow a change in numpy 2
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            for region in reversed(self.regions):
                mask[self._draw(region)] = region.class_index
        return mask

    def _draw(self, region: Region) -> NDArray[np.bool_]:
        code: Any = {"size": [self.height, self.width], "counts": region.counts}
        if region.polygons:
            polygons: Any = [np.frombuffer(polygon) for polygon in region.polygons]
            code = run_lengths.merge(run_lengths.frPyObjects(polygons, self.height, self.width))
        return np.asarray(run_lengths.decode(code), bool)


class AnnotationFile(NamedTuple):
    """Content of one instances_*.json; `unlabelled` counts the images without annotations, which are not samples."""

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    unlabelled: int


def find_coco(root: Path) -> list[Path]:
    """Return the annotation files of a COCO folder, sorted; empty if it is not a COCO folder."""
    return sorted((root / "annotations").glob("instances_*.json"))


def read_coco(root: Path) -> Dataset:
    """Read every annotations/instances_*.json whose images exist.

    instances_train2014.json becomes the split 'train', or 'train2014' if there is a train2017 as well. The classes are
    the categories, sorted by their ids. Images without annotations are skipped, as in published results: 82,081 of the
    82,783 images of train2014 remain.

    Raises:
        DataError: An annotation file is damaged, two files have different categories, or there are no images.
    """
    files: dict[str, AnnotationFile] = {}
    skipped: list[str] = []
    for split, path in _name_splits(find_coco(root)).items():
        file = _read_file(path, root)
        if file is None:
            skipped.append(f"annotations/{path.name} is skipped: its images are missing")
            continue
        files[split] = file
        if file.unlabelled:
            skipped.append(f"images without annotation in {path.name}, skipped: {file.unlabelled}")
        if file.class_names != next(iter(files.values())).class_names:
            raise DataError(
                f"{path} has other categories than split '{next(iter(files))}': give both files the same categories"
            )
    if not files:
        names = list_names(str(folder) for folder in _image_folders(root, find_coco(root)[0])[:2])
        raise DataError(f"{root} has annotations/ but no images: put the images into one of {names}")
    return Dataset(
        root=root,
        layout="coco",
        class_names=next(iter(files.values())).class_names,
        splits={split: file.samples for split, file in files.items()},
        train_split=_first_with_prefix(TRAIN_NAMES, files) or TRAIN_NAMES[0],
        val_split=_first_with_prefix(VAL_NAMES, files),
        warnings=tuple(skipped),
    )


def _name_splits(paths: list[Path]) -> dict[str, Path]:
    """Return {split: file}: the file name without 'instances_', and without the year where that is unambiguous."""
    full = [path.stem.removeprefix("instances_") for path in paths]
    short = [name.rstrip("0123456789") or name for name in full]
    times = Counter(short)
    return {brief if times[brief] == 1 else name: path for brief, name, path in zip(short, full, paths, strict=True)}


def _first_with_prefix(prefixes: tuple[str, ...], splits: dict[str, AnnotationFile]) -> str | None:
    return next((split for prefix in prefixes for split in splits if split.startswith(prefix)), None)


def _read_file(path: Path, root: Path) -> AnnotationFile | None:
    """Read an annotation file; None if its images are missing."""
    folders = [folder for folder in _image_folders(root, path) if folder.is_dir()]
    if not folders:  # avoids loading hundreds of megabytes
        return None
    try:
        coco = _load(path)
        names = [image["file_name"] for image in coco.imgs.values()][:PROBED_IMAGES]
        folder = next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)
        if folder is None:
            return None
        class_names = tuple(coco.cats[number]["name"] for number in sorted(coco.cats))
        samples = _samples(coco, folder, path)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} is not a file of COCO instances: a key or value is missing or wrong ({reason(error)})"
        ) from error
    return AnnotationFile(class_names, samples, unlabelled=len(coco.imgs) - len(samples))


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Return the folders that may hold the images of an annotation file, the most specific first."""
    name = path.stem.removeprefix("instances_")
    specific = [root / parent / kind for kind in (name, name.rstrip("0123456789")) for parent in PARENTS]
    return [*dict.fromkeys(specific), root / "images", root / "JPEGImages", root]


def _load(path: Path) -> COCO:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {reason(error)}; download or write it again") from error
    lacking = [name for name in SECTIONS if not isinstance(content, dict) or name not in content]
    if lacking:
        raise DataError(f"{path} is not a file of COCO instances: it lacks {list_names(lacking)}")
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # createIndex prints its progress
        coco.createIndex()
    return coco


def _samples(coco: COCO, folder: Path, path: Path) -> tuple[Sample, ...]:
    class_of = {number: index for index, number in enumerate(sorted(coco.cats), start=1)}
    samples: list[Sample] = []
    for number, image in coco.imgs.items():
        annotations = coco.imgToAnns.get(number, [])
        if not annotations:
            continue
        name = image["file_name"]
        if escapes_folder(name):
            raise DataError(f"{path}: image '{name}' is outside {folder}: write a path below it")
        for annotation in annotations:
            if annotation["category_id"] not in class_of:
                raise DataError(f"{path}: image '{name}' has the unknown category {annotation['category_id']}")
        classes = tuple(sorted({class_of[annotation["category_id"]] for annotation in annotations}))
        mask = _mask(image, annotations, class_of, path)
        samples.append(Sample(id=image_id(name), image=folder / name, classes=classes, mask=mask))
    return tuple(samples)


def _mask(
    image: JsonObject, annotations: Sequence[JsonObject], class_of: dict[int, int], path: Path
) -> CocoMask | None:
    """Return the mask of an image; None if an object has only a box, since the mask would be incomplete."""
    if not all(annotation.get("segmentation") for annotation in annotations):
        return None
    source = f"the mask of '{image['file_name']}' in {path}"
    size = (image["height"], image["width"])
    by_area = sorted(annotations, key=lambda annotation: float(annotation["area"]))
    regions = [
        _region(annotation["segmentation"], class_of[annotation["category_id"]], size, source) for annotation in by_area
    ]
    return CocoMask(source, *size, tuple(region for region in regions if region is not None))


def _region(segmentation: Any, class_index: int, size: tuple[int, int], source: str) -> Region | None:
    """Return a region; None if it has no area.

    Lists of run lengths must add up to the image's size: pycocotools does not check, and would return random pixels.
    """
    if isinstance(segmentation, list):  # fewer than three corners have no area
        polygons = tuple(array("d", polygon).tobytes() for polygon in segmentation if len(polygon) >= 6)
        return Region(class_index, polygons=polygons) if polygons else None
    counts = segmentation["counts"]
    fits = tuple(segmentation["size"]) == size
    if isinstance(counts, list):
        fits = fits and sum(counts) == size[0] * size[1]
        counts = run_lengths.frPyObjects(segmentation, *size)["counts"]
    if not fits or not counts:
        raise DataError(
            f"{source}: a region does not have the size of the image, {size[0]} x {size[1]} (height x width)"
        )
    return Region(class_index, counts=counts.encode() if isinstance(counts, str) else counts)
