"""Values of files that are kept as they are, read back exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from data.band_files import turned_upright
from data.errors import DataError
from data.images import band_layout, file_contents, image_size, is_rotated, read_image, read_stored

RNG = np.random.default_rng(0)


def values(kind: str, count: int) -> NDArray[np.generic]:
    return (RNG.random((17, 33, count)) * 200).astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "uint32", "float16", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "how", [{}, {"compression": "zlib", "tile": (16, 16)}, {"compression": "zstd", "byteorder": ">"}, {"bigtiff": True}]
)
def test_read_stored__tiff(tmp_path: Path, kind: str, count: int, how: dict[str, Any]) -> None:
    path, array = tmp_path / "a.tif", values(kind, count)
    for planar in ("contig", "separate")[:count]:
        pixels = array if count > 1 else array[..., 0]
        given = pixels if planar == "contig" else np.moveaxis(array, -1, 0)
        layout: dict[str, Any] = {"planarconfig": planar} if count > 1 else {}
        tifffile.imwrite(path, given, photometric="minisblack", metadata=None, **layout, **how)
        stored = read_stored(path)
        assert stored.values.dtype == np.dtype(kind)
        np.testing.assert_array_equal(stored.values, array)
        found = band_layout(path)
        assert (found.size, found.count, found.kind, found.alpha) == ((17, 33), count, kind, False)
        assert image_size(path) == (17, 33)


def test_read_stored__tiff_of_12_bits(tmp_path: Path) -> None:
    """Two values of 12 bits share three bytes."""
    path, array = tmp_path / "a.tif", RNG.integers(0, 4096, (4, 6), dtype=np.uint16)
    pairs = array.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    tifffile.imwrite(path, packed.astype(np.uint8).reshape(4, 9), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(6)
        file.pages.first.tags["BitsPerSample"].overwrite(12)
    stored = read_stored(path)
    np.testing.assert_array_equal(stored.values[..., 0], array)
    assert (stored.bits, band_layout(path).bits) == (12, 12)


@pytest.mark.parametrize(("how", "bands"), [({"ome": True}, 5), ({"imagej": True}, 5)])
def test_read_stored__channels_that_are_pages(tmp_path: Path, how: dict[str, Any], bands: int) -> None:
    array = values("uint16", bands)
    path = tmp_path / ("a.ome.tif" if "ome" in how else "a.tif")
    tifffile.imwrite(path, np.moveaxis(array, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}, **how)
    np.testing.assert_array_equal(read_stored(path).values, array)
    assert band_layout(path).count == bands
    assert file_contents(path).pages == 1


def test_read_stored__layers_are_not_bands(tmp_path: Path) -> None:
    array = values("uint16", 3)
    stack = np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"}, photometric="minisblack")
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").values, array[..., :1])
    assert file_contents(tmp_path / "a.tif").pages == 3


def test_file_contents__of_a_tiff_that_pillow_does_not_read(tmp_path: Path) -> None:
    for name, tags in (("upright.tif", []), ("turned.tif", [(274, "H", 1, 6, True)])):
        with tifffile.TiffWriter(tmp_path / name) as file:
            for _ in range(3):
                file.write(values("uint8", 5), photometric="minisblack", planarconfig="contig", extratags=tags)
        assert file_contents(tmp_path / name) == (3, 1, bool(tags))
        assert is_rotated(tmp_path / name) is bool(tags)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_read_stored__white_is_zero(tmp_path: Path, kind: str) -> None:
    array = values(kind, 1)
    tifffile.imwrite(tmp_path / "a.tif", array[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").values, np.iinfo(kind).max - array)


@pytest.mark.parametrize(("text", "nodata"), [("-9999", -9999.0), ("nan", np.nan), ("-3.4e+38", np.float32(-3.4e38))])
def test_read_stored__nodata(tmp_path: Path, text: str, nodata: float) -> None:
    tag = (42113, "s", len(text) + 1, text, True)
    tifffile.imwrite(tmp_path / "a.tif", values("float32", 1)[..., 0], extratags=[tag])
    np.testing.assert_equal(read_stored(tmp_path / "a.tif").nodata, float(nodata))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 7)])
@pytest.mark.parametrize("kind", [">f4", "uint16", "bool", "int64"])
def test_read_stored__array(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    array = np.asfortranarray((RNG.random(shape) * 9).astype(kind))
    np.save(tmp_path / "a.npy", array)
    stored = read_stored(tmp_path / "a.npy").values
    np.testing.assert_array_equal(stored.reshape(shape), array)
    assert stored.dtype.isnative
    assert image_size(tmp_path / "a.npy") == (5, 4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[{}]]), r"array of object"),
        (np.zeros(4), r"shape \(4,\): an image is \(h, w\) or"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((2, 2), complex), "array of complex128"),
        (np.zeros((5, 64, 64)), r"most likely \(bands, h, w\): save np\.moveaxis"),
    ],
)
def test_read_stored__array_that_is_not_an_image(tmp_path: Path, array: NDArray[np.generic], message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    for read in (read_stored, image_size, is_rotated, read_image):
        with pytest.raises(DataError, match=rf"a\.npy cannot be read: it is an .*{message}"):
            read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_read_stored__damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, values("float32", 2))
    else:
        tifffile.imwrite(path, values("float32", 2), photometric="minisblack", planarconfig="contig")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=rf"{name} (cannot be read: .+|is not a readable .+)"):
        read_stored(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_upright__is_what_pillow_does(tmp_path: Path, orientation: int) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        turned_upright(array[..., None], orientation)[..., 0], np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    )
