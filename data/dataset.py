"""A data set as the rest of the program sees it: samples with image labels, in named splits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data.class_names import unusable_name
from data.errors import DataError
from data.image_files import image_id
from data.pixel_rule import AS_STORED, PixelRule

IGNORE_INDEX = 255
MAX_CLASSES = 254  # what is left of the 256 values of a mask

Mask = NDArray[np.uint8]  # (h, w): 0 background, 1..C the classes, 255 ignored

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")  # most preferred first


@runtime_checkable
class MaskSource(Protocol):
    """Source of the ground-truth mask of one image; `str()` is its name in messages. Picklable."""

    def read(self) -> Mask:
        """Return the mask (h, w) as stored; size and values are not checked, see `checked_mask`.

        Raises:
            DataError: The mask is missing or unreadable.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image with its image-level labels.

    Attributes:
        id: Path of the image relative to the folder of images, without extension, with '/' between folders.
        image: The image file.
        classes: Numbers of the classes in the image, from 1, ascending; empty if it shows none of them.
        mask: The ground-truth mask, used for evaluation only; None if there is none.
        labelled: Whether the image has image-level labels. If not, `classes` is empty and means nothing.
        pixels: How its values become 8-bit RGB; the same for all images of a data set.
    """

    id: str
    image: Path
    classes: tuple[int, ...]
    mask: MaskSource | None
    labelled: bool = True
    pixels: PixelRule = AS_STORED


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as found in a folder, whatever its layout.

    Attributes:
        root: The folder.
        layout: Layout of the folder: custom, class_folders, voc or coco.
        class_names: The foreground classes; class c is `class_names[c - 1]`.
        splits: The samples of every split. A sample may belong to several splits.
        train_split: Default split for training. It may be missing from `splits`.
        val_split: Default split for evaluating the student; None if there is none.
        warnings: What was skipped or looks wrong, one line each, to be shown once.
        counted: Further warnings; `find_all` reports the same in more detail.
        unlabelled: Images without labels; they belong to no split.
        missing: Images with labels but without a file, by their names in the labels or one line each; they are skipped.
        incomplete: Splits that cannot be used, since images are missing: {split: message of the error}.
        unread_columns: Columns of labels.csv that have no meaning here.
        unread_files: Pictures and videos beside the images whose kind is not read, by their paths below `root`.
        pixels: How values become 8-bit RGB. Readers leave the default; see `data.pixel_rule`.

    Raises:
        DataError: The class names or image ids cannot work.
    """

    root: Path
    layout: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    train_split: str
    val_split: str | None
    warnings: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    unlabelled: tuple[Sample, ...] = ()
    missing: tuple[str, ...] = ()
    incomplete: Mapping[str, str] = field(default_factory=dict)
    unread_columns: tuple[str, ...] = ()
    unread_files: tuple[str, ...] = ()
    pixels: PixelRule = AS_STORED

    def __post_init__(self) -> None:
        """Check class names and ids here, since every later stage relies on them."""
        _check_class_names(self.class_names, self.root)
        images: dict[str, Path] = {}
        for samples in (*self.splits.values(), self.unlabelled):
            _check_unique_ids(samples, images, self.root)
        _check_ids(images.keys(), self.root)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the class names and, for each split, the images' ids, file sizes and classes.

        The pixels are not read: a replaced image of exactly the same size in bytes is not noticed.
        """
        state = hashlib.sha256(json.dumps(self.class_names).encode())
        for split, samples in sorted(self.splits.items()):
            for sample in sorted(samples, key=lambda sample: sample.id):
                try:
                    size = sample.image.stat().st_size
                except OSError:
                    size = -1
                state.update(json.dumps([split, sample.id, size, sample.classes]).encode())
        return state.hexdigest()

    def by_id(self) -> dict[str, Sample]:
        """Return all samples of all splits, and the unlabelled ones, by id."""
        return {sample.id: sample for samples in (*self.splits.values(), self.unlabelled) for sample in samples}

    def split_names(self) -> tuple[str, ...]:
        """Return the names of the splits: `train_split` first, then `val_split`, then the others."""
        return tuple(sorted(self.splits, key=lambda name: (name != self.train_split, name != self.val_split)))

    def split(self, name: str | None = None) -> tuple[Sample, ...]:
        """Return the samples of a split; without a name those of `train_split`.

        Raises:
            DataError: The split does not exist, is empty, or lacks images.
        """
        name = self.train_split if name is None else name
        if name in self.incomplete:
            raise DataError(self.incomplete[name])
        if name not in self.splits:
            raise DataError(f"{self.root} has no split '{name}': choose one of {list_names(self.splits)}")
        if not self.splits[name]:
            raise DataError(f"{self.root}: split '{name}' is empty: choose one of {list_names(self.splits)}")
        return self.splits[name]


def drop_same_ids(unlabelled: Iterable[Sample], beside: Iterable[Sample]) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Drop unlabelled images whose id already belongs to another image, for example a preview 1.png beside 1.jpg.

    Args:
        unlabelled: The images without labels.
        beside: The samples of all splits.

    Returns:
        The images that remain, and a warning with their number if images are dropped.
    """
    files = {sample.id: sample.image for sample in beside}
    kept, dropped = [], []
    for sample in unlabelled:
        first = files.setdefault(sample.id, sample.image)
        if first == sample.image:
            kept.append(sample)
        else:
            dropped.append(f"'{sample.image.name}' beside '{first.name}'")
    text = f"images without labels that have the name of another image, skipped: {len(dropped)}"
    return tuple(kept), (f"{text}, for example {dropped[0]}",) if dropped else ()


