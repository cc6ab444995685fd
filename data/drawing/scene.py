"""Draw a picture with its exact mask: objects on a ground, with light, shadow, and the noise of a camera."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from data.drawing.kinds import Kind
from data.drawing.textures import Canvas, Light, Plane, blend, draw_ground, noise, rotated_axes, smoothstep


class Scene(NamedTuple):
    """One drawn picture."""

    image: NDArray[np.uint8]  # (h, w, 3)
    mask: NDArray[np.uint8]  # (h, w): 0 the ground, c the c-th of the kinds


class Placement(NamedTuple):
    """The place of an object: centre and radius as fractions of the picture's side, angle in radians."""

    x: float
    y: float
    radius: float
    angle: float


def draw_scene(kinds: Sequence[Kind], size: int, rng: np.random.Generator, *, first_kind: int) -> Scene:
    """Draw one to three objects, the first of them a `kinds[first_kind]`, on a random ground.

    The same generator state gives the same scene at any size. A pixel of the mask belongs to what covers most of it.
    """
    turn = rng.uniform(0, 2 * math.pi)
    light = (math.cos(turn), math.sin(turn))
    picture = draw_ground(size, light, rng)
    labels = [0]
    shares = [np.ones((size, size), np.float32)]  # of each pixel: of the ground, then of each object
    for order, placement in enumerate(place_objects(rng)):
        number = first_kind if order == 0 else int(rng.integers(len(kinds)))
        window, paint, cover, shadow = draw_object(kinds[number], placement, size, light, rng)
        below = picture[window] * (1 - shadow)[..., None]
        picture[window] = below * (1 - cover)[..., None] + paint
        for share in shares:
            share[window] *= 1 - cover
        shares.append(np.zeros((size, size), np.float32))
        shares[-1][window] = cover
        labels.append(number + 1)
    mask = np.array(labels, np.uint8)[np.argmax(shares, axis=0)]
    return Scene(photograph(picture, rng), mask)


def place_objects(rng: np.random.Generator) -> list[Placement]:
    """Choose places for one to three objects, which may touch but hide little of each other."""
    count = rng.choice((1, 2, 3), p=(0.35, 0.4, 0.25))
    largest = (0.45, 0.36, 0.29)[count - 1]
    placements: list[Placement] = []
    for _ in range(100):
        radius = rng.uniform(0.75, 1.0) * largest
        x, y = (rng.uniform(0.75 * radius, 1 - 0.75 * radius) for _ in range(2))
        if all(math.hypot(x - other.x, y - other.y) > 0.85 * (radius + other.radius) for other in placements):
            placements.append(Placement(x, y, radius, angle=rng.uniform(0, 2 * math.pi)))
        if len(placements) == count:
            break
    return placements


def draw_object(
    kind: Kind, placement: Placement, size: int, light: Light, rng: np.random.Generator
) -> tuple[tuple[slice, slice], Canvas, Plane, Plane]:
    """Draw an object at twice the picture's resolution and average it down.

    Returns:
        The window (rows, columns) of the picture that the object needs; in it, the object's colours times its cover,
        its cover (the fraction of each pixel that it hides), its shadow (the fraction of the light that it takes).
    """
    x, y, radius, angle = placement
    reach = 1.35 * radius  # outlines exceed the radius slightly, shadows more
    top, left = (max(0, math.floor((centre - reach) * size)) for centre in (y, x))
    bottom, right = (min(size, math.ceil((centre + reach) * size)) for centre in (y, x))
    pixel = 1 / (2 * size * radius)  # one drawn pixel, in radii
    dx = ((np.arange(2 * left, 2 * right) + 0.5) * pixel - x / radius).astype(np.float32)
    dy = ((np.arange(2 * top, 2 * bottom)[:, None] + 0.5) * pixel - y / radius).astype(np.float32)
    u, v = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx

    field = kind.outline(u, v, rng)
    slope_y, slope_x = np.gradient(field, pixel)
    steepness = np.maximum(np.hypot(slope_y, slope_x), 0.3)
    depth = -field / steepness  # approximate distance from the outline, in radii, positive inside
    cover = np.clip(0.5 + depth / pixel, 0, 1)

    motif = kind.motif * rng.uniform(0.8, 1.25) / radius
    relief, tone = kind.surface(u / motif, v / motif, 1 / motif, rng)
    tone = tone + 0.25 * (noise(rng, u.shape, 8) - 0.5)
    if kind.rim:
        tone = 0.1 + (tone - 0.1) * smoothstep(depth, 0.6 * kind.rim, kind.rim)
    rise_y, rise_x = np.gradient(relief, pixel / motif)
    edge = 0.35 * (1 - smoothstep(depth, 0.0, 0.3)) / steepness  # the side slopes down to the ground
    brightness = 1 + light[0] * (edge * slope_x - 0.15 * rise_x) + light[1] * (edge * slope_y - 0.15 * rise_y)
    brightness -= 0.25 * (1 - smoothstep(depth, 0.0, 0.08))
    paint = color_object(kind, tone, rng) * np.clip(brightness, 0.3, 1.7)[..., None] * cover[..., None]

    # The shadow is the object itself, moved away from the light, with a soft edge.
    rows, columns = (
        np.clip(np.arange(length) + round(0.12 / pixel * shift), 0, length - 1)
        for length, shift in zip(depth.shape, light[::-1], strict=True)
    )
    shadow = 0.5 * smoothstep(depth[rows[:, None], columns], -0.14, 0.06)
    return (slice(top, bottom), slice(left, right)), halve(paint), halve(cover), halve(shadow)


def color_object(kind: Kind, tone: Plane, rng: np.random.Generator) -> Canvas:
    """Give an object colours of its kind, or of any hue in one case of twelve: colour alone does not tell the class."""
    hue = rng.random() if rng.random() < 1 / 12 else rng.choice(kind.hues) + rng.normal(0, 0.015)
    saturation = rng.uniform(*kind.saturation)
    value = rng.uniform(0.72, 1.0)
    light = (hue, saturation * rng.uniform(0.65, 0.95), value)
    dark = (hue + rng.normal(0, 0.02), min(1, saturation * 1.15), value * rng.uniform(0.45, 0.65))
    return blend(dark, light, tone)


def halve(field: Plane | Canvas) -> Plane | Canvas:
    """Average 2 x 2 pixels."""
    return 0.25 * (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2])


def photograph(picture: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add uneven light, a tint, the exposure, a soft lens and the sensor's noise."""
    size = len(picture)
    falloff = 1 + rng.uniform(0, 0.35) * rotated_axes(size, rng)[0]
    tint = (rng.uniform(0.8, 1.15) * (1 + rng.normal(0, 0.03, 3))).astype(np.float32)
    sensor = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0.01, 0.03)
    sharp = Image.fromarray(to_bytes(picture * falloff[..., None] * tint))
    soft = sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.0) * size / 96))
    return to_bytes(np.asarray(soft, np.float32) / 255 + sensor)


def to_bytes(picture: Canvas) -> NDArray[np.uint8]:
    """Round colours 0..1 to 0..255."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
