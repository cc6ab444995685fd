"""Average precision: how well scores rank the images that have a class before those that do not."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def average_precision(scores: Float[Tensor, "n c"], present: Bool[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """Average precision of each class, 0..1; NaN for classes that all images or none have.

    It is the mean, over the images that have the class, of the precision among the images whose score is at least as
    large.
    """
    found = []
    for own, has in zip(scores.T, present.T, strict=True):
        ranked = has[own.argsort(descending=True, stable=True)].double()
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
        told = has.any() and not has.all()
        found.append(float((precision * ranked).sum() / ranked.sum()) if told else math.nan)
    return torch.tensor(found)


def mean_average_precision(scores: Float[Tensor, "n c"], present: Bool[Tensor, "n c"]) -> float:
    """Mean over the classes; those that all images or none have are left out. NaN if none is left."""
    return float(average_precision(scores, present).nanmean())
