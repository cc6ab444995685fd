"""What the planner knows about a data set: what `toco check` counts. Some masks are decoded, but no image."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from data.dataset import Dataset, Sample
from data.errors import DataError
from data.images import image_size
from data.small_objects import class_covers, median_covers
from stages.check import Sizes, SplitCounts, count_split, sizes_of
from stages.run_folder.run_data import spread

HEADERS = 200  # images whose size is read, spread over the split


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Facts about a data set.

    Attributes:
        root: The data set's folder, as text.
        splits: Numbers of images, negatives and ground-truth masks, by split.
        train_split: The split to train on.
        val_split: The split to measure the student on, if any.
        class_names: The foreground classes.
        fewest: Training images of the rarest class.
        labels_per_image: Mean number of classes of a training image that has any.
        sizes: (h, w) of images; None if no header can be read.
        unlabelled: Number of images without labels.
        covers: Median share of an image that each class covers, 0..1, from ground-truth masks; empty without them.
        found: The same of the other classes, as pseudo masks of an earlier run show them.
        bands: What networks get of an image, in one phrase; None for 8-bit RGB that loses no depth.
    """

    root: str
    splits: dict[str, SplitCounts]
    train_split: str
    val_split: str | None
    class_names: tuple[str, ...]
    fewest: int
    labels_per_image: float
    sizes: Sizes | None
    unlabelled: int
    covers: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, float] = field(default_factory=dict)
    bands: str | None = None

    @property
    def training(self) -> SplitCounts:
        """Counts of the training split."""
        return self.splits[self.train_split]

    @property
    def median_size(self) -> tuple[int, int]:
        """Height and width of the median image; 500 x 500 if unknown."""
        return self.sizes.median if self.sizes else (500, 500)

    def lines(self) -> list[str]:
        """Describe the data in two short sentences."""
        training = self.training
        height, width = self.median_size
        images = [
            f"{training.images} training images ({training.negatives} without any class)",
            f"{len(self.class_names)} classes, {self.labels_per_image:.1f} per image, the rarest in {self.fewest}",
            f"median size {width} x {height}",
        ]
        measured = sum(one.masks for one in self.splits.values())
        if self.val_split is None:
            validation = "No validation split: the student's scores are not measured"
        else:
            validation = f"{self.splits[self.val_split].images} validation images"
        truth = f"{measured} images with a ground-truth mask" if measured else "no ground truth: nothing is measured"
        about_bands = [self.bands[0].upper() + self.bands[1:]] if self.bands else []
        return [", ".join(images), f"{validation}; {truth}", *about_bands]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


def fingerprint_of(dataset: Dataset, split: str | None = None) -> Fingerprint:
    """Count what a plan depends on.

    Args:
        dataset: The data set.
        split: The split to train on; by default the data set's own.

    Raises:
        DataError: The split does not exist or is empty.
    """
    training = dataset.split(split)
    shown = [0] * len(dataset.class_names)
    for sample in training:
        for number in sample.classes:
            shown[number - 1] += 1
    positive = sum(bool(sample.classes) for sample in training)
    usable_val = dataset.val_split if dataset.val_split and dataset.splits.get(dataset.val_split) else None
    return Fingerprint(
        root=str(dataset.root),
        splits={name: count_split(dataset.splits[name]) for name in dataset.split_names()},
        train_split=split or dataset.train_split,
        val_split=usable_val,
        class_names=dataset.class_names,
        fewest=min((count for count in shown if count), default=0),
        labels_per_image=sum(shown) / max(1, positive),
        sizes=sizes_of(_header_sizes(training)),
        unlabelled=len(dataset.unlabelled),
        covers=_covers([one for samples in dataset.splits.values() for one in samples], dataset.class_names),
    )


def _covers(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, float]:
    """How much of an image the classes cover, by some ground-truth masks; unreadable ones are left to the stages."""
    found = []
    for sample in spread([one for one in samples if one.mask is not None], HEADERS):
        with suppress(DataError):
            assert sample.mask is not None
            found.append(class_covers(sample.mask.read()))
    return median_covers(found, class_names)


def _header_sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Sizes (h, w) of some images; unreadable ones are left to the checks of the stages."""
    sizes = []
    for sample in spread(samples, HEADERS):
        try:
            sizes.append(image_size(sample.image))
        except DataError:
            continue
    return sizes
