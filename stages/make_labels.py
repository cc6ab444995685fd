"""Stage 2, `toco make-labels`: class scores of images, and pseudo masks from them (METHOD sections 2, 3, 8).

In: RUN/cam and its data set. Out: RUN/labels with config.json, cams.h5, labels.h5, sessions.jsonl.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import IGNORE_INDEX, DataError, Dataset, Sample
from data.readers import open_dataset
from stages.config import MakeLabels
from stages.labels.choose_background import choose_background
from stages.labels.store import ImageLabels, join_shards, label_attributes, stored_ids, write_shard
from stages.networks.cam_model import check_scales, load_cam_model
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
from stages.run_folder.artifacts import already_finished, begin_stage, check_classes, open_stage, read_config
from stages.run_folder.provenance import session
from stages.run_folder.run_data import usable_samples
from stages.runtime.fabric import start
from stages.runtime.launch import own_cores
from stages.runtime.monitor import Monitor
from stages.toco.cam import PresentClasses, present_classes
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.model import ToCo
from stages.toco.refine import (
    PseudoLabel,
    against_backgrounds,
    average_with_par,
    by_threshold,
    by_two_thresholds,
    most_likely,
    with_background,
)

SHARD = 16  # images in a shard, or --batch-size if that is more

Scores = NDArray[np.float16]  # (k, h, w), 0..1
Mask = NDArray[np.uint8]  # (h, w)


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
    config = with_training_defaults(config, trained)
    folder = run / "labels"
    # Before there are several processes, of which one begins to write.
    if already_finished(run, "labels", config, monitor, resume=resume, overwrite=overwrite):
        return folder
    fabric, monitor, share = start(config, monitor)
    dataset = open_dataset(data or cam.dataset_root, skip_bad=config.skip_bad)
    check_classes(cam, dataset)
    model = load_cam_model(cam)
    assert config.image_size is not None
    check_scales(config.scales, config.image_size, model.backbone)
    fabric.to_device(model)
    samples = samples_to_label(dataset, config, model.backbone.patch_size, monitor)
    maker = LabelMaker(model=model, fabric=fabric, config=config, monitor=share)
    background = None
    if fabric.is_global_zero:  # which alone looks and chooses, so that all go by the same score
        background = read_config(run, "labels").get("background") if resume and _begun(folder) else None
        if background is None and (config.background == "auto" or config.calibrate):
            background = choose_background(maker.scores, samples, len(dataset.class_names), config, monitor)
    maker.config = resolved(config, trained, fabric.broadcast(background))
    if fabric.is_global_zero:
        extra = {"background": maker.config.background}  # what became of 'auto', and of none
        begin_stage(run, "labels", settings=config, dataset=dataset, extra=extra, resume=resume)
    fabric.barrier()
    with session(folder, recorded=fabric.is_global_zero):
        _label(folder, samples, maker, dataset)
    return folder


def _label(folder: Path, samples: Sequence[Sample], maker: "LabelMaker", dataset: Dataset) -> None:
    """Make the labels that are not there yet, shard by shard, and join all shards at the end."""
    fabric, monitor = maker.fabric, maker.monitor
    shards = folder / "shards"
    # By name and not by place: an image that was mended since moves all that come after it.
    done = stored_ids(sorted(shards.glob("*.h5")))
    fabric.barrier()  # all processes have seen the same
    # The same groups in every run, whoever takes them: what is batched together decides on the last bits.
    size = max(SHARD, maker.config.batch_size)
    groups = [samples[first : first + size] for first in range(0, len(samples), size)]
    mine = [[one for one in group if one.id not in done] for group in groups[fabric.global_rank :: fabric.world_size]]
    monitor.start("making labels", len(samples), done=sum(one.id in done for one in samples))
    for labels in maker.run([group for group in mine if group]):
        write_shard(free_name(shards, fabric.global_rank), labels, threads=maker.threads)
        if fabric.world_size > 1:  # the other processes' share, which is as large
            monitor.advance(len(labels) * (fabric.world_size - 1))
    fabric.barrier()
    if fabric.is_global_zero:
        attributes = label_attributes(dataset.class_names, asdict(maker.config))
        join_shards(sorted(shards.glob("*.h5")), folder, attributes)
        shutil.rmtree(shards)
    fabric.barrier()
    monitor.finish()


def with_training_defaults(config: MakeLabels, trained: Mapping[str, Any]) -> MakeLabels:
    """Take from the training what was not asked for otherwise: the split, and the images' size."""
    return replace(
        config, split=config.split or trained["split"], image_size=config.image_size or trained["image_size"]
    )


def samples_to_label(dataset: Dataset, config: MakeLabels, patch_size: int, monitor: Monitor) -> list[Sample]:
    """List the images that get a mask: those of the split, and on demand those without image labels.

    Raises:
        DataError: The split is empty, or an image is bad and not to be skipped.
    """
    samples = list(usable_samples(dataset, config.split, patch_size, config.skip_bad, monitor))
    if config.image_labels == "predicted":
        if not dataset.unlabelled:
            monitor.warn("--image-labels predicted: there is no image without a row in labels.csv")
        else:
            whole = replace(dataset, splits={"unlabelled": dataset.unlabelled}, warnings=())
            samples += usable_samples(whole, "unlabelled", patch_size, config.skip_bad, monitor)
    return samples


