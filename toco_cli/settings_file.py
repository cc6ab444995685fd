"""`toco run --config FILE`: a TOML file that gives what the command line does not."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from stages.config import NO_FILES, MakeLabels, TrainCam, TrainSeg, upgraded

PATHS = ("data", "out", "cache", "train-cam.cache", "train-seg.cache")  # relative to the file, as files of weights


def take_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make a settings file's values the defaults of a command's options; for an eager option.

    Keys are the options' names without '--': `seed = 1`, and `iterations = 2000` in the table `[train-cam]` for
    `--train-cam.iterations`. Values are checked as those of the command line are. The table `[made-with]`, which
    tells how a run was made, is passed over.

    Raises:
        BadParameter: There is no such file, it is no TOML, or a key is no option.
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
            hint = f"; do you mean {close[0]}?" if close else ""
            raise typer.BadParameter(f"{path} sets {key!r}, which is no option of 'toco run'{hint}")
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
        raise typer.BadParameter(f"{path} is no TOML: {error}") from error
    return {key: value for key, value in found.items() if key != "made-with"}


def _with_current_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename options that an earlier version of toco called otherwise."""
    kinds = {"train-cam": TrainCam, "make-labels": MakeLabels, "train-seg": TrainSeg}
    current = dict(values)
    for table, kind in kinds.items():
        if isinstance(own := values.get(table), Mapping):
            fields = upgraded(kind, {name.replace("-", "_"): value for name, value in own.items()})
            current[table] = {name.replace("_", "-"): value for name, value in fields.items()}
    return current


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with those of the tables that they are in: ('train-cam.iterations', 2000)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
