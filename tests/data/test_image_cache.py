import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

import data.image_cache
from data.band_image import Pixels, as_picture
from data.dataset import Sample
from data.errors import DataError
from data.image_cache import TrainingImages, open_cache
from data.images import read_reduced
from data.missing_pixels import missing_pixels
from data.pixel_rule import BandRange, PixelRule
from data.stream import SampleStream

SIDE = 100


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG that is reduced, at first by its decoder: 700 x 500 pixels, then 350 x 250, then 100 x 71."""
    return write_noise(tmp_path / "photo.jpg", seed=0)


def write_noise(path: Path, *, seed: int, size: tuple[int, int] = (700, 500)) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded."""
    paths = []

    def read(path: Path, side: int, rule: PixelRule) -> Pixels:
        paths.append(path)
        return read_reduced(path, side, rule)

    monkeypatch.setattr(data.image_cache, "read_reduced", read)
    return paths


def images(tmp_path: Path, side: int = SIDE) -> TrainingImages:
    return TrainingImages(side, open_cache(str(tmp_path / "cache")))


def entries(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_read__decodes_once_and_gives_the_same_bit_for_bit(tmp_path: Path, photo: Path, decoded: list[Path]) -> None:
    expected = read_reduced(photo, SIDE)
    assert expected.size == (100, 71)
    cold = images(tmp_path).read(photo)
    warm = images(tmp_path).read(photo)
    for image in (cold, warm, TrainingImages(SIDE).read(photo)):
        assert isinstance(image, Image.Image)
        assert (image.mode, image.size) == ("RGB", expected.size)
        assert image.tobytes() == expected.tobytes()
    assert decoded == [photo, photo]  # once for the cache, once without one
    assert len(entries(tmp_path)) == 1


def test_read__small_images_are_kept_as_they_are(tmp_path: Path, decoded: list[Path]) -> None:
    path = write_noise(tmp_path / "small.png", seed=0, size=(90, 60))
    for _ in range(2):
        with Image.open(path) as whole:
            assert images(tmp_path).read(path).tobytes() == whole.tobytes()
    assert decoded == [path]


def test_read__a_changed_file_or_side_is_noticed(tmp_path: Path, photo: Path) -> None:
    cache = images(tmp_path)
    before = cache.read(photo)
    status = photo.stat()
    write_noise(photo, seed=1)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cache.read(photo).tobytes() == read_reduced(photo, SIDE).tobytes() != before.tobytes()
    assert images(tmp_path, side=300).read(photo).size == read_reduced(photo, 300).size == (350, 250)
    assert len(entries(tmp_path)) == 3


def test_read__one_entry_by_any_path(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = images(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (photo, Path("photo.jpg"), Path("link/photo.jpg")):
        cache.read(path)
    assert len(entries(tmp_path)) == 1


def damaged(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "no header": whole[:20],
        "cut off": whole[:-1],
        "zeros": bytes(len(whole)),
        "zip": b"PK\x03\x04" + whole,
        "pickle": pickle.dumps({"a": 1}),
        "other numbers": whole.replace(b"|u1", b"<f4"),
        "other shape": whole.replace(b"(71, 100, 3)", b"(71, 300)   "),
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_read__a_damaged_entry_is_made_anew(tmp_path: Path, photo: Path, decoded: list[Path], damage: str) -> None:
    cache = images(tmp_path)
    expected = cache.read(photo).tobytes()
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    assert damaged(whole)[damage] != whole
    entry.write_bytes(damaged(whole)[damage])
    assert cache.read(photo).tobytes() == expected
    assert entry.read_bytes() == whole
    assert decoded == [photo, photo]
    assert cache.take_warnings() == ()


def test_read__a_cache_that_is_deleted_meanwhile(tmp_path: Path, photo: Path) -> None:
    cache = images(tmp_path)
    cache.read(photo)
    (entry,) = entries(tmp_path)
    entry.unlink()
    entry.parent.rmdir()
    (tmp_path / "cache").rmdir()
    assert cache.read(photo).tobytes() == read_reduced(photo, SIDE).tobytes()
    assert entries(tmp_path) == [entry]


def test_read__what_is_wrong_with_an_image_is_said_as_without_a_cache(tmp_path: Path, photo: Path) -> None:
    cache = images(tmp_path)
    with pytest.raises(DataError, match=r"none\.jpg is missing"):
        cache.read(tmp_path / "none.jpg")
    photo.write_bytes(photo.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"photo\.jpg cannot be read"):
        cache.read(photo)
    photo.unlink()
    with pytest.raises(DataError, match=r"photo\.jpg is missing"):
        cache.read(photo)
    assert entries(tmp_path) == []


def test_read__full_disk_is_one_warning(
    tmp_path: Path, small_disk: Callable[[], AbstractContextManager[None]], decoded: list[Path]
) -> None:
    photos = [write_noise(tmp_path / f"{number}.png", seed=number, size=(200, 200)) for number in range(2)]
    cache = images(tmp_path, side=200)  # 120,000 bytes an entry
    with small_disk():
        for photo in photos * 2:
            assert cache.read(photo).tobytes() == read_reduced(photo, 200).tobytes()
    (warning,) = cache.take_warnings()
    assert warning.startswith(f"no more images are cached in {tmp_path / 'cache'} (")
    assert "\n" not in warning
    assert cache.take_warnings() == ()
    assert entries(tmp_path) == []  # no partial files either
    assert decoded == photos * 2


def test_open_cache__makes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cache(None) is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_cache("a/b") == tmp_path / "a" / "b"
    assert open_cache("~/c") == tmp_path / "c"
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "c").is_dir()
    assert entries(tmp_path / "a") == []


def test_open_cache__cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"^images cannot be cached in .*file/cache \(Not a directory\): give another fol"
    ):
        open_cache(str(tmp_path / "file" / "cache"))

    def refuse(*, dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DataError, match=r"^images cannot be cached in .*cache \(Permission denied\)"):
        open_cache(str(tmp_path / "cache"))


class Load:
    """Pixels of an image, and a random number as a transform draws it."""

    def __init__(self, images: TrainingImages) -> None:
        self.images = images

    def __call__(self, sample: Sample) -> Tensor:
        return torch.cat([torch.tensor(np.asarray(self.images.read(sample.image))).flatten(), torch.rand(1)])


def stream_of(images: TrainingImages, *paths: Path) -> SampleStream:
    samples = [Sample(id=path.name, image=path, classes=(), mask=None) for path in paths]
    return SampleStream(samples, Load(images), seed=0, take_warnings=images.take_warnings)


def test_stream__samples_are_the_same_with_a_cold_a_warm_and_no_cache(tmp_path: Path, decoded: list[Path]) -> None:
    photos = [write_noise(tmp_path / f"{number}.jpg", seed=number) for number in range(3)]
    ways = [TrainingImages(SIDE), images(tmp_path), images(tmp_path)]
    samples = [[stream_of(way, *photos)[position].checked() for position in range(6)] for way in ways]
    assert len(decoded) == 6 + 3 + 0
    for cold_or_warm in samples[1:]:
        assert all(torch.equal(one, other) for one, other in zip(samples[0], cold_or_warm, strict=True))


def test_stream__passes_warnings_on_from_other_processes(
    tmp_path: Path, photo: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    stream = pickle.loads(pickle.dumps(stream_of(images(tmp_path), photo)))
    with small_disk():
        assert stream[0].warnings == ()  # an entry of 21 kB has room
    stream.load.images.side = 300
    with small_disk():
        said = [stream[position].warnings for position in range(2)]
    assert [len(warnings) for warnings in said] == [1, 0]


READ_AND_DELETE = """
import sys
from pathlib import Path
from data.image_cache import TrainingImages
from data.images import PixelRule, read_reduced

cache, *photos = map(Path, sys.argv[1:])
images = TrainingImages(100, cache)
for photo in photos * 20:
    assert images.read(photo).tobytes() == read_reduced(photo, 100).tobytes()
    for entry in sorted(cache.rglob("*.npy"))[:1]:
        entry.unlink(missing_ok=True)  # another process may be reading or making it
assert images.take_warnings() == ()
"""


def test_read__several_processes_at_once(tmp_path: Path) -> None:
    photos = [write_noise(tmp_path / f"{number}.png", seed=number, size=(80, 60)) for number in range(3)]
    cache = open_cache(str(tmp_path / "cache"))
    words = [sys.executable, "-c", READ_AND_DELETE, str(cache), *map(str, photos)]
    processes = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert all(entry.suffix == ".npy" for entry in entries(tmp_path))


def test_read__another_rule_for_pixels_is_another_entry(tmp_path: Path, decoded: list[Path]) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 30), 4000, np.uint16)).save(path)
    for _ in range(2):
        read = [as_picture(images(tmp_path).read(path, PixelRule(bits=bits))).getpixel((0, 0)) for bits in (16, 12)]
        assert read == [(15, 15, 15), (250, 250, 250)]
    assert decoded == [path, path]


