"""Measuring label maps against true masks (METHOD section 8, golden/miou)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX


class Scores(NamedTuple):
    """Intersection over union, background first; shares in 0..1, NaN for classes that the truth lacks."""

    iou: Float[np.ndarray, " classes"]
    miou: float  # mean over the classes that occur in the truth
    pixel_accuracy: float
    labelled: float  # share of the counted pixels whose prediction is not 'ignore'
    miou_ignoring_unlabelled: float  # the same mean with pixels predicted 'ignore' left out


class Confusion:
    """Counts of (true, predicted) pixels over images; pixels whose truth is 255 do not count."""

    def __init__(self, num_classes: int) -> None:
        """Start at zero; `num_classes` includes the background."""
        self.num_classes = num_classes
        # One column more than classes: pixels predicted 'ignore', an error whatever the truth.
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def add(self, prediction: Integer[Tensor, "*b h w"], truth: Integer[Tensor, "*b h w"]) -> None:
        """Count the pixels of one image or more.

        Raises:
            ValueError: A label is no class.
        """
        known = truth != IGNORE_INDEX
        true, predicted = truth[known].long(), prediction[known].long()
        self._check("truth", true)
        self._check("prediction", predicted[predicted != IGNORE_INDEX])
        predicted = torch.where(predicted == IGNORE_INDEX, self.num_classes, predicted)
        cells = true * (self.num_classes + 1) + predicted
        self.counts += torch.bincount(cells.cpu(), minlength=self.counts.numel()).view_as(self.counts)

    def _check(self, what: str, labels: Tensor) -> None:
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise ValueError(
                f"a {what} of {int(wrong[0])} among {self.num_classes} classes: "
                f"only 0..{self.num_classes - 1} and {IGNORE_INDEX} mean something"
            )

    def scores(self) -> Scores:
        """Summarise what was counted; NaN where nothing was."""
        counts = self.counts.double()
        total = counts.sum().clamp_min(1)
        correct = counts[:, : self.num_classes].diagonal()
        strict = _iou(counts, counts.sum(dim=1))
        lenient = _iou(counts, counts[:, : self.num_classes].sum(dim=1))
        return Scores(
            iou=strict.numpy(),
            miou=strict.nanmean().item(),
            pixel_accuracy=(correct.sum() / total).item(),
            labelled=(counts[:, : self.num_classes].sum() / total).item(),
            miou_ignoring_unlabelled=lenient.nanmean().item(),
        )


def _iou(counts: Tensor, truth: Tensor) -> Tensor:
    """Per class; NaN where no pixel of `truth` (pixels of the class that count) is of it."""
    correct = counts[:, :-1].diagonal()
    union = truth + counts[:, :-1].sum(dim=0) - correct
    return torch.where(truth > 0, correct / union, torch.nan)
