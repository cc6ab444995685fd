"""Relabelling: learn from noisy patch labels on frozen features, predict new labels, and repeat.

Seeds are the labels of CAMs. In each round new heads learn from the present labels of all patches of the data set, and
their predictions, restricted to the classes that each image is known to have, become the labels of the next round. A
head of little capacity with a noise-robust loss cannot learn the seeds' errors by heart: it keeps what is common to
many images. Where people drew masks, these are the seeds, which no round changes.

Letters: n patches, c classes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stages.labels.mask_shares import balancing_weights
from stages.relabel.companions import exchange_back
from stages.relabel.heads import Loss, PatchHeads, TwoHeads, decided, one_hot, train_head
from stages.relabel.patches import Patches


def relabel_rounds(
    patches: Patches,
    *,
    rounds: int,
    steps: int,
    after_round: Callable[[], None],
    foreground_loss: Loss = "gce",
    hidden: int = 0,
    seed: int = 0,
    labelled: Bool[Tensor, " images"] | None = None,
) -> TwoHeads:
    """Run all rounds and return the heads of the last one.

    After half of the rounds, classes whose labels were exchanged are exchanged back; see `companions`.

    Args:
        patches: Patches with seed labels, which each round replaces.
        rounds: Number of rounds, at least 1.
        steps: Training steps of each head in each round.
        after_round: Called after each round.
        foreground_loss: Loss of the first head. The second learns by cross-entropy, from object patches only, whose
            labels are cleaner.
        hidden: Width of the heads' hidden layer; 0 for linear heads.
        seed: Random seed.
        labelled: The images whose classes are given, not predicted; by default all.
    """
    for number in range(rounds):
        heads = train_heads(patches, steps=steps, foreground_loss=foreground_loss, hidden=hidden, seed=seed + number)
        predicted = predicted_shares(heads, patches)
        patches.shares = torch.where(patches.movable[:, None], predicted, patches.shares)
        if number + 1 == rounds // 2:  # the remaining rounds learn the repaired labels
            known = torch.ones_like(patches.allowed[:, 0]) if labelled is None else labelled
            patches.exchanged = exchange_back(patches, known)
        after_round()
    return heads


def train_heads(patches: Patches, *, steps: int, foreground_loss: Loss, hidden: int, seed: int) -> TwoHeads:
    """Train both heads on the present labels; the second only on patches that are more than half object."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = TwoHeads(patches.mean, patches.deviation, patches.allowed.shape[1], hidden).to(patches.features.device)
    generator = torch.Generator().manual_seed(seed)
    object_share, weight = 1 - patches.shares[:, 0].float(), patches.weight
    train_head(
        heads.foreground,
        patches.features,
        torch.stack([1 - object_share, object_share], dim=1),
        weight,
        steps=steps,
        loss=foreground_loss,
        generator=generator,
    )
    inside = (object_share > 0.5).nonzero().flatten()
    if len(inside):
        classes = patches.shares[inside, 1:].float()
        classes /= classes.sum(dim=1, keepdim=True)
        own = (weight * object_share)[inside]
        train_head(
            heads.classes,
            patches.features[inside],
            classes,
            own * (classes @ balancing_weights(own @ classes)),
            steps=steps,
            loss="ce",
            generator=generator,
        )
    return heads.eval().requires_grad_(False)


@torch.inference_mode()
def predicted_shares(heads: PatchHeads, patches: Patches) -> Float[Tensor, "n c1"]:
    """Label each patch by the heads, among the classes of its image."""
    classes = patches.allowed.shape[1]
    parts = []
    for first in range(0, len(patches.features), 2**16):
        part = slice(first, first + 2**16)
        allowed = patches.allowed[patches.image[part].long()]
        labels = decided(heads(patches.features[part].float(), allowed).T)
        parts.append(one_hot(labels, classes))
    return torch.cat(parts)
