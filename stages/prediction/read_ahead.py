"""Images in batches of one size, read in the background while the network is busy."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from data.dataset import DataError, Sample
from data.images import image_size, read_image

PIXELS_IN_MEMORY = 2**27  # of all images that are read and not done yet: about 1 GB; a larger one comes alone


class ImageBatch(NamedTuple):
    """Images that go through the network together."""

    samples: list[Sample]
    pixels: int  # of all of them


class Loaded(NamedTuple):
    """An image and its picture."""

    sample: Sample
    picture: Image.Image  # RGB


def batches(samples: Iterable[Sample], batch_size: int) -> Iterator[ImageBatch]:
    """Put images of one size together, in the order in which batches are full; what is left over comes last.

    A batch holds up to `batch_size` images, and fewer where these are so large that half of PIXELS_IN_MEMORY is full.
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
    except DataError:  # which is told when the image is read
        return (0, 0)


def read_ahead(every: Iterable[ImageBatch], threads: int, bad: Callable[[DataError], None]) -> Iterator[list[Loaded]]:
    """Read batches, some ahead of the one that is asked for, as far as memory allows.

    Args:
        every: The batches.
        threads: That read.
        bad: Told of each image that cannot be read; if it returns, the batch comes without that image.
    """
    waiting: deque[tuple[ImageBatch, list[Future[Image.Image]]]] = deque()

    def take() -> Iterator[list[Loaded]]:
        batch, readings = waiting.popleft()
        loaded = []
        for sample, reading in zip(batch.samples, readings, strict=True):
            try:
                loaded.append(Loaded(sample, reading.result()))
            except DataError as error:
                bad(error)
        if loaded:
            yield loaded

    with ThreadPoolExecutor(threads) as pool:
        for batch in every:
            while waiting and (
                len(waiting) > threads or batch.pixels + sum(one.pixels for one, _ in waiting) > PIXELS_IN_MEMORY
            ):
                yield from take()
            waiting.append((batch, [pool.submit(read_image, sample.image) for sample in batch.samples]))
        while waiting:
            yield from take()
