"""From the class scores of one image to its pseudo labels, refined or not (METHOD sections 3, 6 and 8).

Without refinement, thresholds turn the CAM into labels. With PAR or a CRF, the steps are

    CAM -> against_backgrounds -> average_with_par and / or the CRF -> most_likely

Letters: k classes of the image, l = k + 1 labels with the background first, u alternatives (class probabilities of the
same image against several background scores, which are combined at the end), h w pixels.
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
    """A label for each pixel, and its confidence."""

    label: Int[Tensor, "h w"]  # 0 background, 1..k the classes in order, 255 ignored
    confidence: Float[Tensor, "h w"]  # 0..1, 0 where ignored


def against_backgrounds(cam: Float[Tensor, "k h w"], backgrounds: Sequence[float]) -> Float[Tensor, "u l h w"]:
    """Turn CAMs (0..1) into class probabilities: softmax over a background plane of constant score and the CAMs.

    There is one alternative for each background score.
    """
    planes = [torch.cat([cam.new_full((1, *cam.shape[1:]), score), cam]) for score in backgrounds]
    return torch.stack(planes).softmax(dim=1)


def with_background(probabilities: Float[Tensor, "k h w"]) -> Float[Tensor, "1 l h w"]:
    """Prepend the background's probability, 1 - sum of the classes' probabilities.

    Rounding may bring the sum slightly above 1; the background is then 0.
    """
    background = (1 - probabilities.sum(dim=0, keepdim=True)).clamp_min(0)
    return torch.cat([background, probabilities])[None]


def average_with_par(
    probabilities: Float[Tensor, "u l h w"], image: UInt8[Tensor, "3 h w"], scale: float = 0.5
) -> Float[Tensor, "u l h w"]:
    """Refine probabilities by PAR, at half of the image's resolution as in training (section 6).

    Args:
        probabilities: All alternatives.
        image: Red, green, blue in 0..255.
        scale: Resolution of the refinement, relative to the image.
    """
    height, width = image.shape[-2:]
    size = (max(1, int(scale * height)), max(1, int(scale * width)))
    small = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)
    masks = F.interpolate(probabilities.float(), size=size, mode="bilinear", align_corners=False)
    refined = refine_masks(masks.flatten(0, 1)[None], small)  # (1, u * l, h / 2, w / 2): one pass for all alternatives
    resized = F.interpolate(refined, size=(height, width), mode="bilinear", align_corners=False)
    return resized[0].reshape(probabilities.shape)


def most_likely(probabilities: Float[Tensor, "u l h w"]) -> PseudoLabel:
    """Label each pixel with its most probable class; two alternatives (high background first) are combined.

    The confidence is the probability of the label, averaged over the alternatives.
    """
    labels = probabilities.argmax(dim=1)
    label = combine_labels(labels[0], labels[1]) if len(labels) == 2 else labels[0]
    labelled = label != IGNORE_INDEX
    index = torch.where(labelled, label, 0)[None, None].expand(len(labels), 1, *label.shape)  # (u, 1, h, w)
    confidence = probabilities.gather(1, index).mean(dim=0)[0]  # (h, w)
    return PseudoLabel(label, confidence * labelled)


def by_threshold(cam: Float[Tensor, "k h w"], background: float) -> PseudoLabel:
    """Label by one threshold (section 3).

    The confidence is the distance of the score from the threshold, as a fraction of the largest possible distance.
    """
    label = label_one_threshold(cam[None], background)[0]
    score = cam.amax(dim=0)
    # 1e-5 avoids a division by 0 for the thresholds 0 and 1.
    above, below = (score - background) / max(1 - background, 1e-5), (background - score) / max(background, 1e-5)
    return PseudoLabel(label, torch.where(label > 0, above, below).clamp(0, 1))


def by_two_thresholds(cam: Float[Tensor, "k h w"], *, high: float, low: float) -> PseudoLabel:
    """Label by two thresholds and ignore the pixels between (section 3).

    The confidence is the score for objects, and 1 - score for background.
    """
    label = label_two_thresholds(cam[None], high=high, low=low)[0]
    score = cam.amax(dim=0)
    confidence = torch.where(label == 0, 1 - score, score)
    return PseudoLabel(label, (confidence * (label != IGNORE_INDEX)).clamp(0, 1))
