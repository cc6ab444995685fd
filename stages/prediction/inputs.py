"""The images that `toco predict` is given as files, folders and patterns. Each image gets a unique name."""

import glob
from collections.abc import Collection, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path

from data.dataset import Sample
from data.errors import DataError
from data.file_kinds import IMAGE_SUFFIXES, PROGRAM_OF, describe_unread, split_kinds, suffix_of
from data.image_files import find_images_and_unread, image_id
from data.mask_folders import probably_masks
from data.pixel_rule import AS_STORED, PixelRule
from data.written_folders import RECORD, written_by_toco
from stages.runtime.monitor import Monitor

IMAGE_FOLDER_NAMES = ("images", "jpegimages")
KINDS = ", ".join(sorted(IMAGE_SUFFIXES))


def find_inputs(paths: Sequence[Path], monitor: Monitor, *, pixels: PixelRule = AS_STORED) -> list[Sample]:
    """List the images to predict. Their ids are unique; the results of an image are written under its id.

    Folders that toco wrote, such as earlier predictions, are skipped inside a given folder or pattern.

    Args:
        paths: Files, folders (searched recursively), and patterns of `glob`, where ** stands for any folders. A path
            that exists is never read as a pattern.
        monitor: Receives a note for each image that is renamed because its name is taken, and a warning about files
            whose kind is not read.
        pixels: How values in image files become 8-bit RGB; as in the run that predicts.

    Raises:
        DataError: A path does not exist, a folder or pattern holds no images, toco wrote a given folder, or no path was
            given.
    """
    names: set[str] = set()  # in lower case, because some file systems ignore case
    seen: set[Path] = set()
    samples = []
    for name, path in _named_files(paths, monitor):
        if (real := path.resolve()) in seen:
            continue
        seen.add(real)
        unique = name
        for number in count(2):
            if unique.casefold() not in names:
                break
            unique = f"{name}-{number}"
        if unique != name:
            monitor.note(f"{path} is written as {unique!r}, because another image is named {name!r}")
        names.add(unique.casefold())
        samples.append(Sample(id=unique, image=path, classes=(), mask=None, pixels=pixels))
    if not samples:
        raise DataError("there are no images to predict: give files, folders of images, or patterns")
    return samples


def _named_files(paths: Sequence[Path], monitor: Monitor) -> Iterator[tuple[str, Path]]:
    """Yield the name of each image, a path without extension, and its file."""
    for given in paths:
        if given.is_file():
            yield image_id(given.name), given
            continue
        if given.is_dir():
            found, unread = ({}, {}) if written_by_toco(given) else find_images_and_unread(given)
            if masks := _masks_of(found):
                found = {name: path for name, path in found.items() if name not in masks}
                monitor.warn(
                    f"files in {given} that are left out: {len(masks)} (first {min(masks)}), because they seem to be "
                    "the ground-truth masks of images beside them; to use them as images, give their folder"
                )
            nothing = f"{given} holds no images ({KINDS}): check the path"
            if written_by_toco(given) or (given / RECORD).is_file():
                nothing = f"{given} holds results of toco: give the folder of the images"
        elif glob.has_magic(str(given)):
            found, unread = split_kinds(_matches(given, IMAGE_SUFFIXES | PROGRAM_OF.keys()))
            nothing = f"the pattern {str(given)!r} matches no images ({KINDS}): check it"
        else:
            raise DataError(f"there is no file or folder {given}: check the path")
        told = f"in {given}, {describe_unread(unread)}" if unread else ""
        if not found:
            raise DataError(told or nothing)
        if told:
            monitor.warn(told)
        yield from ((image_id(name), path) for name, path in found.items())


def _masks_of(names: Collection[str]) -> frozenset[str]:
    """Return the files of masks/a.png beside images/a.jpg, or of masks/cats/a.png beside cats/a.jpg.

    masks/a.png beside cats/a.jpg is a photograph: masks may be a class.
    """
    beside = {name for name in names if "/" in name and probably_masks(name.partition("/")[0])}
    masks = [name for name in beside if suffix_of(name) == ".png"]
    images = {image_id(name) for name in names if name not in beside}
    images |= {name.partition("/")[2] for name in images if name.partition("/")[0].lower() in IMAGE_FOLDER_NAMES}
    return frozenset(name for name in masks if image_id(name).partition("/")[2] in images)


def _matches(pattern: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Find the files of some kinds that match a pattern, by their path below the folder before its first *, ? or [."""
    folder = Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    paths = (Path(match) for match in sorted(glob.glob(str(pattern), recursive=True)))
    return {
        path.relative_to(folder).as_posix(): path
        for path in paths
        if suffix_of(path.name) in suffixes and path.is_file() and not _is_result(path, folder)
    }


def _is_result(path: Path, folder: Path) -> bool:
    """Tell whether toco wrote one of the folders between `folder` and a file in it."""
    between = len(path.relative_to(folder).parts) - 1
    return any(written_by_toco(parent) for parent in path.parents[:between])
