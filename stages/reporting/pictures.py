"""Masks and scores laid over photographs, in colours that colour-blind people can tell apart."""

import matplotlib
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from data.palette import Mask

# Okabe and Ito, 'Color Universal Design' (2008), without black.
SAFE_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
STRENGTH = 0.65  # share of the class's colour; the photograph's grey is the rest
STRIPE = 4  # pixels


def class_colours(count: int) -> NDArray[np.uint8]:
    """Colours of the classes 1..count, shape (count, 3): seven safe ones, then lighter, then darker, then again."""
    base = np.array([matplotlib.colors.to_rgb(colour) for colour in SAFE_COLOURS])
    rounds = np.concatenate([base, base + 0.55 * (1 - base), 0.55 * base])
    return np.resize((255 * rounds).round().astype(np.uint8), (count, 3))


def heat(image: Image.Image, score: Float[np.ndarray, "h w"]) -> Image.Image:
    """Lay scores, 0..1, over an image of their size: dark where low, bright where high."""
    glow = np.asarray(matplotlib.colormaps["inferno"](score.clip(0, 1)))[..., :3]
    return _mixed(image, 255 * glow, np.full(score.shape, STRENGTH))


def coloured(image: Image.Image, mask: Mask, colours: NDArray[np.uint8]) -> Image.Image:
    """Lay a mask over an image of its size: classes in their colours, ignored pixels striped.

    Args:
        image: The photograph.
        mask: Its mask.
        colours: Of the classes 1..C, shape (C, 3).
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[1 : len(colours) + 1] = colours
    table[255] = 255
    diagonals = np.arange(mask.shape[0])[:, None] + np.arange(mask.shape[1])
    striped = (mask == 255) & (diagonals // STRIPE % 2 == 0)
    return _mixed(image, table[mask], STRENGTH * ((mask > 0) & ((mask != 255) | striped)))


def _mixed(
    image: Image.Image, colour: NDArray[np.float64] | NDArray[np.uint8], strength: NDArray[np.float64]
) -> Image.Image:
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    share = strength[..., None].astype(np.float32)
    return Image.fromarray((grey * (1 - share) + colour * share).round().astype(np.uint8))
