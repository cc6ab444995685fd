from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from data.readers import open_dataset
from stages.monitor import SilentMonitor
from stages.products import Products, open_products
from stages.view import find_sample


def made_by_hand() -> Products:
    cam = torch.tensor([[[0.9, 0.1]], [[0.2, 0.4]]])
    return Products(Image.new("RGB", (2, 1)), (3, 7), cam, cam / 2, None, None, None)


def test_products__at_a_score() -> None:
    made = made_by_hand()
    assert made.at(0.3).tolist() == [[3, 7]]
    assert made.at(0.4).tolist() == [[3, 0]]
    torch.testing.assert_close(made.score, torch.tensor([[0.9, 0.4]]))
    torch.testing.assert_close(made.auxiliary_score, torch.tensor([[0.45, 0.2]]))


def test_products__without_classes_all_is_background() -> None:
    none = torch.zeros(0, 1, 2)
    made = Products(Image.new("RGB", (2, 1)), (), none, none, None, None, None)
    assert made.at(0.0).tolist() == [[0, 0]]
    assert made.score.tolist() == [[0, 0]]


def test_open_products__an_image_is_seen_as_the_stages_saw_it(whole_run: Path, pictures: Path) -> None:
    dataset = open_dataset(pictures)
    products = open_products(whole_run, dataset, "cpu", SilentMonitor())
    made = products.of(dataset.by_id()["c"])
    with h5py.File(whole_run / "labels/cams.h5") as cams, h5py.File(whole_run / "labels/labels.h5") as masks:
        np.testing.assert_allclose(made.cam.numpy(), cams["cams/c"][()], atol=2e-3)
        np.testing.assert_array_equal(made.pseudo_mask, masks["masks/c"][()])
    assert made.classes == (1, 2)
    assert made.truth is not None
    assert made.student is not None
    assert made.truth.shape == made.student.shape == (made.image.height, made.image.width)


def test_open_products__an_image_that_was_not_labelled_gets_its_mask_in_the_same_way(
    whole_run: Path, pictures: Path
) -> None:
    dataset = open_dataset(pictures)
    products = open_products(whole_run, dataset, "cpu", SilentMonitor())
    sample = dataset.by_id()["c"]
    stored = products.of(sample).pseudo_mask
    # Under a name that is in no file, its mask is made anew.
    object.__setattr__(sample, "id", "elsewhere")
    made = products.of(sample).pseudo_mask
    assert stored is not None
    assert made is not None
    assert (stored == made).mean() > 0.99


def test_open_products__a_stranger_has_no_truth(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pictures)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    made = open_products(whole_run, dataset, "cpu", SilentMonitor()).of(find_sample(tmp_path / "x.png", dataset))
    assert made.truth is None
    assert made.pseudo_mask is not None
    assert made.pseudo_mask.shape == (30, 40)
