"""Colours of classes: masks as palette pictures that any viewer shows, and laid over photographs."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PIXELS_AT_A_TIME = 2**22  # of an overlay: more would be several copies of a large picture

Mask = NDArray[np.uint8]  # (h, w): 0 background, 1..C classes, 255 ignored


def colour_map() -> NDArray[np.uint8]:
    """The colours that PASCAL VOC gave to class numbers, shape (256, 3): red, green, blue.

    The bits of a number are dealt out to red, green and blue in turn, as their highest bits first, so that
    small numbers get colours far apart. 0 is black, 255 a pale cream.
    """
    numbers = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (numbers >> bit & 1) << (7 - bit // 3)
    return colours


COLOURS = colour_map()


def palette_image(mask: Mask) -> Image.Image:
    """Turn a mask into a picture of mode P whose pixels are still the class numbers."""
    image = Image.fromarray(mask)
    image.putpalette(COLOURS.tobytes())
    return image


def overlay(image: Image.Image, mask: Mask, strength: float = 0.5) -> Image.Image:
    """Lay a mask's colours over its RGB image; background stays as it is.

    Args:
        image: Of the mask's size.
        mask: The mask.
        strength: Share of the class's colour, 0 to 1.
    """
    result = image.copy()
    rows = max(1, PIXELS_AT_A_TIME // image.width)
    for top in range(0, image.height, rows):
        part = mask[top : top + rows]
        plain = image.crop((0, top, image.width, top + len(part)))
        blended = Image.blend(plain, Image.fromarray(COLOURS[part]), strength)
        result.paste(blended, (0, top), mask=Image.fromarray(part != 0))
    return result
