"""Masks and scores on grey photographs, for the report and the view."""

import matplotlib
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from data.dataset import IGNORE_INDEX, Mask
from data.palette import coloured_pixels

STRENGTH = 0.65  # fraction of the class's colour; the rest is the grey photograph


def heat(image: Image.Image, score: Float[np.ndarray, "h w"]) -> Image.Image:
    """Show scores, 0 to 1, on an image of their size: dark for low scores, bright for high ones."""
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
