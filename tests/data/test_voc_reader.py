from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers import open_dataset
from data.voc_reader import CLASS_NAMES, find_voc, read_voc

LISTS = {"train": "a\n", "train_aug": "a\nb\n", "val": "c\n"}


def annotation(*names: str) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>1</difficult><part><name>head</name></part></object>" for name in names
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def build(folder: Path, lists: dict[str, str] | None = None, kind: str = "Segmentation") -> Path:
    for name in ("JPEGImages", f"ImageSets/{kind}", "Annotations", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    for name, content in (LISTS if lists is None else lists).items():
        (folder / "ImageSets" / kind / f"{name}.txt").write_text(content)
    for name, classes in {"a": ("person", "dog", "dog"), "b": ("cat",), "c": ()}.items():
        add(folder, name, *classes)
    return folder


def add(folder: Path, name: str, *classes: str, suffix: str = ".jpg") -> None:
    """Write an image and its annotation."""
    Image.new("L", (8, 6)).save(folder / "JPEGImages" / f"{name}{suffix}")
    (folder / "Annotations" / f"{name}.xml").write_text(annotation(*classes), encoding="utf-8")


def write_mask(path: Path, indices: list[list[int]], *, palette: bool) -> None:
    path.parent.mkdir(exist_ok=True)
    values = np.array(indices, np.uint8)
    image = Image.fromarray(values)
    if palette:
        image = Image.new("P", image.size)
        image.putdata(values.flatten().tolist())
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(path)


def test_read_voc__labels_and_splits(tmp_path: Path) -> None:
    dataset = read_voc(build(tmp_path))
    assert dataset.class_names == CLASS_NAMES
    assert len(CLASS_NAMES) == 20
    assert {name: [sample.id for sample in samples] for name, samples in dataset.splits.items()} == {
        "train": ["a"],
        "train_aug": ["a", "b"],
        "val": ["c"],
    }
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("voc", "train_aug", "val")
    first, second = dataset.split()
    assert (first.classes, second.classes) == ((12, 15), (8,))
    assert first.image == tmp_path / "JPEGImages" / "a.jpg"
    assert dataset.split("val")[0].classes == ()


def test_read_voc__without_the_augmented_list(tmp_path: Path) -> None:
    dataset = read_voc(build(tmp_path, {"train": "a\n"}))
    assert (dataset.train_split, dataset.val_split) == ("train", None)


def test_read_voc__other_forms_of_lists(tmp_path: Path) -> None:
    lists = {"train": "a  1\n\n", "trainaug": "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"}
    dataset = read_voc(build(tmp_path, lists, kind="Main"))
    assert [sample.id for sample in dataset.split("train")] == ["a"]
    assert [sample.id for sample in dataset.split("train_aug")] == ["a"]


@pytest.mark.parametrize("palette", [True, False])
def test_read_voc__augmented_masks_come_first(tmp_path: Path, palette: bool) -> None:
    root = build(tmp_path)
    write_mask(root / "SegmentationClass" / "a.png", [[0, 12]], palette=True)
    write_mask(root / "SegmentationClass" / "b.png", [[0, 8]], palette=True)
    write_mask(root / "SegmentationClassAug" / "a.png", [[15, 255]], palette=palette)
    first, second = read_voc(root).split()
    assert first.mask is not None
    assert second.mask is not None
    assert first.mask.read().tolist() == [[15, 255]]
    assert second.mask.read().tolist() == [[0, 8]]
    assert read_voc(root).split("val")[0].mask is None


def test_find_voc__where_people_point(tmp_path: Path) -> None:
    folder = build(tmp_path / "here" / "VOCdevkit" / "VOC2012")
    build(tmp_path / "here" / "VOCdevkit" / "VOC2007")
    for root in (folder, folder.parent, folder.parent.parent):
        assert find_voc(root) == folder
    assert find_voc(tmp_path) is None


def test_read_voc__no_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has neither ImageSets/Segmentation/train\.txt nor ImageSets/Main/"):
        read_voc(build(tmp_path, {}))


def test_read_voc__missing_annotation(tmp_path: Path) -> None:
    root = build(tmp_path, {"train": "d\na\ne\n"})
    for name in ("d", "e"):
        Image.new("L", (8, 6)).save(root / "JPEGImages" / f"{name}.jpg")
    with pytest.raises(
        DataError,
        match=r"Annotations/d\.xml is missing \(and those of 1 more images\): add it, since it has the labels",
    ):
        read_voc(root)


def test_read_voc__damaged_annotation(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"a\.xml cannot be read: no element found"):
        read_voc(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object></object></annotation>", "has an object without a name: write its class"),
        ('<?xml version="1.0" encoding="gb2312"?><annotation/>', "cannot be read: multi-byte encodings"),
        ('<?xml version="1.0" encoding="x"?><annotation/>', "cannot be read: unknown encoding"),
    ],
)
def test_read_voc__odd_annotation(tmp_path: Path, content: str, message: str) -> None:
    root = build(tmp_path)
    (root / "Annotations" / "a.xml").write_text(content)
    with pytest.raises(DataError, match=rf"a\.xml {message}"):
        read_voc(root)


