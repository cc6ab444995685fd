"""Textures from noise, Voronoi cells and smooth steps, and the grounds that are made of them."""

import colorsys
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

Plane: TypeAlias = NDArray[np.floating[Any]]  # (h, w) float32
Canvas: TypeAlias = NDArray[np.floating[Any]]  # (h, w, 3) float32, RGB 0..1
Light: TypeAlias = tuple[float, float]  # unit vector: slopes that rise this way (x right, y down) are dark


def smoothstep(field: Plane, low: float, high: float) -> Plane:
    """Return 0 below `low`, 1 above `high`, and a smooth cubic between them."""
    share: Plane = np.clip((field - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def noise(rng: np.random.Generator, shape: tuple[int, ...], bumps: int) -> Plane:
    """Draw a smooth random field 0..1 with `bumps` bumps per side, whatever its `shape` (h, w) in pixels."""
    height, width = shape
    grid = Image.fromarray(rng.random((bumps + 3, bumps + 3), dtype=np.float32))
    return np.asarray(grid.resize((width, height), Resampling.BICUBIC, box=(1, 1, 1 + bumps, 1 + bumps)))


def rotated_axes(size: int, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return two coordinates -0.5..0.5 of a square, rotated about its centre by a random angle."""
    angle = rng.uniform(0, 2 * math.pi)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    y = x[:, None]
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def voronoi(x: Plane, y: Plane, jitter: float, rng: np.random.Generator) -> tuple[Plane, Plane, Plane]:
    """Divide the plane among the points of a hexagonal grid (distance 1), each moved by up to `jitter`.

    Returns:
        The distance to the nearest point; how much farther the second nearest is, 0 on the border between two cells;
        a random number 0..1 per cell.
    """
    period = 32  # the random tables repeat after this many points, more than an object has
    offsets_x, offsets_y = rng.uniform(-jitter, jitter, (2, period * period)).astype(np.float32)
    values = rng.random(period * period, dtype=np.float32)
    row_height = math.sqrt(3) / 2
    steps = np.arange(-1, 2, dtype=np.float32)[:, None, None]
    row = np.round(y / row_height) + steps[:, None]  # (3, 1, h, w): three rows around each pixel
    along = x - 0.5 * (row % 2)
    column = np.round(along) + steps  # (3, 3, h, w): three points in each of the rows
    index = row.astype(np.int32) % period * period + column.astype(np.int32) % period
    squared = (along - column - offsets_x[index]) ** 2 + (y - row * row_height - offsets_y[index]) ** 2
    index, squared = index.reshape(9, *x.shape), squared.reshape(9, *x.shape)
    owner = np.take_along_axis(index, squared.argmin(axis=0)[None], axis=0)[0]
    nearest, second = np.sqrt(np.partition(squared, 1, axis=0)[:2])
    return nearest, second - nearest, values[owner]


def blend(dark: tuple[float, float, float], light: tuple[float, float, float], tone: Plane) -> Canvas:
    """Mix two colours (hue, saturation, value), where a hue of 1 is a full circle: `dark` at tone 0, `light` at 1."""
    low, high = (np.array(colorsys.hsv_to_rgb(hue % 1, *rest), np.float32) for hue, *rest in (dark, light))
    return low + np.clip(tone, -0.1, 1.15)[..., None] * (high - low)


def draw_ground(size: int, light: Light, rng: np.random.Generator) -> Canvas:
    """Draw one of six grounds. It does not depend on the objects, so that it does not give their classes away."""
    ground = rng.integers(6)
    square = (size, size)
    hues: tuple[float, ...]  # usual hues
    if ground == 0:  # sand: grains over low ripples
        hues, saturation = (0.08, 0.11, 0.1, 0.6), 0.3
        grains = noise(rng, square, 90)
        phase = rotated_axes(size, rng)[0] * rng.uniform(4, 8) + 1.5 * noise(rng, square, 4)
        ripples = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
        tone = 0.45 + 0.5 * (grains - 0.5) + 0.25 * (ripples - 0.5)
    elif ground == 1:  # grass: two layers of parallel blades, and lighter patches
        hues, saturation = (0.2, 0.26, 0.32, 0.13), 0.6
        reach = math.ceil(1.5 * size)  # room for the rotation
        inside = slice((reach - size) // 2, (reach - size) // 2 + size)
        layers = []
        for _ in range(2):
            blades = Image.fromarray(rng.random((120, 15), dtype=np.float32)).resize((reach, reach), Resampling.BICUBIC)
            layers.append(np.asarray(blades.rotate(rng.uniform(0, 360), Resampling.BILINEAR))[inside, inside])
        patches = noise(rng, square, 4)
        tone = 0.4 + 1.1 * (0.6 * layers[0] + 0.4 * layers[1] - 0.5) + 0.4 * (patches - 0.5)
    elif ground == 2:  # water: a net of light on the floor of a pool
        hues, saturation = (0.5, 0.55, 0.6, 0.42), 0.6
        warps = [noise(rng, square, 6) for _ in range(2)]
        axes = rotated_axes(size, rng)
        lines = [np.abs(np.sin(np.pi * (3 * axis + 2.2 * warp))) for axis, warp in zip(axes, warps, strict=True)]
        tone = 0.35 + 0.5 * (1 - np.minimum(*lines)) ** 3 + 0.2 * (warps[0] - 0.5)
    elif ground == 3:  # stone: clouds of every size
        hues, saturation = (0.07, 0.1, 0.6, 0.3), 0.2
        tone = np.zeros(square, np.float32)
        for bumps, weight in ((3, 0.5), (7, 0.5), (16, 0.5), (40, 0.5), (90, 0.4)):
            tone += weight * (noise(rng, square, bumps) - 0.5)
        tone += 0.5
    elif ground == 4:  # planks: boards with long grain, 60 streaks across the picture that change 3 times along it
        hues, saturation = (0.05, 0.08, 0.1, 0.6), 0.4
        count = rng.uniform(3, 5)
        along, across = rotated_axes(size, rng)
        board = np.floor(across * count)
        gap = 1 - smoothstep(0.5 - np.abs(across * count - board - 0.5), 0.0, 0.04)
        table = rng.random((124, 10), dtype=np.float32)
        row, column = ((across + 1) * 60).astype(np.int32) % 123, (along + 1) * 3
        left, share = column.astype(np.int32) % 9, column - np.floor(column)
        grain = table[row, left] * (1 - share) + table[row, left + 1] * share
        tones = rng.random(64, dtype=np.float32)[board.astype(np.int32) % 64]
        tone = 0.45 + 0.35 * (tones - 0.5) + 0.5 * (grain - 0.5) - 0.5 * gap
    else:  # gravel: small pebbles close together
        hues, saturation = (0.06, 0.1, 0.58, 0.0), 0.25
        along, across = rotated_axes(size, rng)
        count = rng.uniform(22, 30)
        _, border, tones = voronoi(along * count, across * count, 0.35, rng)
        rise_y, rise_x = np.gradient(border, count / size)
        tone = 0.15 + 0.6 * tones * smoothstep(border, 0.0, 0.2) - 0.16 * (rise_x * light[0] + rise_y * light[1])
    hue = rng.choice(hues) + rng.normal(0, 0.02)
    saturation *= rng.uniform(0.5, 1.2)
    value = rng.uniform(0.55, 0.95)
    dark = (hue, min(1, 1.2 * saturation), value * rng.uniform(0.3, 0.5))
    return blend(dark, (hue + rng.normal(0, 0.02), 0.7 * saturation, value), tone)
