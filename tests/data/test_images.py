from __future__ import annotations

import pickle
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

from data.band_image import clipped_share
from data.errors import DataError
from data.file_kinds import IMAGE_SUFFIXES
from data.image_files import escapes_folder, find_images, find_images_and_unread, find_masks, image_id
from data.images import (
    REDUCTION_TOLERANCE,
    MaskFile,
    as_pixels,
    file_contents,
    image_size,
    is_rotated,
    is_upright_jpeg,
    read_image,
    read_reduced,
    shorter_side,
)
from data.pixel_rule import AS_STORED, PixelRule

ORIENTATION = 0x0112
GREY_16 = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
GREY_8 = [[0, 0, 1], [128, 254, 255]]  # the high byte of each


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(path)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def rotated(path: Path, orientation: int, *, width: int = 4, height: int = 2) -> Path:
    """Write a grey picture, white in its first column, with an EXIF orientation."""
    image = Image.new("RGB", (width, height))
    image.paste("white", (0, 0, 1, height))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, quality=100)
    return path


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".npy"}))
def test_read_image__every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (5, 3), (200, 100, 50)).save(path, Image.registered_extensions().get(suffix, "JPEG"))
    assert np.allclose(pixel(path), (200, 100, 50), atol=4)
    assert read_image(path).size == (5, 3)
    assert image_size(path) == (3, 5)
    assert shorter_side(path) == 3


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 70, (70, 70, 70)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 200, 255), (0, 0, 200)),
        ("RGBA", (0, 0, 200, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_read_image__mode(tmp_path: Path, mode: str, color: int | tuple[int, ...], expected: tuple[int, ...]) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (3, 3), color).save(path)
    assert pixel(path) == expected


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_read_image__palette(tmp_path: Path, transparency: int | bytes) -> None:
    path = tmp_path / "a.png"
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(path)
    assert [pixel(path, 0), pixel(path, 1)] == [(10, 20, 30), (40, 50, 60)]
    image.save(path, transparency=transparency)
    assert [pixel(path, 0), pixel(path, 1)] == [(255, 255, 255), (40, 50, 60)]


def test_read_image__transparent_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (1, 2, 3))
    image.save(path, transparency=(9, 9, 9))
    assert [pixel(path, 0), pixel(path, 1)] == [(255, 255, 255), (1, 2, 3)]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_read_image__16_bit_grey(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY_16).save(path)
    assert np.asarray(read_image(path))[..., 1].tolist() == GREY_8


def test_read_image__16_bit_grey_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(GREY_16.astype(">u2").tobytes(), width=3, height=2, bands=1, order=">"))
    assert np.asarray(read_image(path))[..., 1].tolist() == GREY_8


@pytest.mark.parametrize("order", ["<", ">"])
def test_read_image__16_bit_rgb_tiff(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.tif"
    values = np.array([[[65535, 0, 32768]]], f"{order}u2")
    path.write_bytes(tiff(values.tobytes(), width=1, height=1, bands=3, order=order))
    assert pixel(path) == (255, 0, 128)


def test_read_image__16_bit_rgb_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(struct.pack(">B3H", 0, 65535, 0, 32768), width=1, height=1, depth=16, color_type=2))
    assert pixel(path) == (255, 0, 128)


def test_read_image__32_bits_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[70000]], np.int32)).save(path)
    with pytest.raises(DataError, match=r"a\.tif cannot be read: it has 32-bit or negative values"):
        read_image(path)
    Image.fromarray(np.array([[0.5]], np.float32)).save(path)
    with pytest.raises(DataError, match=r"a\.tif cannot be read: it has floating-point values"):
        read_image(path)


def test_read_image__cmyk(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(path)  # full cyan
    assert np.allclose(pixel(path), (0, 255, 255), atol=4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "size", "white"),
    [
        (1, (2, 4), (slice(None), 0)),
        (3, (2, 4), (slice(None), -1)),
        (6, (4, 2), (0, slice(None))),
        (8, (4, 2), (-1, slice(None))),
    ],
)
def test_read_image__exif_orientation(
    tmp_path: Path,
    suffix: str,
    orientation: int,
    size: tuple[int, int],
    white: tuple[slice | int, slice | int],
) -> None:
    path = rotated(tmp_path / f"a{suffix}", orientation)
    values = np.asarray(read_image(path)).mean(axis=2)
    assert image_size(path) == size == values.shape
    assert values[white].min() > 150 > values.mean()


