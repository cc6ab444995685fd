import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError, SettingsError
from data.readers import open_dataset
from stages.config import View
from stages.preflight.checks import one_picture
from stages.reporting.gallery import rank
from stages.reporting.products import open_products
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import open_run_data
from stages.runtime.monitor import SilentMonitor
from stages.view import DPI, SMALL_PANEL_INCHES, choose_samples, find_sample, view

CONFIG = View(device="cpu")


def test_view__an_image_of_the_data_set(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    (out,) = view([pictures / "images/a.jpg"], whole_run, tmp_path / "deep/a.png", CONFIG, SilentMonitor())
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height  # four panels across, two down
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_view__any_other_image(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "Größe 1.JPG"
    shutil.copy(pictures / "images/a.jpg", other)
    assert view([other], whole_run, tmp_path / "out.png", CONFIG, SilentMonitor()) == [tmp_path / "out.png"]


def test_view__of_a_run_with_only_train_cam(cam_run: Path, pictures: Path, tmp_path: Path) -> None:
    (out,) = view([pictures / "images/a.jpg"], cam_run, tmp_path / "out.png", CONFIG, SilentMonitor())
    assert out.is_file()


def test_view__a_missing_image(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        view([tmp_path / "gone.jpg"], whole_run, tmp_path / "out.png", CONFIG, SilentMonitor())
    assert not (tmp_path / "out.png").exists()


def test_view__several_images_in_one_picture_or_a_folder(
    whole_run: Path, pictures: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path
) -> None:
    images = [pictures / "images/a.jpg", draw_pictures(tmp_path / "other") / "images/a.jpg"]
    (sheet,) = view(images, whole_run, tmp_path / "sheet.png", CONFIG, SilentMonitor())
    with Image.open(sheet) as picture:
        assert picture.height > 2 * SMALL_PANEL_INCHES * DPI * 0.7
    written = view(images, whole_run, tmp_path / "folder", CONFIG, SilentMonitor())
    assert len(set(written)) == 2  # both are called a.jpg
    assert sorted(written) == sorted((tmp_path / "folder").glob("*-view.png"))


def test_view__without_an_image_shows_the_worst_or_random_ones(whole_run: Path, tmp_path: Path) -> None:
    written = view([], whole_run, tmp_path / "worst", View(device="cpu", count=2), SilentMonitor())
    assert len(written) == 2
    config = View(device="cpu", count=100, order="random")
    cam = open_stage(whole_run, "cam")
    products = open_products(whole_run, open_run_data(cam, None, skip_bad=False), config, SilentMonitor())
    samples = choose_samples(products, None, config, SilentMonitor())
    assert products.masks is not None
    assert {sample.id for sample in samples} == set(products.masks.ids)
    worst = choose_samples(products, None, View(device="cpu", count=3), SilentMonitor())
    ranked = rank([sample for sample in samples if sample.mask], products, SilentMonitor(), trust={}, skip_bad=False)
    scores = {one.sample.id: one.score for one in ranked}
    assert [scores[sample.id] for sample in worst] == sorted(scores.values())[:3]


def test_choose_samples__masks_that_people_drew_are_not_among_the_worst(whole_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole_run, tmp_path / "copy")
    path = run / "labels" / "config.json"
    products = open_products(run, open_run_data(open_stage(run, "cam"), None, skip_bad=False), CONFIG, SilentMonitor())
    worst = choose_samples(products, None, CONFIG, SilentMonitor())[0].id
    path.write_text(json.dumps({**json.loads(path.read_text()), "given_masks": {"ids": [worst]}}))
    products = open_products(run, open_run_data(open_stage(run, "cam"), None, skip_bad=False), CONFIG, SilentMonitor())
    assert worst not in [one.id for one in choose_samples(products, None, CONFIG, SilentMonitor())]
    assert products.masks is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), "given_masks": {"ids": products.masks.ids}}))
    products = open_products(run, open_run_data(open_stage(run, "cam"), None, skip_bad=False), CONFIG, SilentMonitor())
    with pytest.raises(DataError, match="can be ranked, because people drew all of them"):
        choose_samples(products, None, CONFIG, SilentMonitor())


@pytest.mark.parametrize(
    ("out", "images", "together"), [("a.png", 1, True), ("a.PNG", 50, True), ("a", 1, False), ("a.jpg", 1000, False)]
)
def test_one_picture__by_the_extension(out: str, images: int, together: bool) -> None:
    assert one_picture(Path(out), images) is together


def test_one_picture__for_many_images_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"51 images are too many for one PNG .* --out DIR"):
        one_picture(Path("a.png"), 51)


def test_find_sample__by_the_file_not_the_name(pictures: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pictures)
    assert find_sample(pictures / "deep/../images/a.jpg", dataset).id == "a"
    shutil.copy(pictures / "images/a.jpg", tmp_path / "a.jpg")
    other = find_sample(tmp_path / "a.jpg", dataset)
    assert not other.labelled
    assert other.id not in dataset.by_id()
