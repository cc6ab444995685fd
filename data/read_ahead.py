"""Batches of images of equal size, read in the background while the network computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from data.band_image import Pixels
from data.dataset import Sample
from data.errors import DataError
from data.images import image_size, read_pixels

# Limit for all images that are read and not yet predicted, about 1 GB. A larger image is read alone.
PIXELS_IN_MEMORY = 2**27


class ImageBatch(NamedTuple):
    """Images of equal size for one forward pass."""

    samples: list[Sample]
    pixels: int  # h * w, summed over the images


class Loaded(NamedTuple):
    """A sample and its pixels."""

    sample: Sample
    picture: Pixels


def batches(samples: Iterable[Sample], batch_size: int) -> Iterator[ImageBatch]:
    """Group images of equal size. Full batches come first, in the order in which they fill up; then the others.

    A batch holds at most `batch_size` images, and fewer if they would exceed half of PIXELS_IN_MEMORY.
    """
    begun: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        height, width = _size(sample)
        group = begun.setdefault((height, width), [])
        group.append(sample)
        pixels = len(group) * height * width
        if len(group) == batch_size or pixels + height * width > PIXELS_IN_MEMORY // 2:
            yield ImageBatch(begun.pop((height, width)), pixels)
    for (height, width), group in begun.items():
        yield ImageBatch(group, len(group) * height * width)


def _size(sample: Sample) -> tuple[int, int]:
    try:
        return image_size(sample.image)
    except DataError:  # reported later, when the image is read
        return (0, 0)


def read_ahead(
    image_batches: Iterable[ImageBatch], threads: int, on_error: Callable[[DataError], None]
) -> Iterator[list[Loaded]]:
    """Yield loaded batches, and read the next ones in threads, as far as PIXELS_IN_MEMORY allows.

    Args:
        image_batches: The batches, in the order in which they are yielded.
        threads: Number of reading threads.
        on_error: Called for each image that cannot be read. It may raise; if it returns, the image is skipped. A batch
            without any image left is not yielded.
    """
    waiting: deque[tuple[ImageBatch, list[Future[Pixels]]]] = deque()

    def take() -> Iterator[list[Loaded]]:
        batch, readings = waiting.popleft()
        loaded = []
        for sample, reading in zip(batch.samples, readings, strict=True):
            try:
                loaded.append(Loaded(sample, reading.result()))
            except DataError as error:
                on_error(error)
        if loaded:
            yield loaded

    with ThreadPoolExecutor(threads) as pool:
        for batch in image_batches:
            while waiting and (
                len(waiting) > threads or batch.pixels + sum(one.pixels for one, _ in waiting) > PIXELS_IN_MEMORY
            ):
                yield from take()
            waiting.append(
                (batch, [pool.submit(read_pixels, sample.image, rule=sample.pixels) for sample in batch.samples])
            )
        while waiting:
            yield from take()
