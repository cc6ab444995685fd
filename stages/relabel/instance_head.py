"""Multiple-instance learning: a head on frozen features that learns from the image labels alone, without CAMs.

An image is a bag of patches. The head gives each patch a score of each class; the mean of an image's largest scores is
its score of the class, and learns the image label (Dietterich et al. 1997). A patch is object where its
score is above those of images that do not have the class.

CAMs come from the last block of a network that saw small images. Small defects are lost there, and where all images
look alike, the network may not even learn the image labels. A block before the last ones still shows such parts
(bench/quality.md).

Letters: n patches, d width of the features, c classes.
"""

from collections.abc import Callable, Container, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.dataset import Sample
from data.errors import DataError
from stages.features.cache import FeatureCache
from stages.relabel.average_precision import average_precision
from stages.relabel.heads import PatchHeads
from stages.relabel.patches import BYTES, Patches
from stages.run_folder.run_data import spread

TOP_PATCHES = 5  # patches whose mean score is that of the image
# Training on bags ends in one of several solutions, depending on the initial weights. A head may separate its training
# images by patches that do not show the class. So several heads learn at once. For each class, the head that classifies
# held-out images best is taken. On the magnetic tiles 1 head of 5 to 20 finds the cracks.
STARTS = 60
HELD_OUT = 4  # one of four images is held out
STEPS = 500  # for the choice, and again for the chosen heads, which then learn the held-out images as well
IMAGES_PER_STEP = 8
INSTANCE_LEARNING_RATE = 3e-3
# Differences of scores are divided by this. Most patches are about 0.5 below the threshold; undivided, students learn
# a third of an object everywhere: 27 instead of 37 mIoU on the magnetic tiles (bench/quality.md).
TEMPERATURE = 0.05
IMAGES_TO_SIZE = 50  # whose features say how many images memory holds: images may differ in shape
FALSE_ALARMS = 0.02  # part of the images without a class that may have a patch above its threshold
MANY_WITHOUT = 50  # enough for FALSE_ALARMS


