from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from data import palette
from data.palette import class_colours, colour_map, overlay, palette_image

ORANGE = (230, 159, 0)  # class 1
GREY = (100, 100, 100)

# Linear RGB -> linear RGB as people with the three kinds of full colour blindness see it: Machado, Oliveira and
# Fernandes, 'A Physiologically-based Model for Simulation of Color Vision Deficiency' (2009), severity 1.
COLOUR_BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
}


def grey_image(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def cie_lab(colours: NDArray[np.uint8], vision: str) -> NDArray[np.float64]:
    """CIE L*a*b* (D65) of sRGB colours; a distance of 2.3 is just noticeable."""
    scaled = colours / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(COLOUR_BLINDNESS[vision]).T).clip(0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt((seen @ to_xyz.T / [0.9505, 1.0, 1.089]).clip(0.008856)).T
    lab: NDArray[np.float64] = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return lab


@pytest.mark.parametrize("vision", COLOUR_BLINDNESS)
@pytest.mark.parametrize(("count", "distance"), [(7, 15), (21, 5)])
def test_class_colours__colour_blind_people_can_tell_them_apart(vision: str, count: int, distance: float) -> None:
    lab = cie_lab(class_colours(count), vision)
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)
    assert distances[np.triu_indices(count, 1)].min() > distance


def test_class_colours__do_not_depend_on_the_number_of_classes() -> None:
    assert class_colours(0).shape == (0, 3)
    np.testing.assert_array_equal(class_colours(254)[:30], class_colours(30))


def test_colour_map__background_is_black_ignored_white_and_no_colour_occurs_twice() -> None:
    colours = colour_map()
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    assert [colours[value].tolist() for value in (0, 1, 2, 255)] == [
        [0, 0, 0],
        list(ORANGE),
        [86, 180, 233],
        [255, 255, 255],
    ]
    assert len({tuple(colour) for colour in colours.tolist()}) == 256


def test_palette_image__keeps_all_numbers(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette_image(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.array(image), mask)
        assert image.convert("RGB").getpixel((1, 0)) == ORANGE


def test_overlay__colours_objects_and_leaves_background() -> None:
    result = np.array(overlay(grey_image(2, 1), np.array([[0, 1]], np.uint8), strength=0.5))
    assert result.tolist() == [[[100, 100, 100], [165, 129, 50]]]  # half grey, half orange


@pytest.mark.parametrize("pixels_at_a_time", [1, 48, 2**22])
def test_overlay__ignored_pixels_are_striped(pixels_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette, "OVERLAY_PIXELS_AT_A_TIME", pixels_at_a_time)
    mask = np.full((16, 16), 255, np.uint8)
    result = np.array(overlay(grey_image(16, 16), mask, strength=1.0))
    expected = [255 if (row + column) % 8 < 4 else 100 for row in range(16) for column in range(16)]
    assert result[..., 0].ravel().tolist() == expected


def legend_of(mask: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    """Draw an overlay, check the part above the legend, and return the legend."""
    height, width = mask.shape
    image = grey_image(width, height)
    result = np.array(overlay(image, mask, legend=names))
    np.testing.assert_array_equal(result[:height], np.array(overlay(image, mask)))
    assert result.shape[1] == width
    return result[height:]


def has_colour(picture: NDArray[np.uint8], colour: Any) -> bool:
    return bool((picture == np.array(colour)).all(axis=2).any())


def test_overlay__legend_shows_the_classes_that_are_present() -> None:
    mask = np.zeros((40, 300), np.uint8)
    mask[:10], mask[10:20] = 1, 3
    strip = legend_of(mask, ["scratch", "dent", "crack"])
    orange, sky_blue, green = class_colours(3)
    assert has_colour(strip, orange)
    assert has_colour(strip, green)
    assert not has_colour(strip, sky_blue)
    assert has_colour(strip, (0, 0, 0))  # the names


def test_overlay__legend_is_in_the_order_of_the_classes() -> None:
    mask = np.array([[2, 1, 255]] * 3, np.uint8).repeat(100, axis=1)
    strip = legend_of(mask, ["a", "b"])
    places = [np.argwhere((strip == colour).all(axis=2))[0, 1] for colour in class_colours(2)]
    assert places == sorted(places)


def test_overlay__no_legend_without_classes() -> None:
    assert len(legend_of(np.zeros((40, 300), np.uint8), ["scratch"])) == 0


def test_overlay__long_legends_wrap() -> None:
    mask = np.arange(1, 13, dtype=np.uint8)[None].repeat(20, axis=1)
    names = [f"name {number}" for number in range(12)]
    strip = legend_of(mask, names)
    assert len(strip) > 2 * len(legend_of(mask[:, :20], names))
    assert all(has_colour(strip, colour) for colour in class_colours(12))


def test_overlay__a_name_that_is_too_long_is_cut() -> None:
    mask = np.ones((40, 120), np.uint8)
    long = legend_of(mask, ["a name of far more letters than there is room for"])
    assert (long[:, -3:] == 255).all()  # a margin remains
    assert not np.array_equal(long, legend_of(mask, ["a name"]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (5, 16), (2, 40), (1, 5000)])
def test_overlay__legend_of_images_of_any_size(height: int, width: int) -> None:
    assert len(legend_of(np.full((height, width), 2, np.uint8), ["cat", "dog"])) > 0


@pytest.mark.parametrize("name", ["猫", "🐢", "cat 猫", "\udce4", "\0", "", " ", "قط\ufffe"])
def test_overlay__names_that_cannot_be_drawn_are_replaced_by_the_number(name: str) -> None:
    mask = np.ones((40, 200), np.uint8)
    np.testing.assert_array_equal(legend_of(mask, [name]), legend_of(mask, ["class 1"]))


@pytest.mark.parametrize("name", ["Bär", "çà", "кот", "γάτα"])
def test_overlay__names_in_latin_greek_and_cyrillic_letters_are_drawn(name: str) -> None:
    mask = np.ones((40, 200), np.uint8)
    assert not np.array_equal(legend_of(mask, [name]), legend_of(mask, ["class 1"]))


def test_overlay__legend_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("cannot open resource")

    mask = np.ones((40, 200), np.uint8)
    loaded = ImageFont.load_default(11)  # before truetype is replaced, which it calls
    monkeypatch.setattr(ImageFont, "load_default", lambda size: loaded)
    monkeypatch.setattr(ImageFont, "truetype", refuse)
    assert has_colour(legend_of(mask, ["cat"]), ORANGE)
    np.testing.assert_array_equal(legend_of(mask, ["Bär"]), legend_of(mask, ["class 1"]))
