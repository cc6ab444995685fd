"""Run folders: what each stage writes, and how the next stage opens it.

RUN/cam     config.json  sessions.jsonl  model.safetensors  metrics.jsonl  panels/  (checkpoint.pt until it is finished)
RUN/labels  config.json  sessions.jsonl  cams.h5  labels.h5  (shards/ until it is finished; scores.h5 if relabelled)
RUN/seg     config.json  sessions.jsonl  model.safetensors  metrics.jsonl  (checkpoint.pt until it is finished)
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from data.command_line import as_command
from data.dataset import Dataset
from data.errors import ArtifactError, SettingsError, reason
from data.output_place import check_folder, check_output_place, first_other_image
from data.pixel_rule import PixelRule
from data.written_folders import mark_as_written
from stages.config import RECIPE_OF_DEFAULTS, MakeLabels, TrainCam, TrainSeg, from_values, upgraded
from stages.option import as_option, check_types
from stages.run_folder.lock import check_not_locked
from stages.run_folder.saving import write_json
from stages.runtime.monitor import Monitor

SettingsType = TypeVar("SettingsType")

RUN_FORMAT = 2  # of run folders; raised when an older toco could not read what is written now
SETTINGS = {"cam": TrainCam, "labels": MakeLabels, "seg": TrainSeg}
PRODUCERS = {"cam": "train-cam", "labels": "make-labels", "seg": "train-seg"}
PRODUCTS = {"cam": ("model.safetensors",), "labels": ("cams.h5", "labels.h5"), "seg": ("model.safetensors",)}
# The file that a stage is made from. If it changes, the stage is outdated.
MADE_FROM = {"labels": "cam/model.safetensors", "seg": "labels/labels.h5"}
# Settings that may differ when a stage is resumed, because its result does not depend on them.
TRAINING_MAY_CHANGE = (
    "device", "devices", "nodes", "workers", "cache", "skip_bad", "checkpoint_every", "log_every", "evaluate_every",
    "evaluate_images", "val_split", "logger", "panel_every",
)  # fmt: skip
MAY_CHANGE = {
    "cam": (*TRAINING_MAY_CHANGE, "grad_checkpointing", "compile"),
    "labels": ("device", "devices", "nodes", "workers", "skip_bad", "batch_size", "crf_backend"),
    "seg": TRAINING_MAY_CHANGE,
}
EARLIER_DEFAULTS = {"auxiliary_block": -3, "feature_blocks": [-1]}  # of settings whose default now is None: the same
UNFINISHED = ("checkpoint.pt", "shards")  # what a stage resumes from; deleted when it is finished


@dataclass(frozen=True, kw_only=True)
class StageFolder:
    """One stage's folder in a run."""

    path: Path
    config: Mapping[str, Any]  # what config.json holds

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class c is class_names[c - 1]."""
        return tuple(self.config["dataset"]["class_names"])

    @property
    def dataset_root(self) -> Path:
        """The data set's folder at the time of the run."""
        return Path(self.config["dataset"]["root"])

    @property
    def fingerprint(self) -> str | None:
        """`Dataset.fingerprint` at the time of the run; None in runs of 0.1.0."""
        fingerprint: str | None = self.config["dataset"].get("fingerprint")
        return fingerprint

    @property
    def pixels(self) -> PixelRule:
        """How values in image files become 8-bit RGB in this run."""
        return _pixel_rule(self.config)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The stage's settings, by field name."""
        settings: Mapping[str, Any] = self.config["settings"]
        return settings

    def changed_settings(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that differ from their defaults, without those that are None.

        Args:
            trained: Settings of `toco train-cam`, which are the defaults of settings whose default is None.
        """
        stage = self.path.name
        defaults = {
            one.name: trained.get(one.name) if one.default is None else one.default for one in fields(SETTINGS[stage])
        }
        return {
            name: value
            for name, value in self.settings.items()
            if value is not None and as_plain(value) != as_plain(defaults.get(name))
        }

    def typed_settings(self, kind: type[SettingsType]) -> SettingsType:
        """Return the stage's settings as its dataclass.

        Raises:
            ArtifactError: The folder has a setting that this version of toco does not know.
        """
        try:
            return from_values(kind, self.settings)  # type: ignore[no-any-return]
        except (SettingsError, TypeError) as error:
            maker = self.config.get("toco", "another version")
            again = stage_command(self.path.parent, self.path.name, "--overwrite")
            raise ArtifactError(
                f"{self.path / 'config.json'} cannot be used: {error} (written by toco {maker}); install that version, "
                f"or run {again}"
            ) from error


def _pixel_rule(config: Mapping[str, Any]) -> PixelRule:
    """Return the rule in a stage's config.json; runs of 0.1.0 have none.

    Raises:
        TypeError: It is not one.
    """
    return PixelRule.from_dict(config["dataset"].get("pixels", {}))


def already_finished(run: Path, stage: str, settings: Any, *, resume: bool, overwrite: bool) -> bool:
    """Refuse a stage folder that is in use. Called first, before anything is loaded or downloaded.

    Args:
        run: The run folder.
        stage: Key of PRODUCERS.
        settings: The stage's settings, a dataclass.
        resume: Continue what an interrupted run began.
        overwrite: Delete what an earlier run left.

    Returns:
        Whether the stage to resume is finished already.

    Raises:
        ArtifactError: The folder exists and neither `resume` nor `overwrite` was given; or toco did not write it; or
            the run to resume had other settings or another source.
    """
    path = run / stage
    if not in_use(path):
        return False
    if not (resume or overwrite):
        raise ArtifactError(
            f"{path} exists: use --resume to continue it, --overwrite to start again, or another run folder"
        )
    check_written_by_toco(path)
    if not resume:
        return False
    check_same_settings(read_config(run, stage), as_plain(asdict(settings)), path, MAY_CHANGE[stage])
    if outdated(run, stage):
        raise ArtifactError(f"{path} was started from {_another_source(stage)}: use --overwrite to start again")
    return finished(run, stage)


def delete_unfinished(path: Path) -> None:
    """Delete from a finished stage what a run left that was killed just before its end."""
    for name in UNFINISHED:
        shutil.rmtree(path / name, ignore_errors=True)
        if not (path / name).is_dir():
            (path / name).unlink(missing_ok=True)


def check_written_by_toco(path: Path) -> None:
    """Refuse a stage folder that holds something else.

    Raises:
        ArtifactError: There is no config.json.
    """
    if not (path / "config.json").is_file():
        raise ArtifactError(f"{path} has no config.json, so toco did not write it: give another run folder")


def check_run_place(run: Path, dataset: Dataset) -> None:
    """Refuse a new run folder that holds its data set, or is among the files of a data set.

    Raises:
        SettingsError: Says what is in the way.
    """
    if not in_use(run / "cam"):  # earlier versions accepted any place
        check_output_place(run, folders=(*PRODUCERS, "features", "segments"), datasets=[dataset.root])


def begin_stage(
    run: Path,
    stage: str,
    *,
    settings: Any,
    dataset: Dataset,
    extra: Mapping[str, Any] | None = None,
    resume: bool = False,
    keep: Mapping[str, str] | None = None,
) -> StageFolder:
    """Make a stage's folder and write its config.json, after all other checks; see `already_finished`.

    Args:
        run: The run folder.
        stage: Key of PRODUCERS.
        settings: The stage's settings, a dataclass.
        dataset: The data set.
        extra: More entries for config.json.
        resume: Keep what the folder holds. Otherwise it is deleted; later stages are not.
        keep: Files that are moved instead of deleted: their names, and their new names.

    Raises:
        ArtifactError: The run to resume had other classes.
    """
    path = run / stage
    config = {
        "format": RUN_FORMAT,
        "stage": PRODUCERS[stage],
        "toco": version("toco"),
        "settings": asdict(settings),
        "dataset": {
            "root": str(dataset.root.resolve()),
            "layout": dataset.layout,
            "class_names": list(dataset.class_names),
            "fingerprint": dataset.fingerprint,
            "pixels": dataset.pixels.as_dict(),
        },
        "made_from": source_digest(run, stage),
        **(extra or {}),
    }
    trash = run / f".{stage}.deleted"
    shutil.rmtree(trash, ignore_errors=True)  # left by an --overwrite that was killed
    if in_use(path):
        if not resume:
            # Renamed first: a half-deleted folder could be neither opened nor reused.
            path.rename(trash)
        else:
            check_classes(begun_stage(run, stage), dataset)
    path.mkdir(parents=True, exist_ok=True)
    # A mark would hide a data set in the folder.
    if not dataset.root.resolve().is_relative_to(run.resolve()) and first_other_image(run) is None:
        mark_as_written(run)
    for partial in path.rglob(".*.partial"):  # left by a run that was killed during a write
        partial.unlink()
    write_json(path / "config.json", config)
    if trash.exists():
        for before, name in (keep or {}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (trash / before).rename(path / name)
        shutil.rmtree(trash)
    return StageFolder(path=path, config=as_plain(config))


def in_use(path: Path) -> bool:
    """Whether a stage's folder holds anything.

    Raises:
        SettingsError: It is a file.
    """
    check_folder(path)
    # Hidden files do not count: a run that was killed before it wrote config.json leaves only these.
    return path.exists() and not all(file.name.startswith(".") for file in path.iterdir())


def as_plain(value: Any) -> Any:
    """Return a value as JSON will give it back: tuples become lists."""
    return json.loads(json.dumps(value))


def check_same_settings(
    old: Mapping[str, Any],
    settings: Mapping[str, Any],
    path: Path,
    may_change: tuple[str, ...],
    *,
    advice: str = "give the same value, or --overwrite to start again",
) -> None:
    """Refuse to resume with other settings.

    Args:
        old: The config or record of the earlier run, with its settings under 'settings'.
        settings: The present settings, as plain values.
        path: The folder of the earlier run.
        may_change: Settings that may differ.
        advice: What to do.

    Raises:
        ArtifactError: Names the first difference.
    """
    for name, value in settings.items():
        before = old["settings"].get(name)
        if before != value and name not in may_change and (value, before) != (None, EARLIER_DEFAULTS.get(name)):
            raise ArtifactError(
                f"{path} was started with --{name.replace('_', '-')} {_shown(before)} and cannot be resumed with "
                f"{_shown(value)}: {advice}"
            )


def _shown(value: Any) -> str:
    return "its default" if value is None else f"{value}"


def outdated(run: Path, stage: str) -> bool:
    """Whether the file that a stage was made from has been replaced since."""
    before, now = read_config(run, stage).get("made_from"), source_digest(run, stage)
    return before != now and None not in (before, now)


def check_up_to_date(run: Path, stage: str) -> None:
    """Refuse to build on a stage whose source has been replaced since.

    Raises:
        ArtifactError: The stage is outdated.
    """
    if outdated(run, stage):
        raise ArtifactError(f"{outdated_message(run, stage)}: run {repeating_command(run, stage)}")


def outdated_message(run: Path, stage: str) -> str:
    """Say why a stage is outdated."""
    return f"{run / stage} was made from {_another_source(stage)}"


def current(run: Path, stage: str, monitor: Monitor, consequence: str) -> bool:
    """Whether a stage is finished and up to date; warns if it is outdated.

    Args:
        run: The run folder.
        stage: Key of PRODUCERS.
        monitor: Gets the warning.
        consequence: What happens to an outdated stage, for the warning; for example 'not evaluated'.
    """
    if not finished(run, stage):
        return False
    if outdated(run, stage):
        monitor.warn(f"{consequence}: {outdated_message(run, stage)}")
        return False
    return True


def _another_source(stage: str) -> str:
    return f"a {MADE_FROM[stage]} that has been replaced since"


def source_digest(run: Path, stage: str) -> str | None:
    """SHA-256 of the file that a stage is made from; None if there is no such file."""
    if stage not in MADE_FROM or not (run / MADE_FROM[stage]).is_file():
        return None
    return file_digest(run / MADE_FROM[stage])


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
        return state.hexdigest()


def read_config(run: Path, stage: str) -> Mapping[str, Any]:
    """Read a stage's config.json.

    Raises:
        ArtifactError: The file is missing, damaged, or of a newer version of toco.
    """
    path = run / stage / "config.json"
    if not run.is_dir():
        raise ArtifactError(
            f"there is no run folder {run}: check the path, or run {as_command('train-cam', 'DATA', '--out', run)}"
        )
    if not path.is_file():
        if run.name in PRODUCERS and (run / "config.json").is_file():
            raise ArtifactError(f"{run} is a stage of a run: give the run folder {run.parent}")
        raise ArtifactError(f"{run} has no {stage}/config.json: run 'toco {PRODUCERS[stage]}' first")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"{config!r} is not an object")
        _check_format(config, path)  # first: a newer format may have moved the entries that follow
        dataset = config["dataset"]
        for value, kind in ((config["settings"], dict), (dataset["root"], str), (dataset["class_names"], list)):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is not a {kind.__name__}")
        _pixel_rule(config)
        _check_class_count(config)
        config = _upgraded(config, stage)
        check_types(SETTINGS[stage], config["settings"])
        return config
    except PermissionError as error:
        raise ArtifactError(f"no permission to read {path}: change its permissions, or ask its owner") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # also JSON and Unicode errors
        what = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise ArtifactError(
            f"{path} is damaged ({what}): undo changes that were made by hand, or run "
            f"{stage_command(run, stage, '--overwrite')} with the options of before"
        ) from error


def _check_class_count(config: Mapping[str, Any]) -> None:
    names = config["dataset"]["class_names"]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("class_names are not all strings")
    count = config.get("model", {}).get("num_classes", len(names))
    if count != len(names):
        raise ValueError(f"it lists {len(names)} classes, and a network of {count}")


def _check_format(config: Mapping[str, Any], path: Path) -> None:
    written = config.get("format", 1)
    if written > RUN_FORMAT:
        raise ArtifactError(
            f"{path} has format {written}, written by toco {config.get('toco')}; this version reads up to format "
            f"{RUN_FORMAT}: update toco"
        )


def _upgraded(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """Bring the config of an earlier format up to date: today's names, and defaults for settings that are newer."""
    kind = SETTINGS[stage]
    then = {"relabel": "none"} if stage == "labels" else {}  # until 0.1.0 masks were not relabelled
    config["settings"] = {**as_plain(asdict(kind())), **then, **upgraded(kind, config["settings"])}
    if "background" in config:  # until format 1
        config["background_threshold"] = config.pop("background")
    return config


def begun_stage(run: Path, stage: str) -> StageFolder:
    """Open the folder of a stage that may be unfinished.

    Raises:
        ArtifactError: The stage was not begun.
    """
    return StageFolder(path=run / stage, config=read_config(run, stage))


def open_stage(run: Path, stage: str) -> StageFolder:
    """Open the folder of a finished stage.

    Raises:
        ArtifactError: The stage did not run, or did not finish; names the process that still writes it.
    """
    folder = begun_stage(run, stage)
    for name in PRODUCTS[stage]:
        if not (run / stage / name).is_file():
            check_not_locked(run, stage)
            raise ArtifactError(
                f"{run / stage} has no {name}: 'toco {PRODUCERS[stage]}' did not finish there; "
                "run it again with --resume"
            )
    return folder


def options_to_repeat(run: Path, stage: str) -> list[str]:
    """Return the options, as typed, with which the stage's own command repeats a stage.

    Raises:
        ArtifactError: The stage, or train-cam, was not begun.
    """
    changed = begun_stage(run, stage).changed_settings(begun_stage(run, "cam").settings)
    # All other settings had their defaults, in place of which a new plan might choose others.
    unplanned = [] if stage == "labels" else [as_option("recipe", RECIPE_OF_DEFAULTS)]
    return [*unplanned, *(as_option(name, value) for name, value in changed.items())]


def stage_command(run: Path, stage: str, *options: str, data: object = "DATA") -> str:
    """Return the command of a stage, as typed."""
    place = (data, "--out", run) if stage == "cam" else (run,)
    return as_command(PRODUCERS[stage], *place, *options)


def repeating_command(run: Path, stage: str) -> str:
    """Return the command, as typed, that makes a stage again; with its options as far as they are known."""
    data: object = "DATA"
    options: list[str] = []
    with suppress(ArtifactError):  # the run is damaged, or its network was made elsewhere
        data, options = begun_stage(run, stage).dataset_root, options_to_repeat(run, stage)
    return " ".join([stage_command(run, stage, "--overwrite", data=data), *options])


def command_for(file: Path) -> str:
    """Return the command, as typed, that makes a file in a stage's folder again, such as RUN/labels/labels.h5."""
    run, stage = file.parent.parent, file.parent.name
    if stage in PRODUCERS and (run / stage / "config.json").is_file():
        return repeating_command(run, stage)
    return as_command("make-labels", "RUN", "--overwrite")


def finished(run: Path, stage: str) -> bool:
    """Whether all products of a stage exist."""
    return all((run / stage / name).is_file() for name in PRODUCTS[stage])


def check_classes(folder: StageFolder, dataset: Dataset) -> None:
    """Refuse a data set whose classes differ from those of the run.

    Raises:
        ArtifactError: Names the first difference.
    """
    mine, theirs = folder.class_names, dataset.class_names
    if mine == theirs:
        return
    missing = [name for name in mine if name not in theirs]
    added = [name for name in theirs if name not in mine]
    if missing:
        what = f"lacks the class {missing[0]!r}"
    elif added:
        what = f"has the additional class {added[0]!r}"
    else:
        what = "has the classes in another order"
    raise ArtifactError(
        f"{dataset.root} {what} ({len(theirs)} classes; {folder.path} was made with {len(mine)}): "
        "give the data set of that run, or train again with --overwrite"
    )
