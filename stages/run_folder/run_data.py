"""Which images a stage works on."""

from collections.abc import Sequence
from typing import TypeVar

from data.dataset import Dataset, Sample
from data.readers import check_images
from stages.runtime.monitor import Monitor

T = TypeVar("T")


def usable_samples(
    dataset: Dataset, split: str | None, minimum_side: int, skip_bad: bool, monitor: Monitor
) -> tuple[Sample, ...]:
    """Return a split's images whose files are there and large enough; tell the user what is left out.

    Raises:
        DataError: No such split, or a bad image that is not to be skipped.
    """
    for warning in dataset.warnings:
        monitor.warn(warning)
    samples, problems = check_images(dataset.split(split), minimum_side, skip_bad=skip_bad)
    for problem in problems[:10]:
        monitor.warn(f"left out: {problem}")
    if len(problems) > 10:
        monitor.warn(f"left out: {len(problems) - 10} more images")
    return samples


def spread(items: Sequence[T], count: int) -> list[T]:
    """Pick at most `count` items, evenly spread: data sets are often sorted by class."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
