"""Names of classes: one spelling for each, their order, and names that were probably not meant as classes."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

# Written by pandas, databases and spreadsheets for an empty cell. 'Na' and 'Nan' may be names.
MISSING_VALUES = frozenset(
    {"nan", "NaN", "NAN", "None", "none", "NONE", "null", "Null", "NULL", "NA", "N/A", "n/a", "#N/A", "<NA>"}
)
SEPARATORS = re.compile(r"[,;|/+&，；、｜／]")  # in use between labels; only ';' is read  # noqa: RUF001
NUMBER = re.compile(r"(\d{1,18})(?:\.0+)?")
LIST = re.compile(r"\[\s*\]|[\[{].*[\"',].*[\]}]")  # of Python, NumPy and JSON; '[red]' may be a name

# Invisible characters without a meaning: soft hyphen, zero-width space, direction marks, word joiner, byte order mark.
INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF])
# Cyrillic and Greek letters that look like Latin ones.
SAME_SHAPE = str.maketrans("аеіјорсухѕАВЕІЈКМНОРСТУХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "aeijopcyxsABEIJKMHOPCTYXSABEZHIKMNOPTYXo")  # noqa: RUF001


def canonical_name(name: str) -> str:
    """Return the spelling under which a name is kept.

    The Unicode form is NFC. Invisible characters are removed, each run of blanks is one space, and there are none at
    the ends.
    """
    return " ".join(unicodedata.normalize("NFC", name).translate(INVISIBLE).split())


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Sort names: first whole numbers, also like 2.0, by their values (2 before 10), then the others as text."""
    values = {name: int(number[1]) for name in names if (number := NUMBER.fullmatch(name))}
    return tuple(sorted(names, key=lambda name: (name not in values, values.get(name, 0), name)))


def look_alikes(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that differ only in case, blanks, hyphens, quotes, or characters of the same shape."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[_appearance(name)].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def joined_names(names: Collection[str]) -> tuple[str, ...]:
    """Return the names that contain a separator and whose parts are all names, or parts of other such names.

    'cat, dog' is one of them beside 'cat' and 'dog', and also beside 'dog, cow' and 'cow, cat'. 'crack, long' beside
    'crack, short' is not: it may well be the name of a class.
    """
    known = Counter(part for name in set(names) for part in set(split_joined(name)))
    return tuple(
        name
        for name in names
        if len(parts := split_joined(name)) > 1 and all(known[part] > 1 for part in parts)  # once for itself
    )


def doubtful_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Return {name: what was probably meant} of the names that were probably not meant as classes.

    Args:
        counts: All names, with the number of images of each: of names that look alike, the most frequent is right.
    """
    found = {name: "stands for a missing value" for name in counts if name in MISSING_VALUES}
    found |= {name: f"looks like several labels, '{';'.join(split_joined(name))}'" for name in joined_names(counts)}
    for name in filter(LIST.fullmatch, counts):
        found[name] = f"is a list of Python or JSON, for '{';'.join(split_joined(name))}'"
    for group in look_alikes(counts):
        usual, *others = sorted(group, key=lambda name: (-counts[name], name))
        found |= {name: f"looks the same as '{usual}'" for name in others}
    return found


def likely_names(name: str, listed: Collection[str]) -> tuple[str, ...]:
    """Return the listed names that were probably meant by a name that is not listed; empty if none is similar."""
    if alike := [one for one in listed if _appearance(one) == _appearance(name)]:
        return tuple(alike[:1])
    if set(parts := split_joined(name)) <= set(listed):
        return parts
    return tuple(difflib.get_close_matches(name, listed, n=1))


def split_joined(name: str) -> tuple[str, ...]:
    """Return the parts between separators, without brackets and quotes; the name itself if there is no separator."""
    return tuple(part for text in SEPARATORS.split(name) if (part := text.strip(" \"'[]{}")))


def _appearance(name: str) -> str:
    if number := NUMBER.fullmatch(name):  # 1, 1.0 and 01
        return str(int(number[1]))
    same = unicodedata.normalize("NFKC", name.translate(SAME_SHAPE)).casefold()
    visible = "".join(letter for letter in same if unicodedata.category(letter) != "Cf")
    return re.sub(r"[\s_\-\"'`]+", " ", visible).strip()
