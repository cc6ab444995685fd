"""The kinds of objects in the sample pictures, one class each: outlines, surfaces, and the table DEMO_KINDS.

An outline maps (u, v), in radii of the object, to a field that is negative inside the object, which fills about -1..1.
A surface maps (x, y) and the radius, all in motifs (one brick, one scale), to two fields 0..1: relief, the height that
the light falls on, and tone, 0 the dark colour, 1 the light one. It fills the whole plane, so that each part of an
object shows its class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.drawing.textures import Plane, smoothstep, voronoi


def wavy_radius(angle: Plane, harmonics: int, strength: float, rng: np.random.Generator) -> Plane:
    """Draw a radius around 1 that varies with the angle."""
    radius = np.ones_like(angle)
    for harmonic in range(2, harmonics + 1):
        radius += strength / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return radius


def leaf_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Pointed at both ends and slightly bent."""
    half_width = rng.uniform(0.42, 0.6)
    bend = rng.uniform(-0.15, 0.15)
    return np.abs(v - bend * (1 - u * u)) - half_width * (1 - u * u) * (1 - 0.35 * u)


def star_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Five round arms, swept to one side."""
    radius = np.hypot(u, v)
    angle = np.arctan2(v, u) + rng.uniform(-0.5, 0.5) * radius
    arms = 0.5 + 0.5 * np.cos(5 * angle)
    calm = np.minimum(1, radius / 0.35) ** 2  # no ridges at the centre, where all directions meet
    return radius - (0.42 + 0.58 * calm * arms**1.3) * (1 + calm * 0.6 * (wavy_radius(angle, 3, 0.12, rng) - 1))


def brick_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A rectangle with worn corners."""
    half_height = rng.uniform(0.55, 0.8)
    outside: Plane = np.hypot(np.maximum(np.abs(u) - 0.92 + 0.1, 0), np.maximum(np.abs(v) - half_height + 0.1, 0))
    return outside - 0.1


def log_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Nearly a disc."""
    radius: Plane = np.hypot(u, v)
    calm = np.minimum(1, radius / 0.5) ** 2  # no ridges at the centre, where all directions meet
    return radius / (1 + calm * (wavy_radius(np.arctan2(v, u), 5, 0.12, rng) - 1)) - 0.95


def turtle_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A shell from above with a head and four legs."""
    shell = np.hypot(u / 0.8, v / rng.uniform(0.62, 0.72)) - 1
    head = (np.hypot((u - 0.85) / 0.2, v / 0.16) - 1) * 0.2
    legs = np.hypot(np.abs(u) - 0.5, np.abs(v) - 0.58) - 0.2
    outline: Plane = np.minimum(np.minimum(shell, head), legs)
    return outline


