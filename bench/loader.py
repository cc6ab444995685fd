"""How many training samples a second does the loader give `toco train-cam`, and what does one cost?

    uv run python -m bench.loader [--image-size 448] [--workers N ...]

JPEGs of smooth noise, 500 x 375 as VOC's, written to a temporary folder; each sample is three views. Then the cost of
one sample on one core by part, and what photographs of 12 megapixels cost when they are decoded whole, when they are
reduced to what training needs, and when that is kept in a cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from bench.timing import Parts, medians, print_table
from data.cores import cores
from data.dataset import Sample
from data.image_cache import TrainingImages
from data.images import read_image
from data.stream import LoadedBatch, SampleStream, StreamBatches, mixed_seed
from data.transforms import CamTransform
from stages.config import TrainCam
from stages.toco.step import StepBatch
from stages.train_cam import LoadViews

CLASSES = 20


class WholeImages(TrainingImages):
    """Images decoded whole, whatever training needs of them."""

    def read(self, path: Path) -> Image.Image:
        """Return what `read_image` does."""
        return read_image(path)


def loading(size: int, *, whole: bool = False, cache: Path | None = None) -> LoadViews:
    """How training loads a sample of views of so many pixels."""
    load = LoadViews(CLASSES, TrainCam(image_size=size, cache=None if cache is None else str(cache)))
    if whole:
        load.images = WholeImages(load.images.side)
    return load


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    torch.set_num_threads(1)
    workers = options.workers or sorted({0, 1, 2, 4, 8, 16, cores()} & set(range(cores() + 1)))
    print(f"{cores()} core(s), Pillow {PIL.__version__}, torch {torch.__version__}, seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        samples = write_noise(Path(folder, "small"), options.images, (options.width, options.height), options.seed)
        size = statistics.mean(sample.image.stat().st_size for sample in samples) / 1000
        print(
            f"{len(samples)} JPEGs of {options.width} x {options.height}, {size:.0f} kB each; three views of "
            f"{options.image_size}, batches of {options.batch_size}; median of {options.repeats}\n"
        )
        stream = SampleStream(samples, loading(options.image_size), seed=options.seed, stack=StepBatch.stack)
        rows = []
        for count in workers:
            rates = [rate(stream, count, options.batches, options.batch_size) for _ in range(options.repeats)]
            first = statistics.median(one for one, _ in rates)
            each = statistics.median(one for _, one in rates)
            rows.append([count, f"{each:.1f}", f"{each / max(1, count):.1f}", f"{first:.2f}"])
        print_table(["workers", "samples a second", "samples a second and worker", "first batch after, s"], rows)
        print_sample(samples, options.image_size, options.seed)
        print_large(Path(folder), options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=448, help="side of the views, in pixels [448]")
    parser.add_argument("--batch", dest="batch_size", type=int, default=4, help="samples a batch [4]")
    parser.add_argument("--workers", type=int, nargs="+", help="processes [0, 1, 2, 4 ... up to the cores]")
    parser.add_argument("--batches", type=int, default=32, help="batches to count, after the first [32]")
    parser.add_argument("--images", type=int, default=64, help="files [64]")
    parser.add_argument("--width", type=int, default=500, help="of a file, in pixels [500]")
    parser.add_argument("--height", type=int, default=375, help="of a file, in pixels [375]")
    parser.add_argument("--large", type=int, nargs=2, default=(4000, 3000), help="of a large file [4000 3000]")
    parser.add_argument("--large-images", type=int, default=4, help="large files of a kind [4]")
    parser.add_argument("--repeats", type=int, default=3, help="runs for each figure [3]")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def write_noise(
    folder: Path, count: int, size: tuple[int, int], seed: int, kind: str = "jpg", quality: int = 90
) -> list[Sample]:
    """Write pictures with structure at all scales, so that they compress about as photographs do."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    samples = []
    for place in range(count):
        picture = np.zeros((size[1], size[0], 3), np.float32)
        for cells, share in ((4, 90), (16, 40), (64, 20), (max(size), 10)):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            picture += share / 160 * np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32)
        path = folder / f"{place}.{kind}"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=quality)
        samples.append(Sample(id=str(place), image=path, classes=(1 + place % CLASSES,), mask=None))
    return samples


