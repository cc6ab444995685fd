"""The data set of a run, and which of its images a stage works on."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from data.dataset import IGNORE_INDEX, Dataset, Sample, list_names
from data.errors import ArtifactError, DataError
from data.images import image_size
from data.mask_agreement import WRONG_MASKS, MaskedImage, compare_masks, distinct_values
from data.pixel_facts import PixelFacts, all_samples, pixel_facts, with_pixel_rule
from data.pixel_rule import PixelRule
from data.readers import check_images, open_dataset, read_mask
from stages.config import Machine, TrainCam
from stages.run_folder.artifacts import (
    PRODUCERS,
    StageFolder,
    begun_stage,
    check_classes,
    delete_unfinished,
    in_use,
)
from stages.run_folder.saving import write_json
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import Monitor

COMPARED_MASKS = 100  # number of masks of a split that are compared with the image labels before an evaluation

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
    dataset = with_pixel_rule(open_data(data or present_root(folder), skip_bad=skip_bad), folder.pixels)
    check_classes(folder, dataset)
    return dataset


def present_root(folder: StageFolder) -> Path:
    """Return the folder of a stage's data set: as the stage had it, or as another stage got it after it was moved.

    Raises:
        ArtifactError: It does not exist any more.
    """
    run = folder.path.parent
    roots = [folder.dataset_root]
    for stage in PRODUCERS:
        with suppress(ArtifactError):  # it did not run
            other = begun_stage(run, stage)
            if folder.fingerprint is not None and other.fingerprint == folder.fingerprint:
                roots.append(other.dataset_root)
    for root in roots:
        if root.is_dir() and any(root.iterdir()):  # the folder of a drive that is not mounted is empty
            return root
    raise ArtifactError(
        f"{roots[0]}, the data set of {folder.path}, does not exist or is empty: if it was moved, give its present "
        "folder with --data"
    )


def check_same_data(run: Path, stage: str, dataset: Dataset, monitor: Monitor) -> None:
    """Compare a data set with the one that a stage was begun with, if it was begun.

    Args:
        run: The run folder.
        stage: Key of PRODUCERS.
        dataset: The data set.
        monitor: Gets a warning if the images or labels in the same folder have changed, and a note if the data set was
            moved.

    Raises:
        ArtifactError: It has other classes, or is another data set in another folder.
    """
    if not in_use(run / stage):
        return
    folder = begun_stage(run, stage)
    check_classes(folder, dataset)
    difference = data_difference(folder, dataset)
    moved = folder.dataset_root != dataset.root.resolve()
    if difference and moved:
        raise ArtifactError(
            f"{difference}: give the data set that {PRODUCERS[stage]} was started with, or --overwrite to start again"
        )
    if difference:
        monitor.warn(f"{difference}; what was made before is kept, and --overwrite makes it again")
    elif moved and folder.fingerprint is None:
        monitor.warn(
            f"{folder.path} was made from {folder.dataset_root} by an early version of toco, which kept no fingerprint "
            f"of the data: make sure that {dataset.root.resolve()} is the same data set"
        )
    elif moved:
        monitor.note(f"the data set of {folder.path} was moved from {folder.dataset_root} to {dataset.root.resolve()}")


def finish_again(run: Path, stage: str, data: Path | Dataset | None, monitor: Monitor, *, skip_bad: bool) -> None:
    """Do what is left for a finished stage: compare the data set with its own, and remember its folder if it was moved.

    Raises:
        ArtifactError: It has other classes, or is another data set in another folder.
        DataError: There is no data set, or its labels contradict each other.
    """
    if data is not None:
        dataset = open_data(data, skip_bad=skip_bad)
        check_same_data(run, stage, dataset, monitor)
        if is_rank_zero():
            _remember_root(run / stage / "config.json", dataset)
    if is_rank_zero():
        delete_unfinished(run / stage)
    monitor.note(f"{run / stage} is finished already")


def _remember_root(path: Path, dataset: Dataset) -> None:
    """Write the present folder of a data set into a stage's config.json, if it is surely the same data set."""
    config = json.loads(path.read_text(encoding="utf-8"))
    root = str(dataset.root.resolve())
    if config["dataset"]["root"] != root and "fingerprint" in config["dataset"]:
        config["dataset"]["root"] = root
        write_json(path, config)


def data_difference(folder: StageFolder, dataset: Dataset) -> str | None:
    """Say in one phrase how a data set differs from that of a stage; None if it does not, or if it is not known.

    Stages of toco 0.1.0 and earlier have no fingerprint of their data.
    """
    if folder.fingerprint in (None, dataset.fingerprint):
        return None
    root = dataset.root.resolve()
    if root == folder.dataset_root:
        return f"{root} has changed since {folder.path} was made from it: images or labels differ"
    return f"{root} has other images or labels than {folder.dataset_root}, from which {folder.path} was made"


def warn_of_other_data(folder: StageFolder, dataset: Dataset, monitor: Monitor) -> None:
    """Warn if a data set is not that of an earlier stage: it may be meant, but results on both are not comparable."""
    if difference := data_difference(folder, dataset):
        monitor.warn(difference)


