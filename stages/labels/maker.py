"""LabelMaker: runs the CAM network on batches of images and makes their CAMs and masks.

Letters: b images of a batch, k classes of an image, s side of the network's square input, h w pixels of an image.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import IGNORE_INDEX, Sample
from data.errors import FIX_OR_SKIP, DataError, SettingsError
from data.missing_pixels import without_missing_pixels
from stages.config import MakeLabels
from stages.labels.pixel_labels import PixelLabels, pixel_labels, with_class_numbers
from stages.labels.store import ImageLabels
from stages.networks.inference import (
    LoadedImage,
    class_label_matrix,
    class_probabilities,
    decoder_probabilities,
    load_image,
    patch_tokens,
    predicted_classes,
    square_cams,
    to_rgb,
)
from stages.networks.windows import cams_in_windows
from stages.runtime.launch import own_cores
from stages.runtime.lightning import Fabric
from stages.runtime.main_module import hidden_main_module
from stages.runtime.memory import MemoryBudget, free_memory
from stages.runtime.monitor import Monitor
from stages.segments.image_segments import image_segments
from stages.toco.cam import Cams, PresentClasses, present_classes
from stages.toco.model import ToCo

BYTES_A_PIXEL = 900  # of the dense CRF, measured


class Scored(NamedTuple):
    """An image and the score maps of its classes: at the size of the network's input, or of the image with windows."""

    sample: Sample  # with its known or predicted classes
    image: UInt8[Tensor, "3 h w"]  # in RGB, for methods that follow edges; on the device
    maps: Float[Tensor, "k _h _w"]  # float32 on the device, 0..1: CAMs, or the decoder's probabilities
    tokens: Float[Tensor, "d th tw"] | None = None  # patch tokens of the last block, if asked for
    digest: NDArray[np.uint8] | None = None  # see `image_digest`; None if the maps are not those of the CAM network


class Pending(NamedTuple):
    """An image whose mask is being made; it no longer holds the image itself."""

    sample: Sample
    cam: NDArray[np.float16]  # (k, s, s), with windows (k, h, w)
    digest: NDArray[np.uint8] | None
    labels: Future[PixelLabels]


