"""What a data set is to the rest of the program: samples with image labels, in named splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError as DataError

IGNORE_INDEX = 255
MAX_CLASSES = 254  # masks are uint8: 0 is background, 255 is ignore

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")  # in the order of preference


class MaskSource(Protocol):
    """Where the true mask of one image comes from; `str()` names it in messages. Picklable."""

    def read(self) -> NDArray[np.uint8]:
        """Return the mask (h, w): 0 background, 1..C the classes, 255 ignore; its values are not yet checked.

        Raises:
            DataError: the mask is missing or unreadable.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image with its image-level labels.

    Attributes:
        id: the image's path below the images' folder, without extension, with '/' between folders.
        image: the image file.
        classes: classes in the image, 1-based and ascending; () says that the image shows none of them.
        mask: the true mask, for measuring only; None where there is none.
        labelled: whether anybody said which classes are in the image; else `classes` is () and means nothing.
    """

    id: str
    image: Path
    classes: tuple[int, ...]
    mask: MaskSource | None
    labelled: bool = True


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as found in a folder, whatever its layout.

    Attributes:
        root: the folder.
        layout: which reader understood it: custom, class_folders, voc or coco.
        class_names: the foreground classes; class c is `class_names[c - 1]`.
        splits: the samples of every split. A sample may belong to several splits.
        train_split: the split that training takes by default.
        val_split: the split for measuring the student, None where there is none.
        warnings: what was left out or looks odd, one line each, to be shown once.
        unlabelled: images of no split, because nobody said which classes are in them.
        missing: images that have labels and no file, left out; as the labels name them.
        unread_columns: columns of a table of labels that mean nothing here.

    Raises:
        DataError: class names or image ids that cannot work.
    """

    root: Path
    layout: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    train_split: str
    val_split: str | None
    warnings: tuple[str, ...] = ()
    unlabelled: tuple[Sample, ...] = ()
    missing: tuple[str, ...] = ()
    unread_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no later stage could work with."""
        _check_class_names(self.class_names, self.root)
        for name, samples in self.splits.items():
            _check_unique((sample.id for sample in samples), f"{self.root}, split '{name}'")
        _check_ids({sample.id for samples in (*self.splits.values(), self.unlabelled) for sample in samples}, self.root)

    def by_id(self) -> dict[str, Sample]:
        """All samples of all splits, and the unlabelled ones, by their ids."""
        return {sample.id: sample for samples in (*self.splits.values(), self.unlabelled) for sample in samples}

    def split_names(self) -> tuple[str, ...]:
        """Names of the splits: that for training first, then that for measuring, then the others."""
        return tuple(sorted(self.splits, key=lambda name: (name != self.train_split, name != self.val_split)))

    def split(self, name: str | None = None) -> tuple[Sample, ...]:
        """Return the samples of a split, of `train_split` if no name is given.

        Raises:
            DataError: there is no such split, or it is empty.
        """
        name = self.train_split if name is None else name
        if name not in self.splits:
            raise DataError(f"{self.root} has no split '{name}': choose one of {list_names(self.splits)}")
        if not self.splits[name]:
            raise DataError(f"{self.root}: split '{name}' is empty: choose one of {list_names(self.splits)}")
        return self.splits[name]


def first_present(names: Iterable[str], splits: Iterable[str]) -> str | None:
    """Return the first of `names` that is a split, None if none is."""
    present = set(splits)
    return next((name for name in names if name in present), None)


def list_names(names: Iterable[str], limit: int = 20) -> str:
    """Return names quoted for a message: "'cat', 'dog' and 3 more"."""
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return (", ".join(quoted[:limit]) or "none") + more


def _check_class_names(names: tuple[str, ...], root: Path) -> None:
    if not names:
        raise DataError(f"{root} names no class: at least one image needs a label")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{root} has {len(names)} classes: masks of 8 bits can tell {MAX_CLASSES} apart")
    _check_unique(names, f"{root}, class names")
    if "background" in (name.casefold() for name in names):
        raise DataError(
            f"{root} lists 'background' as a class: list the foreground classes only (an image without "
            "labels is all background, and so is 0 in a mask)"
        )


def _check_unique(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where}: '{name}' occurs twice: rename or remove one")
        seen.add(name)


def _check_ids(ids: set[str], root: Path) -> None:
    """Refuse ids that cannot be stored: no text, or 'a' beside 'a/b', since results lie in a tree of ids."""
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
    except UnicodeEncodeError:  # bytes of another encoding, as old archives leave them in file names
        return False
    return True
