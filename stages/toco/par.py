"""Pixel-adaptive refinement (PAR), and pseudo labels refined with it (METHOD section 6).

Ru et al.: Learning Affinity from Attention, CVPR 2022. Letters: b images, c classes, h w pixels,
p the 48 neighbours of a pixel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX, ignore_outside

DILATIONS = (1, 2, 4, 8, 12, 24)
_OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def refine_masks(
    masks: Float[Tensor, "b c _h _w"],
    images: Float[Tensor, "b 3 h w"],
    *,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = 10,
) -> Float[Tensor, "b c h w"]:
    """Average masks repeatedly over neighbours of like colour.

    Args:
        masks: Scores of any resolution; they are resized to the images first.
        images: Red, green, blue in 0..255.
        dilations: Distances of the 8 neighbours, in pixels.
        iterations: How often.
    """
    masks = F.interpolate(masks.float(), size=images.shape[-2:], mode="bilinear", align_corners=True)
    weights = neighbour_weights(images.float(), dilations)
    for _ in range(iterations):
        masks = _average_neighbours(masks, weights, dilations)
    return masks


def neighbour_weights(
    images: Float[Tensor, "b 3 h w"], dilations: Sequence[int] = DILATIONS
) -> Float[Tensor, "b p h w"]:
    """Weights of a pixel's neighbours: softmax over colour affinities + 0.01 * softmax over distances'."""
    colours = torch.stack(_neighbours(images, dilations), dim=2)  # (b, 3, p, h, w)
    deviation = _deviation(colours) + 1e-8
    difference = (colours - images[:, :, None]).abs()
    colour_affinity = -((difference / deviation / 0.3) ** 2).mean(dim=1)  # (b, p, h, w)
    distances = torch.tensor([dilation * (y * y + x * x) ** 0.5 for dilation in dilations for y, x in _OFFSETS])
    distances = distances.to(images.device, non_blocking=True)
    distance_affinity = -((distances / (distances.std() + 1e-8) / 0.3) ** 2)
    return colour_affinity.softmax(dim=1) + 0.01 * distance_affinity.softmax(dim=0)[None, :, None, None]


def _deviation(colours: Tensor) -> Tensor:
    """Standard deviation over the neighbours, (b, 3, 1, h, w); torch's own is many times slower along such a one."""
    squares = (colours - colours.mean(dim=2, keepdim=True)).square_()
    return (squares.sum(dim=2, keepdim=True) / (colours.shape[2] - 1)).sqrt_()


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """The maps shifted to each neighbour in turn; views of one padded copy."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    return [
        padded[..., reach + y * d : reach + y * d + height, reach + x * d : reach + x * d + width]
        for d in dilations
        for y, x in _OFFSETS
    ]


def _average_neighbours(masks: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    # One neighbour after another: all 48 at once would need 48 times the memory of the masks.
    total = torch.zeros_like(masks)
    for index, neighbour in enumerate(_neighbours(masks, dilations)):
        total.addcmul_(neighbour, weights[:, index : index + 1])
    return total


def refined_labels(
    valid_cam: Float[Tensor, "b c h w"],
    images: Float[Tensor, "b 3 h w"],
    class_labels: Float[Tensor, "b c"],
    image_box: Int[Tensor, "b 4"] | None = None,
    *,
    high: float = 0.7,
    low: float = 0.25,
    scale: float = 0.5,
    ignore_index: int = IGNORE_INDEX,
) -> Int[Tensor, "b h w"]:
    """Make pseudo labels from a CAM: PAR against a high and a low background score, and where these agree.

    Args:
        valid_cam: CAMs in [0, 1], absent classes zero.
        images: Red, green, blue in 0..255.
        class_labels: 1 where the image has the class, else 0.
        image_box: y0, y1, x0, x1 in pixels; outside of it the label is `ignore_index`.
        high: Background score that only sure objects exceed.
        low: Background score below which only sure background falls.
        scale: Resolution of the refinement over the image's.
        ignore_index: The label of pixels that the two disagree on.

    Returns:
        0 background, 1..c classes, `ignore_index`.
    """
    size = valid_cam.shape[-2:]
    small = (int(scale * size[0]), int(scale * size[1]))
    cam = F.interpolate(valid_cam.float(), size=small, mode="bilinear", align_corners=False)
    images = F.interpolate(images.float(), size=small, mode="bilinear", align_corners=False)
    absent = F.pad(class_labels, (1, 0), value=1.0)[:, :, None, None] == 0
    # Both background scores side by side in one pass: PAR's weights are the image's alone.
    masks = torch.cat(
        [
            F.pad(cam, (0, 0, 0, 0, 1, 0), value=background).masked_fill(absent, -torch.inf).softmax(dim=1)
            for background in (high, low)
        ],
        dim=1,
    )
    masks = refine_masks(masks, images)
    masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    # The index that comes with the maximum: argmax finds the same, tens of times slower on a CPU.
    label_high, label_low = (half.masked_fill(absent, -torch.inf).max(dim=1).indices for half in masks.chunk(2, dim=1))
    label = combine_labels(label_high, label_low, ignore_index)
    return label if image_box is None else ignore_outside(label, image_box, ignore_index)


def combine_labels(
    high: Int[Tensor, "*b h w"], low: Int[Tensor, "*b h w"], ignore_index: int = IGNORE_INDEX
) -> Int[Tensor, "*b h w"]:
    """Foreground where the label against the high background is, background where both are, else ignored."""
    label = torch.where(high == 0, ignore_index, high)
    return label.masked_fill((high == 0) & (low == 0), 0)
