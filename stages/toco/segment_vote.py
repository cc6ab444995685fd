"""Class-agnostic segments vote on the scores of labels.

Segments, of the Segment Anything Model (SAM) or superpixels, follow the edges of the image but have no classes. Scores
have classes but coarse borders. The vote of a segment is the mean of the scores of its pixels, as in the superpixel
pooling of Kwak et al., AAAI 2017. Segments may overlap at several scales, as those of SAM do.

SAM-enhanced pseudo labels (SEPL, Chen et al., arXiv 2305.05803) count hard labels instead: a segment gets a class that
covers more than half of it, or of which it holds at least 85 %. The second condition lets a small object give its class
to the whole sky around it. Here such a segment does not vote.

Letters: l labels with the background first, h w pixels, n segments, m pixels of all segments together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

MOST = 0.5  # a segment that holds more than this part of a label's pixels may not give them another label


class Segments(NamedTuple):
    """Segments of one image: an entry for each of their pixels, so that segments may overlap."""

    pixel: NDArray[np.int64]  # (m,), row * width + column
    segment: NDArray[np.int64]  # (m,), 0..n-1
    number: int  # n

    @classmethod
    def of(cls, pixels: Sequence[NDArray[np.int64]]) -> "Segments":
        """Join the pixels of each segment, none of which is empty."""
        numbers = np.repeat(np.arange(len(pixels)), [len(one) for one in pixels])
        return cls(np.concatenate([np.zeros(0, np.int64), *pixels]), numbers, len(pixels))


def vote(scores: Float[Tensor, "l h w"], segments: Segments, weight: float = 1.0) -> Float[Tensor, "l h w"]:
    """Replace the scores of each pixel by the votes of its segments, or mix them.

    A segment abstains if it would erase a label: if most of the image's pixels of another label than its own lie inside
    it. So neither the segment of a whole image nor that of the sky around a bird swallows an object. If several
    segments of a pixel vote, their mean counts, weighted by 1 / sqrt(area): a small segment knows more about its pixels
    than a large one. A pixel without a vote keeps its scores.

    Args:
        scores: Scores that can be compared between labels: probabilities, or CAMs below a plane that is the background
            threshold everywhere. A pixel's label is the one with the highest score, of equal ones the first.
        segments: Segments of the image.
        weight: 0..1, weight of the votes; the rest is the weight of the pixel's own scores.

    Returns:
        Scores of the same labels, within the range of the given ones.
    """
    pixel, segment, count = segments
    labels = len(scores)
    planes = scores.flatten(1).double().cpu().numpy()  # (l, h * w)
    area = np.bincount(segment, minlength=count)
    means = np.stack([np.bincount(segment, plane[pixel], count) / area for plane in planes])  # (l, n)
    own = planes.argmax(axis=0)
    inside = np.bincount(segment * labels + own[pixel], minlength=count * labels).reshape(count, labels)
    held = inside / np.bincount(own, minlength=labels).clip(1)  # which part of each label's pixels a segment holds
    held[np.arange(count), means.argmax(axis=0)] = 0
    power = np.where((held <= MOST).all(axis=1), 1 / np.sqrt(area), 0)
    total = np.bincount(pixel, power[segment], planes.shape[1])
    voted = total > 0
    result = planes.copy()
    for plane, mean in zip(result, means, strict=True):
        votes = np.bincount(pixel, (power * mean)[segment], len(plane))[voted] / total[voted]
        plane[voted] += weight * (votes - plane[voted])
    return torch.from_numpy(result).view(scores.shape).to(scores)
