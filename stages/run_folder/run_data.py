"""The data set of a run, and which of its images a stage works on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from data.dataset import Dataset, Sample
from data.errors import DataError
from data.readers import check_images, open_dataset
from stages.config import Machine
from stages.run_folder.artifacts import StageFolder, check_classes
from stages.runtime.monitor import Monitor

Item = TypeVar("Item")
AnyMachine = TypeVar("AnyMachine", bound=Machine)


def open_data(data: Path | Dataset, *, skip_bad: bool) -> Dataset:
    """Open a data set, unless the caller has done so already.

    Raises:
        DataError: There is no data set, or its labels contradict each other.
    """
    return data if isinstance(data, Dataset) else open_dataset(data, skip_bad=skip_bad)


def open_run_data(folder: StageFolder, data: Path | Dataset | None, *, skip_bad: bool) -> Dataset:
    """Open the data set that a stage was made with.

    Args:
        folder: The stage's folder.
        data: The data set's present folder if it was moved, or the data set itself if it is open already.
        skip_bad: Skip entries that name a missing image.

    Raises:
        DataError: There is no data set, or its labels contradict each other.
        ArtifactError: Its classes differ from those of the run.
    """
    dataset = open_data(data or folder.dataset_root, skip_bad=skip_bad)
    check_classes(folder, dataset)
    return dataset


def with_skip_bad(config: AnyMachine, folder: StageFolder) -> AnyMachine:
    """Skip bad files if that was asked for now, or when the stage ran."""
    return replace(config, skip_bad=bool(config.skip_bad or folder.settings["skip_bad"]))


@contextmanager
def skipping(skip_bad: bool, monitor: Monitor) -> Iterator[None]:
    """Turn a DataError of the block into a warning, if bad files are to be skipped."""
    try:
        yield
    except DataError as error:
        if not skip_bad:
            raise
        monitor.warn(f"skipped: {error}")


def usable_samples(
    dataset: Dataset, split: str | None, minimum_side: int, skip_bad: bool, monitor: Monitor
) -> tuple[Sample, ...]:
    """Return the images of a split whose files exist and are large enough; warn about those that are left out.

    Raises:
        DataError: There is no such split, or an image is bad and bad files are not to be skipped.
    """
    for warning in (*dataset.counted, *dataset.warnings):
        monitor.warn(warning)
    samples, problems = check_images(dataset.split(split), minimum_side, skip_bad=skip_bad)
    for problem in problems[:10]:
        monitor.warn(f"skipped: {problem}")
    if len(problems) > 10:
        monitor.warn(f"skipped: {len(problems) - 10} more images")
    return samples


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Pick at most `count` items at even distances, because data sets are often sorted by class."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
