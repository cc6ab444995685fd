import numpy as np

from stages.exports.classes import present_classes


def test_present_classes__neither_background_nor_ignored() -> None:
    assert present_classes(np.array([[0, 255, 3], [1, 3, 254]], np.uint8)) == [1, 3, 254]
    assert present_classes(np.array([[0, 255]], np.uint8)) == []
