"""Choose the background threshold of CAMs for `toco make-labels`, with a few ground-truth masks or without any.

Without masks, two figures are multiplied, and the threshold with the largest product is chosen. The first says how
well the labels agree with what a dense CRF makes of them: a good threshold gives masks that the image's edges confirm.
The second says how well the labels divide the network's patch tokens into groups that are similar inside and different
from each other, as patch-token contrast wants them (METHOD section 4). The first alone prefers masks that cover
everything, the second alone hardly depends on the threshold. bench/threshold.md compares them with others.

Letters: k classes of the image, n thresholds of the grid, h w pixels, d th tw patch tokens.
"""

from collections.abc import Callable, Container, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Int, UInt8
from torch import Tensor

from data.dataset import Sample
from data.errors import DataError
from data.readers import read_mask
from stages.config import MakeLabels
from stages.labels.maker import Scored
from stages.labels.pixel_labels import at_image_size
from stages.run_folder.run_data import measurable_samples, spread
from stages.runtime.monitor import Monitor
from stages.toco.cam import labels_at, to_class_numbers
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.losses import patch_token_contrast
from stages.toco.metrics import Confusion
from stages.toco.refine import against_backgrounds

# Finer at low thresholds, which suit CAMs of briefly trained networks.
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)

IMAGES = 60  # number of images to choose on without masks
LONG_SIDE_PIXELS = 500  # images are reduced to this longer side to choose without masks


def choose_background(
    scores: Callable[..., Iterator[Scored]],
    samples: Sequence[Sample],
    num_classes: int,
    config: MakeLabels,
    monitor: Monitor,
) -> float:
    """Choose the threshold of the grid that gives the best labels, measured or estimated.

    Args:
        scores: Yields images with the score maps of their classes; `LabelMaker.scores`.
        samples: The images to label; to calibrate, the result of `calibration_samples`.
        num_classes: Number of foreground classes.
        config: Settings: either `calibration_images` ground-truth masks, or the background threshold 'auto'.
        monitor: Receives progress and the chosen threshold.

    Raises:
        DataError: No image has a ground-truth mask, or a class, to choose by; or an image or a mask is bad.
    """
    calibrating = config.calibration_images > 0
    chosen = list(samples) if calibrating else spread([sample for sample in samples if sample.classes], IMAGES)
    if not chosen:
        lack = "a usable ground-truth mask" if calibrating else "a class"
        raise DataError(
            f"no image has {lack} to choose the background threshold by: give a number with --background-threshold"
        )
    confusions = [Confusion(num_classes + 1) for _ in GRID]
    contrast = torch.zeros(len(GRID))
    monitor.start("choosing the background threshold", len(chosen))
    for one in scores(chosen, tokens=not calibrating):
        classes = one.sample.classes
        full = at_image_size(one.maps, (one.image.shape[-2], one.image.shape[-1]))
        if calibrating:
            cam = full.float()
            references = _ground_truth(one.sample, cam, num_classes)
        else:
            image, cam = reduced(one.image, full)
            references = to_class_numbers(sharpened_labels(image, cam, config), classes)
            assert one.tokens is not None
            contrast += token_contrast(one.tokens, cam)
        for confusion, threshold, reference in zip(confusions, GRID, references, strict=True):
            confusion.add(to_class_numbers(labels_at(cam, threshold).cpu(), classes), reference)
        monitor.advance()
    monitor.finish()
    if calibrating:
        merits = [confusion.scores().miou for confusion in confusions]
    else:
        merits = [agreement(confusion) * float(part) for confusion, part in zip(confusions, contrast, strict=True)]
    background = GRID[max(range(len(GRID)), key=merits.__getitem__)]
    how = "with" if calibrating else "without"
    monitor.note(f"background threshold {background:g}, chosen {how} ground truth on {len(chosen)} images")
    return background


def calibration_samples(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    config: MakeLabels,
    monitor: Monitor,
    given: Container[str] = (),
) -> list[Sample]:
    """Pick at most `calibration_images` images that have objects and a ground-truth mask; first those in `given`.

    Raises:
        DataError: A mask is bad, or the masks contradict the image labels, and bad files are not to be skipped.
    """
    found = [sample for sample in samples if sample.classes and sample.mask is not None]
    chosen = spread([one for one in found if one.id in given], config.calibration_images)
    chosen += spread([one for one in found if one.id not in given], config.calibration_images - len(chosen))
    return measurable_samples(chosen, class_names, skip_bad=config.skip_bad, monitor=monitor)


def reduced(
    image: UInt8[Tensor, "3 _h _w"], cam: Float16[Tensor, "k _h _w"]
) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "k h w"]]:
    """Reduce an image and its CAM to a longer side of at most 500 pixels, which is enough to choose a threshold."""
    height, width = image.shape[-2:]
    longest = max(height, width)
    if longest <= LONG_SIDE_PIXELS:
        return image, cam.float()
    size = [max(1, round(side * LONG_SIDE_PIXELS / longest)) for side in (height, width)]
    small = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
    return small, F.interpolate(cam[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def sharpened_labels(
    image: UInt8[Tensor, "3 h w"], cam: Float[Tensor, "k h w"], config: MakeLabels
) -> Int[Tensor, "n h w"]:
    """Labels 0..k of an image after a CRF at half the resolution, for each background threshold of the grid."""
    (sharpened,) = sharpen([image], [against_backgrounds(cam, GRID)], FOR_PSEUDO_LABELS, config.crf_backend, fast=True)
    return sharpened.argmax(dim=1).cpu()


def token_contrast(tokens: Float[Tensor, "d th tw"], cam: Float[Tensor, "k h w"]) -> Float[Tensor, " n"]:
    """How well the labels at each threshold divide the patch tokens: 1 minus the loss of METHOD section 4.

    It is 0.5 for random labels. It is also set to 0.5 where all tokens have the same label.
    """
    labels = torch.stack([labels_at(cam, threshold) for threshold in GRID])
    size = (tokens.shape[-2], tokens.shape[-1])
    small = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
    contrast = torch.stack([1 - patch_token_contrast(tokens[None], label[None]) for label in small])
    same = (small == small[:, :1, :1]).flatten(1).all(dim=1)
    return contrast.masked_fill(same, 0.5).cpu()


def _ground_truth(sample: Sample, like: Tensor, num_classes: int) -> Int[Tensor, "n h w"]:
    """The ground-truth mask once for each threshold of the grid."""
    mask = read_mask(sample, (like.shape[-2], like.shape[-1]), num_classes)
    return torch.from_numpy(mask).long().expand(len(GRID), -1, -1)


def agreement(confusion: Confusion) -> float:
    """How well two label maps agree: mean IoU over all labels, 0..1.

    Labels absent from both maps count as IoU 0. A threshold that gives only background, or none, therefore scores low.
    """
    counts = confusion.counts[:, :-1].double()
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return float((both / either.clamp_min(1)).mean())
