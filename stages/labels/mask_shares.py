"""How much of each patch of a grid the labels of a mask cover, and which patches have a value."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from data.dataset import IGNORE_INDEX, Mask, Sample
from data.mask_agreement import distinct_values
from data.missing_pixels import missing_pixels


def mask_shares(mask: Mask, grid: tuple[int, int]) -> tuple[list[int], Float[Tensor, "own h w"]]:
    """Return the labels in a mask, ascending, and their shares of each patch; they sum to less than 1 where it is 255.

    Args:
        mask: (h, w) of the image.
        grid: Patches down and across.
    """
    numbers = sorted(distinct_values(mask) - {IGNORE_INDEX})
    pixels = torch.from_numpy(mask)
    # One label after the other, because all planes of a large photograph together may not fit into memory.
    planes = [F.adaptive_avg_pool2d((pixels == number)[None].float(), grid) for number in numbers]
    return numbers, torch.cat(planes) if planes else torch.zeros(0, *grid)


def all_shares(mask: Mask, classes: int, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
    """Return the shares of background and of all classes 1..C; see `mask_shares`."""
    numbers, own = mask_shares(mask, grid)
    shares = torch.zeros(classes + 1, *grid)
    shares[numbers] = own
    return shares


def balancing_weights(covered: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Weight of each class in a loss: 1 over the square root of its part of what all classes cover.

    Where two classes are in the same images, the image labels do not tell them apart. If most patches of the smaller
    one bear the label of the larger, a head that counts each patch equally gives it up: every face became a body.
    Weights without the square root are large for classes of few patches, and were hardly better (bench/quality.md).

    Args:
        covered: What each class covers, in patches.
    """
    return (covered.sum() / covered.clamp_min(1.0)).sqrt()


def patches_with_values(sample: Sample, grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Return which patches of an image have a value in at least half of their pixels.

    Raises:
        DataError: The image is missing or damaged.
    """
    missing = missing_pixels(sample.image, sample.pixels)
    if missing is None:
        return torch.ones(grid, dtype=torch.bool)
    return F.adaptive_avg_pool2d(torch.from_numpy(missing)[None].float(), grid)[0] <= 0.5
