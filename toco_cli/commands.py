"""The commands: what each takes, and what it prints at its end.

A command imports its stage when it runs, so that the help is instant. Before that, `stages.preflight` checks everything
that needs no torch, so that a mistake is reported in the first second.
"""

import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.command_line import as_command
from data.errors import DataError, SettingsError
from stages.config import (
    Evaluate,
    MakeLabels,
    PixelValues,
    Predict,
    Report,
    Run,
    Tile,
    TrainCam,
    TrainSeg,
    View,
)
from stages.option import Given
from stages.planning.recipes import CAM_FIELDS, STUDENT_FIELDS
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import WarnsOnce
from stages.runtime.quick_imports import quick_imports
from toco_cli.options import command
from toco_cli.planned import (
    RECIPE_CHOICES,
    STUDENT_RECIPES,
    default_run,
    is_planned,
    new_plan,
    warn_of_run_settings,
    with_plan,
)
from toco_cli.settings_file import take_settings
from toco_cli.stage_commands import run_evaluate, run_make_labels, run_train_cam, run_train_seg

if TYPE_CHECKING:
    from rich.console import Console

    from stages.check import Check
    from stages.evaluate import Evaluation
    from stages.planning.planner import Plan
    from stages.verdict.judge import Verdict
    from toco_cli.progress import RichMonitor

app = typer.Typer(
    name="toco",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help are text; and importing rich would double the time to show it
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

PLANNED_FIELDS = {"train_cam": CAM_FIELDS, "train_seg": STUDENT_FIELDS}

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Data set: images/ with labels.csv, or one folder of images per class, or Pascal VOC, or COCO.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as given to 'toco train-cam --out'.")]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="The data set's present folder, if it was moved since training.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume after an interruption.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start again: delete the result of an earlier run of this command.")
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="<2h|45m>",
        help="Time that the run may take; what does not fit is reduced. By default 2h on a CPU, no limit on a GPU.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only warnings, errors and the result, no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, for other programs.")]


@app.callback(invoke_without_command=True)
def toco(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show the traceback.")] = False,
) -> None:
    """Train a segmentation network from image labels alone: no masks to draw.

    The usual order of commands: check, run, predict. The stages of run, one by one: train-cam, make-labels --crf,
    evaluate, train-seg, report. 'toco demo' runs all of them on drawn pictures.
    """
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"toco {version_of('toco')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@command(app)
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the data set; created if it does not exist.")
    ],
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Start a data set of your own: create the files that you fill in.

    Creates images/, labels.csv and classes.txt. Each image that is already in DIR/images gets a row in labels.csv.
    The row starts with '#' and is ignored until you remove the '#'. Existing files are not changed.
    """
    from data.custom_writer import begin_custom
    from data.file_kinds import describe_unread

    listed, unread = begin_custom(folder)
    if json:
        typer.echo(json_module.dumps({"folder": str(folder), "images": listed, "unread": list(unread)}))
        return
    if unread:
        typer.echo(f"In {folder / 'images'}, {describe_unread(unread)}.", err=True)
    table = folder / "labels.csv"
    if listed:
        typer.echo(f"{table} has a row for each image ({listed}): write its labels and remove the '#'.")
    else:
        typer.echo(f"Put images into {folder / 'images'}, and write the labels of each image into {table}.")
    if not quiet:
        typer.echo(f"Next: {as_command('check', folder)}")


@command(app)
def check(
    data: Data,
    config: PixelValues,
    write_labels: Annotated[
        Path | None,
        typer.Option(
            "--write-labels",
            metavar="DIR",
            help="Also write the labels (of class folders, Pascal VOC or COCO) to a new folder with labels.csv.",
        ),
    ] = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Report what a data set contains, what is wrong with it, and what to do.

    Every image is decoded, so that truncated files are found before training. The exit code is 1 if an error would
    stop training or make it useless.
    """
    from stages.check import check as stage

    written = None
    if write_labels is not None:
        from data.custom_writer import write_custom
        from data.readers import open_dataset

        written = write_custom(open_dataset(data, skip_bad=True), write_labels)
    with _monitor(quiet) as monitor:
        found = stage(data, monitor, config)
    if json:
        typer.echo(json_module.dumps({**found.as_dict(), "written": str(written) if written else None}))
    else:
        _show_check(found, write_labels or data, written)
    if found.errors:
        raise typer.Exit(1)


