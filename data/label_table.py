"""Read a table of image labels: labels.csv of the custom layout, and those that `toco tile --labels` takes."""

from __future__ import annotations

import csv
import difflib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from data.class_list import CLASSES_FILE, MOST_TOLD
from data.class_names import MISSING_VALUES, canonical_name, quoted
from data.dataset import TRAIN_NAMES, VAL_NAMES, list_names
from data.errors import DataError, reason
from data.text_files import COMMENT, read_text

LABELS_FILE = "labels.csv"
DELIMITERS = ",;\t|"  # between cells; spreadsheets write ';' where the comma separates decimals
DECLARATION = "sep="  # a first line of spreadsheets, which gives the delimiter
# Some tools write integers as floats, and pandas.get_dummies writes True and False.
NO_CELLS = frozenset({"0", "0.0", "false", "no"})
YES_CELLS = frozenset({"1", "1.0", "true", "yes"})
SEPARATE = "correct the labels, with ';' between them"
NAMES_OF_LABELS = frozenset({"class", "classes", "category", "categories", "tag", "tags"})  # in other programs
SPLIT_FLAG = re.compile(rf"(is[ _-]?)?({'|'.join((*TRAIN_NAMES, *VAL_NAMES))})", re.IGNORECASE)  # 0/1 columns
CLASS_FLAG = re.compile(r"[iI]s([ _-]|(?=[A-Z]))")  # is_cat, isCat; not 'island'


class Mistakes:
    """Collects the mistakes in a table, to report all of them at once."""

    def __init__(self, table: Path) -> None:
        """Begin without mistakes."""
        self._table = table
        self._lines: dict[str, list[int]] = defaultdict(list)  # text -> lines; empty if the text names them
        self._more = 0
        self._advice = ""

    def add(self, text: str, line: int | None = None) -> None:
        """Add a mistake; the same text in several lines is reported once."""
        self._lines[text] += [] if line is None else [line]

    def add_uncounted(self, number: int) -> None:
        """Add mistakes that are counted only."""
        self._more += number

    def advise(self, text: str) -> None:
        """Say what to do at the end of the report, if that is the same for several mistakes."""
        self._advice = text

    def __len__(self) -> int:
        """Return the number of different mistakes."""
        return len(self._lines) + self._more

    def report(self) -> None:
        """Raise a DataError that lists the first `MOST_TOLD` mistakes and counts the others, if there are any."""
        told = [_name_lines(lines) + text for text, lines in list(self._lines.items())[:MOST_TOLD]]
        end = f": {self._advice}" if self._advice else ""
        if len(self) == 1:
            raise DataError(f"{self._table} {told[0]}{end}")
        if self:
            more = f"; and {len(self) - len(told)} more" if len(self) > len(told) else ""
            raise DataError(f"{self._table} has {len(self)} mistakes: {'; '.join(told)}{more}{end}")


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


