"""Compare ground-truth masks with the image labels: masks that number the classes in another way are valid files.

Only masks that disagree in most images, or that another numbering explains, are called wrong. Single images disagree in
good data sets as well: labels that list only the main class, sky in all masks, objects lost at the border, crowds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from data.dataset import IGNORE_INDEX, Mask

EXPLAINED = 0.9  # another numbering explains the masks if they then agree with the labels at least this well, ...
GAIN = 0.3  # ... and by this much better than as they are; agreement is 1 where both list the same classes
FEWEST_IMAGES = 2  # a single image may as well have a wrong label
CONTRADICTING = 0.1  # ... and at least this share of the images that it explains contradicts the labels as they are

WRONG_MASKS = "compare some masks with their images: value c must stand for line c of classes.txt, 0 for the background"

Classes = frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedImage:
    """An image with labels and a ground-truth mask.

    Attributes:
        name: Its name in messages.
        labels: The numbers of its classes according to the image labels.
        values: The values in its mask as stored, 0..255.
    """

    name: str
    labels: Classes
    values: Classes


@dataclass(frozen=True, kw_only=True)
class MaskAgreement:
    """The result of a comparison.

    Attributes:
        images: Number of images compared.
        other: Images whose mask shows none of the labelled classes, but others (or any, if none is labelled), with
            both: "a.png (labels: 'cat'; mask: 'dog')".
        empty: Images with labels whose mask is background everywhere.
        absent: Classes that are labelled in some image but are in no mask.
        cause: How the masks seem to be numbered, with the remedy; None if no other numbering explains them.
        explained: Names of the images whose masks that numbering explains, and which are certainly wrong; empty if it
            does not explain nearly all masks.
        mostly_wrong: Whether more than half of the labelled images have a mask without any of their classes.
    """

    images: int
    other: tuple[str, ...]
    empty: tuple[str, ...]
    absent: tuple[str, ...]
    cause: str | None
    explained: frozenset[str]
    mostly_wrong: bool


def distinct_values(mask: Mask) -> Classes:
    """Return the values that occur in a mask."""
    return frozenset(value for value, count in enumerate(Image.fromarray(mask).histogram()) if count)


def compare_masks(images: Sequence[MaskedImage], class_names: Sequence[str]) -> MaskAgreement:
    """Compare the classes in masks with the image labels.

    Args:
        images: The images that have both.
        class_names: The foreground classes; class c is `class_names[c - 1]`.
    """
    classes = len(class_names)
    stored = Numbering("", lambda image: frozenset(value for value in image.values if 0 < value <= classes))
    shown = [(image, stored.classes(image)) for image in images]
    other = [(image, mask) for image, mask in shown if mask and not mask & image.labels]
    empty = [image for image, mask in shown if image.labels and not mask and IGNORE_INDEX not in image.values]
    labelled = [(image, mask) for image, mask in shown if image.labels]
    wrong = [image for image, mask in labelled if not mask & image.labels]
    absent = frozenset().union(*(image.labels for image in images)) - frozenset().union(*(mask for _, mask in shown))
    best = max([stored, *_numberings(images, class_names)], key=lambda numbering: _agreement(images, numbering))
    before, after = _agreement(images, stored), _agreement(images, best)
    better = [(image, mask) for image, mask in shown if best.classes(image) == image.labels != mask]
    contradicting = sum(_contradict(image.labels, mask) for image, mask in better)
    explains = len(better) >= FEWEST_IMAGES and 1 - after <= (1 - before) / 2
    certain = (
        explains
        and after >= EXPLAINED
        and after - before >= GAIN
        and contradicting >= max(FEWEST_IMAGES, CONTRADICTING * len(better))
    )

    def quoted(numbers: Classes) -> str:
        return ", ".join(f"'{class_names[number - 1]}'" for number in sorted(numbers)) or "none"

    return MaskAgreement(
        images=len(images),
        other=tuple(f"{image.name} (labels: {quoted(image.labels)}; mask: {quoted(mask)})" for image, mask in other),
        empty=tuple(image.name for image in empty),
        absent=tuple(class_names[number - 1] for number in sorted(absent)),
        cause=best.text if explains else None,
        explained=frozenset(image.name for image, _ in better if certain),
        mostly_wrong=len(wrong) >= FEWEST_IMAGES and 2 * len(wrong) > len(labelled),
    )


@dataclass(frozen=True, slots=True)
class Numbering:
    """A way to number the classes in masks: what it is called, and which classes a mask then shows."""

    text: str
    classes: Callable[[MaskedImage], Classes]


def _numberings(images: Sequence[MaskedImage], class_names: Sequence[str]) -> list[Numbering]:
    """List the other numberings that the values allow; the most specific first."""
    count = len(class_names)

    def by_value(change: Callable[[int], int]) -> Callable[[MaskedImage], Classes]:
        return lambda image: frozenset(map(change, image.values)) & frozenset(range(1, count + 1))

    found = []
    order = {value: number for value, number in _best_order(images, count).items() if value != number}
    if order:
        moved = [f"{value} is '{class_names[number - 1]}'" for value, number in sorted(order.items())]
        more = f" and {len(moved) - 10} more" if len(moved) > 10 else ""
        found.append(
            Numbering(
                f"they seem to number the classes in another order ({', '.join(moved[:10])}{more}): write the names in "
                "the order of the masks into classes.txt, or number the masks again",
                by_value(lambda value: order.get(value, value)),
            )
        )
    used = frozenset[int]().union(*(image.values for image in images))
    if IGNORE_INDEX in used and 1 not in used:
        found.append(
            Numbering(
                f"255, which means 'ignored', seems to stand for '{class_names[0]}': save it as 1",
                by_value(lambda value: 1 if value == IGNORE_INDEX else value),
            )
        )
    with_background = sum(not image.values.isdisjoint({count, IGNORE_INDEX}) for image in images)
    if with_background >= EXPLAINED * len(images) and not all(0 in image.values for image in images):
        found.append(
            Numbering(
                "they seem to count the classes from 0, with 255 or another value for the background: add 1 to the "
                "classes, and save the background as 0",
                by_value(lambda value: value + 1 if value < count else 0),
            )
        )
    if 0 not in used:
        found.append(
            Numbering(
                "they seem to be one too high, with 1 for the background: subtract 1 from all values but 255",
                by_value(lambda value: value - 1 if value != IGNORE_INDEX else 0),
            )
        )
    if count > 1 and used <= {0, 1, IGNORE_INDEX}:
        found.append(
            Numbering(
                "they seem to tell only objects from background: save the number of its class for each object",
                lambda image: image.labels if _shows_object(image) else by_value(int)(image),
            )
        )
    return found


def _contradict(labels: Classes, mask: Classes) -> bool:
    """Whether labels and mask differ in a way that is not only a lack of labels, or of objects in the mask."""
    return not labels <= mask and not (mask and mask <= labels)


def _shows_object(image: MaskedImage) -> bool:
    """Whether a mask of 0, 1 and 255 seems to use 1, or else 255, for an object of any class."""
    return 1 not in image.labels if 1 in image.values else {0, IGNORE_INDEX} <= image.values


def _best_order(images: Sequence[MaskedImage], count: int) -> dict[int, int]:
    """Assign the mask values 1..count to classes: each to one that is labelled in the same images, if there is one."""
    labelled, stored = Counter[int](), Counter[int]()
    both = Counter[tuple[int, int]]()
    for image in images:
        values = [value for value in image.values if 0 < value <= count]
        labelled.update(image.labels)
        stored.update(values)
        both.update((value, number) for value in values for number in image.labels)
    overlap = {pair: 2 * shared / (stored[pair[0]] + labelled[pair[1]]) for pair, shared in both.items()}
    order: dict[int, int] = {}
    # Of equally good pairs, those of equal numbers come first.
    for value, number in sorted(overlap, key=lambda pair: (-overlap[pair], pair[0] != pair[1], pair)):
        if value not in order and number not in order.values():
            order[value] = number
    return order


def _agreement(images: Sequence[MaskedImage], numbering: Numbering) -> float:
    """Mean over the images of the share of classes, in labels or mask, that are in both: 0..1; 1 without images."""
    shares = [
        len(image.labels & mask) / len(image.labels | mask)
        for image in images
        if (mask := numbering.classes(image)) or image.labels
    ]
    return sum(shares) / len(shares) if shares else 1.0
