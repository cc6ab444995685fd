import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers import open_dataset
from stages.config import View
from stages.runtime.monitor import SilentMonitor
from stages.view import find_sample, view

CONFIG = View(device="cpu")


def test_view__an_image_of_the_data_set(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    out = view(pictures / "images/a.jpg", whole_run, tmp_path / "deep/a.png", CONFIG, SilentMonitor())
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height  # four panels across, two down
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_view__any_other_image(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "Größe 1.JPG"
    shutil.copy(pictures / "images/a.jpg", other)
    assert view(other, whole_run, tmp_path / "out.png", CONFIG, SilentMonitor()).is_file()


def test_view__of_a_run_with_only_train_cam(cam_run: Path, pictures: Path, tmp_path: Path) -> None:
    assert view(pictures / "images/a.jpg", cam_run, tmp_path / "out.png", CONFIG, SilentMonitor()).is_file()


def test_view__a_missing_image(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        view(tmp_path / "gone.jpg", whole_run, tmp_path / "out.png", CONFIG, SilentMonitor())
    assert not (tmp_path / "out.png").exists()


def test_find_sample__by_the_file_not_the_name(pictures: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pictures)
    assert find_sample(pictures / "deep/../images/a.jpg", dataset).id == "a"
    shutil.copy(pictures / "images/a.jpg", tmp_path / "a.jpg")
    other = find_sample(tmp_path / "a.jpg", dataset)
    assert not other.labelled
    assert other.id not in dataset.by_id()
