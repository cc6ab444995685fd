from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
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
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(*classes))
    return folder


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
    with pytest.raises(DataError, match=r"Annotations/d\.xml is missing: add it, since it has the labels of the image"):
        read_voc(build(tmp_path, {"train": "d\n"}))


def test_read_voc__damaged_annotation(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"a\.xml cannot be read: no element found"):
        read_voc(root)


def test_read_voc__unknown_class(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "Annotations" / "a.xml").write_text(annotation("dog", "zebra"))
    with pytest.raises(DataError, match=r"a\.xml: 'zebra' is not a class of Pascal VOC \('aeroplane', .*'tvmonitor'\)"):
        read_voc(root)


def test_read_voc__image_listed_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split 'train': 'a' occurs twice"):
        read_voc(build(tmp_path, {"train": "a\na\n"}))
