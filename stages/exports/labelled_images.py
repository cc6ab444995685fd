"""The images that have a pseudo mask, for the formats that need the image files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from data.dataset import IGNORE_INDEX, Dataset, Mask, Sample, checked_mask
from data.errors import ArtifactError, DataError
from data.images import image_size, is_rotated
from data.pixel_rule import AS_STORED, PixelRule
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import StageFolder, command_for
from stages.run_folder.run_data import open_run_data, warn_of_other_data
from stages.runtime.monitor import Monitor

Separation = Literal["distance", "cam", "components"]  # of touching objects; see instances.py
SEPARATIONS: tuple[Separation, ...] = get_args(Separation)
DEFAULT_SEPARATION: Separation = "distance"
# Pixels of the smallest object. After a CRF, 60 to 80 % of the pieces have fewer, but no region of the ground truth of
# the demo and of MSRC (bench/instances.md).
DEFAULT_MIN_AREA = 10


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One image and its pseudo mask."""

    id: str  # path below the image folder, without extension
    file: Path
    mask: Mask
    pixels: PixelRule = AS_STORED

    @property
    def file_name(self) -> str:
        """Path below the image folder, with '/' between folders."""
        return self.id + self.file.suffix


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """All images that have a pseudo mask. Iteration reads one mask at a time."""

    labels: LabelFile
    samples: tuple[Sample, ...]  # at least one, in the order of the label file
    split: str  # the split that was labelled
    monitor: Monitor
    separation: Separation = DEFAULT_SEPARATION  # for formats with objects
    min_area: int = DEFAULT_MIN_AREA  # the same; smaller pieces are no objects

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class c is class_names[c - 1]."""
        return self.labels.class_names

    @property
    def folder(self) -> Path:
        """The image folder, to which the ids are relative."""
        first = self.samples[0]
        return first.image.parents[first.id.count("/")].resolve()

    def __iter__(self) -> Iterator[LabelledImage]:
        """Yield every image with its mask, and report the progress to the monitor.

        Raises:
            DataError: An image is missing or unreadable, its size differs from the size of its mask, or a mask has a
                value that is not a class.
        """
        self.monitor.start("writing masks", len(self.samples))
        for sample in self.samples:
            yield LabelledImage(id=sample.id, file=sample.image, mask=self._mask(sample), pixels=sample.pixels)
            self.monitor.advance()
        self.monitor.finish()

    def warn_of_rotated(self, advice: str) -> None:
        """Warn if EXIF rotates some of the images, for formats that refer to the original files."""
        rotated = sum(is_rotated(sample.image) for sample in self.samples)
        if rotated:
            self.monitor.warn(
                f"EXIF rotates {rotated} of {len(self.samples)} images, and their sizes and masks are those of the "
                f"upright images: {advice}"
            )

    def _mask(self, sample: Sample) -> Mask:
        return checked_mask(
            self.labels.read(sample.id),
            image_size(sample.image),
            len(self.class_names),
            f"the mask of '{sample.id}' in {self.labels.path}",
            remedy="give the data set of that run with --data",
        )


def open_labelled_images(
    folder: StageFolder,
    labels: LabelFile,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    separation: Separation = DEFAULT_SEPARATION,
    min_area: int = DEFAULT_MIN_AREA,
) -> LabelledImages:
    """Find the image of every mask.

    Args:
        folder: RUN/labels.
        labels: The label file in `folder`.
        monitor: Receives the progress.
        data: The data set, or its present folder if it was moved.
        separation: How touching objects are separated, for formats with objects.
        min_area: Pixels of the smallest object, for formats with objects.

    Raises:
        ArtifactError: The label file holds no masks, or the data set has other classes.
        DataError: There is no data set, or the image of a mask is missing.
    """
    if not labels.ids:
        raise ArtifactError(f"{labels.path} holds no masks: run {command_for(labels.path)}")
    # A missing image is an error only if it has a mask; this is checked below.
    dataset = open_run_data(folder, data, skip_bad=True)
    warn_of_other_data(folder, dataset, monitor)
    known = dataset.by_id()
    missing = [image_id for image_id in labels.ids if image_id not in known]
    if missing:
        raise DataError(
            f"{dataset.root} lacks {len(missing)} of the {len(labels.ids)} images that have a mask in {labels.path}, "
            f"first '{missing[0]}': give the data set of that run with --data, or run {command_for(labels.path)}"
        )
    return LabelledImages(
        labels=labels,
        samples=tuple(known[image_id] for image_id in labels.ids),
        split=folder.settings["split"] or dataset.train_split,
        monitor=monitor,
        separation=separation,
        min_area=min_area,
    )


def classes_in_mask(mask: Mask) -> list[int]:
    """List the classes in a mask (h, w): 1..C ascending, without background (0) and ignored pixels (255)."""
    return [number for number in np.unique(mask).tolist() if number not in (0, IGNORE_INDEX)]
