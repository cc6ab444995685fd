"""Open a data set of any layout, and check its images and masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from data.class_folder_reader import read_class_folders
from data.class_list import CLASSES_FILE, read_class_list
from data.coco_reader import find_coco, read_coco
from data.command_line import as_command
from data.custom_reader import read_custom
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Mask, Sample, checked_mask
from data.errors import FIX_OR_SKIP, DataError
from data.image_files import find_masks
from data.images import MaskFile, is_rotated, shorter_side
from data.label_table import LABELS_FILE
from data.mask_folders import MASKS_FOLDER, probably_masks
from data.missing_pixels import without_missing_pixels
from data.voc_reader import find_voc, read_voc
from data.written_folders import MARK, written_by_toco

BATCH = 256  # images per task of a thread
LAYOUTS = (
    f"images/ with {LABELS_FILE}, or one folder of images per class, or Pascal VOC (JPEGImages/, ImageSets/, "
    "Annotations/), or COCO (annotations/instances_*.json, or _annotations.coco.json beside the images)"
)


def open_dataset(root: Path | str, skip_bad: bool = False) -> Dataset:
    """Read the data set in a folder, whatever its layout.

    Args:
        root: The folder.
        skip_bad: Skip labels without an image, with a warning.

    Raises:
        DataError: The folder does not exist, has no known layout, or its files contradict each other.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder of a data set ({LAYOUTS})")
    dataset = _read(root, skip_bad=skip_bad)
    told = (*_pseudo_mask_warnings(dataset.root), *_unread_mask_warnings(dataset), *_same_split_warnings(dataset))
    return replace(dataset, warnings=(*dataset.warnings, *told))


def _pseudo_mask_warnings(root: Path) -> list[str]:
    masks = root / MASKS_FOLDER
    texts = []
    if written_by_toco(root):
        texts.append(f"{root} was written by toco: its masks are results of toco, not ground truth")
    if written_by_toco(masks):
        texts.append(
            f"{masks} was written by toco and is not used as ground truth; if you corrected these masks, delete "
            f"{masks / MARK}"
        )
    return texts


def _unread_mask_warnings(dataset: Dataset) -> list[str]:
    """Warn about folders that probably hold the ground truth, but have another name than masks/."""
    masks = dataset.root / MASKS_FOLDER
    if dataset.layout not in ("custom", "class_folders") or masks.is_dir():
        return []
    any_name = dataset.layout == "custom"  # folders of other names are classes in the other layout
    return [
        f"{folder} is not read: if it holds ground-truth masks, rename it to {MASKS_FOLDER}/"
        for folder in sorted(dataset.root.iterdir())
        if (probably_masks(folder.name) if any_name else folder.name.lower() == MASKS_FOLDER)
        and folder.name not in dataset.class_names
        and folder.is_dir()
        and find_masks(folder)
    ]


def _same_split_warnings(dataset: Dataset) -> list[str]:
    """Warn about splits of two names for the same purpose, as in a table made of two: only one is used by default."""
    same = ((dataset.train_split, TRAIN_NAMES), (dataset.val_split, [name for name in VAL_NAMES if name != "test"]))
    return [
        f"split '{name}' (images: {len(dataset.splits[name])}) is used only if --split names it, beside split "
        f"'{used}': if they are one split, give them one name"
        for used, names in same
        for name in names
        if used in names and name != used and name in dataset.splits
    ]


def _read(root: Path, *, skip_bad: bool) -> Dataset:
    if (root / LABELS_FILE).is_file():
        return read_custom(root, skip_bad=skip_bad)
    if find_coco(root):
        return read_coco(root, skip_bad=skip_bad)
    if find_voc(root):
        return read_voc(root, skip_bad=skip_bad)
    if similar := [path.name for path in root.iterdir() if path.name.lower().startswith(LABELS_FILE)]:
        raise DataError(f"{root} has '{similar[0]}' but no {LABELS_FILE}: rename it")
    if (root / "images").is_dir() and "images" not in read_class_list(root / CLASSES_FILE):
        found = next((path.name for path in sorted(root.glob("*.json"))), None)
        coco = f"; if {found} has annotations of COCO, move it to annotations/instances_train.json" if found else ""
        raise DataError(
            f"{root} has images/ but no {LABELS_FILE}: write one with the columns image,labels[,split], or run "
            f"{as_command('init', root)}; if each folder in images/ is a class, give {root / 'images'}{coco}"
        )
    if not any(path.is_dir() for path in root.iterdir()):
        raise DataError(f"{root} is not a data set: expected {LAYOUTS}")
    if written_by_toco(root):  # no export has the layout of class folders
        raise DataError(f"{root} was written by toco: give the folder of the data set that it was made from")
    return read_class_folders(root)


def read_mask(sample: Sample, size: tuple[int, int], num_classes: int) -> Mask:
    """Return the ground-truth mask of a sample, checked; 255 where the image has no value, so that this does not count.

    Args:
        sample: A sample with a mask.
        size: (h, w) of its image in pixels.
        num_classes: Number of foreground classes.

    Raises:
        DataError: There is no mask, it is unreadable, or it has another size or other values; see `checked_mask`.
    """
    if sample.mask is None:
        raise DataError(f"image '{sample.id}' has no mask")
    mask = fitting_mask(sample.mask.read(), sample, size, num_classes)
    return without_missing_pixels(mask, sample.image, sample.pixels)


def fitting_mask(mask: Mask, sample: Sample, size: tuple[int, int], num_classes: int) -> Mask:
    """Return the mask of a sample as read from its source, if it fits; see `read_mask`."""
    remedy = "give the mask the size of the image"
    if mask.shape == size[::-1] != size:
        if isinstance(sample.mask, MaskFile) and is_rotated(sample.mask.path):
            remedy = (
                "the mask was rotated by its EXIF orientation: if its stored pixels are already upright, remove the "
                "orientation tag"
            )
        elif is_rotated(sample.image):
            remedy = "the image is stored rotated (EXIF orientation) and read upright: rotate the mask in the same way"
    return checked_mask(mask, size, num_classes, str(sample.mask), remedy=remedy)


def check_images(
    samples: Sequence[Sample], minimum_side: int, skip_bad: bool = False
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Read the header of every image, and return the usable samples and the problems of the others.

    A file that is truncated after its header is not noticed; reading it later raises an error.

    Args:
        samples: The samples of a split.
        minimum_side: Smallest usable height and width in pixels.
        skip_bad: Return the usable samples instead of raising an error, if there are any.

    Raises:
        DataError: An image is missing, unreadable or too small. The message names the first one and counts the others.
    """
    batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        found = list(threads.map(lambda batch: [_problem(sample, minimum_side) for sample in batch], batches))
    by_sample = [problem for batch in found for problem in batch]
    problems = tuple(problem for problem in by_sample if problem is not None)
    good = tuple(sample for sample, problem in zip(samples, by_sample, strict=True) if problem is None)
    if problems and not (skip_bad and good):
        more = f" (and {len(problems) - 1} more of {len(samples)} images)" if len(problems) > 1 else ""
        remedy = FIX_OR_SKIP if good else "no image is usable"
        raise DataError(f"{problems[0]}{more}: {remedy}")
    return good, problems


def _problem(sample: Sample, minimum_side: int) -> str | None:
    try:
        side = shorter_side(sample.image)
    except DataError as error:
        return str(error)
    if side < minimum_side:
        return f"{sample.image} is too small: its shorter side has {side} pixels, {minimum_side} are needed"
    return None
