"""Classes that are in the same images: notice that relabelling has exchanged two of them, and exchange them back.

Where nearly all images of a class show another class as well, as faces and bodies, image labels hardly tell the two
apart. The rounds of relabelling may end with their labels exchanged. The few images that show only one of them tell: a
head that learns the two from the images with both has to recognise the class of these.

Letters: n patches, c classes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.labels.mask_shares import balancing_weights
from stages.relabel.heads import train_head

NEARLY_ALL = 0.8  # of the images of a class that show the other class as well
FEWEST_ALONE = 4  # images that show one of the two only; with fewer, one odd image decides
MOST_ALONE = 300  # that are asked
LEAST_SHARE = 0.1  # of each of the two, in the images with both; below it, one of them is lost, not exchanged
PAIR_STEPS = 300
PAIR_LEARNING_RATE = 1e-3  # larger than for relabelling: this head has to learn the labels
CONTRADICTED = 0.3  # mean probability of the right class in the images that show one only; by chance it is 0.5


def exchange_back(
    features: Float[Tensor, "n d"],
    shares: Float[Tensor, "n c1"],
    image: Int[Tensor, " n"],
    allowed: Bool[Tensor, "images c"],
    known: Bool[Tensor, " images"],
    movable: Bool[Tensor, " n"],
) -> tuple[tuple[int, int], ...]:
    """Exchange the labels of two classes, in place, in the images with both where other images contradict them.

    Args:
        features: Standardised features of all patches.
        shares: Their labels.
        image: Number of each patch's image.
        allowed: The classes that an image has, known or predicted.
        known: Images whose classes are known; only these judge.
        movable: Patches whose labels may change, because people did not draw them.

    Returns:
        Pairs of class numbers, 0-based, that were exchanged.
    """
    exchanged = []
    for first, second in companions(allowed & known[:, None]):
        recognised = recognition(features, shares, image, allowed & known[:, None], (first, second))
        if recognised is not None and recognised < CONTRADICTED:
            both = (allowed[:, first] & allowed[:, second])[image.long()] & movable
            columns = [first + 1, second + 1]
            with torch.inference_mode():  # in which the labels of a round are made
                shares[both.nonzero(), torch.tensor(columns, device=shares.device)] = shares[both][:, columns[::-1]]
            exchanged.append((first, second))
    return tuple(exchanged)


def companions(present: Bool[Tensor, "images c"]) -> list[list[int]]:
    """List each two classes of which one is nearly always in images with the other, but a few images show one only."""
    both = present.float().T @ present.float()
    counts = both.diagonal()
    fewer = torch.minimum(counts[:, None], counts)
    alone = counts[:, None] + counts - 2 * both
    found = (both > 0) & (both >= NEARLY_ALL * fewer) & (alone >= FEWEST_ALONE)
    pairs: list[list[int]] = found.triu(1).nonzero().tolist()
    return pairs


def recognition(
    features: Float[Tensor, "n d"],
    shares: Float[Tensor, "n c1"],
    image: Int[Tensor, " n"],
    present: Bool[Tensor, "images c"],
    pair: tuple[int, int],
) -> float | None:
    """Mean probability of the right class of two, in the images with one of them, by a head of the images with both.

    Returns:
        0..1; None if too few patches or images say anything.
    """
    own = shares[:, [pair[0] + 1, pair[1] + 1]].float()
    has, numbers = present[:, list(pair)], image.long()
    learned = (has.all(dim=1)[numbers] & (own.sum(dim=1) > 0.5)).nonzero().flatten()
    target = own[learned] / own[learned].sum(dim=1, keepdim=True)
    covered = target.sum(dim=0)
    if not covered.min() >= LEAST_SHARE * covered.sum() > 0:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(features.shape[1], 2).to(features.device)
    train_head(
        head,
        features[learned],
        target,
        target @ balancing_weights(covered).square(),
        steps=PAIR_STEPS,
        loss="ce",
        generator=torch.Generator().manual_seed(0),
        learning_rate=PAIR_LEARNING_RATE,
    )
    alone = (has[:, 0] ^ has[:, 1]).nonzero().flatten()
    asked = torch.zeros(len(present), dtype=torch.bool, device=image.device)
    asked[alone[:: -(-len(alone) // MOST_ALONE) or 1]] = True
    only = has[:, 1].long()[numbers, None]  # which of the two
    patches = (asked[numbers] & (own.gather(1, only)[:, 0] > 0.5)).nonzero().flatten()
    with torch.inference_mode():
        right = head(features[patches].float()).softmax(dim=1).gather(1, only[patches])[:, 0]
    counts = numbers[patches].bincount(minlength=len(present))
    means = numbers[patches].bincount(right, minlength=len(present)) / counts
    return float(means[counts > 0].mean()) if int((counts > 0).sum()) >= FEWEST_ALONE else None
