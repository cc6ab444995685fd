"""The custom layout: images/ and labels.csv, optionally classes.txt and masks/."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from data.class_list import CLASSES_FILE, LIST_IF_MEANT, MOST_TOLD, joined_warnings, read_class_list
from data.class_names import canonical_name, did_you_mean, doubtful_names, in_order, quoted
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, drop_same_ids, first_present, list_names
from data.errors import DataError
from data.file_kinds import describe_unread
from data.file_names import FileNames
from data.image_files import find_images_and_unread, find_masks, image_id
from data.label_table import (
    LABELS_FILE,
    NO_CELLS,
    SEPARATE,
    SPLIT_FLAG,
    YES_CELLS,
    Columns,
    Mistakes,
    Row,
    find_columns,
    read_row,
    table_lines,
)
from data.mask_folders import MASKS_FOLDER

MOST_VALUES = 10  # that are remembered of a column without a meaning; more are not splits


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
        similar = next(
            (f"rename {path.name}/ to images/" for path in root.iterdir() if path.name.lower() == "images"), ""
        )
        raise DataError(f"{root} has {LABELS_FILE} but no folder images/: {similar or 'put the images there'}")
    listed = read_class_list(root / CLASSES_FILE)
    table = root / LABELS_FILE
    lines = table_lines(table)
    header_line, header = next(lines)
    columns = find_columns(header, listed, f"{table} line {header_line}")
    mistakes = Mistakes(table)
    known = {columns.image, columns.labels, columns.split, *columns.one_hot}
    others = {place: set[str]() for place in range(len(header)) if place not in known}
    rows = []
    for line, cells in lines:  # one at a time: with one column per class, all cells would be images x classes strings
        if (row := read_row(cells, columns, len(header), line, mistakes)) is not None:
            rows.append(row)
            for place, values in others.items():
                if len(values) <= MOST_VALUES:
                    values.add(cells[place])
    warnings = _check_labels(rows, columns, header_line, listed, mistakes)
    if columns.split is None:
        warnings += _check_other_columns(others, header, header_line, mistakes)
    class_names = listed or in_order({*columns.one_hot.values()}.union(*(row.labels for row in rows)))
    if columns.labels is not None:
        _check_splits(rows, class_names, mistakes)

    images, unread_images = find_images_and_unread(root / "images")
    names = FileNames(root / "images", images)
    matched, missing = _match(rows, names, mistakes)
    if missing and not (skip_bad and not mistakes and matched):
        skip = ", or skip it with --skip-bad" if matched else ""
        for row in missing[:MOST_TOLD]:
            mistakes.add(names.describe_missing(row.image) + skip, row.line)
        mistakes.add_uncounted(len(missing[MOST_TOLD:]))
    mistakes.report()
    masks = find_masks(root / MASKS_FOLDER)
    index = {name: number for number, name in enumerate(class_names, start=1)}
    splits: dict[str, list[Sample]] = defaultdict(list)
    for file, row in matched.items():
        classes = tuple(sorted(index[label] for label in row.labels))
        sample_id = image_id(file)
        splits[row.split].append(Sample(id=sample_id, image=images[file], classes=classes, mask=masks.get(sample_id)))
    unlabelled, dropped = drop_same_ids(
        (
            Sample(id=image_id(file), image=path, classes=(), mask=masks.get(image_id(file)), labelled=False)
            for file, path in images.items()
            if file not in matched
        ),
        beside=(sample for samples in splits.values() for sample in samples),
    )
    unread_files = tuple(f"images/{name}" for name in unread_images)
    unused_masks = bool(masks) and not any(image_id(file) in masks for file in matched)
    return Dataset(
        root=root,
        layout="custom",
        class_names=class_names,
        splits={name: tuple(samples) for name, samples in splits.items()},
        train_split=first_present(TRAIN_NAMES, splits) or TRAIN_NAMES[0],
        val_split=first_present(VAL_NAMES, splits),
        warnings=(*warnings, *names.warnings(LABELS_FILE), *dropped),
        counted=(
            *_counted(unlisted=len(unlabelled), missing=len(missing), unused_masks=unused_masks),
            *((describe_unread(unread_files),) if unread_files else ()),
        ),
        unlabelled=unlabelled,
        missing=tuple(row.image for row in missing),
        unread_columns=tuple(header[place] for place in others),
        unread_files=unread_files,
    )


def _counted(*, unlisted: int, missing: int, unused_masks: bool) -> tuple[str, ...]:
    texts = {
        f"images in images/ without a row in {LABELS_FILE}, skipped (make-labels --image-labels predicted uses them): "
        f"{unlisted}": unlisted > 0,
        f"rows in {LABELS_FILE} whose image is missing, skipped: {missing}": missing > 0,
        "masks/ has no PNG with the name of an image: its files are not used": unused_masks,
    }
    return tuple(text for text, applies in texts.items() if applies)


def _check_labels(
    rows: list[Row], columns: Columns, header_line: int, listed: tuple[str, ...], mistakes: Mistakes
) -> tuple[str, ...]:
    """Report names that are not listed, or without a list those that were probably not meant as classes.

    Returns:
        Warnings.
    """
    counts = Counter(dict.fromkeys(columns.one_hot.values(), 0))
    counts.update(label for row in rows for label in row.labels)
    if listed:
        some = list_names(listed)
        problems = {}
        for name in sorted(counts.keys() - set(listed)):
            meant = did_you_mean(name, listed)
            problems[name] = f"{quoted(name)} is not in {CLASSES_FILE} ({some}{meant}): correct it, or add it there"
    else:
        problems = {name: f"{quoted(name)} {problem}" for name, problem in doubtful_names(counts).items()}
        if problems:
            advice = f"{SEPARATE}; an empty cell means none of the classes"
            mistakes.advise(f"{'correct the columns' if columns.one_hot else advice}; {LIST_IF_MEANT}")
    for name in columns.one_hot.values():
        if name in problems:
            mistakes.add(f"column {problems[name]}", header_line)
    for row in rows if columns.labels is not None else ():
        for label in sorted(row.labels & problems.keys()):
            mistakes.add(f"label {problems[label]}", row.line)
    return () if listed or problems else joined_warnings(counts, SEPARATE)


def _check_splits(rows: list[Row], class_names: Collection[str], mistakes: Mistakes) -> None:
    """Report rows whose split is a class name: in 'a.jpg,cat,dog' the second label falls into the column 'split'.

    Where most splits are class names, they are the numbers of folds and classes.
    """
    names = {name.lower() for name in class_names}.difference(TRAIN_NAMES, VAL_NAMES)
    doubtful = [row for row in rows if row.split in names]
    if 2 * len(doubtful) <= len(rows):
        for row in doubtful:
            mistakes.add(
                f"split '{row.split}' is the name of a class: write several labels within quotes, or rename the split",
                row.line,
            )


def _check_other_columns(
    values: Mapping[int, set[str]], header: list[str], header_line: int, mistakes: Mistakes
) -> tuple[str, ...]:
    """Report a misspelled column 'split', and return warnings about columns of other names that hold splits."""
    known = {*TRAIN_NAMES, *VAL_NAMES, "dev", "eval"}
    warnings = []
    for place, found in values.items():
        splits = {value.lower() for value in found if value}
        both = bool(splits & NO_CELLS and splits & YES_CELLS)
        if both and SPLIT_FLAG.fullmatch(canonical_name(header[place])) and splits <= NO_CELLS | YES_CELLS:
            warnings.append(
                f"column '{header[place]}' seems to hold splits but is not read: write 'train' or 'val' into a column "
                "'split'"
            )
        if not splits or not (splits <= known or len(splits & known) > 1):
            continue
        if difflib.get_close_matches("split", [header[place].lower()]):
            mistakes.add(f"there is a column '{header[place]}' but no column 'split': rename it", header_line)
        elif len(splits) > 1:
            warnings.append(
                f"column '{header[place]}' holds splits ({list_names(sorted(splits))}) but is not read: rename it "
                "to 'split' if these are the splits"
            )
    return tuple(warnings)


def _match(rows: list[Row], names: FileNames, mistakes: Mistakes) -> tuple[dict[str, Row], tuple[Row, ...]]:
    """Return {image file, relative to images/: row}, and the rows without a file."""
    matched: dict[str, Row] = {}
    rows_by_id: dict[str, Row] = {}
    missing: list[Row] = []
    for row in rows:
        try:
            file = names.find(row.image)
        except DataError as error:
            mistakes.add(str(error), row.line)
            continue
        if file is None:
            missing.append(row)
            continue
        first = rows_by_id.setdefault(image_id(file), row)
        if first is row:
            matched[file] = row
        else:
            splits = f", in splits '{first.split}' and '{row.split}'" if first.split != row.split else ""
            mistakes.add(
                f"lines {first.line} and {row.line} both name image '{image_id(file)}' "
                f"('{first.image}', '{row.image}'{splits}): keep one row, or rename a file"
            )
    return matched, tuple(missing)
