"""Classes that are in the same images: notice that relabelling has exchanged two of them, and exchange them back.

Where nearly all images of a class show another class as well, as faces and bodies, image labels hardly tell the two
apart. The rounds of relabelling may end with their labels exchanged. The few images that show only one of them tell: a
head that learns the two from the images with both has to recognise the class of these.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.labels.mask_shares import balancing_weights
from stages.relabel.heads import train_head

NEARLY_ALL = 0.8  # of the images of a class that show the other class as well
FEWEST_ALONE = 3  # images that show one of the two only
FEWEST_PATCHES = 20  # of each of the two, in the images with both
PAIR_STEPS = 300
PAIR_LEARNING_RATE = 1e-3  # larger than for relabelling: this head has to learn the labels
CONTRADICTED = 0.3  # mean probability of the right class in the images that show one only; by chance it is 0.5


def exchange_back(
    features: Float[Tensor, "n d"],
    shares: Float[Tensor, "n c1"],
    image: Int[Tensor, " n"],
    allowed: Bool[Tensor, "images c"],
    movable: Bool[Tensor, " n"],
) -> tuple[tuple[int, int], ...]:
    """Exchange the labels of two classes, in place, in the images with both where other images contradict them.

    Args:
        features: Standardised features of all patches.
        shares: Their labels.
        image: Number of each patch's image.
        allowed: The classes that an image is known to have.
        movable: Patches whose labels may change: nobody drew them.

    Returns:
        Pairs of class numbers, 0-based, that were exchanged.
    """
    exchanged = []
    for first, second in companions(allowed):
        recognised = recognition(features, shares, image, allowed, (first, second))
        if recognised is not None and recognised < CONTRADICTED:
            both = (allowed[:, first] & allowed[:, second])[image.long()] & movable
            columns = [first + 1, second + 1]
            with torch.inference_mode():  # in which the labels of a round are made
                shares[both.nonzero(), torch.tensor(columns, device=shares.device)] = shares[both][:, columns[::-1]]
            exchanged.append((first, second))
    return tuple(exchanged)


def companions(allowed: Bool[Tensor, "images c"]) -> Iterator[tuple[int, int]]:
    """Yield each two classes of which one is nearly always in images with the other, but a few images show one only."""
    present = allowed.float()
    both = present.T @ present
    counts = both.diagonal()
    for first in range(len(counts)):
        for second in range(first + 1, len(counts)):
            together, fewer = both[first, second], min(counts[first], counts[second])
            alone = counts[first] + counts[second] - 2 * together
            if together > 0 and together >= NEARLY_ALL * fewer and alone >= FEWEST_ALONE:
                yield first, second


def recognition(
    features: Float[Tensor, "n d"],
    shares: Float[Tensor, "n c1"],
    image: Int[Tensor, " n"],
    allowed: Bool[Tensor, "images c"],
    pair: tuple[int, int],
) -> float | None:
    """Mean probability of the right class of two, in the images with one of them, by a head of the images with both.

    Returns:
        0..1; None if too few patches or images say anything.
    """
    own = shares[:, [pair[0] + 1, pair[1] + 1]].float()
    has = allowed[:, list(pair)][image.long()]  # (n, 2)
    learned = (has.all(dim=1) & (own.sum(dim=1) > 0.5)).nonzero().flatten()
    target = own[learned] / own[learned].sum(dim=1, keepdim=True)
    if len(learned) == 0 or target.sum(dim=0).min() < FEWEST_PATCHES:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(features.shape[1], 2).to(features.device)
    train_head(
        head,
        features[learned],
        target,
        target @ balancing_weights(target.sum(dim=0)).square(),
        steps=PAIR_STEPS,
        loss="ce",
        generator=torch.Generator().manual_seed(0),
        learning_rate=PAIR_LEARNING_RATE,
    )
    right = []
    for number in (allowed[:, pair[0]] ^ allowed[:, pair[1]]).nonzero().flatten().tolist():
        only = int(allowed[number, pair[1]])
        patches = ((image == number) & (own[:, only] > 0.5)).nonzero().flatten()
        if len(patches):
            with torch.inference_mode():
                right.append(float(head(features[patches].float()).softmax(dim=1)[:, only].mean()))
    return sum(right) / len(right) if len(right) >= FEWEST_ALONE else None
