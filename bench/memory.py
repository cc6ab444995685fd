"""How much memory does toco need, and what does that grow with: pixels, classes, images?

    uv run python -m bench.memory [--size cpu | gpu] [--tables NAME ...]

Random weights and drawn pictures. Each figure is the peak of a process of its own, less that of one which only imports
the same: of the whole process on a CPU, of tensors on a GPU. The last column and row have the exponent of the growth
over the last two sizes: 1 in proportion, 2 with the square, less where a part stays as it is, such as the weights.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import bench.student
import bench.workload
from bench.student import StudentStep, drawn_pairs
from bench.timing import describe, peak, print_table
from bench.train_cam import CamStep
from bench.workload import drawn_batch
from data.custom_reader import LABELS_FILE
from data.dataset import Sample
from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import draw_scene
from data.findings import co_occurrence
from data.readers import open_dataset
from stages.config import Device, MakeLabels, Predict, TrainCam, TrainSeg
from stages.labels.label_settings import resolved, with_training_defaults
from stages.labels.maker import LabelMaker
from stages.networks.cam_model import new_cam_model
from stages.networks.inference import to_tensor
from stages.networks.segmenter import Segmenter
from stages.networks.student import new_student, student_probabilities
from stages.prediction.output_folder import files_of
from stages.prediction.results import write_results
from stages.run_folder.artifacts import StageFolder
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import SilentMonitor
from stages.toco.crf import FOR_PSEUDO_LABELS, Backend, sharpen
from stages.toco.losses import patch_token_contrast
from stages.toco.metrics import Confusion
from stages.toco.step import Phase, TrainingStep

SEED = 0
CLASSES = (20, 80, 1000)
CLASSES_OF_MASKS = (20, 80, 254)  # masks are of 8 bits
PICTURES = ((500, 375), (1000, 750), (2000, 1500), (4000, 3000))
IMAGES = ((10_000,), (100_000,), (1_000_000,))

Size = tuple[int, ...]  # (width, height) of a picture, or (images,)


class Table(NamedTuple):
    """What is measured."""

    title: str
    run: Callable[[Size, int], None]  # of a column and a row
    columns: Sequence[Size]
    rows: Sequence[int]
    rows_are: str
    device: Device


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    device = make_fabric(options.device).device
    print(f"{describe(device)}, {'bf16' if device.type == 'cuda' else 'float32'}, seed {SEED}; peaks in MB\n")
    with tempfile.TemporaryDirectory() as folder:
        tables = all_tables(options.size or ("gpu" if device.type == "cuda" else "cpu"), device, Path(folder))
        if unknown := set(options.tables or ()) - set(tables):
            raise SystemExit(f"there is no table {' '.join(sorted(unknown))}: choose of {' '.join(tables)}")
        for name in options.tables or tables:
            print_measured(tables[name])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["cpu", "gpu"], help="networks and sizes [gpu where there is one]")
    parser.add_argument("--tables", nargs="+", help="those to print [all]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser.parse_args(arguments)


def all_tables(size: str, device: torch.device, folder: Path) -> Mapping[str, Table]:
    """The tables by name; `folder` is for files."""
    place: Device = "cuda" if device.type == "cuda" else "cpu"
    # One image, so that 1,000 classes fit; all maps of a batch grow with its size.
    cam = TrainCam(**{**bench.workload.SIZES[size], "batch_size": 1}, weights="none", device=place)
    seg = TrainSeg(**bench.student.SIZES[size], weights="none", device=place)
    squares, crops = (
        [(side // 2, side // 2), (side, side), (2 * side, 2 * side)] for side in (cam.image_size, seg.image_size)
    )
    step = f"a step of train-cam, {cam.backbone}, batch {cam.batch_size}"
    pydensecrf = {
        "pydensecrf": Table(
            "the same by pydensecrf", partial(crf, "cpu", "pydensecrf"), PICTURES[:3], (3, 5, 21), "labels", "cpu"
        )
    }
    return {
        "train-cam": Table(step, partial(train_cam_step, cam), squares, CLASSES, "classes", place),
        "contrast": Table(
            "patch-token contrast alone, patches of 16 pixels, width 384",
            partial(contrast, place),
            [(side, side) for side in (224, 448, 896)],
            (1, 4),
            "images",
            place,
        ),
        "cams": Table(
            f"make-labels of an image with two classes, {cam.backbone}, {cam.image_size} pixels",
            partial(labels_of_image, cam, folder),
            PICTURES,
            CLASSES,
            "classes of the data set",
            place,
        ),
        "classes-of-image": Table(
            "make-labels of an image, 20 classes in the data set",
            partial(labels_by_classes_of_image, cam, folder),
            PICTURES,
            (1, 4, 16),
            "classes in the image",
            place,
        ),
        "shard": Table(
            "make-labels of several images with two classes each, which are written together",
            partial(labels_of_images, cam, folder),
            PICTURES[:3],
            (1, 4, 16),
            "images",
            place,
        ),
        "crf": Table(
            "both passes of toco's CRF", partial(crf, place, "torch"), PICTURES[:3], (3, 5, 21), "labels", place
        ),
        **(pydensecrf if importlib.util.find_spec("pydensecrf") else {}),
        "student": Table(
            f"a step of train-seg, {seg.arch}, {seg.encoder}, batch {seg.batch_size}",
            partial(student_step, seg),
            crops,
            CLASSES_OF_MASKS,
            "classes",
            place,
        ),
        "predict": Table(
            f"predict, {seg.arch}, {seg.encoder}, mask and overlay written",
            partial(predict, seg, folder),
            PICTURES,
            CLASSES_OF_MASKS,
            "classes",
            place,
        ),
        "confusion": Table("evaluate's counts of an image", count_image, PICTURES, CLASSES_OF_MASKS, "classes", "cpu"),
        "samples": Table("the list of samples", list_samples, IMAGES, CLASSES_OF_MASKS, "classes", "cpu"),
        "labels": Table(
            "opening a data set, a column of labels",
            partial(open_custom, folder, False),
            IMAGES,
            CLASSES_OF_MASKS,
            "classes",
            "cpu",
        ),
        "one-hot": Table(
            "opening a data set, a column a class",
            partial(open_custom, folder, True),
            IMAGES,
            CLASSES_OF_MASKS,
            "classes",
            "cpu",
        ),
        "together": Table(
            "the list of samples, and check's table of classes that come together",
            count_together,
            IMAGES,
            CLASSES_OF_MASKS,
            "classes",
            "cpu",
        ),
    }


def print_measured(table: Table) -> None:
    """Measure and print a table."""
    print(f"{table.title}\n", flush=True)
    nothing = fresh_peak(table.device, imports_alone)
    peaks = [
        [(fresh_peak(table.device, partial(table.run, size, row)) - nothing) / 1e6 for size in table.columns]
        for row in table.rows
    ]
    amounts = [math.prod(size) for size in table.columns]
    rows = [
        [row, *(f"{one:,.0f}" for one in line), exponent(amounts, line)]
        for row, line in zip(table.rows, peaks, strict=True)
    ]
    of_rows = [exponent(table.rows, column) for column in zip(*peaks, strict=True)]
    headings = [table.rows_are, *(" x ".join(f"{one:,}" for one in size) for size in table.columns), "exponent"]
    print_table(headings, [*rows, ["exponent", *of_rows, ""]])


def exponent(sizes: Sequence[float], peaks: Sequence[float]) -> str:
    """The k for which the last two peaks grow like size to the power k; empty where there are no two."""
    if len(sizes) < 2 or min(peaks[-2:]) <= 0:
        return ""
    return f"{math.log(peaks[-1] / peaks[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"


def fresh_peak(device: Device, run: Callable[[], None]) -> int:
    """The most bytes that a new process holds while it runs that: all it has on a CPU, its tensors on a GPU."""
    # Forked off one that has imported all and computed nothing: quick, and with nothing of earlier measurements.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["bench.student", "bench.train_cam", "stages.make_labels", "stages.predict"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, device, torch.get_num_threads(), run).result()


def _peak(device: Device, threads: int, run: Callable[[], None]) -> int:
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    run()
    return peak(torch.device(device))


def imports_alone() -> None:
    """Nothing: what Python and the libraries take."""


# What is measured. Each takes the size of its column and the number of its row last.


def train_cam_step(config: TrainCam, size: Size, classes: int) -> None:
    """Two steps of training: from the second on, AdamW has a state."""
    config = replace(config, image_size=size[0])
    model, _ = new_cam_model(config, classes)
    fabric, batch = make_fabric(config.device), drawn_batch(config, SEED, classes)
    step = CamStep(TrainingStep, model, config, fabric, batch, Phase(contrast=True, segment=True))
    for _ in range(2):
        step()


def contrast(device: Device, size: Size, images: int) -> None:
    """The loss and its gradient: all pairs of an image's tokens."""
    grid = (size[1] // 16, size[0] // 16)
    tokens = torch.randn(images, 384, *grid, device=device, requires_grad=True)
    loss = patch_token_contrast(tokens, torch.randint(3, (images, *grid), device=device))
    loss.backward()  # type: ignore[no-untyped-call]


def labels_of_image(config: TrainCam, folder: Path, size: Size, classes: int) -> None:
    """What make-labels does to one image with two classes."""
    make_labels(config, folder, size, classes=classes, in_image=2, images=1)


def labels_by_classes_of_image(config: TrainCam, folder: Path, size: Size, in_image: int) -> None:
    """The same with other numbers of classes in the image."""
    make_labels(config, folder, size, classes=20, in_image=in_image, images=1)


def labels_of_images(config: TrainCam, folder: Path, size: Size, images: int) -> None:
    """The same of several images that are stored together."""
    make_labels(config, folder, size, classes=20, in_image=2, images=images)


def make_labels(config: TrainCam, folder: Path, size: Size, *, classes: int, in_image: int, images: int) -> None:
    """CAMs and masks of a group of images, from their files on."""
    trained = asdict(config)
    settings = with_training_defaults(MakeLabels(device=config.device, workers=0), trained)
    model, _ = new_cam_model(config, classes)
    fabric = make_fabric(config.device)
    fabric.to_device(model.eval())
    maker = LabelMaker(model=model, fabric=fabric, config=resolved(settings, trained), monitor=SilentMonitor())
    file = folder / "picture.png"
    picture(size).save(file)
    sample = Sample(id="picture", image=file, classes=tuple(range(1, in_image + 1)), mask=None)
    for _ in maker.run([[sample] * images]):
        pass


def crf(device: Device, backend: Backend, size: Size, labels: int) -> None:
    """Both passes (high and low background) on smooth random probabilities."""
    image = to_tensor(picture(size)).contiguous().to(device)
    logits = 2 * torch.randn(2, labels, 6, 8, device=device)
    unary = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False).softmax(dim=1)
    sharpen([image], [unary], FOR_PSEUDO_LABELS, backend)


