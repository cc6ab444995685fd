"""`toco run`: all stages one after the other; what is finished is not done again.

In: a data set. Out: RUN with cam/, labels/, seg/, report.html, and config.toml, from which it can be repeated.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import tomlkit

from data.atomic_write import atomic_write
from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError
from data.image_cache import open_cache
from data.readers import open_dataset
from stages.config import NO_FILES, STAGES, MakeLabels, Report, Run, TrainCam, TrainSeg
from stages.labels.pixel_labels import with_training_defaults
from stages.make_labels import make_labels
from stages.networks.student import new_student
from stages.report import REPORT, report
from stages.run_folder.artifacts import (
    MAY_CHANGE,
    PRODUCERS,
    as_plain,
    finished,
    outdated,
    outdated_message,
    read_config,
)
from stages.run_folder.provenance import data_fingerprint, made_with
from stages.runtime.fabric import start
from stages.runtime.monitor import Monitor, Titled
from stages.train_cam import train_cam
from stages.train_seg import train_seg

StageSettings = TrainCam | MakeLabels | TrainSeg
Trained = TypeVar("Trained", TrainCam, TrainSeg)

FOLDERS = {producer: stage for stage, producer in PRODUCERS.items()}
CONFIG = "config.toml"
ABOUT = "made-with"  # the table of what cannot be set, but is good to know


def run(
    data: Path,
    out: Path,
    config: Run,
    monitor: Monitor,
    *,
    cam: TrainCam,
    labels: MakeLabels,
    seg: TrainSeg,
) -> Path:
    """Go from image labels to a student and a report.

    Args:
        data: A data set, in any layout.
        out: The run folder; one that was begun before is gone on with.
        config: Settings.
        monitor: Told of progress.
        cam: Settings of the first stage.
        labels: Of the second.
        seg: Of the third.

    Returns:
        The report.

    Raises:
        SettingsError: The data, the settings or the weights do not work out.
        ArtifactError: The folder was begun with other settings, or holds something else.
    """
    config = replace(config, cache=config.cache and absolute_path(config.cache))
    cam, seg = with_absolute_paths(cam), with_absolute_paths(seg)
    labels = with_training_defaults(labels, asdict(cam))
    settings: dict[str, StageSettings] = dict(zip(STAGES, (cam, labels, seg), strict=True))
    again = STAGES[STAGES.index(config.overwrite) :] if config.overwrite != "nothing" else ()
    for name, one in settings.items():
        refuse_other_devices(config, name, one)
        if name not in again:
            refuse_other_settings(out, name, one)
    fabric, monitor, _ = start(config, monitor)
    dataset = open_dataset(data, skip_bad=config.skip_bad)
    if fabric.is_global_zero:
        about = about_the_run(out / CONFIG, dataset, monitor, anew=again == STAGES)
        write_config(out / CONFIG, dataset, config, settings, about)

    if "train-seg" in again or not finished(out, FOLDERS["train-seg"]):
        check_student(seg, dataset)
        open_cache(seg.cache)

    def step(number: int, name: str) -> dict[str, Any]:
        # What was made from a stage that has just been done again is made again, too.
        anew = name in again or (finished(out, FOLDERS[name]) and outdated(out, FOLDERS[name]))
        monitor_of_step = Titled(monitor, f"{number}/{len(STAGES) + 1} {name}: ")
        return {"monitor": monitor_of_step, "resume": not anew, "overwrite": anew}

    train_cam(dataset, out, cam, **step(1, "train-cam"))
    make_labels(out, labels, data=dataset, **step(2, "make-labels"))
    train_seg(out, seg, data=dataset, **step(3, "train-seg"))
    if fabric.is_global_zero:
        last = Titled(monitor, f"{len(STAGES) + 1}/{len(STAGES) + 1} report: ")
        report(
            out, Report(device=config.device, precision=config.precision, skip_bad=config.skip_bad), last, data=dataset
        )
    fabric.barrier()  # a launcher may take the first one's long end for a fault
    return out / REPORT


def check_student(settings: TrainSeg, dataset: Dataset) -> None:
    """Build the student once, and so bring its weights, before hours of other stages.

    Raises:
        SettingsError: It is not to be had.
    """
    try:
        new_student(settings, len(dataset.class_names))
    except ValueError as error:
        raise SettingsError(f"train-seg: {error} (options of it begin with --train-seg.)") from error


def refuse_other_devices(config: Run, name: str, settings: StageSettings) -> None:
    """Refuse a stage other devices than the run has: the same processes go through all stages.

    Raises:
        SettingsError: Says how to do it.
    """
    for option in ("devices", "nodes"):
        own, common = getattr(settings, option), getattr(config, option)
        if own != common:
            raise SettingsError(
                f"--{name}.{option} {own}: 'toco run' has the same for all stages ({common}); give --{option} {own} to "
                f"all, or run 'toco {name} --{option} {own}' by itself, and then this once more for the rest"
            )


def refuse_other_settings(out: Path, name: str, settings: StageSettings) -> None:
    """Refuse settings other than those that a stage was begun with, and what it was made from if that was replaced.

    Args:
        out: The run folder.
        name: The stage's command.
        settings: Its settings.

    Raises:
        ArtifactError: Names the first difference, by the option's whole name.
    """
    stage = FOLDERS[name]
    if not (out / stage / "config.json").is_file():
        return
    anew = f"start that stage again: --overwrite {name}"
    if outdated(out, stage):
        raise ArtifactError(f"{outdated_message(out, stage)}: {anew}")
    before = read_config(out, stage)["settings"]
    for field, now in as_plain(asdict(settings)).items():
        if before.get(field) != now and field not in MAY_CHANGE[stage]:
            same = f" ('toco run --config {out / CONFIG}')" if (out / CONFIG).is_file() else ""
            raise ArtifactError(
                f"{out} was begun with --{name}.{field.replace('_', '-')} {_shown(before.get(field))} and cannot go on "
                f"with {_shown(now)}: give the same{same}, or {anew}"
            )


def read_run_config(path: Path) -> Mapping[str, Any]:
    """Read a run's config.toml; empty where there is none.

    Raises:
        ArtifactError: It is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (tomlkit.exceptions.TOMLKitError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): mend or remove it") from error


