"""`--from png`: PNG masks as `toco export --format png` and `toco pick --format png` write them, in the same folders.

Pixels are class numbers: 0 background, 1..C classes, 255 not judged. RGB images are read by toco's colours, and so are
palette images if a program has sorted their palette anew.
"""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import IGNORE_INDEX, Mask
from data.errors import DataError
from data.image_files import is_skipped
from data.images import MaskFile
from data.palette import colour_map
from stages.imports.drawn_masks import DrawnMask, FoundMasks, Size, by_colour, open_png


def find_png_masks(path: Path, class_names: tuple[str, ...]) -> FoundMasks:
    """List the PNGs of a folder, or one PNG.

    Raises:
        DataError: There are none.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.[pP][nN][gG]"))
    root = path.parent if path.is_file() else path
    files = [one for one in files if not any(is_skipped(part) for part in one.relative_to(root).parts)]
    if not files:
        raise DataError(f"{path} has no PNG files: give the folder of the masks")
    return FoundMasks(
        masks=[
            DrawnMask(
                names=(file.relative_to(root).with_suffix("").as_posix(),),
                where=str(file),
                read=partial(_read, file, len(class_names)),
            )
            for file in files
        ]
    )


def _read(file: Path, classes: int, size: Size) -> Mask:
    image = open_png(file)
    used = [*range(classes + 1), IGNORE_INDEX]
    colours = {tuple(colour_map()[number].tolist()): number for number in used}
    if image.mode.startswith("RGB"):
        return by_colour(image, colours)
    if image.mode == "P" and _sorted_anew(image, colours):
        return by_colour(image, colours)
    return MaskFile(file).read()


def _sorted_anew(image: Image.Image, colours: dict[tuple[int, ...], int]) -> bool:
    """Whether all colours of a palette image are toco's, but at other places of the palette."""
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    shown = {
        index: tuple(palette[index].tolist()) for index in np.unique(np.asarray(image)).tolist() if index < len(palette)
    }
    return set(shown.values()) <= colours.keys() and any(colours[colour] != index for index, colour in shown.items())
