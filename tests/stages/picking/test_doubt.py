import pytest
import torch

from stages.picking.doubt import Doubt, contradiction, ranks, unsureness


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([[[0.5]]], 0.5, 1.0),  # at the threshold
        ([[[1.0]]], 0.5, 0.5),
        ([[[0.0, 0.5]]], 0.5, 0.75),  # mean of two places
        ([[[0.5]]], None, 1.0),  # a probability: the background has the other half
        ([[[1.0]]], None, 0.0),
        ([[[0.4]], [[0.6]]], None, 0.8),  # two classes
        ([[[0.9]], [[0.8]]], 0.5, 0.9),
    ],
)
def test_unsureness(scores: list[list[list[float]]], threshold: float | None, expected: float) -> None:
    found = torch.tensor(scores)
    assert unsureness(found, threshold, torch.ones(found.shape[1:]).bool()) == pytest.approx(expected)


def test_unsureness__image_without_classes() -> None:
    assert unsureness(torch.zeros(0, 3, 4), 0.5, torch.ones(3, 4).bool()) == 0


def test_unsureness__places_without_a_value_do_not_count() -> None:
    scores = torch.tensor([[[1.0, 0.5, 0.5]]])
    assert unsureness(scores, None, torch.tensor([[True, False, False]])) == 0
    assert unsureness(scores, None, torch.tensor([[True, True, False]])) == 0.5
    assert unsureness(scores, None, torch.zeros(1, 3).bool()) == 0


@pytest.mark.parametrize(
    ("mask", "label", "expected"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0], 0.0),
        ([0, 1, 1, 0], [0, 0, 1, 1], 2 / 3),
        ([0, 1, 1, 0], [0, 2, 2, 0], 1.0),  # another class
        ([255, 1, 1, 0], [1, 1, 1, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
    ],
)
def test_contradiction(mask: list[int], label: list[int], expected: float) -> None:
    assert contradiction(torch.tensor([mask]), torch.tensor([label]), 255) == pytest.approx(expected)


def test_ranks__ties_share_a_rank() -> None:
    assert ranks([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    assert ranks([5.0, 5.0, 5.0]) == [0.5, 0.5, 0.5]
    assert ranks([2.0]) == [0.5]
    assert ranks([2.0, 7.0, 2.0]) == [0.25, 1.0, 0.25]
    assert sum(ranks([0.5] * 200_000)) == 100_000  # of a large data set, without all pairs


def test_doubt__reasons() -> None:
    doubt = Doubt(unsure=0.421, contradicted=0.75, missing=0.5)
    assert doubt.reasons(["cat"]) == "no cat in its mask, mask and CAM overlap by 25%, unsure 0.42"
    assert Doubt(unsure=0.1, contradicted=0.2, missing=0.0).reasons() == "unsure 0.10"
