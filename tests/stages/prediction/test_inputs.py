from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.written_folders import mark_as_written
from stages.prediction.inputs import find_inputs
from stages.runtime.monitor import SilentMonitor


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Empty files with the names of images; nothing in these tests opens them."""
    folder = tmp_path / "tiles"
    for name in ("a.png", "a.jpg", "north/b.TIF", "north/far/c.tif", "south/c.tif", "notes.txt", ".hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(paths: list[Path]) -> dict[str, Path]:
    return {sample.id: sample.image for sample in find_inputs(paths, SilentMonitor())}


def test_find_inputs__a_folder_keeps_its_tree(tiles: Path) -> None:
    assert found([tiles]) == {
        "a": tiles / "a.jpg",
        "a-2": tiles / "a.png",
        "north/b": tiles / "north/b.TIF",
        "north/far/c": tiles / "north/far/c.tif",
        "south/c": tiles / "south/c.tif",
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.tif", ["north/far/c", "south/c"]),
        ("north/**/*.*", ["b", "far/c"]),
        ("*/c.tif", ["south/c"]),
        ("[ns]*/?.tif", ["south/c"]),
        ("*", ["a", "a-2"]),  # neither folders nor other files
    ],
)
def test_find_inputs__names_start_at_the_first_wildcard_of_a_pattern(
    pattern: str, names: list[str], tiles: Path
) -> None:
    assert sorted(found([tiles / pattern])) == names


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images/", "masks/"), ("JPEGImages/", "SegmentationClass/"), ("images/", "ground_truth/"), ("", "masks/")],
)
def test_find_inputs__a_data_set_without_its_masks(images: str, masks: str, tmp_path: Path, listener: Any) -> None:
    for name in (f"{images}cats/a.jpg", f"{masks}cats/a.png", f"{masks}other/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monitor = listener()
    samples = find_inputs([tmp_path], monitor)
    assert [one.id for one in samples] == sorted([f"{images}cats/a", f"{masks}other/b"])
    (warning,) = monitor.warnings
    assert warning.startswith(f"files in {tmp_path} that are left out: 1 (first {masks}cats/a.png), because they seem")
    assert list(found([tmp_path / masks])) == ["cats/a", "other/b"]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_find_inputs__masks_may_be_a_class(suffix: str, tmp_path: Path, listener: Any) -> None:
    """Numbered photographs of masks, beside others of the same numbers."""
    for name in (f"helmets/000.{suffix}", f"masks/000.{suffix}"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monitor = listener()
    assert [one.id for one in find_inputs([tmp_path], monitor)] == ["helmets/000", "masks/000"]
    assert monitor.warnings == []


def test_find_inputs__kinds_that_are_not_read(tiles: Path, listener: Any) -> None:
    for name in ("d.heic", "e.gif", "far/f.gif"):
        (tiles / "south" / name).parent.mkdir(exist_ok=True)
        (tiles / "south" / name).touch()
    for given, told in (
        (tiles / "south", "2 .gif and 1 .heic files are"),
        (tiles / "south" / "*", "1 .heic and 1 .gif"),
    ):
        monitor = listener()
        assert [one.id for one in find_inputs([given], monitor)] == ["c"]
        assert monitor.warnings[0].startswith(f"in {given}, {told}"), monitor.warnings
    with pytest.raises(
        DataError, match=r"far, 1 \.gif file is not read: save as JPEG or PNG \(\.gif with ImageMagick\)"
    ):
        find_inputs([tiles / "south" / "far"], listener())


def test_find_inputs__a_relative_pattern(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiles)
    assert found([Path("*.png")]) == {"a": Path("a.png")}
    assert found([Path("south/*.tif")]) == {"c": Path("south/c.tif")}


def test_find_inputs__an_existing_path_is_not_a_pattern(tiles: Path) -> None:
    odd = tiles / "[a].png"
    odd.touch()
    assert found([odd]) == {"[a]": odd}
    (tiles / "b*").mkdir()
    (tiles / "b*" / "d.png").touch()
    assert found([tiles / "b*"]) == {"d": tiles / "b*" / "d.png"}


def test_find_inputs__each_image_once_and_no_earlier_results(tiles: Path, listener: Any) -> None:
    monitor = listener()
    far = tiles / "north/far/c.tif"
    for folder in (tiles / "north/results", tiles / "results"):
        mark_as_written(folder)
        (folder / "masks").mkdir()
        (folder / "masks/c.tif").touch()
    samples = find_inputs([tiles / "south", tiles / "**/c.tif", tiles / "south/c.tif"], monitor)
    assert [(sample.id, sample.image) for sample in samples] == [("c", tiles / "south/c.tif"), ("north/far/c", far)]
    assert set(found([tiles])) == {"a", "a-2", "north/b", "north/far/c", "south/c"}
    samples = find_inputs([far, tiles / "south"], monitor)
    assert [sample.id for sample in samples] == ["c", "c-2"]
    assert monitor.notes == [f"{tiles / 'south/c.tif'} is written as 'c-2', because another image is named 'c'"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.png", "there is no file or folder .*nowhere.png: check the path"),
        ("empty", r"empty holds no images \(.*\): check the path"),
        ("*.tiff", r"the pattern '.*\*.tiff' matches no images \(.*\.bmp, .*\): check it"),
        ("*.txt", "matches no images"),
    ],
)
def test_find_inputs__no_images(given: str, message: str, tiles: Path) -> None:
    (tiles / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        found([tiles / given])


def test_find_inputs__results_are_no_images(tiles: Path) -> None:
    mark_as_written(tiles / "predicted")
    (tiles / "predicted/a.png").touch()
    with pytest.raises(DataError, match="predicted holds results of toco: give the folder of the images"):
        found([tiles / "predicted"])
    with pytest.raises(DataError, match="matches no images"):
        found([tiles / "pre*/*.png"])
    assert found([tiles / "predicted/a.png"]) == {"a": tiles / "predicted/a.png"}  # asked for by name


def test_find_inputs__nothing_given() -> None:
    with pytest.raises(DataError, match="there are no images to predict"):
        found([])
