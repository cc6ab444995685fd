"""`toco evaluate`: measure CAMs, pseudo masks, decoder and student against the ground truth (METHOD section 8).

In: a run folder and the ground-truth masks of its data set, which training never uses. Out: one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.command_line import as_command
from data.dataset import Dataset, Sample
from data.errors import DataError
from data.images import read_pixels
from data.readers import read_mask
from stages.config import Evaluate, Predict
from stages.corrections.given_masks import other_given_masks, used_ids
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.networks.inference import to_tensor
from stages.networks.segmenter import NetworkName, Segmenter, open_segmenter
from stages.run_folder.artifacts import StageFolder, current, finished, open_stage
from stages.run_folder.run_data import (
    check_masks,
    not_measured,
    open_run_data,
    skipping,
    spread,
    usable_samples,
    warn_of_other_data,
    with_skip_bad,
)
from stages.runtime.monitor import Monitor
from stages.toco.metrics import Confusion, Scores

NETWORKS: tuple[NetworkName, ...] = ("decoder", "student")
SOURCE_TITLES = {"cam": "CAM", "aux": "auxiliary CAM", "decoder": "decoder for\ngiven classes"}  # by --source
UNLABELLED = (
    "pixels with ground truth 255 are not counted; pixels predicted as 255 count as wrong, except in 'mean where "
    "labelled'"
)


class NoGroundTruthError(DataError):
    """There are no ground-truth masks to measure against."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The scores of one product."""

    name: str
    split: str
    images: int
    of: int  # images that could have been measured, if all had ground truth
    scores: Scores
    counts: Tensor  # int64 (classes, classes + 1): pixels by ground truth (row) and prediction; last column: 255

    @classmethod
    def of_counts(cls, confusion: Confusion, *, name: str, split: str, images: int, of: int) -> "Column":
        """Make the column of counted pixels."""
        return cls(name=name, split=split, images=images, of=of, scores=confusion.scores(), counts=confusion.counts)

    @property
    def measured(self) -> str:
        """The number of images in words: '8 images', or '3 of 8 images' if the others were not measured."""
        return f"{self.images} images" if self.images == self.of else f"{self.images} of {self.of} images"

    def absent(self, class_names: Sequence[str]) -> list[str]:
        """List the classes, background first in `class_names`, that no measured mask contains."""
        return [name for name, pixels in zip(class_names, self.counts.sum(dim=1).tolist(), strict=True) if not pixels]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The table: a row for each class, a column for each product that exists."""

    class_names: tuple[str, ...]  # background first
    columns: tuple[Column, ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """How to read the table: the rule, and the classes that the means leave out."""
        absent = {
            f"mean IoU of {column.split} {not_measured(names, column.images)}"
            for column in self.columns
            if (names := column.absent(self.class_names))
        }
        return (UNLABELLED, *sorted(absent))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json; scores in 0..1, None for classes absent from the ground truth."""
        return {
            "rule": UNLABELLED,
            "columns": [
                {
                    "name": column.name,
                    "split": column.split,
                    "images": column.images,
                    "of": column.of,
                    "miou": _plain(column.scores.miou),
                    "miou_where_labelled": _plain(column.scores.miou_ignoring_unlabelled),
                    "labelled": _plain(column.scores.labelled),
                    "pixel_accuracy": _plain(column.scores.pixel_accuracy),
                    "iou": {
                        name: _plain(value)
                        for name, value in zip(self.class_names, column.scores.iou.tolist(), strict=True)
                    },
                    "not_in_ground_truth": column.absent(self.class_names),
                }
                for column in self.columns
            ],
        }


def _plain(value: float) -> float | None:
    return None if value != value else round(value, 6)


