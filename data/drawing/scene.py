"""Draw a picture with its exact mask: objects on a ground, with light, shadow, and the noise of a camera."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from data.drawing.kinds import Kind, outline, surface
from data.drawing.textures import Canvas, Light, Plane, blend, draw_ground, noise, rotated_axes, smoothstep

Place: TypeAlias = tuple[float, float, float, float]  # centre x, y and radius in sides of the picture; angle in radians


class Scene(NamedTuple):
    """One drawn picture."""

    image: NDArray[np.uint8]  # (h, w, 3)
    mask: NDArray[np.uint8]  # (h, w): 0 the ground, c the c-th of the kinds
    objects: NDArray[np.uint8]  # (h, w): 0 the ground, n the n-th object; a hidden object has no pixel


def draw_scene(
    kinds: Sequence[Kind], size: int, rng: np.random.Generator, *, first_kind: int, crowded: bool = False
) -> Scene:
    """Draw one to three objects, the first of them a `kinds[first_kind]`, on a random ground.

    The same generator state gives the same scene at any size. A pixel of the mask belongs to what covers most of it.
    A crowded scene has two to four objects of one kind instead, most of which touch each other.
    """
    turn = rng.uniform(0, 2 * math.pi)
    light = (math.cos(turn), math.sin(turn))
    picture = draw_ground(size, light, rng)
    places = place_crowd(rng) if crowded else place_objects(rng)
    labels = np.zeros(1 + len(places), np.uint8)  # of the ground and of the objects
    shares = np.zeros((1 + len(places), size, size), np.float32)  # of each pixel that they cover
    shares[0] = 1
    for order, place in enumerate(places, start=1):
        number = first_kind if order == 1 or crowded else int(rng.integers(len(kinds)))
        rows, columns, paint, cover, shadow = draw_object(kinds[number], place, size, light, rng)
        below = picture[rows, columns] * (1 - shadow)[..., None]
        picture[rows, columns] = below * (1 - cover)[..., None] + paint
        labels[order] = number + 1
        shares[:, rows, columns] *= 1 - cover
        shares[order, rows, columns] = cover
    objects = shares.argmax(axis=0).astype(np.uint8)
    return Scene(photograph(picture, rng), labels[objects], objects)


def place_objects(rng: np.random.Generator) -> list[Place]:
    """Choose places for one to three objects, which may touch but hide little of each other."""
    count = rng.choice((1, 2, 3), p=(0.35, 0.4, 0.25))
    largest = (0.45, 0.36, 0.29)[count - 1]
    places: list[Place] = []
    for _ in range(100):
        radius = rng.uniform(0.75, 1.0) * largest
        x, y = (rng.uniform(0.75 * radius, 1 - 0.75 * radius) for _ in range(2))
        if all(math.hypot(x - other[0], y - other[1]) > 0.85 * (radius + other[2]) for other in places):
            places.append((x, y, radius, rng.uniform(0, 2 * math.pi)))
        if len(places) == count:
            break
    return places


def place_crowd(rng: np.random.Generator) -> list[Place]:
    """Choose places for two to four objects, each of them so close to an earlier one that they touch or overlap."""
    count = rng.integers(2, 5)
    largest = (0.3, 0.26, 0.23)[count - 2]
    places: list[Place] = []
    for _ in range(200):
        radius, angle = rng.uniform(0.75, 1.0) * largest, rng.uniform(0, 2 * math.pi)
        x, y = rng.uniform(0.3, 0.7, 2)
        if places:
            near_x, near_y, near_radius, _ = places[rng.integers(len(places))]
            apart = rng.uniform(0.65, 0.9) * (radius + near_radius)
            x, y = near_x + math.cos(angle) * apart, near_y + math.sin(angle) * apart
        inside = 0.75 * radius < min(x, y) and max(x, y) < 1 - 0.75 * radius
        if inside and all(math.hypot(x - other[0], y - other[1]) > 0.6 * (radius + other[2]) for other in places):
            places.append((x, y, radius, rng.uniform(0, 2 * math.pi)))
        if len(places) == count:
            break
    return places


def draw_object(
    kind: Kind, place: Place, size: int, light: Light, rng: np.random.Generator
) -> tuple[slice, slice, Canvas, Plane, Plane]:
    """Draw an object at twice the picture's resolution and average it down.

    Returns:
        The rows and the columns of the picture that it needs; there, its colours times its cover, its cover (the
        fraction of each pixel that it hides), and its shadow (the fraction of the light that it takes).
    """
    x, y, radius, angle = place
    reach = 1.35 * radius  # outlines exceed the radius slightly, shadows more
    top, left = (max(0, math.floor((centre - reach) * size)) for centre in (y, x))
    bottom, right = (min(size, math.ceil((centre + reach) * size)) for centre in (y, x))
    pixel = 1 / (2 * size * radius)  # one drawn pixel, in radii
    dx = ((np.arange(2 * left, 2 * right) + 0.5) * pixel - x / radius).astype(np.float32)
    dy = ((np.arange(2 * top, 2 * bottom)[:, None] + 0.5) * pixel - y / radius).astype(np.float32)
    u, v = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx

    field = outline(kind, u, v, rng)
    slope_y, slope_x = np.gradient(field, pixel)
    steepness = np.maximum(np.hypot(slope_y, slope_x), 0.3)
    depth = -field / steepness  # approximate distance from the outline, in radii, positive inside
    cover = np.clip(0.5 + depth / pixel, 0, 1)

    motif = kind.motif * rng.uniform(0.8, 1.25) / radius
    relief, tone = surface(kind, u / motif, v / motif, 1 / motif, rng)
    tone = tone + 0.25 * (noise(rng, u.shape, 8) - 0.5)
    if kind.rim:
        tone = 0.1 + (tone - 0.1) * smoothstep(depth, 0.6 * kind.rim, kind.rim)
    rise_y, rise_x = np.gradient(relief, pixel / motif)
    edge = 0.35 * (1 - smoothstep(depth, 0.0, 0.3)) / steepness  # the side slopes down to the ground
    brightness = 1 + light[0] * (edge * slope_x - 0.15 * rise_x) + light[1] * (edge * slope_y - 0.15 * rise_y)
    brightness -= 0.25 * (1 - smoothstep(depth, 0.0, 0.08))
    # One object in twelve has a hue of another kind, so that colour alone does not tell the class.
    hue = rng.random() if rng.random() < 1 / 12 else rng.choice(kind.hues) + rng.normal(0, 0.015)
    saturation, value = rng.uniform(*kind.saturation), rng.uniform(0.72, 1.0)
    bright = (hue, saturation * rng.uniform(0.65, 0.95), value)
    dark = (hue + rng.normal(0, 0.02), min(1, saturation * 1.15), value * rng.uniform(0.45, 0.65))
    paint = blend(dark, bright, tone) * np.clip(brightness, 0.3, 1.7)[..., None] * cover[..., None]

    shadow = depth  # the object itself, moved away from the light, with a soft edge
    for axis, slant in ((0, light[1]), (1, light[0])):
        shadow = shadow.take(np.arange(shadow.shape[axis]) + round(0.12 / pixel * slant), axis, mode="clip")
    shadow = 0.5 * smoothstep(shadow, -0.14, 0.06)
    return slice(top, bottom), slice(left, right), halve(paint), halve(cover), halve(shadow)


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
