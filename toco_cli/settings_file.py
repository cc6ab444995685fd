"""`toco run --config FILE`: a TOML file with values for what the command line does not give."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from data.errors import SettingsError
from stages.config import NO_FILES, MakeLabels, TrainCam, TrainSeg, upgraded

PATHS = ("data", "out", "cache", "train-cam.cache", "train-seg.cache")  # relative to the file, like weights files


def take_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a settings file the defaults of the command's options; for an eager option.

    Keys are option names without '--': `seed = 1`, and `iterations = 2000` in the table `[train-cam]` for
    `--train-cam.iterations`. Values are checked like those of the command line. The table `[made-with]`, which
    describes an earlier run, is ignored.

    Raises:
        BadParameter: The file does not exist or is not TOML, or a key is not an option.
    """
    if path is None:
        return None
    parameters = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for option in (*parameter.opts, parameter.name)
        if parameter.name is not None and parameter.name != "settings_file"
    }
    values: dict[str, Any] = {}
    for key, value in _flat(_with_current_names(_read(path))):
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise typer.BadParameter(f"{path} sets {key!r}, which is not an option of 'toco run'{hint}")
        if value == "auto" and parameters[key] in getattr(context.command, "auto", {}):
            continue
        in_file = key in PATHS or (key.endswith(".weights") and value not in NO_FILES)
        values[parameters[key]] = str(path.parent / Path(value).expanduser()) if in_file else value
    context.default_map = values
    return path


def _read(path: Path) -> Mapping[str, Any]:
    import tomlkit

    try:
        found = tomlkit.parse(path.read_text(encoding="utf-8-sig")).unwrap()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    except (tomlkit.exceptions.TOMLKitError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not valid TOML: {error}") from error
    return {key: value for key, value in found.items() if key != "made-with"}


def _with_current_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename options that had another name in an earlier version of toco."""
    kinds = {"train-cam": TrainCam, "make-labels": MakeLabels, "train-seg": TrainSeg}
    current = dict(values)
    for table, kind in kinds.items():
        if isinstance(own := values.get(table), Mapping):
            try:
                fields = upgraded(kind, {name.replace("-", "_"): value for name, value in own.items()})
            except SettingsError as error:
                raise typer.BadParameter(f"[{table}] {error}") from error
            current[table] = {name.replace("_", "-"): value for name, value in fields.items()}
    return current


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Return keys prefixed with the names of their tables: ('train-cam.iterations', 2000)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