def evaluate(
    run: Path,
    config: Evaluate,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    segmenters: Mapping[NetworkName, Segmenter] | None = None,
) -> Evaluation:
    """Measure all products of a run.

    CAMs and pseudo masks are measured on the images that they were made for. The networks are measured on
    `config.split`: by default the validation split if it has masks, otherwise the split of the training.

    Args:
        run: The run folder.
        config: Settings.
        monitor: Receives progress and warnings.
        data: The data set's present folder if it was moved, or the open data set.
        segmenters: The run's networks if they are loaded already.

    Raises:
        NoGroundTruthError: There are no ground-truth masks to measure against, or none shows any class.
        DataError: The data set, an image or a mask is bad, or the masks contradict the image labels.
        ArtifactError: No stage of the run is finished, or a file of the run is damaged.
    """
    cam = open_stage(run, "cam")
    config = with_skip_bad(config, cam)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    warn_of_other_data(cam, dataset, monitor)
    for stage in ("labels", "seg"):
        if finished(run, stage) and (difference := other_given_masks(run, stage, dataset)):
            monitor.warn(difference)
    split = config.split or _network_split(dataset, cam)
    check_masks(dataset, (split, cam.settings["split"] or dataset.train_split), monitor)
    measures = [partial(network_columns, run, dataset, config, monitor, split=split, segmenters=segmenters or {})]
    if current(run, "labels", monitor, "not measured"):
        measures.insert(
            0, partial(label_columns, run, dataset, monitor, images=config.images, skip_bad=config.skip_bad)
        )
    columns: list[Column] = []
    problems: list[NoGroundTruthError] = []
    for measure in measures:
        try:
            columns += with_foreground(measure(), dataset)
        except NoGroundTruthError as error:  # often only the validation split has masks
            problems.append(error)
    if not columns:
        raise problems[0]
    for problem in problems:
        monitor.warn(f"not measured: {problem}")
    return Evaluation(class_names=("background", *dataset.class_names), columns=tuple(columns))


def with_foreground(columns: list[Column], dataset: Dataset) -> list[Column]:
    """Return the columns, unless the masks that they were measured on show nothing but background.

    Raises:
        NoGroundTruthError: No mask shows any class.
    """
    for column in columns:
        if not column.counts[1:].any():
            raise no_class_shown(dataset, column.split, column.images)
    return columns


def no_class_shown(dataset: Dataset, split: str, images: int) -> NoGroundTruthError:
    """The error for masks that show nothing but background: its IoU alone would be the mean."""
    return NoGroundTruthError(
        f"{dataset.root}: none of {images} ground-truth masks of split {split!r} shows any class, so there is nothing "
        f"to measure against: run {as_command('check', dataset.root)}"
    )


def _network_split(dataset: Dataset, cam: StageFolder) -> str:
    val = dataset.val_split
    if val is not None and (
        val in dataset.incomplete or any(sample.mask is not None for sample in dataset.splits[val])
    ):
        return val
    return cam.settings["split"] or dataset.train_split


def with_ground_truth(
    samples: Sequence[Sample], split: str, dataset: Dataset, images: int | None = None
) -> list[Sample]:
    """Keep the samples that have a ground-truth mask; of these at most `images`.

    Raises:
        NoGroundTruthError: No sample has one.
    """
    found = [sample for sample in samples if sample.mask is not None]
    if not found:
        raise NoGroundTruthError(
            f"{dataset.root} has no ground-truth masks for split {split!r} to measure against: put some into masks/, "
            "or look at the pseudo masks with 'toco export RUN --out DIR'"
        )
    return found if images is None else spread(found, images)


