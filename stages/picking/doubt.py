"""How doubtful the mask of an image is, judged without ground truth.

Letters: k classes of the image, h w places of the stored scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Three signs that a mask is wrong, each 0..1."""

    unsure: float  # mean over the image of 1 minus the margin between the two best labels
    contradicted: float  # 1 minus the IoU of mask and CAM over the objects; 0 if the mask was made without CAMs
    missing: float  # part of the image's labels that its mask does not show

    def reasons(self, missing: Sequence[str] = ()) -> str:
        """Say in a few words what is doubtful; `missing` are the classes that the mask does not show."""
        found = [f"no {name} in its mask" for name in missing]
        if self.contradicted > 0.5:
            found.append(f"mask and CAM overlap by {1 - self.contradicted:.0%}")
        return ", ".join([*found, f"unsure {self.unsure:.2f}"])


def unsureness(scores: Float[Tensor, "k h w"], threshold: float | None, counted: Bool[Tensor, "h w"]) -> float:
    """Mean of 1 minus the margin between the two best labels, 0..1.

    Args:
        scores: Scores of the image's classes, 0..1.
        threshold: Background threshold of CAMs, which is the score of the background; None for probabilities, whose
            background has the rest.
        counted: Where the image has a value.
    """
    if not len(scores) or not counted.any():
        return 0.0
    background = (1 - scores.sum(dim=0, keepdim=True)).clamp_min(0)
    if threshold is not None:
        background = torch.full_like(scores[:1], threshold)
    best = torch.cat([background, scores]).topk(2, dim=0).values
    return float(1 - (best[0] - best[1])[counted].clamp(0, 1).mean())


def contradiction(mask: Int[Tensor, "h w"], label: Int[Tensor, "h w"], ignored: int) -> float:
    """1 minus the IoU of two label maps over all objects, 0..1; 0 if neither shows any. Ignored pixels do not count."""
    counted = mask != ignored
    either = (counted & ((mask > 0) | (label > 0))).sum()
    both = (counted & (mask > 0) & (mask == label)).sum()
    return float(1 - both / either) if either else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """Replace values by their rank, 0 for the smallest to 1; equal values have the mean of their ranks."""
    if len(values) < 2:
        return [0.5] * len(values)
    given = torch.tensor(values, dtype=torch.float64)
    first = torch.searchsorted(given.sort().values, given)
    last = torch.searchsorted(given.sort().values, given, right=True) - 1
    result: list[float] = ((first + last) / (2 * (len(values) - 1))).tolist()
    return result
