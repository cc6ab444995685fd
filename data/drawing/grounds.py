"""Grounds under the objects. Each function draws the tone (h, w): 0 the ground's dark colour, 1 its light colour."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from data.drawing.fields import Canvas, Plane, blend, noise, rgb, rotated_axes, scatter_cells, smoothstep


def sand(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Grains over low ripples."""
    grains = noise(rng, (side, side), 90)
    phase = rotated_axes(side, rng)[0] * rng.uniform(4, 8) + 1.5 * noise(rng, (side, side), 4)
    ripples = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    return 0.45 + 0.5 * (grains - 0.5) + 0.25 * (ripples - 0.5)


def grass(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Two layers of parallel blades, and lighter patches."""
    reach = math.ceil(1.5 * side)  # room for the rotation
    margin = (reach - side) // 2
    blades = []
    for _ in range(2):
        grid = Image.fromarray(rng.random((120, 15), dtype=np.float32)).resize((reach, reach), Image.Resampling.BICUBIC)
        layer = np.asarray(grid.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR))
        blades.append(layer[margin : margin + side, margin : margin + side])
    patches = noise(rng, (side, side), 4)
    return 0.4 + 1.1 * (0.6 * blades[0] + 0.4 * blades[1] - 0.5) + 0.4 * (patches - 0.5)


def water(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """A net of light on the floor of a pool."""
    warps = [noise(rng, (side, side), 6) for _ in range(2)]
    axes = rotated_axes(side, rng)
    lines = [np.abs(np.sin(np.pi * (3 * axis + 2.2 * warp))) for axis, warp in zip(axes, warps, strict=True)]
    return 0.35 + 0.5 * (1 - np.minimum(*lines)) ** 3 + 0.2 * (warps[0] - 0.5)


def stone(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Clouds of every size."""
    layers = ((3, 0.5), (7, 0.5), (16, 0.5), (40, 0.5), (90, 0.4))
    return 0.5 + sum(weight * (noise(rng, (side, side), bumps) - 0.5) for bumps, weight in layers)


def planks(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Wooden boards with long grain."""
    count = rng.uniform(3, 5)
    along, across = rotated_axes(side, rng)
    board = np.floor(across * count)
    gap = 1 - smoothstep(0.5 - np.abs(across * count - board - 0.5), 0.0, 0.04)
    table = rng.random((124, 10), dtype=np.float32)  # 60 streaks across the picture, each changing 3 times along it
    row, column = ((across + 1) * 60).astype(np.int32) % 123, (along + 1) * 3
    left, share = column.astype(np.int32) % 9, column - np.floor(column)
    grain = table[row, left] * (1 - share) + table[row, left + 1] * share
    tones = rng.random(64, dtype=np.float32)[board.astype(np.int32) % 64]
    return 0.45 + 0.35 * (tones - 0.5) + 0.5 * (grain - 0.5) - 0.5 * gap


def gravel(side: int, light: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Small pebbles close together."""
    along, across = rotated_axes(side, rng)
    count = rng.uniform(22, 30)
    pebbles = scatter_cells(along * count, across * count, 0.35, rng)
    rise_y, rise_x = np.gradient(pebbles.border, count / side)
    stones = 0.6 * pebbles.value * smoothstep(pebbles.border, 0.0, 0.2)
    return 0.15 + stones - 0.16 * (rise_x * light[0] + rise_y * light[1])


GROUNDS = (  # with the usual hues and the saturation
    (sand, (0.08, 0.11, 0.1, 0.6), 0.3),
    (grass, (0.2, 0.26, 0.32, 0.13), 0.6),
    (water, (0.5, 0.55, 0.6, 0.42), 0.6),
    (stone, (0.07, 0.1, 0.6, 0.3), 0.2),
    (planks, (0.05, 0.08, 0.1, 0.6), 0.4),
    (gravel, (0.06, 0.1, 0.58, 0.0), 0.25),
)


def draw_ground(side: int, light: tuple[float, float], rng: np.random.Generator) -> Canvas:
    """Draw a random ground. It does not depend on the objects, so that it does not give their classes away."""
    draw_tone, hues, usual_saturation = GROUNDS[rng.integers(len(GROUNDS))]
    tone = draw_tone(side, light, rng)
    hue = rng.choice(hues) + rng.normal(0, 0.02)
    saturation = usual_saturation * rng.uniform(0.5, 1.2)
    value = rng.uniform(0.55, 0.95)
    dark = rgb(hue, min(1, 1.2 * saturation), value * rng.uniform(0.3, 0.5))
    return blend(dark, rgb(hue + rng.normal(0, 0.02), 0.7 * saturation, value), tone)
