"""Places where results must not be written: over a data set, among its files, or over the input images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.custom_reader import LABELS_FILE
from data.dataset import TRAIN_NAMES, VAL_NAMES
from data.errors import SettingsError
from data.images import find_images
from data.written_folders import written_by_toco

# Folders of a data set, of all layouts, also where they do not exist yet: images, masks and lists are read from them.
OWN_FOLDERS = frozenset(
    {
        *("images", "masks", "jpegimages", "segmentationclass", "segmentationclassaug", "annotations", "imagesets"),
        *TRAIN_NAMES,
        *VAL_NAMES,
    }
)
MAX_NAME = 255  # bytes of a file name, on nearly all file systems
MAX_PATH = 4095  # bytes


def check_output_place(out: Path, *, datasets: Iterable[Path | None] = (), inputs: Iterable[Path] = ()) -> None:
    """Refuse a place for results that holds a data set or input images, or is among the files of a data set.

    A folder of its own inside a data set's folder is accepted, for example DATA/runs/first: nothing is read from it,
    because it is marked as written by toco. Links and '..' are resolved.

    Args:
        out: Folder or file for the results; it need not exist.
        datasets: Data sets that must not be changed; None, and folders that do not exist, are ignored. Data sets around
            `out` are found without being given, except class folders.
        inputs: Image files that must not be below `out`.

    Raises:
        SettingsError: Says what is in the way.
    """
    place = out.resolve()
    given = [root.resolve() for root in datasets if root is not None and root.is_dir()]
    around = [folder for folder in (place, *place.parents) if _is_dataset(folder)]
    for root in dict.fromkeys([*given, *around]):
        for folder in (root, *_linked_folders(root)):
            if folder.is_relative_to(place):
                raise SettingsError(
                    f"{out} is or holds the data set {root}, among whose files results must not be written: give a "
                    "folder of their own"
                )
            if place.is_relative_to(folder) and _belongs(top := folder / place.relative_to(folder).parts[0], folder):
                raise SettingsError(
                    f"{out} is in {top}, which belongs to the data set {root}: results there would be taken for images "
                    "or ground truth; give a folder of their own"
                )
    for image in inputs:
        if image.resolve().is_relative_to(place):
            raise SettingsError(f"{out} is or holds the input image {image}: give another place for the results")


def check_folder(path: Path) -> None:
    """Refuse a path where a folder is needed and cannot be: the path, or one above it, is a file.

    Raises:
        SettingsError: Names the file.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise SettingsError(f"{there} is not a folder: give another one")


def check_file_names(files: Iterable[Path]) -> None:
    """Refuse names that no file system takes, and names that collide, before the first file is written.

    Raises:
        SettingsError: Names the first file, and says what to do.
    """
    files = list(files)
    written = Counter(files)
    if twice := next((file for file, count in written.items() if count > 1), None):
        raise SettingsError(f"two results have the name {twice}: rename one of the images")
    for file in files:
        longest = max(len(os.fsencode(part)) for part in file.parts)
        whole = len(os.fsencode(file.absolute()))
        if longest > MAX_NAME or whole > MAX_PATH:
            size, limit = (longest, MAX_NAME) if longest > MAX_NAME else (whole, MAX_PATH)
            raise SettingsError(
                f"the name {file.name[:40]}... of a result is too long ({size} bytes, {limit} are possible): rename "
                f"the image or its folders, or give a shorter --out (in {str(file.parent)[:80]})"
            )
    for parent in {file.parent: None for file in files}:
        if folder := next((folder for folder in (parent, *parent.parents) if folder in written), None):
            file = next(file for file in files if file.is_relative_to(folder) and file != folder)
            raise SettingsError(
                f"{folder} would be a file and the folder of {file.relative_to(folder)}: rename one of the images"
            )


def _is_dataset(folder: Path) -> bool:
    """Tell whether a folder has the files of a layout that can be recognised by its files' names."""
    if written_by_toco(folder):  # an export has the files of a layout, too
        return False
    return (
        (folder / LABELS_FILE).is_file()
        or (folder / "JPEGImages").is_dir()
        or any((folder / "annotations").glob("instances_*.json"))
    )


def _linked_folders(root: Path) -> Iterator[Path]:
    """Yield the folders elsewhere that links in a data set's folder point to, such as an image folder."""
    for path in root.iterdir():
        if path.is_symlink() and path.is_dir() and not written_by_toco(path):
            yield path.resolve()


def _belongs(top: Path, root: Path) -> bool:
    """Tell whether a file or folder directly in a data set's folder belongs to the data set."""
    if top.name.casefold() in OWN_FOLDERS:
        return True
    if (root / LABELS_FILE).is_file():  # the layout has no other folders
        return False
    return top.is_dir() and not written_by_toco(top) and bool(find_images(top))
