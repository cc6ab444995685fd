"""Run a training stage with the settings that it takes: for the command and for the Python API."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.config import TrainCam, TrainSeg
from stages.option import Given
from stages.runtime.monitor import Monitor
from toco_cli.planned import with_planned_cam, with_planned_seg

if TYPE_CHECKING:
    from data.dataset import Dataset


def run_train_cam(
    data: Path, out: Path, config: TrainCam, given: Given, monitor: Monitor, *, resume: bool, overwrite: bool
) -> Path:
    """Check everything, complete the settings, and train the CAM network.

    Args:
        data: The data set's folder.
        out: The run folder.
        config: The given values, and defaults for all others.
        given: The recipe, and which values were given.
        monitor: Receives progress and warnings.
        resume: Resume after an interruption, with the settings of the interrupted training.
        overwrite: Delete an earlier result and start again.

    Returns:
        The stage's folder.

    Raises:
        UserError: As `stages.train_cam.train_cam`.
    """
    from stages.preflight.checks import before_train_cam
    from stages.run_folder.run_config import with_stored_stage

    if resume:
        config = with_stored_stage(out, "cam", config, given.of("config"))
    dataset = before_train_cam(data, out, config, resume=resume, overwrite=overwrite)
    config = with_planned_cam(dataset, out, config, given, monitor, resume=resume)
    from stages.reporting.live_report import LiveReport
    from stages.train_cam import train_cam

    return train_cam(dataset, out, config, LiveReport(monitor, out), resume=resume, overwrite=overwrite)


class TrainedStudent(NamedTuple):
    """A finished stage 3."""

    folder: Path
    dataset: "Path | Dataset | None"  # None: at the place that the run knows
    config: TrainSeg


def run_train_seg(
    run: Path,
    config: TrainSeg,
    given: Given,
    monitor: Monitor,
    *,
    data: Path | None,
    resume: bool,
    overwrite: bool,
) -> TrainedStudent:
    """Check everything, complete the settings, and train the student; see `run_train_cam`.

    Raises:
        UserError: As `stages.train_seg.train_seg`.
    """
    from stages.preflight.checks import before_train_seg
    from stages.run_folder.run_config import with_stored_stage

    if resume:
        config = with_stored_stage(run, "seg", config, given.of("config"))
    dataset = before_train_seg(run, config, data=data, resume=resume, overwrite=overwrite)
    config = with_planned_seg(dataset, run, config, given, monitor, resume=resume)
    from stages.reporting.live_report import LiveReport
    from stages.train_seg import train_seg

    folder = train_seg(run, config, LiveReport(monitor, run), data=dataset, resume=resume, overwrite=overwrite)
    return TrainedStudent(folder, dataset, config)
