"""Train a head on stored features: load them with their pseudo labels, and the loss.

Letters: b images, d width of the features, g patches on each side of the padded square.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.dataset import IGNORE_INDEX, Sample
from data.errors import ArtifactError, DataError
from stages.features.cache import FeatureCache, mean_and_deviation
from stages.labels.store import LabelFile
from stages.networks.feature_network import FeatureHead
from stages.run_folder.run_data import spread
from stages.toco.ranks import SINGLE_RANK, Ranks

MEASURED_IMAGES = 100  # on which mean and deviation of the features are measured


class FeatureViews(NamedTuple):
    """The features of an image and its labels, padded to a square."""

    features: Tensor  # float16 (d, g, g)
    shares: Tensor  # float16 (classes, g, g): how much of a patch each label covers; all 0 where nothing is known


class LoadFeatures:
    """Reads the features of an image with its pseudo labels; workers of a data loader receive it."""

    def __init__(self, features: FeatureCache, labels: Path, head: FeatureHead, side: int, *, refined: bool) -> None:
        """Set up.

        Args:
            features: The features.
            labels: Folder RUN/labels. The probabilities of relabelling are used if there are any, otherwise masks.
            head: The head that is trained, with mean and deviation set.
            side: Patches on the longer side of an image, g.
            refined: Whether the masks were refined after relabelling; then the masks are used.
        """
        self.features = features
        self.masks = LabelFile(labels / "labels.h5", "masks")
        scores = labels / "scores.h5"
        self.scores = LabelFile(scores, "scores") if scores.is_file() and not refined else None
        self.num_classes = head.num_classes
        self.mean = head.mean.cpu().clone()  # (d, 1, 1)
        self.side = side

    def __call__(self, sample: Sample) -> FeatureViews:
        """Load one sample.

        Raises:
            DataError: Its features or labels cannot be read.
        """
        try:
            values = torch.from_numpy(self.features.read(sample.id))
            shares = self._shares(sample, (values.shape[1], values.shape[2]))
        except (KeyError, OSError, ArtifactError) as error:
            raise DataError(f"features or labels of '{sample.id}' cannot be read ({error})") from error
        height, width = values.shape[1:]
        # A convolution pads standardised features with 0, so the padding here is their mean.
        padded = self.mean.half().expand(-1, self.side, self.side).clone()
        padded[:, :height, :width] = values
        return FeatureViews(padded, F.pad(shares.half(), (0, self.side - width, 0, self.side - height)))

    def _shares(self, sample: Sample, grid: tuple[int, int]) -> Float[Tensor, "classes h w"]:
        if self.scores is not None and self.scores.classes(sample.id):
            own = torch.from_numpy(self.scores.read(sample.id)).float()
            shares = torch.zeros(self.num_classes + 1, *own.shape[1:])
            shares[list(self.scores.classes(sample.id))] = own
            shares[0] = (1 - own.sum(dim=0)).clamp_min(0)
            return F.adaptive_avg_pool2d(shares, grid)
        mask = torch.from_numpy(self.masks.read(sample.id))
        odd = (mask > self.num_classes) & (mask != IGNORE_INDEX)
        if odd.any():
            raise DataError(f"the mask of '{sample.id}' has the value {int(mask[odd][0])}")
        # One class after the other, because all planes of a large photograph together may not fit into memory.
        numbers = range(self.num_classes + 1)
        return torch.cat([F.adaptive_avg_pool2d((mask == number)[None].float(), grid) for number in numbers])


def standardise(head: FeatureHead, features: FeatureCache, samples: Sequence[Sample]) -> None:
    """Set the head's mean and deviation of each feature to those of the samples."""
    some = [torch.from_numpy(features.read(one.id)).flatten(1).T for one in spread(samples, MEASURED_IMAGES)]
    mean, deviation = mean_and_deviation(torch.cat(some))
    head.mean.copy_(mean[:, None, None])
    head.deviation.copy_(deviation[:, None, None])
    features.close()  # before the workers of a data loader fork


def feature_losses(network: nn.Module, batch: FeatureViews, ranks: Ranks = SINGLE_RANK) -> Mapping[str, Tensor]:
    """Cross-entropy against the shares of each patch, over all patches whose labels are known."""
    logits = network(batch.features).float()
    shares = batch.shares.float()
    total = -(shares * logits.log_softmax(dim=1)).sum()
    known = shares.sum()
    return {"loss": total / ranks.mean(known).clamp_min(1e-6), "labelled": known / shares[:, 0].numel()}
