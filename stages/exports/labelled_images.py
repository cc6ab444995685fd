"""The images that have pseudo masks, with their files: what the formats that need images are written from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.dataset import IGNORE_INDEX, DataError, Sample
from data.errors import ArtifactError
from data.images import image_size
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import StageFolder
from stages.run_folder.run_data import open_run_data
from stages.runtime.monitor import Monitor


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One image and its pseudo mask."""

    id: str  # its path below the images' folder, without extension
    file: Path
    mask: NDArray[np.uint8]  # (h, w): 0 background, 1..C classes, 255 ignored

    @property
    def file_name(self) -> str:
        """The image's path below the images' folder, with '/' between folders."""
        return self.id + self.file.suffix


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """All of them, read one by one as they are asked for, so that memory does not grow with their number."""

    labels: LabelFile
    samples: tuple[Sample, ...]  # in the order of the label file; at least one
    split: str  # the one that the masks were made for
    monitor: Monitor

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class c is class_names[c - 1]."""
        return self.labels.class_names

    @property
    def folder(self) -> Path:
        """The images' folder, which the ids are relative to."""
        first = self.samples[0]
        return first.image.parents[first.id.count("/")].resolve()

    def __iter__(self) -> Iterator[LabelledImage]:
        """Yield every image, and tell the monitor.

        Raises:
            DataError: An image is missing or unreadable, or of another size than its mask.
        """
        self.monitor.start("writing masks", len(self.samples))
        for sample in self.samples:
            yield LabelledImage(id=sample.id, file=sample.image, mask=self._mask(sample))
            self.monitor.advance()
        self.monitor.finish()

    def _mask(self, sample: Sample) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = self.labels.read(sample.id)
        where = f"the mask of '{sample.id}' in {self.labels.path}"
        if mask.shape != (size := image_size(sample.image)):
            raise DataError(
                f"{where} is {mask.shape[0]} x {mask.shape[1]} (height x width), the image {sample.image} is "
                f"{size[0]} x {size[1]}: give the data set of that run with --data"
            )
        odd = (mask > len(self.class_names)) & (mask != IGNORE_INDEX)
        if odd.any():
            raise DataError(f"{where} has the value {mask[odd][0]}, but there are {len(self.class_names)} classes")
        return mask


def open_labelled_images(
    folder: StageFolder, labels: LabelFile, monitor: Monitor, *, data: Path | None = None
) -> LabelledImages:
    """Find the image of every mask.

    Args:
        folder: RUN/labels.
        labels: Its label file.
        monitor: Told of progress.
        data: The data set's present folder if it was moved, or the open data set.

    Raises:
        ArtifactError: The label file holds no masks, or the data set has other classes.
        DataError: There is no data set, or it lacks an image that has a mask.
    """
    if not labels.ids:
        raise ArtifactError(f"{labels.path} holds no masks: run 'toco make-labels --overwrite' again")
    # A row without an image is no matter here, unless the image has a mask: then it is lost, and said so below.
    dataset = open_run_data(folder, data, skip_bad=True)
    known = dataset.by_id()
    lost = [image_id for image_id in labels.ids if image_id not in known]
    if lost:
        raise DataError(
            f"{labels.path} has masks of {len(lost)} images that {dataset.root} lacks, first '{lost[0]}': "
            "give the data set of that run with --data, or run 'toco make-labels' again"
        )
    return LabelledImages(
        labels=labels,
        samples=tuple(known[image_id] for image_id in labels.ids),
        split=folder.settings["split"] or dataset.train_split,
        monitor=monitor,
    )


def classes_in_mask(mask: NDArray[np.uint8]) -> list[int]:
    """List the classes that a mask (h, w) shows, 1..C ascending, without background (0) and ignored pixels (255)."""
    return [number for number in np.unique(mask).tolist() if number not in (0, IGNORE_INDEX)]