def resolved(config: MakeLabels, trained: Mapping[str, Any], background: float | None = None) -> MakeLabels:
    """Fill in the background scores.

    Published are 0.5 and, to both sides of it, 0.7 and 0.25; any other score takes these along.

    Args:
        config: As asked for.
        trained: The settings of the training, whose scores are taken where none is asked for.
        background: The score that was chosen, or stands in the folder that is gone on with.
    """
    asked = config.background if background is None else background
    assert asked != "auto"
    high, low = config.background_high, config.background_low
    score: float = trained["background"] if asked is None else asked
    own = score != trained["background"]
    if high is None:
        high = min(1.4 * score, 0.95) if own else trained["background_high"]
    if low is None:
        low = 0.5 * score if own else trained["background_low"]
    used = None if config.source == "decoder" else score  # it knows a background of its own
    return replace(config, background=used, background_high=high, background_low=low, calibrate=0)


def _begun(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def free_name(shards: Path, process: int) -> Path:
    """A new shard's path; the names of different processes differ."""
    taken = [int(path.stem.partition("-")[2]) for path in shards.glob(f"{process:04d}-*.h5")]
    return shards / f"{process:04d}-{max(taken, default=-1) + 1:08d}.h5"


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
            context.set_forkserver_preload(["stages.make_labels"])
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


def with_class_numbers(mask: Mask, sample: Sample) -> Mask:
    """A mask among an image's own classes as one among all classes.

    Args:
        mask: 0 background, 1..k the image's classes in order, 255 ignored.
        sample: The image, with the classes that it has or is predicted to have.
    """
    if not (sample.labelled or sample.classes):  # nobody said that there is nothing in it
        return np.full_like(mask, IGNORE_INDEX)
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    table[: len(sample.classes) + 1] = (0, *sample.classes)
    numbered: Mask = table[mask]
    return numbered


class PixelLabels(NamedTuple):
    """The mask of one image, among its own classes."""

    mask: Mask  # 0 background, 1..k the classes in order, 255 ignored
    confidence: Mask | None  # 0..255


def pixel_labels(scores: Sequence[Tensor], images: Sequence[Tensor], config: MakeLabels) -> list[PixelLabels]:
    """Make masks from the scores of the images' classes.

    Args:
        scores: For each image, shape (k, h, w), float16, 0..1.
        images: Shape (3, h, w), uint8, on the same device.
        config: As `resolved` gives it.
    """
    high, low = config.background_high, config.background_low
    assert high is not None
    assert low is not None
    # An image without any of the classes is all background, and surely so.
    found: dict[int, PseudoLabel] = {
        place: PseudoLabel(cam.new_zeros(cam.shape[1:]).long(), cam.new_ones(cam.shape[1:]).float())
        for place, cam in enumerate(scores)
        if not len(cam)
    }
    rest = {place: cam.float() for place, cam in enumerate(scores) if len(cam)}
    if config.uses_crf or config.uses_par or config.source == "decoder":
        # The decoder knows a background of its own.
        probabilities = {
            place: with_background(cam) if config.source == "decoder" else against_backgrounds(cam, (high, low))
            for place, cam in rest.items()
        }
        found |= _refined(probabilities, images, config)
    elif config.two_thresholds:
        found |= {place: by_two_thresholds(cam, high=high, low=low) for place, cam in rest.items()}
    else:
        assert isinstance(config.background, float | int)
        found |= {place: by_threshold(cam, config.background) for place, cam in rest.items()}
    return [_as_arrays(found[place], config) for place in range(len(scores))]


def _refined(probabilities: dict[int, Tensor], images: Sequence[Tensor], config: MakeLabels) -> dict[int, PseudoLabel]:
    if config.uses_par:
        probabilities = {place: average_with_par(one, images[place]) for place, one in probabilities.items()}
    if config.uses_crf and probabilities:
        sharpened = sharpen(
            [images[place] for place in probabilities],
            list(probabilities.values()),
            FOR_PSEUDO_LABELS,
            config.crf_backend,
            fast=config.crf == "fast",
        )
        probabilities = dict(zip(probabilities, sharpened, strict=True))
    return {place: most_likely(one) for place, one in probabilities.items()}


def _as_arrays(labels: PseudoLabel, config: MakeLabels) -> PixelLabels:
    confidence = (255 * labels.confidence).round().byte().cpu().numpy() if config.confidence else None
    return PixelLabels(labels.label.cpu().numpy().astype(np.uint8), confidence)


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


def _pixel_labels_in_process(scores: list[Scores], images: list[Mask], config: MakeLabels) -> list[PixelLabels]:
    return pixel_labels([torch.from_numpy(one) for one in scores], [torch.from_numpy(one) for one in images], config)