def test_is_upright_jpeg__by_what_the_file_holds(tmp_path: Path) -> None:
    assert is_upright_jpeg(rotated(tmp_path / "upright.jpg", 1))
    assert not is_upright_jpeg(rotated(tmp_path / "turned.jpg", 3))
    Image.new("RGB", (5, 3)).save(tmp_path / "png.jpg", format="png")
    assert not is_upright_jpeg(tmp_path / "png.jpg")
    with pytest.raises(DataError, match="is missing"):
        is_upright_jpeg(tmp_path / "none.jpg")


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16), (np.uint16, 12)])
def test_read_image__tiff_whose_zero_is_white(tmp_path: Path, dtype: type[np.generic], bits: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.array([[0, 2**bits - 1]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    image = read_image(tmp_path / "a.tif", rule=PixelRule(bits=max(bits, 8)))
    assert np.asarray(image)[0, :, 0].tolist() == [255, 0]


def test_read_image__damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 3)).save(path, exif=b"Exif\0\0nonsense")
    assert image_size(path) == (3, 5)
    assert read_image(path).size == (5, 3)


def test_read_image__wrong_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (5, 3)).save(path, format="PNG")
    assert read_image(path).size == (5, 3)


def test_read_image__above_pillows_limit(tmp_path: Path) -> None:
    side = 14_000  # 196 million pixels, where Pillow's default raises; stored as 1 bit each
    path = tmp_path / "a.png"
    row = bytes(1 + side // 8)
    path.write_bytes(png(row * side, width=side, height=side, depth=1, color_type=0))
    assert image_size(path) == (side, side)


@pytest.mark.parametrize("read", [read_image, image_size, lambda path: MaskFile(path).read()])
def test_read_image__a_header_that_claims_too_many_pixels(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "a.bmp"
    Image.new("L", (29, 37)).save(path)
    content = bytearray(path.read_bytes())
    content[22:26] = (539_000_869).to_bytes(4, "little")  # the height
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.bmp .*29 x 539000869 pixels, too many for a file of \d+ bytes"):
        read(path)


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture without details, which looks alike at every size."""
    corners = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("width", "height"), [(797, 501), (640, 800), (513, 257)])
def test_read_image__at_least(tmp_path: Path, width: int, height: int, orientation: int) -> None:
    """A JPEG comes as small as its decoder can, and never with fewer pixels on its longer side than asked for."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    smooth(width, height).save(path, exif=exif)
    whole = read_image(path)
    longer = max(width, height)
    for factor in (8, 4, 2, 1):
        for at_least, expected in ((longer // factor, factor), (longer // factor + 1, factor // 2 or 1)):
            image = read_image(path, at_least=at_least)
            assert image.size == (-(-whole.width // expected), -(-whole.height // expected))
            assert max(image.size) >= min(at_least, longer)
            difference = np.asarray(image, int) - np.asarray(whole.resize(image.size, Image.Resampling.BOX), int)
            assert np.abs(difference).mean() < 5  # rounding up moves the far edge by up to 7/8 of a pixel


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_read_image__at_least_of_other_colours(tmp_path: Path, mode: str) -> None:
    smooth(160, 80, mode).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg", at_least=40)
    assert (image.mode, image.size) == ("RGB", (40, 20))


@pytest.mark.parametrize(("suffix", "at_least"), [(".jpg", 1000), (".jpg", 251), (".png", 10), (".tif", 10)])
def test_read_image__at_least_is_bit_for_bit_the_same(tmp_path: Path, suffix: str, at_least: int) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert read_image(path, at_least=at_least).tobytes() == read_image(path).tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((500, 375), 1000, (500, 375)),
        ((500, 375), 400, (500, 375)),  # larger by no more than is spared
        ((500, 375), 399, (399, 299)),
        ((375, 500), 90, (68, 90)),
        ((600, 90), 100, (100, 15)),
    ],
)
def test_read_reduced__size(
    tmp_path: Path, suffix: str, size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    path = tmp_path / f"a{suffix}"
    smooth(*size).save(path)
    image = read_reduced(path, side)
    assert image.size == expected
    whole = read_image(path)
    if whole.size == expected:
        assert image.tobytes() == whole.tobytes()
    difference = np.asarray(image, int) - np.asarray(whole.resize(expected, Image.Resampling.BOX), int)
    assert np.abs(difference).mean() < 3


def test_read_reduced__what_the_decoder_reduced_enough_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    smooth(1008, 756).save(path)
    assert read_reduced(path, 250).tobytes() == read_image(path, at_least=250).tobytes()
    assert read_reduced(path, 250).size == (252, 189)
    assert REDUCTION_TOLERANCE * 250 >= 252


@pytest.mark.parametrize("read", [read_image, image_size, shorter_side, lambda path: read_reduced(path, 10)])
def test_read_image__missing(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}/a.jpg is missing$"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [read_image, image_size, shorter_side])
@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"<html>", "is not a readable JPEG, PNG,")])
def test_read_image__no_picture(tmp_path: Path, read: Callable[[Path], object], content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.jpg {reason}"):
        read(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_read_image__truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=rf"a\{suffix} (cannot be read: .+|is not a readable .+)"):
        read_image(path)


def test_read_image__folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_mask_file__palette_gives_indices(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    indices = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.flatten().tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)
    with Image.open(path) as stored:
        assert stored.mode == "P"
    mask = MaskFile(path).read()
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, indices)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int32])
def test_mask_file__grey(tmp_path: Path, dtype: type[np.generic]) -> None:
    path = tmp_path / ("a.tif" if dtype is np.int32 else "a.png")
    Image.fromarray(np.array([[0, 1]], dtype)).save(path)
    assert MaskFile(path).read().tolist() == [[0, 1]]


