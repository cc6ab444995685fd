from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from data.coco_reader import find_coco, read_coco
from data.errors import DataError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def entry(category: int, area: float, segmentation: object, image: int = 1) -> dict[str, Any]:
    crowd = int(isinstance(segmentation, dict))
    return {
        "image_id": image,
        "category_id": category,
        "area": area,
        "iscrowd": crowd,
        "segmentation": segmentation,
    }


def build(
    root: Path,
    annotations: list[dict[str, Any]],
    *,
    name: str = "train2014",
    folder: str = "train2014",
    categories: list[dict[str, Any]] | None = None,
    file_names: Mapping[int, str] | None = None,
) -> Path:
    images = [
        {"id": number, "file_name": file, "height": 6, "width": 8}
        for number, file in (file_names or {1: "COCO_1.jpg", 2: "COCO_2.jpg"}).items()
    ]
    for image in images:
        path = root / folder / str(image["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": numbered, "categories": categories or CATEGORIES}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


def read_only_mask(root: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    (sample,) = read_coco(root).split()
    assert sample.mask is not None
    return sample.mask.read()


def test_read_coco__labels_in_the_order_of_category_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build(tmp_path, [entry(90, 4, square(0, 0, 2)), entry(1, 4, square(4, 0, 2)), entry(1, 1, square(0, 4, 1))])
    dataset = read_coco(root)
    assert dataset.class_names == ("person", "dog", "toothbrush")
    (sample,) = dataset.split()
    assert (sample.id, sample.classes) == ("COCO_1", (1, 3))
    assert sample.image == tmp_path / "train2014" / "COCO_1.jpg"
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("coco", "train", None)
    assert dataset.warnings == ("images without annotation in instances_train2014.json, skipped: 1",)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("reverse", [False, True])
def test_coco_mask__smaller_object_on_top(tmp_path: Path, reverse: bool) -> None:
    annotations = [entry(18, 16, square(0, 0, 4)), entry(1, 4, square(1, 1, 2))]
    mask = read_only_mask(build(tmp_path, annotations[::-1] if reverse else annotations))
    expected = np.zeros((6, 8), np.uint8)
    expected[:4, :4] = 2
    expected[1:3, 1:3] = 1
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["uncompressed", "compressed"])
def test_coco_mask__crowd_counts_as_its_class(tmp_path: Path, kind: str) -> None:
    crowd = np.zeros((6, 8), np.uint8)
    crowd[2:5, 3:] = 1
    code = run_lengths.encode(np.asfortranarray(crowd))
    columns = crowd.flatten(order="F")
    changes = np.flatnonzero(np.diff(columns)) + 1
    counts: Any = np.diff([0, *changes, columns.size]).tolist()
    if kind == "compressed":
        counts = np.bytes_(code["counts"]).decode()
    mask = read_only_mask(build(tmp_path, [entry(90, 15, {"size": [6, 8], "counts": counts})]))
    assert mask.tolist() == (crowd * 3).tolist()


def test_coco_mask__object_of_several_polygons(tmp_path: Path) -> None:
    annotations = [entry(1, 2, [*square(0, 0, 1), *square(5, 3, 1), [1.0, 1.0, 2.0, 2.0]])]
    assert np.argwhere(read_only_mask(build(tmp_path, annotations))).tolist() == [[0, 0], [3, 5]]


def test_coco_mask__object_too_small_for_a_polygon(tmp_path: Path) -> None:
    annotations = [entry(1, 0, [[1.0, 1.0, 2.0, 2.0]]), entry(18, 1, square(0, 0, 1))]
    assert np.argwhere(read_only_mask(build(tmp_path, annotations))).tolist() == [[0, 0]]


def test_coco_mask__pickles(tmp_path: Path) -> None:
    (sample,) = read_coco(build(tmp_path, [entry(18, 16, square(0, 0, 4))])).split()
    assert sample.mask is not None
    copy = pickle.loads(pickle.dumps(sample.mask))
    assert np.array_equal(copy.read(), sample.mask.read())
    assert str(copy) == f"the mask of 'COCO_1.jpg' in {tmp_path}/annotations/instances_train2014.json"


def test_read_coco__box_without_outline_gives_a_label_and_no_mask(tmp_path: Path) -> None:
    (sample,) = read_coco(build(tmp_path, [entry(18, 16, []), entry(1, 4, square(0, 0, 2))])).split()
    assert sample.classes == (1, 2)
    assert sample.mask is None


@pytest.mark.parametrize("parent", [".", "images", "JPEGImages"])
@pytest.mark.parametrize("year", ["2014", "2017"])
def test_read_coco__splits(tmp_path: Path, parent: str, year: str) -> None:
    (tmp_path / "images").mkdir()
    for name in (f"train{year}", f"val{year}"):
        build(tmp_path, [entry(1, 4, square(0, 0, 2))], name=name, folder=f"{parent}/{name}")
    dataset = read_coco(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert (dataset.train_split, dataset.val_split) == ("train", "val")
    assert dataset.split("val")[0].image.is_file()


def test_read_coco__both_years(tmp_path: Path) -> None:
    for name in ("train2014", "train2017", "val2017"):
        build(tmp_path, [entry(1, 4, square(0, 0, 2))], name=name, folder=name)
    dataset = read_coco(tmp_path)
    assert list(dataset.splits) == ["train2014", "train2017", "val"]
    assert (dataset.train_split, dataset.val_split) == ("train2014", "val")


def test_read_coco__plain_images_folder(tmp_path: Path) -> None:
    root = build(tmp_path, [entry(1, 4, square(0, 0, 2))], name="default", folder="images", file_names={1: "x/a.png"})
    (sample,) = read_coco(root).split("default")
    assert sample.id == "x/a"


def test_read_coco__split_without_images_is_left_out(tmp_path: Path) -> None:
    build(tmp_path, [entry(1, 4, square(0, 0, 2))], name="val2014", folder="elsewhere")
    build(tmp_path, [entry(1, 4, square(0, 0, 2), image=2)], file_names={2: "COCO_2.jpg"})
    dataset = read_coco(tmp_path)
    assert list(dataset.splits) == ["train"]
    assert dataset.warnings == ("annotations/instances_val2014.json is skipped: its images are missing",)


def test_read_coco__no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has annotations/ but no images: put the images into one of '"):
        read_coco(build(tmp_path, [], folder="elsewhere"))


def test_read_coco__other_categories(tmp_path: Path) -> None:
    build(tmp_path, [entry(1, 4, square(0, 0, 2))])
    build(tmp_path, [entry(1, 4, [])], name="val2014", folder="val2014", categories=[{"id": 1, "name": "cat"}])
    with pytest.raises(DataError, match=r"val2014\.json has other categories than split 'train'"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([entry(2, 4, square(0, 0, 2))], r"train2014\.json: image 'COCO_1\.jpg' has the unknown category 2"),
        (
            [{"image_id": 1, "category_id": 1, "segmentation": square(0, 0, 2)}],
            r"a key or value is missing or wrong \('area'\)",
        ),
        ([{"image_id": 1}], r"is not a file of COCO instances: a key or value is missing or wrong \('category_id'\)"),
        ([entry(1, 4, {"size": [8, 6], "counts": [0, 48]})], "a region does not have the size of the image, 6 x 8"),
        ([entry(1, 4, {"size": [6, 8], "counts": [0, 4]})], "a region does not have the size of the image, 6 x 8"),
    ],
)
def test_read_coco__bad_annotation(tmp_path: Path, annotations: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_coco(build(tmp_path, annotations))


def test_read_coco__path_outside_the_folder(tmp_path: Path) -> None:
    root = build(tmp_path / "data", [entry(1, 4, [])], file_names={1: "../../a.jpg"})
    with pytest.raises(DataError, match=r"image '\.\./\.\./a\.jpg' is outside .*train2014"):
        read_coco(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is damaged: "), ("[]", "is not a file of COCO instances: it lacks 'images', 'ann")],
)
def test_read_coco__damaged_file(tmp_path: Path, content: str, message: str) -> None:
    root = build(tmp_path, [])
    (root / "annotations" / "instances_train2014.json").write_text(content)
    with pytest.raises(DataError, match=f"instances_train2014.json {message}"):
        read_coco(root)


def test_find_coco__instances_only(tmp_path: Path) -> None:
    root = build(tmp_path, [])
    (root / "annotations" / "captions_train2014.json").write_text("{}")
    assert [path.name for path in find_coco(root)] == ["instances_train2014.json"]
    assert find_coco(root / "annotations") == []
