"""Run a stage with its checks, the settings that it takes, and its verdict: for the command and for the Python API."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.config import Evaluate, MakeLabels, TrainCam, TrainSeg
from stages.option import Given
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import Monitor, WarnsOnce
from stages.runtime.quick_imports import quick_imports
from toco_cli.planned import with_planned_cam, with_planned_seg

if TYPE_CHECKING:
    from data.dataset import Dataset
    from stages.evaluate import Evaluation, NoGroundTruthError
    from stages.verdict.judge import Verdict


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
    with quick_imports():
        from stages.reporting.live_report import LiveReport
        from stages.train_cam import train_cam

    return train_cam(dataset, out, config, LiveReport(monitor, out), resume=resume, overwrite=overwrite)


class Judged(NamedTuple):
    """A finished stage, and the verdict on its masks; None above rank 0."""

    folder: Path
    verdict: "Verdict | None"


def run_make_labels(
    run: Path, config: MakeLabels, monitor: Monitor, *, data: Path | None, resume: bool, overwrite: bool
) -> Judged:
    """Check everything, make pseudo masks, and judge them.

    Args:
        run: The run folder.
        config: Settings.
        monitor: Receives progress and warnings.
        data: The data set's present folder, if it was moved.
        resume: Resume after an interruption.
        overwrite: Delete an earlier result and start again.

    Raises:
        UserError: As `stages.make_labels.make_labels`.
    """
    from stages.preflight.checks import before_make_labels

    once = WarnsOnce(monitor, "", set())  # the stage warns as well, and logs it
    dataset = before_make_labels(run, config, once, data=data, resume=resume, overwrite=overwrite)
    with quick_imports():
        from stages.make_labels import make_labels

    folder = make_labels(run, config, once, data=dataset, resume=resume, overwrite=overwrite)
    return Judged(folder, _judged(run, dataset, monitor))


def run_train_seg(
    run: Path,
    config: TrainSeg,
    given: Given,
    monitor: Monitor,
    *,
    data: Path | None,
    resume: bool,
    overwrite: bool,
) -> Judged:
    """Check everything, complete the settings, train the student, and judge it; see `run_train_cam`.

    Raises:
        UserError: As `stages.train_seg.train_seg`.
    """
    from stages.preflight.checks import before_train_seg
    from stages.run_folder.run_config import with_stored_stage

    if resume:
        config = with_stored_stage(run, "seg", config, given.of("config"))
    dataset = before_train_seg(run, config, data=data, resume=resume, overwrite=overwrite)
    config = with_planned_seg(dataset, run, config, given, monitor, resume=resume)
    with quick_imports():
        from stages.reporting.live_report import LiveReport
        from stages.train_seg import train_seg

    folder = train_seg(run, config, LiveReport(monitor, run), data=dataset, resume=resume, overwrite=overwrite)
    return Judged(folder, _judged(run, dataset, monitor, student=config))


class Evaluated(NamedTuple):
    """Scores, or why nothing was measured; and the verdict, None above rank 0 and without pseudo masks."""

    scores: "Evaluation | None"
    problem: "NoGroundTruthError | None"
    verdict: "Verdict | None"


def run_evaluate(run: Path, config: Evaluate, monitor: Monitor, *, data: Path | None) -> Evaluated:
    """Check everything, measure the results, and judge the pseudo masks, also without ground truth.

    Raises:
        UserError: As `stages.evaluate.evaluate`, but not for missing ground truth if there are pseudo masks.
    """
    from stages.preflight.checks import before_evaluate

    dataset = before_evaluate(run, config, data=data)
    with quick_imports():
        from stages.evaluate import NoGroundTruthError, evaluate
    from stages.run_folder.artifacts import finished

    scores, problem = None, None
    try:
        scores = evaluate(run, config, monitor, data=dataset)
    except NoGroundTruthError as error:
        if not finished(run, "labels"):
            raise
        problem = error
    verdict = _judged(run, dataset, monitor, scores) if finished(run, "labels") else None
    return Evaluated(scores, problem, verdict)


def _judged(
    run: Path,
    data: "Path | Dataset | None",
    monitor: Monitor,
    evaluation: "Evaluation | None" = None,
    student: TrainSeg | None = None,
) -> "Verdict | None":
    """Judge the masks of a run, on rank 0 only; with its settings, the student is measured, too."""
    if not is_rank_zero():
        return None
    from stages.run_folder.artifacts import open_stage
    from stages.run_folder.run_data import open_run_data
    from stages.verdict.judged_run import judge_run, measured_student

    if student:
        data = open_run_data(open_stage(run, "labels"), data, skip_bad=student.skip_bad)
        evaluation = measured_student(run, data, student, monitor)
    return judge_run(run, monitor, data=data, evaluation=evaluation).verdict
