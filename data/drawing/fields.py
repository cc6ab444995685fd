"""Fields over a picture that everything drawn is made of: noise, streaks, cells, smooth steps, colours."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane: TypeAlias = NDArray[np.floating[Any]]  # (h, w), float32 in fact
Canvas: TypeAlias = NDArray[np.floating[Any]]  # (h, w, 3), RGB 0..1
Colour: TypeAlias = NDArray[np.floating[Any]]  # (3,), RGB 0..1


class Light(NamedTuple):
    """Where the light of a picture comes from; x to the right, y down."""

    x: float
    y: float


def step(field: Plane, low: float, high: float) -> Plane:
    """0 below `low`, 1 above `high`, smooth between."""
    share = np.clip((field - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], bumps: float) -> Plane:
    """Smooth random field 0..1, about `bumps` bumps along each side; the same at any size (h, w)."""
    height, width = shape
    grid = rng.random((math.ceil(bumps) + 3, math.ceil(bumps) + 3), dtype=np.float32)
    box = (1.0, 1.0, 1 + bumps, 1 + bumps)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box))


def brushed(rng: np.random.Generator, side: int, few: int, many: int) -> Plane:
    """Random strokes 0..1 in one direction: `few` over the picture's side along it, `many` across."""
    reach = math.ceil(1.5 * side)
    grid = rng.random((math.ceil(1.5 * many), math.ceil(1.5 * few)), dtype=np.float32)
    field = Image.fromarray(grid).resize((reach, reach), Image.Resampling.BICUBIC)
    field = field.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
    margin = (reach - side) // 2
    return np.asarray(field)[margin : margin + side, margin : margin + side]


def brushed_along(rng: np.random.Generator, along: Plane, across: Plane, few: int, many: int) -> Plane:
    """Random streaks 0..1, `few` over the picture's side along a given direction, `many` across."""
    table = rng.random((2 * many + 4, 2 * few + 4), dtype=np.float32)
    rows, columns = (across + 1) * many, (along + 1) * few
    row, column = rows.astype(np.int32) % (2 * many + 3), columns.astype(np.int32) % (2 * few + 3)
    share = columns - np.floor(columns)
    return table[row, column] * (1 - share) + table[row, column + 1] * share


def turned(side: int, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Coordinates along two directions at right angles, turned at random about the middle, for a side of 1."""
    angle = rng.uniform(0, 2 * math.pi)
    line = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return cos * line[None] + sin * line[:, None], cos * line[:, None] - sin * line[None]


class Cells(NamedTuple):
    """A plane divided among scattered points, all (h, w)."""

    nearest: Plane
    """Distance to the nearest point."""
    border: Plane
    """How much further the second nearest is: 0 on the borders between cells."""
    value: Plane
    """A random number 0..1, the same for a whole cell."""


def scatter_cells(x: Plane, y: Plane, jitter: float, rng: np.random.Generator) -> Cells:
    """Divide the plane among the points of a hexagonal grid (distance 1), each moved by up to `jitter`."""
    period = 32  # the random tables repeat after so many points, more than an object has
    offsets_x, offsets_y = rng.uniform(-jitter, jitter, (2, period * period)).astype(np.float32)
    values = rng.random(period * period, dtype=np.float32)
    row_height = np.float32(math.sqrt(3) / 2)
    base_row = np.round(y / row_height)
    nearest = second = np.full(x.shape, np.inf, np.float32)  # squared until the end
    owner = np.zeros(x.shape, np.int32)
    for row_step in (-1, 0, 1):
        row = base_row + row_step
        along = x - 0.5 * (row % 2)
        up = y - row * row_height
        base_column = np.round(along)
        row_index = (row.astype(np.int32) % period) * period
        for column_step in (-1, 0, 1):
            column = base_column + column_step
            index = row_index + column.astype(np.int32) % period
            distance = (along - column - offsets_x[index]) ** 2 + (up - offsets_y[index]) ** 2
            owner = np.where(distance < nearest, index, owner)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    nearest = np.sqrt(nearest)
    return Cells(nearest=nearest, border=np.sqrt(second) - nearest, value=values[owner])


def mix(colours: tuple[Colour, Colour], tone: Plane) -> Canvas:
    """Blend from the first colour (tone 0) to the second (tone 1)."""
    dark, light = colours
    return dark + np.clip(tone, -0.1, 1.15)[..., None] * (light - dark)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Colour:
    """Hue (a circle of 1), saturation and value 0..1 to RGB 0..1."""
    wheel = np.abs((hue * 6 + np.array((0, 4, 2))) % 6 - 3) - 1
    colour: Colour = (value * (1 - saturation * (1 - np.clip(wheel, 0, 1)))).astype(np.float32)
    return colour


def halve(plane: Plane | Canvas) -> Plane:
    """Average 2 x 2 pixels; (2h, 2w) or (2h, 2w, 3)."""
    mean: Plane = 0.25 * (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2])
    return mean
