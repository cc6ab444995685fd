"""The commands: what each takes, and what it says at its end. Stages are imported inside, so that help is instant."""

import json as json_module
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.config import CAM_RECIPES, Evaluate, MakeLabels, Predict, TrainCam, TrainSeg
from toco_cli.options import command

if TYPE_CHECKING:
    from stages.evaluate import Evaluation
    from toco_cli.progress import RichMonitor

app = typer.Typer(
    name="toco",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help are text; and importing rich would double the time to show it
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as given to 'toco train-cam --out'.")]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="Where the data set is now, if it was moved since training.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start again: delete what an earlier run of this command left.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, for a program.")]


@app.callback(invoke_without_command=True)
def toco(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show where in the program it happened.")] = False,
) -> None:
    """From photographs, and the names of the things in each, to pixel masks and a segmentation network.

    The usual way: train-cam, make-labels --crf, evaluate, train-seg, predict. 'toco demo' shows it on drawn
    pictures.
    """
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"toco {version_of('toco')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@command(app, recipes=CAM_RECIPES)
def train_cam(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Data set: images/ with labels.csv, or one folder of images a class, or Pascal VOC, or COCO.",
        ),
    ],
    config: TrainCam,
    out: Annotated[Path, typer.Option("--out", help="Run folder: the result goes to its folder cam/.")],
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 1: train a Vision Transformer on image labels, so that it shows where each class is.

    Needs to know which classes are in each image, and nothing of where. True masks are only ever used to show how
    well it goes. Start with a pretrained --backbone; --weights none is for tests.
    """
    from stages.train_cam import train_cam as stage

    with _monitor(quiet) as monitor:
        folder = stage(data, out, config, monitor, resume=resume, overwrite=overwrite)
    _done(folder, f"toco make-labels {out} --crf", json)


@command(app)
def make_labels(
    run: Run,
    config: MakeLabels,
    data: MovedData = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 2: find each image's classes with the trained network, and write pseudo masks.

    Writes cams.h5 (where each class is, from 0 to 1) and labels.h5 (masks: 0 background, 1..C classes, 255 ignored)
    into RUN/labels. Without --crf or --two-thresholds, every pixel is labelled by the one threshold --background.
    """
    from stages.make_labels import make_labels as stage

    with _monitor(quiet) as monitor:
        folder = stage(run, config, monitor, data=data, resume=resume, overwrite=overwrite)
    _done(folder, f"toco evaluate {run}  (with true masks)  or  toco train-seg {run}", json)


@command(app)
def train_seg(
    run: Run,
    config: TrainSeg,
    data: MovedData = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Stage 3: train an ordinary segmentation network (the student) on the pseudo masks."""
    from stages.train_seg import train_seg as stage

    with _monitor(quiet) as monitor:
        folder = stage(run, config, monitor, data=data, resume=resume, overwrite=overwrite)
    _done(folder, f"toco predict {run} PATHS... --out DIR", json)


@command(app)
def predict(
    run: Run,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATHS...", help="Images: files, folders, or quoted patterns as 'tiles/**/*.tif'."),
    ],
    config: Predict,
    out: Annotated[Path, typer.Option("--out", help="Folder for masks/, overlays/ and predict.json.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after an interruption: leave out images that have their files.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what an earlier run of this command wrote for these images.")
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Segment new images with the student (or with the CAM network's decoder): masks and overlays."""
    from stages.predict import predict as stage

    with _monitor(quiet) as monitor:
        written = stage(run, paths, out, config, monitor, resume=resume, overwrite=overwrite)
    if json:
        files = {kind: [str(path) for path in paths] for kind, paths in written.items()}
        typer.echo(json_module.dumps({"out": str(out), **files}))
    else:
        count = len(next(iter(written.values())))
        images = "1 image" if count == 1 else f"{count} images"
        typer.echo(f"The results of {images} are in {' and '.join(str(out / kind) for kind in written)}")


@command(app)
def evaluate(
    run: Run,
    config: Evaluate,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Instead, measure the CAMs at many background scores, on the images they were made for."
        ),
    ] = False,
    data: MovedData = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Measure CAMs, pseudo masks, decoder and student against true masks, class by class.

    CAMs and pseudo masks are measured on the images that they were made for, the networks on the validation split.
    """
    if sweep:
        if config.split is not None:
            raise typer.BadParameter("--sweep measures the images that the labels were made for: not with --split")
        from stages.sweep import sweep as measure

        with _monitor(quiet) as monitor:
            curve = measure(run, config, monitor, data=data)
        if json:
            typer.echo(json_module.dumps(curve.as_dict()))
        else:
            from rich.console import Console

            from toco_cli.tables import sweep_table

            Console().print(sweep_table(curve))
        return
    from stages.evaluate import evaluate as stage

    with _monitor(quiet) as monitor:
        result = stage(run, config, monitor, data=data)
    _show(result, json)


@command(app)
def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported files.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="png: palette PNGs. voc: Pascal VOC. coco: COCO instances. yolo: polygons. labelstudio: brush tasks. "
            "onnx: the student, as a network that other programs run.",
        ),
    ] = "png",
    data: MovedData = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Write the pseudo masks, or the student, in a form that other programs read."""
    from stages.export import export as stage

    with _monitor(quiet) as monitor:
        written = stage(run, out, monitor, format=format, data=data, overwrite=overwrite)
    typer.echo(
        json_module.dumps({"files": len(written), "out": str(out)}) if json else f"{len(written)} files are in {out}"
    )


@command(app)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the drawn data set and the run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures and of all training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again in a folder of an earlier demo.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Draw a small data set and go the whole way on it: a few minutes on two CPU cores, nothing to download."""
    from stages.demo import demo as stage

    with _monitor(quiet) as monitor:
        result = stage(out, monitor, seed=seed, overwrite=overwrite)
    _show(result, json)
    if not json:
        typer.echo(f"The data set is in {out / 'data'}, the run in {out / 'run'}.")


@contextmanager
def _monitor(quiet: bool) -> "Iterator[RichMonitor]":
    from toco_cli.progress import RichMonitor

    with RichMonitor(quiet=quiet) as monitor:
        yield monitor


def _done(folder: Path, following: str, json: bool) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("NODE_RANK", "0") != "0":
        return  # one of several processes, of which the first speaks
    typer.echo(json_module.dumps({"folder": str(folder)}) if json else f"The result is in {folder}. Next: {following}")


def _show(result: "Evaluation", json: bool) -> None:
    if json:
        typer.echo(json_module.dumps(result.as_dict()))
        return
    from rich.console import Console

    from toco_cli.tables import score_table

    Console().print(score_table(result))
