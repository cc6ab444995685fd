import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.image_files import find_images, find_masks
from data.readers import open_dataset
from data.written_folders import MARK, mark_as_written, written_by_toco


def draw(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)


def by_record(folder: Path) -> None:
    """What toco predict wrote before folders were marked."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predict.json").write_text(json.dumps({"toco": "0.1.0", "weights": "0", "settings": {}, "images": {}}))


MARKS = [mark_as_written, by_record]


@pytest.mark.parametrize("mark", MARKS)
def test_results__are_not_classes_and_not_images(mark: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.jpg", "dog/2.jpg", "cat/deep/3.jpg", "predicted/masks/cat/1.png", "cat/old/overlays/1.png")
    mark(tmp_path / "predicted")
    mark(tmp_path / "cat" / "old")
    assert list(find_images(tmp_path)) == ["cat/1.jpg", "cat/deep/3.jpg", "dog/2.jpg"]
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert set(dataset.by_id()) == {"cat/1", "cat/deep/3", "dog/2"}


@pytest.mark.parametrize("linked", [True, False])
def test_masks__that_toco_wrote_are_not_ground_truth(linked: bool, tmp_path: Path) -> None:
    data = tmp_path / "data"
    draw(data, "cat/1.jpg", "dog/2.jpg")
    exported = tmp_path / "exported" if linked else data / "masks"
    mark_as_written(exported)
    for name in ("cat/1.png", "dog/2.png"):
        (exported / name).parent.mkdir()
        Image.fromarray(np.ones((32, 40), np.uint8)).save(exported / name)
    if linked:
        (data / "masks").symlink_to(exported)
    dataset = open_dataset(data)
    assert [sample.mask for sample in dataset.split()] == [None, None]
    assert any("masks was written by toco and is not used as ground truth" in one for one in dataset.warnings)
    (exported / MARK).unlink()  # as the warning advises for masks that were corrected
    assert None not in [sample.mask for sample in open_dataset(data).split()]
    assert len(find_masks(data / "masks")) == 2


def test_dataset__a_folder_of_results_is_none(tmp_path: Path) -> None:
    draw(tmp_path, "overlays/1.png", "numpy/2.png")
    mark_as_written(tmp_path)
    with pytest.raises(DataError, match="was written by toco: give the folder of the data set that it was made from"):
        open_dataset(tmp_path)


def test_dataset__a_voc_export_inside_is_not_the_data_set(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.jpg", "dog/2.jpg", "exported/JPEGImages/1.jpg")
    (tmp_path / "exported/ImageSets").mkdir()
    mark_as_written(tmp_path / "exported")
    assert open_dataset(tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"toco": 1}', "\x00", "[" * 100_000])
def test_record__of_another_program_is_no_mark(text: str, tmp_path: Path) -> None:
    (tmp_path / "predict.json").write_text(text)
    assert not written_by_toco(tmp_path)
