"""Which images `toco predict` is given: files, folders and patterns, each image under a name of its own."""

import glob
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path

from data.dataset import DataError, Sample
from data.images import IMAGE_SUFFIXES, find_images, image_id
from stages.prediction.output_folder import SUFFIXES
from stages.runtime.monitor import Monitor

KINDS = ", ".join(sorted(IMAGE_SUFFIXES))


def find_inputs(paths: Sequence[Path], out: Path, monitor: Monitor) -> list[Sample]:
    """List the images to predict; their ids are the names to write under, and unique.

    What lies below `out` is left out: it may be in a folder of images, and hold an earlier run's.

    Args:
        paths: Files; folders, which are searched to the bottom; and patterns as for `glob`, with ** for any folders.
            What exists is no pattern, whatever its name.
        out: Folder that the results go to.
        monitor: Told of images that get another name than their own.

    Raises:
        DataError: A path does not exist, or a folder or pattern holds no images.
    """
    names: set[str] = set()  # in one case: some file systems do not tell case apart
    seen: set[Path] = set()
    samples = []
    for name, path in _named_files(paths, [(out / kind).resolve() for kind in SUFFIXES]):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        unique = name
        for number in count(2):
            if unique.casefold() not in names:
                break
            unique = f"{name}-{number}"
        if unique != name:
            monitor.note(f"{path} is written as {unique!r}: another image is named {name!r}")
        names.add(unique.casefold())
        samples.append(Sample(id=unique, image=path, classes=(), mask=None))
    if not samples:
        raise DataError("there are no images to predict: give files, folders of images, or patterns")
    return samples


def _named_files(paths: Sequence[Path], results: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Pairs of the path that names an image, without extension, and its file."""
    for given in paths:
        if given.is_file():
            yield image_id(given.name), given
            continue
        if given.is_dir():
            found, nothing = find_images(given), f"{given} holds no images ({KINDS})"
        elif glob.has_magic(str(given)):
            found, nothing = _matches(given), f"the pattern {str(given)!r} matches no images ({KINDS}): check it"
        else:
            raise DataError(f"there is no file or folder {given}: check the path")
        inputs = {
            name: path
            for name, path in found.items()
            if not any(path.resolve().is_relative_to(folder) for folder in results)
        }
        if not inputs:
            raise DataError(nothing)
        for name, path in inputs.items():
            yield image_id(name), path


def _matches(pattern: Path) -> dict[str, Path]:
    """The image files that a pattern matches, by their path below the folders before its first * (or ? or [)."""
    folder = Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    paths = (Path(match) for match in sorted(glob.glob(str(pattern), recursive=True)))
    return {
        path.relative_to(folder).as_posix(): path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    }
