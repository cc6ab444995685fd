from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data.custom_writer import begin_custom, write_custom
from data.dataset import Dataset
from data.errors import DataError
from data.readers import open_dataset


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)
    return path


def class_folders(root: Path, *names: str) -> Dataset:
    for name in names or ("cats/a.jpg", "dogs/b.jpg"):
        picture(root / name)
    return open_dataset(root)


def labels(dataset: Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    """The classes of each image file, by split."""
    return {
        split: {sample.image.resolve().as_posix(): sample.classes for sample in samples}
        for split, samples in dataset.splits.items()
    }


def test_begin_custom__an_empty_folder(tmp_path: Path) -> None:
    assert begin_custom(tmp_path / "new") == (0, ())
    assert (tmp_path / "new" / "images").is_dir()
    first, *others = (tmp_path / "new" / "labels.csv").read_text().splitlines()
    assert first == "image,labels,split"
    assert all(line.startswith("#") for line in others)
    with pytest.raises(DataError, match=r"labels\.csv has no rows below its header: write one per image"):
        open_dataset(tmp_path / "new")


def test_begin_custom__lists_the_images_and_claims_nothing(tmp_path: Path) -> None:
    for name in ("a.JPG", "deep/Bär 1.png", "#c, d.jpg"):
        picture(tmp_path / "images" / name)
    assert begin_custom(tmp_path) == (3, ())
    table = tmp_path / "labels.csv"
    text = table.read_text(encoding="utf-8")
    assert text.endswith('"#./#c, d.jpg",,train\n#a.JPG,,train\n#deep/Bär 1.png,,train\n')
    with pytest.raises(DataError, match="has no rows below its header"):
        open_dataset(tmp_path)
    filled = text.replace("#a.JPG,,", "a.JPG,cat,").replace('"#./#c, d', '"./#c, d').replace("#deep", "deep")
    table.write_text(filled, encoding="utf-8")
    assert {sample.id: sample.classes for sample in open_dataset(tmp_path).split()} == {
        "a": (1,),
        "deep/Bär 1": (),
        "#c, d": (),
    }


def test_begin_custom__counts_kinds_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.heic", "b.gif", "c.jfif"):
        (tmp_path / "images" / name).touch()
    assert begin_custom(tmp_path) == (1, ("a.heic", "b.gif"))


def test_begin_custom__overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    begin_custom(tmp_path)
    assert (tmp_path / "classes.txt").read_text() == "dog\ncat\n"
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(
        DataError, match=r"labels\.csv exists already, and nothing was written: check it with toco check "
    ):
        begin_custom(tmp_path)
    assert (tmp_path / "labels.csv").read_text() == "mine"


def test_begin_custom__images_elsewhere(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b" / "b.jpg")
    with pytest.raises(
        DataError, match=r"has images \(2\) but no folder images/: move them with their folders into .*/images, and"
    ):
        begin_custom(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b"]


def test_begin_custom__a_name_in_another_encoding(tmp_path: Path) -> None:
    try:
        picture(tmp_path / "images" / "a.png").rename(tmp_path / "images" / "B\udce4r.png")
    except OSError:
        pytest.skip("this file system knows no such names")
    with pytest.raises(DataError, match=r"the name of an image near '.*#B\\udce4' is not in UTF-8: rename the file"):
        begin_custom(tmp_path)
    assert not (tmp_path / "labels.csv").exists()


def test_write_custom__class_folders(tmp_path: Path) -> None:
    names = ("train/cats, big/#a.jpg", "train/background/ b.jpg", "val/dogs/c.jpg", "val/cats, big/d.jpg")
    dataset = class_folders(tmp_path / "photos", *names)
    assert write_custom(dataset, tmp_path / "out") == tmp_path / "out" / "labels.csv"
    assert (tmp_path / "out" / "images" / "train").resolve() == tmp_path / "photos" / "train"
    read = open_dataset(tmp_path / "out")
    assert (read.layout, read.class_names) == ("custom", ("cats, big", "dogs"))
    assert labels(read) == labels(dataset)
    assert {sample.id for sample in read.split("train")} == {"train/cats, big/#a", "train/background/ b"}
    assert (read.train_split, read.val_split, read.warnings) == ("train", "val", ())


@pytest.mark.parametrize("above", ["", "train/"])
def test_write_custom__ground_truth_of_class_folders(tmp_path: Path, above: str) -> None:
    """masks/ stays ground truth: its files are neither images nor lost."""
    names = [f"{above}{name}" for name in ("cats/a.jpg", "dogs/b.jpg")]
    dataset = class_folders(tmp_path / "photos", *names, f"masks/{above}dogs/b.png")
    write_custom(dataset, tmp_path / "out")
    read = open_dataset(tmp_path / "out")
    assert (read.class_names, read.unlabelled, labels(read)) == (("cats", "dogs"), (), labels(dataset))
    assert {one.id: one.mask is not None for one in read.split()} == {f"{above}cats/a": False, f"{above}dogs/b": True}


def test_write_custom__ground_truth_of_images_without_labels(tmp_path: Path) -> None:
    names = ("train/cats/a.jpg", "train/dogs/b.jpg", "test/c.jpg", "masks/test/c.png")
    dataset = class_folders(tmp_path / "photos", *names)
    write_custom(dataset, tmp_path / "out")
    assert [one.mask is not None for one in open_dataset(tmp_path / "out").unlabelled] == [True]


def test_write_custom__paths_that_need_care(tmp_path: Path) -> None:
    dataset = class_folders(tmp_path / "photos", "#1/a.jpg", " 2/b,c.jpg")
    renamed = replace(dataset, class_names=("one", "two"))  # these cannot be classes' names in the file
    write_custom(renamed, tmp_path / "out")
    assert labels(open_dataset(tmp_path / "out")) == labels(renamed)


def test_write_custom__voc_with_images_in_several_splits(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    lists = {"train": "a", "train_aug": "a b c", "val": "d"}
    objects = {"a": ("cat", "dog"), "b": (), "c": ("cat",), "d": ("person",)}
    for split, ids in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(ids.split()))
    (root / "Annotations").mkdir()
    for sample_id, names in objects.items():
        picture(root / "JPEGImages" / f"{sample_id}.jpg")
        text = "".join(f"<object><name>{name}</name></object>" for name in names)
        (root / "Annotations" / f"{sample_id}.xml").write_text(f"<annotation>{text}</annotation>")
    dataset = open_dataset(tmp_path)
    write_custom(dataset, tmp_path / "out")
    assert (tmp_path / "out" / "images").resolve() == root / "JPEGImages"
    read = open_dataset(tmp_path / "out")
    assert read.class_names == dataset.class_names
    assert {sample.id: sample.classes for sample in read.split("train")} == {"a": (1, 2), "b": (), "c": (1,)}
    assert {sample.id: sample.classes for sample in read.split("val")} == {"d": (3,)}
    assert set(read.splits) == {"train", "val"}


def test_write_custom__coco(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, category in (("train2014", 7), ("val2014", 3)):
        picture(root / "images" / split / "1.jpg")  # the same name in both
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 3, "width": 4}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": category}],
            "categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "hot dog"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    dataset = open_dataset(root)
    write_custom(dataset, tmp_path / "out")
    assert (tmp_path / "out" / "images").resolve() == root / "images"
    read = open_dataset(tmp_path / "out")
    assert read.class_names == dataset.class_names == ("car", "hot dog")
    assert labels(read) == labels(dataset)
    assert [sample.id for sample in read.split("val")] == ["val2014/1"]


@pytest.mark.parametrize("name", ["cat;dog", "#cat", " cat", "cat  dog"])
def test_write_custom__class_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    dataset = replace(class_folders(tmp_path / "photos"), class_names=(name, "dogs"))
    with pytest.raises(DataError, match=r"^class '.*' cannot be written to labels\.csv and classes\.txt, where ';'"):
        write_custom(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["labels.csv", "classes.txt", "images", "masks"])
def test_write_custom__overwrites_nothing(tmp_path: Path, name: str) -> None:
    dataset = class_folders(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"{name} exists already, and nothing was written: give another folder$"):
        write_custom(dataset, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_write_custom__of_a_custom_folder(tmp_path: Path) -> None:
    write_custom(class_folders(tmp_path / "photos"), tmp_path / "out")
    with pytest.raises(DataError, match=r"out already has a labels\.csv: there is nothing to write$"):
        write_custom(open_dataset(tmp_path / "out"), tmp_path / "again")


def test_write_custom__without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no labelled images: there is nothing to write"):
        write_custom(replace(class_folders(tmp_path / "photos"), splits={"train": ()}), tmp_path / "out")
