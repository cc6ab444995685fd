"""Names of classes: one spelling for each, their order, and names that were probably not meant as classes."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

# Written by pandas, databases and spreadsheets for an empty cell. 'Na' and 'Nan' may be names.
MISSING_VALUES = frozenset(
    {"nan", "NaN", "NAN", "None", "none", "NONE", "null", "Null", "NULL", "NA", "N/A", "n/a", "#N/A", "<NA>"}
)
# Common names, or last words of the name, of a class for images that show none of the other classes.
NO_OBJECT = frozenset({"good", "ok", "okay", "normal", "clean", "healthy", "intact", "undamaged", "defectfree"})
NO_OBJECT_ALONE = frozenset({"none", "negative", "negatives", "nothing", "empty", "pass", "passed", "free"})
FAULTS = frozenset(
    {"defect", "defects", "defective", "damage", "damaged", "fault", "faults", "anomaly", "crack", "cracks"}
)
# In lists of classes, what label programs write for pixels without a class.
NO_CLASSES = frozenset({"background", "_background_", "__background__", "ignored", "void"})
# In use between labels; only ';' is read. A blank between quotes is one in arrays of NumPy.
BETWEEN_LABELS = re.compile(r"[,;|，；、｜]|(?<=['\"])\s+(?=['\"])")  # noqa: RUF001
SEPARATORS = re.compile(rf"{BETWEEN_LABELS.pattern}|[/+&／]")  # the last ones are as usual in names: T-shirt/top  # noqa: RUF001
WIDTHS = ("<wide>", "<narrow>")  # forms of letters in fonts of East Asia
ALONE = -1  # place of a name that has no other parts
NUMBER = re.compile(r"(\d{1,18})(?:\.0+)?")
LIST = re.compile(r"\[\s*\]|[\[{].*[\"',].*[\]}]")  # of Python, NumPy and JSON; '[red]' may be a name

# Invisible characters without a meaning: soft hyphen, zero-width space, direction marks, word joiner, byte order mark.
INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF])
# Cyrillic and Greek letters, and signs of typography, that look like those of ASCII.
SAME_SHAPE = str.maketrans("аеіјорсухѕАВЕІЈКМНОРСТУХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧο’‐‑", "aeijopcyxsABEIJKMHOPCTYXSABEZHIKMNOPTYXo'--")  # noqa: RUF001
# Letters and signs that show nothing: fillers of Hangul, the blank of Braille.
BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def canonical_name(name: str) -> str:
    """Return the spelling under which a name is kept.

    The Unicode form is NFC. Invisible characters are removed, each run of blanks is one space, and there are none at
    the ends.
    """
    return " ".join(unicodedata.normalize("NFC", name).translate(INVISIBLE).split())


def unusable_name(name: str) -> str | None:
    """Return why a canonical name cannot be the name of a class; None if it can."""
    kinds = [unicodedata.category(letter) for letter in name]
    if "Cc" in kinds:
        return "has a control character"
    if "Cs" in kinds:
        return "is not valid Unicode"
    if all(
        kind[0] in "ZM" or kind == "Cf" or letter in BLANK_LETTERS for kind, letter in zip(kinds, name, strict=True)
    ):
        return "has no visible character"
    return None


def means_no_object(name: str) -> bool:
    """Whether a name probably stands for images that show none of the other classes."""
    words = re.split(r"[ _-]+", name.casefold().rstrip("0123456789 _-"))
    if len(words) == 1:
        return words[0] in NO_OBJECT | NO_OBJECT_ALONE
    without_fault = words[0] in ("no", "non", "not", "without") and words[1] in FAULTS
    return words[-1] in NO_OBJECT or without_fault or (words[-1] == "free" and words[-2] in FAULTS)


def quoted(name: str) -> str:
    """Return a name in quotes that it does not contain, as far as possible."""
    return f'"{name}"' if "'" in name and '"' not in name else f"'{name}'"


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Sort names: first whole numbers, also like 2.0, by their values (2 before 10), then the others as text."""
    values = {name: int(number[1]) for name in names if (number := NUMBER.fullmatch(name))}
    return tuple(sorted(names, key=lambda name: (name not in values, values.get(name, 0), name)))


