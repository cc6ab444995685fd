"""RUN/config.toml and RUN/plan.toml: the settings of a whole run, as files for `toco run --config`.

This file does not import torch, so that a command can read the settings at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tomlkit

from data.atomic_write import atomic_write
from data.errors import ArtifactError, SettingsError
from stages.config import NO_FILES, STAGES, MakeLabels, Run, TrainCam, TrainSeg, upgraded
from stages.option import Given, check_types, flag
from stages.run_folder.artifacts import StageFolder, as_plain, in_use, read_config

AnySettings = TypeVar("AnySettings", Run, TrainCam, MakeLabels, TrainSeg)

CONFIG = "config.toml"
PLAN = "plan.toml"
ABOUT = "made-with"  # the table of facts about the run that are not settings
PATH_OPTIONS = ("cache", "weights", "feature-weights")  # options that may hold a path; relative to the file
StageSettings = TrainCam | MakeLabels | TrainSeg
STAGE_KINDS: Mapping[str, type[StageSettings]] = dict(zip(STAGES, (TrainCam, MakeLabels, TrainSeg), strict=True))


@dataclass(frozen=True, kw_only=True)
class AllSettings:
    """Settings of the three stages of a run; masks are refined unless something else is given."""

    cam: TrainCam = field(default_factory=TrainCam)
    labels: MakeLabels = field(default_factory=lambda: MakeLabels(refine="crf"))
    seg: TrainSeg = field(default_factory=TrainSeg)

    def by_stage(self) -> dict[str, StageSettings]:
        """Return the settings by command."""
        return dict(zip(STAGES, (self.cam, self.labels, self.seg), strict=True))


def read_run_config(path: Path) -> Mapping[str, Any]:
    """Read a run's config.toml; empty if there is none.

    Raises:
        ArtifactError: It is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (tomlkit.exceptions.TOMLKitError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): fix or delete it") from error


def write_config(
    path: Path,
    root: Path,
    config: Run,
    settings: Mapping[str, StageSettings],
    about: Mapping[str, Any],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Write settings, and how the run was begun.

    Args:
        path: The file.
        root: The data set's folder.
        config: Settings of the run.
        settings: Settings of the stages, by command.
        about: Facts that are not settings.
        reasons: For a plan: why settings were chosen, by option ('train-cam.iterations'). Other settings are left out
            if they have their defaults.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("'toco run --config THIS_FILE' repeats this run, with --out DIR in another folder."))
    document.add(tomlkit.comment("Paths are relative to this file. Settings that are not listed have their defaults."))
    shared = {name: value for name, value in _for_toml(config).items() if name != "overwrite"}
    for name, value in {"data": str(root.resolve()), "out": ".", **shared}.items():
        document.add(name, tomlkit.item(value))
    for name, one in settings.items():  # without the values that are given above for all stages
        own = {field: value for field, value in _for_toml(one).items() if shared.get(field) != value}
        if reasons is not None:
            defaults = _for_toml(STAGE_KINDS[name]())
            own = {
                field: value
                for field, value in own.items()
                if f"{name}.{field}" in reasons or field in shared or value != defaults.get(field)
            }
        table = tomlkit.item(own)
        for key in own:
            if reason := (reasons or {}).get(f"{name}.{key}"):
                table[key].comment(reason)
        document.add(name, table)
    document.add(ABOUT, tomlkit.item(about))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class StoredSettings:
    """Settings of a run that was begun or planned, by the names of fields."""

    path: Path
    data: Path | None  # folder of the data set; None if the file does not say it
    shared: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]  # by command, with the shared ones

    def is_for(self, data: Path) -> bool:
        """Whether the settings are, as far as it is known, for the data set in this folder."""
        here = data.resolve()
        return self.data is None or self.data.is_relative_to(here) or here.is_relative_to(self.data)

    def fill(self, config: Run, settings: AllSettings, given: Given) -> tuple[Run, AllSettings]:
        """Replace what was not given by what is stored.

        Raises:
            ArtifactError: A stored value contradicts others.
        """
        try:
            return _filled(config, self.shared, given.of("config")), AllSettings(
                cam=_filled(settings.cam, self.stages["train-cam"], given.of("train_cam")),
                labels=_filled(settings.labels, self.stages["make-labels"], given.of("make_labels")),
                seg=_filled(settings.seg, self.stages["train-seg"], given.of("train_seg")),
            )
        except SettingsError as error:
            raise ArtifactError(f"{self.path}: {error}: change the file, or the option") from error


