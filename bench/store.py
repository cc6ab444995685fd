"""How the label files should be stored: size, speed and memory at real numbers of images.

python -m bench.store [--images N] [--sample N] [--folder DIR] [--seed N]

Three tables: ways to compress, ways to join, and the path that toco takes, at full size. Everything is read
right after it was written, so files are in the page cache, of all variants alike. Results: bench/store.md.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.labels.store import (
    FORMAT,
    ImageLabels,
    LabelFile,
    dataset_names,
    join_shards,
    label_attributes,
    write_shard,
)
from stages.run_folder.saving import atomic_stream

if importlib.util.find_spec("hdf5plugin"):  # here, so that spawned processes know its filters as well
    import hdf5plugin

HEIGHT, WIDTH = 375, 500
CLASSES = 20
REPEATS = 3  # of each figure of the first tables, of which the best counts: other work only ever slows down
POOL = 256  # different masks; image i has the i-th, and then again from the first
SHARD = 32  # images in a shard, as of toco make-labels
VOC = 1464 + 9118  # images of train and aug
FEW = 512  # images that are measured with CAMs

Mask = NDArray[np.uint8]
Packing = Mapping[str, Any]  # as h5py's create_dataset takes it


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="images of the whole path [100000]")
    parser.add_argument("--sample", type=int, default=5_000, help="images of each variant of the first tables [5000]")
    parser.add_argument("--folder", type=Path, help="for files, deleted at the end [a temporary one]")
    parser.add_argument("--seed", type=int, default=0, help="of the masks and the order of reading [0]")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=options.folder) as name:
        work = Work(Path(name), options.seed)
        np.save(work.masks, mask_pool(work.seed))
        describe(work, options.images, options.sample)
        compression_table(work, options.sample)
        joining_table(work, options.sample)
        whole_path(work, options.images)
        with_cams(work)


class Work(NamedTuple):
    """Where, and from which seed."""

    folder: Path
    seed: int

    @property
    def masks(self) -> Path:
        """The masks, drawn once for all processes."""
        return self.folder / "masks.npy"

    def shards(self, name: str) -> list[Path]:
        """The shards in a folder."""
        return sorted((self.folder / name).glob("*.h5"))


def describe(work: Work, images: int, sample: int) -> None:
    """Print what the figures belong to."""
    masks = np.load(work.masks)
    borders = sum(np.count_nonzero(np.diff(masks, axis=axis)) for axis in (1, 2)) / len(masks)
    print(
        f"{cores()} CPU cores, load {os.getloadavg()[0]:.1f}, {platform.platform(terse=True)}, "
        f"Python {platform.python_version()}, h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}\n"
        f"{images} images of {WIDTH} x {HEIGHT} ({sample} in the first tables), seed {work.seed}; "
        f"{len(masks)} different masks: {100 * np.mean(masks == 255):.1f} % ignored, "
        f"{borders / np.sqrt(WIDTH * HEIGHT):.1f} borders between pixels for each pixel of side\n"
        "Files are in the page cache when they are read, of all variants alike; /CPU s: by the processor time of the\n"
        "one process that reads or joins, which other work on the machine disturbs less than the clock.\n"
        f"First tables: the best of {REPEATS}.\n"
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mask_pool(seed: int) -> Mask:
    """Draw masks like those that a CRF leaves: blobs of 1 to 3 classes, wiggly borders, bands of 255.

    Returns:
        Shape (POOL, HEIGHT, WIDTH): 0 background, 1..CLASSES classes, 255 ignored.
    """
    source = np.random.default_rng(seed)
    return np.stack([draw_mask(source) for _ in range(POOL)])


def draw_mask(source: np.random.Generator) -> Mask:
    """Draw one mask: the class with the highest score, or 255 where the best two are close."""
    number = int(source.integers(1, 4))
    classes = source.choice(np.arange(1, CLASSES + 1), number, replace=False)
    scores = [np.full((HEIGHT, WIDTH), 0.3, np.float32), *(draw_score(source) for _ in range(number))]
    second, best = np.sort(np.stack(scores), axis=0)[-2:]
    mask: Mask = np.array([0, *classes], np.uint8)[np.argmax(scores, axis=0)]
    mask[best - second < 0.08] = 255
    return mask


def draw_score(source: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise, with finer and weaker noise upon it; shape (HEIGHT, WIDTH)."""
    score: NDArray[np.float32] = noise(source, 4) + 0.03 * noise(source, 40) + 0.01 * noise(source, 160)
    return score


