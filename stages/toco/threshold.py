"""Background scores of CAMs: labels at each of a grid, and how well two of them agree."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import label_one_threshold
from stages.toco.metrics import Confusion

# Finer where CAMs of a network that was trained for a short time have their best score.
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)


def labels_at(scores: Float[Tensor, "k h w"], background: float) -> Int[Tensor, "h w"]:
    """Labels 1..k by one threshold (METHOD section 3); all background where there is no class."""
    if not len(scores):
        return torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
    return label_one_threshold(scores[None], background)[0]


def agreement(confusion: Confusion) -> float:
    """How well two label maps agree: mean IoU over all labels.

    A label that neither has counts as 0, for a score at which nothing is background, or nothing object, is no good
    one, however well two maps agree on that.
    """
    counts = confusion.counts[:, :-1].double()
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return float((both / either.clamp_min(1)).mean())
