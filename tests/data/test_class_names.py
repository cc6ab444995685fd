from __future__ import annotations

import unicodedata

import pytest

from data.class_names import (
    canonical_name,
    doubtful_names,
    in_order,
    joined_names,
    likely_names,
    look_alikes,
    names_joined_by_blanks,
    unusable_name,
)


@pytest.mark.parametrize("written", ["Blüte x", " Blüte\u00a0 x\u200b", "\ufeffBlu\u0308te\tx", "Bl\u00adüte x\u200e"])
def test_canonical_name__one_spelling(written: str) -> None:
    assert canonical_name(written) == unicodedata.normalize("NFC", "Blüte x")


def test_canonical_name__joiners_have_a_meaning() -> None:
    assert canonical_name("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"  # Persian


def test_in_order__numbers_by_value() -> None:
    assert in_order({"10", "9", "02", "2", "b", "B", "1a"}) == ("02", "2", "9", "10", "1a", "B", "b")
    assert in_order(["10.0", "2.0", "1" * 5000]) == ("2.0", "10.0", "1" * 5000)


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "CAT"),
        ("a b", "a_b", "a-b"),
        ("cat", "\u0441\u0430t"),
        ("crack-like", "crack like"),
        ("5 mm", "5\u2011mm"),
        ("\uff23\uff21\uff34", "cat"),
        ("'cat'", "cat", '"cat"'),
        ("Baird's", "Baird\u2019s"),
        ("1", "1.0", "01"),
        ("straße", "STRASSE"),
    ],
)
def test_look_alikes__groups(names: tuple[str, ...]) -> None:
    assert look_alikes((*names, "other")) == (names,)


def test_look_alikes__different_names() -> None:
    assert look_alikes(("cat", "cats", "1", "10", "a", "b", "+", "-", "кот", "кит")) == ()
    assert (
        look_alikes(("A", "A-", "A+", "5", "5'", '5"', "-5", "rock", "rock-", "m2", "m²", "½", "1/2", "'", '"')) == ()
    )


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (("cat", "dog", "cat,dog", "cat / dog"), ("cat,dog", "cat / dog")),
        (("cat", "dog", "Cat, dog"), ("Cat, dog",)),
        (("cat,dog", "cat,cow", "dog,cow"), ("cat,dog", "dog,cow")),
        (("Paris, TX", "Paris, FR", "Austin, TX", "Lyon, FR"), ()),
        (("bird", "bird, small", "cow, small", "cow, large"), ()),
        (("AC/DC", "AC", "DC"), ("AC/DC",)),
        (("cat", "cat,dog"), ()),
        (("猫", "狗", "猫、狗"), ("猫、狗",)),
        (("bird, large", "bird, small"), ()),
        (("x|y", "y|z", "z|x"), ("x|y", "y|z", "z|x")),
        (("and/or", "TCP/IP", "a,a"), ()),
        ((",", "|", "cat"), ()),
    ],
)
def test_joined_names(names: tuple[str, ...], joined: tuple[str, ...]) -> None:
    assert joined_names(names) == joined


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (("cat", "dog", "cow", "cat dog", "cow cat"), ("cat dog", "cow cat")),
        (
            ("clear primary", "agriculture clear primary water", "clear primary water", "haze primary", "cloudy"),
            ("clear primary", "clear primary water"),
        ),
        (
            ("scab", "scab spot", "scab spot complex", "spot complex"),
            ("scab spot", "scab spot complex", "spot complex"),
        ),
        (("fire", "truck", "fire truck"), ()),
        (
            (
                "screen",
                "door",
                "screen door",
                "pool",
                "table",
                "pool table",
                "hot dog",
                "sea lion",
                "bus stop",
                "a b",
                "c d",
            ),
            (),
        ),
        (("red car", "blue car", "red bus", "blue bus", "car", "bus"), ()),
        (("0 to 5", "5 to 10", "10 to 20", "20 to 40"), ()),
        (("level 1 zone 2", "level 2 zone 1"), ()),
        (("cat / dog", "dog / cat"), ()),
    ],
)
def test_names_joined_by_blanks(names: tuple[str, ...], joined: tuple[str, ...]) -> None:
    assert names_joined_by_blanks(names) == joined


def test_doubtful_names__signs_that_are_usual_in_names() -> None:
    names = ("AC", "DC", "AC/DC", "T-shirt", "top", "T-shirt/top", "cat", "dog", "cat + dog", "cat & dog")
    assert doubtful_names(dict.fromkeys(names, 1)) == {}
    assert doubtful_names(dict.fromkeys(("cat", "dog", "cat|dog"), 1)) == {
        "cat|dog": "looks like several labels, 'cat;dog'"
    }


@pytest.mark.parametrize(("name", "parts"), [("['a' 'b']", "'a;b'"), ('["a","b"]', "'a;b'"), ("['it']", "'it'")])
def test_doubtful_names__parts_of_a_list(name: str, parts: str) -> None:
    assert parts in doubtful_names({name: 1})[name]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "has no visible character"),
        ("\u200d", "has no visible character"),
        ("\u3164", "has no visible character"),
        ("x\0", "has a control character"),
        ("a\x1bb", "has a control character"),
        ("\udc80", "is not valid Unicode"),
        ("+", None),
        ("猫", None),
        ("🐈\u200d⬛", None),
        ("می\u200cخ", None),
    ],
)
def test_unusable_name(name: str, problem: str | None) -> None:
    assert unusable_name(name) == problem


def test_doubtful_names__the_most_frequent_spelling_is_right() -> None:
    found = doubtful_names({"Disc": 2, "disc": 9, "DISC": 1, "square": 1})
    assert set(found) == {"Disc", "DISC"}
    assert all(text.startswith("looks the same as 'disc'") for text in found.values())


@pytest.mark.parametrize("name", ["['cat']", "['cat' 'dog']", '["cat","dog"]', "[cat, dog]", "{'cat'}"])
def test_doubtful_names__lists(name: str) -> None:
    assert "is a list of Python or JSON" in doubtful_names({name: 1})[name]


@pytest.mark.parametrize("name", ["[red]dent[/red]", "[/]", "(unknown)", "{x}", "cats, dogs", "3,5-dimethyl"])
def test_doubtful_names__brackets_and_commas_may_be_part_of_a_name(name: str) -> None:
    assert doubtful_names({name: 1, "cat": 1}) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Disc", ("disc",)), ("dics", ("disc",)), ("disc, square", ("disc", "square")), ("tree", ()), ("", ())],
)
def test_likely_names(name: str, meant: tuple[str, ...]) -> None:
    assert likely_names(name, ("disc", "square")) == meant
