import random
from collections.abc import Callable

import numpy as np
import pytest

from data.mask_agreement import MaskAgreement, MaskedImage, compare_masks, distinct_values

NAMES = ("cat", "dog", "cow")
Rows = list[tuple[set[int], set[int]]]  # labels, and values in the mask, of each image


def compare(rows: Rows, names: tuple[str, ...] = NAMES) -> MaskAgreement:
    return compare_masks(
        [
            MaskedImage(name=f"{number}.png", labels=frozenset(labels), values=frozenset(values))
            for number, (labels, values) in enumerate(rows)
        ],
        names,
    )


def test_distinct_values() -> None:
    assert distinct_values(np.array([[0, 3, 255], [3, 3, 0]], np.uint8)) == {0, 3, 255}


@pytest.mark.parametrize(
    ("rows", "names", "cause"),
    [
        ([({1}, {0, 255}), (set(), {0}), ({1}, {0, 255})], ("cat",), "255, which means 'ignored', seems to stand for"),
        ([({1}, {0, 255})] * 2, ("cat",), "255, which means 'ignored'"),
        ([({1}, {0, 255}), ({2}, {1, 255}), ({3}, {2, 255}), (set(), {255})], NAMES, "count the classes from 0"),
        # Every pixel has a class, and the background has the last number.
        ([({1}, {0, 3}), ({2}, {1, 3}), ({2, 3}, {1, 2, 3}), (set(), {3})], NAMES, "count the classes from 0"),
        ([({1}, {1, 2}), ({2}, {1, 3}), ({3}, {1, 4}), (set(), {1})], NAMES, "one too high"),
        ([({1}, {0, 1}), ({2}, {0, 1}), ({3}, {0, 1}), (set(), {0})], NAMES, "only objects from background"),
        ([({1}, {0, 255}), ({2}, {0, 255}), ({3}, {0, 255})], NAMES, "only objects from background"),
        ([({1}, {0, 2}), ({2}, {0, 1}), ({1, 2}, {0, 1, 2})], NAMES, "another order (1 is 'dog', 2 is 'cat')"),
        (
            [({1}, {0, 2, 255}), ({2}, {0, 3}), ({3}, {0, 1}), ({1, 3}, {0, 1, 2}), (set(), {0})],
            NAMES,
            "another order (1 is 'cow', 2 is 'cat', 3 is 'dog')",
        ),
    ],
)
def test_compare_masks__another_numbering_explains_them(rows: Rows, names: tuple[str, ...], cause: str) -> None:
    found = compare(rows, names)
    assert found.explained
    assert found.cause is not None
    assert cause in found.cause


@pytest.mark.parametrize(
    "rows",
    [
        [({1}, {0, 1}), ({2}, {0, 2, 255}), ({1, 3}, {0, 1, 3}), (set(), {0})],
        # Labels that list only the main class of each image.
        [({1}, {0, 1, 3}), ({1}, {0, 1, 2, 3}), ({2}, {0, 2, 3}), ({2}, {1, 2, 3})],
        # Masks that show only one class, of images with several labels.
        [({1, 2}, {0, 1}), ({1, 3}, {0, 1, 255}), ({1, 2, 3}, {0, 1})],
        # Crowds that are ignored.
        [({1}, {0, 255}), ({2}, {0, 2}), ({1}, {0, 1}), ({1, 3}, {0, 255})],
        # A class that no image is labelled with is in all masks: sky, or the table that all objects lie on.
        [({2}, {0, 1, 2}), ({3}, {0, 1, 3})] * 10,
        [({1}, {0, 1, 3}), ({2}, {0, 2, 3})] * 2,
        [({2}, {1, 2}), ({3}, {1, 3}), ({2, 3}, {1, 2, 3})] * 2,
        # Full masks of two images whose labels list the same class.
        [({1}, {1, 2}), ({1}, {1, 2})],
        # The ignored border of objects; every image has the only class.
        [({1}, {0, 1, 255}), ({1}, {0, 1, 255})],
        # No pixel is background.
        [({1}, {1}), ({1, 2}, {1, 2}), ({3}, {3})],
        # Masks that are not drawn yet are 255 everywhere.
        [({1}, {0, 1}), ({1}, {255}), ({1}, {255}), ({1}, {0, 1}), ({1}, {0, 1})],
        [],
    ],
)
def test_compare_masks__good_data(rows: Rows) -> None:
    found = compare(rows)
    assert not found.explained
    assert not found.mostly_wrong
    assert found.other == found.empty == ()


