from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stages.toco.metrics import Confusion, Scores

Golden = Callable[[str], dict[str, Any]]
AssertGolden = Callable[..., None]


def measure(num_classes: int, prediction: Any, truth: Any) -> Scores:
    confusion = Confusion(num_classes)
    confusion.add(torch.as_tensor(prediction), torch.as_tensor(truth))
    return confusion.scores()


def test_confusion__golden(golden: Golden, assert_golden: AssertGolden) -> None:
    arrays = golden("miou")
    confusion = Confusion(arrays["num_classes"])
    for prediction, truth in zip(arrays["prediction"], arrays["truth"], strict=True):
        confusion.add(prediction, truth)
    scores = confusion.scores()
    assert_golden(scores.miou, arrays["miou"])
    assert_golden(scores.pixel_accuracy, arrays["pixel_accuracy"])
    occurs = torch.bincount(arrays["truth"].flatten().long())[: len(scores.iou)] > 0
    occurs = torch.nn.functional.pad(occurs, (0, len(scores.iou) - len(occurs)))
    # For a class without ground truth the published program gives 0 and leaves it out of the mean; here it is NaN.
    assert torch.equal(torch.from_numpy(scores.iou).isnan(), ~occurs)
    assert_golden(torch.from_numpy(scores.iou)[occurs], arrays["iou"][occurs])


def test_confusion__golden_with_unlabelled_pixels(golden: Golden, assert_golden: AssertGolden) -> None:
    arrays = golden("miou")
    prediction, truth = arrays["prediction_with_ignore"], arrays["truth"]
    scores = measure(arrays["num_classes"], prediction, truth)
    assert_golden(scores.miou_ignoring_unlabelled, arrays["miou_ignoring_unlabelled"])
    known = truth != 255
    assert scores.labelled == pytest.approx((prediction[known] != 255).double().mean().item())
    assert scores.miou < scores.miou_ignoring_unlabelled


def test_scores__by_hand() -> None:
    # (ground truth, prediction): (0, 0) twice, (0, 1), (1, 1), (1, 0), (2, 2).
    scores = measure(3, [[0, 0, 1], [1, 0, 2]], [[0, 0, 0], [1, 1, 2]])
    np.testing.assert_allclose(scores.iou, [2 / 4, 1 / 3, 1])
    assert scores.miou == pytest.approx((2 / 4 + 1 / 3 + 1) / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.labelled == 1
    assert scores.miou_ignoring_unlabelled == scores.miou


def test_scores__pixels_without_ground_truth_do_not_count() -> None:
    expected = measure(2, [[0, 1]], [[0, 1]])
    scores = measure(2, [[0, 1, 1, 255]], [[0, 1, 255, 255]])
    np.testing.assert_array_equal(scores.iou, expected.iou)
    assert scores[1:] == expected[1:]


def test_scores__class_without_ground_truth_is_not_in_the_mean() -> None:
    scores = measure(4, [[0, 1, 2]], [[0, 1, 0]])
    np.testing.assert_allclose(scores.iou, [1 / 2, 1, np.nan, np.nan])
    assert scores.miou == pytest.approx(3 / 4)


def test_scores__unlabelled_predictions_both_ways() -> None:
    scores = measure(2, [[0, 255, 1, 255]], [[0, 0, 1, 1]])
    np.testing.assert_allclose(scores.iou, [1 / 2, 1 / 2])  # errors, on the background too
    assert scores.miou == pytest.approx(0.5)
    assert scores.pixel_accuracy == pytest.approx(0.5)
    assert scores.labelled == pytest.approx(0.5)
    assert scores.miou_ignoring_unlabelled == 1


def test_scores__class_whose_pixels_are_all_unlabelled() -> None:
    scores = measure(2, [[0, 255]], [[0, 1]])
    np.testing.assert_allclose(scores.iou, [1, 0])
    assert scores.miou == 0.5
    assert np.isnan(scores.miou_ignoring_unlabelled)  # no pixel of class 1 is left to measure


@pytest.mark.parametrize("truth", [[[0, 0, 0]], [[0, 255, 255]]])
def test_scores__background_alone_has_no_mean(truth: list[list[int]]) -> None:
    scores = measure(3, [[0, 0, 0]], truth)
    np.testing.assert_array_equal(scores.iou, [1, np.nan, np.nan])
    assert np.isnan(scores.miou)
    assert np.isnan(scores.miou_ignoring_unlabelled)


def test_scores__nothing_counted() -> None:
    scores = Confusion(3).scores()
    assert np.isnan(scores.iou).all()
    assert np.isnan(scores.miou)
    assert scores.labelled == 0


def test_confusion__adds_up_over_images_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, truth = (torch.randint(0, 3, (2, 6, 5), generator=generator) for _ in range(2))
    together, apart = Confusion(3), Confusion(3)
    together.add(prediction, truth)
    for index in range(2):
        apart.add(prediction[index, :4], truth[index, :4])
        apart.add(prediction[index, 4:], truth[index, 4:])
    assert torch.equal(together.counts, apart.counts)
    assert together.counts.sum() == 60


def test_confusion__byte_arrays() -> None:
    confusion = Confusion(2)
    confusion.add(torch.tensor([[1, 255]], dtype=torch.uint8), torch.tensor([[1, 0]], dtype=torch.uint8))
    assert confusion.counts.tolist() == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (3, 0, "prediction has the label 3"),
        (7, 1, "prediction has the label 7"),
        (0, 4, "ground truth has the label 4"),
    ],
)
def test_confusion__labels_out_of_range(prediction: int, truth: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}, but there are 3 classes: only 0..2 and 255 are allowed$"):
        Confusion(3).add(torch.tensor([[prediction]]), torch.tensor([[truth]]))


@pytest.mark.parametrize("seed", range(3))
def test_scores__equal_those_of_torchmetrics(seed: int) -> None:
    from torchmetrics.functional.classification import multiclass_jaccard_index  # its import takes a second

    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 5, (3, 20, 20), generator=generator)
    guess = torch.randint(0, 5, (3, 20, 20), generator=generator)
    prediction = torch.where(torch.rand(3, 20, 20, generator=generator) < 0.5, truth, guess)
    truth[torch.rand(3, 20, 20, generator=generator) < 0.1] = 255
    expected = multiclass_jaccard_index(prediction, truth, num_classes=5, average=None, ignore_index=255)
    scores = measure(5, prediction, truth)
    np.testing.assert_allclose(scores.iou, expected.numpy(), rtol=1e-6)
    assert scores.miou == pytest.approx(expected.mean().item())
