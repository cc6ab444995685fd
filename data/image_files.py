"""List the image files in a folder, and name them by ids."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from data.errors import DataError, reason
from data.file_kinds import IMAGE_SUFFIXES, PROGRAM_OF, split_kinds, suffix_of
from data.images import MaskFile
from data.written_folders import written_by_toco


def find_images(folder: Path) -> dict[str, Path]:
    """Return {relative path with '/': file} of all images below a folder, sorted.

    Hidden files, folders of operating systems such as __MACOSX, and the folders in it that toco wrote are skipped.

    Raises:
        DataError: A folder cannot be listed.
    """
    return find_images_and_unread(folder)[0]


def find_images_and_unread(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the result of `find_images`, and the same of all pictures and videos whose kind is not read.

    Raises:
        DataError: A folder cannot be listed.
    """
    return split_kinds(find_files(folder, IMAGE_SUFFIXES | PROGRAM_OF.keys()))


def find_masks(folder: Path) -> dict[str, MaskFile]:
    """Return {image id: mask} of all PNGs below a folder; empty if the folder does not exist or toco wrote it.

    Raises:
        DataError: A folder cannot be listed.
    """
    if not folder.is_dir() or written_by_toco(folder):
        return {}
    return {image_id(name): MaskFile(path) for name, path in find_files(folder, {".png"}).items()}


def image_id(relative: str) -> str:
    """Return the id of an image: its path relative to the folder of images, without extension, in Unicode form NFC."""
    return unicodedata.normalize("NFC", posixpath.splitext(relative)[0])


def escapes_folder(relative: str) -> bool:
    """Tell whether a relative path, read from a file of a data set, leads out of its folder."""
    return relative.startswith("/") or ".." in relative.split("/")


# Made by Synology, Windows and macOS for previews, deleted files and resource forks; hidden files are skipped as well.
_SYSTEM_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx"})


def is_skipped(name: str) -> bool:
    """Tell by its name whether a folder or file belongs to the operating system, or is hidden."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def find_files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Return {relative path with '/': file} of all files below a folder with one of these suffixes, sorted.

    Hidden files, folders of operating systems, and the folders in it that toco wrote are skipped.

    Raises:
        DataError: A folder cannot be listed.
    """

    def fail(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}")

    found: dict[str, Path] = {}
    visited: set[tuple[int, int]] = set()  # links to folders are followed; this ends loops of links
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [one for one in folders if not is_skipped(one) and not written_by_toco(Path(parent, one))]
        below = Path(parent).relative_to(folder)
        for name in files:
            if not name.startswith(".") and suffix_of(name) in suffixes:
                found[(below / name).as_posix()] = Path(parent, name)
    return dict(sorted(found.items()))