@pytest.mark.parametrize("cached", [False, True])
def test_missing__of_the_size_of_the_image_and_decoded_once(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def find(path: Path, rule: PixelRule) -> Any:
        decoded.append(path)
        return missing_pixels(path, rule)

    monkeypatch.setattr(data.image_cache, "missing_pixels", find)
    tag = [(42113, "s", 2, "0", True)]  # 0 is no value
    paths = {}
    for name in ("gap", "whole"):
        values = np.full((250, 350, 3), 9, np.uint8)
        if name == "gap":
            values[:, :175] = 0
        paths[name] = tmp_path / f"{name}.tif"
        tifffile.imwrite(paths[name], values, photometric="rgb", metadata=None, extratags=tag)
    photo = write_noise(tmp_path / "photo.jpg", seed=0)
    for _ in range(2):
        training = images(tmp_path) if cached else TrainingImages(SIDE)
        missing = training.missing(paths["gap"], training.read(paths["gap"]).size)
        np.testing.assert_array_equal(missing, np.arange(100)[None].repeat(71, axis=0) < 50)
        assert training.missing(paths["whole"], training.read(paths["whole"]).size) is None
        assert training.missing(photo, training.read(photo).size) is None
    times = 1 if cached else 2
    assert decoded == [paths["gap"], paths["whole"]] * times  # not the photo
    assert len(entries(tmp_path)) == (5 if cached else 0)


def test_missing__a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.where(np.arange(60) < 20, np.nan, 1).astype(np.float32).reshape(6, 10, 1))
    rule = PixelRule(bands=(BandRange(number=1, low=0.0, high=2.0, mean=0.5, std=1.0),), count=1)
    expected = np.arange(60).reshape(6, 10) < 20
    np.testing.assert_array_equal(images(tmp_path).missing(path, (10, 6), rule), expected)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    for bad in (b"", whole[:-1], whole.replace(b"(6, 10)", b"(10, 6)"), whole.replace(b"|b1", b"|u1")):
        entry.write_bytes(bad)
        np.testing.assert_array_equal(images(tmp_path).missing(path, (10, 6), rule), expected)
        assert entry.read_bytes() == whole
