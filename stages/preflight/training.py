"""Checks of the training stages' settings that need no torch: weights, cache and splits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.dataset import Dataset, Sample, list_names
from data.errors import DataError, SettingsError, UserError
from data.findings import class_findings, shared_images
from data.image_cache import open_cache
from data.segment_files import check_segment_files, describe_lacking, find_segment_files
from stages.config import NO_FILES, MakeLabels, TrainCam, TrainSeg
from stages.features.spec import patch_size_by_name
from stages.run_folder.saving import check_weights_file
from stages.runtime.extras import check_segment_packages
from stages.runtime.monitor import Monitor, SilentMonitor

SILENT = SilentMonitor()
# --relabel mil takes a high quantile of an image's largest scores as the threshold of a class. On average, 1 in n + 1
# further images exceeds the largest score of n images: with 9, a tenth, many more than the false alarms that it allows.
FEWEST_WITHOUT = 10


def check_training(config: TrainCam | TrainSeg) -> None:
    """Check the weights file and the cache folder of a training stage.

    Raises:
        UserError: There is no such file, or the folder cannot be written.
    """
    if config.weights not in NO_FILES:
        with naming("--weights"):
            check_weights_file(Path(config.weights).expanduser())
    open_cache(config.cache)


def check_feature_weights(config: MakeLabels) -> None:
    """Check the file of weights for the features, if one is given.

    Raises:
        UserError: There is no such file.
    """
    if config.may_relabel and config.feature_file is not None:
        with naming("--feature-weights"):
            check_weights_file(Path(config.feature_file).expanduser())


def check_learnable(dataset: Dataset, samples: Sequence[Sample], monitor: Monitor = SILENT) -> None:
    """Check by the image labels that something can be learnt, as `toco check` does.

    Args:
        dataset: The data set.
        samples: The images to train on.
        monitor: Gets a warning about some of several classes that cannot be learnt, or that probably are none.

    Raises:
        DataError: Each class is in all images or in none of them.
    """
    for finding in class_findings(dataset, samples):
        text = f"{dataset.root}: {finding.text} ({list_names(finding.items, 5)}): {finding.advice}"
        if finding.level == "error":
            raise DataError(text)
        if finding.topic in ("class_in_no_image", "class_in_every_image", "class_without_object"):
            monitor.warn(text)


def warn_of_shared_images(dataset: Dataset, split: str | None, monitor: Monitor) -> None:
    """Warn of training images that are also in a split for evaluation: training works, but the scores are too high."""
    for finding in shared_images(dataset, split or dataset.train_split):
        monitor.warn(f"{dataset.root}: {finding.text} ({list_names(finding.items, 3)}): {finding.advice}")


def check_label_scales(cam: TrainCam, labels: MakeLabels) -> None:
    """Check before the training that the smallest scale of the labels leaves a patch; see `check_scales`.

    A network whose name or options do not give the size of its patches is checked after its training.

    Args:
        cam: Settings of the training.
        labels: Settings of the labels, completed by `with_training_defaults`.

    Raises:
        SettingsError: Names the smallest scale.
    """
    assert labels.image_size is not None
    assert labels.scales is not None
    patch_size = patch_size_by_name(cam.backbone)
    if patch_size is None or any("patch_size" in option for option in cam.backbone_option):
        return
    if int(min(labels.scales) * labels.image_size) < patch_size:
        raise SettingsError(
            f"--scales {min(labels.scales)} of --image-size {labels.image_size} is less than one patch "
            f"({patch_size} pixels) of {cam.backbone!r}: use larger scales"
        )


def check_split(dataset: Dataset, split: str | None, option: str) -> None:
    """Check that a split exists and has images; None means the training split.

    Raises:
        DataError: Names the option.
    """
    if split is None:
        dataset.split()
        return
    with naming(option):
        dataset.split(split)


def check_student_splits(dataset: Dataset, config: TrainSeg) -> None:
    """Check the splits of `toco train-seg`.

    Raises:
        DataError: There is no such split, or the one to evaluate on has no ground-truth masks. Names the option.
    """
    if config.split is not None:
        check_split(dataset, config.split, "--split")
    if config.val_split is not None:
        check_split(dataset, config.val_split, "--val-split")
        if not any(sample.mask for sample in dataset.splits[config.val_split]):
            raise DataError(
                f"split '{config.val_split}' of {dataset.root} has no ground-truth masks: choose another --val-split"
            )
    elif dataset.val_split is not None:
        dataset.split(dataset.val_split)


def check_calibration(dataset: Dataset, config: MakeLabels, *, corrected: bool = False) -> None:
    """Check that there are images to calibrate on, if `config` asks for it.

    Args:
        dataset: The data set.
        config: Settings.
        corrected: Whether there are corrected masks, which serve as well.

    Raises:
        DataError: No image of the split has a ground-truth mask.
    """
    if config.calibration_images and not corrected and not any(sample.mask for sample in dataset.split(config.split)):
        raise DataError(
            f"{dataset.root} has no ground-truth masks for --calibration-images: add some to masks/, import "
            "corrected ones with 'toco import', or give --background-threshold"
        )


def check_instances(dataset: Dataset, config: MakeLabels, monitor: Monitor = SILENT) -> None:
    """Check that --relabel mil has images without each class.

    Args:
        dataset: The data set.
        config: Settings.
        monitor: Gets a warning about classes that too few images lack for a good threshold.

    Raises:
        DataError: All labelled images of the split have a class.
    """
    labelled = [sample for sample in dataset.split(config.split) if sample.labelled] if config.relabel == "mil" else []
    if not labelled:
        return
    few = []
    for number, name in enumerate(dataset.class_names, start=1):
        without = sum(number not in sample.classes for sample in labelled)
        if without < FEWEST_WITHOUT:
            few.append(f"'{name}' ({without})")
        if not without:
            raise DataError(
                f"all images of the split '{config.split or dataset.train_split}' have the class '{name}', and "
                "--relabel mil learns from the difference to images without it: use --relabel linear, or add images "
                "without the class"
            )
    if few:
        monitor.warn(
            f"too few images do not show these classes: {', '.join(few)}. --relabel mil chooses the threshold of a "
            f"class by the images without it, and needs at least {FEWEST_WITHOUT}: its objects may come out much too "
            "small or too large. Add images that do not show the class, or use --relabel linear"
        )


def check_segments(dataset: Dataset, config: MakeLabels, monitor: Monitor = SILENT) -> None:
    """Check that there are segments, or what makes them, if `config` asks for them.

    Args:
        dataset: The data set.
        config: Settings.
        monitor: Gets a warning that counts the images without a segment file.

    Raises:
        SettingsError: A package is missing.
        DataError: The folder does not exist, has no file for any image, or has files that cannot be used.
    """
    check_segment_packages(config.segments)
    if config.segment_folder is not None:
        predicted = dataset.unlabelled if config.image_labels == "predicted" else ()
        samples = (*dataset.split(config.split), *predicted)
        files = find_segment_files(Path(config.segment_folder).expanduser(), samples)
        if lacking := describe_lacking(files, samples):
            monitor.warn(f"--segments {config.segments} {lacking}")
        check_segment_files(files, samples)


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Add the option that gave a wrong value to the message of an error."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error} ({option})") from error
