"""COCO: annotations/instances_*.json beside folders of images, or _annotations.coco.json in each folder of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.coco_annotations import ImageEntry, Instances, Region, read_instances, refuse_entries
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, default_splits, list_names, with_unique_ids
from data.errors import DataError
from data.file_names import FileNames
from data.image_files import find_images, image_id
from data.images import image_size

PREFIX = "instances_"
BESIDE_IMAGES = "_annotations.coco.json"  # Roboflow's file in train/, valid/ and test/
PARENTS = ("", "images", "JPEGImages")  # folders in which train2014/ and val2014/ are found in practice
FEW_UNANNOTATED = 0.1  # fraction of images; if more have no annotation, most are probably not annotated yet
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
        for region in reversed(self.regions):
            mask[region.draw(self.height, self.width)] = region.class_index
        return mask


class AnnotationFile(NamedTuple):
    """What one annotation file gives; see `Dataset` for `unlabelled`, `missing`, `warnings` and `counted`."""

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    unlabelled: tuple[Sample, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    counted: tuple[str, ...]


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
    same names.

    Images without annotations show none of the classes if they are beside Roboflow's file, which has only images that
    were looked at, or if they are few: COCO has 1 % of them, which published results leave out (82,081 of the 82,783
    images of train2014 remain). Otherwise they have no labels.

    Splits of which images are missing cannot be used; the others can.

    Args:
        root: The folder.
        skip_bad: Skip images whose file is missing.

    Raises:
        DataError: An annotation file is damaged, two files have different categories, or no split has images.
    """
    paths = find_coco(root)
    train, _ = default_splits(paths)
    files: dict[str, AnnotationFile] = {}
    incomplete: dict[str, str] = {}
    warned: list[str] = []
    class_names: tuple[str, ...] = ()  # of the training split, if it has images
    for split, path in sorted(paths.items(), key=lambda item: item[0] != train):
        specific, others = _image_folders(root, path, alone=len(paths) == 1)
        file = _read_file(path, root, (specific, others), class_names)
        if file is None:
            warned.append(f"{path.relative_to(root)} is skipped: its images are missing")
            places = list_names(str(folder) for folder in specific[:2])
            incomplete[split] = f"{path} has annotations, but its images are missing: put them into one of {places}"
            continue
        files[split], class_names = file, file.class_names
        warned += file.warnings
        if file.missing and not (skip_bad and file.samples):
            others_missing = len(file.missing) - 1
            more = f" (and {others_missing} more)" if others_missing else ""
            skip = ", or skip it with --skip-bad" if file.samples else ""
            incomplete[split] = f"{path}, {file.missing[0]}{more}{skip}"
    if incomplete and not any(file.samples for file in files.values()):
        raise DataError(next(iter(incomplete.values())))
    splits = with_unique_ids(
        {
            **{split: files[split].samples for split in paths if split in files},
            "": tuple(sample for file in files.values() for sample in file.unlabelled),
        },
        root,
    )
    unlabelled = {sample.image: sample for sample in splits.pop("")}
    labelled = {sample.image for samples in splits.values() for sample in samples}
    missing = tuple(line for file in files.values() for line in file.missing)
    return Dataset(
        root=root,
        layout="coco",
        class_names=class_names,
        splits=splits,
        train_split=train,
        val_split=default_splits({train: None, **splits})[1],
        warnings=tuple(warned),
        counted=(
            *((f"images that are missing, skipped: {len(missing)}",) if missing else ()),
            *(line for file in files.values() for line in file.counted),
        ),
        unlabelled=tuple(sample for image, sample in unlabelled.items() if image not in labelled),
        missing=missing,
        incomplete=incomplete,
    )


