"""What does refining pseudo masks bring? mIoU of none, par, crf, crf fast and par+crf over background scores.

    uv run python -m bench.refine RUN [--images 100]

For each refinement the score that is best with all true masks, and the one that `--background auto` chooses.
The two scores around it that refinements take (high and low) are those of `toco make-labels`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from bench.opened import open_run
from data.readers import read_mask
from stages.labels.choose_background import choose_background
from stages.labels.label_settings import resolved
from stages.runtime.monitor import SilentMonitor
from stages.toco.cam import label_one_threshold
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.metrics import Confusion, Scores
from stages.toco.refine import against_backgrounds, average_with_par, most_likely

SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
WAYS = ("none", "par", "crf", "crf fast", "par+crf")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder in which 'toco train-cam' finished, of data with masks")
    parser.add_argument("--images", type=int, default=100, help="images to measure on [100]")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    opened = open_run(options.run, options.device)
    maker, classes = opened.maker, opened.classes
    config, fabric = maker.config, maker.fabric
    choosing = replace(config, background="auto")
    auto = choose_background(maker.scores, opened.images, classes, choosing, SilentMonitor())
    samples = opened.with_masks(options.images)
    backgrounds = sorted({*SCORES, auto})
    confusions = {(way, background): Confusion(classes + 1) for way in WAYS for background in backgrounds}
    for one in maker.scores(samples):
        mask = torch.from_numpy(read_mask(one.sample, (one.image.shape[-2], one.image.shape[-1]), classes)).long()
        numbers = torch.full((256,), 255)
        numbers[: len(one.sample.classes) + 1] = torch.tensor([0, *one.sample.classes])
        scores = one.scores.float()
        # All background scores side by side, high and low of each.
        pairs = []
        for background in backgrounds:
            bounds = resolved(config, opened.trained, background)
            assert bounds.background_high is not None
            assert bounds.background_low is not None
            pairs += [bounds.background_high, bounds.background_low]
        unaries = against_backgrounds(scores, pairs)
        averaged = average_with_par(unaries, one.image)
        refined = {
            "par": averaged,
            "crf": sharpen([one.image], [unaries], FOR_PSEUDO_LABELS)[0],
            "crf fast": sharpen([one.image], [unaries], FOR_PSEUDO_LABELS, fast=True)[0],
            "par+crf": sharpen([one.image], [averaged], FOR_PSEUDO_LABELS)[0],
        }
        for place, background in enumerate(backgrounds):
            plain = label_one_threshold(scores[None], background)[0]
            confusions["none", background].add(numbers[plain.cpu()], mask)
            for way, probabilities in refined.items():
                label = most_likely(probabilities[2 * place : 2 * place + 2]).label
                confusions[way, background].add(numbers[label.cpu()], mask)
    print(f"{options.run}: {len(samples)} images, {classes} classes, device {fabric.device}; auto chose {auto:g}\n")
    print("| refinement | auto: mIoU | where labelled | labelled | best score | mIoU | where labelled | labelled |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        results = {background: confusions[way, background].scores() for background in backgrounds}
        best = max(backgrounds, key=lambda background: results[background].miou)
        print(f"| {way} | {figures(results[auto])} | {best:g} | {figures(results[best])} |")
    print("\nmIoU in % at each score: " + ", ".join(f"{background:g}" for background in backgrounds))
    for way in WAYS:
        print(f"{way:9} " + "  ".join(f"{100 * confusions[way, one].scores().miou:5.1f}" for one in backgrounds))


def figures(scores: Scores) -> str:
    """Three cells in percent."""
    return " | ".join(f"{100 * one:.1f}" for one in (scores.miou, scores.miou_ignoring_unlabelled, scores.labelled))


if __name__ == "__main__":
    main()
