"""Choosing the background score of CAMs for `toco make-labels`: without any true mask, or by a handful of them.

Without masks: a good score gives masks that the image's own edges confirm, so that the labels and what a dense CRF
makes of them agree; and masks that part the network's patch tokens into groups that are alike within and unlike
between, as patch-token contrast wants them. The score with the largest product of the two is taken. Alone, the first
prefers masks that cover everything, and the second is flat; others were measured beside them (bench/threshold.md).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.dataset import DataError, Sample
from data.images import image_size
from data.readers import read_mask
from stages.config import MakeLabels
from stages.labels.maker import Scored
from stages.run_folder.run_data import spread
from stages.runtime.monitor import Monitor
from stages.toco.cam import labels_at, to_class_numbers
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.losses import patch_token_contrast
from stages.toco.metrics import Confusion
from stages.toco.refine import against_backgrounds

# Finer where CAMs of a network that was trained for a short time have their best score.
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)

IMAGES = 60  # to choose on without masks
LONG_SIDE_PIXELS = 500  # pixels


def choose_background(
    scores: Callable[..., Iterator[Scored]],
    samples: Sequence[Sample],
    num_classes: int,
    config: MakeLabels,
    monitor: Monitor,
) -> float:
    """Choose the score of the grid at which the labels are best, or seem to be.

    Args:
        scores: Gives images with the scores of their classes; `LabelMaker.scores`.
        samples: The images to label.
        num_classes: Foreground classes.
        config: With `calibration_images` ground-truth masks to choose by, or background 'auto'.
        monitor: Told of what was chosen.

    Raises:
        DataError: There are no true masks to calibrate by, or an image is bad.
    """
    known = [sample for sample in samples if sample.classes]
    if config.calibration_images:
        known = [sample for sample in known if sample.mask is not None]
    chosen = spread(known, config.calibration_images or IMAGES)
    if not chosen:
        lack = "a true mask" if config.calibration_images else "a class"
        raise DataError(f"no image has {lack} to choose a background by: give a number with --background-threshold")
    for sample in chosen if config.calibration_images else ():  # now, and not after the network has run
        read_mask(sample, image_size(sample.image), num_classes)
    confusions = [Confusion(num_classes + 1) for _ in GRID]
    parted = torch.zeros(len(GRID))
    monitor.start("choosing the background score", len(chosen))
    for one in scores(chosen, details=not config.calibration_images):
        if not config.calibration_images:
            one = reduced(one)
        classes = one.sample.classes
        if config.calibration_images:
            references = _true_mask(one, num_classes)
        else:
            references = to_class_numbers(sharpened_labels(one, config), classes)
        for confusion, background, reference in zip(confusions, GRID, references, strict=True):
            confusion.add(to_class_numbers(labels_at(one.scores.float(), background).cpu(), classes), reference)
        if not config.calibration_images:
            parted += token_contrast(one)
        monitor.advance()
    monitor.finish()
    if config.calibration_images:
        merits = [confusion.scores().miou for confusion in confusions]
    else:
        merits = [agreement(confusion) * float(part) for confusion, part in zip(confusions, parted, strict=True)]
    background = GRID[max(range(len(GRID)), key=merits.__getitem__)]
    how = "by the true masks of" if config.calibration_images else "without masks, on"
    monitor.note(f"background score {background:g}, chosen {how} {len(chosen)} images")
    return background


def reduced(one: Scored) -> Scored:
    """An image and its scores with a longer side of at most 500 pixels, which is enough to choose a score by."""
    longest = max(one.image.shape[-2:])
    if longest <= LONG_SIDE_PIXELS:
        return one
    size = [max(1, round(side * LONG_SIDE_PIXELS / longest)) for side in one.image.shape[-2:]]
    image = F.interpolate(one.image[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
    scores = F.interpolate(one.scores[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return one._replace(image=image, scores=scores)


def sharpened_labels(one: Scored, config: MakeLabels) -> Int[Tensor, "scores h w"]:
    """What a CRF at half resolution makes of an image's scores, against each background score of the grid."""
    unaries = against_backgrounds(one.scores.float(), GRID)
    (sharpened,) = sharpen([one.image], [unaries], FOR_PSEUDO_LABELS, config.crf_backend, fast=True)
    return sharpened.argmax(dim=1).cpu()


def token_contrast(one: Scored) -> Float[Tensor, " scores"]:
    """How well the labels at each score part the patch tokens: 1 less the loss of METHOD section 4.

    0.5 for labels at random, and for a score at which there is but one label, which parts nothing.
    """
    assert one.tokens is not None
    labels = torch.stack([labels_at(one.scores.float(), background) for background in GRID])
    size = (one.tokens.shape[-2], one.tokens.shape[-1])
    small = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
    contrast = torch.stack([1 - patch_token_contrast(one.tokens[None], label[None]) for label in small])
    alone = (small == small[:, :1, :1]).flatten(1).all(dim=1)
    return contrast.masked_fill(alone, 0.5).cpu()


def _true_mask(one: Scored, num_classes: int) -> Int[Tensor, "scores h w"]:
    mask = read_mask(one.sample, (one.image.shape[-2], one.image.shape[-1]), num_classes)
    return torch.from_numpy(mask).long().expand(len(GRID), -1, -1)


def agreement(confusion: Confusion) -> float:
    """How well two label maps agree: mean IoU over all labels.

    A label that neither has counts as 0, for a score at which nothing is background, or nothing object, is no good
    one, however well two maps agree on that.
    """
    counts = confusion.counts[:, :-1].double()
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return float((both / either.clamp_min(1)).mean())
