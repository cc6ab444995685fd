"""Give damaged images, COCO files or label files to the readers: `python fuzzing_process.py KIND FIRST COUNT FOLDER`.

Input number N is always the same. Each must give a value, or one clear line of a UserError, within SECONDS. This is a
process of its own, because a bug in a decoder may crash or stop it. FOLDER/last has the number of the current input.
"""

import contextlib
import io
import json
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from PIL import Image

from data.errors import UserError
from data.images import MaskFile, image_size, is_rotated, read_image, read_reduced, shorter_side
from data.readers import open_dataset, read_mask
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard

SECONDS = 20
MEMORY = 8 << 30  # bytes of address space


def seed_images() -> list[bytes]:
    """Small images of all formats and many modes."""
    draws = np.random.default_rng(0)
    rgb = Image.fromarray(draws.integers(0, 255, (37, 29, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {"exif": exif}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.quantize(7), "PNG", {"bits": 4}),
        (rgb.convert("1"), "PNG", {}),
        (Image.fromarray(draws.integers(0, 65535, (37, 29), dtype=np.uint16)), "PNG", {}),
        (rgb, "BMP", {}),
        (rgb.quantize(20), "BMP", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (rgb.convert("L"), "TIFF", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "WEBP", {}),
    ]
    found = []
    for image, format, options in variants:
        stream = io.BytesIO()
        image.save(stream, format=format, **options)
        found.append(stream.getvalue())
    return found


def damaged(content: bytes, draws: random.Random) -> bytes:
    """Change, remove, insert or repeat some bytes."""
    result = bytearray(content)
    for _ in range(draws.choice((1, 1, 2, 4, 16))):
        place = draws.randrange(max(1, len(result)))
        if draws.random() < 0.5:  # headers are the most interesting part
            place = min(place, draws.randrange(64))
        length = draws.choice((1, 2, 4, 8, 64))
        match draws.randrange(7):
            case 0:
                del result[place:]
            case 1:
                result[place : place + length] = draws.randbytes(length)
            case 2:
                del result[place : place + length]
            case 3:
                result[place:place] = result[place : place + length * 4]
            case 4:
                result[place : place + 4] = draws.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
            case _:
                for index in range(place, min(place + length, len(result))):
                    result[index] ^= 1 << draws.randrange(8)
    return bytes(result)


ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 255, 1 << 40, -(1 << 70), 0.5, 1e308, float("nan"), float("inf"), "", "x", "1",
    "../../x.png", "/etc/passwd", "a.png", "\udce9", "\0", "n" * 5000, [], [[]], {}, [1, 2, 3], [[1, 2, 3, 4, 5, 6]],
    {"id": 1},
    {"size": [40, 50], "counts": [2000]}, {"size": [40, 50], "counts": "04PQl1"},
    {"size": [1 << 30, 1 << 30], "counts": "1"},
)  # fmt: skip


def seed_instances() -> dict[str, Any]:
    return {
        "info": {},
        "licenses": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog", "supercategory": "animal"}],
        "images": [
            {"id": 0, "file_name": "a.png", "height": 40, "width": 50},
            {"id": 1, "file_name": "b.png", "height": 40, "width": 50, "license": 1},
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "area": 40.0, "bbox": [1, 1, 9, 9], "iscrowd": 0,
             "segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]},
            {"id": 2, "image_id": 1, "category_id": 7, "area": 500, "bbox": [0, 0, 50, 10], "iscrowd": 1,
             "segmentation": {"size": [40, 50], "counts": [100, 500, 1400]}},
        ],
    }  # fmt: skip


def odd_json(value: Any, draws: random.Random) -> Any:
    """Replace, remove or repeat random parts of a JSON value."""
    for _ in range(draws.choice((1, 1, 2, 3, 6))):
        parent: Any = None
        key: Any = None
        node = value
        while isinstance(node, (dict, list)) and node and draws.random() < 0.8:
            parent, key = node, draws.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
        if parent is None:
            continue
        match draws.randrange(5):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.append(deepcopy(node))
            case 2 if isinstance(parent, dict):
                parent[draws.choice(("id", "name", "counts", "size", "file_name", "new"))] = deepcopy(node)
            case _:
                parent[key] = deepcopy(draws.choice(ODD_VALUES))
    return value


def images(folder: Path) -> Callable[[random.Random], None]:
    seeds = seed_images()
    path = folder / "image.png"
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_reduced(path, 10),
        lambda: image_size(path),
        lambda: shorter_side(path),
        lambda: is_rotated(path),
        lambda: MaskFile(path).read(),
    )

    def run(draws: random.Random) -> None:
        path.write_bytes(damaged(draws.choice(seeds), draws))
        for reader in readers:
            with contextlib.suppress(UserError):
                reader()
        read_image(path)  # counts as the result

    return run


def coco(folder: Path) -> Callable[[random.Random], None]:
    root = folder / "coco"
    for part in ("annotations", "images"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.new("RGB", (50, 40)).save(root / "images" / f"{name}.png")
    path = root / "annotations" / "instances_train.json"

    def run(draws: random.Random) -> None:
        content = json.dumps(odd_json(seed_instances(), draws)).encode()
        path.write_bytes(damaged(content, draws) if draws.random() < 0.2 else content)
        dataset = open_dataset(root, skip_bad=draws.random() < 0.5)
        for sample in dataset.by_id().values():
            assert sample.image.resolve().is_relative_to(root.resolve()), sample
            if sample.mask is not None:
                read_mask(sample, (40, 50), len(dataset.class_names))

    return run


def labels(folder: Path) -> Callable[[random.Random], None]:
    masks = {name: np.random.default_rng(1).integers(0, 3, (40, 50), dtype=np.uint8) for name in ("a", "deep/b", "c")}
    shard = folder / "shard.h5"
    write_shard(
        shard,
        [
            ImageLabels(id=name, classes=(1, 2), cam=np.ones((2, 8, 8), np.float16), mask=mask, confidence=mask)
            for name, mask in masks.items()
        ],
    )
    join_shards([shard], folder, label_attributes(("cat", "dog"), {}))
    seeds = {group: (folder / name).read_bytes() for group, name in (("masks", "labels.h5"), ("cams", "cams.h5"))}
    path = folder / "damaged.h5"

    def run(draws: random.Random) -> None:
        group = draws.choice(("masks", "cams"))
        path.write_bytes(damaged(seeds[group], draws))
        file = LabelFile(path, group)
        for image_id in file.ids:
            file.read(image_id)
            if group == "cams":
                file.classes(image_id)
                file.image_size(image_id)

    return run


def too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"longer than {SECONDS} s")


def main(kind: str, first: int, count: int, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, too_long)
    h5py._errors.silence_errors()
    run = {"images": images, "coco": coco, "labels": labels}[kind](folder)
    ended: Counter[str] = Counter()
    faults = []
    for number in range(first, first + count):
        (folder / "last").write_text(f"{kind} {number}")
        signal.alarm(SECONDS)
        try:
            run(random.Random(number))
            ended["values"] += 1
        except UserError as error:
            ended["lines"] += 1
            if "\n" in str(error):
                faults.append(f"{kind} {number}: in several lines: {error}")
        except BaseException as error:
            faults.append(f"{kind} {number}: {type(error).__name__}: {error}")
        signal.alarm(0)
    print(json.dumps({**ended, "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
