"""Places where results must not be written: over a data set, among its files, or over the input images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from data.class_folder_reader import SPLIT_FOLDER
from data.errors import DataError, SettingsError
from data.image_files import find_images
from data.label_table import LABELS_FILE
from data.written_folders import written_by_toco

# Folders at the top of a data set from which images, masks or lists are read, also where they do not exist yet.
READ_FOLDERS = {
    "custom": re.compile("images|masks"),
    "voc": re.compile("jpegimages|images|annotations|imagesets|segmentationclass(aug)?"),
    "coco": re.compile(rf"annotations|images|jpegimages|{SPLIT_FOLDER.pattern}"),
}
OTHER_FOLDERS = re.compile(rf"annotations|masks|{SPLIT_FOLDER.pattern}")  # without layout; and those with images
MAX_NAME = 255  # bytes of a file name, on nearly all file systems
MAX_PATH = 4095  # bytes


def check_output_place(
    out: Path, *, folders: Iterable[str] = (), datasets: Iterable[Path | None] = (), inputs: Iterable[Path] = ()
) -> None:
    """Refuse a place for results that holds a data set or input images, or is among the files of a data set.

    A folder of its own inside a data set's folder is accepted, for example DATA/runs/first: nothing is read from it,
    because it is marked as written by toco. Links and '..' are resolved.

    Args:
        out: Folder or file for the results; it need not exist.
        folders: The folders in `out` that are written, if not all of `out`.
        datasets: Data sets that must not be changed; None, and folders that do not exist or cannot be opened, are
            ignored. Data sets around `out` are found without being given, except class folders.
        inputs: Image files that must not be below a folder that is written.

    Raises:
        SettingsError: Says what is in the way.
    """
    places = {name: (out / name).resolve() for name in folders or ("",)}
    given = [root.resolve() for root in datasets if root is not None and os.path.isdir(root)]
    for name, place in places.items():
        around = [folder for folder in (place, *place.parents) if _layout(folder) and not written_by_toco(folder)]
        for root in dict.fromkeys([*given, *around]):
            if root.is_relative_to(place):
                raise SettingsError(
                    f"{out / name} is or holds the data set {root}, among whose files results must not be written: "
                    "give a folder of their own"
                )
            if (top := _read_folder(root, place)) is not None:
                raise SettingsError(
                    f"{out / name} overlaps {top}, which belongs to the data set {root}: results there would be taken "
                    "for images or ground truth; give a folder of their own"
                )
    beginnings = {name: os.path.join(place, "") for name, place in places.items()}
    for image, real in _real_paths(inputs):
        for name, beginning in beginnings.items():
            if os.path.join(real, "").startswith(beginning):
                raise SettingsError(
                    f"{out / name} is or holds the input image {image}: give another place for the results"
                )


def check_holds_results(folder: Path) -> None:
    """Refuse a folder with images that toco did not write: once it is marked, they would no longer be read.

    Raises:
        SettingsError: Names the first image.
    """
    if image := first_other_image(folder):
        raise SettingsError(
            f"{folder} holds images that toco did not write (first '{image}'), which its results would hide or "
            "replace: give another folder"
        )


def first_other_image(folder: Path) -> str | None:
    """Return the path of an image below a folder that toco did not write; None if there is none, or no such folder."""
    try:
        if written_by_toco(folder) or not os.path.isdir(folder):
            return None
        return next(iter(find_images(folder)), None)
    except (OSError, DataError):  # a folder that cannot be listed; nothing can be written there
        return None


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
    names = [os.fspath(file) for file in files]
    written = set(names)

    @cache
    def measure(folder: str) -> tuple[int, int, str | None]:
        """Return the longest part and the length of a folder's path in bytes, and which part of it is a file."""
        path = Path(folder)
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        file = next((one for one in map(os.fspath, (path, *path.parents)) if one in written), None)
        return longest, len(os.fsencode(path.absolute())), file

    for one in names:
        folder, name = os.path.split(one)
        in_folder, before, file = measure(folder)
        size = len(os.fsencode(name))
        longest, whole = max(in_folder, size), before + 1 + size
        if longest > MAX_NAME or whole > MAX_PATH:
            found, limit = (longest, MAX_NAME) if longest > MAX_NAME else (whole, MAX_PATH)
            raise SettingsError(
                f"the name {name[:40]}... of a result is too long ({found} bytes, {limit} are possible): rename "
                f"the image or its folders, or give a shorter --out (in {folder[:80]})"
            )
        if file is not None:
            raise SettingsError(
                f"{file} would be a file and the folder of {os.path.relpath(one, file)}: rename one of the images"
            )


def _layout(folder: Path) -> str | None:
    """Return the layout of a data set, a key of READ_FOLDERS; None if the names of its files do not tell."""
    if os.path.isfile(folder / LABELS_FILE):
        return "custom"
    if os.path.isdir(folder / "JPEGImages"):
        return "voc"
    try:
        return "coco" if any((folder / "annotations").glob("instances_*.json")) else None
    except OSError:
        return None


def _read_folder(root: Path, place: Path) -> Path | None:
    """Return the folder of a data set that holds a place and is read, also if it is a link; None if there is none."""
    layout = _layout(root)
    if place.is_relative_to(root):
        top = root / place.relative_to(root).parts[0]
        if _is_read(top, layout):
            return top
    for top in _links(root):
        folder = top.resolve()
        if (
            (place.is_relative_to(folder) or folder.is_relative_to(place))
            and not written_by_toco(folder)
            and _is_read(top, layout)
        ):
            return top
    return None


def _links(root: Path) -> Iterator[Path]:
    """Yield the links to folders in a folder; none if it cannot be listed."""
    try:
        yield from (path for path in root.iterdir() if path.is_symlink() and os.path.isdir(path))
    except OSError:  # then nothing can be written there
        return


def _is_read(top: Path, layout: str | None) -> bool:
    """Tell whether images, masks or lists are read from a folder directly in a data set's folder."""
    name = top.name.casefold()
    if layout is not None:
        return READ_FOLDERS[layout].fullmatch(name) is not None
    return OTHER_FOLDERS.fullmatch(name) is not None or first_other_image(top) is not None


def _real_paths(images: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each image with its path without links; the folder of many images is resolved once."""
    real_folder = cache(os.path.realpath)
    for image in images:
        folder, name = os.path.split(image)
        yield image, os.path.realpath(image) if os.path.islink(image) else os.path.join(real_folder(folder), name)
