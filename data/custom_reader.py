"""The custom layout: images/ and labels.csv, optionally classes.txt and masks/."""

from __future__ import annotations

import csv
import difflib
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, first_present, list_names
from data.errors import DataError, reason
from data.images import IMAGE_SUFFIXES, escapes_folder, find_images, find_masks, image_id

LABELS_FILE = "labels.csv"
CLASSES_FILE = "classes.txt"
COMMENT = "#"  # first character of comment lines in both files
ONE_HOT_CELLS = {"0": False, "1": True, "0.0": False, "1.0": True}  # some tools write integers as floats


class Row(NamedTuple):
    """One row of labels.csv; `line` is its line number in the file, from 1."""

    line: int
    image: str
    labels: frozenset[str]
    split: str


class Columns(NamedTuple):
    """Indices of the columns; `one_hot` maps 0/1 columns to classes and is empty if there is a column `labels`."""

    image: int
    labels: int | None
    split: int | None
    one_hot: dict[int, str]


def read_custom(root: Path, *, skip_bad: bool = False) -> Dataset:
    """Read a folder with images/ and labels.csv.

    The columns are `image,labels[,split]`, with `;` between labels, or `image[,split]` and one 0/1 column per class.
    Rows without a split belong to 'train'. Split names are converted to lower case.

    Args:
        root: The folder.
        skip_bad: Skip rows whose image is missing, instead of raising an error.

    Raises:
        DataError: labels.csv is unreadable, or contradicts images/ or classes.txt.
    """
    if not (root / "images").is_dir():
        raise DataError(f"{root} has {LABELS_FILE} but no folder images/: put the images there")
    listed = _read_classes(root / CLASSES_FILE)
    table = root / LABELS_FILE
    lines = _read_table(table)
    header_line, header = next(lines)
    columns = _find_columns(header, listed, f"{table} line {header_line}")
    # One row at a time: with one column per class, all cells together would be images x classes strings.
    rows = [_read_row(cells, columns, len(header), line, table) for line, cells in lines]
    class_names = listed or tuple(sorted({*columns.one_hot.values()}.union(*(row.labels for row in rows))))
    for row in rows:
        _check_labels(row, class_names, table)

    images = find_images(root / "images")
    matched, missing = _match(rows, images, table, skip_bad)
    masks = find_masks(root / "masks")
    index = {name: number for number, name in enumerate(class_names, start=1)}
    splits: dict[str, list[Sample]] = defaultdict(list)
    for file, row in matched.items():
        classes = tuple(sorted(index[label] for label in row.labels))
        sample_id = image_id(file)
        splits[row.split].append(Sample(id=sample_id, image=images[file], classes=classes, mask=masks.get(sample_id)))
    unlabelled = tuple(
        Sample(id=image_id(file), image=path, classes=(), mask=masks.get(image_id(file)), labelled=False)
        for file, path in images.items()
        if file not in matched
    )
    known = {columns.image, columns.labels, columns.split, *columns.one_hot}
    unread = tuple(name for place, name in enumerate(header) if place not in known)
    unused_masks = bool(masks) and not any(image_id(file) in masks for file in matched)
    return Dataset(
        root=root,
        layout="custom",
        class_names=class_names,
        splits={name: tuple(samples) for name, samples in splits.items()},
        train_split=first_present(TRAIN_NAMES, splits) or TRAIN_NAMES[0],
        val_split=first_present(VAL_NAMES, splits),
        warnings=_warnings(unlisted=len(unlabelled), missing=len(missing), unused_masks=unused_masks),
        unlabelled=unlabelled,
        missing=missing,
        unread_columns=unread,
    )


def _warnings(*, unlisted: int, missing: int, unused_masks: bool) -> tuple[str, ...]:
    texts = {
        f"images in images/ without a row in {LABELS_FILE}, skipped (make-labels --image-labels predicted uses them): "
        f"{unlisted}": unlisted > 0,
        f"rows in {LABELS_FILE} whose image is missing, skipped: {missing}": missing > 0,
        "masks/ has no PNG with the name of an image: its files are not used": unused_masks,
    }
    return tuple(text for text, applies in texts.items() if applies)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _read_classes(path: Path) -> tuple[str, ...]:
    """Return the lines of classes.txt without comments and blank lines; empty if the file is missing."""
    if not path.exists():
        return ()
    lines = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    if not lines:
        raise DataError(f"{path} is empty: write one class per line, or remove it")
    return tuple(line for line in lines if not line.startswith(COMMENT))


