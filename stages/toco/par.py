"""Pixel-adaptive refinement (PAR), and the online pseudo labels refined with it (METHOD section 6).

PAR is from Ru et al.: Learning Affinity from Attention (AFA), CVPR 2022. It moves the edges of a coarse mask to the
edges of the image: each iteration replaces a pixel's scores by a weighted mean of its neighbours' scores, and
neighbours of similar colour weigh most.

Letters: b images, c planes of a mask (classes), h w pixels, p the 8 neighbours at each of 6 dilations, 48 in all.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX, ignore_outside

# All constants are those of section 6, which are AFA's.
DILATIONS = (1, 2, 4, 8, 12, 24)  # distances of the 8 neighbours, in pixels
ITERATIONS = 10
BANDWIDTH = 0.3  # of the affinities, in standard deviations over the neighbours
POSITION_WEIGHT = 0.01  # of the position term; the colour term has 1
EPSILON = 1e-8  # added to standard deviations: a region of one colour has 0
_OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def refine_masks(
    masks: Float[Tensor, "b c _h _w"],
    images: Float[Tensor, "b 3 h w"],
    *,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "b c h w"]:
    """Refine masks by PAR: m_i <- sum_j w_ij m_j over the 48 neighbours j of pixel i, repeated.

    The weights of a pixel sum to 1.01 (see `neighbour_weights`), so the scores grow by 1 % in each iteration; only
    their ratios matter.

    Args:
        masks: Scores of any resolution; they are resized to the images first.
        images: Red, green, blue in 0..255.
        dilations: Distances of the 8 neighbours, in pixels.
        iterations: Number of iterations.
    """
    masks = F.interpolate(masks.float(), size=images.shape[-2:], mode="bilinear", align_corners=True)
    # The weights depend only on the image: they are computed once for all planes and iterations.
    weights = neighbour_weights(images.float(), dilations)
    for _ in range(iterations):
        masks = _average_neighbours(masks, weights, dilations)
    return masks


def neighbour_weights(
    images: Float[Tensor, "b 3 h w"], dilations: Sequence[int] = DILATIONS
) -> Float[Tensor, "b p h w"]:
    """Compute the weight of each neighbour j of each pixel i.

        colour_ij   = mean over channels of  -( |I_i - I_j| / std_i / 0.3 )^2
        position_ij =                        -( |x_i - x_j| / std   / 0.3 )^2
        w_ij        = softmax_j(colour) + 0.01 softmax_j(position)

    std_i is the standard deviation of a channel over the neighbours of pixel i, so that weak edges in a smooth region
    count as much as strong ones in a textured region. std is that of the 48 distances.
    """
    colours = torch.stack(_neighbours(images, dilations), dim=2)  # (b, 3, p, h, w)
    deviation = _deviation(colours) + EPSILON  # (b, 3, 1, h, w)
    difference = (colours - images[:, :, None]).abs()  # (b, 3, p, h, w)
    colour_affinity = -((difference / deviation / BANDWIDTH) ** 2).mean(dim=1)  # (b, p, h, w)

    # Distances do not depend on the pixel: dilation for the 4 direct neighbours, dilation * sqrt(2) for the diagonals.
    distances = torch.tensor([dilation * (y * y + x * x) ** 0.5 for dilation in dilations for y, x in _OFFSETS])
    distances = distances.to(images.device, non_blocking=True)  # (p,)
    position_affinity = -((distances / (distances.std() + EPSILON) / BANDWIDTH) ** 2)

    position_weights = POSITION_WEIGHT * position_affinity.softmax(dim=0)[None, :, None, None]  # (1, p, 1, 1)
    return colour_affinity.softmax(dim=1) + position_weights


def _deviation(colours: Tensor) -> Tensor:
    """Standard deviation over the neighbours: (b, 3, p, h, w) -> (b, 3, 1, h, w).

    Written out, because torch.std over a dimension that is not the last is many times slower on a CPU.
    """
    squares = (colours - colours.mean(dim=2, keepdim=True)).square_()
    return (squares.sum(dim=2, keepdim=True) / (colours.shape[2] - 1)).sqrt_()


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """The p maps of neighbours: entry j at pixel i is the value at neighbour j of i. All are views of one padded copy.

    Neighbours outside the image have the value of the nearest pixel inside.
    """
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    return [
        padded[..., reach + y * d : reach + y * d + height, reach + x * d : reach + x * d + width]
        for d in dilations
        for y, x in _OFFSETS
    ]


def _average_neighbours(masks: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One iteration: the weighted sum over the neighbours, (b, c, h, w) -> (b, c, h, w)."""
    # Neighbour by neighbour: all 48 at once would need 48 times the memory of the masks.
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
    """Make online pseudo labels: refine the CAM against a high and a low background score, and combine both labels.

    Args:
        valid_cam: CAMs in [0, 1], absent classes zero.
        images: Red, green, blue in 0..255.
        class_labels: 1 where the image has the class, else 0.
        image_box: y0, y1, x0, x1 in pixels; outside of it the label is `ignore_index`.
        high: Background score that only confident objects exceed.
        low: Background score below which only confident background falls.
        scale: Resolution of the refinement, relative to the image.
        ignore_index: The label of pixels on which the two labels disagree.

    Returns:
        0 background, 1..c classes, `ignore_index`.
    """
    # PAR works at half resolution (section 6).
    size = valid_cam.shape[-2:]
    small = (int(scale * size[0]), int(scale * size[1]))
    cam = F.interpolate(valid_cam.float(), size=small, mode="bilinear", align_corners=False)
    images = F.interpolate(images.float(), size=small, mode="bilinear", align_corners=False)

    # P = softmax over [background plane of constant score, CAMs of the image's own classes]; absent classes get 0.
    # Both background scores go through one pass of PAR side by side, since its weights depend only on the image.
    absent = F.pad(class_labels, (1, 0), value=1.0)[:, :, None, None] == 0  # (b, 1 + c, 1, 1), background first
    masks = torch.cat(
        [
            F.pad(cam, (0, 0, 0, 0, 1, 0), value=background).masked_fill(absent, -torch.inf).softmax(dim=1)
            for background in (high, low)
        ],
        dim=1,
    )  # (b, 2 * (1 + c), h / 2, w / 2)
    masks = refine_masks(masks, images)
    masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)  # (b, 2 * (1 + c), h, w)

    # The index that comes with max() is that of argmax(), which is tens of times slower on a CPU.
    label_high, label_low = (half.masked_fill(absent, -torch.inf).max(dim=1).indices for half in masks.chunk(2, dim=1))
    label = combine_labels(label_high, label_low, ignore_index)
    return label if image_box is None else ignore_outside(label, image_box, ignore_index)


def combine_labels(
    high: Int[Tensor, "*b h w"], low: Int[Tensor, "*b h w"], ignore_index: int = IGNORE_INDEX
) -> Int[Tensor, "*b h w"]:
    """Combine the labels against the high and the low background score (section 6).

        high > 0              the class of `high`: it exceeds even the high background score
        high = 0, low = 0     background: nothing exceeds even the low background score
        high = 0, low > 0     uncertain: `ignore_index`

    Args:
        high: Labels against the high score.
        low: Labels against the low score.
        ignore_index: The label of uncertain pixels.
    """
    label = torch.where(high == 0, ignore_index, high)
    return label.masked_fill((high == 0) & (low == 0), 0)
