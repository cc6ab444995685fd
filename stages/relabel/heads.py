"""Heads on frozen features: one separates objects from background, the other names their class.

Two heads instead of one softmax over background and classes: the first learns what objects have in common from the
images of all classes, so that a class whose own seeds failed is found by what the other classes' objects look like.

Letters: n patches, d width of the features, c classes (without background), h w patches down and across.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Loss = Literal["gce", "ce"]

PATCHES_PER_STEP = 2048  # patches of a step
# For standardised features. Heads that learn faster learn the errors of the seeds: on MSRC, 1e-2 gave masks of 70.1,
# 1e-3 of 79.3 and 3e-4 of 81.0 (mIoU in %, one seed; bench/quality.md).
LEARNING_RATE = 3e-4
PROBE_STEPS = 300
PROBE_LEARNING_RATE = 1e-3  # larger than for relabelling: a probe has to learn all labels
Q = 0.7  # of the generalised cross-entropy: 0 is cross-entropy, 1 the mean absolute error


class PatchHeads(nn.Module, ABC):
    """Class probabilities of patches, from standardised features."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"]):
        """Keep the mean and the standard deviation of each feature over the data set."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def standardised(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Bring each feature to mean 0 and deviation 1."""
        return (features - self.mean) / self.deviation

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "n d"], allowed: Bool[Tensor, "n c"] | Bool[Tensor, "1 c"] | None = None
    ) -> Float[Tensor, "n c1"]:
        """Probabilities of background and classes.

        Args:
            features: Standardised features.
            allowed: The classes that the patch's image is known to have; by default all. Where none is allowed, the
                patch is background.
        """


class TwoHeads(PatchHeads):
    """One head separates objects from background, the other names their class."""

    def __init__(self, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"], classes: int, hidden: int = 0):
        """Begin with random weights.

        Args:
            mean: Mean of each feature over the data set.
            deviation: Its standard deviation.
            classes: Number of classes without background.
            hidden: Width of a hidden layer; 0 for linear heads.
        """
        super().__init__(mean, deviation)
        self.foreground = _head(len(mean), 2, hidden)
        self.classes = _head(len(mean), classes, hidden)

    def forward(
        self, features: Float[Tensor, "n d"], allowed: Bool[Tensor, "n c"] | Bool[Tensor, "1 c"] | None = None
    ) -> Float[Tensor, "n c1"]:
        """Probabilities of background and classes."""
        foreground = self.foreground(features).softmax(dim=1)
        logits = self.classes(features)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        shares = logits.softmax(dim=1).nan_to_num(0.0)
        probabilities = torch.cat([foreground[:, :1], foreground[:, 1:] * shares], dim=1)
        return probabilities / probabilities.sum(dim=1, keepdim=True)


def _head(width: int, outputs: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def noise_robust_loss(logits: Float[Tensor, "n k"], target: Float[Tensor, "n k"], loss: Loss) -> Float[Tensor, " n"]:
    """Loss of each patch against shares that sum to 1.

    gce: generalised cross-entropy (Zhang and Sabuncu 2018, equation 6), whose gradient gives wrong labels, which the
    network finds unlikely, less weight than cross-entropy (ce) does.
    """
    if loss == "ce":
        return -(target * logits.log_softmax(dim=1)).sum(dim=1)
    power = (Q * logits.log_softmax(dim=1)).exp()
    return (target * (1 - power) / Q).sum(dim=1)


def train_head(
    head: nn.Module,
    features: Tensor,
    target: Float[Tensor, "n k"],
    weight: Float[Tensor, " n"],
    *,
    steps: int,
    loss: Loss,
    generator: torch.Generator,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train one head, in place.

    Args:
        head: Takes standardised features (n, d).
        features: (n, d) of any float type, standardised.
        target: Shares of its outputs.
        weight: Weight of each patch.
        steps: Training steps, of PATCHES_PER_STEP patches each.
        loss: The loss.
        generator: Draws the patches; on the CPU.
        learning_rate: Largest learning rate.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    for chosen in _batches(len(features), steps, generator):
        chosen = chosen.to(features.device)
        own = weight[chosen]
        each = noise_robust_loss(head(features[chosen].float()), target[chosen].float(), loss)
        total = (own * each).sum() / own.sum().clamp_min(1.0)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def train_probe(features: Float[Tensor, "n d"], target: Float[Tensor, "n k"], weight: Float[Tensor, " n"]) -> nn.Module:
    """Train a linear head by cross-entropy, to measure how well features tell labels apart; always the same one.

    Args:
        features: Standardised features.
        target: Shares of the labels.
        weight: Weight of each patch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(features.shape[1], target.shape[1]).to(features.device)
    train_head(
        head,
        features,
        target,
        weight,
        steps=PROBE_STEPS,
        loss="ce",
        generator=torch.Generator().manual_seed(0),
        learning_rate=PROBE_LEARNING_RATE,
    )
    return head


def _batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(count, (PATCHES_PER_STEP,), generator=generator)


def probabilities_map(
    heads: PatchHeads, features: Float[Tensor, "d h w"], allowed: Bool[Tensor, " c"] | None = None
) -> Float[Tensor, "c1 h w"]:
    """Probabilities of the patches of one image, from its features as the encoder gives them."""
    patches = heads.standardised(features.flatten(1).T)
    found = heads(patches, None if allowed is None else allowed[None])
    result: Tensor = found.T.reshape(-1, *features.shape[1:])
    return result


def decided(probabilities: Float[Tensor, "c1 *size"]) -> Tensor:
    """Label each place: first object or background, then which class.

    The most likely of all would favour the background in images of several classes, which share the foreground.
    """
    foreground = probabilities[0] < 0.5
    return torch.where(foreground, probabilities[1:].argmax(dim=0) + 1, 0)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Shares (n, classes + 1) of labels (n,)."""
    return F.one_hot(labels, classes + 1).to(torch.float16)
