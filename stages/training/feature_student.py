"""Train a head on stored features: load them with their pseudo labels, and the loss.

Letters: n patches, d width of the features, k patches on each side of what the head sees.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.dataset import Sample
from data.errors import ArtifactError, DataError
from stages.corrections.given_masks import GivenMasks
from stages.features.cache import FeatureCache, mean_and_deviation
from stages.labels.mask_shares import balancing_weights, mask_shares, patches_with_values
from stages.labels.store import LabelFile
from stages.networks.feature_network import FeatureHead
from stages.run_folder.run_data import spread
from stages.toco.ranks import SINGLE_RANK, Ranks

STUDENT_PATCHES = 2048  # of a step, over all devices
REMEMBERED_IMAGES = 20_000  # whose shares each loading process keeps; reading the masks takes longest
MEASURED_IMAGES = 100  # on which mean and deviation of the features are measured
COUNTED_IMAGES = 300  # on which it is counted how much each label covers


class FeatureViews(NamedTuple):
    """Random patches of an image, each with its neighbours, and their labels."""

    features: Tensor  # float16 (n, d, k, k): a patch in the middle, and the neighbours that the head sees
    shares: Tensor  # float16 (n, classes): how much of a patch each label covers; all 0 where nothing is known


class LoadFeatures:
    """Reads random patches of an image with their pseudo labels; workers of a data loader receive it.

    A step of few patches of many images trains a better head than one of all patches of few images, whose patches
    resemble each other (bench/quality.md).
    """

    def __init__(
        self, features: FeatureCache, labels: Path, head: FeatureHead, patches: int, *, refined: bool, given: GivenMasks
    ) -> None:
        """Set up.

        Args:
            features: The features.
            labels: Folder RUN/labels. The probabilities of relabelling are used if there are any, otherwise masks.
            head: The head that is trained, with mean and deviation set.
            patches: Number of patches to draw of each image, with repetition.
            refined: Whether the masks were refined after relabelling; then the masks are used.
            given: Masks that people drew, which are used instead.
        """
        self.features = features
        self.masks = LabelFile(labels / "labels.h5", "masks")
        scores = labels / "scores.h5"
        self.scores = LabelFile(scores, "scores") if scores.is_file() and not refined else None
        self.given = given
        self.num_classes = head.num_classes
        self.mean = head.mean.cpu().half()  # (d, 1, 1)
        self.reach = head.reach
        self.patches = patches
        self._known: dict[str, tuple[list[int], Tensor]] = {}  # a few kilobytes an image

    def __call__(self, sample: Sample) -> FeatureViews:
        """Load one sample; torch's global generator draws the patches.

        Raises:
            DataError: Its features or labels cannot be read.
        """
        values, shares = self.whole(sample)
        height, width = values.shape[1:]
        # A convolution pads standardised features with 0, so the padding here is their mean.
        padded = self.mean.repeat(1, height + 2 * self.reach, width + 2 * self.reach)
        padded[:, self.reach : self.reach + height, self.reach : self.reach + width] = values
        place = torch.randint(height * width, (self.patches, 1, 1))
        near = torch.arange(2 * self.reach + 1)
        down, across = place // width + near[:, None], place % width + near
        return FeatureViews(
            padded.flatten(1)[:, down * padded.shape[2] + across].movedim(1, 0).contiguous(),
            shares.flatten(1)[:, place.flatten()].T.half(),
        )

    def whole(self, sample: Sample) -> tuple[Float[Tensor, "d h w"], Float[Tensor, "classes h w"]]:
        """Return the features of all patches of an image, and how much of each patch each label covers.

        Raises:
            DataError: Its features or labels cannot be read.
        """
        try:
            values = torch.from_numpy(self.features.read(sample.id))
            return values, self._shares(sample, (values.shape[1], values.shape[2]))
        except (KeyError, OSError, ArtifactError) as error:
            raise DataError(f"features or labels of '{sample.id}' cannot be read ({error})") from error

    def _shares(self, sample: Sample, grid: tuple[int, int]) -> Float[Tensor, "classes h w"]:
        known = self._known.get(sample.id)
        if known is None:
            known = self._read_shares(sample, grid)
            if len(self._known) < REMEMBERED_IMAGES:
                self._known[sample.id] = known
        numbers, own = known
        shares = torch.zeros(self.num_classes + 1, *grid)
        shares[numbers] = own.float()
        return shares

    def _read_shares(self, sample: Sample, grid: tuple[int, int]) -> tuple[list[int], Float[Tensor, "own h w"]]:
        """Shares of the labels that an image has, float16, and their numbers."""
        given = sample.id in self.given
        if self.scores is not None and not given and self.scores.classes(sample.id):
            own = F.adaptive_avg_pool2d(torch.from_numpy(self.scores.read(sample.id)).float(), grid)
            background = (1 - own.sum(dim=0, keepdim=True)).clamp_min(0)
            shares = torch.cat([background, own]) * patches_with_values(sample, grid)  # as 255 in the masks
            return [0, *self.scores.classes(sample.id)], shares.half()
        numbers, shares = mask_shares(self.given.read(sample) if given else self.masks.read(sample.id), grid)
        if any(number > self.num_classes for number in numbers):
            raise DataError(f"the mask of '{sample.id}' has the value {max(numbers)}")
        return numbers, shares.half()


def standardise(head: FeatureHead, features: FeatureCache, samples: Sequence[Sample]) -> None:
    """Set the head's mean and deviation of each feature to those of the samples."""
    some = [torch.from_numpy(features.read(one.id)).flatten(1).T for one in spread(samples, MEASURED_IMAGES)]
    mean, deviation = mean_and_deviation(torch.cat(some))
    head.mean.copy_(mean[:, None, None])
    head.deviation.copy_(deviation[:, None, None])
    features.close()  # before the workers of a data loader fork


def label_weights(load: LoadFeatures, samples: Sequence[Sample]) -> Float[Tensor, " classes"]:
    """Weight of each label in the loss: rare classes weigh more, but all objects together weigh what they cover.

    Balanced against the background, too, students find more of some defects and half as much of others
    (bench/quality.md). All images count the same, though those whose masks people drew are seen more often.
    """
    covered = torch.zeros(load.num_classes + 1)
    for sample in spread(samples, COUNTED_IMAGES):
        with suppress(DataError):  # the training reports it, or leaves the image out
            covered += load.whole(sample)[1].flatten(1).sum(dim=1)
    load.features.close()  # before the workers of a data loader fork
    objects = covered[1:]
    weights = balancing_weights(objects)
    weights *= objects.sum() / (weights @ objects).clamp_min(1e-6)
    weights[objects == 0] = 1  # in none of the images that were counted
    return torch.cat([torch.ones(1), weights])


def feature_losses(
    weights: Float[Tensor, " classes"], network: nn.Module, batch: FeatureViews, ranks: Ranks = SINGLE_RANK
) -> Mapping[str, Tensor]:
    """Cross-entropy against the shares of each patch, over the patches whose labels are known.

    Args:
        weights: Weight of each label, background first; on the device of the batch.
        network: Gives the logits of patches.
        batch: The patches.
        ranks: The ranks that share the batch.
    """
    features, shares = batch.features.flatten(0, 1), batch.shares.flatten(0, 1).float()
    logits = network(features, whole=False).float().flatten(1)
    weighted = shares * weights
    total = -(weighted * logits.log_softmax(dim=1)).sum()
    return {"loss": total / ranks.mean(weighted.sum()).clamp_min(1e-6), "labelled": shares.sum() / len(shares)}
