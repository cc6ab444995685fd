"""The checks of each command that need no torch: folders, names and options.

A command checks its stage here and then imports it, which takes seconds. Where a check opens the data set, it returns
it, so that the stage need not open it again. The rules are those of the functions that the stages call as well.
"""

from collections.abc import Sequence
from pathlib import Path

from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError
from data.images import shorter_side
from data.output_place import check_file_names, check_output_place
from stages.config import Evaluate, MakeLabels, Report, TrainCam, TrainSeg, View
from stages.corrections.correction_file import CorrectionFile
from stages.features.spec import FEATURES, feature_spec
from stages.labels.label_settings import check_thresholds_in_order, used_settings, with_training_defaults
from stages.labels.store import LabelFile
from stages.preflight.training import (
    check_calibration,
    check_instances,
    check_learnable,
    check_segments,
    check_split,
    check_student_splits,
    check_training,
)
from stages.run_folder.artifacts import PRODUCERS, already_finished, check_run_place, check_up_to_date, open_stage
from stages.run_folder.lock import OUTPUT_LOCK, check_not_locked
from stages.run_folder.run_data import check_same_data, open_data, open_run_data, with_skip_bad
from stages.runtime.extras import check_crf_backend, check_loggers
from stages.runtime.monitor import Monitor, SilentMonitor

DEMO_MARK = ".toco-demo"  # a file that says that a demo made the folder, and with which seed

MOST_ROWS = 50  # images in one PNG of `toco view`


def before_train_cam(
    data: Path | Dataset, out: Path, config: TrainCam, *, resume: bool = False, overwrite: bool = False
) -> Path | Dataset:
    """Check `toco train-cam`.

    Returns:
        The open data set; the folder as given if there is nothing left to do.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    check_not_locked(out, "cam")
    if already_finished(out, "cam", config, resume=resume, overwrite=overwrite):
        check_same_data(out, "cam", open_data(data, skip_bad=config.skip_bad), SilentMonitor())
        return data
    check_loggers(config.logger)
    check_training(config)
    dataset = open_data(data, skip_bad=config.skip_bad)
    check_run_place(out, dataset)
    check_split(dataset, config.split, "--split")
    check_learnable(dataset, dataset.split(config.split))
    if resume:
        check_same_data(out, "cam", dataset, SilentMonitor())
    return dataset


def before_make_labels(
    run: Path,
    config: MakeLabels,
    monitor: Monitor,
    *,
    data: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path | Dataset | None:
    """Check `toco make-labels`, and give `monitor` the warnings that need no image.

    Returns:
        The open data set; `data` as given if there is nothing left to do.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    check_not_locked(run, "labels", "cam", *((FEATURES,) if config.may_relabel else ()))
    cam = open_stage(run, "cam")
    config = with_training_defaults(config, cam.settings)
    if already_finished(run, "labels", config, resume=resume, overwrite=overwrite):
        if data is not None:
            check_same_data(run, "labels", open_data(data, skip_bad=config.skip_bad), SilentMonitor())
        return data
    check_thresholds_in_order(config, cam.settings)
    if config.uses_crf or config.background_threshold == "auto":
        check_crf_backend(config.crf_backend)
    if config.may_relabel:
        feature_spec(config, cam)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    if resume:
        check_same_data(run, "labels", dataset, SilentMonitor())
    check_split(dataset, config.split, "--split")
    corrections = CorrectionFile(run, dataset.class_names) if config.use_masks != "none" else None
    check_calibration(dataset, config, corrected=bool(corrections and corrections.classes))
    check_instances(dataset, config, monitor)
    check_segments(dataset, config)
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
    check_not_locked(run, "seg", "labels", *((FEATURES,) if config.uses_features else ()))
    labels = open_stage(run, "labels")
    check_up_to_date(run, "labels")
    if already_finished(run, "seg", config, resume=resume, overwrite=overwrite):
        if data is not None:
            check_same_data(run, "seg", open_data(data, skip_bad=config.skip_bad), SilentMonitor())
        return data
    check_loggers(config.logger)
    if config.uses_features:
        feature_spec(used_settings(labels), open_stage(run, "cam"))
    else:
        check_training(config)
    if config.confidence_weighting:
        LabelFile(labels.path / "labels.h5", "confidence")
    dataset = open_run_data(labels, data, skip_bad=config.skip_bad)
    if resume:
        check_same_data(run, "seg", dataset, SilentMonitor())
    check_student_splits(dataset, config)
    return dataset


def before_evaluate(run: Path, config: Evaluate, *, data: Path | None = None) -> Dataset:
    """Check `toco evaluate`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    cam = open_stage(run, "cam")
    dataset = open_run_data(cam, data, skip_bad=with_skip_bad(config, cam).skip_bad)
    if config.split is not None:  # by default the stage takes the split that the network was trained on
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


def before_view(images: Sequence[Path], run: Path, out: Path, config: View, *, data: Path | None = None) -> Dataset:
    """Check `toco view`, and return the open data set.

    Raises:
        UserError: A folder, file or option cannot work.
    """
    for image in images:
        if image.is_dir():
            raise SettingsError(f"{image} is a folder: give the image files first, and the run folder last")
        shorter_side(image)  # opens the image's header
    one_picture(out, len(images) or config.count)
    cam = open_stage(run, "cam")
    check_output_place(out, datasets=[cam.dataset_root, data], inputs=images)
    check_file_names([out])
    return open_run_data(cam, data, skip_bad=with_skip_bad(config, cam).skip_bad)


def one_picture(out: Path, images: int) -> bool:
    """Tell whether `toco view` writes a PNG with all images, and not a folder.

    Raises:
        SettingsError: There are too many images for one PNG.
    """
    if out.suffix.lower() != ".png":
        return False
    if images > MOST_ROWS:
        raise SettingsError(
            f"{images} images are too many for one PNG (at most {MOST_ROWS}): give --out DIR for one PNG per image"
        )
    return True


def before_demo(out: Path, *, seed: int, overwrite: bool) -> None:
    """Check `toco demo`.

    Raises:
        ArtifactError: Another command uses the folder; or no demo made what is in it; or `overwrite` was not given, and
            the demo in it has another seed.
    """
    check_not_locked(out / "run", *PRODUCERS)
    if out.exists() and any(file.name != OUTPUT_LOCK for file in out.iterdir()):
        mark = out / DEMO_MARK
        if not mark.is_file():
            raise ArtifactError(f"{out} was not made by a demo: nothing is written there; give another folder")
        before = mark.read_text(encoding="utf-8")
        if not overwrite and before != str(seed):
            made = f"with --seed {before}" if before else "by an earlier version"
            raise ArtifactError(f"{out} was made {made}: use --overwrite to start again, or another folder")
