import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_lengths

from data.dataset import Sample
from data.errors import DataError
from data.segment_files import check_segment_files, find_segment_files, pixels_by_number, read_segment_file

SIZE = (3, 4)
LABELS = np.array([[0, 7, 7, 0], [0, 7, 300, 300], [0, 0, 300, 2]])
EXPECTED = [[11], [1, 2, 5], [6, 7, 10]]  # of 2, 7 and 300


def compressed(labels: NDArray[Any], number: int) -> dict[str, Any]:
    code: Any = run_lengths.encode(np.asfortranarray(labels == number, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def listed(labels: NDArray[Any], number: int) -> dict[str, Any]:
    """Uncompressed run lengths, column by column, beginning with the pixels outside."""
    flat = (labels == number).T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": list(labels.shape), "counts": [0, *runs] if flat[0] else runs}


def as_json(path: Path, code: Callable[..., Any], *, sa1b: bool = False) -> None:
    entries = [{"segmentation": code(LABELS, number), "area": 3, "predicted_iou": 0.9} for number in (2, 7, 300)]
    path.write_text(json.dumps({"image": {"width": 4}, "annotations": entries} if sa1b else entries))


def found(path: Path, size: tuple[int, int] = SIZE) -> list[list[int]]:
    return [one.tolist() for one in read_segment_file(path, size)]


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "SAM, compressed": ("a.json", lambda path: as_json(path, compressed)),
    "SAM, uncompressed": ("a.json", lambda path: as_json(path, listed)),
    "SA-1B": ("a.json", lambda path: as_json(path, compressed, sa1b=True)),
    "PNG of 16 bits": ("a.png", lambda path: Image.fromarray(LABELS.astype(np.uint16)).save(path)),
    "TIFF of 16 bits": ("a.tif", lambda path: tifffile.imwrite(path, LABELS.astype(np.uint16))),
    "TIFF of 32 bits": ("a.TIFF", lambda path: tifffile.imwrite(path, LABELS.astype(np.uint32), compression="lzw")),
    "NumPy, int64": ("a.npy", lambda path: np.save(path, LABELS)),
    "NumPy, large unsigned numbers": (
        "a.npy",
        lambda path: np.save(path, np.uint64(2**63) * (LABELS > 0) + LABELS.astype(np.uint64)),
    ),
    "NumPy, negative for none": ("a.npy", lambda path: np.save(path, np.where(LABELS == 0, -1, LABELS))),
    "NumPy, masks": ("a.npy", lambda path: np.save(path, np.stack([number == LABELS for number in (2, 7, 300)]))),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_read_segment_file(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name)
    assert found(tmp_path / name) == EXPECTED


def test_read_segment_file__8_bits_and_palettes(tmp_path: Path) -> None:
    small = np.where(LABELS == 300, 9, LABELS).astype(np.uint8)
    grey, palette = Image.fromarray(small), Image.fromarray(small)
    palette.putpalette(list(range(256)) * 3)
    for image in (grey, palette):
        image.save(tmp_path / "a.png")
        assert found(tmp_path / "a.png") == EXPECTED


def test_read_segment_file__polygons_overlaps_and_empty_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    square = [[0, 0, 2, 0, 2, 2, 0, 2]]
    whole = {"size": [3, 4], "counts": [0, 12]}
    path.write_text(json.dumps([{"segmentation": one} for one in (square, whole, [], {**whole, "counts": [12]})]))
    assert found(path) == [[0, 1, 4, 5], list(range(12))]
    np.save(tmp_path / "b.npy", np.stack([LABELS, np.ones_like(LABELS)]))
    assert found(tmp_path / "b.npy") == [*EXPECTED, list(range(12))]
    path.write_text("[]")
    assert found(path) == []


def test_read_segment_file__all_pages_of_a_tiff(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(LABELS.astype(np.uint16))
        file.write(np.ones(SIZE, np.uint16))
    assert found(tmp_path / "a.tif") == [*EXPECTED, list(range(12))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "cannot be read"),
        ("a.json", b'{"shapes": []}', 'neither a list of segments nor has "annotations"'),
        ("a.json", b'[{"bbox": [0, 0, 1, 1]}]', 'segment 0: it has no "segmentation"'),
        ("a.json", b'[{"segmentation": {"size": [3, 4], "counts": [5]}}]', "segment 0: its run lengths add up to 5"),
        ("a.json", b'[{"segmentation": {"size": [4, 3], "counts": [12]}}]', "an image of [4, 3], not of [3, 4]"),
        ("a.json", b'[{"segmentation": {"size": [3, 4], "counts": "~~"}}]', "run lengths are damaged"),
        ("a.json", b'{"images": [], "annotations": []}', "a COCO file of many images"),
        ("a.json", b'{"image": {"height": 30, "width": 40}, "annotations": []}', "it is 30 x 40 (height x width)"),
        ("a.png", b"", "cannot be read"),
        ("a.npy", b"\x93NUMPY", "cannot be read"),
        ("a.tif", b"II*\0", "cannot be read"),
    ],
)
def test_read_segment_file__damaged(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_segment_file(tmp_path / name, SIZE)
    assert f"segments {tmp_path / name}" in str(error.value)
    assert message in str(error.value)
    assert "write it again, or delete it" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LABELS.astype(float), "values of type float64: segments are numbered by integers"),
        (np.zeros((3, 4, 3), np.uint8), "have no colours"),
        (np.zeros((3, 4, 7), np.bool_), "several label images are (n, h, w)"),
        (np.zeros((4, 3), np.uint8), "it is 4 x 3 (height x width), its image is 3 x 4"),
        (np.zeros(12, np.uint8), "it has the shape (12,)"),
        (np.array([{"a": 1}]), "cannot be read"),  # would have to be unpickled
    ],
)
def test_read_segment_file__arrays_that_are_no_segments(values: NDArray[Any], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(DataError) as error:
        read_segment_file(tmp_path / "a.npy", SIZE)
    assert message in str(error.value)


def samples(folder: Path, *names: str) -> list[Sample]:
    return [Sample(id=Path(one).with_suffix("").as_posix(), image=folder / one, classes=(), mask=None) for one in names]


def test_check_segment_files__accepts_what_can_be_read(tmp_path: Path) -> None:
    own = samples(tmp_path, "x.png", "y.png", "damaged.png", "other.png")
    for one in own:
        Image.new("RGB", (4, 3)).save(one.image)
    (tmp_path / "damaged.png").write_bytes(b"not an image: left to the check of the images")
    for name, write in WRITERS.values():
        path = tmp_path / f"segments-{name}"
        write(path)
        check_segment_files({"x": path, "damaged": path}, own)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda path: Image.new("L", (3, 4)).save(path), "it is 4 x 3 (height x width), its image is 3 x 4"),
        ("a.png", lambda path: Image.new("RGB", (4, 3)).save(path), "have no colours"),
        ("a.npy", lambda path: np.save(path, np.zeros((3, 4))), "values of type float64"),
        ("a.npy", lambda path: path.write_bytes(as_npy(LABELS)[:-8]), "cannot be read"),
        ("a.tif", lambda path: tifffile.imwrite(path, np.zeros((5, 4), np.uint16)), "it is 5 x 4"),
        ("a.json", lambda path: path.write_text(json.dumps([{"segmentation": listed(LABELS, 2)}])[:-9]), "cannot be"),
        ("a.json", lambda path: path.write_text(json.dumps([{"segmentation": listed(LABELS.T, 2)}])), "of [4, 3]"),
    ],
)
def test_check_segment_files__names_the_first_and_counts_the_others(
    name: str, write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    own = samples(tmp_path, "x.png", "y.png", "z.png")
    for one in own:
        Image.new("RGB", (4, 3)).save(one.image)
    write(tmp_path / name)
    np.save(tmp_path / "good.npy", LABELS)
    files = {"x": tmp_path / "good.npy", "y": tmp_path / name}
    with pytest.raises(DataError) as error:
        check_segment_files(files, own)
    assert f"segments {tmp_path / name}" in str(error.value)
    assert message in str(error.value)
    assert "; write it again, or delete it" in str(error.value)
    assert "more of" not in str(error.value)
    with pytest.raises(DataError, match=r"\(and 1 more of 3 segment files\); write it again, or delete it"):
        check_segment_files({**files, "z": tmp_path / name}, own)


@pytest.mark.parametrize("about", [None, {"height": 3, "width": 4}])
def test_check_segment_files__json_by_its_first_segment(about: dict[str, int] | None, tmp_path: Path) -> None:
    """The others are not parsed, which would take most of the time."""
    (own,) = samples(tmp_path, "x.png")
    Image.new("RGB", (4, 3)).save(own.image)
    segments = [{"segmentation": listed(LABELS, 2)}, {"segmentation": None}]
    content = json.dumps(segments if about is None else {"image": about, "annotations": segments})
    path = tmp_path / "x.json"
    path.write_text(content.replace("null", "nil"))
    check_segment_files({"x": path}, [own])
    with pytest.raises(DataError, match=r"segments .*x\.json cannot be read: .*; write it again, or delete it"):
        read_segment_file(path, SIZE)
    for bad, message in (
        (content[: content.index("null")], "cannot be read"),  # cut off
        (content[: content.rindex(", {")], "cannot be read"),  # cut off between two segments
        (json.dumps({"image": {"height": 9, "width": 4}, "annotations": segments}), "it is 9 x 4"),
        (json.dumps({"annotations": segments, "images": []}), "a COCO file of many images"),
        (json.dumps({"first": {"annotations": segments}}), 'neither a list of segments nor has "annotations"'),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match=message):
            check_segment_files({"x": path}, [own])


def as_npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_find_segment_files(tmp_path: Path) -> None:
    images = tmp_path / "segments"  # SA-1B has images and segments in one folder
    for name in ("a.png", "a.json", "x/b.jpg.npy", "c.tif", "c.npy", "d.png", "e.txt", "f.json"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    own = samples(images, "a.png", "x/b.jpg", "c.jpg", "d.png", "e.png")
    assert find_segment_files(images, own) == {
        "a": images / "a.json",
        "x/b": images / "x/b.jpg.npy",
        "c": images / "c.npy",  # d.png is the image itself
    }


def test_find_segment_files__none(tmp_path: Path) -> None:
    own = samples(tmp_path, "x/a.png", "b.png")
    with pytest.raises(DataError, match="is not a folder: give the folder of the segment files, slic or sam"):
        find_segment_files(tmp_path / "slick", own)
    (tmp_path / "other.json").touch()
    with pytest.raises(DataError) as error:
        find_segment_files(tmp_path, own)
    assert "has no file for any of the 2 images" in str(error.value)
    assert "'x/a.json'" in str(error.value)
    assert "found 'other.json'" in str(error.value)


def test_pixels_by_number__keeps_the_order_of_pixels() -> None:
    labels = np.random.default_rng(0).integers(-1, 5, (20, 30))
    parts = pixels_by_number(labels)
    assert len(parts) == 4
    for number, pixels in enumerate(parts, 1):
        assert pixels.tolist() == np.flatnonzero(labels == number).tolist()
