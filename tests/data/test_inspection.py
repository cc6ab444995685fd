from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import Dataset, Sample
from data.images import MaskFile
from data.inspection import UnusedMasks, find_unused_masks, inspect_sample, inspect_samples
from data.readers import open_dataset


def picture(path: Path, *, width: int = 4, height: int = 3, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def sample(image: Path, mask: Path | None = None) -> Sample:
    return Sample(id=image.stem, image=image, classes=(), mask=MaskFile(mask) if mask else None)


def custom(root: Path) -> Dataset:
    picture(root / "images" / "a.jpg")
    picture(root / "images" / "x" / "b.jpg")
    (root / "labels.csv").write_text("image,labels\na.jpg,cat\n")
    return open_dataset(root)


def test_inspect_sample__a_good_image(tmp_path: Path) -> None:
    found = inspect_sample(sample(picture(tmp_path / "a.png")), num_classes=1)
    assert (found.size, found.problem, found.mask_problem) == ((3, 4), None, None)
    assert found.digest == hashlib.blake2b(b"4 x 3" + b"\xff\0\0" * 12, digest_size=16).digest()


def test_inspect_sample__digest_is_of_pixels_and_size(tmp_path: Path) -> None:
    paths = [
        picture(tmp_path / "a.png"),
        picture(tmp_path / "b.bmp"),
        picture(tmp_path / "c.png", width=3, height=4),
        picture(tmp_path / "d.png", colour="blue"),
    ]
    first, second, turned, blue = (inspect_sample(sample(path), 1).digest for path in paths)
    assert first == second
    assert len({first, turned, blue}) == 3


def test_inspect_sample__a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    found = inspect_sample(sample(path, mask=tmp_path / "gone.png"), num_classes=1)
    assert (found.size, found.digest, found.mask_problem) == (None, b"", None)
    assert found.problem is not None
    assert found.problem.startswith(f"{path} cannot be read: image file is truncated")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros((3, 4), np.uint8), None),
        (
            np.zeros((4, 4), np.uint8),
            "mask.png is 4 x 4 (height x width), its image is 3 x 4: give the mask the ",
        ),
        (np.full((3, 4), 2, np.uint8), "mask.png has the value 2 in 12 pixels: allowed are 0 (background), 1 to 1 "),
        (np.zeros((3, 4, 3), np.uint8), "mask.png is an image of mode 'RGB': a mask must be a palette or grey PNG"),
    ],
)
def test_inspect_sample__masks(
    tmp_path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], problem: str | None
) -> None:
    Image.fromarray(values).save(tmp_path / "mask.png")
    found = inspect_sample(sample(picture(tmp_path / "a.png"), tmp_path / "mask.png"), num_classes=1)
    assert found.size == (3, 4)
    assert (found.mask_problem is None) if problem is None else (problem in str(found.mask_problem))


def test_inspect_samples__keeps_the_order(tmp_path: Path) -> None:
    samples = [sample(picture(tmp_path / f"{width}.png", width=width)) for width in range(1, 20)]
    found = list(inspect_samples([*samples, sample(tmp_path / "gone.png")], num_classes=1))
    assert [one.size for one in found] == [*((3, width) for width in range(1, 20)), None]
    assert found[-1].problem == f"{tmp_path / 'gone.png'} is missing"


def test_inspect_samples__stops_when_it_is_closed(tmp_path: Path) -> None:
    found = inspect_samples([sample(picture(tmp_path / "a.png"))] * 1000, num_classes=1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert list(found) == []


def test_find_unused_masks__of_a_custom_folder(tmp_path: Path) -> None:
    dataset = custom(tmp_path)
    (root := tmp_path / "masks").mkdir()
    (root / "c.npy").touch()
    for name in ("a.png", "x/b.png", "x/B.png", "a.jpg", "x/b.TIF"):  # b has an image, though no labels
        picture(tmp_path / "masks" / name)
    expected = UnusedMasks(other_formats=("a.jpg", "x/b.TIF", "c.npy"), without_image=("x/B.png",))
    assert find_unused_masks(dataset) == expected


def test_find_unused_masks__without_a_folder(tmp_path: Path) -> None:
    assert find_unused_masks(custom(tmp_path)) == UnusedMasks()


@pytest.mark.parametrize(("values", "problem"), [([[0, 1, 255]], None), ([[0, 9, 9]], "has the value 9 in 2 pixels")])
def test_inspect_sample__values_in_the_mask(tmp_path: Path, values: list[list[int]], problem: str | None) -> None:
    Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "m.png")
    found = inspect_sample(sample(picture(tmp_path / "a.png", width=3, height=1), tmp_path / "m.png"), num_classes=1)
    assert found.mask_values == frozenset(values[0])
    assert (found.mask_problem is None) == (problem is None)
    assert problem is None or problem in str(found.mask_problem)
