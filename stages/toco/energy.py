"""Regularised loss: the energy of a dense CRF as a loss on the softmax output (METHOD section 6).

Tang et al.: On Regularized Losses for Weakly-supervised CNN Segmentation, ECCV 2018. The loss needs no label. It
rewards an output in which pixels that are near each other and of similar colour have the same class, and so extends the
segmentation to pixels without a pseudo label, up to the edges of the image.

Letters: b images, h w pixels, n pixels of an image at the resolution of the filter.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX, inside_box
from stages.toco.lattice import PermutohedralLattice, bilateral_features


def energy_loss(
    logits: Float[Tensor, "b classes h w"],
    images: Float[Tensor, "b 3 h w"],
    label: Int[Tensor, "b h w"],
    image_box: Int[Tensor, "b 4"],
    missing: Bool[Tensor, "b h w"] | None = None,
    *,
    sigma_xy: float = 100.0,
    sigma_rgb: float = 15.0,
    scale: float = 0.5,
    weight: float = 1e-7,
    ignore_index: int = IGNORE_INDEX,
) -> Float[Tensor, ""]:
    """Compute L_reg = -1e-7 / b sum_i g_i sum_class P_i (K P)_i, a negative number.

    P is the softmax output, g a gate for each pixel, K the bilateral Gaussian filter over pixels i, j with positions x
    and colours I, computed on a permutohedral lattice (not normalised, hence up to a constant factor):

        K_ij ~ exp( -|x_i - x_j|^2 / (2 sigma_xy^2) - |I_i - I_j|^2 / (2 sigma_rgb^2) )

    All default constants are those of section 6.

    Args:
        logits: Segmentation logits.
        images: Red, green, blue in 0..255.
        label: Pseudo labels; pixels at `ignore_index` count in full, others by how uncertain the output is.
        image_box: y0, y1, x0, x1 in pixels; outside of it nothing counts.
        missing: Where the images have no value; there, nothing counts either.
        sigma_xy: In pixels of the full image.
        sigma_rgb: In 0..255 units.
        scale: Resolution of the filter, relative to the image.
        weight: Factor on value and gradient.
        ignore_index: The label of pixels without a pseudo label.
    """
    # Everything at half resolution: a quarter of the pixels for the filter, whose sigma_xy shrinks with them.
    probabilities = logits.float().softmax(dim=1)
    size = (int(scale * logits.shape[-2]), int(scale * logits.shape[-1]))
    probabilities = F.interpolate(probabilities, size=size, mode="bilinear", align_corners=False)
    images = F.interpolate(images.float(), size=size, mode="nearest")
    box = inside_box(image_box, label.shape[-2], label.shape[-1])  # (b, h, w)
    if missing is not None:
        box = box & ~missing
    box = F.interpolate(box[:, None].float(), size=size, mode="nearest")  # (b, 1, h / 2, w / 2), 1 inside
    unlabelled = F.interpolate((label == ignore_index)[:, None].float(), size=size, mode="nearest")

    # g = 1 where there is no label, else max(0, box - max P): labelled pixels count where the output is uncertain.
    # The gate is a constant for the gradient.
    uncertain = (box - probabilities.detach().amax(dim=1, keepdim=True)).clamp_min(0)
    gate = torch.where(unlabelled > 0, 1.0, uncertain)  # (b, 1, h / 2, w / 2)
    energy: Tensor = _Energy.apply(probabilities * box, gate, images, sigma_xy * scale, sigma_rgb)
    return weight * energy


class _Energy(torch.autograd.Function):
    """E = -1 / b sum_i g_i P_i (K P)_i, with the gradient dE/dP = -2 / b g K P, as the published program has it.

    With K symmetric, the exact gradient is -1 / b (g K P + K (g P)). The published one needs no second filtering, and
    equals the exact one where g is constant within the reach of the filter.
    """

    @staticmethod
    def forward(
        ctx: Any, probabilities: Tensor, gate: Tensor, images: Tensor, sigma_xy: float, sigma_rgb: float
    ) -> Tensor:
        features = bilateral_features(images, sigma_xy=sigma_xy, sigma_rgb=sigma_rgb)  # (b, n, 5)
        values = probabilities.flatten(2).transpose(1, 2)  # (b, n, classes)
        filtered = PermutohedralLattice(features).filter(values)  # K P, (b, n, classes)
        filtered = filtered.transpose(1, 2).reshape(probabilities.shape)  # (b, classes, h / 2, w / 2)
        ctx.save_for_backward(filtered * gate)
        return -(probabilities * gate * filtered).sum() / len(probabilities)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gated,) = ctx.saved_tensors  # g K P
        return grad * -2 * gated / len(gated), None, None, None, None
