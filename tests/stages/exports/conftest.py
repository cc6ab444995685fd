"""A run with masks that are hard to export, and with odd image names: folders, spaces, dots, other scripts."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.readers import open_dataset
from stages.config import MakeLabels
from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard
from stages.run_folder.artifacts import begin_stage

Mask = NDArray[np.uint8]

CLASS_NAMES = ("dent", "Kratzer & Co", "錆")


@dataclass(frozen=True)
class ExportRun:
    run: Path
    data: Path
    masks: dict[str, Mask]  # by image id, as in RUN/labels/labels.h5
    files: dict[str, Path]  # the image files, by image id
    class_names: tuple[str, ...]


def disc(mask: Mask, centre: tuple[int, int], radius: float, number: int) -> None:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2] = number


def holes_and_islands() -> Mask:
    """A disc with an ignored border and holes: one holds another class, one an object of the same class."""
    mask = np.zeros((90, 120), np.uint8)
    disc(mask, (45, 60), 42, 255)
    disc(mask, (45, 60), 40, 1)
    disc(mask, (45, 45), 12, 0)
    disc(mask, (45, 45), 6, 2)
    disc(mask, (45, 80), 14, 0)
    disc(mask, (45, 80), 5, 1)
    disc(mask, (20, 60), 1, 0)
    return mask


def touching_and_borders() -> Mask:
    """Classes side by side, components at all borders and corners, and components that touch only at a corner."""
    mask = np.zeros((64, 81), np.uint8)
    mask[:20, :30] = 1
    mask[:20, 30:50] = 2
    mask[20:40, :50] = 3
    mask[40:50, 50:60] = 3
    mask[-8:, -8:] = 1
    mask[-1, :20] = 2
    disc(mask, (32, 80), 9, 2)
    return mask


def specks() -> Mask:
    """A large component with single pixels as holes, and single pixels and thin lines beside it."""
    mask = np.zeros((70, 50), np.uint8)
    mask[5:60, 5:40] = 2
    draws = np.random.default_rng(0)
    mask[draws.integers(10, 50, 20), draws.integers(10, 35, 20)] = 0
    mask[[1, 65, 66], [45, 3, 4]] = 1
    mask[30, 42:48] = 3
    mask[2, 2] = 255
    return mask


def noise() -> Mask:
    """Thresholds of smoothed noise."""
    values = np.random.default_rng(1).random((80, 80))
    for axis in (0, 1):
        values = np.mean([np.roll(values, shift, axis) for shift in range(-3, 4)], axis=0)
    return np.digitize(values, np.quantile(values, [0.4, 0.7, 0.9])).astype(np.uint8)


def all_masks() -> dict[str, Mask]:
    return {
        "a": holes_and_islands(),
        "deep/d": touching_and_borders(),
        "deep/er/my photo.v2": specks(),
        "deep_d": noise(),
        "Größe/図 1": noise()[:40],
        "empty": np.zeros((33, 32), np.uint8),
        "ignored": np.full((32, 40), 255, np.uint8),
    }


SUFFIXES = {"a": ".jpg", "deep/d": ".JPG", "deep_d": ".bmp"}  # others are .png


@pytest.fixture
def make_export_run(tmp_path: Path) -> Callable[..., ExportRun]:
    """Write a custom folder with noise as images, and RUN/labels with the given masks."""

    def make(masks: Mapping[str, Mask], class_names: tuple[str, ...] = CLASS_NAMES) -> ExportRun:
        data, run = tmp_path / "data", tmp_path / "run"
        rows = [("image", "labels")]
        files = {}
        for number, (image_id, mask) in enumerate(masks.items()):
            files[image_id] = data / "images" / (image_id + SUFFIXES.get(image_id, ".png"))
            files[image_id].parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(files[image_id])
            name = files[image_id].relative_to(data / "images").as_posix()
            rows.append((f"./{name}" if name.startswith("#") else name, class_names[0]))  # '#' begins a comment
        with (data / "labels.csv").open("w", encoding="utf-8", newline="") as table:
            csv.writer(table).writerows(rows)
        (data / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
        folder = begin_stage(run, "labels", settings=MakeLabels(), dataset=open_dataset(data)).path
        labels = [
            ImageLabels(id=key, classes=(1,), cam=np.zeros((1, *mask.shape), np.float16), mask=mask)
            for key, mask in masks.items()
        ]
        write_shard(folder / "shards" / "0.h5", labels)
        join_shards([folder / "shards" / "0.h5"], folder, label_attributes(class_names, {}))
        return ExportRun(run=run, data=data, masks=dict(masks), files=files, class_names=class_names)

    return make


@pytest.fixture
def export_run(make_export_run: Callable[..., ExportRun]) -> ExportRun:
    return make_export_run(all_masks())
