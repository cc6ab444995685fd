"""What each stage can check without torch: folders, names and options.

A command checks its stage here and then imports it, which takes seconds. Where a check opens the data set, it returns
it, so that the stage need not open it again. The rules are those of the functions that the stages call as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.dataset import DataError, Dataset
from data.errors import ArtifactError, UserError
from data.image_cache import open_cache
from data.images import shorter_side
from stages.config import NO_FILES, Evaluate, MakeLabels, Report, TrainCam, TrainSeg, View
from stages.labels.label_settings import check_thresholds_in_order, with_training_defaults
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import already_finished, check_up_to_date, open_stage
from stages.run_folder.run_data import open_data, open_run_data, with_skip_bad
from stages.run_folder.saving import check_weights_file
from stages.runtime.monitor import SilentMonitor

DEMO_MARK = ".toco-demo"  # a file that says that the next demo may delete the folder


def before_train_cam(
    data: Path | Dataset, out: Path, config: TrainCam, *, resume: bool = False, overwrite: bool = False
) -> Path | Dataset:
    """Check `toco train-cam`.

    Returns:
        The open data set; the folder as given if there is nothing left to do.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    if already_finished(out, "cam", config, SilentMonitor(), resume=resume, overwrite=overwrite):
        return data
    check_training(config)
    dataset = open_data(data, skip_bad=config.skip_bad)
    check_split(dataset, config.split, "--split")
    return dataset


def before_make_labels(
    run: Path, config: MakeLabels, *, data: Path | None = None, resume: bool = False, overwrite: bool = False
) -> Path | Dataset | None:
    """Check `toco make-labels`.

    Returns:
        The open data set; `data` as given if there is nothing left to do.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    cam = open_stage(run, "cam")
    config = with_training_defaults(config, cam.settings)
    if already_finished(run, "labels", config, SilentMonitor(), resume=resume, overwrite=overwrite):
        return data
    check_thresholds_in_order(config, cam.settings)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    check_split(dataset, config.split, "--split")
    return dataset


def before_train_seg(
    run: Path, config: TrainSeg, *, data: Path | None = None, resume: bool = False, overwrite: bool = False
) -> Path | Dataset | None:
    """Check `toco train-seg`.

    Returns:
        The open data set; `data` as given if there is nothing left to do.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    labels = open_stage(run, "labels")
    check_up_to_date(run, "labels")
    if already_finished(run, "seg", config, SilentMonitor(), resume=resume, overwrite=overwrite):
        return data
    check_training(config)
    if config.confidence_weighting:
        LabelFile(labels.path / "labels.h5", "confidence")
    dataset = open_run_data(labels, data, skip_bad=config.skip_bad)
    check_student_splits(dataset, config)
    return dataset


def before_evaluate(run: Path, config: Evaluate, *, data: Path | None = None) -> Dataset:
    """Check `toco evaluate`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    cam = open_stage(run, "cam")
    dataset = open_run_data(cam, data, skip_bad=with_skip_bad(config, cam).skip_bad)
    check_split(dataset, config.split, "--split")
    return dataset


def before_sweep(run: Path, config: Evaluate, *, data: Path | None = None) -> Dataset:
    """Check `toco evaluate --sweep`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    labels = open_stage(run, "labels")
    return open_run_data(labels, data, skip_bad=with_skip_bad(config, labels).skip_bad)


def before_report(run: Path, config: Report, *, data: Path | None = None) -> Dataset:
    """Check `toco report`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    for other in config.compare:
        open_stage(Path(other), "cam")
    return before_evaluate(run, config, data=data)


def before_view(image: Path, run: Path, config: View, *, data: Path | None = None) -> Dataset:
    """Check `toco view`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    shorter_side(image)  # opens the image's header
    cam = open_stage(run, "cam")
    return open_run_data(cam, data, skip_bad=with_skip_bad(config, cam).skip_bad)


def before_demo(out: Path, *, overwrite: bool) -> None:
    """Check `toco demo`.

    Raises:
        ArtifactError: The folder is in use, and no demo made it or `overwrite` was not given.
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise ArtifactError(f"{out} exists: use --overwrite to start again, or another folder")
        if not (out / DEMO_MARK).is_file():
            raise ArtifactError(f"{out} was not made by a demo: nothing is deleted there; give another folder")


def check_training(config: TrainCam | TrainSeg) -> None:
    """Check the weights file and the cache folder of a training stage.

    Raises:
        UserError: There is no such file, or the folder cannot be written.
    """
    if config.weights not in NO_FILES:
        with naming("--weights"):
            check_weights_file(Path(config.weights).expanduser())
    open_cache(config.cache)


def check_split(dataset: Dataset, split: str | None, option: str) -> None:
    """Check that a split exists and has images; None is the split for training, which no option named.

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


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Add the option that gave a wrong value to the message of an error."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error} ({option})") from error
