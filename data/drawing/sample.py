"""Write the data set of `toco demo`: pictures of textured objects on textured grounds, with exact masks."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import Scene, draw_scene
from data.errors import DataError
from data.palette import palette_image


def sample_scene(index: int, *, size: int, seed: int, crowded: bool = False) -> Scene:
    """Draw the picture `index` of a sample; see `draw_sample`."""
    rng = np.random.default_rng((seed, index))
    return draw_scene(DEMO_KINDS, size, rng, first_kind=index % len(DEMO_KINDS), crowded=crowded)


def draw_sample(
    out: Path, *, images: int = 400, validation: int = 100, size: int = 96, seed: int = 0, crowded: bool = False
) -> None:
    """Write a custom folder of drawn pictures: `images/`, `labels.csv`, `classes.txt` and `masks/`.

    Each picture shows one to three objects of the classes DEMO_KINDS. The same arguments give the same files.

    Args:
        out: the folder to make.
        images: number of pictures in split train, 1 or more.
        validation: number of pictures in split val.
        size: height and width in pixels, 32 or more; the same seed shows the same scenes at any size.
        seed: chooses the pictures; 0 or more.
        crowded: each picture shows two to four objects of one class instead, most of which touch each other.

    Raises:
        DataError: `out` exists.
        ValueError: a number is out of range.
    """
    if images < 1 or validation < 0 or size < 32 or seed < 0:
        raise ValueError(
            f"cannot draw images={images}, validation={validation}, size={size}, seed={seed}: "
            "take at least 1 image, 32 pixels, and no negative number"
        )
    if out.exists():
        raise DataError(f"'{out}' exists already: name a folder that does not exist, or remove this one first")
    (out / "images").mkdir(parents=True)
    (out / "masks").mkdir()
    names = [kind.name for kind in DEMO_KINDS]
    rows = [("image", "labels", "split")]
    for index in range(images + validation):
        image, mask, _ = sample_scene(index, size=size, seed=seed, crowded=crowded)
        Image.fromarray(image).save(out / "images" / f"{index:05d}.jpg", quality=92, subsampling=0)
        palette_image(mask).save(out / "masks" / f"{index:05d}.png")
        labels = ";".join(names[label - 1] for label in np.unique(mask) if label)
        rows.append((f"{index:05d}.jpg", labels, "train" if index < images else "val"))
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
