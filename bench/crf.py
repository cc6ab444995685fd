"""How fast is the dense CRF, where does its time go, and does it agree with pydensecrf?

    uv run python -m bench.crf [--photos FOLDER] [--images N] [--labels K ...] [--likely K] [--device cuda]

Both passes of `toco make-labels --crf` (high and low background) on images of 500 x 375: the published way (pydensecrf,
each pass building its lattices), pydensecrf with shared lattices, toco's lattice, and that at half resolution. The ways
take turns on each image, so that other work on the machine meets all of them; medians. Without --photos, pictures are
drawn: their lattices are smaller or larger than those of photographs, which the table says.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import draw_scene
from data.images import find_images, read_image
from stages.networks.inference import to_tensor
from stages.run_folder.run_data import spread
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

Result = TypeVar("Result")
WIDTH, HEIGHT = 500, 375
PARAMETERS = {"pseudo labels": FOR_PSEUDO_LABELS, "segmentation": FOR_SEGMENTATION}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs, resized to 500 x 375 [drawn pictures]")
    parser.add_argument("--images", type=int, default=5, help="images [5]")
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 3, 21], help="labels with the background [2 3 21]")
    parser.add_argument("--likely", type=int, default=4, help="and the last again, of which so many are likely [4]")
    parser.add_argument("--batch", type=int, default=8, help="images at a time on a GPU [8]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch; pydensecrf takes one [1]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and unaries [0]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = pictures(options.photos, options.images, options.seed)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {options.threads} CPU thread(s), torch {torch.__version__}, seed {options.seed}")
    source = f"photographs of {options.photos}" if options.photos else "drawn pictures"
    print(f"{len(images)} {source}, {WIDTH} x {HEIGHT}; seconds an image for both passes, medians\n")
    counts = [(labels, labels) for labels in options.labels]
    if options.likely < options.labels[-1]:
        counts.append((options.labels[-1], options.likely))
    compare(images, counts, device, options.batch, options.seed)
    for parameters in PARAMETERS:
        breakdown(images[0].to(device), parameters, device)


def pictures(folder: Path | None, count: int, seed: int) -> list[Tensor]:
    """Images (3, h, w) in uint8."""
    if folder is None:
        rng = np.random.default_rng(seed)
        scenes = [
            Image.fromarray(draw_scene(DEMO_KINDS, WIDTH, rng, first_kind=number % len(DEMO_KINDS)).image)
            for number in range(count)
        ]
    else:
        scenes = [read_image(path) for path in spread(sorted(find_images(folder).values()), count)]
    return [to_tensor(scene.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).contiguous() for scene in scenes]


def compare(
    images: Sequence[Tensor], label_counts: Sequence[tuple[int, int]], device: torch.device, batch: int, seed: int
) -> None:
    """Print time and agreement of each way, for so many labels and likely ones among them."""
    print("| parameters | labels | way | s an image | of two passes | equal labels, % | dp < 1e-3, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    generator = torch.Generator().manual_seed(seed)
    for name, parameters in PARAMETERS.items():
        for labels, likely in label_counts:
            unaries = [probabilities(labels, likely, generator) for _ in images]
            ways = chosen_ways(parameters, device)
            times: dict[str, list[float]] = {way: [] for way in ways}
            results: dict[str, list[Tensor]] = {way: [] for way in ways}
            for image, unary in zip(images, unaries, strict=True):
                for way, run in ways.items():
                    seconds, result = timed(device, run, [image], [unary])
                    times[way].append(seconds)
                    results[way] += [one.cpu() for one in result]
            if device.type == "cuda":
                places = [number % len(images) for number in range(batch)]
                many = [images[place] for place in places], [unaries[place] for place in places]
                seconds, result = timed(device, ways["toco"], *many, repeats=3)
                times[f"toco, {batch} at a time"] = [seconds / batch]
                results[f"toco, {batch} at a time"] = [one.cpu() for one in result[: len(images)]]
            longest = statistics.median(next(iter(times.values())))
            for way, seconds_each in times.items():
                median = statistics.median(seconds_each)
                reference = results.get("pydensecrf, shared lattices")
                same, near = agreement(results[way], reference) if reference else (float("nan"),) * 2
                figures = f"{median:.3f} | {longest / median:.2f} x | {same:.3f} | {near:.3f}"
                kind = f"{labels}" if likely == labels else f"{labels}, {likely} likely"
                print(f"| {name} | {kind} | {way} | {figures} |")


def chosen_ways(
    parameters: CrfParameters, device: torch.device
) -> dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]]:
    """The ways that this machine has; each takes images and their two unaries."""

    def two_passes(images: Sequence[Tensor], unaries: Sequence[Tensor]) -> list[Tensor]:
        passes = [PyDenseCrf(images, parameters).infer([one[place : place + 1] for one in unaries]) for place in (0, 1)]
        return [torch.cat(pair) for pair in zip(*passes, strict=True)]

    def toco(images: Sequence[Tensor], unaries: Sequence[Tensor], fast: bool = False) -> list[Tensor]:
        on_device = [one.to(device) for one in images], [one.to(device) for one in unaries]
        return sharpen(*on_device, parameters, "torch", fast=fast)

    ways: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]] = {}
    if importlib.util.find_spec("pydensecrf") is not None:
        ways["pydensecrf, two passes"] = two_passes
        ways["pydensecrf, shared lattices"] = lambda images, unaries: PyDenseCrf(images, parameters).infer(unaries)
        ways["pydensecrf, shared, fast"] = lambda images, unaries: sharpen(
            images, unaries, parameters, "pydensecrf", fast=True
        )
    ways["toco"] = toco
    ways["toco, fast"] = lambda images, unaries: toco(images, unaries, fast=True)
    return ways


def probabilities(labels: int, likely: int, generator: torch.Generator) -> Tensor:
    """Two smooth random unaries, (2, labels, h, w), of which all but some are far less likely, as a network's are."""
    logits = 2 * torch.randn(2, labels, 6, 8, generator=generator)
    logits[:, likely:] -= 14
    return F.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False).softmax(dim=1)


