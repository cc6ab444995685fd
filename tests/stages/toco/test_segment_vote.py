import numpy as np
import pytest
import torch
from torch import Tensor

from stages.toco.segment_vote import Segments, vote

HALF = 0.5  # the background's score in all pixels


def planes(*scores: float) -> Tensor:
    """Background and one class in a row of pixels."""
    return torch.tensor([[[HALF] * len(scores)], [list(scores)]])


def segments(*pixels: list[int]) -> Segments:
    return Segments.of([np.array(one, np.int64) for one in pixels])


def labels(scores: Tensor, *pixels: list[int]) -> str:
    return "".join(map(str, vote(scores, segments(*pixels)).argmax(dim=0).flatten().tolist()))


def test_vote__a_segment_gives_its_pixels_their_mean_score() -> None:
    scores = planes(0.9, 0.8, 0.4, 0.9, 0.1, 0.2, 0.1)
    voted = vote(scores, segments([0, 1, 2], [4, 5, 6]))
    torch.testing.assert_close(voted[1, 0], torch.tensor([0.7, 0.7, 0.7, 0.9, 0.4 / 3, 0.4 / 3, 0.4 / 3]))
    assert torch.all(voted[0] == HALF)
    assert labels(scores, [0, 1, 2], [4, 5, 6]) == "1111000"


def test_vote__by_the_mean_and_not_by_the_count_of_labels() -> None:
    assert labels(planes(0.6, 0.6, 0.4, 0.9, 0.1, 0.1), [0, 1, 2]) == "111100"
    assert (
        labels(planes(0.6, 0.6, 0.1, 0.9, 0.9, 0.9), [0, 1, 2]) == "000111"
    )  # one sure pixel outvotes two unsure ones


def test_vote__equal_scores_are_background_as_without_segments() -> None:
    assert labels(planes(0.75, 0.25, 0.9, 0.9), [0, 1]) == "0011"


@pytest.mark.parametrize("area", [8, 100, 10_000])
def test_vote__a_huge_segment_does_not_swallow_the_only_object(area: int) -> None:
    scores = planes(0.9, 0.9, *[0.1] * area)
    whole = list(range(area + 2))
    assert labels(scores, whole) == "11" + "0" * area  # it holds all pixels of the object: no vote
    assert labels(scores, whole, [0, 1]) == "11" + "0" * area


def test_vote__a_segment_of_mostly_background_does_not_erase_a_class() -> None:
    scores = planes(0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert labels(scores, [0, 1, 2, 3, 4, 5]) == "110000000"  # a bird in the sky
    assert labels(torch.cat([scores, scores], dim=2), [0, 1, 2, 3, 4]) == "000000000" + "110000000"  # one of two specks


def test_vote__small_segments_weigh_more() -> None:
    scores = planes(0.9, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9)
    voted = vote(scores, segments([0], [0, 1, 2, 3]))[1, 0]
    small, large = 1.0, 0.5  # 1 / sqrt(area)
    torch.testing.assert_close(voted[0].item(), (0.9 * small + 0.45 * large) / 1.5, rtol=1e-6, atol=0)
    torch.testing.assert_close(voted[1].item(), 0.45, rtol=1e-6, atol=0)


def test_vote__its_weight_mixes_it_with_the_own_scores() -> None:
    scores = planes(0.9, 0.4, 0.1, 0.1, 0.9)
    voted = vote(scores, segments([0, 1]), weight=0.25)[1, 0]
    torch.testing.assert_close(voted, torch.tensor([0.8375, 0.4625, 0.1, 0.1, 0.9]))  # the mean of 0.9 and 0.4 is 0.65


def test_vote__without_segments_nothing_changes() -> None:
    scores = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vote(scores, segments()), scores)


def test_vote__properties_of_random_segments() -> None:
    generator = np.random.default_rng(0)
    for labels_of_image in (1, 2, 5):
        given = generator.random((labels_of_image, 12, 9))
        scores = torch.from_numpy(given / given.sum(axis=0)).float()
        before = scores.clone()
        made = segments(*(sorted(generator.choice(108, size, replace=False)) for size in (1, 5, 20, 60, 108)))
        voted = vote(scores, made)
        assert torch.equal(scores, before)
        assert voted.dtype == torch.float32
        torch.testing.assert_close(voted.sum(dim=0), torch.ones(12, 9))  # probabilities stay probabilities
        assert voted.min() >= scores.min() - 1e-6
        assert voted.max() <= scores.max() + 1e-6
