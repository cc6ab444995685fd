"""The kinds of objects in the sample pictures: their outlines, their surfaces, and the table DEMO_KINDS."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.drawing.textures import Plane, smoothstep, voronoi


@dataclass(frozen=True, slots=True)
class Kind:
    """What all objects of one class have in common."""

    name: Literal["leaf", "starfish", "brick", "log", "turtle", "fish"]
    hues: tuple[float, ...]  # usual hues: 0 red, 0.13 yellow, 0.3 green, 0.5 cyan, 0.6 blue, 0.75 violet
    saturation: tuple[float, float]  # range
    motif: float  # usual size of one motif (a brick, a scale), as a fraction of the picture's side
    rim: float = 0.0  # width of the dark edge (the bark of a log), as a fraction of the radius


DEMO_KINDS = (
    Kind("leaf", (0.27, 0.3, 0.33, 0.36, 0.25), (0.5, 0.85), motif=0.065),
    Kind("starfish", (0.03, 0.05, 0.07, 0.06, 0.04), (0.65, 0.9), motif=0.062),
    Kind("brick", (0.98, 0.0, 0.01, 0.99, 0.0), (0.35, 0.65), motif=0.055),
    Kind("log", (0.09, 0.1, 0.11, 0.12, 0.1, 0.04), (0.2, 0.45), motif=0.05, rim=0.09),
    Kind("turtle", (0.45, 0.48, 0.5, 0.42, 0.46), (0.35, 0.7), motif=0.07),
    Kind("fish", (0.58, 0.6, 0.62, 0.64, 0.6), (0.4, 0.75), motif=0.06),
)


def outline(kind: Kind, u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Return a field that is negative inside the object; (u, v) are in radii, and the object fills about -1..1."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    field: Plane
    match kind.name:
        case "leaf":  # pointed at both ends and slightly bent
            half_width, bend = rng.uniform(0.42, 0.6), rng.uniform(-0.15, 0.15)
            field = np.abs(v - bend * (1 - u * u)) - half_width * (1 - u * u) * (1 - 0.35 * u)
        case "starfish":  # five round arms, swept to one side
            angle += rng.uniform(-0.5, 0.5) * radius
            arms = (0.5 + 0.5 * np.cos(5 * angle)) ** 1.3
            calm = np.minimum(1, radius / 0.35) ** 2  # no ridges at the centre, where all directions meet
            field = radius - (0.42 + 0.58 * calm * arms) * (1 + calm * 0.6 * (wavy_radius(angle, 3, 0.12, rng) - 1))
        case "brick":  # a rectangle with worn corners
            half_height = rng.uniform(0.55, 0.8)
            field = np.hypot(np.maximum(np.abs(u) - 0.92 + 0.1, 0), np.maximum(np.abs(v) - half_height + 0.1, 0)) - 0.1
        case "log":  # nearly a disc
            calm = np.minimum(1, radius / 0.5) ** 2
            field = radius / (1 + calm * (wavy_radius(angle, 5, 0.12, rng) - 1)) - 0.95
        case "turtle":  # a shell from above with a head and four legs
            shell = np.hypot(u / 0.8, v / rng.uniform(0.62, 0.72)) - 1
            head = (np.hypot((u - 0.85) / 0.2, v / 0.16) - 1) * 0.2
            field = np.minimum(np.minimum(shell, head), np.hypot(np.abs(u) - 0.5, np.abs(v) - 0.58) - 0.2)
        case "fish":  # a body with a forked tail and a fin above and below
            height, half_height = np.abs(v), rng.uniform(0.4, 0.52)
            body = np.hypot((u - 0.2) / 0.8, v / half_height) - 1
            tail = np.maximum(height - 0.1 - 0.85 * (-0.45 - u), np.maximum(-0.95 - u + 0.25 * (0.5 - height), u + 0.4))
            fins = np.hypot((u - 0.1) / 0.3, v / (half_height + 0.17)) - 1
            field = np.minimum(np.minimum(body, tail), fins)
    return field


def surface(kind: Kind, x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw the texture of an object: (x, y) and its radius are in motifs (one brick, one scale).

    It fills the whole plane, so that each part of an object shows its class.

    Returns:
        The relief, a height 0..1 whose slopes reflect the light; the tone, 0 the dark colour, 1 the light colour.
    """
    match kind.name:
        case "leaf":  # a midrib and pairs of light side veins that slant forward
            along = x - 0.75 * np.abs(y) + rng.uniform(0, 1)
            side = np.abs(along - np.round(along))  # 0 on a vein, 0.5 between two
            vein = np.maximum(1 - smoothstep(side, 0.05, 0.2), 1 - smoothstep(np.abs(y), 0.08, 0.3))
            swelling = smoothstep(side, 0.0, 0.5)
            return 0.7 * swelling, 0.2 + 0.25 * swelling + 0.75 * vein
        case "starfish":  # light knobs scattered over a darker skin
            nearest, _, value = voronoi(x, y, 0.14, rng)
            knob = 1 - smoothstep(nearest, 0.18, 0.38)
            return knob, 0.15 + 0.95 * knob + 0.1 * value
        case "brick":  # rows of bricks in running bond with light mortar between them
            row = np.floor(y)
            across = x / 2 + 0.5 * (row % 2)
            column = np.floor(across)
            edge = np.minimum(2 * (0.5 - np.abs(across - column - 0.5)), 0.5 - np.abs(y - row - 0.5))
            face = smoothstep(edge, 0.06, 0.16)
            return face, 1.05 - face * (0.75 + 0.3 * random_tiles(row, column, rng))
        case "log":  # growth rings of uneven width round a pith off the centre, and a crack
            x, y = (axis - rng.uniform(-0.3, 0.3) * radius for axis in (x, y))
            angle = np.arctan2(y, x)
            distance = np.hypot(x, y) * wavy_radius(angle, 7, 0.1, rng)
            years = distance + 0.2 * np.sin(0.9 * distance + rng.uniform(0, 6)) + 0.08 * np.sin(3 * angle + distance)
            share = years - np.floor(years)
            late = smoothstep(share, 0.25, 0.85) - smoothstep(share, 0.85, 1.0)  # darkens slowly, ends abruptly
            crack = 1 - smoothstep(np.abs(np.sin(0.5 * angle + rng.uniform(0, 3))) * distance, 0.05, 0.16)
            return 0.5 * (1 - late) * (1 - crack), (0.95 - 0.75 * late) * (1 - 0.8 * crack)
        case "turtle":  # polygons, light in the middle, with dark furrows between them
            nearest, border, value = voronoi(x, y, 0.22, rng)
            plate = smoothstep(border, 0.06, 0.3)
            return plate, plate * (0.55 + 0.25 * value) + 0.35 * (1 - smoothstep(nearest, 0.0, 0.35))
        case "fish":  # overlapping round scales half a motif apart along x, the first one on top; and an eye
            row = np.floor(2 * x) + np.arange(-1, 3, dtype=np.float32)[:, None, None]  # (4, h, w)
            shift = 0.5 * (row % 2)
            column = np.round(y - shift)
            reach = np.hypot(x - row / 2, y - column - shift)
            reach[reach > 0.58] = 9
            first = (reach < 9).argmax(axis=0)[None]
            layers = (reach, random_tiles(row, column, rng))
            distance, tone = (np.take_along_axis(layer, first, axis=0)[0] for layer in layers)
            rim = smoothstep(distance, 0.4, 0.56)
            eye = np.hypot(x - 0.68 * radius, y + 0.1 * radius) / (0.1 * radius)
            white = 1 - smoothstep(eye, 0.85, 1.1)
            shade = (1 - rim) * (0.85 + 0.15 * tone) * (1 - 0.5 * distance) * (1 - white)
            return (1 - 0.9 * rim) * (1 - white), shade + white * smoothstep(eye, 0.4, 0.7)


def wavy_radius(angle: Plane, harmonics: int, strength: float, rng: np.random.Generator) -> Plane:
    """Draw a radius around 1 that varies with the angle."""
    radius = np.ones_like(angle)
    for harmonic in range(2, harmonics + 1):
        radius += strength / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return radius


def random_tiles(row: Plane, column: Plane, rng: np.random.Generator) -> Plane:
    """Draw a random number 0..1 for each tile of the plane, given by its row and column; they repeat after 32."""
    table: Plane = rng.random((32, 32), dtype=np.float32)
    tiles: Plane = table[row.astype(np.int32) % 32, column.astype(np.int32) % 32]
    return tiles