def choose_pixels(dataset: Dataset, config: TrainCam, run: Path, monitor: Monitor, *, resume: bool) -> PixelRule:
    """Decide how networks get the values in image files, for this run; a resumed training keeps its rule."""
    if resume and in_use(run / "cam"):
        return begun_stage(run, "cam").pixels
    facts = training_pixels(dataset, config)
    rule = facts.rule
    for text in filter(None, (facts.describe(), facts.describe_missing())):
        monitor.note(text)
    if facts.empty:
        monitor.warn(
            f"all values are missing in {list_names([str(path) for path in facts.empty])}: remove these images"
        )
    if loss := facts.describe_loss():
        monitor.warn(": ".join(loss))
    elif rule.bits < 16:
        monitor.note(f"values in 16-bit images are read as {rule.bits} bits; --image-bits sets another number")
    if not rule.alpha and not rule.bands:
        monitor.note("alpha bands are not read as transparency; --alpha transparency changes this")
    return rule


def training_pixels(dataset: Dataset, config: TrainCam) -> PixelFacts:
    """Look at the values in the files of a data set, as a training with these settings does."""
    return pixel_facts(
        all_samples(dataset), config.image_bits, config.alpha, config.bands, training=dataset.split(config.split)
    )


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


def measurable_samples(
    samples: Sequence[Sample], class_names: Sequence[str], *, skip_bad: bool, monitor: Monitor
) -> list[Sample]:
    """Read the ground-truth masks of samples, and return those that can be measured against.

    None is returned, with a warning, if no mask shows any class: the score would be that of the background alone.

    Raises:
        DataError: A mask is bad, or the masks contradict the image labels, and bad files are not to be skipped.
    """
    good: list[Sample] = []
    compared: list[MaskedImage] = []
    shown: set[int] = set()
    for sample in samples:
        try:
            values = distinct_values(read_mask(sample, image_size(sample.image), len(class_names)))
        except DataError as error:
            if not skip_bad:
                raise
            monitor.warn(f"not evaluated: {error}")
        else:
            good.append(sample)
            shown |= values - {0, IGNORE_INDEX}
            compared.append(_masked_image(sample, values))
    try:
        if contradiction := _contradiction(compared, class_names):
            monitor.warn(contradiction.text)
    except DataError as error:
        if not skip_bad:
            raise
        monitor.warn(f"not evaluated: {error}")
        return []
    if good and not shown:
        monitor.warn(f"not evaluated: none of {len(good)} ground-truth masks shows any class, only background")
        return []
    if absent := [name for number, name in enumerate(class_names, start=1) if good and number not in shown]:
        monitor.warn(f"mean IoU {not_measured(absent, len(good))}")
    return good


def check_masks(dataset: Dataset, splits: Iterable[str], monitor: Monitor) -> None:
    """Compare some of the ground-truth masks of splits, and of the whole data set, with the image labels.

    At most one warning is given, that of the worst part. Bad masks are passed over: they are reported where they are
    measured.

    Raises:
        DataError: The masks contradict the image labels.
    """
    everything = {sample.id: sample for samples in dataset.splits.values() for sample in samples}.values()
    values: dict[str, frozenset[int]] = {}
    found = []
    for samples in (*(dataset.split(split) for split in set(splits)), everything):
        compared = []
        for sample in spread([sample for sample in samples if sample.mask is not None], COMPARED_MASKS):
            if sample.id not in values:
                with suppress(DataError):
                    assert sample.mask is not None
                    values[sample.id] = distinct_values(sample.mask.read())
            if sample.id in values:
                compared.append(_masked_image(sample, values[sample.id]))
        if contradiction := _contradiction(compared, dataset.class_names):
            found.append(contradiction)
    if found:
        monitor.warn(max(found, key=lambda one: (one.mostly, one.images)).text)


def not_measured(absent: Sequence[str], images: int) -> str:
    """Say that classes are in no mask that was measured."""
    return f"without {list_names(absent)}, which no mask of the {images} measured images shows"


def _masked_image(sample: Sample, values: frozenset[int]) -> MaskedImage:
    return MaskedImage(name=sample.id, labels=frozenset(sample.classes), values=values)


class _Contradiction(NamedTuple):
    """A warning about masks that contradict the image labels."""

    mostly: bool  # whether most of the masks do
    images: int  # number of masks compared
    text: str


def _contradiction(compared: Sequence[MaskedImage], class_names: Sequence[str]) -> _Contradiction | None:
    """Refuse masks that another numbering explains, and describe other masks that contradict the image labels."""
    agreement = compare_masks(compared, class_names)
    if agreement.explained:
        raise DataError(f"the ground-truth masks contradict the image labels: {agreement.cause}")
    if agreement.mostly_wrong:
        text = (
            f"most of {len(compared)} ground-truth masks contradict the image labels, so that scores mean little: "
            f"{agreement.cause or WRONG_MASKS}"
        )
    elif agreement.other:
        text = (
            f"{len(agreement.other)} of {len(compared)} ground-truth masks show none of the image's classes, but "
            f"others: first {agreement.other[0]}"
        )
    else:
        return None
    return _Contradiction(agreement.mostly_wrong, len(compared), text)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Pick at most `count` items at even distances, because data sets are often sorted by class."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
