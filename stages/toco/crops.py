"""Local crops for class-token contrast, cut where the auxiliary CAM is unsure (METHOD section 5).

Letters: b images, k crops an image, h w pixels, s crop side in pixels.
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
    """Draw crops whose centres lie on background or unsure pixels, at least half a crop from the border.

    Where an image has fewer than `count` such pixels, centres are drawn among all pixels that far inside.

    Args:
        uncertainty: 0 background, 1 unsure, 2 object.
        count: Crops an image.
        size: Side of a crop in pixels, at most the smaller side of the map.
        generators: Sources of randomness, one an image, so that its crops do not depend on what else is in the batch.
            On any device: the draw happens there and the places follow the map.

    Raises:
        ValueError: A crop is larger than the image.
    """
    height, width = uncertainty.shape[-2:]
    if size > min(height, width):
        raise ValueError(f"local crops of {size} pixels do not fit into images of {height} x {width} pixels")
    half = size // 2
    rows, columns = height - size + 1, width - size + 1
    inner = uncertainty[:, half : half + rows, half : half + columns].flatten(1)
    allowed = inner <= 1
    allowed |= allowed.sum(dim=1, keepdim=True) < count
    # The `count` largest of random keys are a draw without repetition; pixels not allowed come last.
    keys = torch.stack([torch.rand(inner.shape[1], generator=one, device=one.device) for one in generators])
    keys = keys.to(inner.device, non_blocking=keys.device.type == "cpu")  # (b, places)
    if inner.shape[1] < count:
        # A map hardly larger than the crop has fewer places than crops: places repeat.
        picked = (keys[:, :1] * 0).long() + torch.arange(count, device=inner.device) % inner.shape[1]
    else:
        picked = (keys + allowed).topk(count, dim=1).indices  # (b, k)
    return CropPlaces(top=picked // columns, left=picked % columns)


def cut_crops(
    images: Float[Tensor, "b channels h w"], places: CropPlaces, size: int
) -> Float[Tensor, "b k channels {size} {size}"]:
    """Cut the crops out of each image."""
    offsets = torch.arange(size, device=images.device)
    rows = (places.top[:, :, None] + offsets)[:, :, :, None]  # (b, k, s, 1)
    columns = (places.left[:, :, None] + offsets)[:, :, None, :]  # (b, k, 1, s)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 1, 4, 2, 3)


def positive_views(
    uncertainty: Int[Tensor, "b h w"], places: CropPlaces, size: int, *, threshold: float = 0.2
) -> Float[Tensor, "b views"]:
    """Say which views show an object: both global views, and crops whose mean uncertainty value is above 0.2.

    Returns:
        Shape (b, 2 + k), the two global views first; 1 positive, 0 negative (background).
    """
    values = cut_crops(uncertainty[:, None].float(), places, size)
    crops = (values.mean(dim=(2, 3, 4)) > threshold).float()
    return torch.cat([crops.new_ones(len(crops), 2), crops], dim=1)
