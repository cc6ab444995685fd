from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from data.readers import open_dataset
from stages.config import Machine
from stages.labels.label_settings import CHOSEN
from stages.labels.store import LabelFile
from stages.labels.stored_cams import read_cam
from stages.reporting.products import Products, best_score, open_products
from stages.runtime.monitor import SilentMonitor
from stages.view import find_sample


def hand_made(source: str = "cam") -> Products:
    cam = torch.tensor([[[0.9, 0.1]], [[0.2, 0.4]]])
    return Products(Image.new("RGB", (2, 1)), (3, 7), cam, cam / 2, source, None, None, None)


def test_products__at_a_threshold() -> None:
    made = hand_made()
    assert made.at(0.3).tolist() == [[3, 7]]
    assert made.at(0.4).tolist() == [[3, 0]]
    torch.testing.assert_close(best_score(made.cam), torch.tensor([[0.9, 0.4]]))


def test_products__thresholds_apply_to_the_cam_of_the_labels() -> None:
    assert hand_made("aux").at(0.3).tolist() == [[3, 0]]


def test_products__without_classes_every_pixel_is_background() -> None:
    none = torch.zeros(0, 1, 2)
    made = Products(Image.new("RGB", (2, 1)), (), none, none, "cam", None, None, None)
    assert made.at(0.0).tolist() == [[0, 0]]
    assert best_score(none).tolist() == [[0, 0]]


def test_open_products__gives_the_stored_cams_and_masks(whole_run: Path, pictures: Path) -> None:
    dataset = open_dataset(pictures)
    products = open_products(whole_run, dataset, Machine(device="cpu"), SilentMonitor())
    made = products.of(dataset.by_id()["c"])
    stored = read_cam(LabelFile(whole_run / "labels/cams.h5", "cams"), "c")
    np.testing.assert_allclose(made.cam.numpy(), stored.numpy(), atol=2e-3)
    with h5py.File(whole_run / "labels/labels.h5") as masks:
        np.testing.assert_array_equal(made.pseudo_mask, masks["masks/c"][()])
    assert made.classes == (1, 2)
    assert made.truth is not None
    assert made.student is not None
    assert made.truth.shape == made.student.shape == (made.image.height, made.image.width)


def test_open_products__cams_have_the_scales_that_make_labels_chose(whole_run: Path, pictures: Path) -> None:
    dataset = open_dataset(pictures)
    products = open_products(whole_run, dataset, Machine(device="cpu"), SilentMonitor())
    folder = products.labels_folder
    assert folder is not None
    assert folder.settings["scales"] != [1.0]
    asked = {**folder.config, "settings": {**folder.settings, "scales": [1.0]}}
    sample, cams = dataset.by_id()["c"], []
    for config in (asked, {**folder.config, CHOSEN: {"scales": [1.0]}}):
        made = replace(products, labels_folder=replace(folder, config=config)).of(sample)
        cams.append(made.cam)
    torch.testing.assert_close(cams[0], cams[1])


def test_open_products__makes_the_mask_of_an_unlabelled_image_like_make_labels(whole_run: Path, pictures: Path) -> None:
    dataset = open_dataset(pictures)
    products = open_products(whole_run, dataset, Machine(device="cpu"), SilentMonitor())
    sample = dataset.by_id()["c"]
    stored = products.of(sample).pseudo_mask
    # There is no stored mask under this id, so the mask is made now.
    object.__setattr__(sample, "id", "elsewhere")
    made = products.of(sample).pseudo_mask
    assert stored is not None
    assert made is not None
    assert (stored == made).mean() > 0.99


def test_open_products__an_image_from_elsewhere_has_no_ground_truth(
    whole_run: Path, pictures: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(pictures)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    products = open_products(whole_run, dataset, Machine(device="cpu"), SilentMonitor())
    made = products.of(find_sample(tmp_path / "x.png", dataset))
    assert made.truth is None
    assert made.pseudo_mask is not None
    assert made.pseudo_mask.shape == (30, 40)


def test_open_products__an_image_without_predicted_classes_is_ignored_as_by_make_labels(
    whole_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stages.reporting.products.predicted_classes", lambda model, images: [()])
    dataset = open_dataset(pictures)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    products = open_products(whole_run, dataset, Machine(device="cpu"), SilentMonitor())
    made = products.of(find_sample(tmp_path / "x.png", dataset))
    assert made.pseudo_mask is not None
    assert (made.pseudo_mask == 255).all()