def rate(stream: SampleStream, workers: int, batches: int, batch_size: int) -> tuple[float, float]:
    """Seconds until the first batch, and samples a second after it."""
    ahead = 2 * workers  # as many as are waiting when the first comes: not to be counted as fast
    loader: DataLoader[LoadedBatch] = DataLoader(
        stream,
        batch_sampler=StreamBatches(start=0, iterations=1 + ahead + batches, batch_size=batch_size),
        num_workers=workers,
        collate_fn=stream.collate,
    )
    began = time.perf_counter()
    given = iter(loader)
    next(given).checked()
    first = time.perf_counter() - began
    for _ in range(ahead):
        next(given).checked()
    began = time.perf_counter()
    for _ in range(batches):
        next(given).checked()
    return first, batches * batch_size / (time.perf_counter() - began)


def print_sample(samples: Sequence[Sample], size: int, seed: int) -> None:
    """Print what one sample costs, part by part."""
    parts = Parts(torch.device("cpu"))
    transform = CamTransform(size)
    torch.manual_seed(seed)
    spent = []
    for sample in samples:
        parts.begin()
        with parts.part("decode"):
            image = read_image(sample.image)
        with parts.part("geometric: rescale, mirror, crop"):
            crop, _ = transform._training_crop(image)
        with parts.part("geometric: second view"):
            second = transform.second_crop(image)
        views = []
        for name, change, picture in (
            ("first view", transform.first, crop),
            ("second view", transform.second, second),
            ("local view", transform.local, crop),
        ):
            with parts.part(f"photometric: {name}"):
                views.append(change(picture))
        with parts.part("to tensors"):
            torch.stack([v2.functional.pil_to_tensor(view) for view in views])
        spent.append(parts.end())
    mean = {name: statistics.mean(one.get(name, 0.0) for one in spent) for name in spent[0]}
    median, total = medians(spent), sum(mean.values())
    rows = [
        [name, f"{one:.2f}", f"{median[name]:.2f}", f"{100 * one / total:.0f}"]
        for name, one in mean.items()
        if name != "rest"
    ]
    rows.append(["all", f"{total:.2f}", "", "100"])
    print_table(["part of a sample, one core", "mean, ms", "median, ms", "share, %"], rows)


def print_large(folder: Path, options: argparse.Namespace) -> None:
    """Print what large photographs cost when they are decoded whole, reduced, and from a cache."""
    rows = []
    for kind in ("jpg", "png"):
        samples = write_noise(folder / kind, options.large_images, options.large, options.seed, kind, quality=95)
        megabytes = statistics.mean(sample.image.stat().st_size for sample in samples) / 1e6
        whole, reduced = loading(options.image_size, whole=True), loading(options.image_size)
        warm = loading(options.image_size, cache=folder / f"warm-{kind}")
        one_pass(warm, samples, options.seed)
        rates: dict[str, list[float]] = {name: [] for name in ("whole", "reduced", "cold", "warm")}
        for turn in range(options.repeats):
            cold = loading(options.image_size, cache=folder / f"cold-{kind}-{turn}")
            for name, load in (("whole", whole), ("reduced", reduced), ("cold", cold), ("warm", warm)):
                rates[name].append(one_pass(load, samples, options.seed))
        medians_of_rates = [f"{statistics.median(one):.1f}" for one in rates.values()]
        rows.append([f"{kind}, {megabytes:.1f} MB", *medians_of_rates, f"{difference(whole, reduced, samples):.1f}"])
    size = " x ".join(map(str, options.large))
    print(f"samples a second of one processor, files of {size}; median of {options.repeats} in turns")
    headings = ["file", "decoded whole", "reduced, as without --cache", "cache, first time", "cache, later"]
    print_table([*headings, "image differs by, of 255"], rows)


def one_pass(load: LoadViews, samples: Sequence[Sample], seed: int) -> float:
    """Load each sample once; samples a second of the processor, which other work on the machine changes little."""
    began = time.process_time()
    for place, sample in enumerate(samples):
        torch.manual_seed(mixed_seed(seed, place))
        load(sample)
    return len(samples) / (time.process_time() - began)


def difference(load: LoadViews, other: LoadViews, samples: Sequence[Sample]) -> float:
    """Mean difference of the pixels of the training image; the second view's place is drawn by the image's size."""
    differences = []
    for place, sample in enumerate(samples):
        views = []
        for one in (load, other):
            torch.manual_seed(place)
            views.append(one(sample).image.float())
        differences.append(float((views[0] - views[1]).abs().mean()))
    return statistics.mean(differences)


if __name__ == "__main__":
    main()
