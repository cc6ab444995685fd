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
    write_mask(folder / "SegmentationClass" / "b.png", [[0, 8]], palette=True)  # a cat, numbered as in Pascal VOC
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


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_read_voc__other_names_of_the_validation_list(name: str, tmp_path: Path) -> None:
    dataset = read_voc(build(tmp_path, {"train": "a\n", name: "b\n", "test": "c\n"}))
    assert [one.id for one in dataset.split("val")] == ["b"]
    assert dataset.val_split == "val"


def test_read_voc__tells_of_unused_masks(tmp_path: Path) -> None:
    root = build(tmp_path)
    assert read_voc(root).warnings == ()
    write_mask(root / "SegmentationClass" / "a_mask.png", [[0, 8]], palette=False)
    write_mask(root / "SegmentationClass" / "c.jpg", [[0, 8]], palette=False)
    (warning,) = read_voc(root).warnings
    assert warning.endswith(
        "not used as ground truth: 2 (first a_mask.png); a mask is a PNG with the name of its image"
    )


def test_read_voc__other_forms_of_lists(tmp_path: Path) -> None:
    lists = {"train": "a  1\n\n", "trainaug": "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"}
    dataset = read_voc(build(tmp_path, lists, kind="Main"))
    assert [sample.id for sample in dataset.split("train")] == ["a"]
    assert [sample.id for sample in dataset.split("train_aug")] == ["a"]


@pytest.mark.parametrize("palette", [True, False])
def test_read_voc__augmented_masks_come_first(tmp_path: Path, palette: bool) -> None:
    root = build(tmp_path)
    write_mask(root / "SegmentationClass" / "a.png", [[0, 12]], palette=True)
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
        assert find_voc(root) == {"": folder}
        assert read_voc(root).root == folder
    assert read_voc(folder).warnings == ()
    assert read_voc(folder.parent).warnings == (f"{folder} is read, but not 'VOC2007' beside it",)
    assert find_voc(tmp_path) == {}


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
    shutil.rmtree(root / "SegmentationClass")
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
        assert (sample.id, sample.image.name, sample.classes) == (name, f"{name}{suffix}", (1,))


def test_read_voc__missing_images(tmp_path: Path) -> None:
    root = build(tmp_path, {"train": "a\nb 2\nc 3.jpg\nB.JPG\n"})
    with pytest.raises(
        DataError,
        match=r"list 'train' of .*, line 2: image 'b 2' is missing in JPEGImages/ \(.*\).*\(and 1 more\), or skip",
    ):
        read_voc(root).split()
    dataset = read_voc(root, skip_bad=True)
    assert [one.id for one in dataset.split()] == ["a", "b"]
    assert len(dataset.missing) == 2
    assert dataset.warnings[0].endswith("1, for example 'B.JPG' for 'b.jpg'")


@pytest.mark.parametrize("line", ["d", "d.heic"])
def test_read_voc__image_that_is_not_read(tmp_path: Path, line: str) -> None:
    root = build(tmp_path, {"train": f"a\n{line}\n"})
    (root / "JPEGImages" / "d.heic").write_bytes(b"")
    with pytest.raises(DataError, match=rf"line 2: image '{line}' is in JPEGImages/ as 'd\.heic', a kind"):
        read_voc(root).split()


def test_read_voc__lists_of_other_names(tmp_path: Path) -> None:
    root = build(tmp_path, {"default": "a\nb\n", "cat_default": "a -1\nb 1\n"}, kind="Main")
    dataset = read_voc(root)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["default"], "default", None)


def test_read_voc__annotations_alone(tmp_path: Path) -> None:
    root = build(tmp_path)
    shutil.rmtree(root / "ImageSets")
    assert find_voc(tmp_path) == {"": root}
    assert [one.id for one in read_voc(root).split("train")] == ["a", "b", "c"]


def test_read_voc__images_beside_annotations(tmp_path: Path) -> None:
    root = build(tmp_path)
    shutil.rmtree(root / "ImageSets")
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


def annotated(folder: Path, images: dict[str, str], names: tuple[str, str] = ("images", "annotations")) -> Path:
    """Write images with one class each, without lists."""
    pictures, annotations = (folder / name for name in names)
    for path in (pictures, annotations):
        path.mkdir(parents=True, exist_ok=True)
    for name, one in images.items():
        Image.new("L", (8, 6)).save(pictures / f"{name}.jpg")
        (annotations / f"{name}.xml").write_text(annotation(one))
    return folder


