"""From the scores of an image's classes to its mask.

Letters: k classes of the image, u alternatives, h w pixels of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from data.dataset import IGNORE_INDEX, Mask, Sample
from stages.config import MakeLabels
from stages.networks.inference import resize_maps
from stages.toco.cam import to_class_numbers
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.refine import (
    PseudoLabel,
    against_backgrounds,
    average_with_par,
    by_threshold,
    by_two_thresholds,
    most_likely,
    with_background,
)
from stages.toco.segment_vote import Segments, vote


def at_image_size(maps: Float[Tensor, "k _h _w"], size: tuple[int, int]) -> Float16[Tensor, "k h w"]:
    """Resize score maps bilinearly to an image's size (h, w), and round them to float16.

    All thresholds are applied to scores that were rounded in this way.
    """
    return resize_maps(maps, size).half() if len(maps) else maps.new_zeros(0, *size).half()


class PixelLabels(NamedTuple):
    """The mask of one image, with labels 0..k."""

    mask: Mask  # 0 background, 1..k the image's classes in order, 255 ignored
    confidence: Mask | None  # 0..255 for 0..1; None unless it was asked for


def pixel_labels(
    maps: Sequence[Float[Tensor, "_k _h _w"]],
    images: Sequence[UInt8[Tensor, "3 _h _w"]],
    config: MakeLabels,
    *,
    probabilities_given: bool = False,
    segments: Sequence[Segments | None] | None = None,
) -> list[PixelLabels]:
    """Make masks from the score maps of the images' classes.

    Args:
        maps: Scores of each image's classes, 0..1; any size.
        images: The images, on the same device. Masks have their sizes.
        config: As `label_settings.resolved` returns it.
        probabilities_given: The scores are probabilities; the background has 1 minus their sum. Otherwise they are
            compared with thresholds.
        segments: Those of each image, which vote on its scores; None for no vote.
    """
    high, low, threshold = config.high_threshold, config.low_threshold, config.background_threshold
    assert high is not None
    assert low is not None
    assert threshold != "auto"
    found: dict[int, PseudoLabel] = {}
    probabilities: dict[int, Tensor] = {}  # of the images whose masks are refined together
    for place, (own, image) in enumerate(zip(maps, images, strict=True)):
        scores = at_image_size(own, (image.shape[-2], image.shape[-1])).float()
        if len(scores) and segments is not None and (voters := segments[place]) is not None:
            scores = _voted(scores, voters, None if probabilities_given else threshold, config.vote_weight)
        if not len(scores):  # an image without classes is background, with full confidence
            empty = scores.new_zeros(scores.shape[1:])
            found[place] = PseudoLabel(empty.long(), empty + 1)
        elif probabilities_given:
            probabilities[place] = with_background(scores)
        elif config.uses_crf or config.uses_par:
            probabilities[place] = against_backgrounds(scores, (high, low))
        elif config.ignore_uncertain:
            found[place] = by_two_thresholds(scores, high=high, low=low)
        else:
            assert threshold is not None
            found[place] = by_threshold(scores, threshold)
    found |= _refined(probabilities, images, config)
    return [_as_arrays(found[place], config) for place in range(len(maps))]


def _voted(scores: Tensor, segments: Segments, threshold: float | None, weight: float) -> Tensor:
    """Let segments vote on probabilities (k, h, w), or on CAMs beside the background's constant score."""
    if threshold is None:
        planes = with_background(scores)[0]
    else:
        planes = torch.cat([torch.full_like(scores[:1], threshold), scores])
    return vote(planes, segments, weight)[1:]


def _refined(probabilities: dict[int, Tensor], images: Sequence[Tensor], config: MakeLabels) -> dict[int, PseudoLabel]:
    """Refine class probabilities (u, k + 1, h, w) by PAR, CRF, both or neither; take the most likely labels."""
    if config.uses_par:
        probabilities = {place: average_with_par(one, images[place]) for place, one in probabilities.items()}
    if config.uses_crf and probabilities:
        sharpened = sharpen(
            [images[place] for place in probabilities],
            list(probabilities.values()),
            FOR_PSEUDO_LABELS,
            config.crf_backend,
            fast=config.crf_fast,
        )
        probabilities = dict(zip(probabilities, sharpened, strict=True))
    return {place: most_likely(one) for place, one in probabilities.items()}


def _as_arrays(labels: PseudoLabel, config: MakeLabels) -> PixelLabels:
    confidence = (255 * labels.confidence).round().byte().cpu().numpy() if config.confidence else None
    return PixelLabels(labels.label.cpu().numpy().astype(np.uint8), confidence)


def with_class_numbers(mask: Mask, sample: Sample) -> Mask:
    """Turn the labels 0..k of one image into the data set's class numbers.

    Args:
        mask: 0 background, 1..k the image's classes in order, 255 ignored.
        sample: The image, with its known or predicted classes.

    Returns:
        The mask with class numbers. It is 255 everywhere if the image's classes are unknown and none was predicted.
    """
    if not (sample.labelled or sample.classes):
        return np.full_like(mask, IGNORE_INDEX)
    numbered: Mask = to_class_numbers(torch.from_numpy(mask).long(), sample.classes).byte().numpy()
    return numbered
