"""`toco run`: all stages one after the other; what is finished is not done again.

In: a data set. Out: RUN with cam/, labels/, seg/, report.html, and config.toml, from which it can be repeated.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import tomlkit

from data.dataset import Dataset
from data.readers import open_dataset
from stages.artifacts import MAY_CHANGE, PRODUCERS
from stages.config import STAGES, MakeLabels, Report, Run, TrainCam, TrainSeg
from stages.make_labels import make_labels
from stages.monitor import Monitor, Titled
from stages.provenance import data_fingerprint, made_with
from stages.report import report
from stages.train_cam import train_cam
from stages.train_seg import train_seg
from stages.whole_files import ArtifactError, whole_file

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
        ValueError: The data, the settings or the weights do not work out.
        ArtifactError: The folder was begun with other settings, or holds something else.
    """
    settings: dict[str, TrainCam | MakeLabels | TrainSeg] = dict(zip(STAGES, (cam, labels, seg), strict=True))
    for name, one in settings.items():
        if one.devices > 1:
            raise ValueError(
                f"--{name}.devices {one.devices}: 'toco run' uses one device; for several, run 'toco {name} "
                f"--devices {one.devices}' by itself, and 'toco run' for the rest"
            )
    again = STAGES[STAGES.index(config.overwrite) :] if config.overwrite != "nothing" else ()
    refuse_other_settings(out, {name: one for name, one in settings.items() if name not in again})
    dataset = open_dataset(data, skip_bad=config.skip_bad)
    write_config(out / CONFIG, dataset, settings, monitor)

    def step(number: int, name: str) -> dict[str, Any]:
        monitor_of_step = Titled(monitor, f"{number}/{len(STAGES) + 1} {name}: ")
        return {"monitor": monitor_of_step, "resume": name not in again, "overwrite": name in again}

    train_cam(data, out, cam, **step(1, "train-cam"))
    make_labels(out, labels, data=data, **step(2, "make-labels"))
    train_seg(out, seg, data=data, **step(3, "train-seg"))
    last = Titled(monitor, f"{len(STAGES) + 1}/{len(STAGES) + 1} report: ")
    return report(out, Report(device=config.device, skip_bad=config.skip_bad), last, data=data)


def refuse_other_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings other than those that a stage was begun with, as RUN/config.toml has them.

    Args:
        out: The run folder.
        settings: Of the stages that go on, by their names.

    Raises:
        ArtifactError: Names the first that differs, or the file is damaged.
    """
    before = read_config(out / CONFIG)
    folders = {producer: stage for stage, producer in PRODUCERS.items()}
    for name, now in settings.items():
        if name not in before or not (out / folders[name] / "config.json").is_file():
            continue
        for field, value in _plain(now).items():
            old = before[name].get(field)
            if old != value and field.replace("-", "_") not in MAY_CHANGE[folders[name]]:
                raise ArtifactError(
                    f"{out} was begun with --{name}.{field} {_shown(old)} and cannot go on with {_shown(value)}: give "
                    f"the same ('toco run --config {out / CONFIG}'), or start that stage again: --overwrite {name}"
                )


def read_config(path: Path) -> Mapping[str, Any]:
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


def write_config(path: Path, dataset: Dataset, settings: Mapping[str, Any], monitor: Monitor) -> None:
    """Write all settings as resolved, and what the run is made with."""
    fingerprint = data_fingerprint(dataset)
    before = read_config(path).get(ABOUT, {}).get("data_fingerprint")
    if before not in (None, fingerprint):
        monitor.warn(f"{dataset.root} is not as it was when {path.parent} was begun: images or their labels differ")
    document = tomlkit.document()
    document.add(tomlkit.comment("'toco run --config THIS_FILE' repeats this run, with --out DIR in another folder."))
    document.add(tomlkit.comment("Paths are relative to this file. What is not here has its default."))
    document.add("data", tomlkit.item(str(dataset.root.resolve())))
    document.add("out", tomlkit.item("."))
    for name, one in settings.items():
        document.add(name, tomlkit.item(_plain(one)))
    about = {"began": datetime.now().astimezone().isoformat(timespec="seconds"), "data_fingerprint": fingerprint}
    document.add(ABOUT, tomlkit.item({**about, **made_with()}))
    with whole_file(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), encoding="utf-8")


def _plain(settings: Any) -> dict[str, Any]:
    """Settings by their options' names, as TOML can hold them: lists for tuples, without those that are None."""
    return {
        name.replace("_", "-"): list(value) if isinstance(value, tuple) else _absolute(name, value)
        for name, value in asdict(settings).items()
        if value is not None
    }


def _absolute(name: str, value: Any) -> Any:
    """A file of weights by its whole path."""
    return str(Path(value).expanduser().resolve()) if name == "weights" and Path(value).suffix else value


def _shown(value: Any) -> str:
    return "its default" if value is None else f"{value}"
