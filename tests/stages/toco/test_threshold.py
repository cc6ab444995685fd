import pytest
import torch

from stages.toco.metrics import Confusion
from stages.toco.threshold import GRID, agreement, labels_at


def test_grid__ascends_within_0_and_1() -> None:
    assert list(GRID) == sorted(set(GRID))
    assert 0 < GRID[0] < GRID[-1] < 1


def test_labels_at__above_the_score_alone() -> None:
    scores = torch.tensor([[[0.5, 0.6, 0.1]], [[0.2, 0.7, 0.4]]])
    assert labels_at(scores, 0.5).tolist() == [[0, 2, 0]]
    assert labels_at(scores, 0.1).tolist() == [[1, 2, 2]]
    assert labels_at(torch.zeros(0, 2, 3), 0.5).tolist() == [[0] * 3] * 2


def test_agreement__of_two_label_maps_by_hand() -> None:
    confusion = Confusion(4)
    confusion.add(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 2]]))
    # 0: 1 of 2; 1: 1 of 3; 2: 0 of 1; 3 is in neither.
    assert agreement(confusion) == pytest.approx((1 / 2 + 1 / 3 + 0 + 0) / 4)
