"""Classes of the same images: detect that relabelling has exchanged the labels of two, and exchange them back.

Where nearly all images of a class show another class as well, as faces and bodies, image labels hardly tell the two
apart. The rounds of relabelling may end with their labels exchanged. The few images that show only one of them tell: a
head that learns the two from the images with both has to recognise the class of these.

Letters: n patches, c classes.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from stages.labels.mask_shares import balancing_weights
from stages.relabel.heads import train_probe
from stages.relabel.patches import Patches

NEARLY_ALL = 0.8  # of the images of a class that show the other class as well
MOST_PATCHES = 2**17  # of the images that show one class without the other; more say the same
FEWEST_ALONE = 4  # images that show one class without the other; with fewer, one odd image decides
MOST_PAIRS = 10  # that are examined: each costs about half a round
LEAST_SHARE = 0.1  # of each of the two, in the images with both; below it, one of them is lost, not exchanged
CONTRADICTED = 0.3  # mean probability of the right class in the images that show one only; by chance it is 0.5


def exchange_back(patches: Patches, known: Bool[Tensor, " images"]) -> tuple[tuple[int, int], ...]:
    """Exchange the labels of two classes, in place, in the images with both where other images contradict them.

    Args:
        patches: Patches with their labels.
        known: Images whose classes are known, not predicted; only these judge.

    Returns:
        Pairs of class numbers, 0-based, that were exchanged.
    """
    present = patches.allowed & known.to(patches.allowed.device)[:, None]
    exchanged = []
    for pair in companions(present):
        recognised = recognition(patches, present[:, list(pair)], pair)
        if recognised is not None and recognised < CONTRADICTED:
            both = patches.allowed[:, list(pair)].all(dim=1)[patches.image.long()] & patches.movable
            columns = torch.tensor(pair, device=both.device) + 1
            with torch.inference_mode():  # in which the labels of a round are made
                patches.shares[both.nonzero(), columns] = patches.shares[both][:, columns.flip(0)]
            exchanged.append(pair)
    return tuple(exchanged)


def companions(present: Bool[Tensor, "images c"]) -> list[tuple[int, int]]:
    """List the pairs of classes of which one nearly always occurs with the other, while some images show one only.

    Those that are hardest to tell apart come first: the share of their images that show one only is the lowest.
    """
    both = present.float().T @ present.float()
    counts = both.diagonal()
    alone = counts[:, None] - both  # images with the class of the row, without that of the column
    found = (both > 0) & (both >= NEARLY_ALL * torch.minimum(counts[:, None], counts))
    found &= torch.maximum(alone, alone.T) >= FEWEST_ALONE
    pairs = [(first, second) for first, second in found.triu(1).nonzero().tolist()]
    return sorted(pairs, key=lambda pair: float((alone + alone.T)[pair] / both[pair]))[:MOST_PAIRS]


def recognition(patches: Patches, has: Bool[Tensor, "images 2"], pair: tuple[int, int]) -> float | None:
    """Train a head on the images with both classes, and let it classify the images with one.

    Args:
        patches: Patches with their labels.
        has: Which of the two classes the images have.
        pair: Their numbers, 0-based.

    Returns:
        Mean probability of the right class, 0..1, that of the class that is recognised better: exchanged labels
        contradict both. None if there are too few patches or images to decide.
    """
    own = patches.shares[:, [number + 1 for number in pair]].float()
    image = patches.image.long()
    learned = (has.all(dim=1)[image] & (own.sum(dim=1) > 0.5)).nonzero().flatten()
    target = own[learned] / own[learned].sum(dim=1, keepdim=True)
    covered = target.sum(dim=0)
    if not covered.min() >= LEAST_SHARE * covered.sum() > 0:
        return None
    head = train_probe(patches.features[learned], target, target @ balancing_weights(covered).square())
    found = []
    for side in (0, 1):
        alone = has[:, side] & ~has[:, 1 - side]
        asked = (alone[image] & (own[:, side] > 0.5)).nonzero().flatten()
        asked = asked[:: 1 + len(asked) // MOST_PATCHES]
        with torch.inference_mode():
            right = head(patches.features[asked].float()).softmax(dim=1)[:, side]
        counts = image[asked].bincount(minlength=len(has))
        means = image[asked].bincount(right, minlength=len(has)) / counts
        if int((counts > 0).sum()) >= FEWEST_ALONE:
            found.append(float(means[counts > 0].mean()))
    return max(found, default=None)
