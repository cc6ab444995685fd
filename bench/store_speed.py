"""How many bytes do masks and CAMs take in the label files, and how fast are they written and read?

    uv run python -m bench.store_speed [--images N] [--size WIDTH HEIGHT] [--cam-size WIDTH HEIGHT] [--classes K]

Shards of 16 images are written, joined into labels.h5 and cams.h5, and read by image id in random order. The masks are
drawn: blobs of K classes with wiggly borders and 10 % ignored pixels. The CAMs are smooth maps of K classes. Files are
in the page cache when they are read. Results: bench/store.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.cores import cores
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard

CLASSES = 20
SHARD = 16  # images, as in toco make-labels
DIFFERENT = 32  # drawn images; they repeat
FILES = {"labels.h5": "masks", "cams.h5": "cams"}

Size = tuple[int, int]  # width and height in pixels


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float | str]]:
    """Measure, print, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="number of images [512]")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), help="of the masks in pixels [500 375]")
    parser.add_argument("--cam-size", type=int, nargs=2, help="of the CAMs in pixels [as the masks]")
    parser.add_argument("--classes", type=int, default=2, help="classes in an image [2]")
    parser.add_argument("--threads", type=int, default=cores(), help="threads that compress [all cores]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    size, cam_size = tuple(options.size), tuple(options.cam_size or options.size)
    rng = np.random.default_rng(options.seed)
    drawn = [draw_labels(size, cam_size, options.classes, rng) for _ in range(min(DIFFERENT, options.images))]
    labels = [drawn[number % len(drawn)]._replace(id=f"2008_{number:06d}") for number in range(options.images)]
    order = [labels[place] for place in rng.permutation(options.images)]
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory(prefix="store-speed-") as name:
        shards = [Path(name, f"{first:08d}.h5") for first in range(0, options.images, SHARD)]

        def write() -> None:
            for number, shard in enumerate(shards):
                write_shard(shard, labels[number * SHARD : (number + 1) * SHARD], threads=options.threads)

        def step(what: str, run: Callable[[], None], stored: float = 0.0) -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            rates = options.images / (time.perf_counter() - wall), options.images / (time.process_time() - cpu)
            rows.append({"step": what, "images/s": rates[0], "images/CPU s": rates[1], "bytes an image": stored})

        step("write shards", write)
        rows[-1]["bytes an image"] = sum(shard.stat().st_size for shard in shards) / options.images
        step("join", lambda: join_shards(shards, Path(name), label_attributes(["class"] * CLASSES, {})))
        for file, group in FILES.items():
            path = Path(name, file)
            stored = path.stat().st_size / options.images
            step(f"read {file}, LabelFile", partial(read_all, LabelFile(path, group).read, order), stored)
            with h5py.File(path, "r") as opened:
                step(f"read {file}, h5py", partial(read_all, partial(read_with_h5py, opened[group]), order), stored)
    print(f"{options.images} images, {options.classes} classes each, {options.threads} thread(s), seed {options.seed}")
    print(f"masks of {size[0]} x {size[1]}, CAMs of {cam_size[0]} x {cam_size[1]}, h5py {h5py.__version__}\n")
    print("| step | images/s | images/CPU s | bytes an image |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(f"{cell:,.0f}" if isinstance(cell, float) else cell for cell in row.values()) + " |")
    return rows


def read_all(read: Callable[[str], object], order: Sequence[ImageLabels]) -> None:
    """Read the arrays of all images by id."""
    for one in order:
        read(one.id)


def read_with_h5py(group: h5py.Group, image_id: str) -> object:
    """Read one array as any program would."""
    return group[image_id][()]


def draw_labels(size: Size, cam_size: Size, number: int, rng: np.random.Generator) -> ImageLabels:
    """Draw the labels of an image; pixels whose two best scores are close are ignored."""
    classes = np.sort(rng.choice(np.arange(1, CLASSES + 1), number, replace=False))
    scores = np.stack([np.full(size[::-1], 0.3, np.float32), *(draw_score(size, rng) for _ in classes)])
    second, best = np.sort(scores, axis=0)[-2:]
    mask: NDArray[np.uint8] = np.array([0, *classes], np.uint8)[np.argmax(scores, axis=0)]
    mask[best - second < 0.08] = 255
    cam = np.stack([noise(cam_size, 28, rng) for _ in classes]).clip(0, 1).astype(np.float16)
    return ImageLabels(id="", classes=tuple(int(one) for one in classes), cam=cam, mask=mask)


def draw_score(size: Size, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise with weaker and finer noise on top, (h, w)."""
    score: NDArray[np.float32] = noise(size, 4, rng) + 0.03 * noise(size, 40, rng) + 0.01 * noise(size, 160, rng)
    return score


def noise(size: Size, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise of this many cells in a row, enlarged, (h, w)."""
    small = rng.standard_normal((max(1, round(cells * size[1] / size[0])), cells)).astype(np.float32)
    large: NDArray[np.float32] = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return large


if __name__ == "__main__":
    main()
