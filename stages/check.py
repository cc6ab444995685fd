"""`toco check`: what a data set holds, what is odd about it, and what to do.

In: the folder of a data set, every picture of which is decoded. Out: counts and findings.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Sample
from data.findings import Facts, Finding, co_occurrence, find_all, pairs_together, split_images
from data.inspection import Inspection, find_unused_masks, inspect_samples
from data.readers import open_dataset
from stages.runtime.monitor import Monitor


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """(h, w) of the smallest, median and largest image by its pixels."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How many images of a split there are, show none of the classes, and have a true mask."""

    images: int
    negatives: int
    masks: int


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """How many images of each split show a class, and which classes nearly always come with it in training."""

    name: str
    images: dict[str, int]
    together: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found; `sizes` is None where no image can be read."""

    dataset: Dataset
    sizes: Sizes | None
    splits: dict[str, SplitCounts]
    classes: tuple[ClassCounts, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What would stop training, or make it useless."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for --json; nothing is cut."""
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
            "sizes": {name: {"height": height, "width": width} for name, (height, width) in vars(self.sizes).items()}
            if self.sizes
            else None,
            "classes": [{"number": number, **vars(counts)} for number, counts in enumerate(self.classes, start=1)],
            "co_occurrence": _named_pairs(dataset),
            "findings": [vars(finding) for finding in self.findings],
            "errors": len(self.errors),
        }


def check(root: Path, monitor: Monitor) -> Check:
    """Read a data set whole, and say what is odd about it.

    Raises:
        DataError: No data set is found in the folder, or its labels contradict each other.
    """
    dataset = open_dataset(root, skip_bad=True)
    samples = (*split_images(dataset).values(), *dataset.unlabelled)
    inspections: dict[Path, Inspection] = {}
    monitor.start("reading the images", len(samples))
    for inspection in inspect_samples(samples, len(dataset.class_names)):
        inspections[inspection.image] = inspection
        monitor.advance()
    monitor.finish()
    facts = Facts(dataset=dataset, inspections=inspections, unused_masks=find_unused_masks(dataset))
    return Check(
        dataset=dataset,
        sizes=sizes_of([one.size for one in inspections.values() if one.size is not None]),
        splits={name: count_split(dataset.splits[name]) for name in dataset.split_names()},
        classes=count_classes(dataset),
        findings=find_all(facts),
    )


def sizes_of(sizes: Collection[tuple[int, int]]) -> Sizes | None:
    """Pick three of the sizes (h, w), None if there are none; of two in the middle, the larger one."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    return Sizes(smallest=ordered[0], median=ordered[len(ordered) // 2], largest=ordered[-1]) if ordered else None


def count_split(samples: Collection[Sample]) -> SplitCounts:
    """Count what a split holds."""
    return SplitCounts(
        images=len(samples),
        negatives=sum(not sample.classes for sample in samples),
        masks=sum(sample.mask is not None for sample in samples),
    )


def count_classes(dataset: Dataset) -> tuple[ClassCounts, ...]:
    """Count the images of each class, in the order of the classes."""
    names = dataset.class_names
    training = dataset.splits.get(dataset.train_split, ())
    pairs = pairs_together(co_occurrence(training, len(names)), len(training))
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
    """How many training images show two classes, {one: {other: images}}; only pairs that there are."""
    names = dataset.class_names
    rows = co_occurrence(dataset.splits.get(dataset.train_split, ()), len(names)).tolist()
    return {
        one: {other: count for other, count in zip(names, row, strict=True) if count and other != one}
        for one, row in zip(names, rows, strict=True)
    }
