"""`toco check`: the contents of a data set, its problems, and what to do about them.

In: the folder of a data set; every image and mask is decoded. Out: counts and findings.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Sample
from data.findings import Facts, Finding, co_occurrence, co_occurring_pairs, find_all, split_images
from data.inspection import Inspection, find_unused_masks, inspect_samples
from data.pixel_facts import all_samples, pixel_facts, with_pixel_rule
from data.readers import open_dataset
from stages.config import PixelValues
from stages.runtime.monitor import Monitor


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """(h, w) of the images with the fewest, the median and the most pixels."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Numbers of images of a split: all, those that show none of the classes, and those with a ground-truth mask."""

    images: int
    negatives: int
    masks: int


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """One class.

    Attributes:
        name: Its name.
        images: Number of images that show it, by split.
        together: Classes that nearly every training image of this class also shows.
    """

    name: str
    images: dict[str, int]
    together: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result; `sizes` is None if no image can be read."""

    dataset: Dataset
    sizes: Sizes | None
    splits: dict[str, SplitCounts]
    classes: tuple[ClassCounts, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that would stop training or make it useless."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def as_dict(self) -> dict[str, Any]:
        """Return the complete result as plain values, for --json."""
        dataset = self.dataset
        return {
            "root": str(dataset.root),
            "layout": dataset.layout,
            "class_names": list(dataset.class_names),
            "train_split": dataset.train_split,
            "val_split": dataset.val_split,
            "splits": {name: vars(counts) for name, counts in self.splits.items()},
            "unlabelled": len(dataset.unlabelled),
            "missing": len(dataset.missing),
            "pixels": dataset.pixels.as_dict(),
            "sizes": {name: {"height": height, "width": width} for name, (height, width) in vars(self.sizes).items()}
            if self.sizes
            else None,
            "classes": [{"number": number, **vars(counts)} for number, counts in enumerate(self.classes, start=1)],
            "co_occurrence": _named_pairs(dataset),
            "findings": [vars(finding) for finding in self.findings],
            "errors": len(self.errors),
        }


def check(root: Path, monitor: Monitor, config: PixelValues | None = None) -> Check:
    """Read all files of a data set and return counts and findings.

    Images and masks that cannot be read are findings; only labels that cannot be read are errors.

    Raises:
        DataError: The folder is not a data set, or its labels contradict each other.
    """
    config = config or PixelValues()
    dataset = open_dataset(root, skip_bad=True)
    pixels = pixel_facts(
        all_samples(dataset),
        config.image_bits,
        config.alpha,
        config.bands,
        training=dataset.splits.get(dataset.train_split) or None,
    )
    dataset = with_pixel_rule(dataset, pixels.rule)
    samples = (*split_images(dataset).values(), *dataset.unlabelled)
    inspections: dict[Path, Inspection] = {}
    monitor.start("reading the images", len(samples))
    for inspection in inspect_samples(samples, len(dataset.class_names)):
        inspections[inspection.image] = inspection
        monitor.advance()
    monitor.finish()
    facts = Facts(dataset=dataset, inspections=inspections, unused_masks=find_unused_masks(dataset), pixels=pixels)
    return Check(
        dataset=dataset,
        sizes=sizes_of([one.size for one in inspections.values() if one.size is not None]),
        splits={name: count_split(dataset.splits[name]) for name in dataset.split_names()},
        classes=count_classes(dataset),
        findings=find_all(facts),
    )


def sizes_of(sizes: Collection[tuple[int, int]]) -> Sizes | None:
    """Return the smallest, median (of two, the larger) and largest of sizes (h, w); None if there are none."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    return Sizes(smallest=ordered[0], median=ordered[len(ordered) // 2], largest=ordered[-1]) if ordered else None


def count_split(samples: Collection[Sample]) -> SplitCounts:
    """Count the images of a split."""
    return SplitCounts(
        images=len(samples),
        negatives=sum(not sample.classes for sample in samples),
        masks=sum(sample.mask is not None for sample in samples),
    )


def count_classes(dataset: Dataset) -> tuple[ClassCounts, ...]:
    """Count the images of each class, in the order of the class numbers."""
    names = dataset.class_names
    training = dataset.splits.get(dataset.train_split, ())
    pairs = co_occurring_pairs(co_occurrence(training, len(names)), len(training))
    shown = {
        split: Counter(number for sample in dataset.splits[split] for number in sample.classes)
        for split in dataset.split_names()
    }
    return tuple(
        ClassCounts(
            name=name,
            images={split: counts[number] for split, counts in shown.items()},
            together=tuple(names[pair.other - 1] for pair in pairs if pair.one == number),
        )
        for number, name in enumerate(names, start=1)
    )


def _named_pairs(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the number of training images that show two classes, {one: {other: images}}, without zeros."""
    names = dataset.class_names
    rows = co_occurrence(dataset.splits.get(dataset.train_split, ()), len(names)).tolist()
    return {
        one: {other: count for other, count in zip(names, row, strict=True) if count and other != one}
        for one, row in zip(names, rows, strict=True)
    }