@command(app)
def tile(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATHS...", help="Large images: files, folders, or quoted patterns like '2024/*.tif'."),
    ],
    config: Tile,
    out: Annotated[Path, typer.Option("--out", help="Folder of the new data set.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="CSV with the columns image,labels, and x,y,width,height in pixels for parts of an image; or GeoJSON "
            "with a polygon or point for each object. Without it, you fill in labels.csv.",
        ),
    ] = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Cut large images into a data set of overlapping tiles, with labels from a table or a GeoJSON.

    Tiles keep the bands, the bits and, as GeoTIFF, the coordinates. Tiles without data are left out. Needs the extra
    geo. 'toco join' puts masks of the tiles together again.
    """
    from stages.tile import tile as stage

    with _monitor(quiet) as monitor:
        made = stage(paths, out, config, monitor, labels=labels)
    if json:
        values = {"images": made.images, "tiles": made.tiles, "left_out": made.left_out, "unlabelled": made.unlabelled}
        typer.echo(json_module.dumps({"out": str(out), **values, "classes": dict(made.classes)}))
        return
    left_out = f", {made.left_out} without data were left out" if made.left_out else ""
    typer.echo(f"{made.tiles} tiles of {made.images} image{'s' * (made.images > 1)} are in {out}{left_out}.")
    if labels:
        unlabelled = f"; {made.unlabelled} without labels" if made.unlabelled else ""
        typer.echo(f"Tiles of each class: {', '.join(f'{n} {name}' for name, n in made.classes.items())}{unlabelled}.")
        typer.echo(f"Next: {as_command('check', out)}")
    else:
        typer.echo(f"Next: write the labels of each tile into {out / 'labels.csv'} and remove the '#'.")


@command(app)
def join(
    tiles: Annotated[Path, typer.Argument(metavar="TILES", help="Data set, as given to 'toco tile --out'.")],
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS",
            help="Masks of the tiles: the folder of 'toco predict' or 'toco export --format png', or a run folder for "
            "its pseudo masks.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for one GeoTIFF or PNG per large image.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Put masks of the tiles of 'toco tile' together: one mask for each large image.

    Images with coordinates give a GeoTIFF of the same size and place, others a PNG. Where tiles overlap, a pixel is
    that of the tile in which it is farthest from the border. Values: 0 background, 1..C classes, 255 not known.
    """
    from stages.join import join as stage

    with _monitor(quiet) as monitor:
        written = stage(tiles, masks, out, monitor, overwrite=overwrite)
    if json:
        typer.echo(json_module.dumps({"out": str(out), "files": [str(path) for path in written]}))
    else:
        some = f"{written[0]}" if len(written) == 1 else f"{len(written)} files in {out}"
        typer.echo(f"The joined masks: {some}.")


