"""From the class scores of one image to its pseudo labels, sharpened or not (METHOD sections 3, 6 and 8).

Letters: k classes of the image, l = k + 1 labels with the background first, u alternatives: class probabilities of
the same image against several background scores, which are combined at the end; h w pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX, label_one_threshold, label_two_thresholds
from stages.toco.par import combine_labels, refine_masks


class PseudoLabel(NamedTuple):
    """A label for each pixel, and how sure it is."""

    label: Int[Tensor, "h w"]  # 0 background, 1..k the classes in order, 255 ignored
    confidence: Float[Tensor, "h w"]  # 0..1, 0 where ignored


def against_backgrounds(cam: Float[Tensor, "k h w"], backgrounds: Sequence[float]) -> Float[Tensor, "u l h w"]:
    """Class probabilities of CAMs (0..1): softmax over a background plane of constant score and the CAMs."""
    planes = [torch.cat([cam.new_full((1, *cam.shape[1:]), score), cam]) for score in backgrounds]
    return torch.stack(planes).softmax(dim=1)


def with_background(probabilities: Float[Tensor, "k h w"]) -> Float[Tensor, "1 l h w"]:
    """Add the background's share to the classes' probabilities, which sum to at most 1 (but for rounding)."""
    background = (1 - probabilities.sum(dim=0, keepdim=True)).clamp_min(0)
    return torch.cat([background, probabilities])[None]


def average_with_par(
    probabilities: Float[Tensor, "u l h w"], image: UInt8[Tensor, "3 h w"], scale: float = 0.5
) -> Float[Tensor, "u l h w"]:
    """Refine probabilities by PAR, at `scale` of the image's resolution as in training (section 6)."""
    height, width = image.shape[-2:]
    size = (max(1, int(scale * height)), max(1, int(scale * width)))
    small = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)
    masks = F.interpolate(probabilities.float(), size=size, mode="bilinear", align_corners=False)
    refined = refine_masks(masks.flatten(0, 1)[None], small)
    resized = F.interpolate(refined, size=(height, width), mode="bilinear", align_corners=False)
    return resized[0].reshape(probabilities.shape)


def most_likely(probabilities: Float[Tensor, "u l h w"]) -> PseudoLabel:
    """Label each pixel with its likeliest class; two alternatives (high background first) are combined.

    The confidence is the label's probability, the mean of the alternatives'.
    """
    labels = probabilities.argmax(dim=1)
    label = combine_labels(labels[0], labels[1]) if len(labels) == 2 else labels[0]
    known = label != IGNORE_INDEX
    index = torch.where(known, label, 0)[None, None].expand(len(labels), 1, *label.shape)
    confidence = probabilities.gather(1, index).mean(dim=0)[0]
    return PseudoLabel(label, confidence * known)


def by_threshold(cam: Float[Tensor, "k h w"], background: float) -> PseudoLabel:
    """Label by one threshold (section 3); the confidence is how far the score is from it, of what is possible."""
    label = label_one_threshold(cam[None], background)[0]
    score = cam.amax(dim=0)
    above, below = (score - background) / max(1 - background, 1e-5), (background - score) / max(background, 1e-5)
    return PseudoLabel(label, torch.where(label > 0, above, below).clamp(0, 1))


def by_two_thresholds(cam: Float[Tensor, "k h w"], *, high: float, low: float) -> PseudoLabel:
    """Label by two thresholds, ignoring what lies between (section 3); the confidence is the score, or what lacks."""
    label = label_two_thresholds(cam[None], high=high, low=low)[0]
    score = cam.amax(dim=0)
    confidence = torch.where(label == 0, 1 - score, score)
    return PseudoLabel(label, (confidence * (label != IGNORE_INDEX)).clamp(0, 1))
