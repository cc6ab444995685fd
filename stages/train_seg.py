"""Stage 3, `toco train-seg`: train a segmentation network, the student, on the pseudo masks.

In: RUN/labels and its data set. Out: RUN/seg with config.json, model.safetensors, metrics.jsonl, sessions.jsonl.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from data.band_image import Pixels
from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.errors import DataError
from data.images import read_pixels
from data.readers import check_images, read_mask
from data.stream import SampleStream, mixed_seed
from data.transforms import SegViews
from stages.config import TrainSeg
from stages.corrections.given_masks import (
    ENTRY,
    GivenMasks,
    check_same_given_masks,
    every_nth,
    given_masks,
    other_given_masks,
    used_ids,
)
from stages.features.cache import FeatureCache, compute_features
from stages.features.encoder import load_encoder
from stages.features.spec import FEATURES, feature_spec
from stages.labels.label_settings import used_settings
from stages.labels.training_pairs import LoadLabelled, check_labelled, labelled_images
from stages.networks.inference import to_tensor
from stages.networks.student import (
    Student,
    StudentSpec,
    label_map,
    new_feature_student,
    new_student,
    student_probabilities,
)
from stages.preflight.training import check_student_splits
from stages.run_folder.artifacts import StageFolder, already_finished, begin_stage, check_up_to_date, in_use, open_stage
from stages.run_folder.lock import stage_lock
from stages.run_folder.provenance import session
from stages.run_folder.run_data import (
    check_same_data,
    finish_again,
    measurable_samples,
    open_run_data,
    spread,
    usable_samples,
    warn_of_other_data,
)
from stages.run_folder.warning_log import WarningLog
from stages.runtime.fabric import ranks_of, share_counts, start
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.toco.metrics import Confusion
from stages.toco.ranks import SINGLE_RANK, Ranks
from stages.training.feature_student import (
    STUDENT_PATCHES,
    FeatureViews,
    LoadFeatures,
    feature_losses,
    label_weights,
    standardise,
)
from stages.training.loop import fit
from stages.training.panel_drawing import student_panel


def train_seg(
    run: Path,
    config: TrainSeg,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train the student on the pseudo masks of a run and write RUN/seg.

    Args:
        run: A run folder in which `toco make-labels` finished.
        config: Settings.
        monitor: Shows progress.
        data: The data set's present folder if it was moved, or the open data set.
        resume: Continue an interrupted training. On a CPU, the weights equal those of an undisturbed run bit for bit.
        overwrite: Delete RUN/seg and start again.

    Returns:
        The stage's folder.

    Raises:
        DataError: The data set cannot be used, or does not fit the labels.
        SettingsError: The settings contradict each other, or the weights are not available.
        ArtifactError: RUN/labels is not finished or outdated, or RUN/seg exists or cannot be resumed.
    """
    labels = open_stage(run, "labels")
    check_up_to_date(run, "labels")
    folder = run / "seg"
    locked = ("seg", "labels", FEATURES) if config.uses_features else ("seg", "labels")
    with stage_lock(run, *locked, monitor=monitor):
        # First, before other processes start and rank 0 writes.
        if already_finished(run, "seg", config, resume=resume, overwrite=overwrite):
            finish_again(run, "seg", data, monitor, skip_bad=config.skip_bad)
            if difference := other_given_masks(run, "seg", data):
                monitor.warn(difference)
            return folder
        log = WarningLog(monitor)
        fabric, monitor, share = start(config, log)
        dataset = open_run_data(labels, data, skip_bad=config.skip_bad)
        if resume and in_use(folder):
            check_same_data(run, "seg", dataset, monitor)
            check_same_given_masks(run, "seg", dataset)
        else:
            warn_of_other_data(labels, dataset, monitor)
        given = given_masks(run, dataset, config, config.split or labels.settings["split"], monitor)
        if config.use_masks != "none" and (difference := other_given_masks(run, "labels", dataset)):
            monitor.warn(difference)
        label_file = labels.path / "labels.h5"
        labelled = labelled_images(dataset, label_file, config, monitor, given.sources)
        samples = usable_samples(labelled, None, 1, config.skip_bad, monitor)
        check_labelled(samples, label_file, confidence=config.confidence_weighting, given=given.sources)
        with_masks = validation_images(dataset, config, monitor, learned=given.sources.keys() | used_ids(labels))
        torch.manual_seed(config.seed)
        if config.uses_features:
            training = feature_training(run, labels, samples, given, config, fabric, monitor)
        else:
            training = image_training(labels, samples, given, config, fabric)
        student, spec, learner, stream, losses = training
        if fabric.is_global_zero:
            extra = {"model": asdict(spec), ENTRY: given.as_entry(config.use_masks)}
            begin_stage(run, "seg", settings=config, dataset=dataset, extra=extra, resume=resume)
            log.write_to(folder)
        fabric.barrier()
        with session(folder, recorded=fabric.is_global_zero):
            fit(
                learner,
                encoder=student.network.encoder,
                product=student,
                fabric=fabric,
                settings=config,
                folder=folder,
                monitor=share,
                title="training the student",
                stream=stream,
                losses=losses,
                evaluate=(
                    partial(_scores, student, with_masks, len(dataset.class_names), config, fabric)
                    if with_masks
                    else None
                ),
                panel=student_panel(
                    student,
                    samples,
                    dataset.class_names,
                    labels=label_file,
                    given=given,
                    seed=config.seed,
                    fabric=fabric,
                ),
                resume=resume,
            )
        return folder