@command(app, recipes=RECIPE_CHOICES, recipes_of="train_cam", planned=PLANNED_FIELDS)
def plan(
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the plan to RUN/plan.toml, which 'toco run' then uses.")
    ] = None,
    time: Time = None,
    config: Run = Run(),  # noqa: B008
    train_cam: TrainCam = TrainCam(),  # noqa: B008
    make_labels: MakeLabels = MakeLabels(refine="crf"),  # noqa: B008
    train_seg: TrainSeg = TrainSeg(),  # noqa: B008
    given: Given = Given(),  # noqa: B008
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Show the settings that 'toco run' would choose, why, and how long it would take.

    Takes the same options as 'toco run': given values are kept. A few training steps are timed on this machine; nothing
    is trained or downloaded.
    """
    from stages.plan import check_fits, write_plan
    from stages.run import before_run
    from stages.run_folder.run_config import CONFIG, AllSettings

    if not is_planned(given):
        raise typer.BadParameter(f"--recipe {given.recipe} has published settings, which are not planned")
    settings = AllSettings(cam=train_cam, labels=make_labels, seg=train_seg)
    if out is not None and (out / CONFIG).is_file():
        raise typer.BadParameter(f"{out} is a run that was begun: its settings are in {out / CONFIG}")
    with _monitor(quiet) as monitor:
        if out is not None:
            before_run(data, out, config, settings, monitor)
        found = new_plan(data, settings, given, monitor, time=time)
    if json:
        typer.echo(json_module.dumps(found.as_dict()))
    else:
        _show_plan(found)
    check_fits(found)
    if out is not None:
        written = write_plan(out, found, config)
        if not json:
            typer.echo(f"The plan is in {written}: change it there, or give options.")
    if not json:
        typer.echo(f"Next: {as_command('run', data, '--out', out or default_run(data))}")


@command(app, recipes=RECIPE_CHOICES, recipes_of="train_cam", planned=PLANNED_FIELDS)
def run(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Data set, as for 'toco train-cam'.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Run folder: a new one, or an interrupted run to resume; by default runs/ and DATA's name."
        ),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            is_eager=True,
            callback=take_settings,
            help="File with values for DATA, --out and the options that are not given here. 'RUN/config.toml' of an "
            "earlier run repeats that run.",
        ),
    ] = None,
    time: Time = None,
    config: Run = Run(),  # noqa: B008
    train_cam: TrainCam = TrainCam(),  # noqa: B008
    make_labels: MakeLabels = MakeLabels(refine="crf"),  # noqa: B008
    train_seg: TrainSeg = TrainSeg(),  # noqa: B008
    given: Given = Given(),  # noqa: B008
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Run all stages one after the other, and write a report.

    First the settings that are not given are chosen for the data and the machine, as by 'toco plan'. The stages are
    train-cam, make-labels --crf, train-seg and report. Finished stages are skipped: to resume an interrupted run, give
    the same command again. Options of a stage have the stage's name as a prefix: --train-cam.iterations 2000,
    --make-labels.background-threshold auto, --train-seg.encoder resnet18. 'toco train-cam --help' and the help of the
    other stages list them.
    """
    if data is None:
        raise typer.BadParameter("DATA is missing: give it, or a --config file that contains it")
    out = out or default_run(data)
    from stages.run import run as stage
    from stages.run_folder.run_config import AllSettings

    settings = AllSettings(cam=train_cam, labels=make_labels, seg=train_seg)
    shown: set[str] = set()  # both parts check the run
    with _monitor(quiet) as monitor:
        show, once = None if quiet or json else _show_plan, WarnsOnce(monitor, "", shown)
        config, settings = with_plan(data, out, config, settings, given, once, time=time, show=show)
    with _monitor(quiet) as monitor:
        once = WarnsOnce(monitor, "", shown)
        page = stage(data, out, config, once, cam=settings.cam, labels=settings.labels, seg=settings.seg)
    from stages.verdict.judged_run import read_verdict

    _conclude(
        f"The result is in {out}, the report is {page}.",
        {"folder": str(out), "report": str(page)},
        _predict_with(out),
        read_verdict(out),
        json,
    )