class InstanceHead(PatchHeads):
    """A linear score of each class, and the threshold above which a patch is object."""

    threshold: Tensor

    def __init__(self, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"], classes: int):
        """Begin with random weights.

        Args:
            mean: Mean of each feature over the data set.
            deviation: Its standard deviation.
            classes: Number of classes without background.
        """
        super().__init__(mean, deviation)
        self.register_buffer("threshold", torch.zeros(classes))
        self.scores = nn.Linear(len(mean), classes)

    def forward(
        self, features: Float[Tensor, "n d"], allowed: Bool[Tensor, "n c"] | Bool[Tensor, "1 c"] | None = None
    ) -> Float[Tensor, "n c1"]:
        """Probabilities of background and classes: 0.5 for a class whose score is its threshold."""
        above = (self.scores(features) - self.threshold) / TEMPERATURE
        if allowed is not None:
            above = above.masked_fill(~allowed, -torch.inf)
        return F.pad(above, (1, 0)).softmax(dim=1)


def images_in_memory(
    samples: Sequence[Sample], features: FeatureCache, first: Container[str] = (), limit: int = BYTES
) -> Sequence[Sample]:
    """Return as many images as memory holds with all their patches, because one of these is the object.

    Args:
        samples: The images, of which `images_of_all_classes` draws.
        features: Their features.
        first: Ids of images that are taken before others.
        limit: Bytes of the features, at most.
    """
    sizes = [features.read(one.id).nbytes for one in spread(samples, IMAGES_TO_SIZE)]
    return images_of_all_classes(samples, max(1, limit * len(sizes) // sum(sizes)), first)


def images_of_all_classes(samples: Sequence[Sample], most: int, first: Container[str] = ()) -> Sequence[Sample]:
    """Draw images at random, but some with and some without each class; all if there are not more.

    Args:
        samples: The images.
        most: Number of images to draw. Below twice the number of classes, some classes may have no image.
        first: Ids of images that are taken before others.
    """
    if len(samples) <= most:
        return samples
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    classes = {number for one in samples for number in one.classes}
    each = max(1, most // max(1, 2 * len(classes)))
    without = max(each, min(MANY_WITHOUT, most // 4))  # the same images for most classes
    kept: set[int] = set()
    for number in classes:
        kept.update([place for place in drawn if number in samples[place].classes][:each])
        kept.update([place for place in drawn if number not in samples[place].classes][:without])
    ranked = sorted(drawn, key=lambda place: (samples[place].id not in first, place not in kept))
    return [samples[place] for place in sorted(ranked[:most])]


def train_instance_head(
    patches: Patches, labelled: Bool[Tensor, " images"], after_step: Callable[[], object] = lambda: None
) -> InstanceHead:
    """Learn the image labels of the images whose classes are given, and find the threshold of each class.

    Patches whose labels people drew learn these as well. `after_step` is called 2 STEPS times.

    Raises:
        DataError: All images have a class, so that nothing tells where it is.
    """
    counts = patches.image.bincount(minlength=len(patches.allowed))
    labelled = labelled.to(counts.device) & (counts > 0)  # of some images no pixel has a value
    everywhere = patches.allowed[labelled].all(dim=0)
    if everywhere.any():
        raise DataError(
            f"class {int(everywhere.nonzero()[0]) + 1} is in all images, and --relabel mil learns from the difference "
            "to images without it: use --relabel linear, or add images without the class"
        )
    head = scoring_head(patches, labelled.nonzero().flatten(), STARTS, after_step)
    head.threshold.copy_(_thresholds(head, patches, labelled))
    return head


def scoring_head(
    patches: Patches,
    images: Int[Tensor, " some"],
    starts: int,
    after_step: Callable[[], object] = lambda: None,
) -> InstanceHead:
    """Learn the labels of some images, without thresholds.

    Args:
        patches: All patches.
        images: Indices of the images to learn from.
        starts: Heads that begin with different weights. Of several, the best on held-out images is taken.
        after_step: Called after each training step.
    """
    classes = patches.allowed.shape[1]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = InstanceHead(patches.mean, patches.deviation, classes).to(patches.features.device)
        several = nn.Linear(len(patches.mean), starts * classes).to(patches.features.device)
    if starts > 1:
        drawn = rarest_first(images, patches.allowed, generator)
        held_out = torch.arange(len(drawn)) % HELD_OUT == HELD_OUT - 1
        _learn(several, patches, drawn[~held_out], generator, STEPS, after_step)
        best = best_starts(several, patches, drawn[held_out], images)
        chosen = best * classes + torch.arange(classes)
        with torch.no_grad():
            head.scores.weight.copy_(several.weight[chosen])
            head.scores.bias.copy_(several.bias[chosen])
    _learn(head.scores, patches, images, generator, STEPS if starts > 1 else 2 * STEPS, after_step)
    return head.eval().requires_grad_(False)


def rarest_first(
    images: Int[Tensor, " some"], present: Bool[Tensor, "every c"], generator: torch.Generator
) -> Int[Tensor, " some"]:
    """Shuffle images, then sort them by their classes, of which the rarest decides first.

    Images with the same classes are then neighbours, so that every second or fourth image of the result has its part of
    each class.

    Args:
        images: Indices of the images.
        present: Which classes they have, and other images as well.
        generator: Shuffles; on the CPU.
    """
    drawn = images[torch.randperm(len(images), generator=generator)]
    by_rarity = present[:, present[drawn].sum(dim=0).argsort(stable=True)].tolist()
    return drawn[sorted(range(len(drawn)), key=lambda place: by_rarity[int(drawn[place])])]


def best_starts(
    several: nn.Linear, patches: Patches, held_out: Int[Tensor, " some"], every: Int[Tensor, " more"]
) -> Int[Tensor, " c"]:
    """Number of the head with the largest average precision of each class.

    Classes that none or all of the held-out images have are judged by all images.
    """
    scores = image_scores_of(several, patches)  # (images, starts * c)
    classes = patches.allowed.shape[1]
    allowed = patches.allowed.cpu()

    def precision(images: Int[Tensor, " some"]) -> Float[Tensor, "starts c"]:
        own = images.cpu()
        starts = scores.shape[1] // classes
        return average_precision(scores[own], allowed[own].repeat(1, starts)).view(starts, classes)

    judged = precision(held_out)
    judged = torch.where(judged.isnan(), precision(every), judged).nan_to_num(0.0)
    return judged.argmax(dim=0)


def _learn(
    scorer: nn.Linear,
    patches: Patches,
    images: Int[Tensor, " some"],
    generator: torch.Generator,
    steps: int,
    after_step: Callable[[], object],
) -> None:
    """Let one or several linear heads, whose scores are joined, learn the labels of images, in place."""
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=INSTANCE_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, INSTANCE_LEARNING_RATE, total_steps=steps, pct_start=0.1)
    starts = scorer.out_features // patches.allowed.shape[1]
    ends = patches.image.bincount(minlength=len(patches.allowed)).cumsum(0).tolist()
    order: list[int] = []
    for _ in range(steps):
        while len(order) < IMAGES_PER_STEP:
            order += images[torch.randperm(len(images), generator=generator)].tolist()
        chosen, order = order[:IMAGES_PER_STEP], order[IMAGES_PER_STEP:]
        losses = []
        for image in chosen:
            own = slice(ends[image - 1] if image else 0, ends[image])
            scores = scorer(patches.features[own].float())  # (n, starts * c)
            present = patches.allowed[image].float().repeat(starts)
            losses.append(F.binary_cross_entropy_with_logits(image_score(scores), present))
            if patches.fixed is not None and (drawn := patches.fixed[own]).any():
                shares = patches.shares[own][drawn, 1:].float().repeat(1, starts)
                losses.append(F.binary_cross_entropy_with_logits(scores[drawn], shares))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        after_step()


@torch.inference_mode()
def _thresholds(head: InstanceHead, patches: Patches, labelled: Bool[Tensor, " images"]) -> Float[Tensor, " c"]:
    """Score of each class that few of the images without it reach anywhere."""
    by_image = zip(_scores_by_image(head.scores, patches), labelled.tolist(), strict=True)
    largest = torch.stack([scores.amax(dim=0) for scores, has_labels in by_image if has_labels])
    columns = zip(largest.T, ~patches.allowed[labelled].T, strict=True)
    return torch.stack([found[without].quantile(1 - FALSE_ALARMS) for found, without in columns])


def image_score(scores: Float[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """Scores of an image's classes: means over the patches with the highest scores."""
    return scores.topk(min(TOP_PATCHES, len(scores)), dim=0).values.mean(dim=0)


@torch.inference_mode()
def image_scores_of(scorer: nn.Linear, patches: Patches) -> Float[Tensor, "images c"]:
    """Scores of all images; NaN for images without patches."""
    return torch.stack([image_score(scores) for scores in _scores_by_image(scorer, patches)]).cpu()


def _scores_by_image(scorer: nn.Linear, patches: Patches) -> Iterator[Float[Tensor, "_n c"]]:
    """Yield the scores of one image after the other: those of all heads on all patches may fill the memory."""
    counts = patches.image.bincount(minlength=len(patches.allowed)).tolist()
    for own in torch.split(patches.features, counts):
        yield scorer(own.float())