def table_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped cells) of every row that is not blank and not a comment, the header first.

    Raises:
        DataError: The file is unreadable, is not a CSV file, or has no row below its header.
    """
    rows = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            delimiter = _find_delimiter(file)
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if not rows and stripped and stripped[0].lower().startswith(DECLARATION):
                    continue
                if any(stripped) and not stripped[0].startswith(COMMENT):
                    rows += 1
                    yield reader.line_num, stripped
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not valid CSV: {reason(error)}") from error
    except (UnicodeDecodeError, OSError):
        read_text(path)  # raises a DataError with the position in the whole file
        raise
    if not rows:
        raise DataError(f"{path} has no rows: write a header 'image,labels' and one row per image")
    if rows == 1:
        raise DataError(
            f"{path} has no rows below its header: write one per image (rows that begin with '{COMMENT}' are comments)"
        )


def _find_delimiter(file: TextIO) -> str:
    """Return the character between the cells of the header, which is the first line that is not a comment."""
    header = next((line for line in file if line.strip() and not line.lstrip().startswith(COMMENT)), "")
    if header.lower().startswith(DECLARATION):
        header = header[len(DECLARATION) :]
    return next((delimiter for delimiter in DELIMITERS if delimiter in header), DELIMITERS[0])


def find_columns(header: list[str], listed: tuple[str, ...], where: str) -> Columns:
    """Find the columns of a table of image labels by their names.

    Args:
        header: The names.
        listed: The classes, if a list gives them.
        where: Place of the header, for messages.

    Raises:
        DataError: A column is missing, occurs twice or has no name.
    """
    places: dict[str, int] = {}
    for place, written in enumerate(header):
        name = canonical_name(written)
        if not name:
            raise DataError(f"{where}: column {place + 1} has no name: name it or remove it")
        key = name.casefold() if name.casefold() in ("image", "labels", "label", "split") else name
        if key in places:
            raise DataError(f"{where}: column {quoted(name)} occurs twice: remove one")
        places[key] = place
    if "image" not in places:
        similar = difflib.get_close_matches("image", places, n=1)
        hint = f" (did you mean 'image' by {quoted(similar[0])}?)" if similar else ""
        raise DataError(f"{where}: no column 'image' among {list_names(header)}{hint}: write image,labels[,split]")
    image, labels, split = places["image"], places.get("labels"), places.get("split")
    if labels is None and "label" in places:
        raise DataError(f"{where}: there is a column 'label' but no column 'labels': rename it")
    if labels is not None:
        return Columns(image, labels, split, {})
    spelled = {name.casefold(): name for name in listed} | {name: name for name in listed}
    one_hot = {
        place: spelled.get(name, spelled.get(name.casefold(), name))
        for place, name in enumerate(map(canonical_name, header))
        if place not in (image, split)
    }
    if index := [name for name in one_hot.values() if name.lower().startswith("unnamed:")]:
        raise DataError(f"{where}: column '{index[0]}' holds row numbers, which pandas writes: remove it (index=False)")
    flags = {name: match for name in one_hot.values() if name not in listed and (match := SPLIT_FLAG.fullmatch(name))}
    known = {match[2].lower() for match in flags.values()}
    is_pair = not known.isdisjoint(TRAIN_NAMES) and not known.isdisjoint(VAL_NAMES)
    # 'is_train' is a class beside 'is_bus', and 'train' beside 'bus'.
    beside = any(CLASS_FLAG.match(name) for name in one_hot.values() if name not in flags)
    if is_pair or (not beside and any(match[1] for match in flags.values())):
        advice = "remove them" if split is not None else "write 'train' or 'val' into a column 'split' instead"
        raise DataError(
            f"{where}: columns that seem to hold splits, not classes: {list_names(flags)}; {advice}, or rename those "
            "that are classes"
        )
    if not one_hot:
        raise DataError(f"{where}: there is no column 'labels' and no 0/1 column of a class: add one of them")
    if listed and set(one_hot.values()) != set(listed):
        misspelt = [name for name in one_hot.values() if _may_mean_labels(name)]
        if misspelt and set(listed).isdisjoint(one_hot.values()):
            raise DataError(
                f"{where}: there is a column {quoted(misspelt[0])} but no column 'labels': did you mean 'labels'? "
                "rename it"
            )
        odd = list_names(sorted(set(one_hot.values()) ^ set(listed)))
        raise DataError(f"{where}: the class columns and {CLASSES_FILE} differ in {odd}: make them the same")
    return Columns(image, None, split, one_hot)


def _may_mean_labels(name: str) -> bool:
    return name.lower() in NAMES_OF_LABELS or bool(difflib.get_close_matches("labels", [name.lower()]))


def read_row(cells: list[str], columns: Columns, width: int, line: int, mistakes: Mistakes) -> Row | None:
    """Return a row; None if it has mistakes that make it useless."""
    if len(cells) != width:
        mistakes.add(
            f"{len(cells)} cells, but the header has {width}: separate labels by ';' (within quotes, if ';' separates "
            "the cells), and write empty cells as well",
            line,
        )
        return None
    image = cells[columns.image]
    if not image:
        mistakes.add("the cell 'image' is empty: write the file's name or remove the row", line)
        return None
    split = "" if columns.split is None else canonical_name(cells[columns.split])
    if split in MISSING_VALUES:
        mistakes.add(f"split '{split}' stands for an empty cell: leave it empty, which means '{TRAIN_NAMES[0]}'", line)
    return Row(line, image, frozenset(_labels(cells, columns, line, mistakes)), split.lower() or TRAIN_NAMES[0])


def _labels(cells: list[str], columns: Columns, line: int, mistakes: Mistakes) -> list[str]:
    if columns.labels is not None:
        parts = cells[columns.labels].replace("\n", ";").split(";")  # spreadsheets can have lines in a cell
        return [label for part in parts if (label := canonical_name(part))]
    labels = []
    for place, name in columns.one_hot.items():
        cell = cells[place].lower()
        if cell in YES_CELLS:
            labels.append(name)
        elif cell not in NO_CELLS:
            # Not by the name alone: a class may be called 'cables'.
            doubtful = len(columns.one_hot) == 1 or _may_mean_labels(name)
            hint = "; if the column holds names of classes, call it 'labels'" if doubtful else ""
            mistakes.add(f"'{cells[place]}' in column '{name}' must be 0 or 1{hint}", line)
    return labels


def _name_lines(lines: list[int], limit: int = 3) -> str:
    """Return the place of a mistake, for example 'lines 2, 3, 4 and 17 more: '."""
    unique = list(dict.fromkeys(lines))
    more = f" and {len(unique) - limit} more" if len(unique) > limit else ""
    return f"line{'s' if len(unique) > 1 else ''} {', '.join(map(str, unique[:limit]))}{more}: " if unique else ""
