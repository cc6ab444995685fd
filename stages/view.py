"""`toco view`: all products of a run for one or several images as PNGs, side by side.

In: a run folder and images, from its data set or any others. Out: one PNG, or one for each image.
"""

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from data.atomic_write import atomic_write
from data.band_image import clipped_share
from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.errors import DataError
from data.output_place import check_output_place
from data.palette import class_colours
from data.pixel_facts import describe_clipped
from data.written_folders import mark_as_written
from stages.config import View
from stages.exports.flat_names import flat_name
from stages.networks.choose_network import rule_for_new_images
from stages.preflight.checks import one_picture
from stages.reporting.gallery import panels, rank, rankable_samples, resized_products
from stages.reporting.products import Products, RunProducts, open_products
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import open_run_data, skipping, spread, warn_of_other_data, with_skip_bad
from stages.runtime.monitor import Monitor
from stages.verdict.evidence import collect_evidence

LONGEST_NAME = 24  # characters of a name in a picture
PANEL_INCHES = 4.0  # longer side of a panel
SMALL_PANEL_INCHES = 2.2  # with one row per image
DPI = 110
RANKED_IMAGES = 500  # the worst ones are chosen among at most this many


class ImageRow(NamedTuple):
    """The pictures of one image."""

    name: str
    pictures: Mapping[str, Image.Image]  # by title
    classes: frozenset[int]  # 1..C: of the image, and those that the student predicts


def view(
    images: Sequence[Path],
    run: Path,
    out: Path,
    config: View,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
) -> list[Path]:
    """Draw images, their CAMs, their masks and, if available, their ground-truth masks.

    Args:
        images: Image files. An image of the data set is shown with its image labels and its stored mask. For any other
            image, the network predicts the classes. None: `config` says which images of the run are taken.
        run: A run folder in which `toco train-cam` finished.
        out: The PNG to write, with one row per image; without the extension `.png`, a folder for one PNG per image.
        config: Settings.
        monitor: Receives progress, and warnings about products that are left out.
        data: The present folder of the data set if it was moved, or the open data set.

    Returns:
        The PNGs.

    Raises:
        DataError: There is no data set, or an image or its ground-truth mask cannot be used.
        SettingsError: This machine does not have the device, or `out` is among the files of a data set, or there are
            too many images for one PNG.
        ArtifactError: `toco train-cam` did not finish, or a part of the run is damaged.
    """
    cam = open_stage(run, "cam")
    config = with_skip_bad(config, cam)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    check_output_place(out, datasets=[cam.dataset_root, dataset.root], inputs=images)
    together = one_picture(out, len(images) or config.count)
    warn_of_other_data(cam, dataset, monitor)
    products = open_products(run, dataset, config, monitor)
    if images:
        samples = [find_sample(image, dataset) for image in images]
    else:
        samples = choose_samples(products, cam.settings["split"], config, monitor)
    small = together and len(samples) > 1
    folder = out.parent if together else out
    if not folder.exists() or not any(folder.iterdir()):
        mark_as_written(folder)
    written: list[Path] = []
    rows: list[ImageRow] = []
    monitor.start("drawing", len(samples))
    for sample, name in zip(samples, _file_names(samples), strict=True):
        with skipping(config.skip_bad and not images, monitor):
            row = _row(sample, products, config, monitor, side=round(SMALL_PANEL_INCHES * DPI) if small else None)
            rows.append(row)
            if not together:
                written.append(_save(_sheet(row, dataset), out / f"{name}-view.png"))
        monitor.advance()
    monitor.finish()
    if together and rows:
        written.append(_save(_table(rows, dataset) if small else _sheet(rows[0], dataset), out))
    return written


def find_sample(image: Path, dataset: Dataset) -> Sample:
    """Return the data set's sample of an image file, or a new sample with unknown classes."""
    wanted = image.resolve()
    for sample in dataset.by_id().values():
        if sample.image.name == image.name and sample.image.resolve() == wanted:
            return sample
    return Sample(id=str(wanted), image=image, classes=(), mask=None, labelled=False, pixels=dataset.pixels)


