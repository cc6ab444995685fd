"""Writes custom folders: a new one to be filled in, and the labels of another layout as one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.custom_reader import CLASSES_FILE, COMMENT, LABELS_FILE
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample
from data.errors import DataError
from data.images import find_images

HEADER = ("image", "labels", "split")
ABOUT_LABELS = """\
# One row an image. A line that begins with '#' does not count: take the '#' away once the row is right.
#   image   path below images/
#   labels  the classes in the image, separated by ';'; an empty cell says that it shows none of them
#   split   train, or val for images to measure on; an empty cell says train
# For example:
#   line1/0001.jpg,scratch;dent,train
#   line1/0002.jpg,,train
# True masks, if there are any, lie in masks/ beside images/: PNGs of the images' own names and sizes, whose pixels are
# 0 for background, 1 for the first class, 2 for the second one ..., and 255 where nothing is to be measured.
"""
ABOUT_CLASSES = """\
# One class a line, in the order of their numbers in masks: the first is 1; the background, 0, is not listed.
# A line that begins with '#' does not count. While there is no other line, the classes are those of labels.csv, sorted.
"""


def begin_custom(root: Path) -> int:
    """Begin a custom folder: images/, labels.csv with a commented row for every image there is, classes.txt.

    Returns:
        How many images are in images/.

    Raises:
        DataError: there is a labels.csv already, or images lie elsewhere than in images/; nothing is written then.
    """
    table = root / LABELS_FILE
    if table.exists():
        raise DataError(f"{table} exists already, and nothing was written: 'toco check {root}' says how it stands")
    if root.is_dir() and not (root / "images").is_dir() and (stray := len(find_images(root))):
        raise DataError(
            f"{root} holds images ({stray}), but no folder images/: move them into {root / 'images'}, with their "
            f"folders, and do this again; or, where each folder is a class, go on with 'toco check {root}'"
        )
    (root / "images").mkdir(parents=True, exist_ok=True)
    images = find_images(root / "images")
    rows = [(COMMENT + _cell(name), "", TRAIN_NAMES[0]) for name in images]
    _write(table, _rows([HEADER]) + ABOUT_LABELS + _rows(rows))
    if not (root / CLASSES_FILE).exists():
        _write(root / CLASSES_FILE, ABOUT_CLASSES)
    return len(images)


def write_custom(dataset: Dataset, out: Path) -> Path:
    """Write the image labels of another layout as a custom folder, which links to the images where they are.

    The training split is called 'train' there, and the validation split 'val'. An image of several splits goes to
    the first of training, validation, others. True masks are not taken along.

    Returns:
        The file with the labels.

    Raises:
        DataError: it is a custom folder, something of the same name is there, or a class cannot be written.
    """
    if dataset.layout == "custom":
        raise DataError(f"{dataset.root} has a {LABELS_FILE} already: there is nothing to write")
    for name in (LABELS_FILE, CLASSES_FILE, "images"):
        if os.path.lexists(out / name):
            raise DataError(f"{out / name} exists already, and nothing was written: give another folder")
    for name in dataset.class_names:
        _check_class_name(name)
    placed = _place(dataset)
    if not placed:
        raise DataError(f"{dataset.root} has no image with labels: there is nothing to write")
    folder = Path(os.path.commonpath([sample.image.parent for sample, _ in placed.values()]))
    rows = [
        (
            _cell(path.relative_to(folder).as_posix()),
            ";".join(dataset.class_names[c - 1] for c in sample.classes),
            split,
        )
        for path, (sample, split) in placed.items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "images").symlink_to(folder.resolve(), target_is_directory=True)
    _write(out / CLASSES_FILE, "".join(f"{name}\n" for name in dataset.class_names))
    _write(out / LABELS_FILE, _rows([HEADER, *rows]))
    return out / LABELS_FILE


def _place(dataset: Dataset) -> Mapping[Path, tuple[Sample, str]]:
    """Give each image file its sample and its one split, in the order of the splits."""
    renamed = {dataset.train_split: TRAIN_NAMES[0]}
    if dataset.val_split is not None:
        renamed[dataset.val_split] = VAL_NAMES[0]
    placed: dict[Path, tuple[Sample, str]] = {}
    for split in dataset.split_names():
        for sample in dataset.splits[split]:
            placed.setdefault(sample.image, (sample, renamed.get(split, split)))
    return placed


def _check_class_name(name: str) -> None:
    """Refuse what would be read back as something else."""
    if ";" in name or len(name.splitlines()) > 1 or name != name.strip() or name.startswith(COMMENT):
        raise DataError(
            f"class '{name}' cannot stand in {LABELS_FILE} and {CLASSES_FILE}, where ';' separates classes, "
            f"'{COMMENT}' begins a comment, and blanks at the ends are lost: rename it first"
        )


def _cell(name: str) -> str:
    """Write an image's path so that it is read back as it is: neither a comment nor trimmed."""
    return f"./{name}" if name.startswith(COMMENT) or name != name.lstrip() else name


def _rows(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    """Write a new file, and never over another one."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of an image near {text[max(0, error.start - 20) : error.end]!a} is not in UTF-8: rename the file"
        ) from error
    with path.open("xb") as file:
        file.write(content)