@command(app, recipes=RECIPE_CHOICES, planned={"config": CAM_FIELDS})
def train_cam(
    data: Data,
    config: TrainCam,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the result is written to its folder cam/.")],
    given: Given = Given(),  # noqa: B008
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 1: train a Vision Transformer on image labels.

    The network's class activation maps (CAMs) show where each class is. Training uses image labels only;
    ground-truth masks are used only for evaluation. Options that are not given are chosen for the data and the machine,
    unless --recipe names published settings. --resume keeps those of the interrupted training.
    """
    with _monitor(quiet) as monitor:
        folder = run_train_cam(data, out, config, given, monitor, resume=resume, overwrite=overwrite)
    _done(folder, as_command("make-labels", out, "--crf"), json)


@command(app)
def make_labels(
    run: RunFolder,
    config: MakeLabels,
    data: MovedData = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 2: make pseudo masks with the trained network.

    Writes cams.h5 (scores of each class, 0 to 1) and labels.h5 (masks: 0 background, 1..C classes, 255 ignored) into
    RUN/labels. Without --crf or --ignore-uncertain, --background-threshold alone labels every pixel.
    """
    with _monitor(quiet) as monitor:
        warn_of_run_settings(run, config, monitor)
        made = run_make_labels(run, config, monitor, data=data, resume=resume, overwrite=overwrite)
    following = f"{as_command('report', run)} or {as_command('train-seg', run)}"
    _conclude(f"The result is in {made.folder}.", {"folder": str(made.folder)}, following, made.verdict, json)


@command(app, recipes=STUDENT_RECIPES, planned={"config": STUDENT_FIELDS})
def train_seg(
    run: RunFolder,
    config: TrainSeg,
    given: Given = Given(),  # noqa: B008
    data: MovedData = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 3: train a student network on the pseudo masks.

    The student is a segmentation network of segmentation-models-pytorch, or a head on frozen features. Options that are
    not given are chosen for the machine, unless --recipe names published settings. --resume keeps those of the
    interrupted training.
    """
    with _monitor(quiet) as monitor:
        made = run_train_seg(run, config, given, monitor, data=data, resume=resume, overwrite=overwrite)
    following = f"{as_command('report', run)} or {_predict_with(run)}"
    _conclude(f"The result is in {made.folder}.", {"folder": str(made.folder)}, following, made.verdict, json)


@command(app)
def predict(
    run: RunFolder,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATHS...", help="Images: files, folders, or quoted patterns like 'tiles/**/*.tif'."),
    ],
    config: Predict,
    out: Annotated[Path, typer.Option("--out", help="Folder for masks/, overlays/ and predict.json.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume after an interruption: skip images whose files exist.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Delete the files that an earlier run of this command wrote for these images."
        ),
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Segment new images: write masks, overlays or probabilities.

    Uses the student if it is trained, else the decoder of the CAM network.
    """
    from stages.predict import predict as stage

    with _monitor(quiet) as monitor:
        written = stage(run, paths, out, config, monitor, resume=resume, overwrite=overwrite)
    if json:
        files = {kind: [str(path) for path in paths] for kind, paths in written.items()}
        _say(json_module.dumps({"out": str(out), **files}))
    else:
        count = len(next(iter(written.values())))
        images = "1 image" if count == 1 else f"{count} images"
        folders = " and ".join(str(out / kind) for kind in written)
        following = _after_predict(run)
        _say(f"The results of {images} are in {folders}. Next: {following}")


@command(app)
def evaluate(
    run: RunFolder,
    config: Evaluate,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Evaluate only the CAMs, at many background thresholds, on the images that have pseudo masks.",
        ),
    ] = False,
    data: MovedData = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Evaluate the results of a run on ground-truth masks.

    Gives the IoU of each class for CAMs, pseudo masks, decoder and student. CAMs and pseudo masks are evaluated on the
    images that they were made for, the networks on the validation split.
    """
    if sweep:
        from stages.preflight.checks import before_sweep

        if config.split is not None:
            raise typer.BadParameter("--sweep uses the images of the labels: it does not work with --split")
        dataset = before_sweep(run, config, data=data)
        with quick_imports():
            from stages.sweep import sweep as measure

        with _monitor(quiet) as monitor:
            curve = measure(run, config, monitor, data=dataset)
        if json:
            typer.echo(json_module.dumps(curve.as_dict()))
        else:
            from toco_cli.tables import sweep_table

            _console().print(sweep_table(curve))
            typer.echo(f"Next: {as_command('make-labels', run, '--overwrite', '--background-threshold', 'THRESHOLD')}")
        return
    with _monitor(quiet) as monitor:
        found = run_evaluate(run, config, monitor, data=data)
    nothing = f"nothing was measured: {found.problem}" if found.problem else None
    if found.scores is not None and not json:
        _show(found.scores, json)
    values = {"columns": [], "nothing_measured": nothing} if found.scores is None else found.scores.as_dict()
    _conclude(
        f"{nothing[0].upper()}{nothing[1:]}." if nothing else "", values, as_command("report", run), found.verdict, json
    )


@command(app)
def report(
    run: RunFolder,
    config: Report,
    data: MovedData = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Write RUN/report.html: scores, curves and a gallery.

    A slider in the gallery changes the threshold of the masks. Results of stages that have not run are missing. The
    page is one file and needs no network access.
    """
    from stages.preflight.checks import before_report

    dataset = before_report(run, config, data=data)
    with quick_imports():
        from stages.report import report as stage

    with _monitor(quiet) as monitor:
        page = stage(run, config, monitor, data=dataset)
    if json:
        typer.echo(json_module.dumps({"report": str(page)}))
    else:
        typer.echo(f"The report is {page}: open it in a browser. Next: {_predict_with(run)}")


@command(app)
def view(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[IMAGE]... RUN", help="Image files, which may be outside the data set, and last the run folder."
        ),
    ],
    config: View,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="PNG to write, with one row per image; or a folder for one PNG per image. By default IMAGE-view.png, "
            "or RUN-view.png for several images, in the current folder.",
        ),
    ] = None,
    data: MovedData = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Draw the results of a run for some images side by side.

    Shows the CAMs, pseudo masks, the student's mask and, if the data set has it, the ground-truth mask. Without IMAGE,
    shows those images of the run whose pseudo masks are worst.
    """
    from stages.preflight.checks import before_view

    *images, run = paths
    picture = out or Path(f"{images[0].stem if len(images) == 1 else run.resolve().name}-view.png")
    dataset = before_view(images, run, picture, config, data=data)
    from stages.view import view as stage

    with _monitor(quiet) as monitor:
        written = stage(images, run, picture, config, monitor, data=dataset)
    if json:
        typer.echo(json_module.dumps({"view": str(picture), "files": [str(path) for path in written]}))
    else:
        found = f"The picture is {picture}" if written == [picture] else f"{len(written)} pictures are in {picture}"
        typer.echo(f"{found}. Next: {as_command('report', run)}")


@command(app)
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported files.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="png: palette PNGs. voc: Pascal VOC. coco: COCO instances. yolo: polygons. yolo-detect: boxes. "
            "labelstudio: brush tasks. cvat: 'Segmentation mask 1.1'. onnx: the student as a network for other "
            "programs.",
        ),
    ] = "png",
    instances: Annotated[
        str | None,
        typer.Option(
            "--instances",
            help="How voc, coco, yolo, yolo-detect and cvat separate touching objects of a class. distance: at necks "
            "of the mask (default). cam: between peaks of the CAM. components: touching objects stay one object.",
        ),
    ] = None,
    min_area: Annotated[
        int | None,
        typer.Option(
            "--min-area",
            min=1,
            help="Pixels of the smallest object in voc, coco, yolo and yolo-detect (default: 10). Smaller pieces of "
            "masks, such as specks that a CRF leaves, are left out and counted; 1 keeps all.",
        ),
    ] = None,
    data: MovedData = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Write the masks, or the student, in a format of other programs."""
    with quick_imports():
        from stages.export import export as stage

    with _monitor(quiet) as monitor:
        written = stage(
            run,
            out,
            monitor,
            format=format,
            instances=instances,
            min_area=min_area,
            data=data,
            overwrite=overwrite,
        )
    typer.echo(
        json_module.dumps({"files": len(written), "out": str(out)}) if json else f"{len(written)} files are in {out}"
    )


