from __future__ import annotations

import json
import pickle
import re
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


def compressed(height: int, width: int) -> str:
    """Return the run lengths of an object that fills an image."""
    code = run_lengths.encode(np.asfortranarray(np.ones((height, width), np.uint8)))
    return np.bytes_(code["counts"]).decode()


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
    assert [(one.id, one.labelled, one.mask) for one in dataset.unlabelled] == [("COCO_2", False, None)]
    assert sample.image == tmp_path / "train2014" / "COCO_1.jpg"
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("coco", "train", None)
    assert dataset.warnings == ()  # `find_all` reports the unlabelled images
    assert dataset.counted == (
        "images without annotation in annotations/instances_train2014.json: 1, more than 10%, so that they are "
        "probably not annotated yet: not trained on (make-labels --image-labels predicted uses them)",
    )
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
    with pytest.raises(DataError, match=r"has annotations, but its images are missing: put them into one of '"):
        read_coco(build(tmp_path, [], folder="elsewhere"))


def test_read_coco__other_categories(tmp_path: Path) -> None:
    build(tmp_path, [entry(1, 4, square(0, 0, 2))])
    build(tmp_path, [entry(1, 4, [])], name="val2014", folder="val2014", categories=[{"id": 1, "name": "cat"}])
    with pytest.raises(
        DataError, match=r"val2014\.json has other categories than the training split, for example 'cat'"
    ):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            [entry(2, 4, square(0, 0, 2))],
            r"train2014\.json: annotations\[0\] \(id 1\): category_id 2 is not in 'categories'",
        ),
        ([entry(1, 4, []), {"image_id": 1}], r"annotations\[1\] \(id 2\): 'category_id' is missing: correct or remove"),
        (
            [{"category_id": 1}] * 5,
            r"\[2\] \(id 3\): 'image_id' is missing; and 2 more wrong entries: correct or remove them",
        ),
        (
            [entry(1, 4, {"size": [8, 6], "counts": [0, 48]})],
            r"are for an image of \[8, 6\], not of \[6, 8\] \(height, w",
        ),
        ([entry(1, 4, {"size": [6, 8], "counts": [0, 4]})], "add up to 4 pixels, the image has 6 x 8 "),
        ([entry(1, 4, {"size": [6, 8], "counts": [50, -2]})], "its run lengths are damaged"),
        ([entry(1, 4, {"size": [6, 8], "counts": 48})], "its run lengths are damaged"),
        ([entry(1, 4, {"counts": "PPP"})], "its run lengths are damaged"),  # the last number does not end
        ([entry(1, 4, {"counts": "\n"})], "its run lengths are damaged"),
        ([entry(1, 4, {"counts": compressed(10, 10)})], "add up to 100 pixels, the image has 6 x 8 "),
        ([entry(1, 4, [[0, 0, 1]])], "a polygon is not a list of numbers x0, y0, x1, y1"),
        ([entry(1, 4, [[[0, 0], [1, 1], [1, 2]]])], "a polygon is not a list of numbers x0, y0, x1, y1"),
        ([entry(1, 4, [[0, 0, "a", 1, 1, 2]])], "a polygon is not a list of numbers x0, y0, x1, y1"),
        ([entry(1, 4, [[0, 0, 1e9, 1, 1, 2]])], "a polygon has corners far outside the image"),
        ([entry(1, 4, [[0, 0, float("nan"), 1, 1, 2]])], "a polygon has corners far outside the image"),
        ([entry(1, 4, "polygon")], "'segmentation' is neither a list of polygons nor run lengths"),
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
    [("{", "is damaged: "), ("[]", "is not a file of COCO instances: it lacks lists of 'images', 'ann")],
)
def test_read_coco__damaged_file(tmp_path: Path, content: str, message: str) -> None:
    root = build(tmp_path, [])
    (root / "annotations" / "instances_train2014.json").write_text(content)
    with pytest.raises(DataError, match=f"instances_train2014.json {message}"):
        read_coco(root)


def test_find_coco__instances_only(tmp_path: Path) -> None:
    root = build(tmp_path, [])
    (root / "annotations" / "captions_train2014.json").write_text("{}")
    assert find_coco(root) == {"train": root / "annotations" / "instances_train2014.json"}
    assert find_coco(root / "annotations") == {}


