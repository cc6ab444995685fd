"""Find problems in a data set, with advice: pure functions from facts to findings."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.band_image import DARK
from data.class_names import look_alikes, means_no_object, split_joined
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, list_names
from data.file_kinds import conversion_advice, count_unread
from data.inspection import Inspection, UnusedMasks
from data.mask_agreement import WRONG_MASKS, MaskAgreement, MaskedImage, compare_masks
from data.pixel_facts import PixelFacts
from data.small_objects import LARGER, describe_small, median_covers

PATCH_SIDE = 16  # pixels; patches of the default backbone
IMAGE_SIDE = 448  # pixels; default of train-cam --image-size
TINY_SIDE = 32  # pixels; images below it have fewer than two patches per side
MASK_VALUES = 8  # an image with at most this many grey values looks like a mask, not like a photograph
ONE_COLOUR = 2  # an image has one colour if its grey values differ by at most this
LARGE_FACTOR = 4  # an image is large if its longer side is more than this many times the median
RARE_IMAGES = 20  # a class is rare if fewer training images show it
# A class in one or two images is a misspelling if its name is nearly that of a class with this many times as many.
TYPO_IMAGES, TYPO_FACTOR = 2, 5
CO_OCCURRENCE_FRACTION = 0.85  # two classes co-occur if this fraction of the images of one also shows the other
CO_OCCURRENCE_IMAGES = 5  # classes with fewer images are not examined
# By `Dataset.layout`.
HOW_TO_LABEL = {
    "custom": "in labels.csv, add a row for each, with an empty cell 'labels' if it shows none of the classes",
    "class_folders": "move each into the folder of its class",
    "voc": "add an XML file for each to Annotations/, without an object if it shows none of the classes",
    "coco": "annotate them in the annotation file; for those that show none of the classes, write a labels.csv with "
    "toco check --write-labels FOLDER, and add a row for each there, with an empty cell 'labels'",
}

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the findings are based on; `inspections` maps image files to their inspection."""

    dataset: Dataset
    inspections: Mapping[Path, Inspection]
    unused_masks: UnusedMasks
    pixels: PixelFacts = field(default_factory=PixelFacts)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem, or one thing the user should know.

    Attributes:
        level: 'error' if training would stop or be useless, 'warning' if results may be worse, 'note' otherwise.
        topic: Identifier for programs.
        text: What was found.
        advice: What to do about it.
        items: The files, classes or messages concerned.
        skippable: Whether `--skip-bad` skips these files.
    """

    level: Level
    topic: str
    text: str
    advice: str
    items: tuple[str, ...] = ()
    skippable: bool = False


class Pair(NamedTuple):
    """Of the `images` that show class `one`, `shared` also show class `other`; class numbers from 1."""

    one: int
    other: int
    shared: int
    images: int


def find_all(facts: Facts) -> tuple[Finding, ...]:
    """Return all findings, in the order of their subjects."""
    parts = (_files, _sizes, _values, _masks, _small_objects, _duplicates, _splits, _class_names, _classes)
    return tuple(finding for part in parts for finding in part(facts))


def co_occurrence(samples: Sequence[Sample], num_classes: int) -> NDArray[np.int64]:
    """Count the images that show both of two classes, (C, C), class 1 first; the diagonal counts images per class."""
    together = np.zeros((num_classes, num_classes), np.int64)
    # Count equal sets of classes first: a matrix of images x classes would need gigabytes for a million images.
    for classes, images in Counter(sample.classes for sample in samples).items():
        index = np.array(classes, np.int64) - 1
        together[np.ix_(index, index)] += images
    return together


def co_occurring_pairs(together: NDArray[np.int64], total: int) -> tuple[Pair, ...]:
    """Return the pairs of classes of which one is rarely seen without the other.

    Image labels cannot tell two classes apart that always occur together. A class that is in every image would form a
    pair with all others; it has a finding of its own and is omitted here.

    Args:
        together: The result of `co_occurrence`.
        total: Number of images that were counted.
    """
    counts = together.diagonal().tolist()
    return tuple(
        Pair(one + 1, other + 1, int(together[one, other]), images)
        for one, images in enumerate(counts)
        for other, others in enumerate(counts)
        if one != other
        and images >= CO_OCCURRENCE_IMAGES
        and others < total
        and together[one, other] >= CO_OCCURRENCE_FRACTION * images
    )


def split_images(dataset: Dataset) -> dict[Path, Sample]:
    """Return the samples of all splits by image file, each once."""
    return {sample.image: sample for samples in dataset.splits.values() for sample in samples}


def _files(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    problems = {path: one.problem for path, one in facts.inspections.items() if one.problem is not None}
    labelled = split_images(dataset)
    if dataset.missing:
        yield Finding(
            level="error",
            topic="missing",
            text=f"{_count(len(dataset.missing), 'image')} with labels but without a file",
            advice="add the files or correct the names; --skip-bad skips them",
            items=dataset.missing,
            skippable=True,
        )
    if bad := [problem for path, problem in problems.items() if path in labelled]:
        yield Finding(
            level="error",
            topic="unreadable",
            text=f"{_count(len(bad), 'image')} that cannot be read",
            advice="copy or save them again, or remove them; --skip-bad skips them",
            items=_below(bad, dataset),
            skippable=True,
        )
    if bad := [problem for path, problem in problems.items() if path not in labelled]:
        yield Finding(
            level="warning",
            topic="unreadable_unlabelled",
            text=f"{_count(len(bad), 'image')} without labels that cannot be read",
            advice="copy or save them again, or remove them",
            items=_below(bad, dataset),
        )
    if dataset.unlabelled:
        yield Finding(
            level="warning",
            topic="unlabelled",
            text=f"{_count(len(dataset.unlabelled), 'image')} without labels, skipped in training",
            advice=f"label them ({HOW_TO_LABEL[dataset.layout]}), or let the trained network predict their labels: "
            "toco make-labels --image-labels predicted",
            items=_names([sample.image for sample in dataset.unlabelled], dataset),
        )
    if dataset.unread_files:
        yield Finding(
            level="warning",
            topic="unread_files",
            text=f"{count_unread(dataset.unread_files)} of kinds that are not read",
            advice=conversion_advice(dataset.unread_files),
            items=dataset.unread_files,
        )
    if dataset.unread_columns:
        yield Finding(
            level="note",
            topic="unread_columns",
            text="columns of labels.csv that are not used",
            advice="no change is needed if this is intended",
            items=dataset.unread_columns,
        )
    for warning in dataset.warnings:
        yield Finding(level="warning", topic="left_out", text=warning, advice="no change is needed if this is intended")


def _sizes(facts: Facts) -> Iterator[Finding]:
    sizes = {path: one.size for path, one in facts.inspections.items() if one.size is not None}
    labelled = split_images(facts.dataset)
    if small := [path for path, size in sizes.items() if min(size) < PATCH_SIDE and path in labelled]:
        yield Finding(
            level="error",
            topic="too_small",
            text=f"{_count(len(small), 'image')} smaller than a patch of the network ({PATCH_SIDE} pixels)",
            advice="remove them, or use a --backbone with smaller patches; --skip-bad skips them",
            items=_names(small, facts.dataset),
            skippable=True,
        )
    if tiny := [path for path, size in sizes.items() if PATCH_SIDE <= min(size) < TINY_SIDE]:
        yield Finding(
            level="warning",
            topic="tiny",
            text=f"{_count(len(tiny), 'image')} with a side below {TINY_SIDE} pixels, which is little for the network",
            advice="use larger ones, or remove them",
            items=_names(tiny, facts.dataset),
        )
    usual = median(max(size) for size in sizes.values()) if sizes else 0
    if large := [path for path, size in sizes.items() if max(size) > LARGE_FACTOR * usual]:
        yield Finding(
            level="note",
            topic="large",
            text=f"{_count(len(large), 'image')} more than {LARGE_FACTOR} times as large as the median",
            advice="cut them into tiles if their objects have the usual size in pixels: all images are scaled to the "
            "same longer side",
            items=_names(large, facts.dataset),
        )


def _values(facts: Facts) -> Iterator[Finding]:
    dataset, pixels = facts.dataset, facts.pixels
    if loss := pixels.describe_loss():
        yield Finding(level="warning", topic="bits", text=loss[0], advice=loss[1])
    elif pixels.deep:
        yield Finding(
            level="note",
            topic="bits",
            text=f"{_count(len(pixels.deep), 'image')} of 16 bits, whose values are read as {pixels.bits} bits",
            advice=f"no change is needed if {2**pixels.bits - 1} is meant to be white; otherwise give --image-bits",
        )
    if pixels.bands:
        yield Finding(
            level="note",
            topic="bands",
            text=str(pixels.describe()),
            advice="no change is needed if these are the bands to use; otherwise give --bands",
        )
    if pixels.bands and (missing := pixels.describe_missing()):
        yield Finding(
            level="note",
            topic="values_missing",
            text=missing,
            advice="no change is needed if these pixels show nothing, such as the border of a scene",
        )
    if pixels.empty:
        yield Finding(
            level="warning",
            topic="no_values",
            text=f"{_count(len(pixels.empty), 'image')} of which all values are missing",
            advice="remove them: the network gets the mean everywhere, and learns from their labels all the same",
            items=_names(pixels.empty, dataset),
        )
    if constant := [str(band.number) for band in pixels.bands if band.std == 1.0]:
        yield Finding(
            level="warning",
            topic="constant_band",
            text=f"the same value in all training images: band {', '.join(constant)}",
            advice="leave it out with --bands",
        )
    if pixels.alpha and not pixels.transparent and not pixels.bands:
        yield Finding(
            level="warning",
            topic="alpha_is_no_transparency",
            text=f"{_count(len(pixels.alpha), 'image')} with a band that is marked as alpha (transparency) but is "
            "read as another band, and ignored",
            advice="no change is needed if it is another band, such as infrared; otherwise give --alpha transparency",
            items=_names(pixels.alpha, dataset),
        )
    elif pixels.alpha and not pixels.bands:
        yield Finding(
            level="note",
            topic="transparency",
            text=f"{_count(len(pixels.alpha), 'image')} with transparency, which is shown on white",
            advice="no change is needed if this is intended; otherwise give --alpha ignore",
            items=_names(pixels.alpha, dataset),
        )
    inspected = facts.inspections.items()
    brightness = {path: one.brightness for path, one in inspected if one.brightness is not None}
    contents = {path: one.contents for path, one in inspected if one.contents is not None}
    alpha = set(pixels.alpha)
    groups = (
        (
            "nearly_black",
            [path for path, (low, high) in brightness.items() if high - low > ONE_COLOUR and high <= DARK],
            "of nearly black pixels only",
            "check how they were saved, and leave out those that show nothing",
        ),
        (
            "nearly_white",
            [path for path, (low, high) in brightness.items() if high - low > ONE_COLOUR and low >= 255 - DARK],
            "of nearly white pixels only",
            "check how they were saved, and leave out those that show nothing",
        ),
        (
            "one_colour",
            [path for path, (low, high) in brightness.items() if high - low <= ONE_COLOUR],
            "of one colour",
            "check how they were saved, and leave out those that show nothing",
        ),
        (
            "like_masks",
            [
                path
                for path, one in inspected
                if one.brightness and one.brightness[1] - one.brightness[0] > ONE_COLOUR
                if 0 < one.grey_values <= MASK_VALUES
            ],
            f"with at most {MASK_VALUES} different grey values, as masks have",
            "if they are ground-truth masks, move them to masks/; otherwise no change is needed",
        ),
        (
            "several_pages",
            [path for path, one in contents.items() if one.pages > 1],
            "with several pages, of which only the first is read",
            "save the others as images of their own if they are needed",
        ),
        (
            "more_bands",
            [path for path, one in contents.items() if one.bands > 3 + (path in alpha) and not pixels.bands],
            "with more bands, of which only the first three are read, as red, green and blue",
            "give --bands all, or the numbers of the bands to use, for example --bands 4,3,2",
        ),
    )
    for topic, paths, what, advice in groups:
        if paths:
            yield Finding(
                level="warning",
                topic=topic,
                text=f"{_count(len(paths), 'image')} {what}",
                advice=advice,
                items=_names(paths, dataset),
            )
    masked = {path for path, sample in split_images(dataset).items() if sample.mask is not None}
    if rotated := [path for path, one in contents.items() if one.rotated and path in masked]:
        yield Finding(
            level="note",
            topic="rotated_with_mask",
            text=f"{_count(len(rotated), 'image')} stored rotated (EXIF orientation), with a ground-truth mask",
            advice="no change is needed if the masks are drawn over the upright images, as viewers show them",
            items=_names(rotated, dataset),
        )


def _masks(facts: Facts) -> Iterator[Finding]:
    dataset, unused = facts.dataset, facts.unused_masks
    labelled = split_images(dataset)
    bad = [one.mask_problem for path, one in facts.inspections.items() if one.mask_problem and path in labelled]
    if bad:
        yield Finding(
            level="error",
            topic="bad_mask",
            text=f"{_count(len(bad), 'ground-truth mask')} that cannot be used",
            advice="fix or remove them; --skip-bad skips them",
            items=_below(bad, dataset),
            skippable=True,
        )
    yield from _mask_agreement(facts)
    if unused.other_formats:
        has_jpeg = any(name.lower().endswith((".jpg", ".jpeg")) for name in unused.other_formats)
        yield Finding(
            level="warning",
            topic="mask_format",
            text=f"{_count(len(unused.other_formats), 'image')} in masks/ not used, since they are not PNGs",
            advice="export them as PNG from the program they were drawn in: JPEG changes class numbers, and converting "
            "does not restore them"
            if has_jpeg
            else "save them as PNG",
            items=unused.other_formats,
        )
    if unused.without_image:
        yield Finding(
            level="warning",
            topic="mask_without_image",
            text=f"{_count(len(unused.without_image), 'mask')} not used, since no image has the same name",
            advice="name each after its image: masks/a/1.png for images/a/1.jpg",
            items=unused.without_image,
        )
    if not any(sample.mask for sample in labelled.values()):
        yield Finding(
            level="note",
            topic="no_masks",
            text="no ground-truth masks, so that results cannot be evaluated",
            advice="no change is needed; to measure the results with 'toco evaluate', draw masks for some images",
        )


def _small_objects(facts: Facts) -> Iterator[Finding]:
    covers = median_covers([one.mask_covers for one in facts.inspections.values()], facts.dataset.class_names)
    if small := describe_small(covers, IMAGE_SIDE, PATCH_SIDE):
        yield Finding(
            level="warning",
            topic="small_objects",
            text=f"{_count(len(small), 'class')} of small objects, which the network's maps hardly show",
            advice=LARGER,
            items=tuple(small),
        )


def _mask_agreement(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset

    def compared(samples: Iterable[Sample]) -> MaskAgreement:
        shown = [
            MaskedImage(name=_name(sample.image, dataset), labels=frozenset(sample.classes), values=values)
            for sample in samples
            if sample.labelled and (values := facts.inspections[sample.image].mask_values) is not None
        ]
        return compare_masks(shown, dataset.class_names)

    together = compared(split_images(dataset).values())
    parts = {"": together, **{f" of split '{name}'": compared(dataset.splits[name]) for name in dataset.split_names()}}
    for where, agreement in parts.items():
        if agreement.explained or agreement.mostly_wrong:
            yield Finding(
                level="error",
                topic="masks_contradict_labels",
                text=f"the ground-truth masks{where} contradict the image labels of most images",
                advice=agreement.cause or WRONG_MASKS,
                items=(*agreement.other, *agreement.empty),
            )
            return
    if together.other:
        yield Finding(
            level="warning",
            topic="mask_contradicts_labels",
            text=f"{_count(len(together.other), 'ground-truth mask')} without any of the image's classes, but with "
            "others",
            advice=together.cause or "correct the labels or the mask",
            items=together.other,
        )
    if together.empty:
        yield Finding(
            level="warning",
            topic="empty_mask",
            text=f"{_count(len(together.empty), 'ground-truth mask')} without any object, of images with labels",
            advice="draw the objects, or remove the mask if it is not finished",
            items=together.empty,
        )
    if together.absent:
        yield Finding(
            level="warning",
            topic="class_in_no_mask",
            text=f"{_count(len(together.absent), 'class')} in no ground-truth mask, although images with masks are "
            "labelled with it",
            advice="draw masks that show it; otherwise it is missing from all scores",
            items=together.absent,
        )


def duplicates(facts: Facts) -> tuple[tuple[Path, ...], ...]:
    """Return the images of the splits that have equal pixels, in groups of two or more files."""
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
    across_splits, contradicting, others = [], [], []
    for paths in duplicates(facts):
        line = " = ".join(f"{_name(path, dataset)} ({', '.join(sorted(splits[path]))})" for path in paths)
        # Two files are in different splits if they share none: 'train' and 'train_aug' of VOC overlap on purpose.
        apart = any(not one & other for one, other in combinations({splits[path] for path in paths}, 2))
        differing = len({classes[path] for path in paths}) > 1
        if apart:
            across_splits.append(line)
        if differing:
            contradicting.append(line)
        if not apart and not differing:
            others.append(line)
    if across_splits:
        yield Finding(
            level="warning",
            topic="duplicate_across_splits",
            text=f"{_count(len(across_splits), 'image')} with duplicates in another split",
            advice="keep each image in one split; otherwise scores are too high",
            items=tuple(across_splits),
        )
    if contradicting:
        yield Finding(
            level="warning",
            topic="duplicate_with_other_labels",
            text=f"{_count(len(contradicting), 'image')} with duplicates that have other labels",
            advice="keep one file of each, with the right labels",
            items=tuple(contradicting),
        )
    if others:
        yield Finding(
            level="note",
            topic="duplicate",
            text=f"{_count(len(others), 'image')} with duplicates",
            advice="no change is needed; duplicates have more weight in training, so you may keep one file of each",
            items=tuple(others),
        )


def _splits(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    others = [name for name, samples in dataset.splits.items() if samples]
    if dataset.train_split not in others:
        yield Finding(
            level="error",
            topic="no_training_split",
            text=f"no image in split '{dataset.train_split}' (splits with images: {list_names(others)})",
            advice="rename one of them to 'train', or give its name with --split",
        )
    yield from shared_images(dataset, dataset.train_split)
    typos = {name: meant for name in dataset.splits if (meant := _meant_split(name))}
    if typos:
        yield Finding(
            level="warning",
            topic="split_name",
            text=f"{_count(len(typos), 'split')} with an unusual name, not used by default",
            advice="correct it, or select it with --split",
            items=_did_you_mean(typos),
        )
    if dataset.val_split is None:
        yield Finding(
            level="note",
            topic="no_validation_split",
            text="no validation split",
            advice="no change is needed; to evaluate the networks, put images with drawn masks into a split 'val'",
        )


def shared_images(dataset: Dataset, split: str) -> Iterator[Finding]:
    """Find the images of a training split that are also in a split for evaluation.

    Splits for evaluation are the validation split and all that are named like one, such as a test split. If the
    training split is itself the validation split, nothing is compared.
    """
    training = {sample.image for sample in dataset.splits.get(split, ())}
    for name in dataset.split_names():
        if split in (dataset.val_split, name) or not (name == dataset.val_split or name.lower().startswith(VAL_NAMES)):
            continue
        if shared := sorted(training & {sample.image for sample in dataset.splits[name]}):
            yield Finding(
                level="error",
                topic="same_in_splits",
                text=f"{_count(len(shared), 'image')} in both splits '{split}' and '{name}'",
                advice="keep each image in one split; otherwise scores are too high",
                items=_names(shared, dataset),
            )


def _meant_split(name: str) -> str | None:
    """Return the usual name of a split that a name is a misspelling of; None if it is none."""
    usual = (*TRAIN_NAMES, *VAL_NAMES)
    if name in usual or not name.isalpha():
        return None
    swapped = [one for one in usual if sorted(one) == sorted(name)]
    close = [one for one in get_close_matches(name, usual, cutoff=0.8) if abs(len(one) - len(name)) <= 1]
    return next(iter((*swapped, *close)), None)


def _meant_class(name: str, images: Mapping[str, int]) -> str | None:
    """Return the class that a rare one is a misspelling of; None if it is none. Names with other digits are none."""
    if not 0 < images[name] <= TYPO_IMAGES:
        return None
    digits = re.sub(r"\D", "", name)
    usual = [
        one
        for one, count in images.items()
        if count >= TYPO_FACTOR * images[name] and re.sub(r"\D", "", one) == digits and abs(len(one) - len(name)) <= 1
    ]
    return next(iter(get_close_matches(name, usual, n=1, cutoff=0.8)), None)


def _class_names(facts: Facts) -> Iterator[Finding]:
    names = facts.dataset.class_names
    if alike := look_alikes(names):
        yield Finding(
            level="warning",
            topic="similar_classes",
            text=f"{_count(len(alike), 'group')} of classes whose names look alike",
            advice="use one spelling, if they are one class",
            items=tuple(list_names(group) for group in alike),
        )
    if joined := tuple(name for name in names if len(split_joined(name)) > 1):
        yield Finding(
            level="warning",
            topic="joined_class",
            text=f"{_count(len(joined), 'class')} with a name that looks like several labels",
            advice="separate the labels (by ';' in labels.csv), or nothing if each name is one class",
            items=joined,
        )


def _classes(facts: Facts) -> Iterator[Finding]:
    dataset = facts.dataset
    yield from class_findings(dataset, dataset.splits.get(dataset.train_split, ()))


def class_findings(dataset: Dataset, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Find what can be said about the classes by the image labels of the training split, without opening images."""
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
            advice="add images of the class, or remove it from the list of classes",
            items=nowhere,
        )
    if everywhere := tuple(name for name, count in images.items() if count == total):
        yield Finding(
            level="warning" if learnable else "error",
            topic="class_in_every_image",
            text=f"{_count(len(everywhere), 'class')} in every image of the training split, which cannot be learnt",
            advice="add images of the same surroundings without the class (an empty cell 'labels', or a folder "
            "'background')",
            items=everywhere,
        )
    if rare := tuple(f"{name} ({count})" for name, count in images.items() if 0 < count < min(RARE_IMAGES, total)):
        yield Finding(
            level="warning",
            topic="rare_class",
            text=f"{_count(len(rare), 'class')} in fewer than {RARE_IMAGES} images of the training split",
            advice="add images of the class; otherwise its masks may be poor",
            items=rare,
        )
    if typos := {name: meant for name in names if (meant := _meant_class(name, images))}:
        yield Finding(
            level="warning",
            topic="misspelt_class",
            text=f"{_count(len(typos), 'class')} in one or two images, with nearly the name of another one",
            advice="correct the label, or list all classes in classes.txt, so that misspelt labels are refused",
            items=_did_you_mean(typos),
        )
    if pairs := co_occurring_pairs(together, total):
        yield Finding(
            level="warning",
            topic="classes_together",
            text=f"{_count(len(pairs), 'pair')} of classes that nearly always occur together, so that image labels "
            "cannot tell them apart",
            advice="add images that show one without the other, or merge them into one class",
            items=tuple(
                f"{names[pair.one - 1]} with {names[pair.other - 1]} ({pair.shared} of {pair.images})" for pair in pairs
            ),
        )
    alone = [
        name
        for number, name in enumerate(names, 1)
        if means_no_object(name) and all(len(sample.classes) == 1 for sample in samples if number in sample.classes)
    ]
    if alone and len(names) > 1:
        yield Finding(
            level="warning",
            topic="class_without_object",
            text=f"{_count(len(alone), 'class')} that may stand for images without any object",
            advice="if so, leave the cell 'labels' of these images empty, or call the folder 'background'; otherwise "
            "the class gets masks like any other",
            items=tuple(alone),
        )
    without = sum(not sample.classes for sample in samples)
    if len(names) == 1 and 0 < without < RARE_IMAGES:
        yield Finding(
            level="warning",
            topic="few_negatives",
            text=f"only {_count(without, 'training image')} without the only class",
            advice="add images of the same surroundings without the class: they teach what is background",
        )


def _name(path: Path, dataset: Dataset) -> str:
    return path.relative_to(dataset.root).as_posix()


def _names(paths: Sequence[Path], dataset: Dataset) -> tuple[str, ...]:
    return tuple(_name(path, dataset) for path in paths)


def _did_you_mean(typos: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"'{name}' (did you mean '{meant}'?)" for name, meant in typos.items())


def _below(messages: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    """Make the paths at the beginning of messages relative to the data set."""
    return tuple(message.removeprefix(f"{dataset.root}/") for message in messages)


def _count(number: int, thing: str) -> str:
    """Return for example '1 class' or '2 classes'."""
    return f"{number} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"
