from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.dataset import Sample
from stages.config import MakeLabels
from stages.labels.label_settings import resolved
from stages.labels.pixel_labels import at_image_size, pixel_labels, with_class_numbers
from stages.toco.segment_vote import Segments

CONFIG = MakeLabels(
    device="cpu", background_threshold=0.5, high_threshold=0.7, low_threshold=0.25, crf_backend="torch", confidence=True
)
GREY = torch.zeros(3, 2, 4, dtype=torch.uint8)  # an image of 2 x 4 pixels


def rows(mask: Any) -> list[str]:
    return ["".join("?" if label == 255 else str(label) for label in row) for row in mask]


def test_at_image_size__by_hand() -> None:
    maps = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    resized = at_image_size(maps, (2, 4))
    assert resized.dtype == torch.float16
    assert resized.tolist() == [[[0, 0.25, 0.75, 1]] * 2, [[1, 0.75, 0.25, 0]] * 2]


def test_at_image_size__rounds_before_any_threshold() -> None:
    assert at_image_size(torch.full((1, 2, 2), 0.50001), (1, 3)).tolist() == [[[0.5] * 3]]


def test_at_image_size__no_classes() -> None:
    assert at_image_size(torch.zeros(0, 5, 5), (2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("changes", "mask", "confidence"),
    [
        # Scores of the two classes: 0, 1/4, 3/4, 1 and 0.6 everywhere. Confidence in 255ths.
        ({}, "2211", [51, 51, 128, 255]),  # (score - 0.5) / 0.5
        ({"background_threshold": 0.8}, "0001", [64, 64, 16, 255]),  # (0.8 - score) / 0.8, (score - 0.8) / 0.2
        ({"ignore_uncertain": True}, "??11", [0, 0, 191, 255]),  # the score
        ({"ignore_uncertain": True, "low_threshold": 0.65}, "0011", [102, 102, 191, 255]),  # 1 - score
        # For probabilities of the decoder, background has what they lack to 1.
        ({"source": "decoder", "background_threshold": None}, "2211", [153, 153, 191, 255]),
    ],
)
def test_pixel_labels__by_hand(changes: dict[str, Any], mask: str, confidence: list[int]) -> None:
    maps = torch.tensor([[[0.0, 1.0]], [[0.6, 0.6]]])
    given = changes.get("source") == "decoder"
    (made,) = pixel_labels([maps], [GREY], replace(CONFIG, **changes), probabilities_given=given)
    assert rows(made.mask) == [mask] * 2
    assert made.confidence is not None
    np.testing.assert_allclose(made.confidence, [confidence] * 2, atol=1)


def test_pixel_labels__decoder_background_by_hand() -> None:
    config = replace(CONFIG, source="decoder", background_threshold=None)
    (made,) = pixel_labels([torch.tensor([[[0.2, 0.6]]])], [GREY[:, :1, :2]], config, probabilities_given=True)
    assert made.mask.tolist() == [[0, 1]]


def test_pixel_labels__no_confidence_unless_asked_for() -> None:
    (made,) = pixel_labels([torch.ones(1, 2, 2)], [GREY], replace(CONFIG, confidence=False))
    assert made.confidence is None


def square_with_a_blurred_cam() -> tuple[Tensor, Tensor]:
    """An image of 32 x 32 with a red square on blue, and a CAM of 8 x 8 that is blurred and two pixels off."""
    image = torch.tensor([30, 60, 200], dtype=torch.uint8)[:, None, None].repeat(1, 32, 32)
    image[:, 8:24, 8:24] = torch.tensor([200, 40, 30], dtype=torch.uint8)[:, None, None]
    steps = torch.arange(8)
    distance = torch.maximum((steps - 3).abs()[:, None], (steps - 3).abs()[None])
    return image, (1.1 - 0.25 * distance).clamp(0, 1)[None]


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
@pytest.mark.parametrize("refine", ["crf", "par", "par+crf"])
def test_pixel_labels__refined_masks_follow_the_edges(refine: Any, backend: Any) -> None:
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    image, cam = square_with_a_blurred_cam()
    square = np.zeros((32, 32), np.uint8)
    square[8:24, 8:24] = 1
    config = replace(CONFIG, high_threshold=0.5, low_threshold=0.4)
    (plain,) = pixel_labels([cam], [image], config)
    (refined,) = pixel_labels([cam], [image], replace(config, refine=refine, crf_backend=backend))
    assert (plain.mask != square).sum() > 100
    np.testing.assert_array_equal(refined.mask, square)


@pytest.mark.parametrize("refine", ["none", "par", "crf", "par+crf"])
def test_pixel_labels__images_of_a_batch_keep_their_places(refine: Any) -> None:
    image, cam = square_with_a_blurred_cam()
    maps = [cam, torch.zeros(0, 4, 4), cam.flip(-1)[:, :, 1:]]
    images = [image, GREY, image.flip(-1)[:, :16]]
    config = replace(CONFIG, refine=refine)
    together = pixel_labels(maps, images, config)
    assert [one.mask.shape for one in together] == [(32, 32), (2, 4), (16, 32)]
    for one, own, of in zip(together, maps, images, strict=True):
        (alone,) = pixel_labels([own], [of], config)
        assert (one.mask == alone.mask).mean() > 0.98  # the CRF of several images rounds differently


@pytest.mark.parametrize(
    "changes", [{"ignore_uncertain": True}, {"refine": "crf"}, {"refine": "par+crf"}, {"source": "decoder"}, {}]
)
def test_pixel_labels__without_classes_all_is_background(changes: dict[str, Any]) -> None:
    (empty,) = pixel_labels([torch.zeros(0, 3, 3)], [GREY], replace(CONFIG, background_threshold=None, **changes))
    assert empty.mask.tolist() == [[0] * 4] * 2
    assert empty.confidence is not None
    assert empty.confidence.tolist() == [[255] * 4] * 2


@pytest.mark.parametrize(
    ("classes", "labelled", "numbers"),
    [
        ((3, 7), True, [0, 3, 7, 255]),
        ((3, 7), False, [0, 3, 7, 255]),  # predicted
        ((), True, [0, 0, 0, 255]),
        ((), False, [255, 255, 255, 255]),  # nothing was found, but nothing is known either
    ],
)
def test_with_class_numbers__by_hand(classes: tuple[int, ...], labelled: bool, numbers: Sequence[int]) -> None:
    sample = Sample(id="a", image=Path("a.jpg"), classes=classes, mask=None, labelled=labelled)
    labels = [0, 1, 2, 255] if classes else [0, 0, 0, 255]
    assert with_class_numbers(np.array([labels], np.uint8), sample).tolist() == [list(numbers)]


@pytest.mark.parametrize(
    ("asked", "background", "bounds"),
    [
        ({}, None, (0.5, 0.7, 0.25)),  # as in training
        ({"background_threshold": 0.5}, None, (0.5, 0.7, 0.25)),
        ({"background_threshold": 0.2}, None, (0.2, 0.28, 0.1)),
        ({"background_threshold": "auto"}, 0.3, (0.3, 0.42, 0.15)),
        ({"background_threshold": 0.8}, None, (0.8, 0.95, 0.4)),
        ({"background_threshold": 0.2, "high_threshold": 0.6, "low_threshold": 0.05}, None, (0.2, 0.6, 0.05)),
    ],
)
def test_resolved__high_and_low_go_with_the_score(
    asked: dict[str, Any], background: float | None, bounds: tuple[float, float, float]
) -> None:
    trained = {"background_threshold": 0.5, "high_threshold": 0.7, "low_threshold": 0.25}
    config = resolved(MakeLabels(**asked), trained, background)
    assert (config.background_threshold, config.high_threshold, config.low_threshold) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The scores are 0, 1/4, 3/4, 1. The segments are the left pixel, and the others with a mean of 2/3.
        ({}, "0111"),
        ({"background_threshold": 0.7}, "0011"),  # the segment would erase the only objects, so it does not vote
        ({"ignore_uncertain": True}, "0???"),  # 2/3 is between the thresholds 0.25 and 0.7
        ({"ignore_uncertain": True, "high_threshold": 0.6}, "0111"),
        ({"segment_weight": 0.0}, "0011"),
        ({"source": "decoder", "background_threshold": None}, "0111"),
    ],
)
def test_pixel_labels__segments_vote_before_thresholds(changes: dict[str, Any], expected: str) -> None:
    segments = Segments.of([np.array([0, 4]), np.array([1, 2, 3, 5, 6, 7])])
    given = changes.get("source") == "decoder"
    (made,) = pixel_labels(
        [torch.tensor([[[0.0, 1.0]]])],
        [GREY],
        replace(CONFIG, segments="slic", **{"segment_weight": 1.0, **changes}),
        probabilities_given=given,
        segments=[segments],
    )
    assert rows(made.mask) == [expected] * 2
