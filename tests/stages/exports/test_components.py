import numpy as np

from stages.exports.components import components


def test_components__patches_of_each_class() -> None:
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
        (2, 0, 0, [[False, True, True], [True, False, False]], 3),  # which touch at a corner
    ]


def test_components__of_nothing() -> None:
    assert list(components(np.zeros((3, 3), np.uint8))) == []
    assert list(components(np.full((3, 3), 255, np.uint8))) == []


def test_components__a_patch_in_a_hole_is_not_in_the_cut_out_around_it() -> None:
    mask = np.ones((5, 5), np.uint8)
    mask[1:4, 1:4] = 0
    mask[2, 2] = 1
    outer, inner = components(mask)
    assert (outer.area, inner.area) == (16, 1)
    assert not outer.pixels[2, 2]
