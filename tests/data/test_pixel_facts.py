from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import Dataset, Sample
from data.images import read_image
from data.pixel_facts import all_samples, describe_clipped, describe_dark, pixel_facts, with_pixel_rule
from data.pixel_rule import AS_STORED, BandRange, PixelRule

RAMP = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)


def samples(*paths: Path) -> list[Sample]:
    return [Sample(id=path.name, image=path, classes=(), mask=None) for path in paths]


def grey_16(path: Path, largest: int) -> Path:
    Image.fromarray(np.array([[0, largest // 2, largest]], np.uint16)).save(path)
    return path


def photo(folder: Path) -> Path:
    """Write an image of 8 bits: beside it, 16-bit images are scaled to 8 bits."""
    Image.new("RGB", (3, 1), (9, 8, 7)).save(folder / "photo.png")
    return folder / "photo.png"


def with_alpha(path: Path, alpha: np.ndarray) -> Path:
    colours = np.dstack([RAMP, RAMP, RAMP, alpha.astype(np.uint8)])
    Image.fromarray(colours).save(path)
    return path


def dataset(*paths: Path) -> Dataset:
    return Dataset(
        root=paths[0].parent,
        layout="custom",
        class_names=("cat",),
        splits={"train": tuple(samples(*paths[:1]))},
        train_split="train",
        val_split=None,
        unlabelled=tuple(samples(*paths[1:])),
    )


@pytest.mark.parametrize(
    ("largest", "bits"),
    [
        (0, 8),
        (255, 8),
        (256, 10),
        (1023, 10),
        (1024, 12),
        (4095, 12),
        (4096, 14),
        (16383, 14),
        (16384, 16),
        (65535, 16),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pixel_facts__bits_that_are_used(tmp_path: Path, largest: int, bits: int, suffix: str) -> None:
    paths = [grey_16(tmp_path / f"{number}{suffix}", largest // (3 - number)) for number in range(3)]
    found = pixel_facts(samples(*paths, photo(tmp_path)))
    assert (found.deep, found.bits) == (tuple(paths), bits)


def test_pixel_facts__bits_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.full((2, 2), 1024, np.uint16))
    assert pixel_facts(samples(path, photo(tmp_path))).rule == PixelRule(bits=12)


def test_pixel_facts__one_image_decides_for_all(tmp_path: Path) -> None:
    paths = [grey_16(tmp_path / f"{number:03d}.png", 4000) for number in range(70)]
    grey_16(paths[66], 9000)
    assert pixel_facts(samples(*paths, photo(tmp_path))).rule == PixelRule(bits=14)


def test_pixel_facts__reads_some_images_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of at most DEEP_IMAGES images are read, spread over all."""
    monkeypatch.setattr("data.pixel_facts.DEEP_IMAGES", 10)
    read: list[Path] = []

    def used_bits(path: Path) -> int:
        read.append(path)
        return 12

    monkeypatch.setattr("data.pixel_facts._used_bits", used_bits)
    paths = [grey_16(tmp_path / f"{number:03d}.png", 4000) for number in range(35)]
    found = pixel_facts(samples(*paths, photo(tmp_path)))
    assert (found.deep, found.bits) == (tuple(paths), 12)
    assert sorted(read) == paths[::4]


def test_pixel_facts__8_bits(tmp_path: Path) -> None:
    for name, mode in (("a.jpg", "RGB"), ("b.png", "P"), ("c.bmp", "RGB"), ("d.webp", "RGB"), ("e.tif", "L")):
        Image.new(mode, (4, 4)).save(tmp_path / name)
    (tmp_path / "f.png").write_bytes(b"damaged")
    found = pixel_facts(samples(*sorted(tmp_path.iterdir()), tmp_path / "missing.png"))
    assert (found.deep, found.alpha, found.rule) == ((), (), AS_STORED)
    assert pixel_facts([]).rule == AS_STORED


@pytest.mark.parametrize(
    ("alpha", "transparent"),
    [
        (np.full_like(RAMP, 255), True),
        (np.full_like(RAMP, 128), True),  # a glass pane
        (np.where(RAMP > 100, 255, 0), True),
        (np.clip(RAMP.astype(int) * 4 - 400, 0, 255), True),  # an object with a soft border
        (RAMP, False),
        (20 + RAMP // 3, False),
        (np.random.default_rng(0).integers(0, 256, RAMP.shape), False),
    ],
)
def test_pixel_facts__alpha(tmp_path: Path, alpha: np.ndarray, transparent: bool) -> None:
    paths = [with_alpha(tmp_path / name, alpha) for name in ("a.png", "b.tif")]
    found = pixel_facts(samples(*paths))
    assert (found.alpha, found.transparent) == (tuple(paths), transparent)


def test_pixel_facts__most_alpha_bands_decide(tmp_path: Path) -> None:
    """Water is dark in infrared: its band alone could be transparency."""
    paths = [with_alpha(tmp_path / f"{number}.png", RAMP if number else np.full_like(RAMP, 3)) for number in range(3)]
    assert pixel_facts(samples(*paths)).rule == PixelRule(alpha=False)


def test_with_pixel_rule__for_all_images(tmp_path: Path) -> None:
    found = dataset(grey_16(tmp_path / "a.png", 4000), grey_16(tmp_path / "b.png", 2000), photo(tmp_path))
    assert found.pixels == AS_STORED
    assert with_pixel_rule(found, AS_STORED) is found
    ruled = with_pixel_rule(found, pixel_facts(all_samples(found)).rule)
    assert ruled.pixels == PixelRule(bits=12)
    brightness = {one.id: read_image(one.image, rule=one.pixels).getpixel((2, 0)) for one in ruled.by_id().values()}
    del brightness["photo.png"]
    assert brightness == {"a.png": (250, 250, 250), "b.png": (125, 125, 125)}  # comparable


def test_pixel_facts__options_come_first(tmp_path: Path) -> None:
    found = dataset(grey_16(tmp_path / "a.png", 4000), with_alpha(tmp_path / "b.png", RAMP))
    assert pixel_facts(all_samples(found)).rule == PixelRule(bits=12, alpha=False)
    assert pixel_facts(all_samples(found), "14").rule == PixelRule(bits=14, alpha=False)
    assert pixel_facts(all_samples(found), alpha="transparency").rule == PixelRule(bits=12, alpha=True)
    assert pixel_facts(all_samples(found), "16", "ignore").rule == PixelRule(bits=16, alpha=False)


def test_describe_loss__says_why_images_lose_their_depth(tmp_path: Path) -> None:
    grey, plain = grey_16(tmp_path / "a.png", 4000), photo(tmp_path)
    colours = tmp_path / "c.npy"
    np.save(colours, np.full((2, 2, 3), 9, np.uint16))
    text, advice = pixel_facts(samples(grey, plain)).describe_loss() or ("", "")
    assert text == (
        f"1 image of 16 bits, read as 8-bit RGB (4095 becomes 255), since others have 8 bits (first {plain})"
    )
    assert advice == "to keep the depth, save all images with 16 bits; if 8 bits are enough, give --image-bits 12"
    text, advice = pixel_facts(samples(grey, colours)).describe_loss() or ("", "")
    assert "2 images of 16 bits" in text
    assert "since some are grey and others have colours" in text
    assert advice.startswith("to keep the depth, save all images with the same bands")
    for kept in (pixel_facts(samples(grey)), pixel_facts(samples(plain)), pixel_facts(samples(grey, plain), "12")):
        assert kept.describe_loss() is None


def test_describe_clipped__counts_the_images_and_gives_the_largest_share() -> None:
    rule = PixelRule(bits=10, clip=True)
    assert describe_clipped([0.0, 0.0], rule) is None
    text = describe_clipped([0.0, 0.01, 0.25], rule)
    assert text is not None
    assert text.startswith("2 images have values above 1023, which were clipped (in up to 25.00% of the pixels): ")


def test_describe_dark__only_if_most_images_are() -> None:
    rule = PixelRule()
    assert describe_dark([], 0, rule) is None
    assert describe_dark([Path("a.png")], 2, rule) is None
    text = describe_dark([Path("a.png"), Path("b.png")], 3, rule)
    assert text is not None
    assert text.startswith(
        "2 of 3 images are nearly black for the network (first a.png): 255 is white, and 65535 in 16-"
    )
    bands = (BandRange(number=2, low=0.0, high=4000.0, mean=0.5, std=0.2),)
    assert "have values up to 4000 in band 2;" in (describe_dark(["image 1"], 1, PixelRule(bands=bands)) or "")
