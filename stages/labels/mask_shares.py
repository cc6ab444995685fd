"""How much of each patch of a grid the labels of a mask cover."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.dataset import IGNORE_INDEX, Mask
from data.mask_agreement import distinct_values


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