@pytest.mark.parametrize("names", [("images", "annotations"), ("JPEGImages", "Annotations")])
@pytest.mark.parametrize("validation", ["val", "valid", "test"])
def test_read_voc__folders_of_splits(tmp_path: Path, names: tuple[str, str], validation: str) -> None:
    annotated(tmp_path / "train", {"a": "cat", "b": "nut"}, names)
    annotated(tmp_path / validation, {"a": "dog"}, names)
    dataset = open_dataset(tmp_path)
    assert (dataset.root, dataset.class_names) == (tmp_path, ("cat", "dog", "nut"))
    assert (dataset.train_split, dataset.val_split) == ("train", validation)
    assert {split: [(one.id, one.classes) for one in samples] for split, samples in dataset.splits.items()} == {
        "train": [(f"train/{names[0]}/a", (1,)), (f"train/{names[0]}/b", (3,))],
        validation: [(f"{validation}/{names[0]}/a", (2,))],
    }
    assert dataset.warnings == ()
    assert read_voc(tmp_path / "train").class_names == ("cat", "nut")  # one of its folders is a data set as well


def test_read_voc__folder_of_a_split_without_annotations(tmp_path: Path) -> None:
    annotated(tmp_path / "train", {"a": "cat"})
    annotated(tmp_path / "test", {})
    Image.new("L", (8, 6)).save(tmp_path / "test" / "images" / "t.jpg")
    (tmp_path / "more").mkdir()
    Image.new("L", (8, 6)).save(tmp_path / "more" / "m.jpg")
    dataset = read_voc(tmp_path)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["train"], "train", None)
    assert [one.id for one in dataset.unlabelled] == ["t"]
    assert dataset.warnings == (f"images in {tmp_path / 'more'} are not read",)
    (tmp_path / "train" / "annotations" / "a.xml").rename(tmp_path / "test" / "annotations" / "t.xml")
    dataset = read_voc(tmp_path)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["test"], "train", "test")


def test_read_voc__class_files_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        annotated(tmp_path / split, {"a": "cat"})
    (tmp_path / "train" / "classes.txt").write_text("dog\ncat\n")
    assert read_voc(tmp_path).class_names == ("dog", "cat")
    (tmp_path / "val" / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"train/classes\.txt and .*val/classes\.txt list different classes: keep one"):
        read_voc(tmp_path)


@pytest.mark.parametrize("other", ["dogs/1.jpg", "dogs/more/1.jpg", "dogs/images/1.jpg"])
def test_find_voc__other_images_beside_it(tmp_path: Path, other: str) -> None:
    annotated(tmp_path / "cats", {"a": "cat"})
    assert find_voc(tmp_path) == {"": tmp_path / "cats"}
    (tmp_path / other).parent.mkdir(parents=True)
    Image.new("L", (8, 6)).save(tmp_path / other)
    with pytest.raises(
        DataError, match=r"of Pascal VOC in 'cats' beside images in 'dogs': give the path of one folder"
    ):
        open_dataset(tmp_path)


@pytest.mark.parametrize("names", [("cats", "dogs"), ("train", "dogs"), ("VOC2012", "mine")])
def test_find_voc__several_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        annotated(tmp_path / name, {"a": "cat"})
    told = ", ".join(f"'{name}'" for name in sorted(names))
    with pytest.raises(DataError, match=rf"Pascal VOC in {told}: give the path of one folder, move all"):
        find_voc(tmp_path)


def test_find_voc__without_lists_in_vocdevkit(tmp_path: Path) -> None:
    folder = annotated(tmp_path / "VOCdevkit" / "mine", {"a": "cat"})
    assert find_voc(tmp_path) == {"": folder}


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("value", ["own", "voc", "no mask"])
def test_read_voc__few_of_the_20_classes(tmp_path: Path, lists: bool, value: str) -> None:
    classes = {"a": "cat", "b": "dog", "c": "cat"}
    annotated(tmp_path, classes, ("JPEGImages", "Annotations"))
    if lists:
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    numbers = {"own": {"cat": 1, "dog": 2}, "voc": {"cat": 8, "dog": 12}, "no mask": {}}[value]
    for name, one in classes.items():
        if numbers:
            write_mask(tmp_path / "SegmentationClass" / f"{name}.png", [[0, numbers[one], 255]], palette=True)
    dataset = read_voc(tmp_path)
    assert dataset.class_names == (CLASS_NAMES if value == "voc" else ("cat", "dog"))
    assert ["numbered in the order of their names" in line for line in dataset.warnings] == [True] * (value == "own")