def choose_samples(products: RunProducts, split: str | None, config: View, monitor: Monitor) -> list[Sample]:
    """Choose images of the run: those whose pseudo masks are worst, worst first, or random ones.

    Random ones are taken if there are no pseudo masks yet.
    """
    masks = products.masks
    if masks is None:
        samples = list(products.dataset.split(split))
    else:
        samples = [sample for sample in products.dataset.by_id().values() if sample.id in masks]
    if masks is None or config.order == "random":
        return random.Random(config.seed).sample(samples, min(config.count, len(samples)))
    rankable = rankable_samples(products)
    trust: Mapping[str, float] = {}
    if rankable and rankable[0].mask is None:  # without ground truth, evidence says which masks are suspicious
        trust = collect_evidence(products.run, products.dataset, monitor).images
    ranked = rank(spread(rankable, RANKED_IMAGES), products, monitor, trust=trust, skip_bad=config.skip_bad)
    if not ranked:
        raise DataError(
            f"no mask of {products.run} can be ranked, because people drew all of them, or none shows an object: give "
            "images, or use --order random"
        )
    return [one.sample for one in ranked[: config.count]]


def _file_names(samples: Sequence[Sample]) -> list[str]:
    """Return the names of the images without extension; the whole id of those that share a name."""
    stems = [sample.image.stem for sample in samples]
    counts = Counter(stem.casefold() for stem in stems)
    return [
        stem if counts[stem.casefold()] == 1 else flat_name(sample.id)
        for sample, stem in zip(samples, stems, strict=True)
    ]


def _row(sample: Sample, products: RunProducts, config: View, monitor: Monitor, *, side: int | None) -> ImageRow:
    """Make the pictures of an image, resized to at most `side` pixels."""
    dataset = products.dataset
    if sample.id not in dataset.by_id():
        sample = replace(sample, pixels=rule_for_new_images(products.run, dataset.pixels))
    made = products.of(sample)
    if text := describe_clipped([clipped_share(made.image)], dataset.pixels):
        monitor.warn(text)
    background = products.background_threshold if config.background_threshold is None else config.background_threshold
    shown = made if side is None else resized_products(made, side)
    pictures = panels(shown, products, class_colours(len(dataset.class_names)), background)
    return ImageRow(sample.image.name, pictures, _shown_classes(made))


def _shown_classes(made: Products) -> frozenset[int]:
    classes = set(made.classes)
    if made.student is not None:
        classes |= set(np.unique(made.student).tolist()) - {0, IGNORE_INDEX}
    return frozenset(classes)


def _sheet(row: ImageRow, dataset: Dataset) -> Figure:
    """Draw the pictures of one image in rows of at most four, with a legend of the classes below."""
    size = next(iter(row.pictures.values())).size
    width, height = (PANEL_INCHES * side / max(size) for side in size)
    columns = min(4, len(row.pictures))
    rows = -(-len(row.pictures) // columns)
    with matplotlib.rc_context({"font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=(columns * (width + 0.1), rows * (height + 0.35) + 0.8), layout="constrained")
        figure.subplots(rows, columns, squeeze=False)
        _fill(figure.axes, row.pictures.items())
        figure.suptitle(row.name)
        _add_legend(figure, row.classes, dataset)
    return figure


def _table(rows: Sequence[ImageRow], dataset: Dataset) -> Figure:
    """Draw one row of pictures per image, with a legend of the classes below."""
    titles = list(dict.fromkeys(title for row in rows for title in row.pictures))
    sizes = [next(iter(row.pictures.values())).size for row in rows]
    width = max(SMALL_PANEL_INCHES * size[0] / max(size) for size in sizes)
    heights = [SMALL_PANEL_INCHES * size[1] / max(size) for size in sizes]
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(
            figsize=(len(titles) * (width + 0.06) + 0.3, sum(heights) + 0.06 * len(rows) + 0.9), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
        for number, (row, line) in enumerate(zip(rows, grid, strict=True)):
            _fill(list(line), [(title if number == 0 else "", row.pictures.get(title)) for title in titles])
            line[0].text(
                -0.04, 0.5, _short(row.name), rotation=90, ha="right", va="center", transform=line[0].transAxes
            )
        _add_legend(figure, frozenset().union(*(row.classes for row in rows)), dataset)
    return figure


def _fill(places: Sequence[Axes], pictures: Iterable[tuple[str, Image.Image | None]]) -> None:
    for axes, (title, picture) in zip(places, pictures, strict=False):
        if picture is not None:
            axes.imshow(np.asarray(picture))
        axes.set_title(title)
    for axes in places:  # also those without a picture
        axes.set_axis_off()


def _add_legend(figure: Figure, classes: frozenset[int], dataset: Dataset) -> None:
    colours = class_colours(len(dataset.class_names)) / 255
    handles = [
        Patch(color=colours[number - 1], label=_short(dataset.class_names[number - 1])) for number in sorted(classes)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)


def _save(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(temporary, format="png", dpi=DPI)
    return path


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
