from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data.class_folder_reader import read_class_folders
from data.dataset import Dataset
from data.errors import DataError


def build(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)
    return root


def labels(dataset: Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    return {split: {sample.id: sample.classes for sample in samples} for split, samples in dataset.splits.items()}


def test_read_class_folders__flat(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "dogs/b.jpg", "cats/a.jpg", "cats/old/a.png"))
    assert dataset.class_names == ("cats", "dogs")
    assert labels(dataset) == {"train": {"cats/a": (1,), "cats/old/a": (1,), "dogs/b": (2,)}}
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("class_folders", "train", None)
    assert dataset.split()[0].mask is None
    assert dataset.warnings == ()


def test_read_class_folders__splits(tmp_path: Path) -> None:
    names = ("train/cats/a.jpg", "train/dogs/b.jpg", "Val/dogs/c.jpg", "extra/cats/d.jpg", "val/e.jpg")
    dataset = read_class_folders(build(tmp_path, *names[:4]))
    assert labels(dataset) == {
        "train": {"train/cats/a": (1,), "train/dogs/b": (2,)},
        "val": {"Val/dogs/c": (2,)},
    }
    assert (dataset.train_split, dataset.val_split) == ("train", "val")
    assert dataset.warnings == ("images outside the class folders, skipped: 1",)


@pytest.mark.parametrize("name", ["train/b.jpg", "train/steam/b.jpg"])
def test_read_class_folders__class_called_train(tmp_path: Path, name: str) -> None:
    assert read_class_folders(build(tmp_path, "car/a.jpg", name)).class_names == ("car", "train")


def test_read_class_folders__background_folder_shows_no_class(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "background/a.jpg", "cats/b.jpg"))
    assert dataset.class_names == ("cats",)
    assert labels(dataset) == {"train": {"background/a": (), "cats/b": (1,)}}


def test_read_class_folders__masks(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "cats/a.jpg", "dogs/b.jpg", "masks/cats/a.png"))
    assert dataset.class_names == ("cats", "dogs")
    assert [sample.mask is not None for sample in dataset.split()] == [True, False]


def test_read_class_folders__images_beside_the_folders_are_counted(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "cats/a.jpg", "dogs/b.jpg", "c.jpg"))
    assert dataset.warnings == ("images outside the class folders, skipped: 1",)


def test_read_class_folders__same_id_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two images have the id 'cats/a' \('cats/a.jpg', 'cats/a.png'\): rename"):
        read_class_folders(build(tmp_path, "cats/a.jpg", "cats/a.png", "dogs/b.jpg"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "no folder with images"),
        (("a.jpg",), "no folder with images"),
        (("pets/a.jpg",), "only one folder with images, 'pets'"),
        (("train/pets/a.jpg",), "only one folder with images, 'pets'"),
    ],
)
def test_read_class_folders__too_few(tmp_path: Path, names: tuple[str, ...], found: str) -> None:
    with pytest.raises(DataError, match=f"holds {found}: class folders need at least two, one per class"):
        read_class_folders(build(tmp_path, *names))


@pytest.mark.parametrize(
    "tops", [("train", "val", "test"), ("train",), ("Train", "VALID"), ("train2017", "val2017"), ("train", "test1")]
)
def test_read_class_folders__flat_splits_are_not_classes(tmp_path: Path, tops: tuple[str, ...]) -> None:
    root = build(tmp_path, *(f"{top}/a.jpg" for top in tops))
    with pytest.raises(
        DataError, match=rf"'{tops[0]}'.* hold images, but no folders of classes.*: sort the images into"
    ):
        read_class_folders(root)


@pytest.mark.parametrize("test", ["test", "test1", "test_images"])
def test_read_class_folders__flat_split_beside_deep_ones_has_no_labels(tmp_path: Path, test: str) -> None:
    names = ("train/cats/a.jpg", "train/dogs/b.jpg", "val/dogs/c.jpg", f"{test}/1.jpg", f"{test}/1.png")
    dataset = read_class_folders(build(tmp_path, *names))
    assert dataset.class_names == ("cats", "dogs")
    assert sorted(dataset.splits) == ["train", "val"]
    assert [(sample.id, sample.labelled) for sample in dataset.unlabelled] == [(f"{test}/1", False)]


