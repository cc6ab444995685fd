"""COCO: annotations/instances_*.json beside folders of images, or _annotations.coco.json in each folder of images."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.coco_annotations import ImageEntry, Instances, Region, read_instances, refuse_entries
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, default_splits, list_names
from data.errors import DataError
from data.file_names import FileNames
from data.images import find_images, image_id, image_size

PREFIX = "instances_"
BESIDE_IMAGES = "_annotations.coco.json"  # Roboflow's file in train/, valid/ and test/
PARENTS = ("", "images", "JPEGImages")  # folders in which train2014/ and val2014/ are found in practice
PROBED_IMAGES = 100  # a folder is the right one if it has one of the first images of the annotation file


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
                mask[region.draw(self.height, self.width)] = region.class_index
        return mask


class AnnotationFile(NamedTuple):
    """What one annotation file gives; see `Dataset` for `missing` and `warnings`."""

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]


def find_coco(root: Path) -> dict[str, Path]:
    """Return {split: annotation file} of a COCO folder; empty if it is not one.

    instances_train2014.json is the split 'train', or 'train2014' if there is a train2017 as well. Roboflow's files have
    the names of their folders. If none is called instances_*, the files train.json, val.json and so on are taken.
    """
    files = sorted((root / "annotations").glob(f"{PREFIX}*.json"))
    if files:
        return _name_splits({path.stem.removeprefix(PREFIX): path for path in files})
    if files := sorted(root.glob(f"*/{BESIDE_IMAGES}")):
        return {path.parent.name: path for path in files}
    if (root / BESIDE_IMAGES).is_file():
        return {TRAIN_NAMES[0]: root / BESIDE_IMAGES}
    begin = (*TRAIN_NAMES, *VAL_NAMES)
    files = sorted(path for path in (root / "annotations").glob("*.json") if path.stem.lower().startswith(begin))
    return _name_splits({path.stem: path for path in files})


def read_coco(root: Path, *, skip_bad: bool = False) -> Dataset:
    """Read every annotation file whose images exist.

    The classes are the categories of the training split, sorted by their ids; other splits may have other ids for the
    same names. Images without annotations are skipped, as in published results: 82,081 of the 82,783 images of
    train2014 remain.

    Args:
        root: The folder.
        skip_bad: Skip images whose file is missing, instead of raising an error.

    Raises:
        DataError: An annotation file is damaged, two files have different categories, or images are missing.
    """
    paths = find_coco(root)
    train, _ = default_splits(paths)
    files: dict[str, AnnotationFile] = {}
    skipped: list[str] = []
    class_names: tuple[str, ...] = ()  # of the training split, if it has images
    for split, path in sorted(paths.items(), key=lambda item: item[0] != train):
        file = _read_file(path, root, class_names, skip_bad)
        if file is None:
            skipped.append(f"{path.relative_to(root)} is skipped: its images are missing")
            continue
        files[split], class_names = file, file.class_names
        skipped += file.warnings
    if not files:
        names = list_names(str(folder) for folder in _image_folders(root, next(iter(paths.values())))[:2])
        raise DataError(f"{root} has annotations but no images: put the images into one of {names}")
    splits = {split: files[split].samples for split in paths if split in files}
    missing = tuple(name for file in files.values() for name in file.missing)
    train_split, val_split = default_splits(splits)
    return Dataset(
        root=root,
        layout="coco",
        class_names=class_names,
        splits=_with_unique_ids(splits, root),
        train_split=train_split,
        val_split=val_split,
        warnings=tuple(skipped),
        counted=(f"images that are missing, skipped: {len(missing)}",) if missing else (),
        missing=missing,
    )


def _name_splits(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return {split: file}: the name without the year where that is unambiguous."""
    short = {name: name.rstrip("0123456789") or name for name in paths}
    times = Counter(short.values())
    return {short[name] if times[short[name]] == 1 else name: path for name, path in paths.items()}


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Return the folders that may hold the images of an annotation file, the most specific first."""
    if path.name == BESIDE_IMAGES:
        return [path.parent]
    name = path.stem.removeprefix(PREFIX)
    specific = [root / parent / kind for kind in (name, name.rstrip("0123456789")) for parent in PARENTS]
    return [*dict.fromkeys(specific), root / "images", root / "JPEGImages", root]


def _read_file(path: Path, root: Path, class_names: tuple[str, ...], skip_bad: bool) -> AnnotationFile | None:
    """Read an annotation file; None if its images are missing.

    Args:
        path: The file.
        root: The folder of the data set.
        class_names: The classes, if another split has given them.
        skip_bad: See `read_coco`.
    """
    folders = [folder for folder in _image_folders(root, path) if folder.is_dir()]
    if not folders:  # avoids loading hundreds of megabytes
        return None
    content = read_instances(path)
    names = _image_names(content, folders, path)
    if names is None:
        return None
    class_names = class_names or tuple(content.categories.values())
    if unknown := [name for name in content.categories.values() if name not in class_names]:
        raise DataError(
            f"{path} has other categories than the training split, for example '{unknown[0]}': give all files the same "
            "categories"
        )
    samples, missing = _samples(content, names, class_names, path)
    if missing and not skip_bad:
        more = f" (and {len(missing) - 1} more of {len(content.images)} images)" if len(missing) > 1 else ""
        raise DataError(f"{path}, {missing[0]}{more}, or skip it with --skip-bad")
    return AnnotationFile(class_names, samples, missing, _warnings(content, names, path.relative_to(root)))


def _image_names(content: Instances, folders: list[Path], path: Path) -> FileNames | None:
    """Return the names in the folder that has the images of a file; None if there is no such folder."""
    probed = content.images[:PROBED_IMAGES]
    for folder in folders:
        if any(os.path.isfile(folder / image.file_name) for image in probed):
            return FileNames(folder, find_images(folder))
    for folder in folders:  # names that are not exactly those of the files
        names = FileNames(folder, find_images(folder))
        if any(names.find(image.file_name, f"{path}, {image.where}") for image in probed):
            return names
    return None


def _samples(
    content: Instances, names: FileNames, class_names: tuple[str, ...], path: Path
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return the images that have annotations, and a line for each of those whose file is missing."""
    number_of = {name: number for number, name in enumerate(class_names, start=1)}
    class_of = {key: number_of[name] for key, name in content.categories.items()}
    samples: dict[str, Sample] = {}
    missing, problems = [], []
    for image in content.images:
        if not image.annotations:
            continue
        file = names.find(image.file_name, f"{path}, {image.where}")
        if file is None:
            missing.append(f"{image.where}: {names.describe_missing(image.file_name)}")
            continue
        if file in samples:
            problems.append(f"{image.where}: another entry has the same file_name '{image.file_name}'")
            continue
        classes = tuple(sorted({class_of[annotation.category] for annotation in image.annotations}))
        try:
            mask = _mask(image, names.folder / file, class_of, path)
        except DataError as error:
            problems.append(str(error))
            continue
        samples[file] = Sample(id=image_id(file), image=names.folder / file, classes=classes, mask=mask)
    refuse_entries(path, problems)
    return tuple(samples.values()), tuple(missing)


