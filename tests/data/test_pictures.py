import numpy as np
from PIL import Image

from data.palette import class_colours
from data.pictures import CELL, GAP, TITLE, coloured, contact_sheet, heat


def test_coloured__background_stays_grey_and_ignored_pixels_are_striped() -> None:
    image = Image.new("RGB", (16, 16), (100, 100, 100))
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[0, 0], mask[8:] = 1, 255
    picture = np.asarray(coloured(image, mask, np.array([[200, 0, 0]], dtype=np.uint8)))
    assert picture[0, 0].tolist() == [165, 35, 35]  # 0.35 x 100 + 0.65 x the class's colour
    assert picture[1, 1].tolist() == [100, 100, 100]
    assert {tuple(pixel) for pixel in picture[8:].reshape(-1, 3).tolist()} == {(100, 100, 100), (201, 201, 201)}


def test_heat__high_scores_are_brighter() -> None:
    picture = np.asarray(heat(Image.new("RGB", (2, 1), "black"), np.array([[0.0, 1.0]], dtype=np.float32)))
    assert picture[0, 1].sum() > picture[0, 0].sum() + 200


def test_contact_sheet__rows_gaps_and_legend() -> None:
    def picture(colour: str) -> Image.Image:
        return Image.new("RGB", (CELL, CELL // 2), colour)

    rows: dict[str, list[Image.Image | None]] = {
        "image": [picture("red"), picture("lime")],
        "truth": [None, picture("blue")],
        "nothing": [None, None],
    }
    sheet = contact_sheet(rows, [2], ["cat", "dog"])
    pixels = np.asarray(sheet)
    left, right = GAP + CELL // 2, 2 * GAP + CELL + CELL // 2
    first = TITLE + 2 * GAP + CELL // 2
    second = first + TITLE + 2 * GAP + CELL
    assert pixels[first, left].tolist() == [255, 0, 0]
    assert pixels[first, right].tolist() == [0, 255, 0]
    assert pixels[second, left].tolist() == [255, 255, 255]
    assert pixels[second, right].tolist() == [0, 0, 255]
    below = {tuple(pixel) for pixel in pixels[2 * (TITLE + 2 * GAP + CELL) :].reshape(-1, 3).tolist()}
    colours = [tuple(colour) for colour in class_colours(2).tolist()]
    assert colours[1] in below
    assert colours[0] not in below
    assert contact_sheet({"image": [picture("red")]}, [], ["cat"]).height < sheet.height


def test_contact_sheet__without_pictures() -> None:
    assert contact_sheet({}, [], ["cat"]).width == 2 * GAP + CELL
