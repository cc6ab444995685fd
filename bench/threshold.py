"""Which criterion finds the background score of CAMs without true masks? A table for a run that has some.

    uv run python -m bench.threshold RUN [--images 100]

Each criterion chooses a score from the grid; beside it stands the mIoU of the CAMs' labels there, against the true
masks, and what the best score of the grid would have given. The last row is a choice by a few true masks.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from bench.opened import open_run
from data.readers import read_mask
from stages.labels.choose_background import GRID, agreement, sharpened_labels, token_contrast
from stages.networks.inference import decoder_probabilities, load_image, resize_maps
from stages.run_folder.run_data import spread
from stages.toco.cam import labels_at
from stages.toco.metrics import Confusion


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder in which 'toco train-cam' finished, of data with masks")
    parser.add_argument("--images", type=int, default=100, help="images to measure on")
    parser.add_argument("--crf-images", type=int, default=30, help="of these, images for the criterion with a CRF")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    opened = open_run(arguments.run, arguments.device)
    maker, classes = opened.maker, opened.classes
    model, config, fabric = maker.model, maker.config, maker.fabric
    samples = opened.with_masks(arguments.images)

    truth = [Confusion(classes + 1) for _ in GRID]
    by = {name: [Confusion(classes + 1) for _ in GRID] for name in ("auxiliary CAM", "decoder", "CRF")}
    histogram = torch.zeros(1000)
    foreground = torch.zeros(len(GRID))
    few = {sample.id for sample in spread(samples, 8)}
    by_few = [Confusion(classes + 1) for _ in GRID]
    sharpened = {sample.id for sample in spread(samples, arguments.crf_images)}
    assert config.image_size is not None
    edges, tokens, own = torch.zeros(len(GRID)), torch.zeros(len(GRID)), []
    for one in maker.scores(samples, details=True):
        size = (one.image.shape[-2], one.image.shape[-1])
        mask = torch.from_numpy(read_mask(one.sample, size, classes)).long()
        numbers = torch.tensor([0, *one.sample.classes])
        scores, auxiliary = one.scores.float(), one.auxiliary
        assert auxiliary is not None
        histogram += torch.histc(scores.amax(dim=0).cpu(), 1000, 0, 1)
        square = load_image(one.sample, config.image_size).squashed[None].to(fabric.device)
        with fabric.autocast(), torch.inference_mode():
            probabilities = resize_maps(decoder_probabilities(model, square, (1.0,))[0], size)
        decoded = probabilities[[0, *one.sample.classes]].argmax(dim=0)
        own.append(otsu(torch.histc(scores.amax(dim=0).cpu(), 1000, 0, 1)))
        strength = edge_strength(one.image)
        tokens += token_contrast(one) / len(samples)
        for place, score in enumerate(GRID):
            label = labels_at(scores, score)
            edges[place] += edge_contrast(label, strength) / len(samples)
            foreground[place] += (label > 0).float().mean().cpu() / len(samples)
            truth[place].add(numbers[label.cpu()], mask)
            if one.sample.id in few:
                by_few[place].add(numbers[label.cpu()], mask)
            by["auxiliary CAM"][place].add(numbers[label.cpu()], numbers[labels_at(auxiliary.float(), score).cpu()])
            by["decoder"][place].add(numbers[label.cpu()], numbers[decoded.cpu()])
        if one.sample.id in sharpened:
            refined = sharpened_labels(one, config)
            for place, score in enumerate(GRID):
                by["CRF"][place].add(numbers[labels_at(scores, score).cpu()], numbers[refined[place].cpu()])
    figures = [confusion.scores().miou for confusion in truth]
    best = max(range(len(GRID)), key=figures.__getitem__)
    print(f"{arguments.run}: {len(samples)} images, {classes} classes, device {fabric.device}")
    print("background  mIoU  foreground  edges  tokens  " + "  ".join(f"agrees with {name}, kappa" for name in by))
    for place, score in enumerate(GRID):
        agreements = "  ".join(
            f"{100 * agreement(by[name][place]):10.1f} {100 * kappa(by[name][place]):5.1f}" for name in by
        )
        others = f"{foreground[place]:8.2f}  {edges[place]:6.3f}  {tokens[place]:6.4f}"
        print(f"{score:8.2f}  {100 * figures[place]:6.1f}  {others}  {agreements}")
    print(f"\nbest with all masks: {GRID[best]:.2f}, mIoU {100 * figures[best]:.1f}")
    chosen = {f"agreement with {name}": max(range(len(GRID)), key=lambda i: agreement(by[name][i])) for name in by}
    chosen |= {f"kappa with {name}": max(range(len(GRID)), key=lambda i: kappa(by[name][i])) for name in by}
    chosen["borders on edges"] = int(edges.argmax())
    chosen["contrast of tokens"] = int(tokens.argmax())
    products = [agreement(confusion) * float(part) for confusion, part in zip(by["CRF"], tokens, strict=True)]
    chosen["CRF x tokens (auto)"] = max(range(len(GRID)), key=products.__getitem__)
    mean = sum(own) / len(own)
    chosen["Otsu, mean over images"] = min(range(len(GRID)), key=lambda i: abs(GRID[i] - mean))
    threshold = otsu(histogram)
    chosen["Otsu"] = min(range(len(GRID)), key=lambda i: abs(GRID[i] - threshold))
    chosen["half of it background"] = min(range(len(GRID)), key=lambda i: abs(float(foreground[i]) - 0.5))
    chosen["8 true masks"] = max(range(len(GRID)), key=lambda i: by_few[i].scores().miou)
    for name, place in chosen.items():
        lost = figures[best] - figures[place]
        print(f"{name:32} {GRID[place]:.2f}  mIoU {100 * figures[place]:5.1f}  lost {100 * lost:4.1f}")


def kappa(confusion: Confusion) -> float:
    """How well two label maps agree beyond chance: Cohen's kappa, 1 for equal maps, 0 for unrelated ones."""
    counts = confusion.counts[:, :-1].double()
    total = counts.sum().clamp_min(1)
    observed = counts.diagonal().sum() / total
    expected = (counts.sum(dim=0) * counts.sum(dim=1)).sum() / total**2
    return float((observed - expected) / (1 - expected).clamp_min(1e-9))


def edge_contrast(label: Int[Tensor, "h w"], strength: Float[Tensor, "h w"]) -> float:
    """How much stronger the image's edges are along the borders of a label map than on average; 0 without borders."""
    border = torch.zeros_like(label, dtype=torch.bool)
    for axis in (0, 1):
        differs = label.diff(dim=axis) != 0
        border.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
        border.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
    if not border.any():
        return 0.0
    return float(strength[border].mean() / strength.mean().clamp_min(1e-9))


def edge_strength(image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """Length of the brightness gradient (Sobel)."""
    grey = image.float().mean(dim=0)[None, None]
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=image.device)[None, None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    return (F.conv2d(padded, kernel) ** 2 + F.conv2d(padded, kernel.transpose(2, 3)) ** 2).sqrt()[0, 0]


def otsu(histogram: Float[Tensor, " bins"]) -> float:
    """Otsu's threshold of scores in 0..1: the one between whose sides the variance is largest."""
    centres = (torch.arange(len(histogram)) + 0.5) / len(histogram)
    below = histogram.cumsum(0)
    total, moment = below[-1], (histogram * centres).cumsum(0)
    above = total - below
    between = (moment * above - (moment[-1] - moment) * below) ** 2 / (below * above).clamp_min(1e-9)
    return float((torch.argmax(between) + 1) / len(histogram))


if __name__ == "__main__":
    main()
