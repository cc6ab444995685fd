"""Patches: the frozen features of a data set's patches, and the labels that heads learn from them.

Letters: n patches, d width of the features, c classes, h w patches down and across.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from stages.corrections.given_masks import given_share
from stages.features.cache import mean_and_deviation

JUDGED = 0.5  # part of a patch that people must have judged
BYTES = 2**31  # of the features in memory; of larger data sets, some patches of each image are used


@dataclass(kw_only=True)
class Patches:
    """Patches of a data set with their present labels."""

    features: Float[Tensor, "n d"]  # float16, standardised
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    shares: Float[Tensor, "n c1"]  # float16: how much of a patch each label covers; background first
    image: Int[Tensor, " n"]  # number of the patch's image
    allowed: Bool[Tensor, "images c"]  # the classes that an image is known to have
    fixed: Bool[Tensor, " n"] | None = None  # patches whose labels people drew: no round changes them
    exchanged: tuple[tuple[int, int], ...] = ()  # pairs of classes, 0-based, see `companions`

    @property
    def movable(self) -> Bool[Tensor, " n"]:
        """Patches whose labels may change."""
        return torch.ones_like(self.image, dtype=torch.bool) if self.fixed is None else ~self.fixed

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """Weight of each patch in the loss: those that people drew weigh more."""
        weight = torch.ones(len(self.features), device=self.features.device)
        count = int((~self.movable).sum())
        if 0 < count < len(weight):
            share = given_share(count, len(weight))
            weight[~self.movable] = share / max(1 - share, 1e-6) * (len(weight) - count) / count
        return weight


def collect_patches(
    read: Callable[[str], NDArray[np.float16]],
    seeds: Callable[[str, tuple[int, int]], Float[Tensor, "c1 h w"]],
    images: Sequence[tuple[str, tuple[int, ...]]],
    classes: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    given: Callable[[str, tuple[int, int]], Float[Tensor, "c1 h w"] | None] = lambda image_id, grid: None,
    usable: Callable[[str, tuple[int, int]], Bool[Tensor, "h w"]] = lambda image_id, grid: torch.ones(grid).bool(),
    limit: int = BYTES,
) -> Patches:
    """Load features and seed labels of all images; of large data sets, a random part of each image's patches.

    Args:
        read: Returns the features (d, h, w) of an image.
        seeds: Returns the seed labels of an image as shares of patches (c + 1, h, w).
        images: Ids and classes (1-based) of the images.
        classes: Number of classes.
        seed: Random seed.
        device: Where the patches are kept.
        given: Returns the labels that people drew of an image, as shares of patches; they sum to less than 1 where
            something was not judged. None for an image without drawn labels. They replace the seeds where half of a
            patch was judged.
        usable: Returns which patches of an image to load; the others are left out.
        limit: Bytes of the features, at most.
    """
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.zeros(len(images), classes, dtype=torch.bool)
    features, shares, owners, drawn = [], [], [], []
    fraction: float | None = None
    for number, (image_id, own) in enumerate(images):
        allowed[number, [one - 1 for one in own]] = True
        values = torch.from_numpy(read(image_id))
        grid = (values.shape[1], values.shape[2])
        label = seeds(image_id, grid)
        fixed = torch.zeros(grid, dtype=torch.bool)
        if (own_label := given(image_id, grid)) is not None:
            judged = own_label.sum(dim=0)
            fixed = judged > JUDGED
            label = torch.where(fixed, own_label / judged.clamp_min(JUDGED), label)
        if fraction is None:
            fraction = min(1.0, limit / (values.numel() * values.element_size() * len(images)))
        chosen = torch.arange(grid[0] * grid[1])
        if fraction < 1:
            chosen = torch.randperm(len(chosen), generator=generator)[: max(1, round(fraction * len(chosen)))]
        chosen = chosen[usable(image_id, grid).flatten()[chosen]]
        features.append(values.flatten(1).T[chosen])
        shares.append(label.flatten(1).T[chosen].half())
        owners.append(torch.full((len(chosen),), number, dtype=torch.int32))
        drawn.append(fixed.flatten()[chosen])
    joined = torch.cat(features).to(device)
    mean, deviation = mean_and_deviation(joined)
    for first in range(0, len(joined), 2**16):  # in place, because there may be no memory for a second copy
        part = joined[first : first + 2**16]
        part.copy_((part.float() - mean) / deviation)
    return Patches(
        features=joined,
        mean=mean,
        deviation=deviation,
        shares=torch.cat(shares).to(device),
        image=torch.cat(owners).to(device),
        allowed=allowed.to(device),
        fixed=torch.cat(drawn).to(device),
    )


def patch_shares(labels: Int[Tensor, "_h _w"], classes: int, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
    """Share of each label in each patch: the labels' areas, averaged over the patches of a grid."""
    planes = F.one_hot(labels.long(), classes + 1).permute(2, 0, 1).float()
    return F.adaptive_avg_pool2d(planes, grid)
