"""Regularised loss: the energy of a dense CRF as a loss on the softmax output (METHOD section 6).

Tang et al.: On Regularized Losses for Weakly-supervised CNN Segmentation, ECCV 2018.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX, inside_box
from stages.toco.lattice import PermutohedralLattice, bilateral_features


def energy_loss(
    logits: Float[Tensor, "b classes h w"],
    images: Float[Tensor, "b 3 h w"],
    label: Int[Tensor, "b h w"],
    image_box: Int[Tensor, "b 4"],
    *,
    sigma_xy: float = 100.0,
    sigma_rgb: float = 15.0,
    scale: float = 0.5,
    weight: float = 1e-7,
    ignore_index: int = IGNORE_INDEX,
) -> Float[Tensor, ""]:
    """Reward outputs that agree between pixels near in place and colour; the value is negative.

    Args:
        logits: Segmentation logits.
        images: Red, green, blue in 0..255.
        label: Pseudo labels; pixels at `ignore_index` count in full, others by how unsure the output is.
        image_box: y0, y1, x0, x1 in pixels: outside of it nothing counts.
        sigma_xy: In pixels of the full image.
        sigma_rgb: In 0..255 units.
        scale: Resolution of the filter over the image's.
        weight: Factor on value and gradient.
        ignore_index: The label of pixels without one.
    """
    probabilities = logits.float().softmax(dim=1)
    size = (int(scale * logits.shape[-2]), int(scale * logits.shape[-1]))
    probabilities = F.interpolate(probabilities, size=size, mode="bilinear", align_corners=False)
    images = F.interpolate(images.float(), size=size, mode="nearest")
    box = inside_box(image_box, label.shape[-2], label.shape[-1])
    box = F.interpolate(box[:, None].float(), size=size, mode="nearest")
    unlabelled = F.interpolate((label == ignore_index)[:, None].float(), size=size, mode="nearest")
    unsure = (box - probabilities.detach().amax(dim=1, keepdim=True)).clamp_min(0)
    gate = torch.where(unlabelled > 0, 1.0, unsure)
    energy: Tensor = _Energy.apply(probabilities * box, gate, images, sigma_xy * scale, sigma_rgb)
    return weight * energy


class _Energy(torch.autograd.Function):
    """-sum(P * gate * Bilateral(P)) / b, with the gradient -2 * gate * Bilateral(P) / b (gate held fixed)."""

    @staticmethod
    def forward(
        ctx: Any, probabilities: Tensor, gate: Tensor, images: Tensor, sigma_xy: float, sigma_rgb: float
    ) -> Tensor:
        features = bilateral_features(images, sigma_xy=sigma_xy, sigma_rgb=sigma_rgb)
        values = probabilities.flatten(2).transpose(1, 2)  # (b, n, classes)
        filtered = PermutohedralLattice(features).filter(values).transpose(1, 2).reshape(probabilities.shape)
        ctx.save_for_backward(filtered * gate)
        return -(probabilities * gate * filtered).sum() / len(probabilities)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gated,) = ctx.saved_tensors
        return grad * -2 * gated / len(gated), None, None, None, None
