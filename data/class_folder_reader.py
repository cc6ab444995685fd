"""Class folders: one folder of images per class, for example cats/ and dogs/, also within train/ and val/."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from data.class_names import canonical_name, doubtful_names, in_order
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, drop_same_ids, first_present, list_names
from data.errors import DataError
from data.file_kinds import describe_unread, is_unread_picture
from data.images import find_images, find_masks, find_unread, image_id

BACKGROUND_FOLDER = "background"  # for images that show none of the classes
MASKS_FOLDER = "masks"
# Folders of splits: also train2017, test1, val_images and the like.
SPLIT_FOLDER = re.compile(rf"({'|'.join((*TRAIN_NAMES, *VAL_NAMES))})([ _-]?(set|data|images?|imgs?))?[ _-]?\d*")
# Folders that programs make for the parts of a data set. 'mask' is not among them: it is a usual class.
PART_FOLDER = re.compile(
    r"images?|imgs?|masks|labels|jpegimages|annotations?|imagesets|.*ground_?truths?|segmentation(class|object).*|"
    r"unlabell?ed"
)
OTHER_LAYOUTS = "for image labels in a table, move the images into images/ and run 'toco init'"


def read_class_folders(root: Path) -> Dataset:
    """Read a folder of class folders: the name of the folder is the only class of its images.

    Images in a folder 'background' show none of the classes. The ground-truth mask of cats/a.jpg is masks/cats/a.png,
    if it exists. If the folders at the top are splits (train/cats/a.jpg), those without class folders have images
    without labels.

    Raises:
        DataError: Fewer than two folders hold images, or folders are not meant as classes.
    """
    files, unread = (
        {name: path for name, path in found.items() if name.split("/")[0].lower() != MASKS_FOLDER}
        for found in (find_images(root), find_unread(root))
    )
    tops = {name.split("/")[0] for name in files if "/" in name}
    folders = _split_folders(tops)
    deep = {name.split("/")[0] for name in files if name.count("/") > 1}
    if folders and not deep.intersection(folders):
        raise DataError(
            f"{root}: {list_names(sorted(folders))} hold images, but no folders of classes, so that there are no "
            f"labels: sort the images into one folder per class, for example train/cats/; {OTHER_LAYOUTS}"
        )
    _check_lonely_split(files, tops - folders.keys(), root)
    inner = _split_folders({name.split("/")[1] for name in files if name.count("/") > 1})
    if len(inner) > 1 and not folders:
        raise DataError(
            f"{root}: {list_names(sorted(inner))} are inside the folders of classes: put the classes inside the "
            "splits, for example train/cats/"
        )
    depth = 1 if folders else 0  # number of folders above a class folder

    def place(names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return {file: (split, class)} of the files in class folders."""
        placed = {}
        for name in names:
            *above, _ = name.split("/")
            split = folders.get(above[0]) if folders and above else TRAIN_NAMES[0]
            if len(above) > depth and split:
                placed[name] = split, canonical_name(above[depth])
        return placed

    placed = place(files)
    counts = Counter(folder for _, folder in placed.values())
    _check_unread({name: folder for name, (_, folder) in place(unread).items() if folder not in counts}, root)
    class_names = in_order([name for name in counts if name.lower() != BACKGROUND_FOLDER])
    _check_folders(counts, class_names, root)

    masks = find_masks(root / MASKS_FOLDER)
    splits: dict[str, list[Sample]] = defaultdict(list)
    for name, (split, folder) in placed.items():
        classes = (class_names.index(folder) + 1,) if folder in class_names else ()
        sample_id = image_id(name)
        splits[split].append(Sample(id=sample_id, image=files[name], classes=classes, mask=masks.get(sample_id)))
    unlabelled, warnings = drop_same_ids(
        (
            Sample(id=image_id(name), image=files[name], classes=(), mask=masks.get(image_id(name)), labelled=False)
            for name in files
            if name.split("/")[0] in folders.keys() - deep
        ),
        beside=(sample for samples in splits.values() for sample in samples),
    )
    outside = len(files) - len(placed) - len(unlabelled)
    return Dataset(
        root=root,
        layout="class_folders",
        class_names=class_names,
        splits={name: tuple(samples) for name, samples in splits.items()},
        train_split=first_present(TRAIN_NAMES, splits) or TRAIN_NAMES[0],
        val_split=first_present(VAL_NAMES, splits),
        warnings=(*((f"images outside the class folders, skipped: {outside}",) if outside else ()), *warnings),
        counted=(describe_unread(unread),) if unread else (),
        unlabelled=unlabelled,
        unread_files=tuple(unread),
    )


def _split_folders(tops: Collection[str]) -> dict[str, str]:
    """Return {folder at the top: split}; empty if these folders are classes."""
    found = {top: match[1] for top in tops if (match := SPLIT_FOLDER.fullmatch(top.lower()))}
    # A single 'train' beside other folders may be a class, for example of vehicles.
    return found if len(found) > 1 or len(found) == len(tops) else {}


def _check_unread(class_of: Mapping[str, str], root: Path) -> None:
    """Refuse classes that would vanish: folders that have pictures, but none of a kind that is read."""
    if pictures := [name for name in class_of if is_unread_picture(name)]:
        folders = list_names(dict.fromkeys(class_of[name] for name in pictures))
        raise DataError(
            f"{root}: {folders} would be no class, since {describe_unread(pictures)}, or move the folder elsewhere"
        )


def _check_lonely_split(files: Collection[str], classes: Collection[str], root: Path) -> None:
    """Refuse a folder 'train' that holds folders of classes, but stands beside folders that are not splits."""
    for top in filter(lambda name: SPLIT_FOLDER.fullmatch(name.lower()), classes):
        inside = {name.split("/")[1] for name in files if name.startswith(f"{top}/") and name.count("/") > 1}
        if len(inside) > 1:
            raise DataError(
                f"{root}: '{top}' holds folders ({list_names(sorted(inside), 3)}), so that it looks like a split, but "
                f"beside it are folders that are not splits ({list_names(sorted({*classes} - {top}), 3)}): rename "
                f"these to '{VAL_NAMES[0]}' or move them away; if '{top}' is a class, rename it"
            )


def _check_folders(counts: Counter[str], class_names: tuple[str, ...], root: Path) -> None:
    if parts := [name for name in counts if PART_FOLDER.fullmatch(name.lower())]:
        raise DataError(
            f"{root}: {list_names(parts)} does not look like the folder of a class: give the folder that holds one "
            f"folder of images per class; {OTHER_LAYOUTS}"
        )
    if doubtful := doubtful_names(counts):
        told = "; ".join(f"folder '{name}' {problem}" for name, problem in list(doubtful.items())[:10])
        raise DataError(
            f"{root}: {told}: merge or rename the folders ('{BACKGROUND_FOLDER}' means none of the classes), or write "
            f"the labels into a table: {OTHER_LAYOUTS}"
        )
    if len(counts) < 2:
        found = f"only one folder with images, '{class_names[0]}'" if class_names else "no folder with images"
        raise DataError(
            f"{root} holds {found}: class folders need at least two, one per class (if a folder in it is the data set, "
            "give its path)"
        )