def _filled(settings: AnySettings, stored: Mapping[str, Any], given: frozenset[str]) -> AnySettings:
    return replace(settings, **{name: value for name, value in stored.items() if name not in given})


def with_stored_stage(out: Path, stage: str, settings: AnySettings, given: frozenset[str]) -> AnySettings:
    """Replace what was not given by the settings with which a stage of a run was begun; as it is if it was not begun.

    Args:
        out: The run folder.
        stage: The stage's folder: 'cam', 'labels' or 'seg'.
        settings: Its settings.
        given: The given fields, which are kept.

    Raises:
        ArtifactError: The stage's config.json is damaged.
    """
    if not in_use(out / stage) or not (out / stage / "config.json").is_file():
        return settings
    stored = StageFolder(path=out / stage, config=read_config(out, stage)).typed_settings(type(settings))
    return _filled(settings, {one.name: getattr(stored, one.name) for one in fields(stored)}, given)


def with_begun_stages(out: Path, settings: AllSettings, given: Given) -> tuple[AllSettings, Given]:
    """Take the settings of stages that were begun alone, by their own commands; they count as given.

    Raises:
        ArtifactError: The config.json of a stage is damaged.
    """
    found, all_given = {}, dict(given.fields)
    for stage, parameter in (("cam", "train_cam"), ("labels", "make_labels"), ("seg", "train_seg")):
        own = getattr(settings, stage)
        found[stage] = with_stored_stage(out, stage, own, given.of(parameter))
        if in_use(out / stage):
            all_given[parameter] = frozenset(one.name for one in fields(own))
    return AllSettings(**found), Given(given.recipe, all_given)


def begun_or_planned(out: Path, *, anew: bool, other_plan: bool) -> StoredSettings | None:
    """Read the settings of a run that was begun, or of its plan.

    Args:
        out: The run folder.
        anew: Whether the run is started again: how it was begun does not count.
        other_plan: Whether a stored plan does not count.

    Raises:
        ArtifactError: The file is damaged.
    """
    begun = None if anew else stored_settings(out / CONFIG)
    return begun or (None if other_plan else stored_settings(out / PLAN))


def stored_settings(path: Path) -> StoredSettings | None:
    """Read the settings in RUN/config.toml or RUN/plan.toml; None if there is no such file.

    Raises:
        ArtifactError: It is damaged, or holds an unknown setting or value.
    """
    if not path.is_file():
        return None
    values = read_run_config(path)
    other = (*STAGES, ABOUT, "data", "out", "recipe", "time")
    top = {name: value for name, value in values.items() if name not in other}
    shared = _fields(path, Run, top)
    return StoredSettings(
        path=path,
        data=(path.parent / str(values["data"])).resolve() if "data" in values else None,
        shared=shared,
        stages={
            stage: {
                **{name: value for name, value in shared.items() if name in {one.name for one in fields(kind)}},
                **_fields(path, kind, values.get(stage, {})),
            }
            for stage, kind in STAGE_KINDS.items()
        },
    )


def _fields(path: Path, kind: type, options: object) -> dict[str, Any]:
    """Turn options of a file into fields: names, tuples, absolute paths."""
    if not isinstance(options, Mapping):
        raise ArtifactError(f"{path} cannot be used: {options!r} is not a table of settings: fix or delete it")
    own = {
        name: str(path.parent / Path(value).expanduser()) if _is_path(name, value) else value
        for name, value in options.items()
    }
    try:
        current = upgraded(kind, {name.replace("-", "_"): value for name, value in own.items()})
        if unknown := sorted(current.keys() - {one.name for one in fields(kind)}):
            raise SettingsError(f"{flag(unknown[0])[2:]!r} is not a setting")
        check_types(kind, current)
    except SettingsError as error:
        raise ArtifactError(f"{path} cannot be used: {error}: fix or delete it") from error
    return {name: tuple(value) if isinstance(value, list) else value for name, value in current.items()}


def _for_toml(settings: Any) -> dict[str, Any]:
    """Return settings by option name, with absolute paths, without those that are None, which TOML cannot hold."""
    values = {name.replace("_", "-"): value for name, value in as_plain(asdict(settings)).items() if value is not None}
    return {name: absolute_path(value) if _is_path(name, value) else value for name, value in values.items()}


def _is_path(name: str, value: Any) -> bool:
    return name in PATH_OPTIONS and isinstance(value, str) and value not in (*NO_FILES, "auto", "trained")


def absolute_path(path: str) -> str:
    """Return the absolute path, with '~' expanded."""
    return str(Path(path).expanduser().resolve())