def test_mask_file__few_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # two bits a pixel, as optimisers write them
    image = Image.new("P", (2, 1), 3)
    image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(path, bits=2)
    assert MaskFile(path).read().tolist() == [[3, 3]]


@pytest.mark.parametrize(("mode", "orientation", "upright"), [("L", 3, [[1], [0]]), ("P", 6, [[1, 0]])])
def test_mask_file__exif_orientation(tmp_path: Path, mode: str, orientation: int, upright: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    mask = Image.fromarray(np.array([[0], [1]], np.uint8))
    if mode == "P":
        mask.putpalette([0] * 768)
    mask.save(tmp_path / "a.png", exif=exif)
    assert MaskFile(tmp_path / "a.png").read().tolist() == upright


def test_mask_file__colours_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 1)).save(path)
    with pytest.raises(DataError, match=r"a\.png is an image of mode 'RGB': a mask must be a palette or grey PNG"):
        MaskFile(path).read()


def test_mask_file__large_values_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[300]], np.uint16)).save(path)
    with pytest.raises(DataError, match=r"a\.png has values from \d+ to 300: masks hold values from 0 to 255"):
        MaskFile(path).read()


def test_mask_file__missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is missing"):
        MaskFile(tmp_path / "a.png").read()


def test_mask_file__pickles(tmp_path: Path) -> None:
    mask = MaskFile(tmp_path / "a.png")
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert str(mask) == str(tmp_path / "a.png")


