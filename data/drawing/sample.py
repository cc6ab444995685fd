"""Draws the sample data set, a custom folder: textured objects on textured grounds, with exact masks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.dataset import DataError
from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import draw_scene


def draw_sample(out: Path, *, images: int = 400, validation: int = 100, size: int = 96, seed: int = 0) -> None:
    """Write a custom folder of drawn pictures: `images/`, `labels.csv`, `classes.txt` and exact `masks/`.

    Every picture shows one to three objects of the classes DEMO_KINDS. The same arguments give the same bytes.

    Args:
        out: the folder to make.
        images: how many pictures split train gets.
        validation: how many more split val gets.
        size: height and width of a picture in pixels; the same things are drawn at any size.
        seed: another seed, other pictures; 0 or more.

    Raises:
        DataError: `out` exists.
        ValueError: numbers that make no data set.
    """
    if images < 1 or validation < 0 or size < 32 or seed < 0:
        raise ValueError(
            f"cannot draw images={images}, validation={validation}, size={size}, seed={seed}: "
            "take at least 1 image, 32 pixels, and no negative number"
        )
    out = Path(out)
    if out.exists():
        raise DataError(f"'{out}' exists already: name a folder that does not, or remove it first")
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True)
    kinds = DEMO_KINDS
    rows = []
    for index in range(images + validation):
        scene = draw_scene(kinds, size, np.random.default_rng((seed, index)), first_kind=index % len(kinds))
        stem = f"{index:05d}"
        Image.fromarray(scene.image).save(out / "images" / f"{stem}.jpg", quality=92, subsampling=0)
        write_mask(out / "masks" / f"{stem}.png", scene.mask)
        labels = ";".join(kinds[label - 1].name for label in np.unique(scene.mask) if label)
        rows.append((f"{stem}.jpg", labels, "train" if index < images else "val"))
    (out / "classes.txt").write_text("".join(f"{kind.name}\n" for kind in kinds), encoding="utf-8")
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "labels", "split"), *rows])


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a mask as a palette PNG, so that a viewer shows each class in a colour of its own."""
    palette = np.zeros((256, 3), np.uint8)
    palette[1:7] = (
        (214, 39, 40),
        (255, 187, 60),
        (44, 160, 44),
        (31, 119, 180),
        (148, 103, 189),
        (23, 190, 207),
    )
    picture = Image.fromarray(mask)
    picture.putpalette(palette.tobytes())
    picture.save(path)
