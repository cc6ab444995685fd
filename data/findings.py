"""What is odd about a data set, and what to do about it: pure functions from facts to findings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset, Sample, list_names
from data.inspection import Inspection, UnusedMasks

PATCH_SIDE = 16  # pixels; of the default backbone's patches
TINY_SIDE = 32  # pixels; below it an image is two patches
LARGE = 4  # times the median longer side
RARE = 20  # training images of a class below which little is learnt of it
TOGETHER_SHARE = 0.85  # of a class's images that show the other one, too
TOGETHER_IMAGES = 5  # of a class; fewer say nothing

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a data set once all its files have been read; `inspections` by image file."""

    dataset: Dataset
    inspections: Mapping[Path, Inspection]
    unused_masks: UnusedMasks


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the user should know.

    Attributes:
        level: error: training would stop, or nothing can come of it.
        topic: a name for programs.
        text: what was found.
        advice: what to do about it.
        items: what it is about, one by one: files, classes, or messages.
        skippable: whether `--skip-bad` goes on without these files.
    """

    level: Level
    topic: str
    text: str
    advice: str
    items: tuple[str, ...] = ()
    skippable: bool = False


class Pair(NamedTuple):
    """Of the `images` with class `one`, so many (`shared`) show class `other`, too; classes from 1."""

    one: int
    other: int
    shared: int
    images: int


def find_all(facts: Facts) -> tuple[Finding, ...]:
    """Return everything that is odd about a data set."""
    parts = (_files, _sizes, _masks, _duplicates, _splits, _classes)
    return tuple(finding for part in parts for finding in part(facts))


def co_occurrence(samples: Sequence[Sample], num_classes: int) -> NDArray[np.int64]:
    """Count the images that show both of two classes (c, c), class 1 first; on the diagonal those that show one."""
    together = np.zeros((num_classes, num_classes), np.int64)
    # Not by a matrix of images and classes, which would be gigabytes for a million images.
    for classes, images in Counter(sample.classes for sample in samples).items():
        index = np.array(classes, np.int64) - 1
        together[np.ix_(index, index)] += images
    return together


def pairs_together(together: NDArray[np.int64], total: int) -> tuple[Pair, ...]:
    """Return the pairs of classes of which one hardly ever comes without the other.

    A class that is in every image goes together with all, and is left out.

    Args:
        together: As `co_occurrence` gives it.
        total: How many images were counted.
    """
    counts = together.diagonal().tolist()
    return tuple(
        Pair(one + 1, other + 1, int(together[one, other]), images)
        for one, images in enumerate(counts)
        for other, others in enumerate(counts)
        if one != other
        and images >= TOGETHER_IMAGES
        and others < total
        and together[one, other] >= TOGETHER_SHARE * images
    )


def split_images(dataset: Dataset) -> dict[Path, Sample]:
    """All images of all splits, each once, by their files."""
    return {sample.image: sample for samples in dataset.splits.values() for sample in samples}


def _files(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    problems = {path: one.problem for path, one in facts.inspections.items() if one.problem is not None}
    labelled = split_images(dataset)
    if dataset.missing:
        yield Finding(
            level="error",
            topic="missing",
            text=f"{_count(len(dataset.missing), 'image')} with labels, but without a file",
            advice="add the files or correct the names; --skip-bad goes on without them",
            items=dataset.missing,
            skippable=True,
        )
    if bad := [problem for path, problem in problems.items() if path in labelled]:
        yield Finding(
            level="error",
            topic="unreadable",
            text=f"{_count(len(bad), 'image')} that cannot be read",
            advice="copy or save them again, or remove them; --skip-bad goes on without them",
            items=_below(bad, dataset),
            skippable=True,
        )
    if bad := [problem for path, problem in problems.items() if path not in labelled]:
        yield Finding(
            level="warning",
            topic="unreadable_unlabelled",
            text=f"{_count(len(bad), 'image')} that cannot be read, among those without labels",
            advice="copy or save them again, or remove them",
            items=_below(bad, dataset),
        )
    if dataset.unlabelled:
        yield Finding(
            level="warning",
            topic="unlabelled",
            text=f"{_count(len(dataset.unlabelled), 'image')} that nobody labelled, left out",
            advice="give each a row (with an empty cell 'labels' if it shows none of the classes), or let the trained "
            "network say what is in them: toco make-labels --image-labels predicted",
            items=_names([sample.image for sample in dataset.unlabelled], dataset),
        )
    if dataset.unread_columns:
        yield Finding(
            level="note",
            topic="unread_columns",
            text="columns of labels.csv that are not read, beside image, labels and split",
            advice="nothing, if that is meant",
            items=dataset.unread_columns,
        )
    if dataset.layout != "custom":  # whose warnings only count what is named above
        for warning in dataset.warnings:
            yield Finding(level="warning", topic="left_out", text=warning, advice="nothing, if that is meant")


def _sizes(facts: Facts) -> Iterator[Finding]:
    sizes = {path: one.size for path, one in facts.inspections.items() if one.size is not None}
    labelled = split_images(facts.dataset)
    if small := [path for path, size in sizes.items() if min(size) < PATCH_SIDE and path in labelled]:
        yield Finding(
            level="error",
            topic="too_small",
            text=f"{_count(len(small), 'image')} smaller than a patch of the network ({PATCH_SIDE} pixels)",
            advice="remove them, or take a --backbone with smaller patches; --skip-bad goes on without them",
            items=_names(small, facts.dataset),
            skippable=True,
        )
    if tiny := [path for path, size in sizes.items() if PATCH_SIDE <= min(size) < TINY_SIDE]:
        yield Finding(
            level="warning",
            topic="tiny",
            text=f"{_count(len(tiny), 'image')} with a side below {TINY_SIDE} pixels, too small to show much",
            advice="use larger ones, or remove them",
            items=_names(tiny, facts.dataset),
        )
    usual = median(max(size) for size in sizes.values()) if sizes else 0
    if large := [path for path, size in sizes.items() if max(size) > LARGE * usual]:
        yield Finding(
            level="note",
            topic="large",
            text=f"{_count(len(large), 'image')} more than {LARGE} times as large as the median",
            advice="cut them into tiles if what they show is as small as elsewhere: all are scaled to one longer side",
            items=_names(large, facts.dataset),
        )


def _masks(facts: Facts) -> Iterator[Finding]:
    dataset, unused = facts.dataset, facts.unused_masks
    labelled = split_images(dataset)
    bad = [one.mask_problem for path, one in facts.inspections.items() if one.mask_problem and path in labelled]
    if bad:
        yield Finding(
            level="error",
            topic="bad_mask",
            text=f"{_count(len(bad), 'true mask')} not as a mask must be",
            advice="mend or remove them; --skip-bad goes on without them",
            items=_below(bad, dataset),
            skippable=True,
        )
    if unused.other_formats:
        blurred = any(name.lower().endswith((".jpg", ".jpeg")) for name in unused.other_formats)
        yield Finding(
            level="warning",
            topic="mask_format",
            text=f"{_count(len(unused.other_formats), 'picture')} in masks/ not in PNG, and so not used",
            advice="save them as PNG"
            + " where they were drawn, since JPEG blurs class numbers and converting does not bring them back"
            * blurred,
            items=unused.other_formats,
        )
    if unused.without_image:
        yield Finding(
            level="warning",
            topic="mask_without_image",
            text=f"{_count(len(unused.without_image), 'mask')} without an image of the same name, and so not used",
            advice="name each like its image: masks/a/1.png for images/a/1.jpg",
            items=unused.without_image,
        )
    if not any(sample.mask for sample in labelled.values()):
        yield Finding(
            level="note",
            topic="no_masks",
            text="no true masks, so nothing can be measured",
            advice="nothing, or draw masks for some images: 'toco evaluate' then says how good the results are",
        )


def same_pictures(facts: Facts) -> tuple[tuple[Path, ...], ...]:
    """Return the images of the splits whose pixels are equal, each group of two or more."""
    by_digest: dict[bytes, list[Path]] = defaultdict(list)
    for path in split_images(facts.dataset):
        if digest := facts.inspections[path].digest:
            by_digest[digest].append(path)
    return tuple(tuple(paths) for paths in by_digest.values() if len(paths) > 1)


def _duplicates(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    classes = {path: sample.classes for path, sample in split_images(dataset).items()}
    splits: dict[Path, frozenset[str]] = defaultdict(frozenset)
    for name, samples in dataset.splits.items():
        for sample in samples:
            splits[sample.image] |= {name}
    leaking, contradicting, others = [], [], []
    for paths in same_pictures(facts):
        line = " = ".join(f"{_name(path, dataset)} ({', '.join(sorted(splits[path]))})" for path in paths)
        apart = any(not one & other for one, other in combinations({splits[path] for path in paths}, 2))
        differing = len({classes[path] for path in paths}) > 1
        if apart:
            leaking.append(line)
        if differing:
            contradicting.append(line)
        if not apart and not differing:
            others.append(line)
    if leaking:
        yield Finding(
            level="warning",
            topic="same_in_splits",
            text=f"{_count(len(leaking), 'picture')} in more than one split",
            advice="keep each in one, or what is measured looks better than it is",
            items=tuple(leaking),
        )
    if contradicting:
        yield Finding(
            level="warning",
            topic="same_with_other_labels",
            text=f"{_count(len(contradicting), 'picture')} more than once, with different labels",
            advice="keep one file of each, with the right labels",
            items=tuple(contradicting),
        )
    if others:
        yield Finding(
            level="note",
            topic="same",
            text=f"{_count(len(others), 'picture')} more than once",
            advice="nothing, or keep one file of each (copies count several times)",
            items=tuple(others),
        )


def _splits(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    others = [name for name, samples in dataset.splits.items() if samples]
    if dataset.train_split not in others:
        yield Finding(
            level="error",
            topic="no_training_split",
            text=f"no image in split '{dataset.train_split}' (there are images in: {list_names(others)})",
            advice="call one of them 'train', or name it to the commands: --split",
        )
    if dataset.val_split is None:
        yield Finding(
            level="note",
            topic="no_validation_split",
            text="no validation split",
            advice="nothing, or put some images with true masks into split 'val', to measure the networks on",
        )


def _classes(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    samples = dataset.splits.get(dataset.train_split, ())
    if not samples:
        return
    names, total = dataset.class_names, len(samples)
    together = co_occurrence(samples, len(names))
    images = dict(zip(names, together.diagonal().tolist(), strict=True))
    learnable = any(0 < count < total for count in images.values())
    if nowhere := tuple(name for name, count in images.items() if count == 0):
        yield Finding(
            level="warning" if learnable or len(nowhere) < len(names) else "error",
            topic="class_in_no_image",
            text=f"{_count(len(nowhere), 'class')} in no image of the training split",
            advice="add images of such a class, or take it off the list of classes",
            items=nowhere,
        )
    if everywhere := tuple(name for name, count in images.items() if count == total):
        yield Finding(
            level="warning" if learnable else "error",
            topic="class_in_every_image",
            text=f"{_count(len(everywhere), 'class')} in every image of the training split, which cannot be learnt",
            advice="add images without it that show the same surroundings (an empty cell 'labels', or a folder "
            "'background')",
            items=everywhere,
        )
    if rare := tuple(f"{name} ({count})" for name, count in images.items() if 0 < count < min(RARE, total)):
        yield Finding(
            level="warning",
            topic="rare_class",
            text=f"{_count(len(rare), 'class')} in fewer than {RARE} images of the training split",
            advice="add images of such a class, or expect little of it",
            items=rare,
        )
    if pairs := pairs_together(together, total):
        yield Finding(
            level="warning",
            topic="classes_together",
            text=f"{_count(len(pairs), 'pair')} of classes of which one hardly ever comes alone, so that image labels "
            "do not tell them apart",
            advice="add images that show one without the other, or make them one class",
            items=tuple(
                f"{names[pair.one - 1]} with {names[pair.other - 1]} ({pair.shared} of {pair.images})" for pair in pairs
            ),
        )
    without = sum(not sample.classes for sample in samples)
    if len(names) == 1 and 0 < without < RARE:
        yield Finding(
            level="warning",
            topic="few_negatives",
            text=f"only {_count(without, 'training image')} without the one class",
            advice="add images of the same surroundings without it: only they say what does not belong to it",
        )


def _name(path: Path, dataset: Dataset) -> str:
    return path.relative_to(dataset.root).as_posix()


def _names(paths: Sequence[Path], dataset: Dataset) -> tuple[str, ...]:
    return tuple(_name(path, dataset) for path in paths)


def _below(messages: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    """Messages that begin with a path, with that path as seen from the data set."""
    return tuple(message.removeprefix(f"{dataset.root}/") for message in messages)


def _count(number: int, thing: str) -> str:
    """For example '1 class' and '2 classes'."""
    return f"{number} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"
