"""Pairs of image and pseudo mask for training: list them, and load one."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.errors import ArtifactError, DataError
from data.image_cache import TrainingImages, open_cache
from data.images import image_size
from data.transforms import SegTransform, SegViews
from stages.config import TrainSeg
from stages.corrections.given_masks import GivenMasks
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import command_for
from stages.runtime.monitor import Monitor


def labelled_images(
    dataset: Dataset, label_file: Path, config: TrainSeg, monitor: Monitor, given: Collection[str] = ()
) -> Dataset:
    """Reduce a data set to the images that have a pseudo or given mask, in `config.split` or in any split.

    Raises:
        ArtifactError: The label file is damaged or holds no masks.
        DataError: An image with a mask is missing from the data set, or the split has no image with a mask.
    """
    ids = LabelFile(label_file, "masks").ids
    if not ids:
        raise ArtifactError(f"{label_file} holds no masks: run {command_for(label_file)}")
    known = dataset.by_id()
    lost = [image_id for image_id in ids if image_id not in known]
    if lost:
        message = f"{label_file} has masks of {len(lost)} images that {dataset.root} lacks, first '{lost[0]}'"
        if not config.skip_bad or len(lost) == len(ids):
            raise DataError(
                f"{message}: use the data set of that run, run {command_for(label_file)}, or skip them with --skip-bad"
            )
        monitor.warn(f"skipped: {message}")
    wanted = known if config.split is None else {sample.id for sample in dataset.split(config.split)}
    chosen = [image_id for image_id in ids if image_id in known and image_id in wanted]
    chosen += sorted(image_id for image_id in {*given} - {*ids} if image_id in known)  # also without image labels
    samples = tuple(known[image_id] for image_id in chosen)
    if not samples:
        raise DataError(f"{label_file} has no masks of the images of split '{config.split}': choose another --split")
    return replace(dataset, splits={"labelled": samples}, train_split="labelled", val_split=None)


def check_labelled(
    samples: Sequence[Sample], label_file: Path, *, confidence: bool = False, given: Collection[str] = ()
) -> None:
    """Check that there is something to train on.

    Args:
        samples: Images that have a mask.
        label_file: labels.h5.
        confidence: Also require the confidence of the labels.
        given: Ids of the images with a mask that people drew.

    Raises:
        ArtifactError: All pixels of all masks are 255 (ignored), or the confidence was not stored.
    """
    if confidence:
        LabelFile(label_file, "confidence")  # raises ArtifactError if it is missing
    labels = LabelFile(label_file, "masks")
    if not given and not any((labels.read(sample.id) != IGNORE_INDEX).any() for sample in samples):
        raise ArtifactError(
            f"{label_file} has no labelled pixel (all are {IGNORE_INDEX}, ignored): run {command_for(label_file)} "
            "with a lower --high-threshold or a higher --low-threshold"
        )


class LoadLabelled:
    """Reads an image with its pseudo mask and draws a random training view; workers of a data loader receive it."""

    def __init__(
        self, label_file: Path, num_classes: int, long_side: int, config: TrainSeg, given: GivenMasks | None = None
    ) -> None:
        self.given = given or GivenMasks(num_classes=num_classes)
        self.labels = LabelFile(label_file, "masks")
        self.confidence = LabelFile(label_file, "confidence") if config.confidence_weighting else None
        self.num_classes = num_classes
        self.transform = SegTransform(
            config.image_size, long_side=long_side, rescale=(config.rescale_min, config.rescale_max)
        )
        self.images = TrainingImages(self.transform.needed_side, open_cache(config.cache))

    def __call__(self, sample: Sample) -> SegViews:
        """Load one sample.

        Raises:
            DataError: The image or its mask cannot be read, or their sizes differ.
        """
        image = self.images.read(sample.image, sample.pixels)
        size = image_size(sample.image)  # full size, as of the mask; `image` may be reduced
        mask = self._mask(sample, size)
        confidence = None
        if self.confidence is not None and sample.id in self.given:
            confidence = np.full(size, 255, np.uint8)
        elif self.confidence is not None:
            confidence = self._plane(self.confidence, sample, size)
        return self.transform(image, mask, confidence)

    def _mask(self, sample: Sample, size: tuple[int, int]) -> NDArray[np.uint8]:
        if sample.id in self.given:
            return self.given.read(sample)
        mask = self._plane(self.labels, sample, size)
        odd = (mask > self.num_classes) & (mask != IGNORE_INDEX)
        if odd.any():
            raise DataError(
                f"the mask of '{sample.id}' in {self.labels.path} has the value {mask[odd][0]}, but there are "
                f"{self.num_classes} classes"
            )
        return mask

    @staticmethod
    def _plane(file: LabelFile, sample: Sample, size: tuple[int, int]) -> NDArray[np.uint8]:
        where = f"the {file.group.removesuffix('s')} of '{sample.id}' in {file.path}"
        try:
            plane: NDArray[np.uint8] = file.read(sample.id)
        except KeyError as error:
            raise DataError(f"{where} is missing") from error
        except ArtifactError as error:
            raise DataError(f"{where} cannot be read: {error}") from error
        if plane.shape != size:
            raise DataError(
                f"{where} is {plane.shape[0]} x {plane.shape[1]} (height x width), the image {sample.image} is "
                f"{size[0]} x {size[1]}"
            )
        return plane