def agreement(results: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, float]:
    """Percent of pixels with equal labels, and with all probabilities within 1e-3."""
    same = [(a.argmax(1) == b.argmax(1)).double().mean().item() for a, b in zip(results, reference, strict=True)]
    near = [((a - b).abs().amax(1) < 1e-3).double().mean().item() for a, b in zip(results, reference, strict=True)]
    return 100 * statistics.mean(same), 100 * statistics.mean(near)


def breakdown(image: Tensor, name: str, device: torch.device) -> None:
    """Print where the time of toco's CRF goes, of one image and three labels."""
    parameters = PARAMETERS[name]
    features = bilateral_features(
        image[None].float(), sigma_xy=parameters.bilateral_xy, sigma_rgb=parameters.bilateral_rgb
    )
    build, crf = timed(device, TorchCrf, [image], parameters, repeats=3)
    gaussian_lattice.cache_clear()
    first, _ = timed(device, TorchCrf, [image], parameters)
    print(
        f"\n{name}: {features.shape[1]} pixels; both lattices built in {1000 * first:.0f} ms, in {1000 * build:.0f} ms "
        "where an image of that size was there before"
    )
    print("| lattice | vertices | splat, ms | blur, ms | slice, ms | bytes moved, MB | GB/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kernel, lattice in zip(("Gaussian", "bilateral"), crf.kernels, strict=True):
        values = torch.rand(features.shape[1], 4, device=device)  # two passes of three labels, one of which is left out
        splat, table = timed(device, torch.matmul, lattice.splat, values, repeats=5)
        blur, blurred = timed(device, blur_all, lattice.blurs, table, repeats=5)
        cut, _ = timed(device, torch.matmul, lattice.slice, blurred, repeats=5)
        moved = sum(
            matrix.values().numel() * (4 + 4 + 4 * values.shape[1])  # value, column, the row that it reads
            + matrix.shape[0] * (4 + 4 * values.shape[1])  # row start, the row that it writes
            for matrix in (lattice.splat, *lattice.blurs, lattice.slice)
        )
        milliseconds = "".join(f" {1000 * one:.2f} |" for one in (splat, blur, cut))
        rate = moved / (splat + blur + cut) / 1e9
        print(f"| {kernel} | {lattice.size} |{milliseconds} {moved / 1e6:.0f} | {rate:.1f} |")


def blur_all(blurs: Sequence[Tensor], table: Tensor) -> Tensor:
    """All directions of the blur."""
    for blur in blurs:
        table = blur @ table
    return table


def timed(device: torch.device, run: Callable[..., Result], *arguments: Any, repeats: int = 1) -> tuple[float, Result]:
    """Median seconds of a call, and its result."""
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        result = run(*arguments)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result


def wait_for(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
