"""The kinds of objects that the sample pictures show: an outline, a texture and usual colours each."""

from __future__ import annotations

from dataclasses import dataclass

from data.drawing.outlines import (
    Outline,
    block,
    fish_body,
    leaf_blade,
    pebble,
    star,
    tortoise,
)
from data.drawing.textures import (
    Texture,
    bricks,
    rings,
    scales,
    shields,
    veins,
    warts,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: everything that its pictures have in common."""

    name: str
    outline: Outline
    texture: Texture
    hues: tuple[float, ...]
    """Usual hues (0..1, colour circle); each object strays a little from one of them."""
    saturation: tuple[float, float]
    """Range of the saturation of its light colour."""
    motif: float
    """Usual size of one motif (a brick, a scale, the distance of veins), as a share of the picture's side."""
    rim: float = 0.0
    """Width of its dark edge, a log's bark, as a share of its radius."""


# Hues: 0 red, 0.07 orange, 0.13 yellow, 0.3 green, 0.5 cyan, 0.6 blue, 0.75 violet, 0.9 pink. A kind is of one
# colour family, as real things are, but for one object in twelve; grounds are of all these colours.
DEMO_KINDS: tuple[Kind, ...] = (
    Kind("leaf", leaf_blade, veins, hues=(0.27, 0.3, 0.33, 0.36, 0.25), saturation=(0.5, 0.85), motif=0.065),
    Kind("starfish", star, warts, hues=(0.03, 0.05, 0.07, 0.06, 0.04), saturation=(0.65, 0.9), motif=0.062),
    Kind("brick", block, bricks, hues=(0.98, 0.0, 0.01, 0.99, 0.0), saturation=(0.35, 0.65), motif=0.055),
    Kind("log", pebble, rings, hues=(0.09, 0.1, 0.11, 0.12, 0.1, 0.04), saturation=(0.2, 0.45), motif=0.05, rim=0.09),
    Kind("turtle", tortoise, shields, hues=(0.45, 0.48, 0.5, 0.42, 0.46), saturation=(0.35, 0.7), motif=0.07),
    Kind(
        "fish",
        fish_body,
        scales,
        hues=(0.58, 0.6, 0.62, 0.64, 0.6),
        saturation=(0.4, 0.75),
        motif=0.06,
    ),
)
"""The classes of the sample data set."""
