"""Puts objects on a ground, lights and photographs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from data.drawing.fields import Canvas, Colour, Light, Plane, halve, hsv_to_rgb, mix, noise, step, turned
from data.drawing.grounds import draw_ground
from data.drawing.kinds import Kind


class Scene(NamedTuple):
    """One drawn picture."""

    image: NDArray[np.uint8]  # (h, w, 3)
    mask: NDArray[np.uint8]  # (h, w), 0 the ground, c the c-th of the kinds


class Placement(NamedTuple):
    """Where an object lies: centre and radius as shares of the picture's side, turned by `angle` radians."""

    x: float
    y: float
    radius: float
    angle: float


class Cutout(NamedTuple):
    """A drawn object, ready to be laid on a picture."""

    window: tuple[slice, slice]
    """Rows and columns of the picture that the rest is about, h x w pixels."""
    paint: Canvas
    """(h, w, 3) colours, times cover."""
    cover: Plane
    """(h, w) share of each pixel that the object covers."""
    shadow: Plane
    """(h, w) share of the light that it keeps from what lies below."""


def draw_scene(kinds: Sequence[Kind], size: int, rng: np.random.Generator, *, first_kind: int) -> Scene:
    """Draw one to three objects, the first of them `kinds[first_kind]`, on a ground.

    A pixel of the mask belongs to whoever covers most of it.
    """
    turn = rng.uniform(0, 2 * math.pi)
    light = Light(x=math.cos(turn), y=math.sin(turn))
    picture = draw_ground(size, light, rng)
    shares = [np.ones((size, size), np.float32)]  # of the ground, then of each object
    labels = [0]
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
    mask = np.asarray(labels, np.uint8)[np.argmax(shares, axis=0)]
    return Scene(image=expose(picture, rng), mask=mask)


def place_objects(rng: np.random.Generator) -> list[Placement]:
    """Choose places for one to three objects, which may touch but hide little of each other."""
    count = int(rng.choice((1, 2, 3), p=(0.35, 0.4, 0.25)))
    largest = (0.45, 0.36, 0.29)[count - 1]
    placements: list[Placement] = []
    for _ in range(100):
        radius = float(rng.uniform(0.75, 1.0)) * largest
        x, y = (float(place) for place in rng.uniform(0.75 * radius, 1 - 0.75 * radius, 2))
        if all(math.hypot(x - other.x, y - other.y) > 0.85 * (radius + other.radius) for other in placements):
            placements.append(Placement(x=x, y=y, radius=radius, angle=float(rng.uniform(0, 2 * math.pi))))
        if len(placements) == count:
            break
    return placements


def draw_object(kind: Kind, placement: Placement, size: int, light: Light, rng: np.random.Generator) -> Cutout:
    """Draw an object for a picture of `size` pixels, at twice that and averaged down."""
    reach = 1.35 * placement.radius  # outlines stray a little beyond the radius, shadows further
    window = (span(placement.y, reach, size), span(placement.x, reach, size))
    y, x = np.ogrid[2 * window[0].start : 2 * window[0].stop, 2 * window[1].start : 2 * window[1].stop]
    unit = 1 / (2 * size * placement.radius)  # one drawn pixel, in radii
    dx = ((x + 0.5) * unit - placement.x / placement.radius).astype(np.float32)
    dy = ((y + 0.5) * unit - placement.y / placement.radius).astype(np.float32)
    cos, sin = math.cos(placement.angle), math.sin(placement.angle)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # the object's own axes

    field = kind.outline(u, v, rng)
    slope_y, slope_x = np.gradient(field, unit)
    steepness = np.maximum(np.hypot(slope_y, slope_x), 0.3)
    depth = -field / steepness  # about how far inside the outline, in radii
    cover = np.clip(0.5 + depth / unit, 0, 1)

    motif = kind.motif * rng.uniform(0.8, 1.25) / placement.radius
    surface = kind.texture(u / motif, v / motif, 1 / motif, rng)
    tone = surface.tone + 0.25 * (noise(rng, u.shape, 8) - 0.5)
    if kind.rim:
        tone = 0.1 + (tone - 0.1) * step(depth, 0.6 * kind.rim, kind.rim)
    rise_y, rise_x = np.gradient(surface.relief, unit / motif)
    edge = 0.35 * (1 - step(depth, 0.0, 0.3)) / steepness  # its side falls off towards the ground
    brightness = 1 + light.x * (edge * slope_x - 0.15 * rise_x) + light.y * (edge * slope_y - 0.15 * rise_y)
    brightness -= 0.25 * (1 - step(depth, 0.0, 0.08))
    colours = mix(object_colours(kind, rng), tone) * np.clip(brightness, 0.3, 1.7)[..., None]
    return Cutout(
        window=window,
        paint=halve(colours * cover[..., None]),
        cover=halve(cover),
        shadow=halve(cast_shadow(depth, light, 0.12 / unit)),
    )


def span(centre: float, reach: float, size: int) -> slice:
    """Return the pixels within `reach` of `centre`, both shares of the picture's side."""
    return slice(max(0, math.floor((centre - reach) * size)), min(size, math.ceil((centre + reach) * size)))


def object_colours(kind: Kind, rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Draw an object's dark and light colour."""
    painted = rng.random() < 1 / 12  # an odd one, so that colour alone does not tell
    hue = rng.random() if painted else float(rng.choice(kind.hues)) + rng.normal(0, 0.015)
    saturation = rng.uniform(*kind.saturation)
    value = rng.uniform(0.72, 1.0)
    light = hsv_to_rgb(hue, saturation * rng.uniform(0.65, 0.95), value)
    dark = hsv_to_rgb(hue + rng.normal(0, 0.02), min(1.0, saturation * 1.15), value * rng.uniform(0.45, 0.65))
    return dark, light


def cast_shadow(depth: Plane, light: Light, length: float) -> Plane:
    """Shift an object away from the light by `length` pixels and soften its edge."""
    height, width = depth.shape
    rows = np.clip(np.arange(height) + round(length * light.y), 0, height - 1)
    columns = np.clip(np.arange(width) + round(length * light.x), 0, width - 1)
    return 0.5 * step(depth[rows[:, None], columns], -0.14, 0.06)


def expose(picture: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Take the photograph, (h, w, 3) uint8: uneven light, a tint, exposure, a soft lens and the sensor's noise."""
    falloff = 1 + rng.uniform(0, 0.35) * turned(picture.shape[0], rng)[0]
    tint = (rng.uniform(0.8, 1.15) * (1 + rng.normal(0, 0.03, 3))).astype(np.float32)
    sensor = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0.01, 0.03)
    photograph = picture * falloff[..., None] * tint
    blurred = Image.fromarray((np.clip(photograph, 0, 1) * 255 + 0.5).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.5, 1.0) * picture.shape[0] / 96)
    )
    return (np.clip(np.asarray(blurred, np.float32) / 255 + sensor, 0, 1) * 255 + 0.5).astype(np.uint8)
