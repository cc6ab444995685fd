"""Train the heads of relabelling, and decide whether their masks are better than those of the CAMs.

Without ground-truth masks, the image labels decide. A linear head learns the masks of half of the images, background
included. It then predicts which classes the other half shows. Better masks make a better classifier, because patches
with the same label then show the same thing. `head_classification` measures this for the CAMs' labels and for the new
ones. bench/quality.md compares this and other signs with the ground truth.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.config import MakeLabels
from stages.relabel import instance_head
from stages.relabel.average_precision import mean_average_precision
from stages.relabel.heads import Loss, PatchHeads, train_probe
from stages.relabel.instance_head import train_instance_head
from stages.relabel.patches import Patches
from stages.relabel.rounds import predicted_shares, relabel_rounds
from stages.runtime.monitor import Monitor

HIDDEN = {"linear": 0, "mlp": 64}  # width of the heads' hidden layer
# Of the foreground head. With the generalised cross-entropy an MLP loses small classes (bench/quality.md).
LOSS: Mapping[str, Loss] = {"linear": "gce", "mlp": "ce"}

# Mean average precision of the test. Below it, neither masks show the classes well. MSRC has 0.83 to 0.87. Drawn cells
# have 0.72, and masks that are worse than those of --relabel mil (bench/quality.md).
SOUND_LABELS = 0.8
MOST_CHANGE = 2.0  # factor by which the objects' share may grow or shrink without a warning

# Objects that cover more of an image give more patches to find the class by, so that the CAMs of a low threshold have a
# small advantage; and chance draws the halves. bench/quality.md has the cases that this was chosen on, and one in which
# the choice is wrong.
TOLERANCE = 0.05
TOP = 20  # a class's score in an image is the mean over this part, 1 / TOP, of its patches
ASK = "To relabel anyway, use --relabel linear or mlp; to choose by ground truth, use --calibration-images 10"
WEAK = "This is weak evidence: look at the masks, or choose by ground truth with --calibration-images 10"


class Chosen(NamedTuple):
    """Heads, and of which kind they are."""

    kind: str  # linear, mlp or mil
    heads: PatchHeads
    exchanged: tuple[tuple[int, int], ...] = ()  # pairs of classes, 0-based, see `companions`


def chosen_heads(
    patches: Patches,
    labelled: Bool[Tensor, " images"],
    config: MakeLabels,
    monitor: Monitor,
    measure: Callable[[PatchHeads | None], float] | None = None,
) -> Chosen | None:
    """Run all rounds and return the heads, or None if the CAMs' masks are to stay.

    Args:
        patches: Patches with the seeds.
        labelled: The images whose classes are given, not predicted; only these judge masks.
        config: Settings. With --relabel auto the heads are chosen, otherwise they are given.
        monitor: Receives progress, the choice and its reasons.
        measure: Measures the masks of heads, or of the CAMs (None), on a few ground-truth masks: their mIoU, 0..1.
    """
    before = objects_share(patches)
    chosen: Chosen | None
    if config.relabel != "auto":
        chosen = _relabelled(patches, config.relabel, labelled, config, monitor)
    elif measure:
        chosen = _best_measured(patches, labelled, config, monitor, measure)
    else:
        chosen = _linear_or_none(patches, labelled, config, monitor)
    if chosen is None:
        return None
    after = objects_share(patches)
    monitor.note(f"relabelling: objects cover {before:.0%} of the images in the CAMs' labels, {after:.0%} afterwards")
    expected = (before / MOST_CHANGE, before * MOST_CHANGE) if chosen.kind != "mil" else (0, 1)  # mil does not use them
    if not expected[0] < after < min(expected[1], 0.95):
        monitor.warn(
            f"relabelling changed the share of the objects from {before:.0%} to {after:.0%}: look at the masks, and "
            "compare with --relabel none"
        )
    return chosen


def _linear_or_none(
    patches: Patches, labelled: Bool[Tensor, " images"], config: MakeLabels, monitor: Monitor
) -> Chosen | None:
    before = head_classification(patches, labelled)
    if math.isnan(before):
        monitor.note(
            "relabelling: the masks of the CAMs stay. The image labels cannot tell which masks are better, because no "
            f"class is in some of the images only. {ASK}"
        )
        return None
    chosen = _relabelled(patches, "linear", labelled, config, monitor)
    after = head_classification(patches, labelled)
    better = after > before - TOLERANCE
    advice = "" if better else f". {ASK}"
    if abs(after - before) < TOLERANCE:
        advice = f". {WEAK}"
    monitor.note(
        f"relabelling: {'the new masks are taken' if better else 'the masks of the CAMs stay'}. Test: a head "
        f"learns the labels of half of the images and classifies the other half. Mean average precision: {before:.3f} "
        f"with the labels of the CAMs, {after:.3f} with the new ones{advice}"
    )
    if max(before, after) < SOUND_LABELS:
        monitor.warn(
            "the masks hardly teach a head to tell the classes apart: its mean average precision is "
            f"{max(before, after):.2f}, and should be {SOUND_LABELS:g} or more. Objects may be small, or other things "
            "may look like them. Compare with masks that need no CAMs: make-labels --relabel mil"
        )
    return chosen if better else None


def _best_measured(
    patches: Patches,
    labelled: Bool[Tensor, " images"],
    config: MakeLabels,
    monitor: Monitor,
    measure: Callable[[PatchHeads | None], float],
) -> Chosen | None:
    tried = {kind: replace(patches) for kind in HIDDEN}  # each with labels of its own
    chosen = {kind: _relabelled(own, kind, labelled, config, monitor) for kind, own in tried.items()}
    figures = {"none": measure(None), **{kind: measure(one.heads) for kind, one in chosen.items()}}
    best = max(figures, key=figures.__getitem__)  # the first, none, if several are best
    table = ", ".join(f"{kind} {100 * value:.1f}" for kind, value in figures.items())
    monitor.note(f"relabelling: {best}, chosen by the mIoU on ground-truth masks: {table}")
    if best == "none":
        return None
    patches.shares = tried[best].shares
    return chosen[best]


def _relabelled(
    patches: Patches, kind: str, labelled: Bool[Tensor, " images"], config: MakeLabels, monitor: Monitor
) -> Chosen:
    """Train heads of one kind; `patches` have the new labels afterwards."""
    if kind == "mil":
        monitor.start("relabelling (mil)", 2 * instance_head.STEPS, unit="steps")
        head = train_instance_head(patches, labelled, monitor.advance)
        monitor.finish()
        patches.shares = predicted_shares(head, patches)
        return Chosen(kind, head)
    monitor.start(f"relabelling ({kind})", config.relabel_rounds, unit="rounds")
    heads = relabel_rounds(
        patches,
        rounds=config.relabel_rounds,
        steps=config.relabel_steps,
        after_round=lambda: monitor.advance(objects=objects_share(patches)),
        foreground_loss=LOSS[kind],
        hidden=HIDDEN[kind],
        labelled=labelled,
    )
    monitor.finish()
    return Chosen(kind, heads, patches.exchanged)


def refinement_stays(before: float, after: float, refinement: str, monitor: Monitor) -> bool:
    """Whether refined masks of the CAMs are to stay, by the same test as for relabelling.

    A CRF follows colours. Objects that are thin, or that differ from the background by their texture alone, are lost
    (bench/quality.md).

    Args:
        before: `head_classification` of the CAMs' labels.
        after: That of the refined masks' labels.
        refinement: Its name, as --refine has it.
        monitor: Gets a warning if they are not to stay.
    """
    if not after < before - TOLERANCE:  # also if it cannot be told
        return True
    monitor.warn(
        f"the masks of the CAMs are not refined, because --refine {refinement} harms them: a head that learns the "
        f"labels of half of the images classifies the other half with a mean average precision of {before:.3f} without "
        f"it and {after:.3f} with it. To refine anyway, use --relabel none --refine {refinement}"
    )
    return False


def objects_share(patches: Patches) -> float:
    """Part of all patches that is not background, 0..1."""
    return 1 - float(patches.shares[:, 0].float().mean())


def head_classification(patches: Patches, labelled: Bool[Tensor, " images"]) -> float:
    """How well a linear head that learned the labels of half of the images classifies the other half.

    Args:
        patches: Patches with labels.
        labelled: The images whose classes are given, not predicted.

    Returns:
        Mean average precision, 0..1, over the classes and over both halves; NaN if no class tells any images apart.
    """
    scores = torch.zeros(patches.allowed.shape)
    found = []
    for half, head in held_out_heads(patches):
        for image, own in probabilities_by_image(head, patches, half):
            scores[image] = image_scores(own)[1:].cpu()
        judges = half[labelled[half]]
        found.append(mean_average_precision(scores[judges], patches.allowed.cpu()[judges]))
    return sum(found) / len(found)


def held_out_heads(patches: Patches) -> Iterator[tuple[Int[Tensor, " half"], nn.Module]]:
    """Yield each half of the images, with a linear head that learned the labels of the other half.

    The halves are drawn, because data sets are often sorted.
    """
    order = torch.randperm(len(patches.allowed), generator=torch.Generator().manual_seed(0))
    for half in (order[::2], order[1::2]):
        learn = torch.ones(len(order), dtype=torch.bool)
        learn[half] = False
        learning = learn.to(patches.image.device)[patches.image.long()].float()
        yield half, train_probe(patches.features, patches.shares, learning)


def probabilities_by_image(
    head: nn.Module, patches: Patches, images: Int[Tensor, " half"]
) -> Iterator[tuple[int, Float[Tensor, "n c1"]]]:
    """Yield the number of each image that has patches, and the probabilities that a head gives these."""
    features = torch.split(patches.features, patches.image.bincount(minlength=len(patches.allowed)).tolist())
    for image in images.tolist():
        if len(features[image]):
            with torch.inference_mode():
                yield image, head(features[image].float()).softmax(dim=1)


def image_scores(probabilities: Float[Tensor, "n c1"]) -> Float[Tensor, " c1"]:
    """Scores of an image's classes: means over the patches with the highest probabilities."""
    return probabilities.topk(max(1, len(probabilities) // TOP), dim=0).values.mean(dim=0)
