"""Pascal VOC: JPEGImages/, Annotations/, ImageSets/, SegmentationClass/ and SegmentationClassAug/."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from data.class_list import refuse_misnamed
from data.class_names import NO_CLASSES, canonical_name, doubtful_names, in_order
from data.dataset import (
    TRAIN_NAMES,
    VAL_NAMES,
    Dataset,
    Sample,
    default_splits,
    drop_same_ids,
    list_names,
    with_unique_ids,
)
from data.errors import DataError, reason
from data.file_names import FileNames
from data.image_files import find_images, find_images_and_unread, find_masks, image_id, is_skipped
from data.images import MaskFile
from data.mask_agreement import distinct_values
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

# Both names of train_aug are in use: 10,582 images, with the additional masks of Hariharan et al. (ICCV 2011). Other
# data sets also use valid.txt and validation.txt.
LIST_FILES = {
    "train": ("train.txt",),
    "train_aug": ("train_aug.txt", "trainaug.txt"),
    "val": ("val.txt", "valid.txt", "validation.txt"),
}
IMAGE_FOLDERS = ("JPEGImages", "images")  # the second names are in use for own data, without lists
ANNOTATION_FOLDERS = ("Annotations", "annotations")
YEAR = re.compile(r"VOC\d{4}")  # names of the published folders
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main")

PROBED_MASKS = 20  # masks of one folder that are read to find out how they number the classes

# 'a 1', or 'JPEGImages/a.jpg SegmentationClassAug/a.png'.
FOLLOWED_BY_FLAG_OR_MASK = re.compile(r"(.*?\S)\s+(?:-?[01]|\S*/.*)")

LABEL_MAP = "labelmap.txt"
CLASS_FILES = ("classes.txt", LABEL_MAP)  # of toco, CVAT and Datumaro; the first one that exists is read


class Part(NamedTuple):
    """One folder of images with their annotations.

    Attributes:
        pictures: The folder of the images.
        splits: {split: listed images}; images are relative to `pictures`.
        labels: {image: class names} of all listed images.
        unlabelled: Images without an annotation, if there are no lists.
        masks: The ground-truth masks by image id.
        missing: {split: one line for each listed image without a file}.
        warnings: See `Dataset`.
    """

    pictures: Path
    splits: dict[str, list[str]]
    labels: dict[str, frozenset[str]]
    unlabelled: tuple[str, ...]
    masks: dict[str, MaskFile]
    missing: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]


def find_voc(root: Path) -> dict[str, Path]:
    """Return the folders to read, which have images and ImageSets/ or annotations; empty if there are none.

    It is one, with the key '': `root`, the only such folder in it or in its VOCdevkit/, or the newest of VOC2007,
    VOC2012 and so on. Or there are several, train/, valid/ and test/ without lists, with their names as keys.

    Raises:
        DataError: It cannot be told which of several folders is the data set.
    """
    if _is_voc(root):
        return {"": root}
    inside = [*_folders(root), *_folders(root / "VOCdevkit")]
    found = [folder for folder in inside if _is_voc(folder)]
    if not found:
        return {}
    if all(YEAR.fullmatch(folder.name) for folder in found):
        return {"": max(found, key=lambda folder: folder.name)}
    if len(found) == 1 and _has_lists(found[0]):
        return {"": found[0]}
    names = (*TRAIN_NAMES, *VAL_NAMES)
    splits = [
        folder
        for folder in inside
        if folder.name.lower().startswith(names) and _part(folder, IMAGE_FOLDERS).is_dir() and not _has_lists(folder)
    ]
    if len(splits) > 1 and set(found) <= set(splits):
        return {folder.name: folder for folder in splits}
    around = {folder.parent for folder in found}
    others = [folder for folder in inside if folder not in (*found, *around) and find_images(folder)]
    if len(found) > 1 or others:
        told = list_names(str(folder.relative_to(root)) for folder in found)
        beside = f" beside images in {list_names(str(folder.relative_to(root)) for folder in others)}" if others else ""
        raise DataError(
            f"{root} holds images and annotations of Pascal VOC in {told}{beside}: give the path of one folder, move "
            f"all images and annotations into one {IMAGE_FOLDERS[0]}/ and {ANNOTATION_FOLDERS[0]}/, or name the "
            "folders 'train' and 'val' if they are splits"
        )
    return {"": found[0]}


def read_voc(root: Path, *, skip_bad: bool = False) -> Dataset:
    """Read the folders found by `find_voc`.

    Image labels are the classes of all boxes, including those marked as difficult, as is usual in weak supervision.
    Masks are optional; those in SegmentationClassAug/ take precedence. The classes are those of classes.txt or
    labelmap.txt; without such a file, the 20 classes of Pascal VOC if the masks have their numbers or most of them
    occur, else those of the annotations, sorted. Without lists of images, all images with an annotation are training
    images, or images of the split after which their folder is named. The others have no labels.

    Splits of which images are missing cannot be used; the others can.

    Args:
        root: The folder.
        skip_bad: Skip listed images whose file is missing.

    Raises:
        DataError: The annotation of a listed image is missing, or an annotation is damaged or has an unknown class.
    """
    folders = find_voc(root)
    if "" in folders and folders[""] != root:
        folder = folders[""]
        beside = [other for other in _folders(folder.parent) if YEAR.fullmatch(other.name) and other != folder]
        not_read = list_names(other.name for other in beside if _is_voc(other))
        root, warnings = folder, [f"{folder} is read, but not {not_read} beside it"] if not_read != "none" else []
    else:
        warnings = [
            f"images in {folder} are not read"
            for folder in (_folders(root) if "" not in folders else ())
            if folder not in folders.values() and find_images(folder)
        ]
    parts = [_read_part(folder, split) for split, folder in folders.items()]
    incomplete = {
        split: _lacks_images(lines, bool(part.splits[split]))
        for part in parts
        for split, lines in part.missing.items()
        if lines and not (skip_bad and part.splits[split])
    }
    if incomplete and not any(part.labels for part in parts):
        raise DataError(next(iter(incomplete.values())))
    class_names, told = _class_names(root, list(folders.values()), parts)
    warnings += told
    numbers = {name: number for number, name in enumerate(class_names, start=1)}
    found: dict[str, list[Sample]] = defaultdict(list)
    for part in parts:
        samples = {
            file: Sample(
                id=image_id(file),
                image=part.pictures / file,
                classes=tuple(sorted(numbers[name] for name in names)),
                mask=part.masks.get(image_id(file)),
            )
            for file, names in part.labels.items()
        }
        for split, files in part.splits.items():
            found[split] += [samples[file] for file in files]
        found[""] += [
            Sample(
                id=image_id(file),
                image=part.pictures / file,
                classes=(),
                mask=part.masks.get(image_id(file)),
                labelled=False,
            )
            for file in part.unlabelled
        ]
        warnings += part.warnings
    splits = with_unique_ids({split: tuple(samples) for split, samples in found.items()}, root)
    unlabelled, dropped = drop_same_ids(splits.pop(""), (one for samples in splits.values() for one in samples))
    # A folder 'train' without annotations is still the training split.
    train_split, val_split = default_splits(dict.fromkeys((*filter(None, folders), *splits)))
    missing = tuple(line for part in parts for lines in part.missing.values() for line in lines)
    counts = {
        "listed images that are missing, skipped": len(missing),
        "images without an annotation, skipped (make-labels --image-labels predicted uses them)": len(unlabelled),
    }
    return Dataset(
        root=root,
        layout="voc",
        class_names=class_names,
        splits=splits,
        train_split="train_aug" if "train_aug" in splits else train_split,
        val_split=val_split if val_split in splits else None,
        warnings=(*warnings, *dropped),
        counted=tuple(f"{text}: {count}" for text, count in counts.items() if count),
        unlabelled=unlabelled,
        missing=missing,
        incomplete=incomplete,
    )


def _lacks_images(missing: tuple[str, ...], has_others: bool) -> str:
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"{missing[0]}{more}{', or skip it with --skip-bad' if has_others else ''}"


def _is_voc(folder: Path) -> bool:
    return _has_lists(folder) or (_part(folder, IMAGE_FOLDERS).is_dir() and bool(_annotations(folder)))


def _has_lists(folder: Path) -> bool:
    return (folder / IMAGE_FOLDERS[0]).is_dir() and (folder / "ImageSets").is_dir()


def _part(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of these folders that exists; if there is none, the first."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if not is_skipped(path.name))
    return [path for path in paths if path.is_dir() and not written_by_toco(path)]


def _annotations(folder: Path) -> list[Path]:
    """Return the XML files, without the hidden ones that macOS writes beside them on other drives (._a.xml)."""
    return sorted(path for path in _part(folder, ANNOTATION_FOLDERS).glob("*.xml") if not is_skipped(path.name))


def _read_part(folder: Path, split: str) -> Part:
    """Read one folder.

    Args:
        folder: The folder.
        split: The split of its images if it has no lists; '' means the training split.
    """
    pictures = _part(folder, IMAGE_FOLDERS)
    images = find_images(pictures)
    names = FileNames(pictures, images)
    splits: dict[str, list[str]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    if lists := _find_lists(folder):
        for name, path in lists.items():
            lines = read_text(path).splitlines()
            splits[name], missing[name] = _find_listed(lines, names, f"list '{name}' of {folder}")
        files = dict.fromkeys(file for listed in splits.values() for file in listed)  # splits share images
        labels = _read_labels(folder, files)
        unlabelled: tuple[str, ...] = ()
    else:
        split = split or TRAIN_NAMES[0]
        labels, lines_of_missing = _find_annotated(folder, names)
        splits, missing = ({split: list(labels)}, {split: lines_of_missing}) if labels or lines_of_missing else ({}, {})
        unlabelled = tuple(file for file in images if file not in labels)
    masks = find_masks(folder / "SegmentationClass") | find_masks(folder / "SegmentationClassAug")
    warnings = (*names.warnings("the lists of images"), *_unused_masks(folder / "SegmentationClass", images))
    return Part(pictures, splits, labels, unlabelled, masks, missing, warnings)


def _unused_masks(folder: Path, images: Collection[str]) -> tuple[str, ...]:
    """Return a warning about masks that belong to no image, or are no PNGs."""
    if not folder.is_dir() or written_by_toco(folder):
        return ()
    ids = {image_id(file) for file in images}
    pictures = [file for files in find_images_and_unread(folder) for file in files]
    if unused := [file for file in pictures if image_id(file) not in ids or not file.lower().endswith(".png")]:
        return (
            f"files in {folder} that are not used as ground truth: {len(unused)} (first {unused[0]}); a mask is a PNG "
            "with the name of its image",
        )
    return ()


def _find_annotated(folder: Path, names: FileNames) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """Return {image: class names} of the images that have an annotation, and a line for each annotation without image.

    Raises:
        DataError: An annotation could be of any of several images, or two are of the same one.
    """
    labels: dict[str, frozenset[str]] = {}
    annotation_of: dict[str, Path] = {}
    missing = []
    for path in _annotations(folder):
        written, classes = _read_annotation(path)
        # Programs write the file's name into the annotation. It is out of date if the file was renamed.
        names_written = [written] if image_id(written) == image_id(f"{path.stem}.jpg") else []
        place = f"{path}, <filename>"
        file = next((file for one in (*names_written, path.stem) if (file := names.find(one, place))), None)
        if file is None:
            missing.append((str(path), path.stem))
        elif (first := annotation_of.setdefault(file, path)) != path:
            raise DataError(f"{path}: image '{file}' has the annotation {first.name} as well: remove one")
        else:
            labels[file] = classes
    return labels, names.describe_all_missing(missing)


def _find_lists(folder: Path) -> dict[str, Path]:
    """Return {split: list}: those of the known names, or all if no training list is among them; empty without lists.

    Raises:
        DataError: There is a folder of lists, but no list.
    """
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
    if not others and (folder / "ImageSets").is_dir():
        raise DataError(
            f"{folder} has neither ImageSets/Segmentation/train.txt nor ImageSets/Main/train.txt: add the lists"
        )
    return others


def _find_listed(lines: list[str], names: FileNames, where: str) -> tuple[list[str], tuple[str, ...]]:
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
            missing.append((place, _possible_names(line)[-1]))
        elif (first := lines_of.setdefault(file, number)) != number:
            raise DataError(f"{place}: image '{file}' is in line {first} as well: remove one")
    return list(lines_of), names.describe_all_missing(missing)


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
            _, labels[file] = _read_annotation(annotations / found)
    if missing:
        more = f" (and those of {len(missing) - 1} more images)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]} is missing{more}: add it, since it has the labels of the image")
    return labels


def _read_annotation(path: Path) -> tuple[str, frozenset[str]]:
    """Return the name of the image as written in an annotation, and the class names."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    names = frozenset(canonical_name(item.findtext("name", "")) for item in root.iterfind("object"))
    if "" in names:
        raise DataError(f"{path} has an object without a name: write its class")
    return root.findtext("filename", "").strip(), names


