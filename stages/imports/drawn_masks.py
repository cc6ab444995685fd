"""What the readers of all formats return: masks that people drew, decoded one at a time."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.class_names import NO_CLASSES, canonical_name
from data.dataset import IGNORE_INDEX, Mask, list_names
from data.errors import DataError, reason
from data.images import upright
from stages.exports.label_map import label_map_name
from stages.exports.xml_names import xml_name

BACKGROUND_NAMES = NO_CLASSES - {"ignored", "void"}

Size = tuple[int, int]  # height and width of an image


@dataclass(frozen=True, kw_only=True)
class DrawnMask:
    """The mask of one image, not decoded yet."""

    names: tuple[str, ...]  # that the image may have in the data set; the first that fits counts
    where: str  # its place in the import, for messages
    read: Callable[[Size], Mask]  # raises DataError, without the place, if it cannot be a mask of this size
    annotator: str = ""
    annotated: str = ""  # when, ISO 8601


@dataclass(kw_only=True)
class FoundMasks:
    """All masks of an import."""

    masks: list[DrawnMask] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of entries that cannot be masks, one line each
    unannotated: int = 0  # images without an annotation


class ClassNumbers:
    """Maps the names of classes in labels, categories and label maps to the numbers in masks."""

    def __init__(self, class_names: Sequence[str]) -> None:
        """Remember the names; class c is class_names[c - 1]."""
        self.class_names = class_names
        numbered = list(enumerate(class_names, 1))
        # The names of the data set come last, so that they have priority over the names in files.
        self._numbers = {form(name): number for form in (label_map_name, xml_name, str) for number, name in numbered}

    def of(self, name: str) -> int:
        """Return the number of a class; 0 for 'background', 255 for 'ignored'.

        Raises:
            DataError: The run has no such class.
        """
        for known in (name, canonical_name(name)):
            if known in self._numbers:
                return self._numbers[known]
        if name.lower() in NO_CLASSES:
            return 0 if name.lower() in BACKGROUND_NAMES else IGNORE_INDEX
        raise DataError(
            f"the run has no class '{name}' (it has {list_names(self.class_names, 5)}): rename the class in the tool"
        )


def open_png(file: Path | bytes) -> Image.Image:
    """Open and decode a PNG, and turn it upright.

    Raises:
        DataError: It is damaged or not a PNG.
    """
    try:
        image = upright(Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=("PNG",)))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"it cannot be read as PNG ({reason(error)}): save it again") from error
    return image


def by_colour(image: Image.Image, numbers: Mapping[tuple[int, int, int], int]) -> Mask:
    """Return the mask of an image whose colours are those of classes.

    Args:
        image: Of any mode.
        numbers: The class number of each colour (red, green, blue).

    Raises:
        DataError: It has another colour, or is transparent in parts.
    """
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        raise DataError("it is transparent in parts: save it without transparency")
    pixels = np.asarray(image.convert("RGB")).astype(np.uint32)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    mask = np.zeros(codes.shape, np.uint8)
    found, inverse = np.unique(codes, return_inverse=True)
    table = []
    for code in found.tolist():
        colour = (code >> 16, code >> 8 & 255, code & 255)
        if colour not in numbers:
            count = int((codes == code).sum())
            raise DataError(
                f"{count} pixels have the colour {colour}, which no class has: draw without smooth edges, and save "
                "without loss"
            )
        table.append(numbers[colour])
    mask[...] = np.array(table, np.uint8)[inverse.reshape(codes.shape)]
    return mask