class StudentTraining(NamedTuple):
    """What the two kinds of students have of their own."""

    student: Student
    spec: StudentSpec
    learner: nn.Module  # the part that is trained
    stream: SampleStream
    losses: Callable[[nn.Module, int, Any], Mapping[str, Tensor]]


def image_training(
    labels: StageFolder, samples: Sequence[Sample], given: GivenMasks, config: TrainSeg, fabric: Fabric
) -> StudentTraining:
    """Prepare a network that learns from images and masks.

    Raises:
        SettingsError: The network or its weights are not available.
    """
    student, spec = new_student(config, len(labels.class_names), labels.pixels)
    if (
        fabric.world_size > 1 and fabric.device.type == "cuda"
    ):  # batch norm over the whole batch, which only CUDA supports
        nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    load = LoadLabelled(labels.path / "labels.h5", len(labels.class_names), spec.long_side, config, given)
    stream = student_stream(samples, load, given, config, take_warnings=load.images.take_warnings)
    return StudentTraining(student, spec, student, stream, partial(_losses, config, fabric))


def feature_training(
    run: Path,
    labels: StageFolder,
    samples: Sequence[Sample],
    given: GivenMasks,
    config: TrainSeg,
    fabric: Fabric,
    monitor: Monitor,
) -> StudentTraining:
    """Prepare a head that learns from stored features.

    Raises:
        DataError: An image is bad, and bad images are not to be skipped.
        SettingsError: The network of the features is not available.
    """
    features = feature_spec(used_settings(labels), open_stage(run, "cam"))
    if fabric.is_global_zero:
        compute_features(run, features, samples, config, fabric, monitor).close()
    fabric.barrier()
    cache = FeatureCache(run, features)
    samples = [one for one in samples if one.id in cache]
    encoder = load_encoder(features, run)
    student, spec = new_feature_student(
        encoder, features.backbone_options, config, len(labels.class_names), features.long_side
    )
    head = student.network.head
    standardise(head, cache, samples)
    fabric.to_device(student.eval())
    patches = -(-STUDENT_PATCHES // config.batch_size)
    load = LoadFeatures(cache, labels.path, head, patches, refined=used_settings(labels).refined, given=given)
    stream = student_stream(samples, load, given, config)
    losses = partial(_feature_losses, config, fabric, label_weights(load, samples).to(fabric.device))
    return StudentTraining(student, spec, head, stream, losses)


def student_stream(
    samples: Sequence[Sample],
    load: Callable[[Sample], Any],
    given: GivenMasks,
    config: TrainSeg,
    *,
    take_warnings: Callable[[], Sequence[str]] = tuple,
) -> SampleStream:
    """Make the stream of training samples; every batch has some of the images whose mask is given."""
    count = sum(one.id in given for one in samples)
    return SampleStream(
        samples,
        load,
        seed=config.seed,
        skip_bad=config.skip_bad,
        take_warnings=take_warnings,
        often=given.sources.keys(),
        every_nth=every_nth(count, len(samples), config.batch_size),
    )


def validation_images(
    dataset: Dataset, config: TrainSeg, monitor: Monitor, learned: Collection[str] = ()
) -> list[Sample]:
    """Choose images with ground-truth masks to evaluate on; an empty list if the data set has none.

    Images in `learned` are left out: the student learns their masks as drawn by people.

    Raises:
        DataError: The split named by --val-split has no masks, or one of its images is bad.
    """
    check_student_splits(dataset, config)
    split = config.val_split or dataset.val_split
    samples = [] if split is None else [one for one in dataset.split(split) if one.mask and one.id not in learned]
    if not samples:
        return []
    good, problems = check_images(spread(samples, config.evaluate_images), 1, skip_bad=config.skip_bad)
    for problem in problems:
        monitor.warn(f"not evaluated: {problem}")
    return measurable_samples(good, dataset.class_names, skip_bad=config.skip_bad, monitor=monitor)


def cross_entropy(
    logits: Float[Tensor, "b classes h w"],
    mask: UInt8[Tensor, "b h w"] | Int[Tensor, "b h w"],
    confidence: UInt8[Tensor, "b h w"] | None = None,
    ranks: Ranks = SINGLE_RANK,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled pixels of the whole batch; 0 instead of NaN if no pixel has a label.

    Args:
        logits: Class logits, background first.
        mask: Class numbers; `IGNORE_INDEX` marks pixels without a label.
        confidence: Weight of each pixel, 0..255 for 0..1.
        ranks: The ranks that share the batch.
    """
    if confidence is None:
        total = F.cross_entropy(logits.float(), mask.long(), ignore_index=IGNORE_INDEX, reduction="sum")
        count = (mask != IGNORE_INDEX).sum().float()
        return total / ranks.mean(count).clamp_min(1 / ranks.world_size)
    weight = confidence.float() / 255 * (mask != IGNORE_INDEX)
    each = F.cross_entropy(logits.float(), mask.long(), ignore_index=IGNORE_INDEX, reduction="none")
    return (weight * each).sum() / ranks.mean(weight.sum()).clamp_min(1e-6)


def _losses(
    config: TrainSeg, fabric: Fabric, network: nn.Module, iteration: int, batch: SegViews
) -> Mapping[str, Tensor]:
    # Seeded per iteration and rank, so that a resumed run draws the same dropout.
    torch.manual_seed(mixed_seed(config.seed, iteration, fabric.global_rank))
    return {
        "loss": cross_entropy(
            network(batch.image),
            batch.mask,
            batch.confidence if config.confidence_weighting else None,
            ranks_of(fabric),
        ),
        "labelled": (batch.mask != IGNORE_INDEX).float().mean(),
    }


def _feature_losses(
    config: TrainSeg, fabric: Fabric, weights: Tensor, network: nn.Module, iteration: int, batch: FeatureViews
) -> Mapping[str, Tensor]:
    torch.manual_seed(mixed_seed(config.seed, iteration, fabric.global_rank))  # of dropout, see `_losses`
    return feature_losses(weights, network, batch, ranks_of(fabric))


def _scores(
    student: Student, samples: Sequence[Sample], num_classes: int, config: TrainSeg, fabric: Fabric
) -> dict[str, float]:
    """Evaluate the student on ground-truth masks as `toco predict` runs it: mIoU without the pixels that are 255 there.

    Each rank evaluates its part of the images; all ranks return the result over all images.
    """
    confusion = Confusion(num_classes + 1)
    for image, truth in _with_truth(samples[fabric.global_rank :: fabric.world_size], num_classes, config):
        with fabric.autocast():
            (probabilities,) = student_probabilities(student, [to_tensor(image)])
        label = label_map(probabilities, (image.height, image.width))
        confusion.add(label.cpu().long(), torch.from_numpy(truth).long())
    return {"student_miou": share_counts(confusion, fabric).scores().miou}


def _with_truth(
    samples: Sequence[Sample], num_classes: int, config: TrainSeg
) -> Iterator[tuple[Pixels, NDArray[np.uint8]]]:
    for sample in samples:
        try:
            image = read_pixels(sample.image, rule=sample.pixels)
            truth = read_mask(sample, (image.height, image.width), num_classes)
        except DataError:
            if not config.skip_bad:
                raise
            continue
        yield image, truth
