"""How many training samples a second does the loader of `toco train-cam` give, and what does one sample cost?

    uv run python -m bench.loader_speed [--image-size 448] [--width 500 --height 375] [--workers N ...] [--cache]

JPEGs of smooth noise are written to a temporary folder; each sample has three views. The second table is the cost of
one sample on one core, by part. With --width 4000 --height 3000, and again with --cache, the first table shows what
large photographs cost.
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

from bench.timing import Parts, Rows, medians, print_table
from data.cores import cores
from data.dataset import Sample
from data.images import read_image
from data.stream import LoadedBatch, SampleStream, StreamBatches
from data.transforms import CamTransform
from stages.config import TrainCam
from stages.toco.step import StepBatch
from stages.train_cam import LoadViews

CLASSES = 20


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table by workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=448, help="side of the views in pixels [448]")
    parser.add_argument("--batch", dest="batch_size", type=int, default=4, help="samples in a batch [4]")
    parser.add_argument("--workers", type=int, nargs="+", help="processes [0, 1, 2, 4, ... up to the cores]")
    parser.add_argument("--batches", type=int, default=32, help="batches to count, after the first [32]")
    parser.add_argument("--images", type=int, default=64, help="number of files [64]")
    parser.add_argument("--width", type=int, default=500, help="width of a file in pixels [500]")
    parser.add_argument("--height", type=int, default=375, help="height of a file in pixels [375]")
    parser.add_argument(
        "--cache", action="store_true", help="measure with a filled cache, as of toco train-cam --cache"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs for each figure [3]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    workers = options.workers or sorted({0, 1, 2, 4, 8, 16, cores()} & set(range(cores() + 1)))
    with tempfile.TemporaryDirectory() as folder:
        samples = write_noise(Path(folder), options.images, (options.width, options.height), options.seed)
        print(f"{cores()} core(s), Pillow {PIL.__version__}, torch {torch.__version__}, seed {options.seed}")
        print(
            f"{len(samples)} JPEGs of {options.width} x {options.height}; three views of {options.image_size}, "
            f"batches of {options.batch_size}; median of {options.repeats}\n"
        )
        cache = str(Path(folder, "cache")) if options.cache else None
        load = LoadViews(CLASSES, TrainCam(image_size=options.image_size, cache=cache))
        for sample in samples if options.cache else ():
            load(sample)
        stream = SampleStream(samples, load, seed=options.seed, stack=StepBatch.stack)
        rows: Rows = []
        for count in workers:
            rates = [samples_a_second(stream, count, options) for _ in range(options.repeats)]
            row = {"workers": count, "samples a second": statistics.median(after for _, after in rates)}
            rows.append({**row, "first batch after, s": statistics.median(first for first, _ in rates)})
        print_table(rows)
        print_table(cost_of_a_sample(samples, options.image_size, options.seed))
    return rows


def write_noise(folder: Path, count: int, size: tuple[int, int], seed: int) -> list[Sample]:
    """Write pictures with structure at all scales, so that they compress about as photographs do."""
    rng = np.random.default_rng(seed)
    samples = []
    for place in range(count):
        picture = np.zeros((size[1], size[0], 3), np.float32)
        for cells, share in ((4, 90), (16, 40), (64, 20), (max(size), 10)):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            picture += share / 160 * np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32)
        path = folder / f"{place}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        samples.append(Sample(id=str(place), image=path, classes=(1 + place % CLASSES,), mask=None))
    return samples


def samples_a_second(stream: SampleStream, workers: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds until the first batch, and the samples a second after it."""
    ahead = 2 * workers  # batches that wait when the first one arrives; counting them would flatter the rate
    sampler = StreamBatches(start=0, iterations=1 + ahead + options.batches, batch_size=options.batch_size)
    loader: DataLoader[LoadedBatch] = DataLoader(
        stream, batch_sampler=sampler, num_workers=workers, collate_fn=stream.collate
    )
    began = time.perf_counter()
    batches = iter(loader)
    next(batches).checked()
    first = time.perf_counter() - began
    for _ in range(ahead):
        next(batches).checked()
    began = time.perf_counter()
    for _ in range(options.batches):
        next(batches).checked()
    return first, options.batches * options.batch_size / (time.perf_counter() - began)


def cost_of_a_sample(samples: Sequence[Sample], size: int, seed: int) -> Rows:
    """Measure the parts of one sample on one core."""
    parts = Parts(torch.device("cpu"))
    transform = CamTransform(size)
    torch.manual_seed(seed)
    spent = []
    for sample in samples:
        parts.begin()
        with parts.part("decode"):
            image = read_image(sample.image)
        with parts.part("geometric: rescale, flip, crop"):
            crop, _, _ = transform._training_crop(image, None)
        with parts.part("geometric: second view"):
            second = transform.second_crop(image)
        for name, change, picture in (
            ("first view", transform.first, crop),
            ("second view", transform.second, second),
            ("local view", transform.local, crop),
        ):
            with parts.part(f"photometric: {name}"):
                change(picture)
        spent.append(parts.end())
    median = medians(spent)
    total = sum(statistics.mean(one.values()) * len(one) for one in spent) / len(spent)
    rows: Rows = [
        {
            "part of a sample, one core": name,
            "mean, ms": statistics.mean(one.get(name, 0.0) for one in spent),
            "median, ms": median[name],
        }
        for name in median
    ]
    return [*rows, {"part of a sample, one core": "all", "mean, ms": total}]


if __name__ == "__main__":
    main()
