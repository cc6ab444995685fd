"""Find the file that a table, list or JSON file of a data set means by a name."""

from __future__ import annotations

import bisect
import difflib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from data.errors import DataError
from data.file_kinds import IMAGE_SUFFIXES, conversion_advice
from data.image_files import find_images_and_unread, image_id

Index = Mapping[str, list[str]]  # key -> the files that have it

DESCRIBED = 10  # missing images for which a similar file is searched; each takes up to 0.1 s
COMPARED_NAMES = 4_000  # most similar in alphabetical order; comparing all of 100,000 takes seconds

ABSOLUTE = re.compile(r"/|[A-Za-z]:/")  # the beginning of absolute paths, also of Windows
WHOLE_NUMBER = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)  # spreadsheets and pandas write 007 as 7 or 7.0


class FileNames:
    """The images of one folder, and the names under which they may be written.

    Usage::

        images = find_images(folder)
        names = FileNames(folder, images)
        for written in ...:
            file = names.find(written, f"{table} line {line}")  # for example 'x/a.jpg', a key of `images`
            if file is None:
                raise DataError(f"{table} line {line}: {names.describe_missing(written)}")
            sample_id = image_id(file)
        warnings = names.warnings(table.name)

    A name that differs from the file's is accepted if it can mean one file only. These may differ: `./` and `//`;
    backslashes; a missing extension; Unicode forms; everything up to a folder `images/` or up to the folder's own name;
    URL quoting (%20); upper and lower case; zeros before a number without extension (7 for 007.jpg). The exact name
    always wins, then the form that comes first in this list. Another extension is suggested only.

    The results come from the listing alone, so that no written name leads out of the folder.
    """

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Remember the listing.

        Args:
            folder: The folder of images.
            files: Paths of the images relative to it, with '/'; usually the result of `find_images(folder)`.
        """
        self.folder = folder
        self._files = dict.fromkeys(files)
        self._corrections: dict[str, str] = {}

    def find(self, written: str, where: str = "") -> str | None:
        """Return the file that is meant, as it is in the listing; None if no file fits.

        Args:
            written: The name of an image as written, with or without extension.
            where: The place where it is written, for the beginning of messages.

        Raises:
            DataError: The name contains '..', is an absolute path that does not contain the folder, or could be any of
                several files.
        """
        if written in self._files:
            return written
        path = written.replace("\\", "/")
        absolute = ABSOLUTE.match(path) is not None
        variants = self._variants(_canonical(path))
        if ".." in path.split("/") or not variants:
            raise DataError(
                f"{_prefix(where)}image '{written}' is outside {self.folder.name}/: write a path below "
                f"{self.folder.name}/"
            )
        path = _canonical(path)
        if not absolute and (
            file := self._only(self._by_name, path, written, where) or self._only(self._by_id, path, written, where)
        ):
            return file
        for index, key in (
            (self._by_name, str),
            (self._by_id, str),
            (self._by_folded_name, _fold),
            (self._by_folded_id, _fold),
            (self._by_number, _without_zeros),
        ):
            for variant in variants:
                if file := self._only(index, key(variant), written, where):
                    self._corrections[written] = file
                    return file
        return None

    def describe_missing(self, written: str) -> str:
        """Return what to tell about a name for which `find` returned None, with the most similar file."""
        place = f"{self.folder.name}/"
        path = _canonical(written.replace("\\", "/"))
        path = next(iter(self._variants(path)), path)
        if unread := self._unread_file(written):
            return (
                f"image '{written}' is in {place} as '{unread}', a kind of file that is not read: "
                f"{conversion_advice([unread])}"
            )
        if os.path.isfile(self.folder / path):  # Path.is_file raises errors for overlong names
            return f"image '{written}' is in {place}, but is not read: save it as JPEG or PNG, and correct the name"
        nearest = self._nearest(path)
        example = next(iter(self._files), None)
        hint = (
            f" (did you mean '{nearest}'?)" if nearest else f" (which has for example '{example}')" if example else ""
        )
        return f"image '{written}' is missing in {place}{hint}: add it or correct the name"

    def describe_all_missing(self, missing: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Return one line for each missing image, with the most similar file for the first ones.

        Args:
            missing: For each image the place where it is written, and its name as written.
        """
        described = [_prefix(where) + self.describe_missing(written) for where, written in missing[:DESCRIBED]]
        others = [
            f"{_prefix(where)}image '{written}' is missing in {self.folder.name}/"
            for where, written in missing[DESCRIBED:]
        ]
        return (*described, *others)

    def warnings(self, source: str) -> tuple[str, ...]:
        """Return one line if names had to be corrected: their number and the first of them; otherwise nothing.

        Args:
            source: The name of the file that has the names.
        """
        if not self._corrections:
            return ()
        written, file = next(iter(self._corrections.items()))
        return (
            f"names in {source} that are not exactly those of the files: {len(self._corrections)}, for example "
            f"'{written}' for '{file}'",
        )

    def _only(self, index: Index, key: str, written: str, where: str) -> str | None:
        files = index.get(key, [])
        if len(files) > 1:
            some = ", ".join(f"'{file}'" for file in files[:3])
            raise DataError(f"{_prefix(where)}image '{written}' could be any of {some}: write the complete name")
        return files[0] if files else None

    def _unread_file(self, written: str) -> str | None:
        try:
            return self._unread.find(written)
        except DataError:  # one of several
            return None

    @cached_property
    def _unread(self) -> FileNames:
        return FileNames(self.folder, find_images_and_unread(self.folder)[1] if self.folder.is_dir() else ())

    def _variants(self, path: str) -> list[str]:
        """Return other forms of a path, the most similar first; none if it is absolute and does not have the folder."""
        parents = {"images", _fold(self.folder.name)}
        variants = []
        for name in dict.fromkeys((path, _canonical(unquote(path)))):
            parts = name.split("/")
            cuts = [place + 1 for place, part in enumerate(parts[:-1]) if _fold(part) in parents]
            variants += ["/".join(parts[cut:]) for cut in ((*cuts,) if ABSOLUTE.match(name) else (0, *cuts))]
        return variants

    def _nearest(self, path: str) -> str | None:
        without = image_id(path) if posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES else path
        stem = _fold(posixpath.basename(without))
        if same := self._by_last_stem.get(stem) or self._by_number.get(_without_zeros(without)):
            return same[0]
        place = bisect.bisect(self._stems, stem)
        neighbours = self._stems[max(0, place - COMPARED_NAMES // 2) : place + COMPARED_NAMES // 2]
        close = difflib.get_close_matches(stem, neighbours, n=1)
        return self._by_last_stem[close[0]][0] if close else None

    @cached_property
    def _by_name(self) -> Index:
        return self._index(_canonical)

    @cached_property
    def _by_id(self) -> Index:
        return self._index(lambda file: image_id(_canonical(file)))

    @cached_property
    def _by_folded_name(self) -> Index:
        return self._index(_fold)

    @cached_property
    def _by_folded_id(self) -> Index:
        return self._index(lambda file: _fold(image_id(file)))

    @cached_property
    def _by_number(self) -> Index:
        return self._index(lambda file: _without_zeros(image_id(file)))

    @cached_property
    def _by_last_stem(self) -> Index:
        return self._index(lambda file: _fold(image_id(posixpath.basename(file))))

    @cached_property
    def _stems(self) -> list[str]:
        return sorted(self._by_last_stem)

    def _index(self, key: Callable[[str], str]) -> Index:
        found: dict[str, list[str]] = defaultdict(list)
        for file in self._files:
            found[key(file)].append(file)
        found.pop("", None)
        return dict(found)


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _canonical(path: str) -> str:
    """Return a path with '/' without './' and '//', in the Unicode form NFC."""
    return unicodedata.normalize("NFC", posixpath.normpath(path))


def _fold(text: str) -> str:
    """Return a form that is equal for names that differ only in case, Unicode form and invisible characters."""
    if text.isascii():
        return text.casefold()
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold())


def _without_zeros(path: str) -> str:
    """Return a path whose last part is a whole number with that number in its shortest form; otherwise ''."""
    folder, last = posixpath.split(path)
    number = WHOLE_NUMBER.fullmatch(last)
    return _fold(posixpath.join(folder, number[1].lstrip("0") or "0")) if number else ""
