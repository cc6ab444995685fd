"""The Python API: the commands as functions. `import toco` gives them.

Keyword arguments are the options of the command line with underscores (`batch_size` is `--batch-size`), with the same
defaults and the same errors. Nothing is printed but warnings, unless `progress` is true. Results are returned.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from data.errors import SettingsError
from stages.config import upgraded
from stages.option import check_types, option_text
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import Monitor, WarnsOnce
from toco_cli import commands, planned
from toco_cli.options import SETTINGS_OF_COMMANDS, CommandSettings
from toco_cli.stage_commands import run_evaluate, run_make_labels, run_train_cam, run_train_seg

if TYPE_CHECKING:
    from stages.check import Check
    from stages.evaluate import Evaluation
    from stages.import_masks import ImportedMasks
    from stages.pick import Picks
    from stages.prediction.predictor import Predictor
    from stages.tile import Tiles

StageOptions = Mapping[str, Any]
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def _of_command(name: str) -> CommandSettings:
    return SETTINGS_OF_COMMANDS[getattr(commands, name)]


def with_options_of(command: str, *, without: Sequence[str] = ()) -> Callable[[AnyFunction], AnyFunction]:
    """Show the options of a command in the signature of a function that takes them as `**options`.

    `help()` and completion in notebooks then list them with their defaults.

    Args:
        command: Name of the command's function.
        without: Options that mean nothing in Python.
    """

    def show(function: AnyFunction) -> AnyFunction:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        (config,) = (one.default for one in _of_command(command).parameters if one.name == "config")
        hints = get_type_hints(type(config))
        options = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=getattr(config, one.name), annotation=hints[one.name]
            )
            for one in fields(config)
            if one.name not in without
        ]
        function.__signature__ = inspect.signature(function).replace(  # type: ignore[attr-defined]
            parameters=[*own, *options]
        )
        return function

    return show


@with_options_of("check")
def check(data: str | Path, *, progress: bool = False, monitor: Monitor | None = None, **options: Any) -> "Check":
    """Report what a data set contains, and what is wrong with it; see `toco check`.

    Args:
        data: The data set's folder, in any layout.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco check`.

    Returns:
        The classes, sizes and findings; `errors` is empty if the data set can be used.

    Raises:
        UserError: There is no data set in the folder.
    """
    config = _settings("check", options)["config"]
    from stages.check import check as stage

    with _shown(progress, monitor) as shown:
        return stage(Path(data), shown, config)


@with_options_of("tile")
def tile(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    labels: str | Path | None = None,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> "Tiles":
    """Cut large images into a data set of overlapping tiles; see `toco tile`.

    Args:
        paths: A file, folder or pattern, or several.
        out: Folder of the new data set.
        labels: CSV or GeoJSON with the labels.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco tile`.

    Returns:
        The folder, and numbers of tiles.

    Raises:
        UserError: An option, an image or the labels cannot work.
    """
    config = _settings("tile", options)["config"]
    from stages.tile import tile as stage

    with _shown(progress, monitor) as shown:
        return stage(_paths(paths), Path(out), config, shown, labels=_path(labels))


def join(
    tiles: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """Put masks of tiles together, one mask for each large image; see `toco join`.

    Args:
        tiles: The folder that `tile` wrote.
        masks: The folder of `predict` or of `export` with `format="png"`, or a run folder for its pseudo masks.
        out: Folder for the results.
        overwrite: Replace results that exist.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.

    Returns:
        The written files.

    Raises:
        UserError: The masks are not those of the tiles, or a file cannot be used.
    """
    from stages.join import join as stage

    with _shown(progress, monitor) as shown:
        return stage(Path(tiles), Path(masks), Path(out), shown, overwrite=overwrite)


@with_options_of("run")
def run(
    data: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str | None = None,
    time: str | None = None,
    train_cam: StageOptions | None = None,
    make_labels: StageOptions | None = None,
    train_seg: StageOptions | None = None,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Path:
    """Run all stages one after the other, and write a report; see `toco run`.

    Finished stages are skipped: the same call resumes an interrupted run.

    Args:
        data: The data set's folder, in any layout.
        out: The run folder; by default runs/ and the data set's name.
        recipe: Set of defaults: quick, balanced or best are chosen for the data and the machine, as by `toco plan`;
            voc and coco are published settings.
        time: Time that the run may take, for example '2h'.
        train_cam: Options of the first stage, by name: `train_cam={"iterations": 1000}`.
        make_labels: Options of the second stage.
        train_seg: Options of the third stage.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco run`. They count for all stages that have them.

    Returns:
        The run folder. The report is its file report.html.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    stages = {"train_cam": train_cam, "make_labels": make_labels, "train_seg": train_seg}
    made = _settings("run", options, recipe, {name: given for name, given in stages.items() if given})
    from stages.run import run as stage
    from stages.run_folder.run_config import AllSettings

    folder = planned.default_run(Path(data)) if out is None else Path(out)
    given = AllSettings(cam=made["train_cam"], labels=made["make_labels"], seg=made["train_seg"])
    with _shown(progress, monitor) as shown:
        once = WarnsOnce(shown, "", set())  # both parts check the run
        config, settings = planned.with_plan(Path(data), folder, made["config"], given, made["given"], once, time=time)
        stage(Path(data), folder, config, once, cam=settings.cam, labels=settings.labels, seg=settings.seg)
    return folder


