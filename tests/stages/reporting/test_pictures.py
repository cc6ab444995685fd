import numpy as np
from PIL import Image

from stages.reporting.pictures import coloured, heat


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
