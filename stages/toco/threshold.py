"""Background scores of CAMs: labels at each of a grid, and how well two of them agree."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
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


def kappa(confusion: Confusion) -> float:
    """How well two label maps agree beyond chance: Cohen's kappa, 1 for equal maps, 0 for unrelated ones."""
    counts = confusion.counts[:, :-1].double()
    total = counts.sum().clamp_min(1)
    observed = counts.diagonal().sum() / total
    expected = (counts.sum(dim=0) * counts.sum(dim=1)).sum() / total**2
    return float((observed - expected) / (1 - expected).clamp_min(1e-9))


def edge_contrast(label: Int[Tensor, "h w"], strength: Float[Tensor, "h w"]) -> float:
    """How much stronger the image's edges are along the borders of a label map than on average; 0 without borders."""
    border = torch.zeros_like(label, dtype=torch.bool)
    for axis in (0, 1):
        differs = label.diff(dim=axis) != 0
        border.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
        border.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
    if not border.any():
        return 0.0
    return float(strength[border].mean() / strength.mean().clamp_min(1e-9))


def edge_strength(image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """Length of the brightness gradient (Sobel)."""
    grey = image.float().mean(dim=0)[None, None]
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=image.device)[None, None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    return (F.conv2d(padded, kernel) ** 2 + F.conv2d(padded, kernel.transpose(2, 3)) ** 2).sqrt()[0, 0]


def otsu(histogram: Float[Tensor, " bins"]) -> float:
    """Otsu's threshold of scores in 0..1: the one between whose sides the variance is largest."""
    centres = (torch.arange(len(histogram)) + 0.5) / len(histogram)
    below = histogram.cumsum(0)
    total, moment = below[-1], (histogram * centres).cumsum(0)
    above = total - below
    between = (moment * above - (moment[-1] - moment) * below) ** 2 / (below * above).clamp_min(1e-9)
    return float((torch.argmax(between) + 1) / len(histogram))