def test_read_coco__roboflow(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "disc", "supercategory": "shapes"},
        {"id": 2, "name": "square", "supercategory": "shapes"},
    ]
    for number, split in enumerate(("train", "valid", "test")):
        build(tmp_path, [entry(1 + number % 2, 4, [])], folder=split, categories=categories)
        (tmp_path / "annotations" / "instances_train2014.json").rename(tmp_path / split / "_annotations.coco.json")
    (tmp_path / "annotations").rmdir()
    dataset = read_coco(tmp_path)
    assert dataset.class_names == ("disc", "square")
    assert (dataset.train_split, dataset.val_split) == ("train", "valid")
    assert {split: [(one.id, one.classes) for one in samples] for split, samples in dataset.splits.items()} == {
        "train": [("train/COCO_1", (1,)), ("train/COCO_2", ())],
        "valid": [("valid/COCO_1", (2,)), ("valid/COCO_2", ())],
        "test": [("test/COCO_1", (1,)), ("test/COCO_2", ())],
    }
    assert dataset.warnings[0] == (
        "images without annotation in train/_annotations.coco.json: 1, read as images that show none of the classes"
    )
    assert read_coco(tmp_path / "valid").split()[0].id == "COCO_1"  # one of its folders is a data set as well


def test_read_coco__one_split_of_any_name(tmp_path: Path) -> None:
    build(tmp_path, [entry(1, 4, [])], name="default", folder="images/default")
    dataset = read_coco(tmp_path)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["default"], "default", None)


def test_read_coco__files_without_prefix(tmp_path: Path) -> None:
    for split in ("train", "val"):
        build(tmp_path, [entry(1, 4, [])], name=split, folder=split, file_names={1: f"{split}.jpg"})
        (tmp_path / "annotations" / f"instances_{split}.json").rename(tmp_path / "annotations" / f"{split}.json")
    assert list(read_coco(tmp_path).splits) == ["train", "val"]


def change(root: Path, **sections: Any) -> Path:
    """Replace sections of the annotation file."""
    (file,) = (root / "annotations").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8-sig")), **sections}), encoding="utf-8-sig")
    return root


def test_read_coco__no_area_no_size_and_byte_order_mark(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 18, "segmentation": square(0, 0, 4)},
        {"image_id": 1, "category_id": 1, "segmentation": square(1, 1, 2)[0]},  # a polygon without its list
        {"image_id": 1, "category_id": 90, "segmentation": {"counts": [46, 2]}},
    ]
    expected = np.zeros((6, 8), np.uint8)
    expected[:4, :4] = 2
    expected[1:3, 1:3] = 1  # the smaller one is on top, though no area is given
    expected[4:, 7] = 3
    root = build(tmp_path, annotations)
    for extra in ({}, {"height": None}, {"height": 0, "width": 0}, {"height": "6", "width": 8.0}):
        change(root, images=[{"id": 1, "file_name": "COCO_1.jpg", **extra}])
        assert read_only_mask(root).tolist() == expected.tolist()


def test_read_coco__box_without_size_in_an_image_that_is_damaged(tmp_path: Path) -> None:
    root = change(build(tmp_path, [entry(1, 4, [])]), images=[{"id": 1, "file_name": "COCO_1.jpg"}])
    (root / "train2014" / "COCO_1.jpg").write_text("")
    assert read_coco(root).split()[0].classes == (1,)


def test_read_coco__ids_as_text(tmp_path: Path) -> None:
    root = build(tmp_path, [entry(18, 4, []) | {"category_id": "18"}, entry(90, 4, [], image=2) | {"image_id": "2"}])
    change(root, categories=[{**one, "id": str(one["id"])} for one in CATEGORIES])
    dataset = read_coco(root)
    assert dataset.class_names == ("person", "dog", "toothbrush")  # in the order 1, 18, 90, not '1', '18', '90' of text
    assert [(one.id, one.classes) for one in dataset.split()] == [("COCO_1", (2,)), ("COCO_2", (3,))]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": "b"}]},
            r"images\[1\] .*'1'\): images\[0\] ",
        ),
        (
            {"images": [{"id": 1}, {"file_name": "COCO_2.jpg"}]},
            r"\[0\] \(id 1\): 'file_name' is missing; images\[1\]: 'id'",
        ),
        ({"images": [7]}, r"images\[0\] is not an object with keys"),
        (
            {"images": [{"id": 1, "file_name": "a", "height": -1}]},
            r"\[0\] \(id 1\): 'height' is -1, not a number of p",
        ),
        ({"images": [{"id": 1, "file_name": "a", "height": "x"}]}, r"\[0\] \(id 1\): 'height' is 'x', not a number"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "x"}]}, r"categories\[3\] \(id 1\): 'person' has the same id"),
        ({"categories": [*CATEGORIES, {"id": 7, "name": "dog"}]}, r"id 7 and 18 are both named 'dog': rename one"),
        (
            {"images": [{"id": 1, "file_name": "COCO_1.jpg"}, {"id": 2, "file_name": "./COCO_1.jpg"}]},
            r"\[1\] .*same file_name",
        ),
        (
            {"categories": [*CATEGORIES, {"id": 7, "name": " dog\u200b"}]},
            r"id 7 and 18 are both named 'dog': rename one",
        ),
        (
            {"categories": [{"id": [], "name": "dog"}]},
            r"categories\[0\] \(id \[\]\): 'id' is \[\], not a whole number",
        ),
        (
            {"images": [{"id": 1, "file_name": " "}]},
            r"'file_name' is ' ', not a text: correct or remove them$",
        ),
        ({"categories": {}}, r"it lacks lists of 'categories'"),
    ],
)
def test_read_coco__bad_entry(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"instances_train2014\.json") as caught:
        read_coco(change(build(tmp_path, [entry(1, 4, []), entry(1, 4, [], image=2)]), **sections))
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_read_coco__annotation_of_no_image(tmp_path: Path) -> None:
    dataset = read_coco(build(tmp_path, [entry(1, 4, []), entry(1, 4, [], image=99)]))
    assert "does not have, skipped: 1, for example annotations[1] (id 2), image_id 99" in dataset.warnings[-1]


