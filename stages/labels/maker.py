"""LabelMaker: runs the CAM network on batches of images and makes their CAMs and masks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import DataError, Sample
from stages.config import MakeLabels
from stages.labels.pixel_labels import PixelLabels, ScoreMaps, pixel_labels, with_class_numbers
from stages.labels.store import ImageLabels
from stages.networks.inference import (
    LoadedImage,
    class_label_matrix,
    decoder_probabilities,
    load_image,
    patch_tokens,
    predicted_classes,
    resize_maps,
    square_cams,
)
from stages.runtime.launch import own_cores
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.toco.cam import PresentClasses, present_classes
from stages.toco.model import ToCo


class Scored(NamedTuple):
    """An image and the scores of its classes."""

    sample: Sample  # with the classes that it has, or is predicted to have
    image: Tensor  # (3, h, w), uint8, on the device
    scores: Tensor  # (k, h, w), float16 on the device: CAMs, or the decoder's probabilities
    auxiliary: Tensor | None = None  # the other CAM, where asked for
    tokens: Tensor | None = None  # (d, th, tw): the last block's patch tokens of the squashed image, where asked for


@dataclass(kw_only=True)
class LabelMaker:
    """Makes the labels of images, batch by batch."""

    model: ToCo
    fabric: Fabric
    config: MakeLabels
    monitor: Monitor

    def run(self, groups: Iterable[Sequence[Sample]]) -> Iterator[list[ImageLabels]]:
        """Yield the labels of each group of images, in order.

        A run that is killed loses one group, or two where a CRF on the CPU runs in other processes while a GPU goes on
        with the next. Without a GPU nothing is gained by that: both would share the same cores (bench/crf.md).
        """
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(self.threads))
            pool = self._process_pool(stack)
            ahead = pool is not None and self.fabric.device.type != "cpu"
            waiting: deque[list[tuple[Scored, Future[list[PixelLabels]]]]] = deque()
            for samples in groups:
                waiting.append(
                    [pair for batch in self._batches(samples, threads) for pair in self._submit(batch, pool)]
                )
                if len(waiting) > ahead:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())

    def scores(self, samples: Sequence[Sample], *, details: bool = False) -> Iterator[Scored]:
        """Yield the images with the scores of their classes, and with other CAM and tokens on demand."""
        with ThreadPoolExecutor(self.threads) as threads:
            for batch in self._batches(samples, threads, details=details):
                yield from batch

    @property
    def threads(self) -> int:
        """Cores that this process may keep busy."""
        return max(1, self.config.workers if self.config.workers is not None else own_cores(self.config.devices))

    def _process_pool(self, stack: ExitStack) -> Executor | None:
        """Processes to refine masks in, where that keeps the CPU busy; None for here and now."""
        refining = self.config.uses_crf or self.config.uses_par
        on_cpu = self.fabric.device.type == "cpu" or self.config.crf_backend == "pydensecrf"
        if not (refining and on_cpu and self.threads > 1):
            return None
        # Neither fork (torch's threads are running) nor spawn (each process would import torch anew).
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["stages.labels.maker"])
        pool = ProcessPoolExecutor(self.threads, mp_context=context, initializer=_begin_process)
        stack.callback(pool.shutdown, cancel_futures=True)  # what waits is done again by --resume
        return pool

    def _batches(
        self, samples: Sequence[Sample], threads: ThreadPoolExecutor, *, details: bool = False
    ) -> Iterator[list[Scored]]:
        for first in range(0, len(samples), self.config.batch_size):
            batch = samples[first : first + self.config.batch_size]
            loaded = list(threads.map(self._load, batch))
            good = [(sample, image) for sample, image in zip(batch, loaded, strict=True) if image is not None]
            if good:
                yield self._score([one for one, _ in good], [image for _, image in good], details)

    def _load(self, sample: Sample) -> LoadedImage | None:
        assert self.config.image_size is not None
        try:
            return load_image(sample, self.config.image_size)
        except DataError as error:
            if not self.config.skip_bad:
                raise DataError(f"{error}; mend or remove it, or go on without it: --skip-bad") from error
            self.monitor.warn(f"left out: {error}")
            return None

    def _score(self, samples: Sequence[Sample], images: Sequence[LoadedImage], details: bool) -> list[Scored]:
        device, config = self.fabric.device, self.config
        squares = torch.stack([image.squashed for image in images]).to(device)
        with self.fabric.autocast():
            samples = self._with_classes(samples, squares)
            present = present_classes(class_label_matrix(samples, self.model.num_classes).to(device))
            other = None
            tokens = patch_tokens(self.model, squares) if details else None
            if config.source == "decoder":
                probabilities = decoder_probabilities(self.model, squares)
                maps = PresentClasses(present.index + 1, present.valid).pick(probabilities)
                maps = maps * present.valid[:, :, None, None]
                maps = maps / (probabilities[:, :1] + maps.sum(dim=1, keepdim=True))  # of the known classes alone
            else:
                cams = square_cams(self.model, squares, present, config.scales)
                maps, other = (cams.final, cams.auxiliary) if config.source == "cam" else (cams.auxiliary, cams.final)
        scored = []
        for place, (sample, image) in enumerate(zip(samples, images, strict=True)):
            size, count = (image.original.shape[-2], image.original.shape[-1]), len(sample.classes)

            def full(maps: Tensor, place: int = place, count: int = count, size: tuple[int, int] = size) -> Tensor:
                # In float16 from here on, so that the masks are those of the stored maps.
                return resize_maps(maps[place, :count], size).half() if count else maps.new_zeros(0, *size).half()

            second = full(other) if details and other is not None else None
            own_tokens = tokens[place] if tokens is not None else None
            scored.append(Scored(sample, image.original.to(device), full(maps), second, own_tokens))
        return scored

    def _with_classes(self, samples: Sequence[Sample], squares: Tensor) -> list[Sample]:
        """The samples, with predicted classes where none are known."""
        if all(sample.labelled for sample in samples):
            return list(samples)
        predicted = predicted_classes(self.model, squares)
        return [
            sample if sample.labelled else replace(sample, classes=classes)
            for sample, classes in zip(samples, predicted, strict=True)
        ]

    def _submit(
        self, batch: list[Scored], pool: Executor | None
    ) -> Iterator[tuple[Scored, "Future[list[PixelLabels]]"]]:
        if pool is None:  # all images at a time: on a GPU, they share each operation
            for one, labels in zip(
                batch,
                pixel_labels([one.scores for one in batch], [one.image for one in batch], self.config),
                strict=True,
            ):
                future: Future[list[PixelLabels]] = Future()
                future.set_result([labels])
                yield one, future
            return
        for one in batch:
            arrays = [one.scores.cpu().numpy()], [one.image.cpu().numpy()]
            yield one, pool.submit(_pixel_labels_in_process, *arrays, self.config)

    def _collect(self, waiting: "list[tuple[Scored, Future[list[PixelLabels]]]]") -> list[ImageLabels]:
        labels = []
        for one, future in waiting:
            (made,) = future.result()
            labels.append(
                ImageLabels(
                    id=one.sample.id,
                    classes=one.sample.classes,
                    cam=one.scores.cpu().numpy().astype(np.float16, copy=False),
                    mask=with_class_numbers(made.mask, one.sample),
                    confidence=made.confidence,
                )
            )
            self.monitor.advance()
        return labels


def _begin_process() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one tells of Ctrl-C


def _end_with_parent() -> None:
    """Leave nothing behind of a run that is killed: these processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _pixel_labels_in_process(
    scores: list[ScoreMaps], images: list[NDArray[np.uint8]], config: MakeLabels
) -> list[PixelLabels]:
    return pixel_labels([torch.from_numpy(one) for one in scores], [torch.from_numpy(one) for one in images], config)
