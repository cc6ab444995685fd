"""Pascal VOC: JPEGImages/, Annotations/, ImageSets/, SegmentationClass/ and SegmentationClassAug/."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from xml.etree import ElementTree

from data.class_names import NO_CLASSES, canonical_name, doubtful_names, in_order
from data.dataset import TRAIN_NAMES, Dataset, Sample, default_splits, list_names
from data.errors import DataError, reason
from data.file_names import FileNames
from data.images import find_images, find_masks, image_id
from data.text_files import COMMENT, read_text
from data.written_folders import written_by_toco

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

# Both names of train_aug are in use: 10,582 images, with the additional masks of Hariharan et al. (ICCV 2011).
LIST_FILES = {
    "train": ("train.txt",),
    "train_aug": ("train_aug.txt", "trainaug.txt"),
    "val": ("val.txt",),
}
IMAGE_FOLDERS = ("JPEGImages", "images")  # the second names are in use for own data, without lists
ANNOTATION_FOLDERS = ("Annotations", "annotations")
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main")

# 'a 1', or 'JPEGImages/a.jpg SegmentationClassAug/a.png'.
FOLLOWED_BY_FLAG_OR_MASK = re.compile(r"(.*?\S)\s+(?:-?[01]|\S*/.*)")

LABEL_MAP = "labelmap.txt"
CLASS_FILES = ("classes.txt", LABEL_MAP)  # of toco, CVAT and Datumaro; the first one that exists is read


def find_voc(root: Path) -> Path | None:
    """Return the folder that has images and ImageSets/ or annotations: `root`, one in it, or one in its VOCdevkit/."""
    folders = (root, *_newest_first(root), *_newest_first(root / "VOCdevkit"))
    return next((folder for folder in folders if _is_voc(folder)), None)


def read_voc(folder: Path, *, skip_bad: bool = False) -> Dataset:
    """Read the folder found by `find_voc`.

    Image labels are the classes of all boxes, including those marked as difficult, as is usual in weak supervision.
    Masks are optional; those in SegmentationClassAug/ take precedence. The classes are those of classes.txt or
    labelmap.txt; without such a file, the 20 classes of Pascal VOC if no annotation has another one, else those of the
    annotations, sorted. Without lists of images, all images with an annotation are training images.

    Args:
        folder: The folder.
        skip_bad: Skip listed images whose file is missing, instead of raising an error.

    Raises:
        DataError: A listed image or its annotation is missing, or an annotation is damaged or has an unknown class.
    """
    pictures = _part(folder, IMAGE_FOLDERS)
    names = FileNames(pictures, find_images(pictures))
    lists = _read_lists(folder)
    found = {split: _find_listed(lines, names, f"list '{split}' of {folder}") for split, lines in lists.items()}
    missing = tuple(problem for _, problems in found.values() for problem in problems)
    if missing and not skip_bad:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more}, or skip it with --skip-bad")
    files = dict.fromkeys(file for listed, _ in found.values() for file in listed)  # splits share images
    labels = _read_labels(folder, files)
    class_names, warnings = _class_names(folder, labels)
    numbers = {name: number for number, name in enumerate(class_names, start=1)}
    masks = find_masks(folder / "SegmentationClass") | find_masks(folder / "SegmentationClassAug")
    samples = {
        file: Sample(
            id=image_id(file),
            image=pictures / file,
            classes=tuple(sorted(numbers[name] for name in labels[file])),
            mask=masks.get(image_id(file)),
        )
        for file in files
    }
    splits = {split: tuple(samples[file] for file in listed) for split, (listed, _) in found.items()}
    train_split, val_split = default_splits(splits)
    return Dataset(
        root=folder,
        layout="voc",
        class_names=class_names,
        splits=splits,
        train_split="train_aug" if "train_aug" in splits else train_split,
        val_split=val_split,
        warnings=(*names.warnings("the lists of images"), *warnings),
        counted=(f"listed images that are missing, skipped: {len(missing)}",) if missing else (),
        missing=missing,
    )


def _is_voc(folder: Path) -> bool:
    has_lists = (folder / IMAGE_FOLDERS[0]).is_dir() and (folder / "ImageSets").is_dir()
    return has_lists or (_part(folder, IMAGE_FOLDERS).is_dir() and any(_part(folder, ANNOTATION_FOLDERS).glob("*.xml")))


def _part(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of these folders that exists; if there is none, the first."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and not written_by_toco(path)), reverse=True)


def _read_lists(folder: Path) -> dict[str, list[str]]:
    """Return {split: lines} of the lists of images; without lists, one of all annotations."""
    if files := _find_lists(folder):
        return {split: read_text(path).splitlines() for split, path in files.items()}
    if (folder / "ImageSets").is_dir():
        raise DataError(
            f"{folder} has neither ImageSets/Segmentation/train.txt nor ImageSets/Main/train.txt: add the lists"
        )
    return {TRAIN_NAMES[0]: [path.stem for path in sorted(_part(folder, ANNOTATION_FOLDERS).glob("*.xml"))]}


def _find_lists(folder: Path) -> dict[str, Path]:
    """Return {split: list}: those of the known names, or all if no training list is among them."""
    others: dict[str, Path] = {}
    for kind in LIST_FOLDERS:
        known = {
            split: path
            for split, names in LIST_FILES.items()
            for path in (folder / kind / name for name in reversed(names))  # the first name wins
            if path.is_file()
        }
        if "train" in known or "train_aug" in known:
            return known
        paths = {path.stem: path for path in sorted((folder / kind).glob("*.txt"))}
        # cat_train.txt and the like list the images of one class.
        lists = {name: path for name, path in paths.items() if not any(name.endswith(f"_{one}") for one in paths)}
        others = others or lists
    return others


def _find_listed(lines: list[str], names: FileNames, where: str) -> tuple[list[str], list[str]]:
    """Return the listed files, and a line for each one that is missing.

    Raises:
        DataError: Two lines name the same file, or a line could be any of several.
    """
    lines_of: dict[str, int] = {}
    missing = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        file = next((file for one in _possible_names(line) if (file := names.find(one, place))), None)
        if file is None:
            missing.append(f"{place}: {names.describe_missing(_possible_names(line)[-1])}")
        elif (first := lines_of.setdefault(file, number)) != number:
            raise DataError(f"{place}: image '{file}' is in line {first} as well: remove one")
    return list(lines_of), missing


def _possible_names(line: str) -> tuple[str, ...]:
    """Return what a line may name: an id or the path of an image, which may contain blanks."""
    name = re.sub(r"^.*?JPEGImages[/\\]", "", line.strip()).lstrip("/")
    followed = FOLLOWED_BY_FLAG_OR_MASK.fullmatch(name)
    return (name, followed[1]) if followed else (name,)


def _read_labels(folder: Path, files: Mapping[str, None]) -> dict[str, frozenset[str]]:
    """Return the class names of each image."""
    annotations = _part(folder, ANNOTATION_FOLDERS)
    paths = sorted(annotations.rglob("*.xml")) if annotations.is_dir() else []
    names = FileNames(annotations, [path.relative_to(annotations).as_posix() for path in paths])
    labels: dict[str, frozenset[str]] = {}
    missing = []
    for file in files:
        found = names.find(image_id(file), f"image '{file}'")
        if found is None:
            missing.append(annotations / f"{image_id(file)}.xml")
        else:
            labels[file] = _read_classes(annotations / found)
    if missing:
        more = f" (and those of {len(missing) - 1} more images)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]} is missing{more}: add it, since it has the labels of the image")
    return labels


def _read_classes(path: Path) -> frozenset[str]:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    names = frozenset(canonical_name(item.findtext("name", "")) for item in root.iterfind("object"))
    if "" in names:
        raise DataError(f"{path} has an object without a name: write its class")
    return names


def _class_names(folder: Path, labels: Mapping[str, frozenset[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes in the order of their numbers, and warnings."""
    counts = Counter(name for names in labels.values() for name in names)
    used = in_order(counts)
    path = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    if path is None:
        if set(used) <= set(CLASS_NAMES):
            return CLASS_NAMES, ()
        if doubtful := doubtful_names(counts):
            name = next(iter(doubtful))
            first = next(file for file, names in labels.items() if name in names)
            raise DataError(
                f"{folder}: class '{name}' of '{first}' {doubtful[name]}; if it is a class, write all classes into "
                f"{CLASS_FILES[0]}"
            )
        unnumbered = (
            f"the classes are numbered in the order of their names ({list_names(used)}): if the masks have other "
            f"numbers, write {CLASS_FILES[0]}, one class per line in the order of its number",
        )
        return used, unnumbered if (folder / "SegmentationClass").is_dir() else ()
    class_names = _read_class_file(path, used)
    if unlisted := [name for name in used if name not in class_names]:
        first = next(file for file, names in labels.items() if unlisted[0] in names)
        raise DataError(
            f"{path} has no class {list_names(unlisted)}, but the annotation of '{first}' has '{unlisted[0]}': correct "
            f"one of them ({path.name} has {list_names(class_names)})"
        )
    return class_names, ()


def _read_class_file(path: Path, used: Collection[str]) -> tuple[str, ...]:
    """Return the classes of a list, or of a label map, whose lines are name:colour:parts:actions."""
    lines = read_text(path).splitlines()
    names = [canonical_name(line.split(":")[0] if path.name == LABEL_MAP else line) for line in lines]
    return tuple(
        name
        for name in names
        if name in used or not (name == "" or name.lower() in NO_CLASSES or name.startswith(COMMENT))
    )