@dataclass(kw_only=True)
class LabelMaker:
    """Makes the labels of images, batch by batch."""

    model: ToCo
    fabric: Fabric
    config: MakeLabels
    monitor: Monitor
    segment_files: Mapping[str, Path] = field(default_factory=dict)  # by image id
    lacking: set[str] = field(default_factory=set)  # ids of the images with pixels that have no value

    def __post_init__(self) -> None:
        """Share the memory that is free now between the processes that refine masks, on all devices."""
        self._memory = MemoryBudget(free_memory() / self.config.devices)
        self._told_of_memory = False

    @property
    def probabilities_given(self) -> bool:
        """Whether score maps are probabilities, see `pixel_labels`."""
        return self.config.source == "decoder"

    def run(self, groups: Iterable[Sequence[Sample]]) -> Iterator[list[ImageLabels]]:
        """Yield the labels of each group of images, in order.

        While a CRF on the CPU refines the masks of one group in other processes, a GPU computes the CAMs of the next
        group. A killed run then loses two groups instead of one. Without a GPU, both would share the same cores and
        nothing would be gained (bench/crf.md).
        """
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(self.threads))
            pool = self._process_pool(stack)
            ahead = pool is not None and self.fabric.device.type != "cpu"
            waiting: deque[list[Pending]] = deque()
            for samples in groups:
                waiting.append([])
                for batch in self._batches(samples, threads):
                    waiting[-1] += self._submit(batch, pool, threads)
                    # Not in _collect, which gets a whole group at once: the remaining time would drop to zero.
                    self.monitor.advance(len(batch))
                if len(waiting) > ahead:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())

    def scores(self, samples: Sequence[Sample], *, tokens: bool = False) -> Iterator[Scored]:
        """Yield the images with the score maps of their classes, and with their patch tokens if asked for."""
        with ThreadPoolExecutor(self.threads) as threads:
            for batch in self._batches(samples, threads, tokens=tokens):
                yield from batch

    def classified(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Float[Tensor, " c"]]]:
        """Yield the images with the probabilities that the network gives their classes."""
        with ThreadPoolExecutor(self.threads) as threads:
            for batch in self._loaded(samples, threads):
                squares = torch.stack([image.squashed for _, image in batch]).to(self.fabric.device)
                with self.fabric.autocast():
                    found = class_probabilities(self.model, squares).float().cpu()
                yield from zip([sample for sample, _ in batch], found, strict=True)

    @property
    def threads(self) -> int:
        """Number of CPU cores that this process may use."""
        return max(1, self.config.workers if self.config.workers is not None else own_cores(self.config.devices))

    def _process_pool(self, stack: ExitStack) -> Executor | None:
        """Start processes that refine masks on the CPU; None if masks are made in this process."""
        refining = self.config.refined
        on_cpu = self.fabric.device.type == "cpu" or self.config.crf_backend == "pydensecrf"
        if not (refining and on_cpu and self.threads > 1):
            return None
        # Not fork, because torch's threads are running; not spawn, because each process would import torch again.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["stages.labels.maker"])
        pool = ProcessPoolExecutor(self.threads, mp_context=context, initializer=_begin_process)
        stack.callback(pool.shutdown, cancel_futures=True)  # --resume makes the cancelled masks
        return pool

    def _batches(
        self, samples: Sequence[Sample], threads: ThreadPoolExecutor, *, tokens: bool = False
    ) -> Iterator[list[Scored]]:
        for batch in self._loaded(samples, threads):
            yield self.score([sample for sample, _ in batch], [image for _, image in batch], tokens)

    def _loaded(
        self, samples: Sequence[Sample], threads: ThreadPoolExecutor
    ) -> Iterator[list[tuple[Sample, LoadedImage]]]:
        for first in range(0, len(samples), self.config.batch_size):
            batch = samples[first : first + self.config.batch_size]
            loaded = list(threads.map(self._load, batch))
            if good := [(sample, image) for sample, image in zip(batch, loaded, strict=True) if image is not None]:
                yield good

    def _load(self, sample: Sample) -> LoadedImage | None:
        """Read an image; None if it is bad and bad images are skipped."""
        assert self.config.image_size is not None
        try:
            return load_image(sample, self.config.image_size)
        except DataError as error:
            if not self.config.skip_bad:
                raise DataError(f"{error}; {FIX_OR_SKIP}") from error
            self.monitor.warn(f"skipped: {error}")
            return None

    def score(self, samples: Sequence[Sample], images: Sequence[LoadedImage], with_tokens: bool) -> list[Scored]:
        """Return the images with the score maps of their classes, and with their patch tokens if asked for."""
        device, config = self.fabric.device, self.config
        squares = torch.stack([image.squashed for image in images]).to(device)  # (b, 3, s, s)
        with self.fabric.autocast():
            samples = self._with_classes(samples, squares)
            present = present_classes(class_label_matrix(samples, self.model.num_classes).to(device))
            tokens = patch_tokens(self.model, squares) if with_tokens else None
            if config.source == "decoder":
                probabilities = decoder_probabilities(self.model, squares)
                maps = PresentClasses(present.index + 1, present.valid).pick(probabilities)
                maps = maps * present.valid[:, :, None, None]
                of_images = [*(maps / (probabilities[:, :1] + maps.sum(dim=1, keepdim=True)))]  # among the own classes
            else:
                of_images = self._cams(squares, present, images)
        return [
            Scored(
                sample=sample,
                image=to_rgb(image.original.to(device)),
                # Rounded as they are stored, so that masks that are made again from stored CAMs are the same.
                maps=of_images[place][: len(sample.classes)].half().float(),
                tokens=None if tokens is None else tokens[place],
                digest=image_digest(image),
            )
            for place, (sample, image) in enumerate(zip(samples, images, strict=True))
        ]

    def _cams(
        self, squares: Tensor, present: PresentClasses, images: Sequence[LoadedImage]
    ) -> list[Float[Tensor, "k _h _w"]]:
        """Return the CAMs of each image: of the whole, or of windows if it is larger than a window."""
        config = self.config
        assert config.scales is not None
        window = config.window or max(max(image.original.shape[-2:]) for image in images)
        maps: dict[int, Cams] = {}
        for place, image in enumerate(images):
            if max(image.original.shape[-2:]) > window:
                own = PresentClasses(present.index[place : place + 1], present.valid[place : place + 1])
                maps[place] = cams_in_windows(
                    self.model,
                    image.original,
                    own,
                    config.scales,
                    window=window,
                    side=squares.shape[-1],
                    batch_size=config.batch_size,
                )
        if small := [place for place in range(len(images)) if place not in maps]:
            chosen = PresentClasses(present.index[small], present.valid[small])
            cams = square_cams(self.model, squares[small], chosen, config.scales)
            for number, place in enumerate(small):
                maps[place] = Cams(cams.final[number, None], cams.auxiliary[number, None])
        both = [maps[place] for place in range(len(images))]
        return [(one.final if config.source == "cam" else one.auxiliary)[0] for one in both]

    def _with_classes(self, samples: Sequence[Sample], squares: Tensor) -> list[Sample]:
        """Add predicted classes to the samples whose classes are unknown."""
        if all(sample.labelled for sample in samples):
            return list(samples)
        predicted = predicted_classes(self.model, squares)
        return [
            sample if sample.labelled else replace(sample, classes=classes)
            for sample, classes in zip(samples, predicted, strict=True)
        ]

    def _submit(self, batch: list[Scored], pool: Executor | None, threads: ThreadPoolExecutor) -> list[Pending]:
        """Make the masks of a batch in this process, or let the pool make them.

        Other processes receive the small maps and resize them, so that little is copied.
        """
        files = [self.segment_files.get(one.sample.id) for one in batch]
        if pool is None:
            segments = threads.map(image_segments, [one.image for one in batch], repeat(self.config), files)
            # All images at once: on a GPU they share each operation of the CRF.
            made = pixel_labels(
                [one.maps for one in batch],
                [one.image for one in batch],
                self.config,
                probabilities_given=self.probabilities_given,
                segments=list(segments),
            )
            futures = [_finished(labels) for labels in made]
        else:
            self._tell_of_memory(max(batch, key=_bytes_to_refine))
            with hidden_main_module():  # submitting starts processes
                futures = [
                    self._memory.submit(
                        _bytes_to_refine(one),
                        pool,
                        _pixel_labels_in_process,
                        one.maps.cpu().numpy(),
                        one.image.cpu().numpy(),
                        self.config,
                        self.probabilities_given,
                        file,
                    )
                    for one, file in zip(batch, files, strict=True)
                ]
        return [
            Pending(one.sample, one.maps.half().cpu().numpy(), one.digest, future)
            for one, future in zip(batch, futures, strict=True)
        ]

    def _tell_of_memory(self, largest: Scored) -> None:
        """Say once that memory, not the number of cores, limits how many masks are refined at once."""
        at_once = self._memory.at_once(_bytes_to_refine(largest))
        if self._told_of_memory or at_once >= self.threads:
            return
        self._told_of_memory = True
        height, width = largest.image.shape[-2:]
        self.monitor.note(
            f"free memory ({self._memory.total / 1e9:.1f} GB) is enough for {at_once:g} instead of {self.threads} "
            f"processes that refine masks of {width} x {height} pixels"
        )

    def _collect(self, waiting: list[Pending]) -> list[ImageLabels]:
        labels = []
        for sample, cam, digest, future in waiting:
            try:
                made = future.result()
            except BrokenProcessPool as error:
                raise SettingsError(
                    "a process that refines masks was killed, most likely because memory ran out (about "
                    f"{BYTES_A_PIXEL / 1000:g} GB for each megapixel of an image): use fewer --workers (now "
                    f"{self.threads}) or --refine none; --resume keeps the finished masks"
                ) from error
            numbered = with_class_numbers(made.mask, sample)
            mask = without_missing_pixels(numbered, sample.image, sample.pixels)
            if mask is not numbered:
                self.lacking.add(sample.id)
            confidence = made.confidence
            if confidence is not None:  # nothing is known of an image whose classes are unknown
                confidence = np.where(mask == IGNORE_INDEX, 0, confidence).astype(np.uint8)
            labels.append(
                ImageLabels(
                    id=sample.id,
                    classes=sample.classes,
                    cam=cam,
                    mask=mask,
                    confidence=confidence,
                    digest=digest,
                )
            )
        return labels


def image_digest(image: LoadedImage) -> NDArray[np.uint8]:
    """SHA-256 of the pixels that a network gets, (32,)."""
    pixels = image.original.contiguous().numpy()
    return np.frombuffer(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest(), np.uint8)


def _bytes_to_refine(one: Scored) -> int:
    return BYTES_A_PIXEL * one.image.shape[-2] * one.image.shape[-1]


def _finished(labels: PixelLabels) -> Future[PixelLabels]:
    future: Future[PixelLabels] = Future()
    future.set_result(labels)
    return future


def _begin_process() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process reports Ctrl-C


def _end_with_parent() -> None:
    """End this process when the main process ends; without this, a killed run would leave it waiting for work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _pixel_labels_in_process(
    maps: NDArray[np.float32],
    image: NDArray[np.uint8],
    config: MakeLabels,
    probabilities_given: bool,
    segment_file: Path | None,
) -> PixelLabels:
    pixels = torch.from_numpy(image)
    (labels,) = pixel_labels(
        [torch.from_numpy(maps)],
        [pixels],
        config,
        probabilities_given=probabilities_given,
        segments=[image_segments(pixels, config, segment_file)],
    )
    return labels