@with_options_of("train_cam")
def train_cam(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Path:
    """Train the CAM network on image labels; see `toco train-cam`.

    Args:
        data: The data set's folder, in any layout.
        out: The run folder.
        recipe: Set of defaults, see `run`.
        resume: Resume after an interruption.
        overwrite: Delete an earlier result and start again.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco train-cam`.

    Returns:
        The run folder.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    made = _settings("train_cam", options, recipe)
    with _shown(progress, monitor) as shown:
        run_train_cam(Path(data), Path(out), made["config"], made["given"], shown, resume=resume, overwrite=overwrite)
    return Path(out)


@with_options_of("make_labels")
def make_labels(
    run: str | Path,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Path:
    """Make pseudo masks with the trained CAM network; see `toco make-labels`.

    The verdict on each class is in RUN/labels/verdict.json, as after the command.

    Args:
        run: A run folder in which `train_cam` finished.
        data: The data set's present folder, if it was moved.
        resume: Resume after an interruption.
        overwrite: Delete an earlier result and start again.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco make-labels`.

    Returns:
        The run folder.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    config = _settings("make_labels", options)["config"]
    with _shown(progress, monitor) as shown:
        run_make_labels(Path(run), config, shown, data=_path(data), resume=resume, overwrite=overwrite)
    return Path(run)


@with_options_of("train_seg")
def train_seg(
    run: str | Path,
    *,
    recipe: str | None = None,
    data: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Path:
    """Train the student on the pseudo masks; see `toco train-seg`.

    Args:
        run: A run folder in which `make_labels` finished.
        recipe: Set of defaults, see `run`.
        data: The data set's present folder, if it was moved.
        resume: Resume after an interruption.
        overwrite: Delete an earlier result and start again.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco train-seg`.

    Returns:
        The run folder.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    made = _settings("train_seg", options, recipe)
    with _shown(progress, monitor) as shown:
        run_train_seg(
            Path(run), made["config"], made["given"], shown, data=_path(data), resume=resume, overwrite=overwrite
        )
    return Path(run)


@with_options_of("evaluate")
def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> "Evaluation":
    """Measure the results of a run on ground-truth masks; see `toco evaluate`.

    Args:
        run: The run folder.
        data: The data set's present folder, if it was moved.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco evaluate`.

    Returns:
        The scores of each product; `as_dict()` gives plain values.

    Raises:
        UserError: There are no ground-truth masks, or an option, the data or a file cannot work.
    """
    config = _settings("evaluate", options)["config"]
    with _shown(progress, monitor) as shown:
        found = run_evaluate(Path(run), config, shown, data=_path(data))
    if found.scores is None:
        assert found.problem is not None
        raise found.problem
    return found.scores


@with_options_of("report")
def report(
    run: str | Path,
    *,
    data: str | Path | None = None,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Path:
    """Write RUN/report.html; see `toco report`.

    Args:
        run: The run folder.
        data: The data set's present folder, if it was moved.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco report`.

    Returns:
        The page.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    config = _settings("report", options)["config"]
    from stages.preflight.checks import before_report

    dataset = before_report(Path(run), config, data=_path(data))
    from stages.report import report as stage

    with _shown(progress, monitor) as shown:
        return stage(Path(run), config, shown, data=dataset)


@with_options_of("predict")
def predict(
    run: str | Path,
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Mapping[str, list[Path]]:
    """Segment image files and write the results; see `toco predict`. `load` segments images in memory.

    Args:
        run: The run folder.
        paths: A file, folder or pattern, or several.
        out: Folder for the results.
        resume: Skip images whose files exist.
        overwrite: Delete the files that an earlier call wrote for these images.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.
        options: Options of `toco predict`.

    Returns:
        The written files, by kind.

    Raises:
        UserError: An option, an image or a file cannot work.
    """
    config = _settings("predict", options)["config"]
    from stages.predict import predict as stage

    with _shown(progress, monitor) as shown:
        return stage(Path(run), _paths(paths), Path(out), config, shown, resume=resume, overwrite=overwrite)


def export(
    run: str | Path,
    out: str | Path,
    *,
    format: str = "png",
    instances: str | None = None,
    min_area: int | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """Write the masks, or the student, in a format of other programs; see `toco export`.

    Args:
        run: The run folder.
        out: Folder for the exported files.
        format: png, voc, coco, yolo, yolo-detect, labelstudio, cvat or onnx.
        instances: How formats with objects separate touching ones: distance (the default), cam or components.
        min_area: Pixels of the smallest object in voc, coco, yolo and yolo-detect (10 by default); smaller pieces of
            the masks are left out.
        data: The data set's present folder, if it was moved.
        overwrite: Write into a folder that is not empty.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.

    Returns:
        The written files.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    from stages.export import export as stage

    with _shown(progress, monitor) as shown:
        return list(
            stage(
                Path(run),
                Path(out),
                shown,
                format=format,
                instances=instances,
                min_area=min_area,
                data=_path(data),
                overwrite=overwrite,
            )
        )


def pick(
    run: str | Path,
    *,
    count: int = 10,
    classes: str | Sequence[str] | None = None,
    format: str = "labelstudio",
    out: str | Path | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
) -> "Picks":
    """Choose the training images whose masks are most worth correcting, and export them; see `toco pick`.

    Args:
        run: The run folder.
        count: Number of images.
        classes: Choose images for these classes only; None for all.
        format: labelstudio, cvat or png.
        out: Folder for the exported files; by default RUN/picked.
        data: The data set's present folder, if it was moved.
        overwrite: Write into a folder that is not empty.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.

    Returns:
        The images, each with the reason, and the folder.

    Raises:
        UserError: An option, the data or a file cannot work.
    """
    from stages.pick import pick as stage

    with _shown(progress, monitor) as shown:
        return stage(
            Path(run),
            shown,
            count=count,
            classes=(classes,) if isinstance(classes, str) else classes or (),
            format=format,
            out=_path(out),
            data=_path(data),
            overwrite=overwrite,
        )


def import_masks(
    run: str | Path,
    path: str | Path,
    tool: str,
    *,
    data: str | Path | None = None,
    skip_bad: bool = False,
    allow_new_labels: bool = False,
    confirm_unchanged: bool = False,
    progress: bool = False,
    monitor: Monitor | None = None,
) -> "ImportedMasks":
    """Bring corrected masks of training images back into a run; see `toco import`.

    Args:
        run: The run folder.
        path: File or folder with the masks.
        tool: labelstudio, cvat, coco or png; `--from` of the command.
        data: The data set's present folder, if it was moved.
        skip_bad: Import the masks that fit, although others do not.
        allow_new_labels: Accept classes that the labels of an image do not have.
        confirm_unchanged: Also import masks that equal the pseudo masks. Those of Label Studio are always imported.
        progress: Show progress on stderr, as the command does.
        monitor: Receives progress and warnings instead of the terminal.

    Returns:
        The number of masks.

    Raises:
        UserError: A mask does not fit, or a file cannot be used. Nothing is imported then.
    """
    from stages.import_masks import import_masks as stage

    with _shown(progress, monitor) as shown:
        return stage(
            Path(run),
            Path(path),
            shown,
            tool=tool,
            data=_path(data),
            skip_bad=skip_bad,
            allow_new_labels=allow_new_labels,
            confirm_unchanged=confirm_unchanged,
        )


@with_options_of("predict", without=("outputs", "devices", "nodes", "workers", "skip_bad"))
def load(run: str | Path, **options: Any) -> "Predictor":
    """Load the trained network of a run, to segment images in memory.

    Args:
        run: The run folder.
        options: Options of `toco predict`, for example `source="decoder"` for the CAM network's decoder, `window=1024`
            or `device="cpu"`.

    Returns:
        An object with `predict(image)`, `probabilities(image)` and `class_names`.

    Raises:
        UserError: There is no trained network, or an option cannot work.
    """
    config = _settings("predict", options)["config"]
    from stages.prediction.predictor import load_predictor

    return load_predictor(Path(run), config)


def _settings(
    command: str, options: StageOptions, recipe: str | None = None, stages: Mapping[str, StageOptions] | None = None
) -> dict[str, Any]:
    """Make the settings of a command from keyword arguments; `given` names those that are given.

    Raises:
        SettingsError: Names the argument that is unknown or has a wrong value.
    """
    known = _of_command(command)
    if recipe is not None and recipe not in known.recipes:
        raise SettingsError(f"there is no recipe {recipe!r}: choose one of {', '.join(known.recipes)}")
    given = {"config": options, **(stages or {})}
    own = inspect.signature(globals()[command]).parameters
    values = {
        one.name: _fields(
            command if one.name == "config" else one.name, type(one.default), given.get(one.name, {}), own
        )
        for one in known.parameters
    }
    return {**known.combined(recipe, values), "given": known.given(recipe, values)}


def _fields(command: str, kind: type, given: StageOptions, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Turn keyword arguments into fields of settings: paths become text, lists become tuples."""
    assert is_dataclass(kind)
    if not isinstance(given, Mapping):
        raise SettingsError(f"{command}={given!r} is not a mapping of options: give for example {{'iterations': 1000}}")
    shorthands = {text.shorthand: one.name for one in fields(kind) if (text := option_text(one)).shorthand}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in shorthands and isinstance(value, bool):  # crf=True is refine="crf"
            if value and shorthands[name] in given:
                raise SettingsError(f"{name} is short for {shorthands[name]}={name!r}: give one of them")
            values |= {shorthands[name]: name} if value else {}
        else:
            values[name] = str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
    values = upgraded(kind, values)
    names = [one.name for one in fields(kind)]
    if unknown := sorted(values.keys() - set(names)):
        close = difflib.get_close_matches(unknown[0], [*names, *beside], n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"toco.{command} has no option {unknown[0]!r}{hint}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        try:
            check_types(kind, {name: value})
        except SettingsError as error:
            wanted = inspect.formatannotation(hints[name]).replace("typing.", "")
            raise SettingsError(f"toco.{command} got {name}={value!r}: it must be {wanted}") from error
    return values


def _paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(one) for one in ([paths] if isinstance(paths, str | Path) else paths)]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


@contextmanager
def _shown(progress: bool, monitor: Monitor | None) -> Iterator[Monitor]:
    if monitor is not None:
        yield monitor
        return
    from toco_cli.progress import RichMonitor

    with RichMonitor(quiet=not progress or not is_rank_zero()) as shown:
        yield shown
