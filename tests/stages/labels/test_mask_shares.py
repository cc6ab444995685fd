import pytest
import torch

from stages.labels.mask_shares import balancing_weights


def test_balancing_weights__fall_with_the_root_of_a_class_s_part() -> None:
    found = balancing_weights(torch.tensor([25.0, 75.0, 0.0]))
    assert found.tolist() == pytest.approx([2.0, (4 / 3) ** 0.5, 10.0])  # a class without patches counts as one patch