def test_find_images__nested_sorted_visible(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/deep/c.webp", "._a.png", ".cache/d.jpg", "notes.txt"):
        touch(tmp_path / name)
    for folder in ("@eaDir/a.png", "sub/@eaDir", "$RECYCLE.BIN", "__MACOSX/sub", ".ipynb_checkpoints", "#recycle"):
        touch(tmp_path / folder / "SYNOPHOTO_THUMB_M.jpg")
    assert find_images(tmp_path) == {name: tmp_path / name for name in ("a.png", "b.JPG", "sub/deep/c.webp")}


def test_find_images_and_unread__pictures_and_videos(tmp_path: Path) -> None:
    for name in ("b.HEIC", "a.png", "sub/c.gif", "sub/d.mp4", ".e.gif", "notes.txt", "gif"):
        touch(tmp_path / name)
    assert list(find_images_and_unread(tmp_path)[1]) == ["b.HEIC", "sub/c.gif", "sub/d.mp4"]


def test_read_image__kind_that_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    Image.new("L", (4, 4)).save(path)
    with pytest.raises(DataError, match=r"a\.gif is a kind of file that is not read: save as JPEG or PNG \(\.gif with"):
        read_image(path)


@pytest.mark.skipif(".avif" not in IMAGE_SUFFIXES, reason="Pillow was built without AVIF")
def test_read_image__avif_is_turned_upright(tmp_path: Path) -> None:
    path = rotated(tmp_path / "a.avif", 6, width=40, height=20)
    assert image_size(path) == (40, 20)
    assert pixel(path, 10, 0) > (200, 200, 200)
    assert pixel(path, 10, 39) < (50, 50, 50)


def test_find_images__links_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images")
    assert list(find_images(tmp_path / "images")) == ["linked/a.jpg"]


def test_find_images__unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none cannot be listed: No such file or directory"):
        find_images(tmp_path / "none")


def test_find_masks__by_id(tmp_path: Path) -> None:
    paths = [touch(tmp_path / name) for name in ("a.png", "sub/b.1.PNG", "c.jpg")]
    assert find_masks(tmp_path) == {"a": MaskFile(paths[0]), "sub/b.1": MaskFile(paths[1])}
    assert find_masks(tmp_path / "none") == {}


def test_image_id__keeps_inner_dots() -> None:
    assert image_id("sub/photo.1.jpg") == "sub/photo.1"


@pytest.mark.parametrize(
    ("path", "expected"), [("a/b.jpg", False), ("../a.jpg", True), ("a/../../b.jpg", True), ("/a.jpg", True)]
)
def test_escapes_folder__paths(path: str, expected: bool) -> None:
    assert escapes_folder(path) is expected


def png(rows: bytes, *, width: int, height: int, depth: int, color_type: int) -> bytes:
    """Return a PNG file; each row begins with its filter byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">2I5B", width, height, depth, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(values: bytes, *, width: int, height: int, bands: int, order: str, compression: int = 1) -> bytes:
    """Return a TIFF file of 16-bit values with bands side by side; compression 8 is zlib's."""
    values = zlib.compress(values) if compression == 8 else values
    start = 8  # of the values, behind the header
    bits = start + len(values)  # of one bit depth a band
    directory = bits + 2 * bands
    short, long = 3, 4
    tags = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, bands, bits if bands > 2 else 16 << (16 if order == ">" else 0)),
        (259, short, 1, compression << (16 if order == ">" else 0)),
        (262, short, 1, (2 if bands == 3 else 1) << (16 if order == ">" else 0)),
        (273, long, 1, start),
        (277, short, 1, bands << (16 if order == ">" else 0)),
        (278, long, 1, height),
        (279, long, 1, len(values)),
    ]
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    depths = struct.pack(f"{order}{bands}H", *[16] * bands)
    return header + values + depths + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def write_png_16(path: Path, values: NDArray[np.uint16], color_type: int) -> Path:
    """Write a PNG of 16 bits: values (h, w, bands)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(rows, width=width, height=height, depth=16, color_type=color_type))
    return path


def write_tiff_16(path: Path, values: NDArray[np.uint16], order: str, compression: int = 1) -> Path:
    stored, (height, width) = values.astype(f"{order}u2").tobytes(), values.shape[:2]
    path.write_bytes(tiff(stored, width=width, height=height, bands=3, order=order, compression=compression))
    return path


COLOURS_16 = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 4)).astype(np.uint16)
WRITERS: dict[str, Callable[[Path, NDArray[np.uint16]], Path]] = {
    "grey.png": lambda path, values: write_png_16(path, values[..., :1], 0),
    "rgb.png": lambda path, values: write_png_16(path, values[..., :3], 2),
    "grey_alpha.png": lambda path, values: write_png_16(path, opaque(values[..., [0, 3]]), 4),
    "rgba.png": lambda path, values: write_png_16(path, opaque(values), 6),
    "little.tif": lambda path, values: write_tiff_16(path, values[..., :3], "<"),
    "big.tif": lambda path, values: write_tiff_16(path, values[..., :3], ">"),
    "little_zlib.tif": lambda path, values: write_tiff_16(path, values[..., :3], "<", 8),
    "big_zlib.tif": lambda path, values: write_tiff_16(path, values[..., :3], ">", 8),
}


def opaque(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    values = values.copy()
    values[..., -1] = 0xFFFF
    return values


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_read_image__bits_of_16_bit_files(tmp_path: Path, name: str, bits: int) -> None:
    values = COLOURS_16 >> np.uint16(16 - bits)
    path = WRITERS[name](tmp_path / name, values)
    expected = (values >> (bits - 8))[..., :3] if "grey" not in name else (values >> (bits - 8))[..., [0, 0, 0]]
    np.testing.assert_array_equal(np.asarray(read_image(path, rule=PixelRule(bits=bits))), expected)


def test_read_image__more_bits_than_the_rule_says(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((2, 2), 4096, np.uint16)).save(path)
    with pytest.raises(DataError, match=r"a\.png cannot be read: it has the value 4096, but .* 12 bits \(up to 4095\)"):
        read_image(path, rule=PixelRule(bits=12))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bits", [10, 14])
def test_read_image__clips_what_has_more_bits(tmp_path: Path, name: str, bits: int) -> None:
    path = WRITERS[name](tmp_path / name, COLOURS_16)
    image = read_image(path, rule=PixelRule(bits=bits, clip=True))
    values = COLOURS_16[..., [0, 0, 0] if "grey" in name else [0, 1, 2]]
    np.testing.assert_array_equal(np.asarray(image), np.minimum(values, (1 << bits) - 1) >> (bits - 8))
    assert clipped_share(image) == pytest.approx((values >= 1 << bits).any(axis=2).mean())
    dark = read_image(
        WRITERS[name](tmp_path / f"dark_{name}", COLOURS_16 >> np.uint16(8)), rule=PixelRule(bits=bits, clip=True)
    )
    assert clipped_share(dark) == 0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_read_image__alpha_that_is_another_band(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGBA", (3, 3), (10, 200, 90, 128)).save(path, lossless=True)
    assert pixel(path) != (10, 200, 90)
    assert read_image(path, rule=PixelRule(alpha=False)).getpixel((0, 0)) == (10, 200, 90)


@pytest.mark.parametrize(
    ("extra", "expected"), [(None, (10, 200, 90)), (0, (10, 200, 90)), (2, (132, 228, 172)), (1, (137, 255, 217))]
)
def test_read_image__fourth_band_is_alpha_only_if_the_tiff_says_so(
    tmp_path: Path, extra: int | None, expected: tuple[int, ...]
) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGBA", (1, 1), (10, 200, 90, 128)).save(path)
    contents = path.read_bytes()
    place = contents.index(struct.pack("<HHI", 338, 3, 1))
    tag = (338, 3, 1, extra) if extra is not None else (339, 3, 1, 1)  # 339: values are whole numbers
    path.write_bytes(contents[:place] + struct.pack("<HHII", *tag) + contents[place + 12 :])
    assert np.allclose(pixel(path), expected, atol=2)
    assert read_image(path, rule=PixelRule(alpha=False)).getpixel((0, 0)) == (10, 200, 90)


@pytest.mark.parametrize("bands", [5, 8])
def test_read_image__tiff_of_many_bands(tmp_path: Path, bands: int) -> None:
    path = tmp_path / "a.tif"
    values = np.zeros((2, 2, bands), "<u2")
    path.write_bytes(tiff(values.tobytes(), width=2, height=2, bands=bands, order="<"))
    with pytest.raises(DataError, match=rf"a\.tif cannot be read: it has {bands} bands of uint16, but the"):
        read_image(path)


def test_read_image__png_with_long_text_and_profile(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("settings", "x" * 3_000_000, zip=True)
    for number in range(30):
        text.add_text(f"more {number}", "y" * 3_000_000, zip=True)
    Image.new("RGB", (5, 3), (1, 2, 3)).save(path, pnginfo=text, icc_profile=bytes(3_000_000))
    assert pixel(path) == (1, 2, 3)
    assert image_size(path) == (3, 5)


@pytest.mark.parametrize("progressive", [False, True])
def test_read_image__jpeg_without_its_end(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (61, 83, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, progressive=progressive)
    whole, contents = read_image(path), path.read_bytes()
    for missing in (1, 2):  # the end marker has two bytes
        path.write_bytes(contents[:-missing])
        assert read_image(path).tobytes() == whole.tobytes()
        assert read_image(path, at_least=20).size == (21, 16)
    for missing in (4, 12, 300, len(contents) // 2):
        path.write_bytes(contents[:-missing])
        with pytest.raises(DataError, match=r"a\.jpg cannot be read: image file is truncated"):
            read_image(path)


@pytest.mark.parametrize(("depth", "packed"), [(1, 0b01_000000), (2, 0b00_01_10_11), (4, 0x1F)])
def test_mask_file__values_of_few_bits_are_not_scaled(tmp_path: Path, depth: int, packed: int) -> None:
    path = tmp_path / "a.png"
    width = 8 // depth
    path.write_bytes(png(bytes([0, packed]), width=width, height=1, depth=depth, color_type=0))
    expected = {1: [0, 1, 0, 0, 0, 0, 0, 0], 2: [0, 1, 2, 3], 4: [1, 15]}[depth]
    assert MaskFile(path).read().tolist() == [expected]


def test_file_contents__pages(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for name in ("a.tif", "a.png", "a.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert file_contents(tmp_path / name).pages == 3
        assert pixel(tmp_path / name)[0] > 200
    pages[0].save(tmp_path / "one.tif")
    assert file_contents(tmp_path / "one.tif") == (1, 3, False)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_is_rotated(tmp_path: Path, suffix: str) -> None:
    for orientation, expected in ((1, False), (2, True), (6, True)):
        path = rotated(tmp_path / f"{orientation}{suffix}", orientation)
        assert is_rotated(path) is file_contents(path).rotated is expected


def test_file_contents__reduced_images_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    overview = Image.new("RGB", (4, 4))
    overview.encoderinfo = {"tiffinfo": tags}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", save_all=True, append_images=[overview])
    assert file_contents(tmp_path / "a.tif").pages == 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_read_image__damaged_tiff_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + b"\xff" * 20)
    with pytest.raises(DataError, match=r"a\.tif is not a readable JPEG, PNG"):
        read_image(path)


@pytest.mark.parametrize(
    ("image", "rule", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), AS_STORED, (7, 7, 7)),
        (np.full((2, 3, 3), (1, 2, 3), np.uint8), AS_STORED, (1, 2, 3)),
        (np.full((2, 3, 4), (1, 2, 3, 0), np.uint8), AS_STORED, (255, 255, 255)),
        (np.full((2, 3, 4), (1, 2, 3, 0), np.uint8), PixelRule(alpha=False), (1, 2, 3)),
        (np.full((2, 3), 4095, np.uint16), PixelRule(bits=12), (255, 255, 255)),
        (np.full((2, 3, 3), (0, 16, 9999), np.uint16), PixelRule(bits=12, clip=True), (0, 1, 255)),
        (Image.new("P", (3, 2)), AS_STORED, (0, 0, 0)),
        (Image.fromarray(np.full((2, 3), 512, np.uint16)), AS_STORED, (2, 2, 2)),
    ],
)
def test_as_pixels__is_like_a_file(image: Any, rule: PixelRule, expected: tuple[int, ...]) -> None:
    rgb = as_pixels(image, rule)
    assert isinstance(rgb, Image.Image)
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))
    assert rgb.getpixel((1, 1)) == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\) and type float64; give \(h, w\)"),
        (np.zeros((3, 5, 7), np.uint8), r"shape \(3, 5, 7\) and type uint8"),
        (np.zeros((0, 3, 3), np.uint8), r"shape \(0, 3, 3\)"),
        (np.full((2, 3), 4096, np.uint16), "it has the value 4096, but values of this data set have 12 bits"),
        (Image.new("F", (3, 2)), "it has floating-point values"),
        ([[0, 1], [2, 3]], "it is a list: give a path, a Pillow image or a NumPy array"),
    ],
)
def test_as_pixels__refuses_what_has_no_standard_conversion(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"the given image cannot be used: .*{message}"):
        as_pixels(image, PixelRule(bits=12))