def _mask(image: ImageEntry, file: Path, class_of: Mapping[str, int], path: Path) -> CocoMask | None:
    """Return the mask of an image; None if an object has only a box, since the mask would be incomplete.

    Raises:
        DataError: An outline is damaged. The message names the annotation.
    """
    if not all(annotation.segmentation for annotation in image.annotations):
        return None
    try:
        height, width = image.size or image_size(file)
    except DataError:  # the image cannot be read, which is reported when it is needed
        return None
    regions: list[tuple[float, Region]] = []
    for annotation in image.annotations:
        try:
            region = annotation.region(class_of[annotation.category], (height, width))
        except DataError as error:
            raise DataError(f"{annotation.where} of image '{image.file_name}': {error}") from error
        if region is not None:
            area = annotation.area
            regions.append((region.area(height, width) if area is None else area, region))
    source = f"the mask of '{image.file_name}' in {path}"
    by_area = sorted(regions, key=lambda pair: pair[0])
    return CocoMask(source, height, width, tuple(region for _, region in by_area))


def _warnings(content: Instances, names: FileNames, path: Path) -> tuple[str, ...]:
    texts = list(names.warnings(str(path)))
    if unlabelled := sum(not image.annotations for image in content.images):
        texts.append(f"images without annotation in {path}, skipped: {unlabelled}")
    if content.stray:
        texts.append(
            f"annotations of images that {path} does not have, skipped: {len(content.stray)}, for example "
            f"{content.stray[0]}"
        )
    return tuple(texts)


def _with_unique_ids(splits: Mapping[str, tuple[Sample, ...]], root: Path) -> dict[str, tuple[Sample, ...]]:
    """Return the splits with ids from the paths below `root`, if two splits have different images of one id.

    For example train/1.jpg and val/1.jpg, which their annotation files both call 1.jpg.
    """
    images: dict[str, Path] = {}
    clash = any(
        images.setdefault(sample.id, sample.image) != sample.image for samples in splits.values() for sample in samples
    )
    if not clash:
        return dict(splits)
    return {
        split: tuple(replace(one, id=image_id(one.image.relative_to(root).as_posix())) for one in samples)
        for split, samples in splits.items()
    }
