"""No name that is written in a table, a list or an annotation file leads out of the data set's folder."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.errors import DataError
from data.readers import open_dataset

# Each leads to the picture beside the data set, if it is taken at its word.
NAMES = (
    "../../secret.png",
    "../../secret",
    "a/../../../secret.png",
    "./../../secret.png",
    "..\\..\\secret.png",
    "%2e%2e/%2e%2e/secret.png",
    "..%2f..%2fsecret.png",
    "{absolute}",
    "file://{absolute}",
    "//{absolute}",
    "../images/../../secret.png",
    "link/secret.png",
)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40)).save(path)


def custom(root: Path, name: str) -> None:
    picture(root / "images/a.png")
    with (root / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("image", "labels"), ("a.png", "cat"), (name, "dog")])


def voc(root: Path, name: str) -> None:
    picture(root / "JPEGImages/a.jpg")
    for file, text in {
        "ImageSets/Segmentation/train.txt": f"a\n{name}\n",
        "Annotations/a.xml": "<annotation><object><name>cat</name></object></annotation>",
        "../secret.xml": "<annotation><object><name>dog</name></object></annotation>",
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)


def coco(root: Path, name: str) -> None:
    picture(root / "images/a.png")
    entries = [
        {"id": number, "file_name": one, "height": 40, "width": 40} for number, one in enumerate(("a.png", name))
    ]
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 5, 5]} for number in range(2)]
    (root / "annotations").mkdir()
    content = {
        "images": entries,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [custom, voc, coco])
@pytest.mark.parametrize("skip_bad", [True, False])
def test_names__never_lead_out(layout: Callable[[Path, str], None], name: str, skip_bad: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for secret in ("secret.png", "secret.jpg"):
        picture(tmp_path / secret)
    layout(root, name.format(absolute=tmp_path / "secret.png"))
    try:
        dataset = open_dataset(root, skip_bad=skip_bad)
    except DataError:
        return
    for sample in dataset.by_id().values():
        assert sample.image.resolve().is_relative_to(root.resolve())
        assert not sample.id.startswith(("/", ".."))