def look_alikes(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that differ only in how they are written.

    That is in case, width and form of letters, in blanks, `_` or hyphens between words, or in quotes around the name.
    Signs with a meaning are not ignored: 'A-' is not 'A', and 5' is not 5".
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[_appearance(name)].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def joined_names(names: Collection[str], split: Callable[[str], Sequence[str]] | None = None) -> tuple[str, ...]:
    """Return the names with `SEPARATORS` whose parts are names as well, or parts at other places of other names.

    'cat, dog' is one of them beside 'cat' and 'dog', and also beside 'dog, cow' and 'cow, cat'. 'Paris, TX' beside
    'Paris, FR' and 'Austin, TX' is not: each part is always at the same place, as in a name that has an order. If
    a part changes its place, the other parts may stay at theirs: 'cat, dog' beside 'cat, cow' and 'dog, cow'.

    Args:
        names: All names.
        split: Returns the parts of a name; by default `split_joined`.
    """
    parts_of = {name: (split or split_joined)(name.casefold()) for name in names}
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))  # part -> place -> names
    for name, parts in parts_of.items():
        for place, part in enumerate(parts):
            found[part][place if len(parts) > 1 else ALONE].add(name)

    def places(part: str, name: str) -> set[int]:
        return {place for place, others in found[part].items() if len(others) > (name in others)}

    joined = []
    for name, parts in parts_of.items():
        elsewhere = [(places(part, name), place) for place, part in enumerate(parts)]
        if len(parts) < 2 or not all(others for others, _ in elsewhere):
            continue
        moved = [others - {place} for others, place in elsewhere]
        if all(moved) or any(others - {ALONE} for others in moved):
            joined.append(name)
    return tuple(joined)


def names_joined_by_blanks(names: Collection[str]) -> tuple[str, ...]:
    """Return the names that look like several labels with blanks between them: 'cat dog' beside 'dog' and 'cow cat'.

    A blank is usual in names: 'screen door' may be a class beside 'screen' and 'door'. So there are at least two such
    names, and they are a third of all names with a blank or more; otherwise none is returned. Names with numbers or
    signs, as 'level 1 zone 2', have an order and are left out.
    """
    names = [name for name in names if name.replace(" ", "").isalpha()]
    joined = joined_names(names, str.split)
    return joined if len(joined) > 1 and 3 * len(joined) >= sum(" " in name for name in names) else ()


def doubtful_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Return {name: what was probably meant} of the names that were probably not meant as classes.

    Args:
        counts: All names, with the number of images of each: of names that look alike, the most frequent is right.
    """
    found = {name: "stands for a missing value" for name in counts if name in MISSING_VALUES}
    for name in joined_names(counts):
        if BETWEEN_LABELS.search(name):
            found[name] = f"looks like several labels, {quoted(';'.join(split_joined(name)))}"
    for name in filter(LIST.fullmatch, counts):
        parts = ";".join(split_joined(name))
        found[name] = f"is a list of Python or JSON, for {quoted(parts)}" if parts else "is an empty list"
    for group in look_alikes(counts):
        usual, *others = sorted(group, key=lambda name: (-counts[name], name))
        found |= {name: f"looks the same as {quoted(usual)}" for name in others}
    return found


def likely_names(name: str, listed: Collection[str]) -> tuple[str, ...]:
    """Return the listed names that were probably meant by a name that is not listed; empty if none is similar."""
    if alike := [one for one in listed if _appearance(one) == _appearance(name)]:
        return tuple(alike[:1])
    if set(parts := split_joined(name)) <= set(listed):
        return parts
    return tuple(difflib.get_close_matches(name, listed, n=1))


def did_you_mean(name: str, listed: Collection[str]) -> str:
    """Return what a message about a name that is not listed adds to the list: "; did you mean 'cat'?", or nothing."""
    meant = likely_names(name, listed)
    return f"; did you mean {quoted(';'.join(meant))}?" if meant else ""


def split_joined(name: str) -> tuple[str, ...]:
    """Return the parts between separators, without brackets and quotes; the name itself if there is no separator."""
    return tuple(part for text in SEPARATORS.split(name) if (part := text.strip(" \"'[]{}")))


def _appearance(name: str) -> str:
    if number := NUMBER.fullmatch(name):  # 1, 1.0 and 01
        return str(int(number[1]))
    visible = "".join(
        unicodedata.normalize("NFKC", letter) if unicodedata.decomposition(letter).startswith(WIDTHS) else letter
        for letter in name.translate(SAME_SHAPE)
        if unicodedata.category(letter) != "Cf"
    )
    same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold())
    words = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])|[\s_]+", " ", same).strip()
    return words[1:-1].strip() if len(words) > 2 and words[0] in "'\"`" and words[0] == words[-1] else words
