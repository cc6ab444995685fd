"""The rule for bands is measured on files, and applied to them at full depth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from data.band_image import BandImage, as_picture
from data.dataset import Sample
from data.errors import DataError, SettingsError
from data.file_kinds import split_kinds
from data.image_cache import TrainingImages, open_cache
from data.images import as_pixels, read_image, read_pixels
from data.pixel_facts import describe_clipped, pixel_facts
from data.pixel_rule import AS_STORED, PixelRule
from data.transforms import CamTransform, SegTransform, photometric

RNG = np.random.default_rng(0)


def write(path: Path, values: NDArray[Any], nodata: str | None = None) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tags = [] if nodata is None else [(42113, "s", len(nodata) + 1, nodata, True)]
        layout: dict[str, Any] = {"planarconfig": "contig"} if values.ndim == 3 else {}
        tifffile.imwrite(path, values, photometric="minisblack", metadata=None, extratags=tags, **layout)
    return path


def facts(*paths: Path, **options: Any) -> Any:
    return pixel_facts([Sample(id=str(path), image=path, classes=(), mask=None) for path in paths], **options)


def ramp(count: int, kind: str = "uint16", size: tuple[int, int] = (50, 40)) -> NDArray[Any]:
    """Return values of `size` whose band c is spread evenly over 1000 * c to 1000 * c + 1000."""
    base = np.linspace(0, 1000, size[0] * size[1]).reshape(*size, 1)
    return (base + 1000 * np.arange(count)).astype(kind)


def test_rule__range_and_moments_of_each_band(tmp_path: Path) -> None:
    found = facts(*(write(tmp_path / f"{number}.tif", ramp(5)) for number in range(2)))
    assert [band.number for band in found.bands] == [1, 2, 3, 4, 5]
    for place, band in enumerate(found.bands):
        assert (band.low, band.high) == pytest.approx((1000 * place + 1, 1000 * place + 999), abs=1)
        assert (band.mean, band.std) == pytest.approx((0.5, 0.289), abs=0.01)
    assert found.rule.count == 5
    assert found.describe().startswith("images have 5 bands of 16 bits (uint16), read at full depth: band 1 (")
    plain = json.loads(json.dumps(found.rule.as_dict()))
    assert PixelRule.from_dict(plain) == found.rule
    plain["bands"][0]["std"] = 0
    with pytest.raises(TypeError, match="is not a rule"):
        PixelRule.from_dict(plain)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy"])
def test_read_pixels__grey_of_16_bits_keeps_its_depth(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, np.arange(4096, dtype=np.uint16).reshape(64, 64))
    rule = facts(path).rule
    image = read_pixels(path, rule=rule)
    assert isinstance(image, BandImage)
    assert len(np.unique(image.values)) == 4096
    assert image.values.dtype == np.float32
    assert len(np.unique(np.asarray(read_image(path, rule=rule)))) == 256


@pytest.mark.parametrize(
    ("images", "options", "numbers"),
    [
        ([ramp(1)[..., 0]], {}, [1]),
        ([ramp(2, "float32")], {}, [1, 2]),
        ([ramp(5)], {"bands": "4,3,2"}, [4, 3, 2]),
        ([ramp(5)], {"bands": "all"}, [1, 2, 3, 4, 5]),
        ([ramp(3, "uint8")], {"bands": "3, 1"}, [3, 1]),
        ([ramp(3, "uint8")], {}, []),  # usual pictures
        ([ramp(1, "uint8")[..., 0]], {}, []),
        ([ramp(1)[..., 0], ramp(1, "uint8")[..., 0]], {}, []),  # 8 and 16 bits are comparable only as colours
        ([ramp(1)[..., 0]], {"bits": "12"}, []),
        ([ramp(5), ramp(5), ramp(3, "uint8")], {}, [1, 2, 3, 4, 5]),  # most files decide
    ],
)
def test_rule__which_bands(
    tmp_path: Path, images: list[NDArray[Any]], options: dict[str, str], numbers: list[int]
) -> None:
    paths = [write(tmp_path / f"{number}.npy", one) for number, one in enumerate(images)]
    assert [band.number for band in facts(*paths, **options).bands] == numbers


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ("6", r"--bands 6: there is no band 6, since .*a\.tif has 5 bands: choose from 1 to 5"),
        ("0", "different numbers from 1"),
        ("1,1", "different numbers from 1"),
        ("red", "--bands 'red': give"),
    ],
)
def test_rule__bands_that_are_not_there(tmp_path: Path, bands: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        facts(write(tmp_path / "a.tif", ramp(5)), bands=bands)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (ramp(4), r"odd\.npy cannot be read: it has 4 bands, but the images of this data set have 5"),
        (ramp(1)[..., 0], r"it has 1 band, but the images of this data set have 5"),
        (ramp(5, "float32"), r"floating-point values \(float32\), but the images of this data set have integer ones"),
        (ramp(5, "uint8"), r"8-bit values \(uint8\)"),
    ],
)
def test_read_pixels__other_files(tmp_path: Path, values: NDArray[Any], message: str) -> None:
    rule = facts(write(tmp_path / "a.tif", ramp(5))).rule
    with pytest.raises(DataError, match=message):
        read_pixels(write(tmp_path / "odd.npy", values), rule=rule)


def test_read_pixels__bands_of_a_data_set_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif cannot be read: it has 5 bands of uint16, but .* as 8-bit RGB"):
        read_pixels(write(tmp_path / "a.tif", ramp(5)), rule=AS_STORED)


@pytest.mark.parametrize(("kind", "missing", "nodata"), [("float32", np.nan, None), ("uint16", 0, "0")])
def test_missing_values__get_the_mean(tmp_path: Path, kind: str, missing: float, nodata: str | None) -> None:
    values = 5 + ramp(2, kind)
    values[:10, :20, 1] = missing
    path = write(tmp_path / "a.tif", values, nodata)
    found = facts(path)
    assert found.without_value == pytest.approx(200 / 4000)
    assert found.describe_missing().startswith("5.00% of the values are missing")
    assert found.bands[1].low > 1000  # they are not measured
    image = read_pixels(path, rule=found.rule)
    assert isinstance(image, BandImage)
    assert np.isfinite(image.values).all()
    np.testing.assert_allclose(image.values[:10, :20, 1], 255 * found.bands[1].mean)


@pytest.mark.parametrize(("kind", "missing", "nodata"), [("float32", np.nan, None), ("uint16", 0, "0")])
def test_missing_values__an_image_without_any_is_named(
    tmp_path: Path, kind: str, missing: float, nodata: str | None
) -> None:
    good = write(tmp_path / "good.tif", 5 + ramp(2, kind), nodata)
    empty = write(tmp_path / "empty.tif", np.full_like(ramp(2, kind), missing), nodata)
    assert facts(good, empty).empty == (empty,)
    assert facts(good).empty == ()


def test_clipped__values_far_outside_are_told(tmp_path: Path) -> None:
    rule = facts(write(tmp_path / "a.tif", ramp(1)[..., 0])).rule
    bright = read_pixels(write(tmp_path / "b.tif", 30 * ramp(1)[..., 0]), rule=rule)
    assert isinstance(bright, BandImage)
    assert bright.values.max() == 510
    text = describe_clipped([bright.clipped], rule)
    assert text is not None
    assert text.startswith("1 image has values far outside of the range of the training images")


def test_as_pixels__is_like_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(5))
    rule = facts(path).rule
    one, other = read_pixels(path, rule=rule), as_pixels(ramp(5), rule)
    assert one.tobytes() == other.tobytes()
    with pytest.raises(DataError, match="the given image cannot be used: it has 3 bands"):
        as_pixels(ramp(3), rule)


def test_picture__first_three_bands_or_grey(tmp_path: Path) -> None:
    values = np.zeros((1, 2, 4), np.float32)
    values[0, 1] = (300, 100.4, -9, 7)
    picture = BandImage(values, (0.0,) * 4).picture()
    assert picture.getpixel((1, 0)) == (255, 100, 0)
    assert BandImage(values[..., 1:3], (0.0,) * 2).picture().getpixel((1, 0)) == (100, 100, 100)


def test_cache__bands(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(2))
    rule = facts(path).rule
    other = facts(path, bands="2").rule
    for _ in range(2):
        images = TrainingImages(30, open_cache(str(tmp_path / "cache")))
        image = images.read(path, rule)
        assert isinstance(image, BandImage)
        assert (image.size, image.values.shape, image.fill) == ((24, 30), (30, 24, 2), rule.fill)
        assert images.read(path, rule).tobytes() == image.tobytes() == TrainingImages(30).read(path, rule).tobytes()
        assert images.read(path, other).tobytes() != image.tobytes()
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_transforms__bands(count: int) -> None:
    fill = tuple(10.0 * (band + 1) for band in range(count))
    image = BandImage(RNG.random((40, 30, count)).astype(np.float32) * 255, fill)
    torch.manual_seed(0)
    views = CamTransform(64)(image)
    for view in (views.image, views.second, views.local):
        assert (view.shape, view.dtype) == ((count, 64, 64), torch.float32)
    mask = (np.asarray(as_picture(image))[..., 0] > 128).astype(np.uint8)
    seg = SegTransform(64, long_side=40)(image, mask)
    assert (seg.image.shape, seg.mask.shape) == ((count, 64, 64), (64, 64))


def test_transforms__padding_of_bands_is_the_mean() -> None:
    transform = SegTransform(64, long_side=20, rescale=(1.0, 1.0))
    transform.jitter = lambda view: view  # type: ignore[assignment]
    view = transform(BandImage(np.full((20, 20, 2), 99, np.float32), (7.0, 8.0)), np.ones((20, 20), np.uint8))
    padded = view.mask == 255
    assert [set(band[padded].tolist()) for band in view.image] == [{7}, {8}]
    np.testing.assert_allclose(view.image[:, ~padded], 99, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_photometric__of_bands(count: int) -> None:
    bands = torch.rand(count, 16, 16) * 255
    changed = []
    for seed in range(20):
        torch.manual_seed(seed)
        changed.append(photometric(448, blur=0.5, solarise=0.2)(bands))
    assert all(one.shape == bands.shape and bool(one.isfinite().all()) for one in changed)
    assert len({one.sum().item() for one in changed}) > 15


def test_split_kinds__arrays_beside_pictures_are_not_images() -> None:
    def split(*names: str) -> tuple[list[str], list[str]]:
        read, unread = split_kinds({name: Path(name) for name in names})
        return list(read), list(unread)

    assert split("a.npy", "b.npy") == (["a.npy", "b.npy"], [])
    assert split("a.jpg", "a.npy", "b.gif") == (["a.jpg"], ["a.npy", "b.gif"])
