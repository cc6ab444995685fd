from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest

from data.errors import DataError
from data.file_names import DESCRIBED, FileNames


def find(written: str, *files: str, folder: str = "images") -> str | None:
    return FileNames(Path(folder), files).find(written, "labels.csv line 2")


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("x/a.jpg", "x/a.jpg"),
        ("./x//a.jpg", "x/a.jpg"),
        ("x\\a.jpg", "x/a.jpg"),
        ("x/a", "x/a.jpg"),
        ("Bär.1", "Bär.1.png"),
        (unicodedata.normalize("NFD", "Bär.png"), "Bär.png"),
        ("Bär.png", unicodedata.normalize("NFD", "Bär.png")),
        ("back\\slash.jpg", "back\\slash.jpg"),
    ],
)
def test_find__usual_ways_to_write_a_name(written: str, file: str) -> None:
    names = FileNames(Path("images"), [file, "other.jpg"])
    assert names.find(written, "labels.csv line 2") == file
    assert names.warnings("labels.csv") == ()


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("images/a.jpg", "a.jpg"),
        ("images\\x\\a", "x/a.jpg"),
        ("./data/images/x/a.jpg", "x/a.jpg"),
        ("/data/images/x/a.jpg", "x/a.jpg"),
        ("/images/A", "a.jpg"),
        ("C:\\d\\images\\x\\a.JPG", "x/a.jpg"),
        ("file:///home/me/images/a%20b.jpg", "a b.jpg"),
        ("\\\\server\\share\\Images\\a.jpg", "a.jpg"),
        ("a%20%C3%A4.jpg", "a ä.jpg"),
        ("images/a%2Fb.jpg", "a/b.jpg"),
        ("A.JPG", "a.jpg"),
        ("A", "a.jpeg"),
        ("Images/X/A.jpg", "x/a.JPG"),
        ("STRASSE.jpg", "straße.jpg"),
        ("\u200ba\ufeff.jpg", "a.jpg"),
        ("7", "007.jpg"),
        ("7.0", "007.jpg"),
        ("x/7", "x/007.png"),
        ("0", "000.jpg"),
    ],
)
def test_find__corrected_names_are_told(written: str, file: str) -> None:
    names = FileNames(Path("images"), [file, "other.jpg"])
    assert names.find(written, "labels.csv line 2") == file
    assert names.warnings("labels.csv") == (
        f"names in labels.csv that are not exactly those of the files: 1, for example '{written}' for '{file}'",
    )


def test_find__name_of_the_folder() -> None:
    assert find("train2017/a.jpg", "a.jpg", folder="coco/train2017") == "a.jpg"
    assert find("/data/coco/train2017/a.jpg", "a.jpg", folder="coco/train2017") == "a.jpg"
    assert find("val2017/a.jpg", "a.jpg", folder="coco/train2017") is None


@pytest.mark.parametrize(
    ("written", "files", "file"),
    [
        ("a.JPG", ("a.jpg", "a.JPG"), "a.JPG"),
        ("a", ("A.jpg", "a.jpg"), "a.jpg"),
        ("a%20b.jpg", ("a b.jpg", "a%20b.jpg"), "a%20b.jpg"),
        ("images/a.jpg", ("a.jpg", "images/a.jpg"), "images/a.jpg"),
        ("images/a", ("a.jpg", "images/a.jpg"), "images/a.jpg"),
        ("7", ("007.jpg", "7.jpg"), "7.jpg"),
        ("IMG.JPG", ("img.jpg", "img.png"), "img.jpg"),
    ],
)
def test_find__the_closest_name_wins(written: str, files: tuple[str, ...], file: str) -> None:
    assert find(written, *files) == find(written, *reversed(files)) == file


@pytest.mark.parametrize(
    ("written", "files"),
    [
        ("a", ("a.jpg", "a.png")),
        ("A.jpg", ("a.jpg", "a.JPG")),
        ("7", ("007.jpg", "07.jpg")),
        ("images/A", ("a.jpg", "a.png")),
    ],
)
def test_find__several_files(written: str, files: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match=rf"line 2: image '{written}' could be any of '{files[0]}', '{files[1]}': write the complete"
    ):
        find(written, *files)


