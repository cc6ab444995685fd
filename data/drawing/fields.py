"""What every picture is made of: noise, Voronoi cells, smooth steps and colours."""

from __future__ import annotations

import colorsys
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane: TypeAlias = NDArray[np.floating[Any]]  # (h, w) float32
Canvas: TypeAlias = NDArray[np.floating[Any]]  # (h, w, 3) float32, RGB 0..1
Colour: TypeAlias = NDArray[np.floating[Any]]  # (3,) float32, RGB 0..1

NEIGHBOURS = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1).astype(np.float32)  # row and column steps to 9 grid points


def smoothstep(field: Plane, low: float, high: float) -> Plane:
    """Return 0 below `low`, 1 above `high`, and a smooth cubic between them."""
    share: Plane = np.clip((field - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def noise(rng: np.random.Generator, shape: tuple[int, ...], bumps: float) -> Plane:
    """Draw a smooth random field 0..1 with about `bumps` bumps per side, whatever its `shape` (h, w) in pixels."""
    points = math.ceil(bumps) + 3
    grid = Image.fromarray(rng.random((points, points), dtype=np.float32))
    box = (1.0, 1.0, 1 + bumps, 1 + bumps)
    return np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC, box=box))


def rotated_axes(side: int, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the two coordinates -0.5..0.5 of a square, rotated about its centre by a random angle."""
    angle = rng.uniform(0, 2 * math.pi)
    line = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x, y = line[None], line[:, None]
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


class Cells(NamedTuple):
    """Voronoi cells of scattered points, each field (h, w)."""

    nearest: Plane  # distance to the nearest point
    border: Plane  # distance to the second nearest minus `nearest`: 0 on the border between two cells
    value: Plane  # a random number 0..1 per cell


def scatter_cells(x: Plane, y: Plane, jitter: float, rng: np.random.Generator) -> Cells:
    """Divide the plane among the points of a hexagonal grid (distance 1), each moved by up to `jitter`."""
    period = 32  # the random tables repeat after this many points, more than an object has
    offsets_x, offsets_y = rng.uniform(-jitter, jitter, (2, period * period)).astype(np.float32)
    values = rng.random(period * period, dtype=np.float32)
    row_height = math.sqrt(3) / 2
    row = np.round(y / row_height) + NEIGHBOURS[0]  # (9, h, w), as everything below
    along = x - 0.5 * (row % 2)
    column = np.round(along) + NEIGHBOURS[1]
    index = row.astype(np.int32) % period * period + column.astype(np.int32) % period
    squared = (along - column - offsets_x[index]) ** 2 + (y - row * row_height - offsets_y[index]) ** 2
    owner = np.take_along_axis(index, squared.argmin(axis=0)[None], axis=0)[0]
    nearest, second = np.sqrt(np.sort(squared, axis=0)[:2])
    return Cells(nearest=nearest, border=second - nearest, value=values[owner])


def blend(dark: Colour, light: Colour, tone: Plane) -> Canvas:
    """Mix two colours: `dark` where the tone is 0, `light` where it is 1."""
    return dark + np.clip(tone, -0.1, 1.15)[..., None] * (light - dark)


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """Convert a hue (1 is a full circle), a saturation and a value 0..1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)
