import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import data.read_ahead
from data.dataset import Sample
from data.errors import DataError
from data.read_ahead import ImageBatch, batches, read_ahead


def samples(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """Write images of the given (height, width), named 0, 1, ..."""
    made = []
    for number, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        made.append(Sample(id=str(number), image=folder / f"{number}.png", classes=(), mask=None))
    return made


def ids(batch: ImageBatch) -> str:
    return " ".join(sample.id for sample in batch.samples)


def test_batches__hold_images_of_equal_size(tmp_path: Path) -> None:
    wide, high = (4, 6), (6, 4)
    made = list(batches(samples(tmp_path, [wide, high, wide, wide, high, wide, wide]), 3))
    assert [ids(batch) for batch in made] == ["0 2 3", "1 4", "5 6"]
    assert [batch.pixels for batch in made] == [72, 48, 48]


def test_batches__hold_fewer_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.read_ahead, "PIXELS_IN_MEMORY", 100)
    made = batches(samples(tmp_path, [(4, 6), (9, 9), (4, 6), (4, 6)]), 8)
    assert [ids(batch) for batch in made] == ["1", "0 2", "3"]


def test_batches__a_missing_image_is_reported_when_it_is_read(tmp_path: Path) -> None:
    (sample,) = samples(tmp_path, [(4, 6)])
    sample.image.unlink()
    (batch,) = batches([sample], 8)
    with pytest.raises(DataError, match="is missing"):
        list(read_ahead([batch], 1, raising))


def raising(error: DataError) -> None:
    raise error


def test_read_ahead__in_order_and_without_bad_images(tmp_path: Path) -> None:
    made = samples(tmp_path, [(4, 6)] * 5)
    for number in (1, 4):
        (tmp_path / f"{number}.png").write_bytes(b"not an image")
    bad: list[str] = []
    every = [ImageBatch(made[:2], 48), ImageBatch(made[2:4], 48), ImageBatch(made[4:], 24)]
    loaded = list(read_ahead(every, 2, lambda error: bad.append(str(error))))
    assert [[one.sample.id for one in batch] for batch in loaded] == [["0"], ["2", "3"]]  # no empty batch
    assert loaded[0][0].picture.size == (6, 4)
    assert len(bad) == 2


@pytest.mark.parametrize(("pixels", "most"), [(100, 1), (50, 2), (1, 4)])
def test_read_ahead__reads_as_far_ahead_as_memory_allows(
    pixels: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.read_ahead, "PIXELS_IN_MEMORY", 100)
    read: list[Path] = []
    lock = threading.Lock()

    def reading(path: Path, rule: object) -> Any:
        with lock:
            read.append(path)

    monkeypatch.setattr(data.read_ahead, "read_pixels", reading)
    made = [Sample(id=str(number), image=Path(str(number)), classes=(), mask=None) for number in range(9)]
    done = 0
    for _ in read_ahead([ImageBatch([sample], pixels) for sample in made], 3, raising):
        assert len(read) - done <= most
        done += 1
    assert done == 9