def test_read_coco__names_that_are_almost_right(tmp_path: Path) -> None:
    root = build(tmp_path, [entry(1, 4, []), entry(18, 4, [], image=2)])
    images = [{"id": 1, "file_name": "./COCO_1.jpg"}, {"id": 2, "file_name": "train2014\\coco_2.JPG"}]
    assert [one.id for one in read_coco(change(root, images=images)).split()] == ["COCO_1", "COCO_2"]


def test_read_coco__missing_images(tmp_path: Path) -> None:
    root = build(tmp_path, [entry(1, 4, []), entry(18, 4, [], image=2), entry(18, 4, [], image=3)])
    (root / "train2014" / "c.heic").write_bytes(b"")
    names = ("COCO_1.jpg", "COCO_22.jpg", "c.heic")
    change(root, images=[{"id": number, "file_name": name} for number, name in enumerate(names, start=1)])
    with pytest.raises(
        DataError, match=r"json, images\[1\] \(id 2\): image 'COCO_22\.jpg' is missing in train2014/ \(did "
    ):
        read_coco(root).split()
    dataset = read_coco(root, skip_bad=True)
    assert [one.id for one in dataset.split()] == ["COCO_1"]
    assert "'c.heic' is in train2014/ as 'c.heic', a kind of file that is not read" in dataset.missing[1]


def test_read_coco__splits_share_an_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        build(tmp_path, [entry(1, 4, []), entry(18, 4, [], image=2)], name=split, folder="images")
    dataset = read_coco(tmp_path)
    assert [one.id for one in dataset.split("val")] == ["COCO_1", "COCO_2"]
    assert dataset.split("val")[0].image == dataset.split("train")[0].image


def test_read_coco__other_ids_for_the_same_categories(tmp_path: Path) -> None:
    build(tmp_path, [entry(18, 4, [])])
    build(tmp_path, [entry(7, 4, [])], name="val2014", folder="val2014", categories=[{"id": 7, "name": "dog"}])
    dataset = read_coco(tmp_path)
    assert dataset.split("train")[0].classes == dataset.split("val")[0].classes == (2,)


def test_read_coco__missing_images_of_one_split_stop_that_split_alone(tmp_path: Path) -> None:
    for split in ("train", "val"):
        build(tmp_path, [entry(1, 4, []), entry(18, 4, [], image=2)], name=split, folder=split)
    (tmp_path / "val" / "COCO_2.jpg").unlink()
    dataset = read_coco(tmp_path)
    assert [one.id for one in dataset.split()] == ["train/COCO_1", "train/COCO_2"]
    assert dataset.counted == ("images that are missing, skipped: 1",)
    with pytest.raises(
        DataError, match=r"instances_val\.json, images\[1\] \(id 2\): image 'COCO_2\.jpg' is missing in"
    ):
        dataset.split("val")
    assert [one.id for one in read_coco(tmp_path, skip_bad=True).split("val")] == ["val/COCO_1"]


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("folder", ["train", "images/train", "JPEGImages/train"])
def test_read_coco__training_names_that_do_not_match(tmp_path: Path, folder: str, skip_bad: bool) -> None:
    for split in ("train", "val"):
        build(
            tmp_path,
            [entry(1, 4, []), entry(18, 4, [], image=2)],
            name=split,
            folder=split,
            file_names={1: f"{split}.jpg", 2: f"{split}2.jpg"},
        )
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("train", "train2"):
        (tmp_path / "train" / f"{name}.jpg").rename(tmp_path / folder / f"{name}.png")
    dataset = read_coco(tmp_path, skip_bad=skip_bad)
    assert (dataset.train_split, dataset.val_split, len(dataset.split("val"))) == ("train", "val", 2)
    for one in (None, "train"):
        with pytest.raises(
            DataError,
            match=r"image 'train\.jpg' is missing in train/ \(did you mean 'train\.png'\?\).* \(and 1 more\)$",
        ):
            dataset.split(one)
    (tmp_path / "annotations" / "instances_val.json").unlink()
    with pytest.raises(DataError, match=r"instances_train\.json, images\[0\] .* \(did you mean 'train\.png'\?\)"):
        read_coco(tmp_path, skip_bad=skip_bad)