def test_compare_masks__tells_which_masks_another_numbering_explains() -> None:
    """The last one may be right: it was judged in parts."""
    found = compare([({1}, {0, 2}), ({2}, {0, 1})] * 6 + [({1}, {0, 255})], ("cat", "dog"))
    assert found.explained == {f"{number}.png" for number in range(12)}


@pytest.mark.parametrize("rows", [[({1}, {0, 1})] * 6 + [(set(), {0, 1})] * 4, [(set(), {0, 1})] * 3])
def test_compare_masks__one_class_has_no_other_order(rows: Rows) -> None:
    found = compare(rows, ("cat",))
    assert (found.cause, found.explained) == (None, frozenset())


@pytest.mark.parametrize("images", [5, 200])
@pytest.mark.parametrize(
    ("mask", "refused"),
    [
        (lambda shown, labels: {0, *shown}, False),
        (lambda shown, labels: {255, *shown}, False),
        (lambda shown, labels: {0, 255, *labels}, False),
        (lambda shown, labels: {0, 255} if shown else {0}, True),
        (lambda shown, labels: {1, *(number + 1 for number in labels)}, True),
        (lambda shown, labels: {255, *(number - 1 for number in labels)}, True),
        (lambda shown, labels: {0, *(6 - number for number in labels)}, True),
    ],
)
def test_compare_masks__random_data(images: int, mask: Callable[[set[int], set[int]], set[int]], refused: bool) -> None:
    """Images show one to three classes; labels are complete for the last four kinds of masks, and 5 % are wrong."""
    found = 0
    for seed in range(40):
        draws = random.Random(seed)
        rows: Rows = []
        for _ in range(images):
            shown = set(draws.sample(range(1, 6), draws.choice((1, 1, 2, 3))))
            labels = shown if refused else {draws.choice(sorted(shown))}
            values = mask(shown, labels)
            rows.append(({draws.randint(1, 5)} if draws.random() < 0.05 else labels, values))
        found += bool(compare(rows, ("a", "b", "c", "d", "e")).explained)
    assert found >= (40 if images > 100 else 20) if refused else found == 0


def test_compare_masks__weak_masks_are_not_called_wrong() -> None:
    """Half of the masks miss their object; a numbering from 0 would 'explain' them, but 0 is in all masks."""
    found = compare([({1}, {0}), ({1}, {0, 1}), ({1}, {0}), ({1}, {0, 1}), ({1}, {0}), ({1}, {255})], ("cat",))
    assert not found.explained
    assert found.empty == ("0.png", "2.png", "4.png")


def test_compare_masks__a_single_wrong_image() -> None:
    good: Rows = [({1}, {0, 1}), ({2}, {0, 2}), ({3}, {0, 3})] * 3
    found = compare([*good, ({1}, {0, 2}), (set(), {0, 3})])
    assert found.other == ("9.png (labels: 'cat'; mask: 'dog')", "10.png (labels: none; mask: 'cow')")
    assert (found.cause, found.explained, found.mostly_wrong) == (None, frozenset(), False)
    assert not compare([({1}, {0, 2})]).explained


def test_compare_masks__masks_of_other_images() -> None:
    """No numbering explains masks that are assigned at random."""
    shown = [{1}, {2}, {3}, {1, 2}, {1}, {3}]
    found = compare([(labels, {0, *shown[(number + 2) % 6]}) for number, labels in enumerate(shown)])
    assert found.mostly_wrong
    assert not found.explained


def test_compare_masks__absent_classes() -> None:
    assert compare([({1}, {0, 1}), ({1, 3}, {0, 1})]).absent == ("cow",)