def _name_splits(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return {split: file}: the name without the year where that is unambiguous."""
    short = {name: name.rstrip("0123456789") or name for name in paths}
    times = Counter(short.values())
    return {short[name] if times[short[name]] == 1 else name: path for name, path in paths.items()}


def _image_folders(root: Path, path: Path, *, alone: bool) -> tuple[list[Path], list[Path]]:
    """Return the folders that only an annotation file's images are in, and those that may hold others as well.

    Args:
        root: The folder of the data set.
        path: The annotation file.
        alone: Whether there is no other.
    """
    if path.name == BESIDE_IMAGES:
        return [path.parent], []
    name = path.stem.removeprefix(PREFIX)
    kinds = (name, name.rstrip("0123456789") or name)
    specific = list(dict.fromkeys(root / parent / kind for kind in kinds for parent in PARENTS))
    shared = [root / parent for parent in PARENTS if parent]
    return ([*specific, *shared], [root]) if alone else (specific, [*shared, root])


def _read_file(
    path: Path, root: Path, folders: tuple[list[Path], list[Path]], class_names: tuple[str, ...]
) -> AnnotationFile | None:
    """Read an annotation file; None if its images are missing.

    Args:
        path: The file.
        root: The folder of the data set.
        folders: See `_image_folders`.
        class_names: The classes, if another split has given them.
    """
    specific, others = ([folder for folder in some if folder.is_dir()] for some in folders)
    if not (specific or others):  # avoids loading hundreds of megabytes
        return None
    content = read_instances(path)
    names = _image_names(content, specific, others, path)
    if names is None:
        return None
    class_names = class_names or tuple(content.categories.values())
    if unknown := [name for name in content.categories.values() if name not in class_names]:
        raise DataError(
            f"{path} has other categories than the training split, for example '{unknown[0]}': give all files the same "
            "categories"
        )
    samples, missing = _samples(content, names, class_names, path)
    told = _warnings(content, names, path, root)
    labelled, unlabelled = (tuple(one for one in samples if one.labelled is wanted) for wanted in (True, False))
    counted = (
        (
            f"images without annotation in {path.relative_to(root)}: {len(unlabelled)}, more than "
            f"{FEW_UNANNOTATED:.0%}, so that they are probably not annotated yet: not trained on "
            "(make-labels --image-labels predicted uses them)",
        )
        if unlabelled
        else ()
    )
    return AnnotationFile(class_names, labelled, unlabelled, missing, told, counted)


def _image_names(content: Instances, specific: list[Path], others: list[Path], path: Path) -> FileNames | None:
    """Return the names in the folder that has the images of a file; None if there is no such folder."""
    probed = content.images[:PROBED_IMAGES]
    for folder in (*specific, *others):
        if any(os.path.isfile(folder / image.file_name) for image in probed):
            return FileNames(folder, find_images(folder))
    listed = {folder: find_images(folder) for folder in (*specific, *others)}
    for folder, images in listed.items():  # names that are not exactly those of the files
        names = FileNames(folder, images)
        if any(names.find(image.file_name, f"{path}, {image.where}") for image in probed):
            return names
    # Images are there: if the file has other names, that is a mistake to be told.
    return next((FileNames(folder, listed[folder]) for folder in specific if listed[folder]), None)


def _samples(
    content: Instances, names: FileNames, class_names: tuple[str, ...], path: Path
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return the images, and a line for each of those that have labels but no file."""
    number_of = {name: number for number, name in enumerate(class_names, start=1)}
    class_of = {key: number_of[name] for key, name in content.categories.items()}
    negatives = _shows_negatives(content, path)
    outlined = any(one.segmentation for image in content.images for one in image.annotations)
    samples: dict[str, Sample] = {}
    missing, problems = [], []
    for image in sorted(content.images, key=lambda image: not image.annotations):
        labelled = bool(image.annotations) or negatives
        file = names.find(image.file_name, f"{path}, {image.where}")
        if file is None:
            if labelled:
                missing.append((image.where, image.file_name))
            continue
        if file in samples:
            if image.annotations:
                problems.append(f"{image.where}: another entry has the same file_name '{image.file_name}'")
            continue
        classes = tuple(sorted({class_of[annotation.category] for annotation in image.annotations}))
        try:
            mask = _mask(image, names.folder / file, class_of, path) if labelled and outlined else None
        except DataError as error:
            problems.append(str(error))
            continue
        samples[file] = Sample(
            id=image_id(file), image=names.folder / file, classes=classes, mask=mask, labelled=labelled
        )
    refuse_entries(path, problems)
    return tuple(samples.values()), names.describe_all_missing(missing)


def _shows_negatives(content: Instances, path: Path) -> bool:
    """Whether images without annotation show none of the classes; otherwise they are probably not annotated yet."""
    unannotated = sum(not image.annotations for image in content.images)
    return path.name == BESIDE_IMAGES or unannotated <= FEW_UNANNOTATED * len(content.images)


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


def _warnings(content: Instances, names: FileNames, path: Path, root: Path) -> tuple[str, ...]:
    file = path.relative_to(root)
    texts = list(names.warnings(str(file)))
    unannotated = sum(not image.annotations for image in content.images)
    if unannotated and _shows_negatives(content, path):
        texts.append(
            f"images without annotation in {file}: {unannotated}, read as images that show none of the classes"
        )
    if content.stray:
        texts.append(
            f"annotations of images that {file} does not have, skipped: {len(content.stray)}, for example "
            f"{content.stray[0]}"
        )
    return tuple(texts)
