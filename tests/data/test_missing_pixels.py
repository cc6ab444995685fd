"""Pixels without a value are found in files and in memory, and are 255 in masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from data.dataset import Sample
from data.errors import DataError
from data.images import MaskFile, as_pixels, read_pixels
from data.missing_pixels import describe_missing_pixels, missing_pixels, without_missing_pixels
from data.pixel_facts import pixel_facts
from data.pixel_rule import AS_STORED, PixelRule
from data.readers import read_mask

GAP = np.zeros((6, 8), bool)
GAP[:2, :3] = True
NODATA_0 = [(42113, "s", 2, "0", True)]


def values(count: int, kind: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 200, (*GAP.shape, count)).astype(kind)


def rule_of(path: Path, **options: Any) -> PixelRule:
    return pixel_facts([Sample(id="a", image=path, classes=(), mask=None)], **options).rule


def write_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, metadata=None, **{"photometric": "rgb", "planarconfig": "contig", **options})
    return path


def nodata_in_rgb(folder: Path) -> Path:
    pixels = values(3)
    pixels[GAP] = 0
    pixels[5, 5, 1] = 0  # the other bands have values
    return write_tiff(folder / "a.tif", pixels, extratags=NODATA_0)


def alpha_of_a_tiff(folder: Path) -> Path:
    return write_tiff(
        folder / "a.tif", np.dstack([values(3), np.where(GAP, 0, 255).astype(np.uint8)]), extrasamples=[2]
    )


def mask_in_a_tiff(folder: Path) -> Path:
    """As GDAL writes it: a page of one bit, 1 where there are values, after a smaller copy of the image."""
    with tifffile.TiffWriter(folder / "a.tif") as file:
        file.write(values(3), photometric="rgb", metadata=None)
        file.write(values(3)[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        file.write(~GAP, photometric="mask", metadata=None, subfiletype=4)
    return folder / "a.tif"


def mask_beside_a_tiff(folder: Path) -> Path:
    """As GDAL writes it without GDAL_TIFF_INTERNAL_MASK."""
    flags = '<GDALMetadata><Item name="INTERNAL_MASK_FLAGS_1">2</Item></GDALMetadata>'
    mask = np.where(GAP, 0, 255).astype(np.uint8)
    write_tiff(folder / "a.tif.msk", mask, photometric="minisblack", extratags=[(42112, "s", 0, flags, True)])
    return write_tiff(folder / "a.tif", values(3))


def nodata_in_a_palette(folder: Path) -> Path:
    """The number of a colour that another number has, too."""
    numbers = np.where(GAP, 200, values(1)[..., 0]).astype(np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    return write_tiff(
        folder / "a.tif", numbers, photometric="palette", colormap=colours, extratags=[(42113, "s", 4, "200", True)]
    )


def nodata_in_16_bits(folder: Path) -> Path:
    pixels = values(5, "uint16")
    pixels[GAP] = 0
    return write_tiff(folder / "a.tif", pixels, photometric="minisblack", extratags=NODATA_0)


def nan_in_an_array(folder: Path) -> Path:
    pixels = values(2, "float32")
    pixels[GAP] = np.nan
    pixels[5, 5, 1] = np.nan
    np.save(folder / "a.npy", pixels)
    return folder / "a.npy"


def alpha_beside_16_bits(folder: Path) -> Path:
    Image.fromarray(np.dstack([values(1)[..., 0], np.where(GAP, 0, 255).astype(np.uint8)])).save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (nodata_in_rgb, {}),
        (nodata_in_rgb, {"bands": "3,1"}),
        (alpha_of_a_tiff, {}),
        (mask_in_a_tiff, {}),
        (mask_beside_a_tiff, {}),
        (nodata_in_a_palette, {}),
        (nodata_in_a_palette, {"bands": "2"}),
        (nodata_in_16_bits, {}),
        (nan_in_an_array, {}),
        (alpha_beside_16_bits, {"bands": "1"}),
    ],
)
def test_missing_pixels__of_files(tmp_path: Path, write: Any, options: dict[str, str]) -> None:
    path = write(tmp_path)
    rule = rule_of(path, **options)
    missing = missing_pixels(path, rule)
    assert missing is not None
    np.testing.assert_array_equal(missing, GAP)
    assert read_pixels(path, rule=rule).size == GAP.shape[::-1]
    labels = np.full(GAP.shape, 2, np.uint8)
    np.testing.assert_array_equal(without_missing_pixels(labels, path, rule), np.where(GAP, 255, 2))
    with pytest.raises(DataError, match=r"has 8 x 6 pixels, its mask 8 x 5: the image was replaced"):
        without_missing_pixels(labels[1:], path, rule)


@pytest.mark.parametrize(
    "write",
    [nodata_in_rgb, alpha_of_a_tiff, mask_in_a_tiff, mask_beside_a_tiff, nodata_in_a_palette, nodata_in_16_bits],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_missing_pixels__gdal_finds_the_same(tmp_path: Path, write: Any) -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(write(tmp_path)) as raster:
        np.testing.assert_array_equal(raster.dataset_mask() == 0, GAP)


def test_missing_pixels__mask_beside_a_tiff(tmp_path: Path) -> None:
    """A mask of another size is an error; a file of this name that GDAL did not write is another mask."""
    path = mask_beside_a_tiff(tmp_path)
    write_tiff(path, values(3)[1:])
    with pytest.raises(DataError, match=r"a\.tif cannot be read: a\.tif\.msk, the mask beside it, has another size"):
        missing_pixels(path, AS_STORED)
    write_tiff(tmp_path / "a.tif.msk", np.zeros(GAP.shape, np.uint8), photometric="minisblack")
    assert missing_pixels(path, AS_STORED) is None
    (tmp_path / "a.tif.msk").write_bytes(b"another")
    assert missing_pixels(path, AS_STORED) is None


def test_missing_pixels__by_contents_not_by_name(tmp_path: Path) -> None:
    tiff = alpha_of_a_tiff(tmp_path).rename(tmp_path / "tiff.png")
    png = tmp_path / "png.tif"
    Image.fromarray(np.dstack([values(3), np.where(GAP, 0, 255).astype(np.uint8)])).save(png, "PNG")
    np.testing.assert_array_equal(missing_pixels(tiff, AS_STORED), GAP)
    assert missing_pixels(png, AS_STORED) is None
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read: No such file"):
        missing_pixels(tmp_path / "gone.jpg", AS_STORED)


def test_missing_pixels__none(tmp_path: Path) -> None:
    shown_on_white = tmp_path / "cut_out.png"
    Image.fromarray(np.dstack([values(3), np.where(GAP, 0, 255).astype(np.uint8)])).save(shown_on_white)
    infrared = alpha_of_a_tiff(tmp_path)
    labels = np.zeros(GAP.shape, np.uint8)
    for path, rule in (
        (shown_on_white, AS_STORED),
        (infrared, PixelRule(alpha=False)),
        (write_tiff(tmp_path / "whole.tif", values(3)), AS_STORED),
        (write_tiff(tmp_path / "nodata.tif", values(3), extratags=NODATA_0), AS_STORED),
    ):
        assert missing_pixels(path, rule) is None
        assert without_missing_pixels(labels, path, rule) is labels


def test_missing_pixels__in_memory_as_in_a_file(tmp_path: Path) -> None:
    path = nan_in_an_array(tmp_path)
    rule, array = rule_of(path), np.load(path)
    assert as_pixels(array, rule).tobytes() == read_pixels(path, rule=rule).tobytes()
    np.testing.assert_array_equal(missing_pixels(array, rule), GAP)
    assert missing_pixels(values(2, "float32"), rule) is None
    assert missing_pixels(Image.new("RGB", (3, 3)), AS_STORED) is None


def test_read_mask__ground_truth_does_not_count_where_there_is_no_value(tmp_path: Path) -> None:
    Image.fromarray(np.ones(GAP.shape, np.uint8)).save(tmp_path / "mask.png")
    path = nodata_in_rgb(tmp_path)
    sample = Sample(id="a", image=path, classes=(1,), mask=MaskFile(tmp_path / "mask.png"))
    np.testing.assert_array_equal(read_mask(sample, GAP.shape, 1), np.where(GAP, 255, 1))


def test_describe_missing_pixels__counts_images() -> None:
    assert describe_missing_pixels([], "labelled") is None
    assert (describe_missing_pixels(["a"], "labelled") or "").startswith("1 of the images labelled now has pixels")
