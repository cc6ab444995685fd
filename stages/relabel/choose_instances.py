"""Decide whether the CAM network or a head that learns from single patches shows where the classes are.

A network that cannot tell apart the images that it was trained on does not show where their classes are. Then a head
on frozen features may do better. Its figure is that of images that it did not learn from, and the network's is
lowered for those that it did. No ground truth is needed. bench/quality.md has the cases.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.dataset import Sample
from stages.config import MakeLabels
from stages.features.cache import FeatureCache, compute_features
from stages.features.spec import feature_spec
from stages.labels.maker import LabelMaker
from stages.labels.mask_shares import patches_with_values
from stages.networks.inference import class_label_matrix
from stages.relabel import instance_head
from stages.relabel.average_precision import mean_average_precision
from stages.relabel.instance_head import (
    image_scores_of,
    images_in_memory,
    images_of_all_classes,
    rarest_first,
    scoring_head,
)
from stages.relabel.patches import Patches, collect_patches
from stages.run_folder.artifacts import open_stage

SOUND = 0.8  # mean average precision of a network that has learned the image labels
# It is higher on the images that a network was trained on than on others: by 0.06 to 0.08 in three networks.
OPTIMISM = 0.05
CLASSIFIED_IMAGES = 300  # that are classified, at most
FEWEST_CLASSIFIED = 40  # with fewer, chance decides which figure is higher
STARTS_OF_TEST = 10  # heads of which the best is taken; the figure of a single one is a matter of luck


def learns_from_instances(run: Path, samples: Sequence[Sample], maker: LabelMaker, config: MakeLabels) -> bool:
    """Whether a head that learns from single patches makes the masks.

    Args:
        run: The run folder; features that are computed for the comparison are kept there.
        samples: The images to label.
        maker: The CAM network.
        config: Settings, with --relabel auto.

    Raises:
        DataError: An image is bad, and bad images are not to be skipped.
        SettingsError: The network of the features is not available.
    """
    known = [one for one in samples if one.labelled]
    classes = range(1, maker.model.num_classes + 1)
    if len(known) < FEWEST_CLASSIFIED or any(all(number in one.classes for one in known) for number in classes):
        return False
    some = images_of_all_classes(known, CLASSIFIED_IMAGES)
    network = network_classification(some, maker)
    if not network < SOUND:  # also if it cannot be told
        return False
    spec = feature_spec(replace(config, relabel="mil"), open_stage(run, "cam"))
    with closing(compute_features(run, spec, some, config, maker.fabric, maker.monitor)) as features:
        patches = unlabelled_patches([one for one in some if one.id in features], features, maker)
    maker.monitor.start("testing heads on single patches", 4 * instance_head.STEPS, unit="steps")
    found = instance_classification(patches, maker.monitor.advance)
    maker.monitor.finish()
    if math.isnan(found):  # too few images
        return False
    better = found > network - OPTIMISM
    what_follows = (
        "so this head makes the masks instead of the CAMs, without a CRF (--relabel mil --refine none --scales 1)"
        if better
        else "which is not better: train the network longer, or with a larger --image-size"
    )
    maker.monitor.warn(
        f"the CAM network has not learned the image labels well: its mean average precision is {network:.2f} on images "
        f"that it was trained on, some {network - OPTIMISM:.2f} on others. A head that learns them from single patches "
        f"of frozen features has {found:.2f} on images that it was not trained on, {what_follows}"
    )
    return better


def network_classification(samples: Sequence[Sample], maker: LabelMaker) -> float:
    """Mean average precision, 0..1, with which the CAM network classifies images; NaN if all have the same classes.

    It is the mean over two halves, as that of the heads is: by chance it is higher for fewer images.
    """
    maker.monitor.start("classifying training images", len(samples))
    found = []
    for one in maker.classified(samples):
        found.append(one)
        maker.monitor.advance()
    maker.monitor.finish()
    present = class_label_matrix([sample for sample, _ in found], maker.model.num_classes) > 0
    scores = torch.stack([own for _, own in found])
    both = halves(torch.arange(len(found)), present)
    return sum(mean_average_precision(scores[half], present[half]) for half in both) / 2


def instance_classification(patches: Patches, after_step: Callable[[], object] = lambda: None) -> float:
    """Mean average precision, 0..1, of heads that learned from one half of the images, on the other half.

    NaN if fewer than two images have pixels with a value. `after_step` is called 4 STEPS times, 2 for each half.
    """
    present = patches.allowed.cpu()
    first, second = halves(torch.unique(patches.image).long().cpu(), present)  # of some images no pixel has a value
    if not len(second):
        return math.nan
    found = []
    for learned, judged in ((first, second), (second, first)):
        scores = image_scores_of(scoring_head(patches, learned, STARTS_OF_TEST, after_step).scores, patches)
        found.append(mean_average_precision(scores[judged], present[judged]))
    return sum(found) / len(found)


def halves(
    images: Int[Tensor, " n"], present: Bool[Tensor, "every c"]
) -> tuple[Int[Tensor, " half"], Int[Tensor, " other"]]:
    """Draw two halves of images. The images of a rare class are divided evenly, because both halves need some.

    Args:
        images: Indices of the images.
        present: Which classes they have, and other images as well.
    """
    drawn = rarest_first(images, present, torch.Generator().manual_seed(0))
    return drawn[::2], drawn[1::2]


def unlabelled_patches(samples: Sequence[Sample], features: FeatureCache, maker: LabelMaker) -> Patches:
    """Load all patches with a value. Their labels are all background: heads on single patches do not use them."""
    classes = maker.model.num_classes
    by_id = {one.id: one for one in images_in_memory(samples, features)}

    def background(_: str, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
        return torch.eye(classes + 1)[0][:, None, None].expand(-1, *grid)

    return collect_patches(
        features.read,
        background,
        [(one.id, one.classes) for one in by_id.values()],
        classes,
        seed=0,
        device=maker.fabric.device,
        usable=lambda image_id, grid: patches_with_values(by_id[image_id], grid),
        limit=sys.maxsize,  # see `images_in_memory`
    )
