"""Masks and scores on grey photographs: for the report, the view, and the panels that are drawn during training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.dataset import IGNORE_INDEX, Mask
from data.palette import coloured_pixels, legend_strip, load_font

CELL = 160  # pixels; side of a picture in a contact sheet
GAP = 6  # pixels; between them
TITLE = 14  # pixels; text above a row
STRENGTH = 0.65  # fraction of the class's colour; the rest is the grey photograph


def heat(image: Image.Image, score: NDArray[np.floating[Any]]) -> Image.Image:
    """Show scores (h, w), 0 to 1, on an image of their size: dark for low scores, bright for high ones."""
    import matplotlib  # late: a training may draw no picture

    glow = np.asarray(matplotlib.colormaps["inferno"](score.clip(0, 1)))[..., :3]
    return _mixed(image, 255 * glow, np.full(score.shape, STRENGTH))


def coloured(image: Image.Image, mask: Mask, colours: NDArray[np.uint8]) -> Image.Image:
    """Show a mask on an image of its size: classes in their colours, ignored pixels with white stripes.

    Args:
        image: The photograph.
        mask: Its mask.
        colours: Of the classes 1..C, shape (C, 3).
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[1 : len(colours) + 1] = colours
    table[IGNORE_INDEX] = 255
    return _mixed(image, table[mask], np.where(coloured_pixels(mask), STRENGTH, 0.0))


def _mixed(
    image: Image.Image, colour: NDArray[np.float64] | NDArray[np.uint8], strength: NDArray[np.float64]
) -> Image.Image:
    """Return strength * colour + (1 - strength) * the image in grey."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    share = strength[..., None].astype(np.float32)
    return Image.fromarray((grey * (1 - share) + colour * share).round().astype(np.uint8))


def contact_sheet(
    rows: Mapping[str, Sequence[Image.Image | None]], shown: Sequence[int], class_names: Sequence[str]
) -> Image.Image:
    """Put pictures into rows with titles, and a legend of classes below.

    Args:
        rows: Pictures by the title of their row, each at most `CELL` pixels wide and high; None leaves a gap. A row
            without any picture is left out.
        shown: The classes of the legend, 1..C.
        class_names: Names of the classes 1..C.
    """
    rows = {title: pictures for title, pictures in rows.items() if any(pictures)}
    columns = max(map(len, rows.values()), default=1)
    width = columns * (CELL + GAP) + GAP
    legend = legend_strip(np.array([[0, *shown]], dtype=np.uint8), class_names, width)
    row_height = TITLE + 2 * GAP + CELL
    height = len(rows) * row_height + (legend.height if legend else GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), load_font(TITLE)
    for row, (title, pictures) in enumerate(rows.items()):
        top = row * row_height + GAP
        draw.text((GAP, top + TITLE // 2), title, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            if picture is not None:
                left = GAP + column * (CELL + GAP)
                sheet.paste(
                    picture, (left + (CELL - picture.width) // 2, top + TITLE + GAP + (CELL - picture.height) // 2)
                )
    if legend:
        sheet.paste(legend, (0, height - legend.height))
    return sheet
