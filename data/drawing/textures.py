"""Textures: (x, y) and the object's radius, in motifs (bricks, scales, distances of veins) -> its surface.

Each fills the whole plane alike, so that any piece of an object shows what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from data.drawing.fields import Plane, scatter_cells, step
from data.drawing.outlines import waves


class Surface(NamedTuple):
    """What a texture looks like before it gets colours and light, both (h, w) in about 0..1."""

    relief: Plane
    """Height above the deepest groove; light falls on its slopes."""
    tone: Plane
    """Mixture of the object's two colours, 0 the dark one, 1 the light one."""


Texture: TypeAlias = Callable[[Plane, Plane, float, np.random.Generator], Surface]


def veins(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """A midrib and pairs of light side veins slanting forward."""
    along = x - 0.75 * np.abs(y) + np.float32(rng.uniform(0, 1))
    side = np.abs(along - np.round(along))  # 0 on a vein, 0.5 between two
    vein = np.maximum(1 - step(side, 0.05, 0.2), 1 - step(np.abs(y), 0.08, 0.3))
    swelling = step(side, 0.0, 0.5)
    return Surface(relief=0.7 * swelling, tone=0.2 + 0.25 * swelling + 0.75 * vein)


def warts(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """Light knobs scattered over a darker skin."""
    cells = scatter_cells(x, y, 0.14, rng)
    knob = 1 - step(cells.nearest, 0.18, 0.38)
    return Surface(relief=knob, tone=0.15 + 0.95 * knob + 0.1 * cells.value)


def bricks(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """Courses of bricks in running bond with light mortar between."""
    row = np.floor(y)
    across = x / 2 + 0.5 * (row % 2)
    column = np.floor(across)
    edge = np.minimum(2 * (0.5 - np.abs(across - column - 0.5)), 0.5 - np.abs(y - row - 0.5))
    face = step(edge, 0.06, 0.16)
    tones = rng.random((32, 32), dtype=np.float32)
    brick = tones[row.astype(np.int32) % 32, column.astype(np.int32) % 32]
    return Surface(relief=face, tone=1.05 - face * (0.75 + 0.3 * brick))


def rings(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """Growth rings of uneven width round a pith off the centre, and a drying crack or two."""
    centre = rng.uniform(-0.3, 0.3, 2) * radius
    dx, dy = x - float(centre[0]), y - float(centre[1])
    angle = np.arctan2(dy, dx)
    distance = np.hypot(dx, dy) * waves(angle, 7, 0.1, rng)
    years = distance + 0.2 * np.sin(0.9 * distance + rng.uniform(0, 6)) + 0.08 * np.sin(3 * angle + distance)
    share = years - np.floor(years)
    late = step(share, 0.25, 0.85) - step(share, 0.85, 1.0)  # a year's wood darkens slowly and ends sharply
    crack = 1 - step(np.abs(np.sin(0.5 * angle + rng.uniform(0, 3))) * distance, 0.05, 0.16)
    return Surface(relief=0.5 * (1 - late) * (1 - crack), tone=(0.95 - 0.75 * late) * (1 - 0.8 * crack))


def shields(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """Polygons, light in the middle, with dark furrows between."""
    cells = scatter_cells(x, y, 0.22, rng)
    plate = step(cells.border, 0.06, 0.3)
    return Surface(relief=plate, tone=plate * (0.55 + 0.25 * cells.value) + 0.35 * (1 - step(cells.nearest, 0.0, 0.35)))


def scales(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Surface:
    """Overlapping round scales, their edges to the left."""
    tones = rng.random((32, 32), dtype=np.float32)
    distance = np.full(x.shape, 9, np.float32)
    tone = np.zeros(x.shape, np.float32)
    first = np.floor(2 * x)
    # Centres stand half a scale apart along x; the first whose disc reaches the point lies on top.
    for behind in (-1, 0, 1, 2):
        row = first + behind
        shift = 0.5 * (row % 2)
        column = np.round(y - shift)
        reach = np.hypot(x - row / 2, y - column - shift)
        free = (distance > 0.58) & (reach <= 0.58)
        distance = np.where(free, reach, distance)
        tone = np.where(free, tones[row.astype(np.int32) % 32, column.astype(np.int32) % 32], tone)
    rim = step(distance, 0.4, 0.56)
    eye = np.hypot(x - 0.68 * radius, y + 0.1 * radius) / (0.1 * radius)
    white = 1 - step(eye, 0.85, 1.1)
    return Surface(
        relief=(1 - 0.9 * rim) * (1 - white),
        tone=(1 - rim) * (0.85 + 0.15 * tone) * (1 - 0.5 * distance) * (1 - white) + white * step(eye, 0.4, 0.7),
    )