@pytest.mark.parametrize(
    "written",
    ["../a.jpg", "/images/../a.jpg", "..\\a.jpg", "/data/a.jpg", "/a.jpg", "C:\\data\\a.jpg", "d:/a.jpg", "//h/a"],
)
def test_find__outside_the_folder(written: str) -> None:
    with pytest.raises(DataError, match=r"line 2: image '.*' is outside images/: write a path below images/"):
        find(written, "a.jpg")


@pytest.mark.parametrize(
    ("written", "files", "nearest"),
    [
        ("b.jpg", ("a.jpg", "b.png"), "b.png"),
        ("b.JPG", ("a.jpg", "x/b.jpg"), "x/b.jpg"),
        ("train/b", ("a.jpg", "b.jpg"), "b.jpg"),
        ("image_01.jpg", ("image_1.jpg", "other.jpg"), "image_1.jpg"),
        ("7.jpg", ("007.jpg", "abc.jpg"), "007.jpg"),
        ("%2e%2e/a.jpg", ("a.jpg",), "a.jpg"),
        ("/data/images/b", ("a.jpg", "x/b.jpg"), "x/b.jpg"),
        ("pictur_000", tuple(f"x/picture_{number:03d}.jpg" for number in range(500)), "x/picture_000.jpg"),
    ],
)
def test_describe_missing__shows_the_nearest_file(written: str, files: tuple[str, ...], nearest: str) -> None:
    names = FileNames(Path("images"), files)
    assert names.find(written, "labels.csv line 2") is None
    assert names.describe_missing(written) == (
        f"image '{written}' is missing in images/ (did you mean '{nearest}'?): add it or correct the name"
    )


@pytest.mark.parametrize("written", ["zzz.jpg", "", ".", "images/", "%", "\0", "x" * 5000, "\u200b"])
def test_describe_missing__nothing_is_similar(written: str) -> None:
    names = FileNames(Path("images"), ["a.jpg"])
    assert names.find(written, "labels.csv line 2") is None
    assert names.describe_missing(written).endswith(
        "is missing in images/ (which has for example 'a.jpg'): add it or correct the name"
    )


def test_describe_all_missing__similar_files_of_the_first_ones_only() -> None:
    names = FileNames(Path("x/images"), ["picture.jpg"])
    lines = names.describe_all_missing([(f"line {number}", "pictures.jpg") for number in range(DESCRIBED + 2)])
    assert lines[0] == f"line 0: {names.describe_missing('pictures.jpg')}"
    assert ["did you mean 'picture.jpg'?" in line for line in lines] == [True] * DESCRIBED + [False] * 2
    assert lines[-1] == f"line {DESCRIBED + 1}: image 'pictures.jpg' is missing in images/"
    assert names.describe_all_missing([]) == ()


def test_describe_missing__file_of_a_kind_that_is_not_read(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.txt", "sub/c.gif", "sub/c.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = FileNames(tmp_path, ["b.jpg"])
    for written in ("a.HEIC", "a", "./A.heic", "images/a"):
        assert names.describe_missing(written).endswith(
            "/ as 'a.HEIC', a kind of file that is not read: save as JPEG or PNG (.heic with pillow-heif)"
        )
    assert "as 'sub/c.gif', a kind" in names.describe_missing("sub/c.gif")
    assert names.describe_missing("b.txt").endswith("/, but is not read: save it as JPEG or PNG, and correct the name")
    assert "is missing in" in names.describe_missing("d.heic")


def test_find__is_fast_for_many_files() -> None:
    files = [f"folder{number % 100}/image_{number:06d}.jpg" for number in range(20_000)]
    names = FileNames(Path("images"), files)
    start = time.process_time()
    assert [names.find(f"images/{file.upper()}", "") for file in files] == files
    names.describe_missing("folder1/picture.jpg")
    assert time.process_time() - start < 5  # seconds; comparing each name with each file takes minutes
