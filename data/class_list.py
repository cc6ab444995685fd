"""classes.txt: the classes in the order of their numbers. A listed name is a class, however odd it looks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.class_names import canonical_name, doubtful_names, joined_names, names_joined_by_blanks, quoted
from data.errors import DataError
from data.text_files import COMMENT, read_text

CLASSES_FILE = "classes.txt"
LIST_ALL = f"list all classes in {CLASSES_FILE}, one per line"
LIST_IF_MEANT = f"to use such names as classes, {LIST_ALL}"
MOST_TOLD = 10  # names in one message


def read_class_list(path: Path) -> tuple[str, ...]:
    """Return the lines of classes.txt without comments and blank lines; empty if the file is missing.

    Raises:
        DataError: The file is unreadable or blank, or its name is in upper case or has .txt twice.
    """
    if not path.exists():
        refuse_misnamed(path)
        return ()
    lines = tuple(name for line in read_text(path).splitlines() if (name := canonical_name(line)))
    if not lines:
        raise DataError(f"{path} is empty: write one class per line, or remove it")
    return tuple(line for line in lines if not line.startswith(COMMENT))


def refuse_misnamed(path: Path) -> None:
    """Refuse a list of classes whose name is not quite that of `path`, which does not exist.

    Without the list, classes are numbered alphabetically, and mask values would mean other classes.

    Raises:
        DataError: There is one.
    """
    meant = (path.name, f"{path.name}.txt")
    if other := next((one for one in sorted(path.parent.glob("*.*")) if one.name.lower() in meant), None):
        raise DataError(f"{other} is not read: rename it to {path.name}")


def refuse_doubtful_names(counts: Mapping[str, int], place: Path | str, kind: str, advice: str) -> None:
    """Refuse names that are not listed and were probably not meant as classes.

    Args:
        counts: All names, with the number of images of each.
        place: Where they are, for the message.
        kind: What has the names, for example 'folder'.
        advice: What to do if a name is not meant as a class.

    Raises:
        DataError: See `doubtful_names`.
    """
    if doubtful := doubtful_names(counts):
        told = [f"{kind} {quoted(name)} {problem}" for name, problem in list(doubtful.items())[:MOST_TOLD]]
        told += [f"and {len(doubtful) - MOST_TOLD} more"] if len(doubtful) > MOST_TOLD else []
        raise DataError(f"{place}: {'; '.join(told)}: {advice}")


def joined_warnings(counts: Mapping[str, int], advice: str) -> tuple[str, ...]:
    """Return warnings about names that may be several labels: 'cat/dog' beside 'cat' and 'dog'; usually nothing."""
    kinds = {
        "classes whose parts are classes as well": joined_names(counts),
        "class names that look like several labels separated by spaces": names_joined_by_blanks(counts),
    }
    warnings = []
    for what, names in kinds.items():
        if names:
            more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
            told = ", ".join(map(quoted, names[:MOST_TOLD])) + more
            warnings.append(f"{what}: {told}; {advice}, if they are several labels")
    return tuple(warnings)
