"""Grounds: what objects lie on. Any ground may lie under any object, so none says what is in a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.drawing.fields import (
    Canvas,
    Colour,
    Light,
    brushed,
    brushed_along,
    hsv_to_rgb,
    mix,
    noise,
    scatter_cells,
    step,
    turned,
)


def draw_ground(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Draw one of the grounds that any object may lie on, (side, side, 3)."""
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    return ground(side, light, rng)


def sand(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Grains over low ripples."""
    grains = noise(rng, (side, side), 90)
    ripple_phase = turned(side, rng)[0] * rng.uniform(4, 8) + 1.5 * noise(rng, (side, side), 4)
    ripples = 0.5 + 0.5 * np.sin(2 * np.pi * ripple_phase)
    return mix(ground_colours((0.08, 0.11, 0.1, 0.6), 0.3, rng), 0.45 + 0.5 * (grains - 0.5) + 0.25 * (ripples - 0.5))


def grass(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Blades, most of them one way."""
    blades = 0.6 * brushed(rng, side, 10, 80) + 0.4 * brushed(rng, side, 10, 80)
    patches = noise(rng, (side, side), 4)
    return mix(ground_colours((0.2, 0.26, 0.32, 0.13), 0.6, rng), 0.4 + 1.1 * (blades - 0.5) + 0.4 * (patches - 0.5))


def water(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """A net of light on a pool's floor."""
    wander = [noise(rng, (side, side), 6) for _ in range(2)]
    along, across = turned(side, rng)
    net = np.minimum(
        np.abs(np.sin(np.pi * (3 * along + 2.2 * wander[0]))),
        np.abs(np.sin(np.pi * (3 * across + 2.2 * wander[1]))),
    )
    return mix(
        ground_colours((0.5, 0.55, 0.6, 0.42), 0.6, rng),
        0.35 + 0.5 * (1 - net) ** 3 + 0.2 * (wander[0] - 0.5),
    )


def stone(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Grey or brown rock: clouds of every size."""
    cloud = sum(
        weight * (noise(rng, (side, side), bumps) - 0.5)
        for bumps, weight in ((3, 0.5), (7, 0.5), (16, 0.5), (40, 0.5), (90, 0.4))
    )
    return mix(ground_colours((0.07, 0.1, 0.6, 0.3), 0.2, rng), np.asarray(0.5 + cloud, np.float32))


def planks(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Wooden boards with long grain."""
    count = rng.uniform(3, 5)
    along, across = turned(side, rng)
    board = np.floor(across * count)
    gap = 1 - step(0.5 - np.abs(across * count - board - 0.5), 0.0, 0.04)
    grain = brushed_along(rng, along, across, 3, 60)
    tones = rng.random(64, dtype=np.float32)[board.astype(np.int32) % 64]
    return mix(
        ground_colours((0.05, 0.08, 0.1, 0.6), 0.4, rng),
        0.45 + 0.35 * (tones - 0.5) + 0.5 * (grain - 0.5) - 0.5 * gap,
    )


def gravel(side: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Small pebbles close together."""
    along, across = turned(side, rng)
    count = rng.uniform(22, 30)
    pebbles = scatter_cells(along * count, across * count, 0.35, rng)
    rise_y, rise_x = np.gradient(pebbles.border, count / side)
    tone = 0.15 + 0.6 * pebbles.value * step(pebbles.border, 0.0, 0.2) - 0.16 * (rise_x * light.x + rise_y * light.y)
    return mix(ground_colours((0.06, 0.1, 0.58, 0.0), 0.25, rng), tone)


GROUNDS = (sand, grass, water, stone, planks, gravel)


def ground_colours(hues: Sequence[float], saturation: float, rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Draw a ground's dark and light colour, RGB 0..1."""
    hue = float(rng.choice(hues)) + rng.normal(0, 0.02)
    strength = saturation * rng.uniform(0.5, 1.2)
    value = rng.uniform(0.55, 0.95)
    return (
        hsv_to_rgb(hue, min(1.0, 1.2 * strength), value * rng.uniform(0.3, 0.5)),
        hsv_to_rgb(hue + rng.normal(0, 0.02), 0.7 * strength, value),
    )
