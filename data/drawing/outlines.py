"""Outlines: (u, v) in object radii -> negative inside the object, positive outside; it fills about -1..1."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from data.drawing.fields import Plane

Outline: TypeAlias = Callable[[Plane, Plane, np.random.Generator], Plane]


def waves(angle: Plane, count: int, strength: float, rng: np.random.Generator) -> Plane:
    """A random wavy radius around 1: harmonics 2..count of the angle."""
    radius = np.ones_like(angle)
    for harmonic in range(2, count + 1):
        radius += strength / harmonic * np.cos(harmonic * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    return radius


def pebble(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Nearly a disc, wavy."""
    return wavy(u, v, 5, 0.12, rng) - 0.95


def wavy(u: Plane, v: Plane, harmonics: int, strength: float, rng: np.random.Generator) -> Plane:
    """Distance from the middle, as it is for a circle there and for a wavy line further out."""
    radius = np.hypot(u, v)
    calm = np.minimum(1, radius / 0.5) ** 2  # no ridges where all directions meet
    field: Plane = radius / (1 + calm * (waves(np.arctan2(v, u), harmonics, strength, rng) - 1))
    return field


def leaf_blade(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Pointed at both ends, broadest before the middle, bent a little."""
    half_width = rng.uniform(0.42, 0.6)
    bend = rng.uniform(-0.15, 0.15)
    return np.abs(v - bend * (1 - u * u)) - half_width * (1 - u * u) * (1 - 0.35 * u)


def star(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Five round arms, swept a little to one side."""
    radius = np.hypot(u, v)
    angle = np.arctan2(v, u) + np.float32(rng.uniform(-0.5, 0.5)) * radius
    arms = 0.5 + 0.5 * np.cos(5 * angle)
    calm = np.minimum(1, radius / 0.35) ** 2  # no ridges where all directions meet
    return radius - (0.42 + 0.58 * calm * arms**1.3) * (1 + calm * 0.6 * (waves(angle, 3, 0.12, rng) - 1))


def block(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A rectangle with worn corners."""
    half_height = rng.uniform(0.55, 0.8)
    corner = 0.1
    outside = np.hypot(np.maximum(np.abs(u) - 0.92 + corner, 0), np.maximum(np.abs(v) - half_height + corner, 0))
    return outside - corner


def fish_body(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A body with a forked tail and a fin above and below."""
    half_height = rng.uniform(0.4, 0.52)
    body = np.hypot((u - 0.2) / 0.8, v / half_height) - 1
    tail = np.maximum(np.abs(v) - 0.1 - 0.85 * (-0.45 - u), np.maximum(-0.95 - u + 0.25 * (0.5 - np.abs(v)), u + 0.4))
    fins = np.hypot((u - 0.1) / 0.3, v / (half_height + 0.17)) - 1
    field: Plane = np.minimum(np.minimum(body, tail), fins)
    return field


def tortoise(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """A shell from above with a head and four legs."""
    shell = np.hypot(u / 0.8, v / rng.uniform(0.62, 0.72)) - 1
    head = (np.hypot((u - 0.85) / 0.2, v / 0.16) - 1) * 0.2
    legs = np.hypot(np.abs(u) - 0.5, np.abs(v) - 0.58) - 0.2
    field: Plane = np.minimum(np.minimum(shell, head), legs)
    return field