def _class_names(root: Path, folders: list[Path], parts: list[Part]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes in the order of their numbers, and warnings.

    Args:
        root: The folder of the data set.
        folders: The folders of its parts.
        parts: What was read from them.
    """
    labels = {file: names for part in parts for file, names in part.labels.items()}
    counts = Counter(name for part in parts for names in part.labels.values() for name in names)
    used = in_order(counts)
    path = _find_class_file(dict.fromkeys((root, *folders)), used)
    if path is None:
        if set(used) <= set(CLASS_NAMES) and _have_published_numbers(parts, used):
            return CLASS_NAMES, ()
        if doubtful := doubtful_names(counts):
            name = next(iter(doubtful))
            first = next(file for file, names in labels.items() if name in names)
            raise DataError(
                f"{root}: class '{name}' of '{first}' {doubtful[name]}; if it is a class, write all classes into "
                f"{CLASS_FILES[0]}"
            )
        unnumbered = (
            f"the classes are numbered in the order of their names ({list_names(used)}): if the masks have other "
            f"numbers, write {CLASS_FILES[0]}, one class per line in the order of its number",
        )
        return used, unnumbered if any(part.masks for part in parts) else ()
    class_names = _read_class_file(path, used)
    if unlisted := [name for name in used if name not in class_names]:
        first = next(file for file, names in labels.items() if unlisted[0] in names)
        raise DataError(
            f"{path} has no class {list_names(unlisted)}, but the annotation of '{first}' has '{unlisted[0]}': correct "
            f"one of them ({path.name} has {list_names(class_names)})"
        )
    return class_names, ()


def _have_published_numbers(parts: list[Part], used: tuple[str, ...]) -> bool:
    """Tell whether classes that are all among the 20 have the numbers of Pascal VOC.

    The masks decide: those of a few classes of VOC2012 have VOC's numbers, those of own images count the own classes.
    If they do not tell, the classes are VOC's if they are most of the 20.
    """
    if used == CLASS_NAMES:  # which are sorted
        return True
    explained = dict.fromkeys((used, CLASS_NAMES), 0)  # number of values in masks that are labels of their images
    for part in parts:
        masked = [file for file, names in part.labels.items() if names and image_id(file) in part.masks]
        for file in masked[:: -(-len(masked) // PROBED_MASKS) or 1]:
            with suppress(DataError):  # reported where the mask is used
                values = distinct_values(part.masks[image_id(file)].read())
                for numbering in explained:
                    explained[numbering] += sum(numbering.index(name) + 1 in values for name in part.labels[file])
    if explained[used] != explained[CLASS_NAMES]:
        return explained[CLASS_NAMES] > explained[used]
    return 2 * len(used) > len(CLASS_NAMES)


def _find_class_file(folders: Collection[Path], used: Collection[str]) -> Path | None:
    """Return the file of classes; None if there is none.

    Raises:
        DataError: Those of several folders differ, or one has not quite the right name.
    """
    for folder in folders:
        if not (folder / CLASS_FILES[0]).exists():
            refuse_misnamed(folder / CLASS_FILES[0])
    candidates = ([folder / name for name in CLASS_FILES] for folder in folders)
    found = [path for paths in candidates if (path := next(filter(Path.is_file, paths), None)) is not None]
    for other in found[1:]:
        if _read_class_file(other, used) != _read_class_file(found[0], used):
            raise DataError(f"{found[0]} and {other} list different classes: keep one")
    return found[0] if found else None


def _read_class_file(path: Path, used: Collection[str]) -> tuple[str, ...]:
    """Return the classes of a list, or of a label map, whose lines are name:colour:parts:actions."""
    lines = read_text(path).splitlines()
    names = [canonical_name(line.split(":")[0] if path.name == LABEL_MAP else line) for line in lines]
    return tuple(
        name
        for name in names
        if name in used or not (name == "" or name.lower() in NO_CLASSES or name.startswith(COMMENT))
    )
