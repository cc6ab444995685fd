"""Train the heads of relabelling, and decide whether their masks are better than those of the CAMs.

Without ground-truth masks, the image labels decide. A linear head learns the masks of half of the images, background
included, and says which classes the other half shows. It does not know the classes of these images. Better masks teach
it better: their objects have in common what the class has in common. `head_classification` measures it, for the CAMs'
labels and for the new ones. bench/quality.md compares this and other signs with the ground truth.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.config import MakeLabels
from stages.relabel.heads import Loss, TwoHeads, train_head
from stages.relabel.rounds import Patches, relabel_rounds
from stages.runtime.monitor import Monitor

HIDDEN = {"linear": 0, "mlp": 64}  # width of the heads' hidden layer
# Of the foreground head. With the generalised cross-entropy an MLP loses small classes (bench/quality.md).
LOSS: Mapping[str, Loss] = {"linear": "gce", "mlp": "ce"}

MOST_CHANGE = 2.0  # factor by which the objects' share may grow or shrink without a warning
TOP = 20  # a class's score in an image is the mean over this part, 1 / TOP, of its patches
# Objects that cover more of an image give more patches to find the class by, so that the CAMs of a low threshold have a
# small advantage. It was 0.004 in the worst of nine cases where relabelling helped; where it harmed, the mean average
# precision fell by 0.07 or more (bench/quality.md).
TOLERANCE = 0.02
LEARNING_RATE_OF_TEST = 1e-3  # the head that tests masks has to learn them in one go
ASK = "'--relabel linear' or 'mlp' relabels all the same, and '--calibration-images 10' chooses by ground truth"


def chosen_heads(
    patches: Patches,
    config: MakeLabels,
    monitor: Monitor,
    measure: Callable[[TwoHeads | None], float] | None = None,
) -> tuple[str, TwoHeads] | None:
    """Run all rounds and return the kind of the heads with the heads, or None if the CAMs' masks are to stay.

    Args:
        patches: Patches with the seeds.
        config: Settings. With --relabel auto the heads are chosen, otherwise they are given.
        monitor: Receives progress, the choice and its reasons.
        measure: Measures the masks of heads, or of the CAMs (None), on a few ground-truth masks: their mIoU, 0..1.
    """
    if config.relabel != "auto":
        return config.relabel, _relabel(patches, config.relabel, config, monitor)
    if measure:
        return _best_measured(patches, config, monitor, measure)
    before = head_classification(patches, steps=config.relabel_steps)
    if math.isnan(before):
        monitor.note(f"relabelling: the image labels do not tell which masks are better, those of the CAMs stay. {ASK}")
        return None
    heads = _relabel(patches, "linear", config, monitor)
    after = head_classification(patches, steps=config.relabel_steps)
    better = after > before - TOLERANCE
    monitor.note(
        f"relabelling: {'the new masks are taken' if better else 'the masks of the CAMs stay'}. A head that learned "
        f"from half of the images names the classes of the others with a mean average precision of {before:.3f} from "
        f"the CAMs' labels, {after:.3f} from the new ones" + ("" if better else f". {ASK}")
    )
    return ("linear", heads) if better else None


def _best_measured(
    patches: Patches, config: MakeLabels, monitor: Monitor, measure: Callable[[TwoHeads | None], float]
) -> tuple[str, TwoHeads] | None:
    best, figures = None, {"none": measure(None)}
    for kind in HIDDEN:
        heads = _relabel(replace(patches), kind, config, monitor)
        figures[kind] = measure(heads)
        if figures[kind] > max(value for other, value in figures.items() if other != kind):
            best = kind, heads
    table = ", ".join(f"{kind} {100 * value:.1f}" for kind, value in figures.items())
    monitor.note(f"relabelling: {best[0] if best else 'none'}, chosen by the mIoU on ground-truth masks: {table}")
    return best


def _relabel(patches: Patches, kind: str, config: MakeLabels, monitor: Monitor) -> TwoHeads:
    """Run all rounds; `patches` have the new labels afterwards."""
    before = objects_share(patches)
    monitor.start(f"relabelling ({kind})", config.relabel_rounds, unit="rounds")
    heads = relabel_rounds(
        patches,
        rounds=config.relabel_rounds,
        steps=config.relabel_steps,
        after_round=lambda: monitor.advance(objects=objects_share(patches)),
        foreground_loss=LOSS[kind],
        hidden=HIDDEN[kind],
    )
    monitor.finish()
    after = objects_share(patches)
    monitor.note(f"relabelling: objects cover {before:.0%} of the images in the CAMs' labels, {after:.0%} afterwards")
    if config.relabel != "auto" and not before / MOST_CHANGE < after < min(before * MOST_CHANGE, 0.95):
        monitor.warn(
            f"relabelling changed the share of the objects from {before:.0%} to {after:.0%}: look at the masks, and "
            "compare with --relabel none"
        )
    return heads


def objects_share(patches: Patches) -> float:
    """Part of all patches that is not background, 0..1."""
    return 1 - float(patches.shares[:, 0].float().mean())


def head_classification(patches: Patches, *, steps: int) -> float:
    """How well a linear head that learned the labels of half of the images classifies the other half.

    Args:
        patches: Patches with labels. Every other image belongs to one half.
        steps: Training steps of each of the two heads.

    Returns:
        Mean over the classes of the average precision, 0..1; NaN if no class tells any images apart.
    """
    scores = torch.zeros(patches.allowed.shape, device=patches.features.device)
    for learn_even in (True, False):
        learn = (patches.image % 2 == 0) == learn_even
        head = linear_head(patches)
        train_head(
            head,
            patches.features[learn],
            patches.shares[learn],
            torch.ones(int(learn.sum()), device=learn.device),
            steps=steps,
            loss="ce",
            generator=torch.Generator().manual_seed(0),
            learning_rate=LEARNING_RATE_OF_TEST,
        )
        for image, own in enumerate(torch.split(patches.features, patches.image.bincount().tolist())):
            if image % 2 == int(learn_even):
                with torch.inference_mode():
                    found = head(own.float()).softmax(dim=1)[:, 1:]
                scores[image] = found.topk(max(1, len(found) // TOP), dim=0).values.mean(dim=0)
    return mean_average_precision(scores.cpu(), patches.allowed.cpu())


def linear_head(patches: Patches) -> nn.Module:
    """A new linear head for background and all classes; always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(patches.features.shape[1], patches.shares.shape[1]).to(patches.features.device)


def mean_average_precision(scores: Float[Tensor, "n c"], present: Bool[Tensor, "n c"]) -> float:
    """Mean of the classes' average precision; classes that all images or none have are left out. NaN if none is left.

    The average precision of a class is the mean, over the images that have it, of the precision among the images whose
    score is at least as large.
    """
    found = []
    for own, has in zip(scores.T, present.T, strict=True):
        if has.any() and not has.all():
            ranked = has[own.argsort(descending=True, stable=True)].double()
            precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
            found.append(float((precision * ranked).sum() / ranked.sum()))
    return sum(found) / len(found) if found else math.nan
