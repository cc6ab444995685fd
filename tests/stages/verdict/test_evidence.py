from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import Sample
from stages.labels.mask_shares import all_shares
from stages.relabel.rounds import Patches
from stages.verdict.evidence import area_under_curve, held_out


def sample(name: str, *classes: int) -> Sample:
    return Sample(id=name, image=Path(f"{name}.png"), classes=classes, mask=None)


@pytest.mark.parametrize(
    ("with_class", "without", "area"),
    [([3.0, 2.0], [1.0, 0.0], 1.0), ([0.0], [1.0, 2.0], 0.0), ([1.0], [1.0], 0.5), ([2.0, 0.0], [1.0], 0.5)],
)
def test_area_under_curve__by_hand(with_class: list[float], without: list[float], area: float) -> None:
    assert area_under_curve(torch.tensor(with_class), torch.tensor(without)) == pytest.approx(area)


def test_all_shares__ignored_pixels_count_for_no_class() -> None:
    shares = all_shares(np.array([[0, 1, 255, 255], [1, 1, 255, 2]], np.uint8), 2, (1, 2))
    torch.testing.assert_close(shares[:, 0], torch.tensor([[0.25, 0.0], [0.75, 0.0], [0.0, 0.25]]))


def test_held_out__masks_that_a_head_finds_again_and_masks_that_it_does_not() -> None:
    # Four images of two patches. The head takes the feature for the class; the second class's masks are wrong.
    features = torch.eye(3)[[0, 1, 0, 1, 0, 2, 0, 2]].half()
    labels = torch.tensor([0, 1, 0, 1, 2, 0, 2, 0])
    patches = Patches(
        features=features,
        mean=torch.zeros(3),
        deviation=torch.ones(3),
        shares=torch.eye(3)[labels].half(),
        image=torch.arange(4).repeat_interleave(2).int(),
        allowed=torch.tensor([[True, False], [True, False], [False, True], [False, True]]),
    )
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = 10 * torch.eye(3)
    images = [sample("a", 1), sample("b", 1), sample("c", 2), sample("d", 2)]
    found = held_out(images, patches, [(torch.arange(4), head)])
    assert found.repeated == {1: 1.0, 2: 0.0}
    assert found.told_apart == {1: 1.0, 2: 1.0}
    assert found.images == {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
