"""Stage 2, `toco make-labels`: multi-scale CAMs, and pseudo masks from them (METHOD sections 2, 3, 8).

In: RUN/cam and its data set. Out: RUN/labels with config.json, cams.h5, labels.h5.
"""

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import IGNORE_INDEX, DataError, Sample
from data.readers import open_dataset
from stages.artifacts import already_finished, begin_stage, check_classes, open_stage
from stages.cam_model import check_scales, load_cam_model
from stages.config import MakeLabels
from stages.inference import LoadedImage, class_label_matrix, load_image, resize_maps, square_cams
from stages.machine import cores, make_fabric
from stages.monitor import Monitor
from stages.samples import usable_samples
from stages.store import ImageLabels, join_shards, label_attributes, stored_ids, write_shard
from stages.toco.cam import label_one_threshold, label_two_thresholds, present_classes
from stages.toco.crf import refine_with_crf
from stages.toco.model import ToCo

SHARD = 32  # images in a shard: what a killed run does again at most
MAY_CHANGE = ("device", "workers", "skip_bad", "batch_size", "crf_backend")


def make_labels(
    run: Path,
    config: MakeLabels,
    monitor: Monitor,
    *,
    data: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Make CAMs and pseudo masks of a split and write RUN/labels.

    Args:
        run: A run folder in which `toco train-cam` finished.
        config: Settings.
        monitor: Told of progress.
        data: Where the data set is now, if it was moved since.
        resume: Keep what an interrupted run finished.
        overwrite: Start again, deleting what RUN/labels has.

    Returns:
        The stage's folder.

    Raises:
        ValueError: The data or the settings do not work out.
        ArtifactError: RUN/cam is not finished, or RUN/labels exists.
    """
    cam = open_stage(run, "cam")
    trained = cam.settings
    image_size: int = config.image_size or trained["image_size"]
    config = replace(
        config,
        split=config.split or trained["split"],
        image_size=image_size,
        background_high=trained["background_high"] if config.background_high is None else config.background_high,
        background_low=trained["background_low"] if config.background_low is None else config.background_low,
    )
    folder = run / "labels"
    if already_finished(
        run,
        "labels",
        settings=config,
        monitor=monitor,
        resume=resume,
        overwrite=overwrite,
        may_change=MAY_CHANGE,
    ):
        return folder
    dataset = open_dataset(data or cam.dataset_root, skip_bad=config.skip_bad)
    check_classes(cam, dataset)
    fabric = make_fabric(config.device)
    model = load_cam_model(cam)
    check_scales(config.scales, image_size, model.backbone)
    fabric.to_device(model)
    samples = usable_samples(dataset, config.split, model.backbone.patch_size, config.skip_bad, monitor)
    begin_stage(run, "labels", settings=config, dataset=dataset, resume=resume)
    shards = folder / "shards"
    maker = LabelMaker(model=model, fabric=fabric, config=config, monitor=monitor)
    written = sorted(shards.glob("*.h5"))
    # By name and not by place: an image that was mended since moves all that come after it.
    done = stored_ids(written)
    missing = [sample for sample in samples if sample.id not in done]
    groups = [missing[first : first + SHARD] for first in range(0, len(missing), SHARD)]
    monitor.start("making labels", len(samples), done=len(samples) - len(missing))
    for labels in maker.run(groups):
        written.append(shards / f"{len(written):08d}.h5")
        write_shard(written[-1], labels)
    join_shards(written, folder, label_attributes(dataset.class_names, asdict(config)))
    shutil.rmtree(shards)
    monitor.finish()
    return folder


@dataclass(kw_only=True)
class LabelMaker:
    """Makes the labels of images, batch by batch."""

    model: ToCo
    fabric: Fabric
    config: MakeLabels  # with no field left to a default of the training
    monitor: Monitor

    def run(self, groups: Iterable[Sequence[Sample]]) -> Iterator[list[ImageLabels]]:
        """Yield the labels of each group of images, in order.

        A CRF on the CPU runs in other processes while the network goes on with the next group.
        """
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(self._cores()))
            make_mask = self._mask_maker(stack)
            waiting: deque[list[Callable[[], ImageLabels]]] = deque()
            for samples in groups:
                waiting.append(list(self._group(samples, threads, make_mask)))
                if len(waiting) > 1:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())

    def _cores(self) -> int:
        return max(1, self.config.workers if self.config.workers is not None else cores())

    def _mask_maker(self, stack: ExitStack) -> "MaskMaker":
        """How masks are made: here and now, or by processes of their own where a CRF keeps the CPU busy."""
        in_processes = self.config.crf and self.fabric.device.type == "cpu" and self._cores() > 1
        if not in_processes:
            return lambda cam, image: _done(mask_of(cam, image, self.config))
        # Neither fork (torch's threads are running) nor spawn (each process would import torch anew).
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["stages.make_labels"])
        pool = stack.enter_context(
            ProcessPoolExecutor(self._cores(), mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
        )
        return lambda cam, image: pool.submit(_mask_in_process, cam.numpy(), image.numpy(), self.config).result

    def _group(
        self, samples: Sequence[Sample], threads: ThreadPoolExecutor, make_mask: "MaskMaker"
    ) -> Iterator[Callable[[], ImageLabels]]:
        for first in range(0, len(samples), self.config.batch_size):
            batch = samples[first : first + self.config.batch_size]
            loaded = list(threads.map(self._load, batch))
            good = [(sample, image) for sample, image in zip(batch, loaded, strict=True) if image is not None]
            if good:
                yield from self._batch([one for one, _ in good], [image for _, image in good], make_mask)

    def _load(self, sample: Sample) -> LoadedImage | None:
        assert self.config.image_size is not None
        try:
            return load_image(sample, self.config.image_size)
        except DataError as error:
            if not self.config.skip_bad:
                raise DataError(f"{error}; mend or remove it, or go on without it: --skip-bad") from error
            self.monitor.warn(f"left out: {error}")
            return None

    def _batch(
        self, samples: Sequence[Sample], images: Sequence[LoadedImage], make_mask: "MaskMaker"
    ) -> Iterator[Callable[[], ImageLabels]]:
        device = self.fabric.device
        labels = class_label_matrix(samples, self.model.num_classes).to(device)
        squares = torch.stack([image.squashed for image in images]).to(device)
        with self.fabric.autocast():
            cams = square_cams(self.model, squares, present_classes(labels), self.config.scales).final
        for sample, image, cam in zip(samples, images, cams, strict=True):
            size = (image.original.shape[-2], image.original.shape[-1])
            # In float16 from here on, so that the masks are those of the stored maps.
            full = resize_maps(cam[: len(sample.classes)], size).half() if sample.classes else cam.new_zeros(0, *size)
            mask = make_mask(full, image.original.to(device))
            yield _Finish(sample, full.cpu().numpy().astype(np.float16, copy=False), mask)

    def _collect(self, finish: list[Callable[[], ImageLabels]]) -> list[ImageLabels]:
        labels = []
        for one in finish:
            labels.append(one())
            self.monitor.advance()
        return labels


Mask = NDArray[np.uint8]
MaskMaker = Callable[[Tensor, Tensor], Callable[[], Mask]]


@dataclass(frozen=True)
class _Finish:
    """An image's labels once its mask is there."""

    sample: Sample
    cam: NDArray[np.float16]
    mask: Callable[[], Mask]

    def __call__(self) -> ImageLabels:
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[: len(self.sample.classes) + 1] = (0, *self.sample.classes)
        return ImageLabels(id=self.sample.id, classes=self.sample.classes, cam=self.cam, mask=table[self.mask()])


def mask_of(cam: Tensor, image: Tensor, config: MakeLabels) -> Mask:
    """Make the mask of one image from the CAMs of its classes.

    Args:
        cam: Shape (k, h, w), float16, 0..1.
        image: Shape (3, h, w), uint8.
        config: With both thresholds.

    Returns:
        Shape (h, w): 0 background, 1..k the classes in order, 255 ignored.
    """
    assert config.background_high is not None
    assert config.background_low is not None
    if not len(cam):  # an image without any of the classes is all background, and surely so
        return np.zeros(cam.shape[1:], dtype=np.uint8)
    cam = cam.float()
    if config.crf:
        label = refine_with_crf(
            cam, image, high=config.background_high, low=config.background_low, backend=config.crf_backend
        )
    elif config.two_thresholds:
        label = label_two_thresholds(cam[None], high=config.background_high, low=config.background_low)[0]
    else:
        label = label_one_threshold(cam[None], config.background)[0]
    return label.cpu().numpy().astype(np.uint8)


def _mask_in_process(cam: NDArray[np.float16], image: Mask, config: MakeLabels) -> Mask:
    return mask_of(torch.from_numpy(cam), torch.from_numpy(image), config)


def _done(mask: Mask) -> Callable[[], Mask]:
    return lambda: mask
