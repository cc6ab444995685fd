"""From the scores of an image's classes to its mask."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import IGNORE_INDEX, Mask, Sample
from stages.config import MakeLabels
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

ScoreMaps = NDArray[np.float16]  # (k, h, w), 0..1


class PixelLabels(NamedTuple):
    """The mask of one image, among its own classes."""

    mask: Mask  # 0 background, 1..k the classes in order, 255 ignored
    confidence: Mask | None  # 0..255


def pixel_labels(scores: Sequence[Tensor], images: Sequence[Tensor], config: MakeLabels) -> list[PixelLabels]:
    """Make masks from the scores of the images' classes.

    Args:
        scores: For each image, shape (k, h, w), float16, 0..1.
        images: Shape (3, h, w), uint8, on the same device.
        config: As `label_settings.resolved` gives it.
    """
    high, low = config.high_threshold, config.low_threshold
    assert high is not None
    assert low is not None
    # An image without any of the classes is all background, and surely so.
    found: dict[int, PseudoLabel] = {
        place: PseudoLabel(cam.new_zeros(cam.shape[1:]).long(), cam.new_ones(cam.shape[1:]).float())
        for place, cam in enumerate(scores)
        if not len(cam)
    }
    rest = {place: cam.float() for place, cam in enumerate(scores) if len(cam)}
    if config.uses_crf or config.uses_par or config.source == "decoder":
        # The decoder knows a background of its own.
        probabilities = {
            place: with_background(cam) if config.source == "decoder" else against_backgrounds(cam, (high, low))
            for place, cam in rest.items()
        }
        found |= _refined(probabilities, images, config)
    elif config.ignore_uncertain:
        found |= {place: by_two_thresholds(cam, high=high, low=low) for place, cam in rest.items()}
    else:
        assert isinstance(config.background_threshold, float | int)
        found |= {place: by_threshold(cam, config.background_threshold) for place, cam in rest.items()}
    return [_as_arrays(found[place], config) for place in range(len(scores))]


def _refined(probabilities: dict[int, Tensor], images: Sequence[Tensor], config: MakeLabels) -> dict[int, PseudoLabel]:
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
    """A mask among an image's own classes as one among all classes.

    Args:
        mask: 0 background, 1..k the image's classes in order, 255 ignored.
        sample: The image, with the classes that it has or is predicted to have.
    """
    if not (sample.labelled or sample.classes):  # nobody said that there is nothing in it
        return np.full_like(mask, IGNORE_INDEX)
    numbered: Mask = to_class_numbers(torch.from_numpy(mask).long(), sample.classes).byte().numpy()
    return numbered
