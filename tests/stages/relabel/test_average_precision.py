import math

import pytest
import torch

from stages.relabel.average_precision import mean_average_precision


def test_mean_average_precision__by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5], [0.6, 0.4, 0.5]])
    present = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1]]).bool()
    # Class 1: right at ranks 1 and 3; class 2: at rank 3 of the reverse order; class 3 is in all images.
    assert mean_average_precision(scores, present) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)
    assert math.isnan(mean_average_precision(scores[:, 2:], present[:, 2:]))
