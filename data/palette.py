"""The colours of classes, the same everywhere: palette masks, overlays with a legend, reports and exports."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.dataset import IGNORE_INDEX, Mask

# Okabe and Ito, 'Color Universal Design' (2008), without black: seven colours that colour-blind people can tell apart.
# None of them is grey, so that they are visible on grey photographs.
BASE_COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
STRIPE = 4  # pixels; width of the stripes on ignored pixels
OVERLAY_PIXELS_AT_A_TIME = 2**22  # drawn at once; a large image as a whole would need several copies in memory

FONT_SIZES = (11, 40)  # pixels; smallest and largest text of a legend
IMAGE_WIDTHS_PER_FONT_SIZE = 50  # text of 20 pixels for an image that is 1000 pixels wide
IGNORED_NAME = "ignored"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def class_colours(count: int) -> NDArray[np.uint8]:
    """Return the colours of the classes 1..count, shape (count, 3): red, green, blue.

    Classes 1 to 7 have the base colours. The rounds of seven after them are lighter and darker in turn. All colours are
    different up to 254 classes; people can tell about 21 apart.
    """
    base = np.array(BASE_COLOURS, dtype=np.float64)
    rounds = [base]
    while 7 * len(rounds) < count:
        # Move 1/2, 1/4, 3/4, 1/8, ... of the way to white or black: each round is far from all rounds before it.
        amount = _halving((len(rounds) + 1) // 2)
        lighter = len(rounds) % 2 == 1
        rounds.append(base + amount * (255 - base) if lighter else base * (1 - amount))
    return np.concatenate(rounds)[:count].round().astype(np.uint8)


def colour_map() -> NDArray[np.uint8]:
    """Return the colours of all mask values, shape (256, 3): 0 is black, 255 white, 1..254 the classes."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1:IGNORE_INDEX] = class_colours(IGNORE_INDEX - 1)
    colours[IGNORE_INDEX] = 255
    return colours


def palette_image(mask: Mask) -> Image.Image:
    """Return a mask as an image of mode P: its pixels are still the class numbers, viewers show the colours."""
    image = Image.fromarray(mask)
    image.putpalette(colour_map().tobytes())
    return image


def overlay(
    image: Image.Image, mask: Mask, *, strength: float = 0.5, legend: Sequence[str] | None = None
) -> Image.Image:
    """Return an RGB image with the colours of its mask on it.

    Background stays as it is, ignored pixels get white stripes. A legend is added below the image, as a strip of the
    same width; the rows above it are those of the image. There is no strip if the mask shows no class.

    Args:
        image: RGB, of the mask's size.
        mask: The mask.
        strength: Fraction of the class's colour in the result, 0 to 1.
        legend: Names of the classes 1..C; None for no legend.
    """
    strip = None if legend is None else legend_strip(mask, legend, image.width)
    result = Image.new("RGB", (image.width, image.height + (strip.height if strip else 0)))
    result.paste(image, (0, 0))
    if strip:
        result.paste(strip, (0, image.height))
    colours = colour_map()
    rows = max(1, OVERLAY_PIXELS_AT_A_TIME // image.width)
    for top in range(0, image.height, rows):
        part = mask[top : top + rows]
        plain = image.crop((0, top, image.width, top + len(part)))
        blended = Image.blend(plain, Image.fromarray(colours[part]), strength)
        result.paste(blended, (0, top), mask=Image.fromarray(coloured_pixels(part, top)))
    return result


def coloured_pixels(mask: Mask, top: int = 0) -> NDArray[np.bool_]:
    """Return where an overlay is coloured (h, w): at all pixels of classes, and at stripes of the ignored pixels.

    Args:
        mask: A mask, or some rows of one.
        top: Index of its first row in the whole mask, so that the stripes of all parts fit together.
    """
    # Positions within a period of two stripes, in one byte per pixel.
    rows, columns = ((np.arange(size) % (2 * STRIPE)).astype(np.uint8) for size in (top + mask.shape[0], mask.shape[1]))
    stripes = (rows[top:, None] + columns) // STRIPE % 2 == 0
    coloured: NDArray[np.bool_] = (mask != 0) & ((mask != IGNORE_INDEX) | stripes)
    return coloured


class _Entry(NamedTuple):
    """One class of a legend: a coloured box at `left`, `top` (pixels of the strip) and its text."""

    left: int
    top: int
    colour: tuple[int, ...]
    text: str


def legend_strip(mask: Mask, names: Sequence[str], width: int) -> Image.Image | None:
    """Draw a strip of the given width that names the classes in a mask; None if there are none."""
    counts = Image.fromarray(mask).histogram()  # much faster than np.unique
    present = [number for number, count in enumerate(counts) if count and number != 0]
    if not present:
        return None
    size = min(max(width // IMAGE_WIDTHS_PER_FONT_SIZE, FONT_SIZES[0]), FONT_SIZES[1])
    font = load_font(size)
    colours = colour_map()
    gap = size // 2
    line = size + gap
    entries: list[_Entry] = []
    left = top = gap
    for number in present:
        text = _fitted(_legend_text(number, names, font), width - size - 3 * gap, font)
        needed = size + gap + round(font.getlength(text))
        if left > gap and left + needed + gap > width:
            left, top = gap, top + line
        entries.append(_Entry(left, top, tuple(colours[number].tolist()), text))
        left += needed + 2 * gap
    strip = Image.new("RGB", (width, top + line), "white")
    draw = ImageDraw.Draw(strip)
    for entry in entries:
        corner = (entry.left + size - 1, entry.top + size - 1)
        draw.rectangle((entry.left, entry.top, *corner), fill=entry.colour, outline="grey")
        draw.text((entry.left + size + gap, entry.top + size // 2), entry.text, fill="black", font=font, anchor="lm")
    return strip


def load_font(size: int) -> Font:
    """Load a font for names in many alphabets; `size` in pixels.

    Pillow's own font has ASCII letters only. matplotlib brings DejaVu Sans, which has all Latin, Greek and Cyrillic
    letters. Only its file is needed: importing matplotlib would take longer than drawing.
    """
    package = find_spec("matplotlib")
    try:
        folder = Path(package.origin).parent if package and package.origin else Path()
        return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _legend_text(number: int, names: Sequence[str], font: Font) -> str:
    """Return the name of a class, or its number if the font lacks one of the name's characters."""
    if number == IGNORE_INDEX:
        return IGNORED_NAME
    name = " ".join(names[number - 1].split()) if number <= len(names) else ""
    return name if name and _has_glyphs(font, name) else f"class {number}"


def _has_glyphs(font: Font, text: str) -> bool:
    """Tell whether a font can draw a text."""
    # A font draws the same box in place of every character that it lacks. U+FFFF is never a character.
    missing = bytes(font.getmask("\uffff"))
    return text.isprintable() and all(bytes(font.getmask(character)) != missing for character in set(text))


def _fitted(text: str, width: float, font: Font) -> str:
    """Cut a text to a width in pixels; an ellipsis shows that something is missing."""
    if font.getlength(text) <= width:
        return text
    text = text[: max(0, int(width))]  # every character takes a pixel or more
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""


def _halving(index: int) -> float:
    """Return the van der Corput sequence 1/2, 1/4, 3/4, 1/8, 5/8, ...; the first index is 1."""
    value, step = 0.0, 1.0
    while index:
        step /= 2
        value += step * (index % 2)
        index //= 2
    return value