def student_step(config: TrainSeg, size: Size, classes: int) -> None:
    """Two steps of the student's training."""
    config = replace(config, image_size=size[0])
    student, _ = new_student(config, classes)
    step = StudentStep(student, config, make_fabric(config.device), *drawn_pairs(config, SEED))
    for _ in range(2):
        step()


def predict(config: TrainSeg, folder: Path, size: Size, classes: int) -> None:
    """Mask and overlay of an image by the student."""
    student, _ = new_student(config, classes)
    fabric, settings, image = make_fabric(config.device), Predict(device=config.device), picture(size)
    fabric.to_device(student.eval())
    segmenter = Segmenter(
        StageFolder(path=folder, config={}), partial(student_probabilities, student), settings, fabric
    )
    sample = Sample(id="picture", image=folder, classes=(), mask=None)
    for result in segmenter.segment([to_tensor(image)]):
        write_results(files_of(folder, sample, settings.write), image, result, [""] * classes)


def picture(size: Size) -> Image.Image:
    """A drawn picture, enlarged."""
    scene = draw_scene(DEMO_KINDS, 256, np.random.default_rng(SEED), first_kind=0)
    return Image.fromarray(scene.image).resize((size[0], size[1]), Image.Resampling.BICUBIC)


def count_image(size: Size, classes: int) -> None:
    """Count a prediction against a true mask."""
    label = (torch.arange(math.prod(size)) % (classes + 1)).byte().view(size)
    Confusion(classes + 1).add(label, label.long())


