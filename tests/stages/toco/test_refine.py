import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.crf import FOR_PSEUDO_LABELS, CrfBackend, sharpen
from stages.toco.par import refined_labels
from stages.toco.refine import (
    against_backgrounds,
    average_with_par,
    by_threshold,
    by_two_thresholds,
    most_likely,
    with_background,
)


def two_halves() -> Tensor:
    image = torch.full((3, 16, 24), 40, dtype=torch.uint8)
    image[..., 12:] = 200
    return image


@pytest.fixture(params=["torch", "pydensecrf"])
def backend(request: pytest.FixtureRequest) -> CrfBackend:
    if request.param == "pydensecrf":
        pytest.importorskip("pydensecrf")
        return "pydensecrf"
    return "torch"


def test_against_backgrounds__is_the_softmax_with_a_plane() -> None:
    cam = torch.tensor([0.9, 0.1]).reshape(2, 1, 1)
    result = against_backgrounds(cam, (0.7, 0.25))
    expected = torch.stack([torch.tensor([0.7, 0.9, 0.1]).softmax(0), torch.tensor([0.25, 0.9, 0.1]).softmax(0)])
    torch.testing.assert_close(result[..., 0, 0], expected)


def test_with_background__is_one_minus_the_classes() -> None:
    probabilities = torch.tensor([[0.2, 0.7], [0.3, 0.4]]).reshape(2, 1, 2)
    expected = torch.tensor([[0.5, 0.0], [0.2, 0.7], [0.3, 0.4]]).reshape(1, 3, 1, 2)
    torch.testing.assert_close(with_background(probabilities), expected)


def test_most_likely__two_backgrounds_are_combined() -> None:
    high = torch.tensor([[0.6, 0.6, 0.2], [0.4, 0.4, 0.8]])
    low = torch.tensor([[0.7, 0.3, 0.1], [0.3, 0.7, 0.9]])
    label, confidence = most_likely(torch.stack([high, low])[:, :, None])
    assert label.tolist() == [[0, 255, 1]]
    torch.testing.assert_close(confidence, torch.tensor([[0.65, 0.0, 0.85]]))
    alone = most_likely(low[None, :, None])
    assert alone.label.tolist() == [[0, 1, 1]]
    torch.testing.assert_close(alone.confidence, torch.tensor([[0.7, 0.7, 0.9]]))


def test_by_threshold__label_and_confidence() -> None:
    cam = torch.tensor([[0.0, 0.5, 0.75, 1.0], [0.0, 0.1, 0.0, 0.2]])[:, None]
    label, confidence = by_threshold(cam, 0.5)
    assert label.tolist() == [[0, 0, 1, 1]]
    torch.testing.assert_close(confidence, torch.tensor([[1.0, 0.0, 0.5, 1.0]]))
    for extreme in (0.0, 1.0):
        assert by_threshold(cam, extreme).confidence.isfinite().all()


def test_by_two_thresholds__label_and_confidence() -> None:
    cam = torch.tensor([[0.2, 0.5, 0.8]])[:, None]
    label, confidence = by_two_thresholds(cam, high=0.7, low=0.25)
    assert label.tolist() == [[0, 255, 1]]
    torch.testing.assert_close(confidence, torch.tensor([[0.8, 0.0, 0.8]]))


def test_crf_against_two_backgrounds(backend: CrfBackend) -> None:
    cam = torch.zeros(2, 16, 24)
    cam[0, :, :12] = 0.95  # a high score on an object of one colour

    def labelled(cam: Tensor, high: float = 0.7, low: float = 0.25) -> Tensor:
        unaries = against_backgrounds(cam, (high, low))
        return most_likely(sharpen([two_halves()], [unaries], FOR_PSEUDO_LABELS, backend)[0]).label

    assert (labelled(cam)[:, :12] == 1).all()
    assert (labelled(cam)[:, 12:] == 0).all()
    assert (labelled(cam / 2)[:, :12] == 255).all()  # above the low background, below the high one
    assert (labelled(cam / 2)[:, 12:] == 0).all()
    assert (labelled(cam / 2, high=0.4, low=0.1)[:, :12] == 1).all()


def test_average_with_par__gives_the_labels_of_training() -> None:
    generator = torch.Generator().manual_seed(0)
    cam = F.interpolate(torch.rand(1, 2, 4, 4, generator=generator), size=(32, 40), mode="bilinear")[0]
    image = torch.randint(0, 256, (3, 32, 40), generator=generator).byte()
    label = most_likely(average_with_par(against_backgrounds(cam, (0.7, 0.25)), image)).label
    expected = refined_labels(cam[None], image[None].float(), torch.ones(1, 2))[0]
    # Here maps are resized after the softmax, in training before: a few pixels between two labels differ.
    assert (label == expected).double().mean() > 0.97
    assert len(set(expected.flatten().tolist())) > 2
