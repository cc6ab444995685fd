"""`--from cvat`: CVAT's format 'Segmentation mask 1.1', as a .zip or its unpacked folder.

    labelmap.txt                         name:red,green,blue:parts:actions, one line for each class
    SegmentationClass/<image>.png        the colours of the classes; also a palette, or the numbers of the lines
    ImageSets/Segmentation/<list>.txt    the images

See https://docs.cvat.ai/docs/dataset_management/formats/format-smask.
"""

import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from data.dataset import Mask
from data.errors import DataError, reason
from stages.imports.drawn_masks import ClassNumbers, DrawnMask, FoundMasks, Size, by_colour, open_png

LABEL_LINE = re.compile(r"(.*?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")  # a name may have ':'
MASK_FOLDER, LABEL_MAP = "SegmentationClass", "labelmap.txt"
Colour = tuple[int, int, int]
InArchive = Path | zipfile.Path


def find_colour_masks(path: Path, class_names: tuple[str, ...]) -> FoundMasks:
    """List the masks.

    Raises:
        DataError: It is another format, or the label map is damaged.
    """
    try:
        root: InArchive = path if path.is_dir() else zipfile.Path(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is neither a folder nor a .zip ({reason(error)}): give CVAT's export") from error
    folder, table = root / MASK_FOLDER, root / LABEL_MAP
    if not folder.is_dir() or not table.is_file():
        raise DataError(
            f"{path} has no {MASK_FOLDER}/ with {LABEL_MAP}: export from CVAT as 'Segmentation mask 1.1', and give the "
            ".zip or its folder"
        )
    labels = _read_label_map(table.read_bytes(), path)
    files = dict(_png_files(folder))
    lists = root / "ImageSets" / "Segmentation"
    listed: set[str] = set()
    for file in lists.iterdir() if lists.is_dir() else ():
        listed |= {line.strip() for line in file.read_bytes().decode("utf-8-sig", "replace").splitlines()} - {""}
    numbers = ClassNumbers(class_names)
    return FoundMasks(
        masks=[
            DrawnMask(
                names=(name,), where=f"{path}, {MASK_FOLDER}/{name}.png", read=partial(_read, file, labels, numbers)
            )
            for name, file in sorted(files.items())
        ],
        unannotated=len(listed - files.keys()),
    )


def _read_label_map(content: bytes, path: Path) -> dict[Colour, str]:
    labels: dict[Colour, str] = {}
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LABEL_LINE.fullmatch(line.strip())
        if not found:
            raise DataError(
                f"{path}, {LABEL_MAP} line {number}: '{line.strip()}' is not 'name:red,green,blue::': export again"
            )
        red, green, blue = (int(value) for value in found.group(2, 3, 4))
        labels[red, green, blue] = found[1]
    return labels


def _png_files(folder: InArchive, prefix: str = "") -> Iterator[tuple[str, InArchive]]:
    for one in folder.iterdir():
        if one.is_dir():
            yield from _png_files(one, f"{prefix}{one.name}/")
        elif one.name.lower().endswith(".png"):
            yield prefix + one.name[: -len(".png")], one


def _read(file: InArchive, labels: dict[Colour, str], numbers: ClassNumbers, size: Size) -> Mask:
    image = open_png(file.read_bytes())
    if image.mode in ("L", "1", "I") or image.mode.startswith("I;16"):  # numbers of the lines, from 0
        lines = np.asarray(image)
        names = list(labels.values())
        if lines.max(initial=0) >= len(names):
            raise DataError(f"it has the value {lines.max()}, but {LABEL_MAP} has {len(names)} classes")
        used = np.unique(lines).tolist()
        table = np.zeros(len(names), np.uint8)
        table[used] = [numbers.of(names[line]) for line in used]
        mask: Mask = table[lines]
        return mask
    shown = image.convert("RGB").getcolors(maxcolors=image.width * image.height) or []
    used_colours = {colour for _, colour in shown if colour in labels}
    colours = {colour: numbers.of(labels[colour]) for colour in used_colours}
    if (0, 0, 0) not in labels:
        colours[0, 0, 0] = 0
    return by_colour(image, colours)
