from collections import Counter

import torch

from stages.picking.choice import Candidate, choose_images
from stages.picking.doubt import Doubt


def candidate(name: str, classes: tuple[int, ...], unsure: float, look: tuple[float, float] | None = None) -> Candidate:
    doubt = Doubt(unsure=unsure, contradicted=0.0, missing=0.0)
    return Candidate(
        id=name, classes=classes, doubt=doubt, look=None if look is None else torch.tensor(look, dtype=torch.float32)
    )


def test_choose__classes_take_turns_the_doubtful_first() -> None:
    many = [candidate(f"a{number}", (1,), 0.9 - number / 100) for number in range(20)]
    few = [candidate(f"b{number}", (2,), 0.1 + number / 100) for number in range(3)]
    chosen = choose_images([*many, *few], 4)
    assert [one.chosen_for for one in chosen] == [1, 2, 1, 2]
    assert chosen[0].id == "a0"
    assert chosen[1].id == "b2"
    assert choose_images([*few, *reversed(many)], 4) == chosen  # whatever the order


def test_choose__classes_with_more_turns_get_more_images_and_are_first() -> None:
    images = [candidate(f"{number}{place}", (number,), 0.5 - number / 10) for number in (1, 2, 3) for place in range(5)]
    images.append(candidate("none", (), 0.9))
    turns = {1: 1, 2: 2, 3: 3, None: 1}
    assert [one.chosen_for for one in choose_images(images, 8, turns)] == [3, 3, 2, 3, 2, 1, 3, 3]
    assert Counter(one.chosen_for for one in choose_images(images, 10, turns)) == {3: 5, 2: 3, 1: 1, None: 1}
    assert len(choose_images(images, 100, turns)) == 16
    assert choose_images([], 5) == []


def test_choose__classes_without_turns_get_no_images() -> None:
    images = [candidate("both", (1, 2), 0.5), candidate("one", (1,), 0.9), candidate("none", (), 0.9)]
    assert [(one.id, one.chosen_for) for one in choose_images(images, 5, {2: 1})] == [("both", 2)]


def test_choose__an_image_of_two_classes_once() -> None:
    images = [candidate("both", (1, 2), 0.9), candidate("one", (1,), 0.1), candidate("two", (2,), 0.2)]
    assert sorted(one.id for one in choose_images(images, 3)) == ["both", "one", "two"]


def test_choose__near_duplicates_are_left_to_the_end() -> None:
    images = [candidate(f"same{number}", (1,), 0.9 - number / 100, (0, 0.01 * number)) for number in range(3)]
    images.append(candidate("other", (1,), 0.5, (5, 5)))
    assert [one.id for one in choose_images(images, 2)] == ["same0", "other"]


def test_choose__images_without_labels_rarely() -> None:
    images = [candidate(f"a{number}", (1,), 0.1) for number in range(30)]
    images += [candidate(f"n{number}", (), 0.9) for number in range(30)]
    counts = Counter(one.chosen_for for one in choose_images(images, 20))
    assert counts == {1: 18, None: 2}
    assert Counter(one.chosen_for for one in choose_images(images, 50)) == {1: 30, None: 20}  # if there is nothing else