@command(app)
def pick(
    run: RunFolder,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of images.")] = 10,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Only images of this class; may be given several times."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="labelstudio: tasks with the pseudo masks as predictions. cvat: 'Segmentation mask 1.1'. png: palette "
            "PNGs.",
        ),
    ] = "labelstudio",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the exported files; by default RUN/picked.")
    ] = None,
    data: MovedData = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Choose the training images whose masks are most worth correcting, and export them for a labelling tool.

    The images are those whose masks are doubtful, spread over the classes and over what the images look like. In each
    round, a class that failed by the verdict gets three images, a weak class two, and a good class one. Correct their
    masks and bring them back with 'toco import'.
    """
    with quick_imports():
        from stages.pick import pick as stage

    with _monitor(quiet) as monitor:
        found = stage(
            run,
            monitor,
            count=count,
            classes=classes or (),
            format=format,
            out=out,
            data=data,
            overwrite=overwrite,
        )
    if json:
        images = [{"id": one.id, "chosen_for": one.chosen_for, "why": one.why} for one in found.images]
        typer.echo(json_module.dumps({"out": str(found.out), "images": images}))
        return
    from toco_cli.tables import pick_table

    _console().print(pick_table(found))
    typer.echo(
        f"Their masks are in {found.out}: correct them, and export from the tool. Next: "
        f"{as_command('import', run, 'PATH', '--from', format)}"
    )


@command(app, name="import")
def import_masks(
    run: RunFolder,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder with the masks.")],
    tool: Annotated[
        str,
        typer.Option(
            "--from",
            help="labelstudio: JSON export. cvat: 'Segmentation mask 1.1', .zip or folder. coco: JSON of instances. "
            "png: folder of palette PNGs.",
        ),
    ],
    data: MovedData = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the masks that fit, although others do not.")
    ] = False,
    allow_new_labels: Annotated[
        bool,
        typer.Option("--allow-new-labels", help="Accept classes that the labels of an image do not have."),
    ] = False,
    confirm_unchanged: Annotated[
        bool,
        typer.Option(
            "--confirm-unchanged",
            help="Also import masks that equal the pseudo masks, because a person has checked them. Those that were "
            "submitted in Label Studio are always imported.",
        ),
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Bring corrected masks of training images back into a run.

    They are kept in RUN/corrections.h5, beside the pseudo masks. make-labels and train-seg then use them. Nothing is
    imported if a mask does not fit its image, its labels or the classes.
    """
    from stages.import_masks import import_masks as stage

    with _monitor(quiet) as monitor:
        done = stage(
            run,
            path,
            monitor,
            tool=tool,
            data=data,
            skip_bad=skip_bad,
            allow_new_labels=allow_new_labels,
            confirm_unchanged=confirm_unchanged,
        )
    if json:
        counts = {"masks": done.masks, "replaced": done.replaced, "left_out": done.left_out}
        typer.echo(json_module.dumps({"file": str(done.file), **counts}))
        return
    from stages.run_folder.artifacts import finished, repeating_command

    settings = run / "config.toml"
    if settings.is_file():
        following = as_command("run", "--config", settings)
    elif finished(run, "labels"):
        following = repeating_command(run, "labels")
    else:
        following = as_command("make-labels", run, "--crf")
    masks = "1 corrected mask was" if done.masks == 1 else f"{done.masks} corrected masks were"
    typer.echo(f"{masks} imported into {done.file} ({done.replaced} replaced). Next: {following}")


