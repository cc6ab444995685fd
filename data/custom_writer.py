"""Write custom folders: a new one to be filled in, or a copy of the labels of another layout."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data.class_list import CLASSES_FILE
from data.class_names import canonical_name
from data.command_line import as_command
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample
from data.errors import DataError
from data.image_files import find_images_and_unread
from data.label_table import LABELS_FILE
from data.mask_folders import MASKS_FOLDER
from data.output_place import check_output_place
from data.text_files import COMMENT

HEADER = ("image", "labels", "split")
ABOUT_LABELS = """\
# One row per image. Lines that begin with '#' are comments: remove the '#' when the row is right.
#   image   path relative to images/
#   labels  the classes in the image, separated by ';'; empty if the image shows none of them
#   split   train, or val for images used for evaluation; empty means train
# For example:
#   line1/0001.jpg,scratch;dent,train
#   line1/0002.jpg,,train
# Ground-truth masks are optional. Put them into masks/ beside images/: PNGs with the names and sizes of the images.
# Pixel values: 0 background, 1 the first class, 2 the second class, ..., 255 ignored in evaluation.
"""
ABOUT_CLASSES = """\
# One class per line, in the order of their numbers in masks: the first class is 1. Do not list the background (0).
# Lines that begin with '#' are comments. Without other lines, the classes are those of labels.csv, sorted.
"""


class Begun(NamedTuple):
    """What images/ holds: a number of images, and the pictures and videos whose kind is not read."""

    images: int
    unread: tuple[str, ...]


def begin_custom(root: Path) -> Begun:
    """Start a custom folder: images/, labels.csv with a comment row for every existing image, classes.txt.

    Raises:
        DataError: labels.csv exists already, or the folder has images but no images/. Nothing is written.
    """
    table = root / LABELS_FILE
    if table.exists():
        raise DataError(f"{table} exists already, and nothing was written: check it with {as_command('check', root)}")
    if root.is_dir() and not (root / "images").is_dir() and (stray := sum(map(len, find_images_and_unread(root)))):
        raise DataError(
            f"{root} has images ({stray}) but no folder images/: move them with their folders into {root / 'images'}, "
            f"and run this command again; if each folder is a class, run {as_command('check', root)} instead"
        )
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, unread = find_images_and_unread(root / "images")
    rows = [(COMMENT + _cell(name), "", TRAIN_NAMES[0]) for name in images]
    _write(table, _rows([HEADER]) + ABOUT_LABELS + _rows(rows))
    if not (root / CLASSES_FILE).exists():
        _write(root / CLASSES_FILE, ABOUT_CLASSES)
    return Begun(len(images), tuple(unread))


def write_custom(dataset: Dataset, out: Path) -> Path:
    """Write the image labels of another layout as a custom folder, with links to the original images.

    The training split is renamed to 'train', and the validation split to 'val'. An image that is in several splits is
    written once: to the training split, else to the validation split, else to the first of the others. The
    ground-truth masks of class folders get a link as well. Those of other layouts are not copied.

    Returns:
        The path of labels.csv.

    Raises:
        DataError: The data set has the custom layout, a file exists already, or a class name cannot be written.
        SettingsError: `out` is among the files of the data set.
    """
    if dataset.layout == "custom":
        raise DataError(f"{dataset.root} already has a {LABELS_FILE}: there is nothing to write")
    check_output_place(out, datasets=[dataset.root])
    if dataset.layout == "class_folders" and out.resolve().is_relative_to(dataset.root.resolve()):
        raise DataError(f"{out} is in {dataset.root}, where folders are classes: give a folder elsewhere")
    for name in (LABELS_FILE, CLASSES_FILE, "images", MASKS_FOLDER):
        if os.path.lexists(out / name):
            raise DataError(f"{out / name} exists already, and nothing was written: give another folder")
    check_class_names(dataset.class_names)
    placed = _place(dataset)
    if not placed:
        raise DataError(f"{dataset.root} has no labelled images: there is nothing to write")
    in_classes = dataset.layout == "class_folders"
    # Masks have the paths of their images below the root.
    folder = dataset.root if in_classes else Path(os.path.commonpath([path.parent for path in placed]))
    rows = [
        (path.relative_to(folder).as_posix(), [dataset.class_names[c - 1] for c in sample.classes], split)
        for path, (sample, split) in placed.items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    if in_classes:  # without the folder of masks, which would be read as images
        (out / "images").mkdir()
        samples = dataset.by_id().values()
        for top in {sample.image.relative_to(folder).parts[0] for sample in samples}:
            _link(out / "images" / top, folder / top)
        if any(sample.mask for sample in samples):  # also of images without labels
            _link(out / MASKS_FOLDER, folder / MASKS_FOLDER)
    else:
        _link(out / "images", folder)
    return write_tables(out, dataset.class_names, rows)


def write_tables(root: Path, class_names: Iterable[str], rows: Iterable[tuple[str, Iterable[str], str]]) -> Path:
    """Write classes.txt and labels.csv of a custom folder whose images are in place; return the path of labels.csv.

    Args:
        root: The folder.
        class_names: The classes in the order of their numbers.
        rows: For each image its path below images/, the names of its classes, and its split.

    Raises:
        DataError: The name of an image is not in UTF-8.
        FileExistsError: One of the files exists.
    """
    _write(root / CLASSES_FILE, "".join(f"{name}\n" for name in class_names))
    cells = [(_cell(image), ";".join(classes), split) for image, classes, split in rows]
    _write(root / LABELS_FILE, _rows([HEADER, *cells]))
    return root / LABELS_FILE


def _link(path: Path, folder: Path) -> None:
    path.symlink_to(folder.resolve(), target_is_directory=True)


def _place(dataset: Dataset) -> Mapping[Path, tuple[Sample, str]]:
    """Return {image file: (sample, split)}, with one split per image, in the order of the splits."""
    renamed = {dataset.train_split: TRAIN_NAMES[0]}
    if dataset.val_split is not None:
        renamed[dataset.val_split] = VAL_NAMES[0]
    placed: dict[Path, tuple[Sample, str]] = {}
    for split in dataset.split_names():
        for sample in dataset.splits[split]:
            placed.setdefault(sample.image, (sample, renamed.get(split, split)))
    return placed


def check_class_names(names: Iterable[str]) -> None:
    """Refuse names that would be read back as other ones.

    Raises:
        DataError: Names the first.
    """
    for name in names:
        if ";" in name or name != canonical_name(name) or name.startswith(COMMENT):
            raise DataError(
                f"class '{name}' cannot be written to {LABELS_FILE} and {CLASSES_FILE}, where ';' separates "
                f"classes, '{COMMENT}' begins a comment, and unneeded blanks and invisible characters are removed: "
                "rename it first"
            )


def _cell(name: str) -> str:
    """Return an image's path so that it is not read back as a comment or without its leading blanks."""
    return f"./{name}" if name.startswith(COMMENT) or name != name.lstrip() else name


def _rows(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    """Write a new file; never replace an existing one."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of an image near {text[max(0, error.start - 20) : error.end]!a} is not in UTF-8: rename the file"
        ) from error
    with path.open("xb") as file:
        file.write(content)
