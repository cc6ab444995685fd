from __future__ import annotations

from pathlib import Path

import pytest

from data.class_list import joined_warnings, read_class_list, refuse_doubtful_names
from data.errors import DataError


def test_read_class_list__lines_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    assert read_class_list(path) == ()
    path.write_text("# mine\nnan\n\n Cat \ncat\n", encoding="utf-8-sig")
    assert read_class_list(path) == ("nan", "Cat", "cat")
    path.write_text("\n")
    with pytest.raises(DataError, match=r"classes\.txt is empty: write one class per line, or remove it"):
        read_class_list(path)


@pytest.mark.parametrize("name", ["Classes.txt", "classes.TXT", "classes.txt.txt"])
def test_read_class_list__another_name_is_not_ignored(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("dog\ncat\n")
    with pytest.raises(DataError, match=rf"{name} is not read: rename it to classes\.txt"):
        read_class_list(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("cat\n")
    assert read_class_list(tmp_path / "classes.txt") == ("cat",)


def test_refuse_doubtful_names__all_in_one_line() -> None:
    refuse_doubtful_names({"cat": 1, "A": 1, "A-": 1}, "pets", "folder", "rename it")
    with pytest.raises(DataError) as caught:
        refuse_doubtful_names({"Cat": 1, "cat": 2, "nan": 1}, "pets", "folder", "rename it")
    assert str(caught.value) == (
        "pets: folder 'nan' stands for a missing value; folder 'Cat' looks the same as 'cat': rename it"
    )
    with pytest.raises(DataError, match=r"; and 2 more: rename it"):
        refuse_doubtful_names(
            {"a" * 12: 1} | {"a" * i + "A" * (12 - i): 0 for i in range(12)}, "pets", "class", "rename it"
        )


def test_joined_warnings__usually_none() -> None:
    assert joined_warnings({"cat": 1, "dog": 1, "bird/cow": 1}, "rename them") == ()
    assert joined_warnings({"cat": 1, "dog": 1, "cat/dog": 1}, "rename them") == (
        "classes whose parts are classes as well: 'cat/dog'; rename them, if they are several labels",
    )
    told = "class names that look like several labels separated by spaces: 'cat dog', 'dog bird'; correct them, if they"
    (warning,) = joined_warnings({"cat": 5, "dog": 5, "bird": 1, "cat dog": 1, "dog bird": 1}, "correct them")
    assert warning == f"{told} are several labels"