def test_read_voc__classes_of_the_annotations(tmp_path: Path) -> None:
    root = build(tmp_path)
    add(root, "a", "helmet", "dog")
    dataset = read_voc(root)
    assert dataset.class_names == ("cat", "dog", "helmet")
    assert [one.classes for one in dataset.split()] == [(2, 3), (1,)]
    assert dataset.warnings[0].startswith(
        "the classes are numbered in the order of their names ('cat', 'dog', 'helmet'): "
    )
    (root / "SegmentationClass").rmdir()
    assert read_voc(root).warnings == ()


def test_read_voc__classes_that_look_the_same(tmp_path: Path) -> None:
    root = build(tmp_path, {"train": "a\nb\n"})
    add(root, "a", "helmet", "cafe\u0301 ")
    add(root, "b", "Helmet", "caf\u00e9", "helmet")
    with pytest.raises(DataError, match=r"class 'Helmet' of 'b\.jpg' looks the same as 'helmet'"):
        read_voc(root)
    (root / "classes.txt").write_text("helmet\nHelmet\ncafe\u0301\n", encoding="utf-8")
    assert [one.classes for one in read_voc(root).split()] == [(1, 3), (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "person\ndog\ncat\n"),
        ("classes.txt", "\ufeffbackground\r\n\r\nperson\r\ndog\r\ncat"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:1,2,3::\ndog:4,5,6::\ncat:7::\n"),
    ],
)
def test_read_voc__classes_of_a_list(tmp_path: Path, name: str, content: str) -> None:
    root = build(tmp_path)
    (root / name).write_text(content, encoding="utf-8")
    dataset = read_voc(root)
    assert dataset.class_names == ("person", "dog", "cat")
    assert [one.classes for one in dataset.split()] == [(1, 2), (3,)]


def test_read_voc__class_that_is_not_listed(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(
        DataError, match=r"classes\.txt has no class 'person', but the annotation of 'a\.jpg' has 'person'"
    ):
        read_voc(root)


@pytest.mark.parametrize("name", ["my photo 0", "v1.2", "a-b (1)", "Größe", "a 1"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif"])
def test_read_voc__names(tmp_path: Path, name: str, suffix: str) -> None:
    root = build(tmp_path, {"train": "", "val": ""})
    add(root, name, "dog", suffix=suffix)
    for line in (name, f"{name}  1", f"{name}{suffix}", f"/JPEGImages/{name}{suffix} /SegmentationClass/{name}.png"):
        (root / "ImageSets" / "Segmentation" / "train.txt").write_text(f"{line}\n", encoding="utf-8")
        (sample,) = read_voc(root).split()
        assert (sample.id, sample.image.name, sample.classes) == (name, f"{name}{suffix}", (12,))


def test_read_voc__missing_images(tmp_path: Path) -> None:
    root = build(tmp_path, {"train": "a\nb 2\nc 3.jpg\nB.JPG\n"})
    with pytest.raises(
        DataError,
        match=r"list 'train' of .*, line 2: image 'b 2' is missing in JPEGImages/ \(.*\).*\(and 1 more\), or skip",
    ):
        read_voc(root)
    dataset = read_voc(root, skip_bad=True)
    assert [one.id for one in dataset.split()] == ["a", "b"]
    assert len(dataset.missing) == 2
    assert dataset.warnings[0].endswith("1, for example 'B.JPG' for 'b.jpg'")


@pytest.mark.parametrize("line", ["d", "d.heic"])
def test_read_voc__image_that_is_not_read(tmp_path: Path, line: str) -> None:
    root = build(tmp_path, {"train": f"a\n{line}\n"})
    (root / "JPEGImages" / "d.heic").write_bytes(b"")
    with pytest.raises(DataError, match=rf"line 2: image '{line}' is in JPEGImages/ as 'd\.heic', a kind"):
        read_voc(root)


def test_read_voc__lists_of_other_names(tmp_path: Path) -> None:
    root = build(tmp_path, {"default": "a\nb\n", "cat_default": "a -1\nb 1\n"}, kind="Main")
    dataset = read_voc(root)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["default"], "default", None)


def test_read_voc__annotations_alone(tmp_path: Path) -> None:
    root = build(tmp_path)
    shutil.rmtree(root / "ImageSets")
    assert find_voc(tmp_path) == root
    assert [one.id for one in read_voc(root).split("train")] == ["a", "b", "c"]


def test_read_voc__images_beside_annotations(tmp_path: Path) -> None:
    root = build(tmp_path)
    for name in ("ImageSets", "SegmentationClass"):
        shutil.rmtree(root / name)
    (root / "JPEGImages").rename(root / "images")
    (root / "Annotations").rename(root / "annotations")
    assert open_dataset(tmp_path).layout == "voc"
    assert [(one.image.name, one.classes) for one in read_voc(root).split()] == [
        *(("a.jpg", (12, 15)), ("b.jpg", (8,)), ("c.jpg", ()))
    ]


def test_read_voc__list_that_is_not_utf8(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"train\.txt is not in UTF-8 \(byte 3\): save it as UTF-8 text"):
        read_voc(root)


def test_read_voc__image_listed_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list 'train' of .*, line 2: image 'a\.jpg' is in line 1 as well"):
        read_voc(build(tmp_path, {"train": "a\na\n"}))
