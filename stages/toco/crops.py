"""Local crops for class-token contrast, cut where the auxiliary CAM sees background or is uncertain (METHOD section 5).

Such crops show background, or parts of objects that the CAM has missed. The first are negatives, which the class token
of the whole image should differ from; the second are positives, which draw the missed parts in.

Letters: b images, k crops of an image, h w pixels, s side of a crop in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CropPlaces(NamedTuple):
    """Upper left corners of the crops, in pixels."""

    top: Int[Tensor, "b k"]
    left: Int[Tensor, "b k"]


def choose_crops(
    uncertainty: Int[Tensor, "b h w"], *, count: int, size: int, generators: Sequence[torch.Generator]
) -> CropPlaces:
    """Draw crops centred on background or uncertain pixels, at least half a crop from the border.

    In an image with fewer than `count` of these pixels, centres are drawn among all pixels that far from the border.

    Args:
        uncertainty: 0 background, 1 uncertain, 2 object.
        count: Crops of each image.
        size: Side of a crop in pixels, at most the smaller side of the map.
        generators: One per image, so that its crops do not depend on the rest of the batch. They may be on another
            device than the map; the result is on the map's.

    Raises:
        ValueError: A crop is larger than the image.
    """
    height, width = uncertainty.shape[-2:]
    if size > min(height, width):
        raise ValueError(f"local crops of {size} pixels do not fit into images of {height} x {width} pixels")

    # Pixels that can be the centre of a crop. Entry (i, j) of this map is pixel (i + s/2, j + s/2), the centre of the
    # crop whose upper left corner is (i, j).
    half = size // 2
    rows, columns = height - size + 1, width - size + 1
    centres = uncertainty[:, half : half + rows, half : half + columns].flatten(1)  # (b, rows * columns)
    allowed = centres <= 1
    allowed |= allowed.sum(dim=1, keepdim=True) < count  # too few: all are allowed

    # Draw without replacement: the `count` largest of uniform random keys in [0, 1). Adding 1 to the keys of allowed
    # centres puts them first. The shapes do not depend on the values, so a GPU need not report to the CPU.
    keys = torch.stack([torch.rand(centres.shape[1], generator=one, device=one.device) for one in generators])
    keys = keys.to(centres.device, non_blocking=keys.device.type == "cpu")  # (b, rows * columns)
    if centres.shape[1] < count:
        # A map hardly larger than a crop has fewer centres than crops: take them in turn.
        picked = (torch.arange(count, device=centres.device) % centres.shape[1]).expand(len(centres), -1)
    else:
        picked = (keys + allowed).topk(count, dim=1).indices  # (b, k)
    return CropPlaces(top=picked // columns, left=picked % columns)


def cut_crops(
    images: Float[Tensor, "b channels h w"], places: CropPlaces, size: int
) -> Float[Tensor, "b k channels {size} {size}"]:
    """Cut the crops out of each image."""
    # One index for each dimension of the result; they broadcast to (b, k, s, s).
    offsets = torch.arange(size, device=images.device)
    rows = (places.top[:, :, None] + offsets)[:, :, :, None]  # (b, k, s, 1)
    columns = (places.left[:, :, None] + offsets)[:, :, None, :]  # (b, k, 1, s)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]  # (b, 1, 1, 1)
    # (b, h, w, channels) -> (b, k, s, s, channels) -> (b, k, channels, s, s)
    return images.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 1, 4, 2, 3)


def positive_views(
    uncertainty: Int[Tensor, "b h w"], places: CropPlaces, size: int, *, threshold: float = 0.2
) -> Float[Tensor, "b views"]:
    """Decide which views are positive: both global views, and crops that are not nearly all background.

    Args:
        uncertainty: 0 background, 1 uncertain, 2 object.
        places: Where the crops are.
        size: Side of a crop in pixels.
        threshold: A crop is positive if its mean uncertainty value is above this (0.2: section 5).

    Returns:
        Shape (b, 2 + k), the two global views first; 1 positive, 0 negative (background).
    """
    values = cut_crops(uncertainty[:, None].float(), places, size)  # (b, k, 1, s, s)
    crops = (values.mean(dim=(2, 3, 4)) > threshold).float()  # (b, k)
    return torch.cat([crops.new_ones(len(crops), 2), crops], dim=1)
