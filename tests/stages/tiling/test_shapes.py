import numpy as np
import pytest

from stages.tiling.shapes import Box, Ring, Shape, ring_area


def ring(*points: tuple[float, float]) -> Ring:
    return np.array(points, dtype=np.float64)


SQUARE = ring((0, 0), (10, 0), (10, 10), (0, 10))
TRIANGLE = ring((0, 0), (10, 0), (0, 10))
U_SHAPE = ring((0, 0), (9, 0), (9, 9), (6, 9), (6, 3), (3, 3), (3, 9), (0, 9))


@pytest.mark.parametrize(
    ("points", "box", "area"),
    [
        (SQUARE, None, 100),
        (SQUARE[::-1], None, 100),  # the other direction
        (SQUARE, Box(5, 5, 20, 20), 25),
        (SQUARE, Box(20, 0, 30, 10), 0),
        (SQUARE, Box(-5, -5, 50, 50), 100),
        (SQUARE, Box(10, 0, 20, 10), 0),  # touches
        (TRIANGLE, Box(0, 0, 5, 5), 25),
        (TRIANGLE, Box(5, 0, 10, 10), 12.5),
        (U_SHAPE, Box(0, 5, 9, 9), 24),  # two separate legs of 3 x 4
        (U_SHAPE, Box(4, 5, 5, 9), 0),  # between the legs
        (SQUARE + 1e7, Box(1e7 + 9, 1e7, 1e7 + 20, 1e7 + 20), 10),
    ],
)
def test_ring_area__by_hand(points: Ring, box: Box | None, area: float) -> None:
    assert ring_area(points, box) == pytest.approx(area)


def test_ring_area__of_random_polygons_in_boxes_that_cover_them_adds_up() -> None:
    random = np.random.default_rng(0)
    for _ in range(8):
        angles = np.sort(random.uniform(0, 2 * np.pi, 12))
        radius = random.uniform(1, 20, 12)  # star-shaped, so that it does not cross itself
        points = 20 + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
        parts = [ring_area(points, Box(x, y, x + 8, y + 8)) for x in range(0, 40, 8) for y in range(0, 40, 8)]
        assert sum(parts) == pytest.approx(ring_area(points))


def test_shape__a_hole_has_no_area() -> None:
    shape = Shape((SQUARE, ring((2, 2), (4, 2), (4, 4), (2, 4))))
    assert shape.area() == 96
    assert shape.area(Box(0, 0, 5, 5)) == 21
    assert shape.share_in(Box(0, 0, 5, 5)) == pytest.approx(21 / 96)
    assert shape.bounds() == (0, 0, 10, 10)


def test_shape__points_lie_in_one_of_two_neighbouring_boxes() -> None:
    point = Shape((ring((8, 3)),))
    assert [point.share_in(Box(left, 0, left + 8, 8)) for left in (0, 8, 16)] == [0, 1, 0]