def fish_outline(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A body with a forked tail and a fin above and below."""
    half_height = rng.uniform(0.4, 0.52)
    body = np.hypot((u - 0.2) / 0.8, v / half_height) - 1
    tail = np.maximum(np.abs(v) - 0.1 - 0.85 * (-0.45 - u), np.maximum(-0.95 - u + 0.25 * (0.5 - np.abs(v)), u + 0.4))
    fins = np.hypot((u - 0.1) / 0.3, v / (half_height + 0.17)) - 1
    outline: Plane = np.minimum(np.minimum(body, tail), fins)
    return outline


def veins(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """A midrib and pairs of light side veins that slant forward."""
    along = x - 0.75 * np.abs(y) + rng.uniform(0, 1)
    side = np.abs(along - np.round(along))  # 0 on a vein, 0.5 between two
    vein = np.maximum(1 - smoothstep(side, 0.05, 0.2), 1 - smoothstep(np.abs(y), 0.08, 0.3))
    swelling = smoothstep(side, 0.0, 0.5)
    return 0.7 * swelling, 0.2 + 0.25 * swelling + 0.75 * vein


def warts(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Light knobs scattered over a darker skin."""
    nearest, _, value = voronoi(x, y, 0.14, rng)
    knob = 1 - smoothstep(nearest, 0.18, 0.38)
    return knob, 0.15 + 0.95 * knob + 0.1 * value


def bricks(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Rows of bricks in running bond with light mortar between them."""
    row = np.floor(y)
    across = x / 2 + 0.5 * (row % 2)
    column = np.floor(across)
    edge = np.minimum(2 * (0.5 - np.abs(across - column - 0.5)), 0.5 - np.abs(y - row - 0.5))
    face = smoothstep(edge, 0.06, 0.16)
    tones = rng.random((32, 32), dtype=np.float32)[row.astype(np.int32) % 32, column.astype(np.int32) % 32]
    return face, 1.05 - face * (0.75 + 0.3 * tones)


def rings(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Growth rings of uneven width round a pith off the centre, and a crack."""
    dx, dy = (axis - rng.uniform(-0.3, 0.3) * radius for axis in (x, y))
    angle = np.arctan2(dy, dx)
    distance = np.hypot(dx, dy) * wavy_radius(angle, 7, 0.1, rng)
    years = distance + 0.2 * np.sin(0.9 * distance + rng.uniform(0, 6)) + 0.08 * np.sin(3 * angle + distance)
    share = years - np.floor(years)
    late = smoothstep(share, 0.25, 0.85) - smoothstep(share, 0.85, 1.0)  # wood darkens slowly, then a new year begins
    crack = 1 - smoothstep(np.abs(np.sin(0.5 * angle + rng.uniform(0, 3))) * distance, 0.05, 0.16)
    return 0.5 * (1 - late) * (1 - crack), (0.95 - 0.75 * late) * (1 - 0.8 * crack)


def shields(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Polygons, light in the middle, with dark furrows between them."""
    nearest, border, value = voronoi(x, y, 0.22, rng)
    plate = smoothstep(border, 0.06, 0.3)
    return plate, plate * (0.55 + 0.25 * value) + 0.35 * (1 - smoothstep(nearest, 0.0, 0.35))


def scales(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Overlapping round scales, and an eye."""
    tones = rng.random((32, 32), dtype=np.float32)
    distance = np.full(x.shape, 9, np.float32)
    tone = np.zeros(x.shape, np.float32)
    for behind in (-1, 0, 1, 2):  # centres are half a scale apart along x; the first disc at a point covers the others
        row = np.floor(2 * x) + behind
        shift = 0.5 * (row % 2)
        column = np.round(y - shift)
        reach = np.hypot(x - row / 2, y - column - shift)
        free = (distance > 0.58) & (reach <= 0.58)
        distance = np.where(free, reach, distance)
        tone = np.where(free, tones[row.astype(np.int32) % 32, column.astype(np.int32) % 32], tone)
    rim = smoothstep(distance, 0.4, 0.56)
    eye = np.hypot(x - 0.68 * radius, y + 0.1 * radius) / (0.1 * radius)
    white = 1 - smoothstep(eye, 0.85, 1.1)
    shade = (1 - rim) * (0.85 + 0.15 * tone) * (1 - 0.5 * distance) * (1 - white)
    return (1 - 0.9 * rim) * (1 - white), shade + white * smoothstep(eye, 0.4, 0.7)


@dataclass(frozen=True, slots=True)
class Kind:
    """What all objects of one class have in common."""

    name: str
    outline: Callable[[Plane, Plane, np.random.Generator], Plane]
    surface: Callable[[Plane, Plane, float, np.random.Generator], tuple[Plane, Plane]]
    hues: tuple[float, ...]  # usual hues: 0 red, 0.13 yellow, 0.3 green, 0.5 cyan, 0.6 blue, 0.75 violet
    saturation: tuple[float, float]  # range
    motif: float  # usual size of one motif, as a fraction of the picture's side
    rim: float = 0.0  # width of the dark edge (the bark of a log), as a fraction of the radius


DEMO_KINDS = (
    Kind("leaf", leaf_outline, veins, (0.27, 0.3, 0.33, 0.36, 0.25), (0.5, 0.85), 0.065),
    Kind("starfish", star_outline, warts, (0.03, 0.05, 0.07, 0.06, 0.04), (0.65, 0.9), 0.062),
    Kind("brick", brick_outline, bricks, (0.98, 0.0, 0.01, 0.99, 0.0), (0.35, 0.65), 0.055),
    Kind("log", log_outline, rings, (0.09, 0.1, 0.11, 0.12, 0.1, 0.04), (0.2, 0.45), 0.05, rim=0.09),
    Kind("turtle", turtle_outline, shields, (0.45, 0.48, 0.5, 0.42, 0.46), (0.35, 0.7), 0.07),
    Kind("fish", fish_outline, scales, (0.58, 0.6, 0.62, 0.64, 0.6), (0.4, 0.75), 0.06),
)
"""The classes of the sample data set, in the order of their numbers."""
