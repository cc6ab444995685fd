"""`toco run`: all stages one after the other; finished stages are skipped.

In: a data set. Out: RUN with cam/, labels/, seg/, report.html, and config.toml, from which the run can be repeated.

torch, and all that needs it, is imported only after the checks: a mistake in the options of the last stage is reported
at once.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data.command_line import as_command
from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError, UserError
from stages.config import NO_FILES, STAGES, MakeLabels, Report, Run, TrainCam, TrainSeg
from stages.corrections.correction_file import CORRECTIONS
from stages.corrections.given_masks import other_given_masks
from stages.features.spec import FEATURES
from stages.labels.label_settings import check_thresholds_in_order, with_training_defaults
from stages.option import flag
from stages.preflight.training import (
    check_calibration,
    check_feature_weights,
    check_instances,
    check_label_scales,
    check_learnable,
    check_segments,
    check_split,
    check_student_splits,
    check_training,
)
from stages.run_folder.artifacts import (
    MAY_CHANGE,
    PRODUCERS,
    as_plain,
    check_run_place,
    check_same_settings,
    check_written_by_toco,
    finished,
    in_use,
    outdated,
    outdated_message,
    read_config,
)
from stages.run_folder.lock import check_not_locked, stage_lock
from stages.run_folder.run_config import (
    ABOUT,
    CONFIG,
    AllSettings,
    StageSettings,
    absolute_path,
    read_run_config,
    write_config,
)
from stages.run_folder.run_data import check_same_data, open_data
from stages.runtime.extras import check_crf_backend, check_loggers
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import Monitor, SilentMonitor, Titled, WarningsOnly, WarnsOnce
from stages.runtime.quick_imports import quick_imports

Trained = TypeVar("Trained", TrainCam, TrainSeg)

FOLDERS = {producer: stage for stage, producer in PRODUCERS.items()}


def run(
    data: Path | Dataset,
    out: Path,
    config: Run,
    monitor: Monitor,
    *,
    cam: TrainCam,
    labels: MakeLabels,
    seg: TrainSeg,
) -> Path:
    """Train on image labels until there is a student and a report.

    Args:
        data: The data set's folder, in any layout, or the open data set.
        out: The run folder; an interrupted run in it is resumed.
        config: Settings of the run.
        monitor: Receives progress.
        cam: Settings of the first stage.
        labels: Settings of the second stage.
        seg: Settings of the third stage.

    Returns:
        The report.

    Raises:
        SettingsError: The data, the settings or the weights cannot work.
        ArtifactError: The run was begun with other settings, or a file of it is damaged.
    """
    config, settings = complete_settings(config, AllSettings(cam=cam, labels=labels, seg=seg))
    cam, labels, seg = settings.cam, settings.labels, settings.seg
    with stage_lock(out, *FOLDERS.values(), FEATURES, monitor=monitor):
        shown: set[str] = set()
        # Above rank 0 silent: all processes check the run.
        first: Monitor = WarnsOnce(monitor, "", shown) if is_rank_zero() else SilentMonitor()
        to_do, again, dataset = check_run(data, out, config, settings, first)

        with quick_imports():
            from stages.make_labels import make_labels
            from stages.report import report
            from stages.reporting.live_report import REPORT, LiveReport
            from stages.runtime.fabric import start
            from stages.train_cam import train_cam
            from stages.train_seg import train_seg

        fabric, monitor, _ = start(config, monitor)
        if fabric.is_global_zero:
            about = about_the_run(out / CONFIG, dataset, anew=again == STAGES)
            write_config(out / CONFIG, dataset.root, config, settings.by_stage(), about)
        if "train-seg" in to_do and not seg.uses_features:
            check_student(seg, dataset)

        def step(number: int, name: str) -> dict[str, Any]:
            # If the input of a stage was made again, the stage must run again.
            anew = name in again or (finished(out, FOLDERS[name]) and outdated(out, FOLDERS[name]))
            monitor_of_step = WarnsOnce(monitor, f"{number}/{len(STAGES) + 1} {name}: ", shown)
            return {"monitor": LiveReport(monitor_of_step, out), "resume": not anew, "overwrite": anew}

        with whole_option_names("train-cam", cam):
            train_cam(dataset, out, cam, **step(1, "train-cam"))
        with whole_option_names("make-labels", labels):
            make_labels(out, labels, data=dataset, **step(2, "make-labels"))
        with whole_option_names("train-seg", seg):
            train_seg(out, seg, data=dataset, **step(3, "train-seg"))
        if fabric.is_global_zero:
            last = Titled(monitor, f"{len(STAGES) + 1}/{len(STAGES) + 1} report: ")
            report(
                out,
                Report(device=config.device, precision=config.precision, skip_bad=config.skip_bad),
                last,
                data=dataset,
            )
        fabric.barrier()  # launchers treat a rank that runs long after the others ended as a failure
        return out / REPORT


def stages_of_other_given_masks(out: Path, data: Path | Dataset) -> tuple[str, ...]:
    """List the stages to run again because corrected or ground-truth masks that they use have changed."""
    made = [name for name in STAGES[1:] if in_use(out / FOLDERS[name])]
    first = next((STAGES.index(name) for name in made if other_given_masks(out, FOLDERS[name], data)), len(STAGES))
    return STAGES[first:]


def before_run(data: Path | Dataset, out: Path, config: Run, settings: AllSettings, monitor: Monitor) -> Dataset:
    """Check a run before its settings are planned: all that needs neither torch nor the values of the plan.

    `monitor` gets the warnings.

    Returns:
        The open data set.

    Raises:
        UserError: As `run`.
    """
    check_not_locked(out, *FOLDERS.values(), FEATURES)
    config, settings = complete_settings(config, settings)
    first: Monitor = WarningsOnly(monitor) if is_rank_zero() else SilentMonitor()
    return check_run(data, out, config, settings, first).dataset


def complete_settings(config: Run, settings: AllSettings) -> tuple[Run, AllSettings]:
    """Make paths absolute, and give make-labels the values that it takes from the training."""
    config = replace(config, cache=config.cache and absolute_path(config.cache))
    cam, labels, seg = with_absolute_paths(settings.cam), settings.labels, with_absolute_paths(settings.seg)
    if labels.segment_folder is not None:
        labels = replace(labels, segments=absolute_path(labels.segment_folder))
    if labels.feature_file is not None:
        labels = replace(labels, feature_weights=absolute_path(labels.feature_file))
    return config, AllSettings(cam=cam, labels=with_training_defaults(labels, asdict(cam)), seg=seg)


class CheckedRun(NamedTuple):
    """What a run has to do."""

    to_do: set[str]  # the stages that are not finished, or start again
    again: tuple[str, ...]  # the stages that start again
    dataset: Dataset


def check_run(data: Path | Dataset, out: Path, config: Run, settings: AllSettings, monitor: Monitor) -> CheckedRun:
    """Check the settings of all stages, and the data set.

    Raises:
        UserError: As `run`.
    """
    again = STAGES[STAGES.index(config.overwrite) :] if config.overwrite != "nothing" else ()
    by_stage = settings.by_stage()
    for name, one in by_stage.items():
        refuse_other_devices(config, name, one)
        if name not in again:
            refuse_other_settings(out, name, one)
    if changed := stages_of_other_given_masks(out, data):
        again = (*again, *(name for name in changed if name not in again))
        monitor.note(f"masks drawn by people have changed: {' and '.join(changed)} start again")
    to_do = {name for name in STAGES if name in again or not finished(out, FOLDERS[name])}
    if to_do:
        check_options(settings.cam, settings.labels, settings.seg)
    dataset = open_data(data, skip_bad=config.skip_bad)
    check_run_place(out, dataset)
    for name in STAGES:
        if name not in again:
            check_same_data(out, FOLDERS[name], dataset, SilentMonitor())
    check_stages(out, dataset, {name: one for name, one in by_stage.items() if name in to_do}, monitor)
    return CheckedRun(to_do, again, dataset)


def check_options(cam: TrainCam, labels: MakeLabels, seg: TrainSeg) -> None:
    """Check options of stages that depend on those of other stages.

    Raises:
        SettingsError: Names the options as `toco run` has them.
    """
    with whole_option_names("make-labels", labels):
        check_thresholds_in_order(labels, asdict(cam))
        check_label_scales(cam, labels)
        if labels.uses_crf or labels.background_threshold == "auto":
            check_crf_backend(labels.crf_backend)
    if seg.confidence_weighting and not labels.confidence:
        raise SettingsError("--train-seg.confidence-weighting needs --make-labels.confidence: give both")


def check_stages(out: Path, dataset: Dataset, settings: Mapping[str, StageSettings], monitor: Monitor) -> None:
    """Check splits, files of weights and caches of the stages that will run.

    Args:
        out: The run folder.
        dataset: The data set.
        settings: Settings of these stages, by command.
        monitor: Gets warnings.

    Raises:
        UserError: Names the option as `toco run` has it.
    """
    for name, one in settings.items():
        with whole_option_names(name, one):
            if one.split is not None:
                check_split(dataset, one.split, "--split")
            elif not isinstance(one, TrainSeg):  # which trains on all labelled images by default
                dataset.split()
            if not isinstance(one, MakeLabels):
                check_loggers(one.logger)
            if isinstance(one, TrainCam):
                check_learnable(dataset, dataset.split(one.split))
            if isinstance(one, TrainCam) or (isinstance(one, TrainSeg) and not one.uses_features):
                check_training(one)
            if isinstance(one, TrainSeg):
                check_student_splits(dataset, one)
            if isinstance(one, MakeLabels):
                check_calibration(dataset, one, corrected=one.use_masks != "none" and (out / CORRECTIONS).is_file())
                check_instances(dataset, one, monitor)
                check_segments(dataset, one, monitor)
                check_feature_weights(one)


def check_student(settings: TrainSeg, dataset: Dataset) -> None:
    """Build the student once, which downloads its weights, before hours of other stages.

    Raises:
        SettingsError: The network or its weights are not available.
    """
    from stages.networks.student import new_student

    with whole_option_names("train-seg", settings):
        new_student(settings, len(dataset.class_names))


@contextmanager
def whole_option_names(name: str, settings: StageSettings) -> Iterator[None]:
    """Write a stage's options in the messages of errors as `toco run` has them: `--train-seg.weights`.

    Options that `toco run` has for all stages keep their names.
    """
    own = {flag(one.name) for one in fields(settings)} - {flag(one.name) for one in fields(Run)}

    def whole(match: "re.Match[str]") -> str:
        return f"--{name}.{match[0].removeprefix('--')}" if match[0] in own else match[0]

    try:
        yield
    except UserError as error:
        message = re.sub(r"(?<![\w.-])--[a-z][a-z-]*[a-z](?![\w.])", whole, str(error))
        raise type(error)(message) from error


def refuse_other_devices(config: Run, name: str, settings: StageSettings) -> None:
    """Refuse a stage whose devices differ from those of the run: all stages run in the same processes.

    Raises:
        SettingsError: Says what to do.
    """
    for option in ("devices", "nodes"):
        own, common = getattr(settings, option), getattr(config, option)
        if own != common:
            raise SettingsError(
                f"--{name}.{option} {own}: all stages of 'toco run' use the same --{option} ({common}); give "
                f"--{option} {own} for all, or run 'toco {name} --{option} {own}' alone and then repeat this command"
            )


def refuse_other_settings(out: Path, name: str, settings: StageSettings) -> None:
    """Refuse a stage that was begun with other settings, or from a file that has been replaced.

    Args:
        out: The run folder.
        name: The stage's command.
        settings: Its settings.

    Raises:
        ArtifactError: Names the first difference, by the option's whole name.
    """
    stage = FOLDERS[name]
    if not in_use(out / stage):
        return
    check_written_by_toco(out / stage)
    anew = f"start that stage again: --overwrite {name}"
    if outdated(out, stage):
        raise ArtifactError(f"{outdated_message(out, stage)}: {anew}")
    same = f" ({as_command('run', '--config', out / CONFIG)})" if (out / CONFIG).is_file() else ""
    advice = f"give the same value{same}, or {anew}"
    with whole_option_names(name, settings):
        check_same_settings(read_config(out, stage), as_plain(asdict(settings)), out, MAY_CHANGE[stage], advice=advice)


def about_the_run(path: Path, dataset: Dataset, *, anew: bool) -> Mapping[str, Any]:
    """Describe how the run was begun; a resumed run keeps its description."""
    from stages.run_folder.provenance import made_with

    before: Mapping[str, Any] = read_run_config(path).get(ABOUT, {})
    if anew or "data_fingerprint" not in before:
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        return {"began": began, "data_fingerprint": dataset.fingerprint, **made_with()}
    return before


def with_absolute_paths(settings: Trained) -> Trained:
    """Make the paths of weights and cache absolute."""
    weights = settings.weights if settings.weights in NO_FILES else absolute_path(settings.weights)
    return replace(settings, weights=weights, cache=settings.cache and absolute_path(settings.cache))
