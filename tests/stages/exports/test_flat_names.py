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


def test_flat_name__two_ids_never_have_one_name() -> None:
    ids = ["a/b", "a_b", "a__b", "a%2Fb", "a%252Fb", "a-b", "a b", "a.b", "a", "b", "a%2fb"]
    assert len({flat_name(image_id) for image_id in ids}) == len(ids)
