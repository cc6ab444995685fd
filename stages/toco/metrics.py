"""Score predicted label maps against ground-truth masks (METHOD section 8)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX


class Scores(NamedTuple):
    """Scores in 0..1; NaN for what cannot be measured."""

    iou: Float[np.ndarray, " classes"]  # intersection over union, background first; NaN if not in the ground truth
    miou: float  # mean over the classes that occur in the ground truth; NaN if only the background does
    pixel_accuracy: float
    labelled: float  # fraction of the counted pixels whose prediction is not 'ignore'
    miou_ignoring_unlabelled: float  # as miou, but pixels predicted 'ignore' are left out instead of counted as errors


class Confusion:
    """Confusion matrix over images: pixels counted by (ground truth, prediction); ground truth 255 does not count."""

    def __init__(self, num_classes: int) -> None:
        """Start at zero; `num_classes` includes the background."""
        self.num_classes = num_classes
        # The last column counts pixels predicted 'ignore' (255), which are errors whatever the ground truth is.
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def add(self, prediction: Integer[Tensor, "*b h w"], truth: Integer[Tensor, "*b h w"]) -> None:
        """Count the pixels of one image or more.

        Raises:
            ValueError: A label is neither a class nor 255.
        """
        known = truth != IGNORE_INDEX
        true, predicted = truth[known].long(), prediction[known].long()  # one entry per counted pixel
        self._check("ground truth", true)
        self._check("prediction", predicted[predicted != IGNORE_INDEX])
        predicted = torch.where(predicted == IGNORE_INDEX, self.num_classes, predicted)
        cells = true * (self.num_classes + 1) + predicted  # index into the flattened matrix
        self.counts += torch.bincount(cells.cpu(), minlength=self.counts.numel()).view_as(self.counts)

    def _check(self, what: str, labels: Tensor) -> None:
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise ValueError(
                f"{what} has the label {int(wrong[0])}, but there are {self.num_classes} classes: "
                f"only 0..{self.num_classes - 1} and {IGNORE_INDEX} are allowed"
            )

    def scores(self) -> Scores:
        """Compute the scores of all pixels counted so far."""
        counts = self.counts.double()  # (classes, classes + 1)
        total = counts.sum().clamp_min(1)
        correct = counts[:, : self.num_classes].diagonal()
        # The ground-truth pixels of each class: all of them, or without those predicted 'ignore'.
        strict = _iou(counts, counts.sum(dim=1))
        lenient = _iou(counts, counts[:, : self.num_classes].sum(dim=1))
        return Scores(
            iou=strict.numpy(),
            miou=_mean(strict),
            pixel_accuracy=(correct.sum() / total).item(),
            labelled=(counts[:, : self.num_classes].sum() / total).item(),
            miou_ignoring_unlabelled=_mean(lenient),
        )


def _iou(counts: Tensor, truth: Tensor) -> Tensor:
    """IoU of each class = correct / (ground truth + predicted - correct); NaN where `truth`, its pixel count, is 0."""
    correct = counts[:, :-1].diagonal()
    union = truth + counts[:, :-1].sum(dim=0) - correct
    return torch.where(truth > 0, correct / union, torch.nan)


def _mean(iou: Tensor) -> float:
    """Mean IoU of the classes that occur; NaN without a foreground class, since the background alone says nothing."""
    return math.nan if iou[1:].isnan().all() else iou.nanmean().item()