@command(app)
def import_checkpoint(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint, .pth or .safetensors.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder; the network is written to its folder cam/.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data set with the checkpoint's classes, in the order of their numbers."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="Instead of --data: text file with one class per line."),
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", min=16, help="Side of the square training images, in pixels.")
    ] = 448,
    auxiliary_block: Annotated[
        int, typer.Option("--auxiliary-block", help="Block of the auxiliary CAM; negative numbers count from the last.")
    ] = -3,
    num_heads: Annotated[
        int | None,
        typer.Option("--num-heads", min=1, help="Attention heads of a block; by default one for 64 channels."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Turn a checkpoint of the published program of ToCo into a run.

    make-labels, evaluate, predict and export then work as after train-cam. The file is never unpickled: it may hold
    tensors and plain values only.
    """
    if (data is None) == (classes is None):
        raise SettingsError("give the classes of the checkpoint: either --data DATA, or --classes FILE")
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path")
    with quick_imports():
        from stages.import_checkpoint import import_checkpoint as stage

    with _monitor(quiet) as monitor:
        folder = stage(
            path,
            run,
            monitor,
            data=data,
            classes=classes,
            image_size=image_size,
            auxiliary_block=auxiliary_block,
            num_heads=num_heads,
            overwrite=overwrite,
        )
    _done(folder, as_command("make-labels", run, "--crf", *(("--data", "DATA") if data is None else ())), json)


@command(app)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the drawn data set and the run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the pictures and of all training.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again: delete the demo in this folder.")
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Draw a small data set, run all stages on it, and write a report.

    Takes about seven minutes on two CPU cores; nothing is downloaded. To resume an interrupted demo, give the same
    command again.
    """
    from stages.preflight.checks import before_demo

    before_demo(out, seed=seed, overwrite=overwrite)
    with quick_imports():
        from stages.demo import demo as stage

    with _monitor(quiet) as monitor:
        result = stage(out, monitor, seed=seed, overwrite=overwrite)
    _show(result, json)
    if not json:
        run = out / "run"
        typer.echo(
            f"The report is {run / 'report.html'}: open it in a browser. Next: "
            f"{as_command('predict', run, out / 'data' / 'images', '--out', 'DIR')}, or 'toco demo --overwrite' to "
            "start again"
        )


def _show_plan(found: "Plan") -> None:
    from toco_cli.plan_table import plan_lines, plan_table

    console = _console()
    console.print(plan_table(found))
    for line in plan_lines(found):
        console.print(line, soft_wrap=True)


@contextmanager
def _monitor(quiet: bool) -> "Iterator[RichMonitor]":
    from toco_cli.progress import RichMonitor

    with RichMonitor(quiet=quiet or not is_rank_zero()) as monitor:
        yield monitor


def _conclude(result: str, values: dict[str, Any], following: str, verdict: "Verdict | None", json: bool) -> None:
    """Print the result and the verdict, on rank 0 only.

    Args:
        result: One sentence.
        values: The same for programs.
        following: The next command, unless the verdict has a better one.
        verdict: The verdict; None if there are no masks.
        json: Print the values instead of text.
    """
    if not is_rank_zero():
        return
    if json:
        typer.echo(json_module.dumps({**values, "verdict": verdict.as_dict() if verdict else None}))
        return
    if verdict is None:
        typer.echo(f"{result} Next: {following}".strip())
        return
    from toco_cli.tables import verdict_table

    console = _console()
    console.print(verdict_table(verdict))
    for line in (result, verdict.basis, verdict.small_objects, f"{verdict.headline}."):
        if line:
            console.print(line, soft_wrap=True)
    console.print(
        f"Next: {verdict.advice.command}  # {verdict.advice.why}" if verdict.advice else f"Next: {following}",
        soft_wrap=True,
    )
    if verdict.advice and verdict.advice.by_hand:
        console.print(f"Or correct masks by hand: {verdict.advice.by_hand}", soft_wrap=True)


def _after_predict(run: Path) -> str:
    from stages.run_folder.artifacts import finished

    if finished(run, "seg"):
        return as_command("export", run, "--format", "onnx", "--out", "DIR")
    return as_command("train-seg", run) if finished(run, "labels") else as_command("make-labels", run, "--crf")


def _predict_with(run: Path) -> str:
    return as_command("predict", run, "PATHS...", "--out", "DIR")


def _done(folder: Path, following: str, json: bool) -> None:
    _say(json_module.dumps({"folder": str(folder)}) if json else f"The result is in {folder}. Next: {following}")


def _say(text: str) -> None:
    """Print the result, on rank 0 only."""
    if is_rank_zero():
        typer.echo(text)


def _show_check(found: "Check", data: Path, written: Path | None) -> None:
    from toco_cli.check_report import class_table, closing_line, finding_lines, summary_line

    console = _console()
    console.print(summary_line(found), soft_wrap=True)
    console.print(class_table(found))
    for line in finding_lines(found):
        console.print(line, soft_wrap=True)
    if written:
        masks = found.dataset.layout != "class_folders" and any(counts.masks for counts in found.splits.values())
        typer.echo(f"The labels are in {written}.{' Ground-truth masks are not copied.' if masks else ''}")
    typer.echo(closing_line(found, data))


def _show(result: "Evaluation", json: bool) -> None:
    if json:
        typer.echo(json_module.dumps(result.as_dict()))
        return
    from toco_cli.tables import score_table

    _console().print(score_table(result))


def _console() -> "Console":
    """Return a console on stdout that prints names as they are: '[b]' is not a style, and ':dog:' not an emoji."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)
