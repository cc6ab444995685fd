import numpy as np

from stages.exports.components import components


def test_components__sorted_by_class_with_bounding_boxes() -> None:
    mask = np.array(
        [
            [0, 2, 2, 255, 1],
            [2, 0, 0, 255, 1],
            [0, 0, 1, 0, 0],
        ],
        np.uint8,
    )
    found = [(one.class_number, one.top, one.left, one.pixels.tolist(), one.area) for one in components(mask)]
    assert found == [
        (1, 0, 4, [[True], [True]], 2),
        (1, 2, 2, [[True]], 1),
        (2, 0, 0, [[False, True, True], [True, False, False]], 3),  # pixels that touch at a corner
    ]


def test_components__background_and_ignored_pixels_have_none() -> None:
    assert list(components(np.zeros((3, 3), np.uint8))) == []
    assert list(components(np.full((3, 3), 255, np.uint8))) == []


def test_components__a_component_in_a_hole_is_not_part_of_the_one_around_it() -> None:
    mask = np.ones((5, 5), np.uint8)
    mask[1:4, 1:4] = 0
    mask[2, 2] = 1
    outer, inner = components(mask)
    assert (outer.area, inner.area) == (16, 1)
    assert not outer.pixels[2, 2]