def test_read_voc__most_of_the_20_classes(tmp_path: Path) -> None:
    annotated(tmp_path, {name: name for name in CLASS_NAMES[:10]})
    assert read_voc(tmp_path).class_names == CLASS_NAMES[:10]
    annotated(tmp_path, {CLASS_NAMES[12]: CLASS_NAMES[12]})
    assert read_voc(tmp_path).class_names == CLASS_NAMES
    write_mask(tmp_path / "SegmentationClass" / f"{CLASS_NAMES[12]}.png", [[0, 11]], palette=True)
    assert len(read_voc(tmp_path).class_names) == 11


def test_read_voc__preview_beside_an_image(tmp_path: Path) -> None:
    annotated(tmp_path, {"x": "cat", "b": "dog"})
    Image.new("L", (4, 3)).save(tmp_path / "images" / "x.png")
    dataset = read_voc(tmp_path)  # the annotation has <filename>x.jpg</filename>
    assert [one.image.name for one in dataset.split()] == ["b.jpg", "x.jpg"]
    assert dataset.warnings == (
        "images without labels that have the name of another image, skipped: 1, for example 'x.png' beside 'x.jpg'",
    )
    Image.new("L", (4, 3)).save(tmp_path / "images" / "b.png")
    with pytest.raises(
        DataError,
        match=r"b\.xml, <filename>: image 'b' could be any of 'b\.(jpg|png)', 'b\.(jpg|png)': write the complete name",
    ):
        read_voc(tmp_path)
    (tmp_path / "annotations" / "b.xml").write_text(annotation("dog").replace("x.jpg", "b.png"))
    assert [one.image.name for one in read_voc(tmp_path).split()] == ["b.png", "x.jpg"]


def test_read_voc__images_without_annotation(tmp_path: Path) -> None:
    annotated(tmp_path, {"a": "cat"})
    Image.new("L", (8, 6)).save(tmp_path / "images" / "b.jpg")
    dataset = read_voc(tmp_path)
    assert [(one.id, one.labelled) for one in dataset.unlabelled] == [("b", False)]
    assert dataset.counted == (
        "images without an annotation, skipped (make-labels --image-labels predicted uses them): 1",
    )


def test_read_voc__annotation_without_image(tmp_path: Path) -> None:
    annotated(tmp_path, {"a": "cat", "bird": "dog"})
    (tmp_path / "images" / "bird.jpg").rename(tmp_path / "images" / "birds.jpg")
    dataset = read_voc(tmp_path)
    with pytest.raises(
        DataError, match=r"bird\.xml: image 'bird' is missing in images/ \(did you mean 'birds\.jpg'\?\)"
    ):
        dataset.split()
    assert [one.id for one in read_voc(tmp_path, skip_bad=True).split()] == ["a"]
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.xml: image 'a' is missing in images/ .*\(and 1 more\)$"):
        read_voc(tmp_path)


def test_read_voc__missing_images_of_one_list_stop_that_split_alone(tmp_path: Path) -> None:
    root = build(tmp_path, {"train": "a\nb\n", "val": "c\nd\n"})
    dataset = read_voc(root)
    assert [one.id for one in dataset.split()] == ["a", "b"]
    assert dataset.counted == ("listed images that are missing, skipped: 1",)
    with pytest.raises(
        DataError, match=r"list 'val' of .*, line 2: image 'd' is missing in .*, or skip it with --skip-"
    ):
        dataset.split("val")
    assert [one.id for one in read_voc(root, skip_bad=True).split("val")] == ["c"]


def test_read_voc__files_of_macos(tmp_path: Path) -> None:
    root = annotated(tmp_path / "mine", {"a": "cat"})
    for folder in (root, annotated(tmp_path / "__MACOSX", {"b": "cat"})):
        (folder / "annotations" / "._a.xml").write_bytes(b"\0\5\x16\7")
        (folder / "images" / "._a.jpg").write_bytes(b"\0\5\x16\7")
    for given in (root, tmp_path):
        assert [one.id for one in read_voc(given).split()] == ["a"]


def test_read_voc__list_of_classes_with_nearly_the_right_name(tmp_path: Path) -> None:
    root = annotated(tmp_path / "mine", {"a": "cat"})
    (root / "Classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"Classes\.txt is not read: rename it to classes\.txt"):
        read_voc(root)
