"""Random data sets and random damage: a reader returns what was meant, or one clear line, and never a traceback."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from data.dataset import Dataset
from data.errors import DataError
from data.readers import open_dataset

LETTERS = "abcXYZ019_- .éß中я'()&%#"
CLASSES = ("cat", "dog", "helmet", "Größe", "traffic light", "7", "30")
SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".bmp", ".tif", ".webp")

Labels = dict[str, dict[str, frozenset[str]]]  # split -> image without suffix -> names of its classes


def meaning(dataset: Dataset) -> Labels:
    names = dataset.class_names
    return {
        split: {sample.id: frozenset(names[number - 1] for number in sample.classes) for sample in samples}
        for split, samples in dataset.splits.items()
    }


def random_name(chance: random.Random) -> str:
    """Return a name that a list or table can hold: no blank at its ends, and not a comment."""
    while True:
        name = "".join(chance.choices(LETTERS, k=chance.randint(1, 12))).strip(" .")
        if name and not name.startswith("#"):
            return name


def random_labels(chance: random.Random) -> tuple[Labels, dict[str, str]]:
    """Return labels, and the file of each image."""
    by_fold: dict[str, str] = {}
    while len(by_fold) < 8:
        name = random_name(chance)
        by_fold.setdefault(name.casefold().lstrip("0"), name)
    names = list(by_fold.values())
    chance.shuffle(names)
    labels: Labels = {"train": {}, "val": {}}
    for number, name in enumerate(names):
        labels["train" if number < 5 else "val"][name] = frozenset(chance.sample(CLASSES, chance.randint(0, 3)))
    labels["train"][names[0]] |= {"cat"}
    return labels, {name: name + chance.choice(SUFFIXES) for name in names}


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6)).save(path)


def shuffled(chance: random.Random, items: Any) -> list[Any]:
    return chance.sample(list(items), len(list(items)))


def write_table(root: Path, labels: Labels, files: dict[str, str], chance: random.Random) -> None:
    for file in files.values():
        draw(root / "images" / file)
    by_class = chance.random() < 0.5
    used = sorted(
        set(CLASSES) if by_class else frozenset().union(*(one for split in labels.values() for one in split.values()))
    )
    rows = []
    for split, images in labels.items():
        for name, shown in images.items():
            written = files[name] if chance.random() < 0.7 else f"./images/{files[name]}"
            row = {"image": written, "split": chance.choice((split, split.upper()))}
            if by_class:
                row |= {one: chance.choice(("1", "1.0", "True")) if one in shown else "0" for one in used}
            else:
                row["labels"] = chance.choice((";", " ; ")).join(shuffled(chance, sorted(shown)))
            rows.append(row)
    columns = shuffled(chance, rows[0])
    text = io.StringIO()
    delimiter = chance.choice(",\t") if by_class else ","
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator=chance.choice(("\n", "\r\n")))
    writer.writeheader()
    writer.writerows(shuffled(chance, rows))
    (root / "labels.csv").write_text(text.getvalue(), encoding=chance.choice(("utf-8", "utf-8-sig")), newline="")


def write_voc(root: Path, labels: Labels, files: dict[str, str], chance: random.Random) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in labels.items():
        lines = []
        for name, shown in images.items():
            draw(root / "JPEGImages" / files[name])
            objects = "".join(f"<object><name>{escape(one)}</name></object>" for one in sorted(shown))
            text = f"<annotation>{objects}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
            lines.append(chance.choice((name, files[name], f"JPEGImages/{files[name]}", f"{files[name]}  1")))
        text = "\n".join(shuffled(chance, lines))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding=chance.choice(("utf-8", "utf-8-sig")))


def write_coco(root: Path, labels: Labels, files: dict[str, str], chance: random.Random) -> None:
    as_text = chance.random() < 0.5
    beside = chance.random() < 0.5

    def key(number: int) -> int | str:
        return str(number) if as_text else number

    numbers = dict(zip(CLASSES, chance.sample(range(100), len(CLASSES)), strict=True))
    for split, images in labels.items():
        entries, annotations = [], []
        for number, name in enumerate(images):
            draw(root / split / files[name])
            size = chance.choice(({}, {"height": 6, "width": 8}))
            file_name = chance.choice((files[name], f"./{files[name]}"))
            entries.append({"id": key(number), "file_name": file_name, **size})
            for one in images[name]:
                outline: dict[str, Any] = chance.choice(
                    ({}, {"segmentation": []}, {"segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": []})
                )
                annotations.append({"image_id": key(number), "category_id": key(numbers[one]), **outline})
        content = {
            "categories": shuffled(chance, [{"id": key(number), "name": one} for one, number in numbers.items()]),
            "images": shuffled(chance, entries),
            "annotations": shuffled(chance, annotations),
        }
        file = root / split / "_annotations.coco.json" if beside else root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding=chance.choice(("utf-8", "utf-8-sig")))


Writer = Callable[[Path, Labels, dict[str, str], random.Random], None]
WRITERS: dict[str, Writer] = {"custom": write_table, "voc": write_voc, "coco": write_coco}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("layout", WRITERS)
def test_open_dataset__what_was_meant(layout: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    for number in range(4):
        root = tmp_path / str(number)
        labels, files = random_labels(chance)
        WRITERS[layout](root, labels, files, chance)
        dataset = open_dataset(root)
        assert dataset.layout == layout
        if layout == "coco" and (root / "annotations").is_dir():  # more than a few images have no annotation
            labels = {split: {name: one for name, one in images.items() if one} for split, images in labels.items()}
        assert meaning(dataset) == labels, labels
        assert all(sample.image.is_file() for samples in dataset.splits.values() for sample in samples)


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "1",
    "a\nb",
    "../x.jpg",
    "\0",
    [],
    [1],
    {},
    {"id": 1},
)


def damaged_json(content: Any, chance: random.Random) -> Any:
    """Return a copy in which one value at a random place is replaced, removed or doubled."""
    result = copy.deepcopy(content)
    places = list(_places(result))
    parent, place = chance.choice(places)
    action = chance.random()
    if action < 0.6:
        parent[place] = chance.choice(VALUES)
    elif action < 0.8:
        del parent[place]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[place]))
    else:
        parent[chance.choice(("id", "name", "counts", "size"))] = copy.deepcopy(parent[place])
    return result


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for place, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, place
        if isinstance(value, (dict, list)):
            yield from _places(value)


def damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    result = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(result) + 1)
        end = min(len(result), start + chance.choice((0, 1, 1, 5)))
        result[start:end] = chance.choice(
            (b"", b"\0", b"\xff\xfe", b'"', b"\n", b",", b";", b"<", b"&", b"a", b"\xc3\xa9", b"\r")
        )
    return bytes(result)


def read_or_refuse(root: Path) -> None:
    """Open a data set and draw its masks; a DataError in one line is as good."""
    message = ""
    try:
        dataset = open_dataset(root)
        for samples in dataset.splits.values():
            for sample in samples:
                assert all(1 <= number <= len(dataset.class_names) for number in sample.classes)
                assert sample.image.is_file()
                if sample.mask is not None:
                    sample.mask.read()
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1, message
    assert len(message) < 3000, message


COCO = {
    "categories": [{"id": 1, "name": "cat", "supercategory": "none"}, {"id": 3, "name": "dog", "supercategory": "cat"}],
    "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "area": 4, "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"size": [6, 8], "counts": [2, 40, 6]}},
        {"id": 3, "image_id": 2, "category_id": 3, "segmentation": {"size": [6, 8], "counts": "0`1"}},
    ],
}


def damage_coco(root: Path, chance: random.Random, times: int) -> None:
    for name in ("a.jpg", "b.jpg"):
        draw(root / "images" / name)
    file = root / "annotations" / "instances_train.json"
    file.parent.mkdir(parents=True)
    text = json.dumps(COCO).encode()
    for number in range(times):
        file.write_bytes(json.dumps(damaged_json(COCO, chance)).encode() if number % 3 else damaged_bytes(text, chance))
        read_or_refuse(root)


def damage_files(layout: str, names: str, root: Path, chance: random.Random, times: int) -> None:
    labels, files = random_labels(chance)
    WRITERS[layout](root, labels, files, chance)
    paths = sorted(root.glob(names))
    for _ in range(times):
        path = chance.choice(paths)
        content = path.read_bytes()
        path.write_bytes(damaged_bytes(content, chance))
        read_or_refuse(root)
        path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, random.Random, int], None]] = {
    "coco": damage_coco,
    "table": lambda *rest: damage_files("custom", "labels.csv", *rest),
    "voc lists": lambda *rest: damage_files("voc", "ImageSets/Main/*.txt", *rest),
    "voc annotations": lambda *rest: damage_files("voc", "Annotations/*.xml", *rest),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_open_dataset__damaged_files(kind: str, tmp_path: Path) -> None:
    DAMAGE[kind](tmp_path, random.Random(0), 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_open_dataset__many_damaged_files(kind: str, tmp_path: Path) -> None:
    for seed in range(1, 26):
        DAMAGE[kind](tmp_path / str(seed), random.Random(seed), 100)
        shutil.rmtree(tmp_path / str(seed))