@pytest.mark.parametrize(
    "names",
    [
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationClassVisualization/a.jpg"),
        ("train/images/a.jpg", "valid/images/b.jpg"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("Images/a.jpg", "labels/a.png"),
        ("annotations/trimaps/a.png", "cats/b.jpg"),
        ("cats/a.jpg", "unlabeled/b.jpg"),
    ],
)
def test_read_class_folders__parts_of_other_layouts_are_not_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"does not look like the folder of a class: give the folder .*run 'toco init'"):
        read_class_folders(build(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("cats/a.jpg", "birds/b.jpg", "dogs/c.HEIC", "dogs/d.gif"),
            "'dogs' would be no class, since 1 .heic and 1 .gif",
        ),
        (("cats/a.heic", "dogs/b.heic"), "'cats', 'dogs' would be no class, since 2 .heic files are not read: save as"),
        (
            ("train/cats/a.jpg", "train/birds/b.jpg", "train/dogs/c.psd"),
            "'dogs' would be no class, since 1 .psd file is",
        ),
    ],
)
def test_read_class_folders__class_of_pictures_that_are_not_read(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        build(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_class_folders(tmp_path)
    assert message in str(caught.value)


def test_read_class_folders__files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    build(tmp_path, "cats/a.jfif.jpg", "dogs/b.jpg")
    (tmp_path / "cats" / "a.jfif.jpg").rename(tmp_path / "cats" / "a.jfif")
    for name in ("dogs/c.gif", "videos/d.mp4", "masks/e.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = read_class_folders(tmp_path)
    assert labels(dataset) == {"train": {"cats/a": (1,), "dogs/b": (2,)}}
    assert dataset.unread_files == ("dogs/c.gif", "videos/d.mp4")
    assert dataset.counted[0].startswith("1 .gif and 1 .mp4 files are not read: save as JPEG or PNG")


@pytest.mark.parametrize("names", [("mask", "no_mask"), ("fake_images", "real_images"), ("test strip", "trainer")])
def test_read_class_folders__similar_names_may_be_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert read_class_folders(build(tmp_path, *(f"{name}/a.jpg" for name in names))).class_names == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cats", "Cats"), "folder 'cats' looks the same as 'Cats': merge or rename the folders"),
        (("cats", "None"), "folder 'None' stands for a missing value: merge .*'background' means none of the classes"),
        (("cats", "dogs", "cats, dogs"), "folder 'cats, dogs' looks like several labels, 'cats;dogs': merge"),
    ],
)
def test_read_class_folders__names_that_are_not_meant(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_folders(build(tmp_path, *(f"{name}/a.jpg" for name in names)))


def test_read_class_folders__numbers_sort_as_numbers(tmp_path: Path) -> None:
    assert read_class_folders(build(tmp_path, *(f"{number}/a.jpg" for number in (10, 9, 1)))).class_names == (
        "1",
        "9",
        "10",
    )


def test_read_class_folders__one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    names = (
        f"{unicodedata.normalize('NFD', 'Bär')}/a.jpg",
        f"{unicodedata.normalize('NFC', 'Bär')}/b.jpg",
        "Uhu/c.jpg",
    )
    dataset = read_class_folders(build(tmp_path, *names))
    assert labels(dataset)["train"] == {"Bär/a": (1,), "Bär/b": (1,), "Uhu/c": (2,)}


def test_read_class_folders__splits_inside_classes(tmp_path: Path) -> None:
    root = build(tmp_path, "cats/train/a.jpg", "cats/val/b.jpg", "dogs/train/c.jpg")
    with pytest.raises(
        DataError, match=r"'train', 'val' are inside the folders of classes: put the classes inside the"
    ):
        read_class_folders(root)


def test_read_class_folders__split_beside_other_folders(tmp_path: Path) -> None:
    root = build(tmp_path, "train/cats/a.jpg", "train/dogs/b.jpg", "more/c.jpg")
    with pytest.raises(
        DataError, match=r"'train' holds folders \('cats', 'dogs'\), so that it looks like .*'more'\): rename"
    ):
        read_class_folders(root)