def test_read_coco__one_file_whose_names_do_not_match(tmp_path: Path) -> None:
    root = build(tmp_path, [entry(1, 4, [])], name="default", folder="images")
    change(root, images=[{"id": 1, "file_name": "COCO_1.png"}])
    with pytest.raises(DataError, match=r"is missing in images/ \(did you mean 'COCO_1\.jpg'\?\)"):
        read_coco(root)


def test_read_coco__validation_is_never_trained_on(tmp_path: Path) -> None:
    build(tmp_path, [entry(1, 4, [])], name="train2017", folder="elsewhere")
    build(tmp_path, [entry(1, 4, [])], name="val2017", folder="val2017", file_names={1: "a.jpg"})
    dataset = read_coco(tmp_path)
    assert (list(dataset.splits), dataset.train_split, dataset.val_split) == (["val"], "train", "val")
    assert len(dataset.split("val")) == 1
    with pytest.raises(DataError, match=r"instances_train2017\.json has .*: put them into one of '.*/train2017', '"):
        dataset.split()


@pytest.mark.parametrize(("annotated", "negatives"), [(9, 1), (19, 2), (8, 2), (1, 9)])
def test_read_coco__images_without_annotation(tmp_path: Path, annotated: int, negatives: int) -> None:
    total = annotated + negatives
    annotations = [entry(1, 4, square(0, 0, 2), image=number) for number in range(1, annotated + 1)]
    root = build(tmp_path, annotations, file_names={number: f"{number}.jpg" for number in range(1, total + 1)})
    dataset = read_coco(root)
    few = 10 * negatives <= total
    assert len(dataset.split()) == (total if few else annotated)
    assert len(dataset.unlabelled) == (0 if few else negatives)
    (warning,) = dataset.warnings if few else dataset.counted
    assert ("show none of the classes" in warning) == few
    for sample in dataset.split()[annotated:]:
        assert (sample.classes, sample.labelled) == ((), True)
        assert sample.mask is not None
        assert sample.mask.read().tolist() == np.zeros((6, 8)).tolist()


def test_read_coco__background_image_beside_boxes_has_no_mask(tmp_path: Path) -> None:
    annotations = [entry(1, 4, [], image=number) for number in range(1, 10)]
    root = build(tmp_path, annotations, file_names={number: f"{number}.jpg" for number in range(1, 11)})
    assert [one.mask for one in read_coco(root).split()] == [None] * 10


def test_read_coco__image_without_annotation_in_one_file_and_with_one_in_another(tmp_path: Path) -> None:
    for split, image in (("train", 1), ("val", 2)):
        build(tmp_path, [entry(1, 4, [], image=image)], name=split, folder="images")
    dataset = read_coco(tmp_path)
    assert {sample.id: sample.classes for sample in dataset.by_id().values()} == {"COCO_1": (1,), "COCO_2": (1,)}
    assert dataset.unlabelled == ()


@pytest.mark.parametrize("name", ["background", "_background_", "Background", "__background__", "ignored"])
def test_read_coco__category_for_no_class(tmp_path: Path, name: str) -> None:
    root = build(tmp_path, [entry(1, 4, [])], categories=[{"id": 0, "name": name}, *CATEGORIES])
    assert read_coco(root).class_names == ("person", "dog", "toothbrush")
    change(root, annotations=[entry(0, 4, [])])
    if name.lower() == "background":
        with pytest.raises(DataError, match="lists 'background' as a class"):
            read_coco(root)
    else:
        assert read_coco(root).class_names[0] == name


def test_read_coco__ids_in_order(tmp_path: Path) -> None:
    ids = ("x", 3 * 10**9, "10", 9, "a")
    root = build(tmp_path, [entry(9, 4, [])], categories=[{"id": one, "name": f"class {one}"} for one in ids])
    assert read_coco(root).class_names == ("class 9", "class 10", "class 3000000000", "class a", "class x")