def with_unique_ids(splits: Mapping[str, tuple[Sample, ...]], root: Path) -> dict[str, tuple[Sample, ...]]:
    """Return the splits with ids from the paths below `root`, if two splits have different images of one id.

    For example train/1.jpg and val/1.jpg, whose ids are both '1' in their own folders.
    """
    images: dict[str, Path] = {}
    clash = any(
        images.setdefault(sample.id, sample.image) != sample.image for samples in splits.values() for sample in samples
    )
    if not clash:
        return dict(splits)
    return {
        split: tuple(replace(one, id=image_id(one.image.relative_to(root).as_posix())) for one in samples)
        for split, samples in splits.items()
    }


def checked_mask(
    mask: Mask,
    size: tuple[int, int],
    num_classes: int,
    where: str,
    *,
    remedy: str = "give the mask the size of the image",
) -> Mask:
    """Return a mask if it fits its image and the classes.

    Args:
        mask: The mask (h, w).
        size: (h, w) of its image.
        num_classes: Number of foreground classes.
        where: Name of the mask in messages.
        remedy: What the user can do if the sizes differ.

    Raises:
        DataError: The mask has another size, or values other than 0..num_classes and 255.
    """
    if mask.shape != tuple(size):
        found = " x ".join(map(str, mask.shape))
        raise DataError(f"{where} is {found} (height x width), its image is {size[0]} x {size[1]}: {remedy}")
    odd = (mask > num_classes) & (mask != IGNORE_INDEX)
    if odd.any():
        raise DataError(
            f"{where} has the value {mask[odd][0]} in {odd.sum()} pixels: allowed are 0 (background), "
            f"1 to {num_classes} (classes) and {IGNORE_INDEX} (ignored)"
        )
    return mask


def first_present(names: Iterable[str], splits: Iterable[str]) -> str | None:
    """Return the first of `names` that is a split; None if there is none."""
    present = set(splits)
    return next((name for name in names if name in present), None)


def default_splits(names: Iterable[str]) -> tuple[str, str | None]:
    """Return the training split and the validation split (None if there is none) of a data set with split files.

    Names may have endings, for example 'train2014' and 'val2014'. A single split is the training split, whatever its
    name; so is the only one that is not called like a validation split.
    """
    splits = list(names)

    def first(beginnings: tuple[str, ...]) -> str | None:
        return next((name for start in beginnings for name in splits if name.lower().startswith(start)), None)

    if (train := first(TRAIN_NAMES)) is None:
        others = [name for name in splits if not name.lower().startswith(VAL_NAMES)]
        only = others if len(others) == 1 else splits
        train = only[0] if len(only) == 1 else TRAIN_NAMES[0]
    val = first(VAL_NAMES)
    return train, val if val != train else None


def list_names(names: Iterable[str], limit: int = 20) -> str:
    """Quote names for a message: "'cat', 'dog' and 3 more"; 'none' if there are no names."""
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return (", ".join(quoted[:limit]) or "none") + more


def _check_class_names(names: tuple[str, ...], root: Path) -> None:
    if not names:
        raise DataError(f"{root} has no classes: label at least one image")
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{root} has {len(names)} classes: the limit is {MAX_CLASSES}, since masks have 8 bits: merge some"
        )
    for name in names:
        if problem := unusable_name(name):
            raise DataError(f"{root}: the class name {name!a} {problem}: rename the class")
    _check_unique(names, f"{root}, class names")
    if "background" in (name.casefold() for name in names):
        raise DataError(
            f"{root} lists 'background' as a class: list the foreground classes only (background is an image "
            "without labels, and 0 in a mask)"
        )


def _check_unique(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where}: '{name}' occurs twice: rename or remove one")
        seen.add(name)


def _check_unique_ids(samples: Iterable[Sample], images: dict[str, Path], root: Path) -> None:
    """Refuse an id that occurs twice in `samples` or stands for another image in `images`, where the ids are added."""
    seen: set[str] = set()
    for sample in samples:
        first = images.setdefault(sample.id, sample.image)
        if first != sample.image or sample.id in seen:
            both = list_names(str(path).removeprefix(f"{root}{os.sep}") for path in (first, sample.image))
            raise DataError(
                f"{root}: two images have the id '{sample.id}' ({both}): rename or remove one; if "
                "one is a mask, move it to masks/"
            )
        seen.add(sample.id)


def _check_ids(ids: Collection[str], root: Path) -> None:
    """Refuse ids that results cannot be stored under.

    Ids are paths in HDF5 files and in folders. They must be valid Unicode, and 'a' cannot be both an image and the
    folder of another image 'a/b'.
    """
    for sample_id in ids:
        if not _is_text(sample_id):
            raise DataError(f"{root}: the name of image {sample_id!a} is not in UTF-8: rename the file")
        cut = sample_id.rfind("/")
        while cut > 0:
            if sample_id[:cut] in ids:
                raise DataError(
                    f"{root}: image '{sample_id[:cut]}' has the name of the folder of image '{sample_id}': "
                    "rename one of them"
                )
            cut = sample_id.rfind("/", 0, cut)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python gives bytes of other encodings in file names as lone surrogates
        return False
    return True