def about_the_run(path: Path, dataset: Dataset, monitor: Monitor, *, anew: bool) -> Mapping[str, Any]:
    """Say what the run was begun with; one that goes on keeps what is there, and tells of changed data."""
    fingerprint = data_fingerprint(dataset)
    before: Mapping[str, Any] = read_run_config(path).get(ABOUT, {})
    if anew or "data_fingerprint" not in before:
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        return {"began": began, "data_fingerprint": fingerprint, **made_with()}
    if before["data_fingerprint"] != fingerprint:
        monitor.warn(f"{dataset.root} is not as it was when {path.parent} was begun: images or their labels differ")
    return before


def write_config(
    path: Path, dataset: Dataset, config: Run, settings: Mapping[str, StageSettings], about: Mapping[str, Any]
) -> None:
    """Write all settings as resolved, and what the run was begun with."""
    document = tomlkit.document()
    document.add(tomlkit.comment("'toco run --config THIS_FILE' repeats this run, with --out DIR in another folder."))
    document.add(tomlkit.comment("Paths are relative to this file. What is not here has its default."))
    shared = {name: value for name, value in _for_toml(config).items() if name != "overwrite"}
    for name, value in {"data": str(dataset.root.resolve()), "out": ".", **shared}.items():
        document.add(name, tomlkit.item(value))
    for name, one in settings.items():  # without what is said above for all stages
        own = {field: value for field, value in _for_toml(one).items() if shared.get(field) != value}
        document.add(name, tomlkit.item(own))
    document.add(ABOUT, tomlkit.item(about))
    with atomic_write(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), encoding="utf-8")


def with_absolute_paths(settings: Trained) -> Trained:
    """Settings whose file of weights and cache are found from anywhere."""
    weights = settings.weights if settings.weights in NO_FILES else absolute_path(settings.weights)
    return replace(settings, weights=weights, cache=settings.cache and absolute_path(settings.cache))


def absolute_path(path: str) -> str:
    """A path from the root of the file system on."""
    return str(Path(path).expanduser().resolve())


def _for_toml(settings: Any) -> dict[str, Any]:
    """Settings by their options' names, without those that are None, which TOML cannot hold."""
    return {name.replace("_", "-"): value for name, value in as_plain(asdict(settings)).items() if value is not None}


def _shown(value: Any) -> str:
    return "its default" if value is None else f"{value}"