def label_columns(
    run: Path,
    dataset: Dataset,
    monitor: Monitor,
    *,
    background: float | None = None,
    images: int | None = None,
    skip_bad: bool = False,
) -> list[Column]:
    """Measure the stored pseudo masks, and the stored CAMs at one threshold.

    For labels that were made from the decoder, its most likely class replaces the label of the CAM.

    Args:
        run: The run folder.
        dataset: Its data set.
        monitor: Receives progress and warnings.
        background: Background threshold of the CAMs; by default that of the pseudo masks.
        images: Measure on this many images; by default on all.
        skip_bad: Skip images whose ground-truth mask is bad.

    Raises:
        NoGroundTruthError: No labelled image has a ground-truth mask.
        DataError: A ground-truth mask is bad.
        ArtifactError: `toco make-labels` did not finish in the run.
    """
    labels = open_stage(run, "labels")
    split = labels.settings["split"] or dataset.train_split
    masks = LabelFile(labels.path / "labels.h5", "masks")
    cams = LabelFile(labels.path / "cams.h5", "cams")
    given = used_ids(labels)  # whose masks people drew: they would be measured against themselves
    stored = [sample for sample in dataset.split(split) if sample.id in masks and sample.id not in given]
    if given and stored:
        monitor.note(f"pseudo masks of {len(given)} images with a mask drawn by people are not measured")
    if given and not stored:
        raise NoGroundTruthError(f"all {len(given)} images with a pseudo mask in {run} have a mask drawn by people")
    samples = with_ground_truth(stored, split, dataset, images)
    source = labels.settings["source"]
    threshold: float | None = labels.config["background_threshold"] if background is None else background
    classes = len(dataset.class_names) + 1
    by_cam, by_mask = Confusion(classes), Confusion(classes)
    measured = 0
    monitor.start("measuring the labels", len(samples))
    for sample in samples:
        with skipping(skip_bad, monitor):
            mask = torch.from_numpy(masks.read(sample.id)).long()
            truth = read_ground_truth(sample, mask, classes - 1)
            by_mask.add(mask, truth)
            by_cam.add(stored_label(cams, sample.id, None if source == "decoder" else threshold), truth)
            measured += 1
        monitor.advance()
    monitor.finish()
    return [
        Column.of_counts(confusion, name=name, split=split, images=measured, of=len(stored))
        for name, confusion in ((SOURCE_TITLES[source], by_cam), ("pseudo masks", by_mask))
    ]


def read_ground_truth(sample: Sample, like: Tensor, num_classes: int) -> Tensor:
    """Read an image's ground-truth mask, int64 (h, w). `like` has its size: the last two axes are h and w."""
    size = (like.shape[-2], like.shape[-1])
    return torch.from_numpy(read_mask(sample, size, num_classes)).long()


def network_columns(
    run: Path,
    dataset: Dataset,
    config: Evaluate,
    monitor: Monitor,
    *,
    split: str,
    segmenters: Mapping[NetworkName, Segmenter],
    networks: Sequence[NetworkName] = NETWORKS,
) -> list[Column]:
    """Measure the decoder, and the student if it is trained; or only these `networks`.

    Raises:
        NoGroundTruthError: No image of the split has a ground-truth mask.
        DataError: An image or a mask is bad.
        ArtifactError: A network's file is damaged.
    """
    usable = usable_samples(dataset, split, 1, config.skip_bad, monitor)
    # labels.h5 has masks drawn by people, too, and the student learned all of it.
    drawn = {one for stage in ("labels", "seg") if finished(run, stage) for one in used_ids(open_stage(run, stage))}
    if finished(run, "seg") and (learned := drawn & {one.id for one in usable if one.mask is not None}):
        usable = tuple(one for one in usable if one.id not in learned)
        monitor.warn(
            f"{len(learned)} images of split {split!r} are not measured, because the student learned their masks as "
            "drawn by people"
        )
        if not any(one.mask is not None for one in usable):
            raise NoGroundTruthError(f"the student learned all ground-truth masks of split {split!r}")
    samples = with_ground_truth(usable, split, dataset, config.images)
    columns = []
    student = current(run, "seg", monitor, "not measured")
    for name in networks if student else [one for one in networks if one != "student"]:
        settings = Predict(source=name, device=config.device, precision=config.precision)
        segment = segmenters.get(name) or open_segmenter(run, settings)
        confusion, measured = Confusion(len(dataset.class_names) + 1), 0
        monitor.start(f"measuring the {name}", len(samples))
        for sample in samples:
            with skipping(config.skip_bad, monitor):
                label = segment(to_tensor(read_pixels(sample.image, rule=sample.pixels)))
                confusion.add(label, read_ground_truth(sample, label, len(dataset.class_names)))
                measured += 1
            monitor.advance()
        monitor.finish()
        columns.append(Column.of_counts(confusion, name=name, split=split, images=measured, of=len(usable)))
    return columns
