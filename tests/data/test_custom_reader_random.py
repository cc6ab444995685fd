"""Random tables: each gives the data set that is meant; with random damage, no error but a DataError is raised."""

from __future__ import annotations

import contextlib
import csv
import io
import unicodedata
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from data.custom_reader import read_custom
from data.dataset import Dataset
from data.errors import DataError

IMAGES = ("a.jpg", "007.png", "x/Bär.jpeg", "x/y z.JPG", "100%.png", "#h.bmp", " lead.jpg", "IMG_1.tif")
CLASSES = ("cat", "Bär", "traffic light", "10", "2")
DAMAGE = (
    b'"',
    b"'",
    b";",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"..",
    b"/",
    b"%2e",
    b"[",
    b"nan",
    b"\\",
    b"#",
    b"1" * 30,
)

Rows = dict[str, tuple[frozenset[str], str]]  # image -> classes, split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    for name in IMAGES:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / "images" / name)
    return folder


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 100))])
def test_read_custom__random_tables(root: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        rows: Rows = {
            name: (frozenset(random.sample(CLASSES, random.randint(0, 3))), random.choice(["train", "val"]))
            for name in random.sample(IMAGES, random.randint(2, len(IMAGES)))
        }
        rows[next(iter(rows))] = frozenset(random.sample(CLASSES, 1)), "train"
        table = write(rows, random)
        (root / "labels.csv").write_bytes(table)
        assert read_back(read_custom(root), root) == rows, table
        (root / "labels.csv").write_bytes(damaged(table, random))
        for skip_bad in (False, True):
            with contextlib.suppress(DataError):
                read_custom(root, skip_bad=skip_bad)


def write(rows: Rows, random: Random) -> bytes:
    """Write a table in one of the ways that programs and people use."""
    used = sorted(set().union(*(classes for classes, _ in rows.values())))
    columns = ["image", "split", *random.choice([used, ["labels"]])]
    random.shuffle(columns)
    text = io.StringIO()
    table = csv.writer(
        text,
        delimiter=random.choice(",;\t|"),
        lineterminator=random.choice(["\n", "\r\n"]),
        quoting=random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    yes, no = random.choice([("1", "0"), ("True", "False"), ("yes", "No"), ("1.0", "0.0")])
    table.writerow(
        [column if column in ("image", "split", "labels") else spelled(column, random) for column in columns]
    )
    for name, (classes, split) in rows.items():
        cells = {column: yes if column in classes else no for column in used}
        cells["image"] = spelled_file(name, random)
        cells["split"] = random.choice([split, split.upper(), "" if split == "train" else " val "])
        cells["labels"] = ";".join(spelled(label, random) for label in classes)
        table.writerow([cells[column] for column in columns])
    return (random.choice(["", "\ufeff"]) + text.getvalue()).encode()


def spelled(label: str, random: Random) -> str:
    decomposed = unicodedata.normalize("NFD", label)
    return random.choice([label, f" {label} ", f"{label}\u200b", decomposed, label.replace(" ", "\u00a0")])


def spelled_file(name: str, random: Random) -> str:
    stem, extension = name.rsplit(".", 1)
    ways = [name, f"images/{name}", name.replace("/", "\\"), f"{stem}.{extension.swapcase()}", stem]
    ways += {"007.png": ["7", "7.0"], "x/y z.JPG": ["x/y%20z.JPG", "X\\y%20z.jpg"]}.get(name, [])
    return f"./{random.choice(ways)}" if name[0] in "# " else random.choice([*ways, unicodedata.normalize("NFD", name)])


def read_back(dataset: Dataset, root: Path) -> Rows:
    return {
        sample.image.relative_to(root / "images").as_posix(): (
            frozenset(dataset.class_names[number - 1] for number in sample.classes),
            split,
        )
        for split, samples in dataset.splits.items()
        for sample in samples
    }


def damaged(table: bytes, random: Random) -> bytes:
    changed = bytearray(table)
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(changed) + 1)
        changed[place : place + random.randint(0, 3)] = random.choice([b"", *DAMAGE, bytes([random.randrange(256)])])
    return bytes(changed)