def _read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped cells) of every row that is not blank and not a comment, the header first.

    Raises:
        DataError: The file is unreadable, is not a CSV file, or has no row below its header.
    """
    rows = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if any(stripped) and not stripped[0].startswith(COMMENT):
                    rows += 1
                    yield reader.line_num, stripped
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not valid CSV: {reason(error)}") from error
    except (UnicodeDecodeError, OSError):
        _read_text(path)  # raises a DataError with the position in the whole file
        raise
    if not rows:
        raise DataError(f"{path} has no rows: write a header 'image,labels' and one row per image")
    if rows == 1:
        raise DataError(
            f"{path} has no rows below its header: write one per image (rows that begin with '{COMMENT}' are comments)"
        )


def _find_columns(header: list[str], listed: tuple[str, ...], where: str) -> Columns:
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        if not name:
            raise DataError(f"{where}: column {place + 1} has no name: name it or remove it")
        if name.casefold() in places:
            raise DataError(f"{where}: column '{name}' occurs twice: remove one")
        places[name.casefold()] = place
    if len(header) == 1 and (separator := next((one for one in ";\t|" if one in header[0]), None)):
        raise DataError(
            f"{where}: the columns are separated by {separator!r}: separate them by commas, and labels by ';'"
        )
    if "image" not in places:
        raise DataError(f"{where}: no column 'image' among {list_names(header)}: write image,labels[,split]")
    image, labels, split = places["image"], places.get("labels"), places.get("split")
    if labels is None and "label" in places:
        raise DataError(f"{where}: there is a column 'label' but no column 'labels': rename it")
    if labels is not None:
        if split is None and (typo := difflib.get_close_matches("split", places, n=1)):
            raise DataError(f"{where}: there is a column '{typo[0]}' but no column 'split': rename it")
        return Columns(image, labels, split, {})
    spelled = {name.casefold(): name for name in listed}
    one_hot = {
        place: spelled.get(name.casefold(), name) for place, name in enumerate(header) if place not in (image, split)
    }
    if not one_hot:
        raise DataError(f"{where}: there is no column 'labels' and no 0/1 column of a class: add one of them")
    if listed and set(one_hot.values()) != set(listed):
        odd = list_names(sorted(set(one_hot.values()) ^ set(listed)))
        raise DataError(f"{where}: the class columns and {CLASSES_FILE} differ in {odd}: make them the same")
    return Columns(image, None, split, one_hot)


def _read_row(cells: list[str], columns: Columns, width: int, line: int, table: Path) -> Row:
    where = f"{table} line {line}"
    if len(cells) != width:
        raise DataError(
            f"{where} has {len(cells)} cells, the header has {width}: separate labels by ';', and "
            "write a comma for each empty cell"
        )
    image = cells[columns.image].replace("\\", "/")
    if not image:
        raise DataError(f"{where} has an empty cell 'image': write the file's name or remove the row")
    if escapes_folder(image):
        raise DataError(f"{where}: image '{image}' is outside images/: write a path below images/")
    labels = frozenset(_labels(cells, columns, where))
    split = "" if columns.split is None else cells[columns.split].lower()
    return Row(line, posixpath.normpath(image), labels, split or TRAIN_NAMES[0])


def _labels(cells: list[str], columns: Columns, where: str) -> list[str]:
    if columns.labels is not None:
        return [label for part in cells[columns.labels].split(";") if (label := part.strip())]
    for place, name in columns.one_hot.items():
        if cells[place] not in ONE_HOT_CELLS:
            raise DataError(f"{where}: '{cells[place]}' in column '{name}' must be 0 or 1")
    return [name for place, name in columns.one_hot.items() if ONE_HOT_CELLS[cells[place]]]


def _check_labels(row: Row, class_names: tuple[str, ...], table: Path) -> None:
    unknown = sorted(row.labels.difference(class_names))
    if unknown:
        raise DataError(
            f"{table} line {row.line}: label '{unknown[0]}' of image '{row.image}' is not in "
            f"{CLASSES_FILE} ({list_names(class_names)}): correct it, or add it there"
        )


def _match(
    rows: list[Row], images: dict[str, Path], table: Path, skip_bad: bool
) -> tuple[dict[str, Row], tuple[str, ...]]:
    """Return {image file, relative to images/: row}, and the image names of the rows without a file."""
    same_id: dict[str, list[str]] = defaultdict(list)
    for name in images:
        same_id[image_id(name)].append(name)
    matched: dict[str, Row] = {}
    rows_by_id: dict[str, Row] = {}
    missing: list[str] = []
    for row in rows:
        file = _find_file(row, images, same_id, table)
        if file is None:
            if not skip_bad:
                raise DataError(_describe_missing(row, same_id, table))
            missing.append(row.image)
            continue
        first = rows_by_id.setdefault(image_id(file), row)
        if first is not row:
            raise DataError(
                f"{table} lines {first.line} and {row.line} both name image '{image_id(file)}' "
                f"('{first.image}', '{row.image}'): keep one row, or rename a file"
            )
        matched[file] = row
    if not matched:
        raise DataError(
            f"{table}: none of the {len(missing)} rows names an image in images/ (the first one names '{missing[0]}'): "
            "write the paths of the files, relative to images/"
        )
    return matched, tuple(missing)


def _find_file(row: Row, images: dict[str, Path], same_id: dict[str, list[str]], table: Path) -> str | None:
    if row.image in images:
        return row.image
    candidates = same_id.get(row.image, [])
    if len(candidates) > 1:
        raise DataError(
            f"{table} line {row.line}: image '{row.image}' could be any of {list_names(candidates)}: add the extension"
        )
    return candidates[0] if candidates else None


def _describe_missing(row: Row, same_id: dict[str, list[str]], table: Path) -> str:
    stem = image_id(row.image) if posixpath.splitext(row.image)[1].lower() in IMAGE_SUFFIXES else row.image
    similar = same_id.get(stem, [])
    hint = f" (there is {list_names(similar)})" if similar else ""
    return (
        f"{table} line {row.line}: image '{row.image}' is missing in images/{hint}: add it, correct the row, "
        "or skip it with --skip-bad"
    )