def noise(source: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Normal noise of so many cells a row, blown up; shape (HEIGHT, WIDTH)."""
    small = source.standard_normal((round(cells * HEIGHT / WIDTH), cells)).astype(np.float32)
    large: NDArray[np.float32] = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return large


def image_id(number: int) -> str:
    """As VOC names them."""
    return f"2008_{number:06d}"


def made_labels(numbers: Sequence[int], masks: Mask) -> list[ImageLabels]:
    """The labels of images, without CAMs."""
    no_cam = np.zeros((0, HEIGHT, WIDTH), np.float16)
    return [ImageLabels(image_id(number), (), no_cam, masks[number % len(masks)]) for number in numbers]


class Took(NamedTuple):
    """What an action took in a process of its own."""

    value: Any
    seconds: float
    cpu_seconds: float
    megabytes: float  # the most memory it held at a time, with the interpreter and its libraries


def fresh(action: Callable[..., Any], *arguments: Any) -> Took:
    """Run in a new process that holds nothing of this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, action, *arguments).result()


def measured(action: Callable[..., Any], *arguments: Any) -> Took:
    """Run and measure."""
    start, cpu_start = time.perf_counter(), time.process_time()
    value = action(*arguments)
    return Took(value, time.perf_counter() - start, time.process_time() - cpu_start, peak_megabytes())


def best(action: Callable[..., Any], *arguments: Any) -> float:
    """The least processor time, in seconds, that an action took in several fresh processes."""
    return min(fresh(action, *arguments).cpu_seconds for _ in range(REPEATS))


