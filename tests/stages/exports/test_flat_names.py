from urllib.parse import unquote

import pytest

from stages.exports.flat_names import flat_name


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("2007_000032", "2007_000032"),
        ("line 1/a.b", "line%201%2Fa%2Eb"),
        ("Größe/図-1", "Größe%2F図-1"),
        ("100%", "100%25"),
        ("a\n~", "a%0A%7E"),
    ],
)
def test_flat_name__can_be_decoded(image_id: str, name: str) -> None:
    assert flat_name(image_id) == name
    assert unquote(name) == image_id


def test_flat_name__long_ids_are_cut() -> None:
    longest = ["図" * 80, "n" * 240]
    assert [flat_name(one) for one in longest] == longest
    deep = "/".join(["a folder with a long name"] * 10)
    ids = [deep, deep + "x", "図" * 81, "図" * 82, "n" * 241, "😀" * 300]
    names = [flat_name(image_id) for image_id in ids]
    assert len(set(names)) == len(ids)
    assert all(200 < len(name.encode()) <= 240 for name in names)
    assert names[0].startswith("a%20folder%20with%20a%20long%20name%2Fa%20folder")


def test_flat_name__two_ids_never_have_one_name() -> None:
    ids = ["a/b", "a_b", "a__b", "a%2Fb", "a%252Fb", "a-b", "a b", "a.b", "a", "b", "a%2fb"]
    assert len({flat_name(image_id) for image_id in ids}) == len(ids)
