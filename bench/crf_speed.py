"""How fast is the dense CRF, where does its time go, and does it agree with pydensecrf?

    uv run python -m bench.crf_speed [--photos FOLDER] [--images N] [--labels K ...] [--likely K] [--device cuda]

Both passes of `toco make-labels --crf` (high and low background threshold) on images of 500 x 375: the published way
(pydensecrf, which builds its lattices in each pass), pydensecrf with shared lattices, toco's lattice, and both at half
resolution. The variants alternate on each image, so that other work on the machine affects all of them; figures are
medians. Without --photos, pictures are drawn. Their lattices differ in size from those of photographs.
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.timing import Rows, add_options, describe, print_table, timed
from bench.workload import draw_scenes
from data.image_files import find_images
from data.images import read_image
from stages.networks.inference import to_tensor
from stages.run_folder.run_data import spread
from stages.runtime.fabric import make_fabric
from stages.toco.crf import (
    FOR_PSEUDO_LABELS,
    FOR_SEGMENTATION,
    CrfParameters,
    PyDenseCrf,
    TorchCrf,
    gaussian_lattice,
    sharpen,
)
from stages.toco.lattice import bilateral_features

WIDTH, HEIGHT = 500, 375
PARAMETERS = {"pseudo labels": FOR_PSEUDO_LABELS, "segmentation": FOR_SEGMENTATION}

Crf = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]  # images and the two unaries of each


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table of the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=3)
    parser.add_argument("--photos", type=Path, help="folder of photographs, resized to 500 x 375 [drawn pictures]")
    parser.add_argument("--images", type=int, default=5, help="number of images [5]")
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 3, 21], help="labels with background [2 3 21]")
    parser.add_argument("--likely", type=int, default=4, help="likely labels in one more run of the last [4]")
    parser.add_argument("--batch", type=int, default=8, help="images at a time on a GPU [8]")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads or 1)  # pydensecrf uses one thread
    device = make_fabric(options.device).device
    images = load_pictures(options.photos, options.images, options.seed)
    print(f"{describe(device)}, seed {options.seed}")
    source = f"photographs of {options.photos}" if options.photos else "drawn pictures"
    print(f"{len(images)} {source}, {WIDTH} x {HEIGHT}; seconds per image for both passes, medians\n")
    label_counts = [(labels, labels) for labels in options.labels]
    if options.likely < options.labels[-1]:
        label_counts.append((options.labels[-1], options.likely))
    generator = torch.Generator().manual_seed(options.seed)
    rows: Rows = []
    for name in PARAMETERS:
        for labels, likely in label_counts:
            unaries = [random_unaries(labels, likely, generator) for _ in images]
            kind = f"{labels}" if likely == labels else f"{labels}, {likely} likely"
            for row in compare(images, unaries, PARAMETERS[name], device, options):
                rows.append({"parameters": name, "labels": kind, **row})
    print_table(rows)
    for name in PARAMETERS:
        print_breakdown(images[0].to(device), name, device, options.repeats)
    return rows


def load_pictures(folder: Path | None, count: int, seed: int) -> list[Tensor]:
    """Load or draw images, (3, h, w) in uint8."""
    if folder is None:
        scenes = draw_scenes(count, WIDTH, np.random.default_rng(seed))
        pictures = [Image.fromarray(scene.image) for scene in scenes]
    else:
        pictures = [read_image(path) for path in spread(sorted(find_images(folder).values()), count)]
    return [to_tensor(one.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).contiguous() for one in pictures]


def random_unaries(labels: int, likely: int, generator: torch.Generator) -> Tensor:
    """Two smooth random unaries, (2, labels, h, w). Labels beyond the likely ones have tiny probabilities."""
    logits = 2 * torch.randn(2, labels, 6, 8, generator=generator)
    logits[:, likely:] -= 14
    return F.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False).softmax(dim=1)


def compare(
    images: Sequence[Tensor],
    unaries: Sequence[Tensor],
    parameters: CrfParameters,
    device: torch.device,
    options: argparse.Namespace,
) -> Rows:
    """Measure time and agreement of all variants that run on this machine."""
    variants = available_variants(parameters, device)
    times: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, list[Tensor]] = {name: [] for name in variants}
    timed(device, variants["toco"], images[:1], unaries[:1])  # warm-up
    for image, unary in zip(images, unaries, strict=True):
        for name, run in variants.items():
            seconds, result = timed(device, run, [image], [unary])
            times[name].append(seconds)
            results[name] += [one.cpu() for one in result]
    if device.type == "cuda":
        places = [number % len(images) for number in range(options.batch)]
        batch = [images[place] for place in places], [unaries[place] for place in places]
        seconds, result = timed(device, variants["toco"], *batch, repeats=options.repeats)
        name = f"toco, {options.batch} at a time"
        times[name] = [seconds / options.batch]
        results[name] = [one.cpu() for one in result[: len(images)]]
    first = statistics.median(next(iter(times.values())))
    rows: Rows = []
    for name, seconds_each in times.items():
        median = statistics.median(seconds_each)
        row = {"variant": name, "s an image": median, f"speed over {next(iter(times))}": first / median}
        if reference := results.get("pydensecrf, shared lattices"):
            row["equal labels, %"], row["dp < 1e-3, %"] = agreement(results[name], reference)
        rows.append(row)
    return rows


def available_variants(parameters: CrfParameters, device: torch.device) -> dict[str, Crf]:
    """Return the variants by name; those of pydensecrf only if it is installed."""

    def two_passes(images: Sequence[Tensor], unaries: Sequence[Tensor]) -> list[Tensor]:
        passes = [PyDenseCrf(images, parameters).infer([one[place : place + 1] for one in unaries]) for place in (0, 1)]
        return [torch.cat(pair) for pair in zip(*passes, strict=True)]

    def shared(images: Sequence[Tensor], unaries: Sequence[Tensor]) -> list[Tensor]:
        return PyDenseCrf(images, parameters).infer(unaries)

    def toco(images: Sequence[Tensor], unaries: Sequence[Tensor], *, fast: bool) -> list[Tensor]:
        on_device = [one.to(device) for one in images], [one.to(device) for one in unaries]
        return sharpen(*on_device, parameters, "torch", fast=fast)

    variants: dict[str, Crf] = {}
    if importlib.util.find_spec("pydensecrf") is not None:
        variants["pydensecrf, two passes"] = two_passes
        variants["pydensecrf, shared lattices"] = shared
    return {**variants, "toco": partial(toco, fast=False), "toco, fast": partial(toco, fast=True)}


def agreement(results: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, float]:
    """Percent of pixels with equal labels, and with all probabilities within 1e-3."""
    pairs = list(zip(results, reference, strict=True))
    same = [(a.argmax(1) == b.argmax(1)).double().mean().item() for a, b in pairs]
    near = [((a - b).abs().amax(1) < 1e-3).double().mean().item() for a, b in pairs]
    return 100 * statistics.mean(same), 100 * statistics.mean(near)


def print_breakdown(image: Tensor, name: str, device: torch.device, repeats: int) -> None:
    """Print the time of each part of toco's CRF, for one image and three labels."""
    parameters = PARAMETERS[name]
    features = bilateral_features(
        image[None].float(), sigma_xy=parameters.bilateral_xy, sigma_rgb=parameters.bilateral_rgb
    )
    later, crf = timed(device, TorchCrf, [image], parameters, repeats=repeats)
    gaussian_lattice.cache_clear()
    first, _ = timed(device, TorchCrf, [image], parameters)
    print(
        f"{name}: {features.shape[1]} pixels; both lattices built in {1000 * first:.0f} ms, in {1000 * later:.0f} ms "
        "for a further image of that size\n"
    )
    rows: Rows = []
    for kernel, lattice in zip(("Gaussian", "bilateral"), crf.kernels, strict=True):
        values = torch.rand(features.shape[1], 4, device=device)  # two passes, three labels; the last is not filtered
        splat, table = timed(device, torch.matmul, lattice.splat, values, repeats=repeats)
        blur, blurred = timed(device, blur_all, lattice.blurs, table, repeats=repeats)
        cut, _ = timed(device, torch.matmul, lattice.slice, blurred, repeats=repeats)
        moved = sum(
            matrix.values().numel() * (4 + 4 + 4 * values.shape[1])  # value, column, and the row it reads
            + matrix.shape[0] * (4 + 4 * values.shape[1])  # row start, and the row it writes
            for matrix in (lattice.splat, *lattice.blurs, lattice.slice)
        )
        milliseconds = {"splat, ms": 1000 * splat, "blur, ms": 1000 * blur, "slice, ms": 1000 * cut}
        rate = moved / (splat + blur + cut) / 1e9
        rows.append({"lattice": kernel, "vertices": lattice.size, **milliseconds, "GB/s": rate})
    print_table(rows)


def blur_all(blurs: Sequence[Tensor], table: Tensor) -> Tensor:
    """Apply all directions of the blur."""
    for blur in blurs:
        table = blur @ table
    return table


if __name__ == "__main__":
    main()