def peak_megabytes() -> float:
    """The most memory that this process held; of Linux alone, as getrusage also counts whom it was started by."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


# What is done, and timed, in processes of their own.


def write_share(work: Work, name: str, images: int, packing: Packing | None, processes: int, share: int) -> float:
    """Write every so many-th shard, as one of several processes; with all cores if it is the only one.

    Args:
        work: Where the masks are.
        name: Folder of the shards.
        images: In all shards together.
        packing: How h5py compresses; None: `write_shard`.
        processes: How many there are.
        share: Number of this one.

    Returns:
        Seconds.
    """
    masks = np.load(work.masks)
    threads = cores() // processes
    start = time.perf_counter()
    for first in range(share * SHARD, images, processes * SHARD):
        labels = made_labels(range(first, min(first + SHARD, images)), masks)
        path = work.folder / name / f"{first:08d}.h5"
        if packing is None:
            write_shard(path, labels, threads=threads)
        else:
            write_with_h5py(path, labels, packing)
    return time.perf_counter() - start


def write_with_h5py(path: Path, labels: Sequence[ImageLabels], packing: Packing) -> None:
    """Write a shard of masks as any program would."""
    with atomic_stream(path) as stream, h5py.File(stream, "w", libver=FORMAT) as file:
        for one in labels:
            file.create_dataset(f"masks/{one.id}", data=one.mask, chunks=one.mask.shape if packing else None, **packing)


def write(work: Work, name: str, images: int, packing: Packing | None, processes: int) -> float:
    """Write shards side by side; returns the seconds of the slowest process."""
    (work.folder / name).mkdir(exist_ok=True)
    share = partial(write_share, work, name, images, packing, processes)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return max(pool.map(share, range(processes)))


def read_with_h5py(path: Path, ids: Sequence[str]) -> None:
    """Read masks by name, as any program would."""
    with h5py.File(path, "r") as file:
        for one in ids:
            file[f"masks/{one}"][()]


def read_with_toco(path: Path, ids: Sequence[str]) -> None:
    """Read masks by name with LabelFile."""
    masks = LabelFile(path, "masks")
    for one in ids:
        masks.read(one)


def list_with_toco(path: Path) -> int:
    """List the ids of a label file."""
    return len(LabelFile(path, "masks").ids)


def random_ids(work: Work, images: int) -> list[str]:
    """The ids of all images, in random order."""
    return [image_id(number) for number in np.random.default_rng(work.seed).permutation(images)]


def join_copies(shards: Sequence[Path], folder: Path) -> None:
    """As toco does."""
    join_shards(shards, folder, label_attributes([str(number) for number in range(CLASSES)], {}))


Link = Callable[[h5py.File, str, Path, h5py.File], None]  # product, path in it, shard, opened


def join_by(link: Link, shards: Sequence[Path], folder: Path) -> None:
    """Put each mask of the shards into a product in another way."""
    folder.mkdir(exist_ok=True)
    with atomic_stream(folder / "labels.h5") as stream, h5py.File(stream, "w", libver=FORMAT) as product:
        for shard in shards:
            with h5py.File(shard, "r") as source:
                for one in dataset_names(source["masks"]):
                    link(product, f"masks/{one}", shard, source)


def copy_chunk(product: h5py.File, path: str, shard: Path, source: h5py.File) -> None:
    """Make the data set anew and hand its packed bytes over."""
    old = source[path]
    new = product.create_dataset(path, shape=old.shape, dtype=old.dtype, chunks=old.chunks, compression="gzip")
    new.id.write_direct_chunk((0, 0), old.id.read_direct_chunk((0, 0))[1])


def link_outside(product: h5py.File, path: str, shard: Path, source: h5py.File) -> None:
    """Name the place in the shard, which has to stay."""
    product[path] = h5py.ExternalLink(str(shard), path)


def lay_virtually(product: h5py.File, path: str, shard: Path, source: h5py.File) -> None:
    """Map onto the data set in the shard, which has to stay."""
    shape = source[path].shape
    layout = h5py.VirtualLayout(shape=shape, dtype=np.uint8)
    layout[:] = h5py.VirtualSource(str(shard), path, shape=shape)
    product.create_virtual_dataset(path, layout)


# The tables.


def table(title: str, columns: Sequence[str]) -> None:
    """Print a table's head; each row follows as soon as it is known."""
    print(f"{title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*values: str | float) -> None:
    """Print a table's row, numbers without decimals."""
    texts = [value if isinstance(value, str) else f"{value:,.0f}" for value in values]
    print(f"| {' | '.join(texts)} |", flush=True)


def packings() -> dict[str, Packing | None]:
    """Ways to compress, by name."""
    found: dict[str, Packing | None] = {
        "none": {},
        "gzip 1": {"compression": "gzip", "compression_opts": 1},
        "gzip 4": {"compression": "gzip", "compression_opts": 4},
        "lzf": {"compression": "lzf"},
        "gzip by runs (toco)": None,
    }
    if importlib.util.find_spec("hdf5plugin"):
        found["zstd 3, a plugin"] = dict(hdf5plugin.Zstd(clevel=3))
        found["blosc2 lz4, a plugin"] = dict(hdf5plugin.Blosc2(cname="lz4"))
        found["blosc2 zstd, a plugin"] = dict(hdf5plugin.Blosc2(cname="zstd"))
    return found


def compression_table(work: Work, images: int) -> None:
    """Size and speed of each way to compress; read from one file, by h5py and, where it is gzip, by toco."""
    columns = (
        "compression",
        "bytes a mask",
        "written/s, a process a core",
        "read/CPU s, h5py",
        "read/CPU s, LabelFile",
    )
    table(f"Compression, {images} masks, shards of {SHARD}", columns)
    ids = random_ids(work, images)
    for name, packing in packings().items():
        seconds = min(write(work, "shards", images, packing, cores()) for _ in range(REPEATS))
        product = work.folder / "joined"
        join_by(lambda product, path, shard, source: source.copy(path, product, path), work.shards("shards"), product)
        with h5py.File(product / "labels.h5", "r+") as file:
            file.attrs["class_names"] = ["any"]
        size = (product / "labels.h5").stat().st_size
        plain, ours = (best(read, product / "labels.h5", ids) for read in (read_with_h5py, read_with_toco))
        row(name, size / images, images / seconds, images / plain, images / ours)
        clear(work)
    print()


def joining_table(work: Work, images: int) -> None:
    """Ways to make one file of the shards."""
    columns = (
        "joining",
        "images in a shard",
        "joined/CPU s",
        "bytes a mask of the product",
        "read/CPU s, h5py",
        "one file",
    )
    table(f"Joining, {images} masks", columns)
    ids = random_ids(work, images)
    for size in (SHARD, 16 * SHARD):
        masks = np.load(work.masks)
        for first in range(0, images, size):
            labels = made_labels(range(first, min(first + size, images)), masks)
            write_shard(work.folder / "shards" / f"{first:08d}.h5", labels, threads=cores())
        for name, join, alone in (
            ("copy (toco)", join_copies, "yes"),
            ("copy of chunks", partial(join_by, copy_chunk), "yes"),
            ("external links", partial(join_by, link_outside), "no"),
            ("virtual layouts", partial(join_by, lay_virtually), "no"),
        ):
            seconds = best(join, work.shards("shards"), work.folder / "joined")
            product = work.folder / "joined" / "labels.h5"
            read = best(read_with_h5py, product, ids)
            row(name, size, images / seconds, product.stat().st_size / images, images / read, alone)
            shutil.rmtree(work.folder / "joined")
        clear(work)
    print()


def whole_path(work: Work, images: int) -> None:
    """Write, join, list and read at full size, as toco does."""
    columns = ("step", "images", "seconds", "images/s", "images/CPU s", "peak memory, MB", "labels.h5, MB")
    table("The whole path", columns)
    row("nothing (Python and its libraries)", 0, "", "", "", fresh(int).megabytes, "")
    wrote = write(work, "shards", images, None, 1)
    row(f"write shards of {SHARD}, {cores()} threads", images, wrote, images / wrote, "", "", "")
    shards, folder = work.shards("shards"), work.folder / "joined"
    product = folder / "labels.h5"

    def show(step: str, took: Took, count: int, size: str | float = "") -> None:
        row(step, count, took.seconds, count / took.seconds, count / took.cpu_seconds, took.megabytes, size)

    few = math.ceil(min(VOC, images) / SHARD)
    joined = fresh(join_copies, shards[:few], folder)
    show("join shards enough for VOC", joined, min(few * SHARD, images), product.stat().st_size / 1e6)
    joined = fresh(join_copies, shards, folder)
    show("join", joined, images, product.stat().st_size / 1e6)
    row("write and join", images, wrote + joined.seconds, images / (wrote + joined.seconds), "", "", "")
    ids = random_ids(work, images)
    show("list the ids", fresh(list_with_toco, product), images)
    show("read at random, LabelFile", fresh(read_with_toco, product, ids), images)
    show("read at random, h5py", fresh(read_with_h5py, product, ids), images)
    random.Random(work.seed).shuffle(shards)
    show("join again, shards in random order", fresh(join_copies, shards, folder), images)
    clear(work)
    print()


def with_cams(work: Work) -> None:
    """What CAMs and confidence add, for a few images: they are much larger than masks."""
    table(f"With CAMs of 1 to 3 classes, {FEW} images", ("stored", "written/s", "bytes an image in the shards"))
    source = np.random.default_rng(work.seed)
    maps = [np.clip(0.5 + 0.5 * draw_score(source), 0, 1) for _ in range(SHARD)]
    for name, classes, confidence in (("masks", 0, False), ("and confidence", 0, True), ("and CAMs", 3, True)):
        labels = []
        for one in made_labels(range(FEW), np.load(work.masks)):
            number = int(source.integers(1, classes + 1)) if classes else 0
            chosen = source.choice(SHARD, number)
            cam = np.array([maps[index] for index in chosen], np.float16).reshape(-1, HEIGHT, WIDTH)
            sure = (255 * maps[int(source.integers(SHARD))]).astype(np.uint8) if confidence else None
            labels.append(one._replace(cam=cam, classes=tuple(range(1, number + 1)), confidence=sure))
        start = time.perf_counter()
        for first in range(0, FEW, SHARD):
            write_shard(work.folder / "shards" / f"{first:08d}.h5", labels[first : first + SHARD], threads=cores())
        seconds = time.perf_counter() - start
        row(name, FEW / seconds, sum(path.stat().st_size for path in work.shards("shards")) / FEW)
        clear(work)


def clear(work: Work) -> None:
    """Delete what a variant left."""
    for name in ("shards", "joined"):
        shutil.rmtree(work.folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
