import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.custom_reader import read_custom
from data.drawing.kinds import DEMO_KINDS, Kind
from data.drawing.sample import draw_sample
from data.drawing.scene import draw_scene
from data.errors import DataError
from data.palette import colour_map


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "sample"
    draw_sample(folder, images=12, validation=6, size=48)
    return folder


def test_draw_sample__is_a_custom_folder(sample: Path) -> None:
    dataset = read_custom(sample)
    assert dataset.class_names == tuple(kind.name for kind in DEMO_KINDS)
    assert (len(dataset.split("train")), len(dataset.split("val"))) == (12, 6)
    assert dataset.warnings == ()


def test_draw_sample__labels_are_the_classes_of_the_mask(sample: Path) -> None:
    names = (sample / "classes.txt").read_text().split()
    with (sample / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    for row in rows:
        mask = np.asarray(Image.open(sample / "masks" / row["image"].replace(".jpg", ".png")))
        assert mask.shape == (48, 48)
        assert row["labels"].split(";") == [names[value - 1] for value in np.unique(mask) if value]
        assert (mask == 0).any()


def test_draw_sample__files(sample: Path) -> None:
    with Image.open(sample / "images" / "00000.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
    with Image.open(sample / "masks" / "00000.png") as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "P", (48, 48))
        assert mask.getpalette() == colour_map().ravel().tolist()


def test_draw_sample__every_class_in_both_splits(sample: Path) -> None:
    dataset = read_custom(sample)
    for split in ("train", "val"):
        assert {label for drawn in dataset.split(split) for label in drawn.classes} == {1, 2, 3, 4, 5, 6}


def test_draw_sample__same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        draw_sample(tmp_path / name, images=3, validation=1, size=32, seed=seed)
    first = contents(tmp_path / "first")
    assert first == contents(tmp_path / "again")
    assert first["images/00000.jpg"] != contents(tmp_path / "other")["images/00000.jpg"]


def test_draw_sample__existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        draw_sample(tmp_path, images=1, validation=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"images": 0}, {"validation": -1}, {"size": 16}, {"seed": -1}])
def test_draw_sample__impossible_numbers(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        draw_sample(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_draw_scene__pictures_stay_the_same() -> None:
    # Six scenes side by side, one of each kind and of each ground. They were stored when the demo's figures were
    # published. The last bit of a sine depends on the processor, hence the tolerance.
    scenes = [draw_scene(DEMO_KINDS, 32, np.random.default_rng((4, kind)), first_kind=kind) for kind in range(6)]
    image, mask, _ = (np.hstack(layer) for layer in zip(*scenes, strict=True))
    stored = np.asarray(Image.open(Path(__file__).with_name("six_scenes.png")), np.int16)
    assert np.mean(image != stored) < 0.001
    assert np.abs(image - stored).max() <= 2
    assert np.sum(mask != np.asarray(Image.open(Path(__file__).with_name("six_scenes_masks.png")))) <= 1


def test_draw_scene__same_picture_at_any_size() -> None:
    small, large = (draw_scene(DEMO_KINDS, size, np.random.default_rng(5), first_kind=2).mask for size in (64, 128))
    assert 3 in small
    assert set(np.unique(small)) == set(np.unique(large))
    assert np.mean(small == large[::2, ::2]) > 0.97


@pytest.mark.parametrize("kind", DEMO_KINDS, ids=lambda kind: kind.name)
def test_draw_scene__every_kind(kind: Kind) -> None:
    for seed in range(3):
        image, mask, objects = draw_scene((kind,), 64, np.random.default_rng(seed), first_kind=0)
        assert image.shape == (64, 64, 3)
        assert mask.shape == (64, 64)
        assert image.dtype == mask.dtype == np.dtype(np.uint8)
        np.testing.assert_array_equal(objects > 0, mask == 1)
        assert 0.04 < mask.mean() < 0.75
        assert image[mask == 1].std() > 10  # textured and lit, not a flat patch