def classes_of(number: int, classes: int) -> tuple[int, ...]:
    """One to three classes of an image, from 1."""
    return tuple(sorted({1 + (factor * number) % classes for factor in (1, 7, 13)[: 1 + number % 3]}))


def samples_of(images: int, classes: int) -> list[Sample]:
    """Samples with one to three labels each, as the readers make them."""
    root = Path("/data/images")
    return [
        Sample(
            id=f"{number // 1000:04}/{number:08}",
            image=Path(root, f"{number // 1000:04}", f"{number:08}.jpg"),
            classes=classes_of(number, classes),
            mask=None,
        )
        for number in range(images)
    ]


def list_samples(size: Size, classes: int) -> None:
    """The list alone."""
    samples_of(size[0], classes)


def count_together(size: Size, classes: int) -> None:
    """The list, and what toco check counts in it."""
    co_occurrence(samples_of(size[0], classes), classes)


def open_custom(folder: Path, one_hot: bool, size: Size, classes: int) -> None:
    """Read a custom folder of empty image files, a thousand in each folder."""
    (images,) = size
    root = folder / f"{images} images"
    names = [f"class{number}" for number in range(1, classes + 1)]
    for first in range(0, images, 1000):
        below = root / "images" / f"{first // 1000:04}"
        if not below.exists():
            below.mkdir(parents=True)
            for number in range(first, min(first + 1000, images)):
                (below / f"{number:08}.jpg").touch()
    with (root / LABELS_FILE).open("w") as table:
        table.write("image," + (",".join(names) if one_hot else "labels") + "\n")
        for number in range(images):
            present = classes_of(number, classes)
            cells = ["0"] * classes
            for one in present:
                cells[one - 1] = "1"
            labels = ",".join(cells) if one_hot else ";".join(names[one - 1] for one in present)
            table.write(f"{number // 1000:04}/{number:08}.jpg,{labels}\n")
    open_dataset(root)


if __name__ == "__main__":
    main()
