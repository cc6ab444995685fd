"""How many training samples a second does the loader give `toco train-cam`, and what does one cost?

    uv run python -m bench.loader [--image-size 448] [--workers N ...]

JPEGs of smooth noise, 500 x 375 as VOC's, written to a temporary folder; each sample is three views. Then the cost of
one sample on one core by part, and what decoding at a reduced size (Pillow's draft mode) would save: it changes
pixels, and can only be had where a view is drawn at half the image's size or less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from data.images import read_image
from data.stream import Batch, SampleStream, StreamBatches
from data.transforms import CamTransform
from stages.inference import class_label_matrix
from stages.toco.step import StepBatch

CLASSES = 20


class Load:
    """Read an image, draw its views, and add its labels, as training does."""

    def __init__(self, size: int) -> None:
        self.transform = CamTransform(size)

    def __call__(self, sample: Sample) -> StepBatch:
        """Load one sample."""
        views = self.transform(read_image(sample.image))
        labels = class_label_matrix([sample], CLASSES)[0]
        return StepBatch(
            image=views.image,
            second=views.second,
            local=views.local,
            box=views.box,
            class_labels=labels,
            most_classes=len(sample.classes),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    torch.set_num_threads(1)
    workers = options.workers or sorted({0, 1, 2, 4, 8, 16, cores()} & set(range(cores() + 1)))
    print(f"{cores()} core(s), Pillow {PIL.__version__}, torch {torch.__version__}, seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        samples = write_noise(Path(folder), options.images, (options.width, options.height), options.seed)
        size = statistics.mean(sample.image.stat().st_size for sample in samples) / 1000
        print(
            f"{len(samples)} JPEGs of {options.width} x {options.height}, {size:.0f} kB each; three views of "
            f"{options.image_size}, batches of {options.batch_size}; median of {options.repeats}\n"
        )
        stream = SampleStream(samples, Load(options.image_size), seed=options.seed, stack=StepBatch.stack)
        rows = []
        for count in workers:
            rates = [rate(stream, count, options.batches, options.batch_size) for _ in range(options.repeats)]
            first = statistics.median(one for one, _ in rates)
            each = statistics.median(one for _, one in rates)
            rows.append([count, f"{each:.1f}", f"{each / max(1, count):.1f}", f"{first:.2f}"])
        print_table(["workers", "samples a second", "samples a second and worker", "first batch after, s"], rows)
        print_sample(samples, options.image_size, options.seed)
        print_draft(samples, options.repeats)


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
    parser.add_argument("--repeats", type=int, default=3, help="runs for each number of processes [3]")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


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


def rate(stream: SampleStream, workers: int, batches: int, batch_size: int) -> tuple[float, float]:
    """Seconds until the first batch, and samples a second after it."""
    ahead = 2 * workers  # as many as are waiting when the first comes: not to be counted as fast
    loader: DataLoader[Batch] = DataLoader(
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


def print_draft(samples: Sequence[Sample], repeats: int) -> None:
    """Print what decoding at a half and a quarter would save, and how far its pixels are from resized ones."""
    rows = []
    for factor in (1, 2, 4):
        seconds: list[float] = []
        differences = []
        for sample in samples[: max(1, 8 * repeats)]:
            whole = read_image(sample.image)
            size = (whole.width // factor, whole.height // factor)
            with timed(seconds), Image.open(sample.image) as image:
                if factor > 1:
                    image.draft("RGB", size)
                small = image.convert("RGB")
            resized = whole.resize(small.size, Image.Resampling.BILINEAR)
            difference = np.asarray(small, np.float32) - np.asarray(resized, np.float32)
            differences.append(float(np.abs(difference).mean()))
        rows.append([f"1/{factor}", f"{1000 * statistics.median(seconds):.2f}", f"{statistics.mean(differences):.2f}"])
    print_table(["decoded at", "ms", "mean difference from a resized one, of 255"], rows)


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Add how long it took."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()
