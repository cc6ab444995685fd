"""`toco view`: one PNG with all products of a run for one image, side by side.

In: a run folder and an image, from its data set or any other. Out: a PNG.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from data.atomic_write import atomic_write
from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.images import clipped_share
from data.output_place import check_output_place
from data.palette import class_colours
from data.pixel_rule import describe_clipped
from data.written_folders import mark_as_written
from stages.config import View
from stages.networks.choose_network import rule_for_new_images
from stages.reporting.gallery import panels
from stages.reporting.products import Products, open_products
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import open_run_data, warn_of_other_data, with_skip_bad
from stages.runtime.monitor import Monitor

LONGEST_NAME = 24  # characters in the legend
PANEL_INCHES = 4.0  # longer side of a panel
DPI = 110


def view(
    image: Path, run: Path, out: Path, config: View, monitor: Monitor, *, data: Path | Dataset | None = None
) -> Path:
    """Draw an image, its CAMs, its masks and, if available, its ground-truth mask.

    Args:
        image: An image file. An image of the data set is shown with its image labels and its stored mask. For any
            other image, the network predicts the classes.
        run: A run folder in which `toco train-cam` finished.
        out: The PNG to write.
        config: Settings.
        monitor: Receives warnings about products that are left out.
        data: The present folder of the data set if it was moved, or the open data set.

    Returns:
        `out`.

    Raises:
        DataError: There is no data set, or the image or its ground-truth mask cannot be used.
        SettingsError: This machine does not have the device, or `out` is among the files of a data set.
        ArtifactError: `toco train-cam` did not finish, or a part of the run is damaged.
    """
    cam = open_stage(run, "cam")
    config = with_skip_bad(config, cam)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    check_output_place(out, datasets=[cam.dataset_root, dataset.root], inputs=[image])
    warn_of_other_data(cam, dataset, monitor)
    products = open_products(run, dataset, config, monitor)
    sample = find_sample(image, dataset)
    if sample.id not in dataset.by_id():
        sample = replace(sample, pixels=rule_for_new_images(run, dataset.pixels))
    made = products.of(sample)
    if text := describe_clipped([clipped_share(made.image)], dataset.pixels):
        monitor.warn(text)
    background = products.background_threshold if config.background_threshold is None else config.background_threshold
    pictures = panels(made, products, class_colours(len(dataset.class_names)), background)
    if not out.parent.exists() or not any(out.parent.iterdir()):
        mark_as_written(out.parent)
    with atomic_write(out) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        _sheet(pictures, made, dataset, image).savefig(temporary, format="png", dpi=DPI)
    return out


def find_sample(image: Path, dataset: Dataset) -> Sample:
    """Return the data set's sample of an image file, or a new sample with unknown classes."""
    wanted = image.resolve()
    for sample in dataset.by_id().values():
        if sample.image.name == image.name and sample.image.resolve() == wanted:
            return sample
    return Sample(id=str(wanted), image=image, classes=(), mask=None, labelled=False, pixels=dataset.pixels)


def _shown_classes(made: Products) -> list[int]:
    """List the classes of an image, 1..C ascending, and those that the student predicts."""
    classes = set(made.classes)
    if made.student is not None:
        classes |= set(np.unique(made.student).tolist()) - {0, IGNORE_INDEX}
    return sorted(classes)


def _sheet(pictures: Mapping[str, Image.Image], made: Products, dataset: Dataset, image: Path) -> Figure:
    """Draw the pictures in rows of at most four, with a legend of the classes below."""
    width, height = (PANEL_INCHES * side / max(made.image.size) for side in made.image.size)
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    with matplotlib.rc_context({"font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=(columns * (width + 0.1), rows * (height + 0.35) + 0.8), layout="constrained")
        figure.subplots(rows, columns, squeeze=False)
        for (title, picture), axes in zip(pictures.items(), figure.axes, strict=False):
            axes.imshow(np.asarray(picture))
            axes.set_title(title)
        for axes in figure.axes:  # also those without a picture
            axes.set_axis_off()
        figure.suptitle(image.name)
        colours = class_colours(len(dataset.class_names)) / 255
        handles = [
            Patch(color=colours[number - 1], label=_short(dataset.class_names[number - 1]))
            for number in _shown_classes(made)
        ]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
