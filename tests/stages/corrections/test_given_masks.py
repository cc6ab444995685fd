from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.images import MaskFile
from data.pixel_rule import BandRange, PixelRule
from data.readers import open_dataset
from stages.config import MakeLabels, TrainSeg
from stages.corrections.correction_file import CORRECTIONS, CorrectionFile
from stages.corrections.given_masks import GivenMasks, every_nth, given_masks, given_share, other_given_masks
from stages.labels.choose_background import calibration_samples
from stages.labels.store import LabelFile
from stages.labels.training_pairs import LoadLabelled
from stages.make_labels import make_labels
from stages.run import stages_of_other_given_masks
from stages.run_folder.artifacts import read_config
from stages.runtime.monitor import SilentMonitor
from stages.train_seg import student_stream, train_seg, validation_images

LABELS = MakeLabels(relabel="none", device="cpu", workers=1, scales=(1.0,), batch_size=1)
SEG = TrainSeg(
    arch="Unet",
    encoder="tu-mobilenetv3_small_050",
    weights="none",
    iterations=1,
    batch_size=2,
    image_size=64,
    long_side=64,
    panel_every=0,
    device="cpu",
    workers=0,
)
NAMES = ("red", "blue")


@pytest.mark.parametrize(
    ("given", "total", "expected"), [(0, 100, 0), (1, 1000, 0.01), (10, 1000, 0.1), (50, 1000, 0.25), (60, 100, 0.6)]
)
def test_given_share__a_quarter_and_ten_times_at_most(given: int, total: int, expected: float) -> None:
    assert given_share(given, total) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "total", "batch", "expected"),
    [
        (0, 100, 16, None),
        (1, 1000, 16, 16),
        (10, 1000, 16, 10),
        (50, 1000, 16, 4),
        (50, 1000, 2, 2),
        (60, 100, 16, None),
    ],
)
def test_every_nth__one_in_each_batch(given: int, total: int, batch: int, expected: int | None) -> None:
    assert every_nth(given, total, batch) == expected


def test_given_masks__by_option(labelled_run: Any, correct: Callable[..., CorrectionFile], listener: Any) -> None:
    dataset = open_dataset(labelled_run.data)
    corrections = correct(labelled_run.run, {"a": np.full((64, 64), 2, np.uint8)})

    def ids(use: Any, monitor: Any) -> set[str]:
        config = replace(LABELS, use_masks=use) if use else LABELS
        return {*given_masks(labelled_run.run, dataset, config, None, monitor).sources}

    monitor = listener()
    assert ids(None, monitor) == {"a"}
    assert monitor.notes == ["masks drawn by people that are used as they are: 1 corrected"]
    assert ids("none", monitor) == set()
    monitor = listener()
    assert ids("all", monitor) == {"a", "b", "c", "deep/d"}  # not those of the validation split
    assert monitor.notes == ["masks drawn by people that are used as they are: 1 corrected, 3 of ground truth"]
    given = given_masks(labelled_run.run, dataset, LABELS, None, SilentMonitor())
    assert given.digest == corrections.digest
    (sample,) = (one for one in given.added_to(dataset, None).split() if one.id == "a")
    assert sample.classes == (1, 2)  # the label, and what the mask shows
    assert dataset.by_id()["a"].classes == (1,)


def test_given_masks__do_not_count_where_the_image_has_no_value(tmp_path: Path) -> None:
    values, mask = np.zeros((4, 6), np.float32), np.ones((4, 6), np.uint8)
    values[:2, :3] = np.nan
    np.save(tmp_path / "a.npy", values)
    Image.fromarray(mask).save(tmp_path / "a.png")
    rule = PixelRule(bands=(BandRange(number=1, low=0, high=1, mean=0.5, std=1),), count=1)
    sample = Sample(id="a", image=tmp_path / "a.npy", classes=(1,), mask=None, pixels=rule)
    given = GivenMasks(num_classes=1, sources={"a": MaskFile(tmp_path / "a.png")})
    np.testing.assert_array_equal(given.read(sample), np.where(np.isnan(values), 255, mask))


def test_given_masks__refusals(labelled_run: Any, correct: Callable[..., CorrectionFile], listener: Any) -> None:
    dataset = open_dataset(labelled_run.data)
    without = replace(dataset, splits={"train": tuple(replace(one, mask=None) for one in dataset.split())})
    with pytest.raises(DataError, match="--use-masks all: no image of split 'train' has a ground-truth mask, and no"):
        given_masks(labelled_run.run, without, replace(LABELS, use_masks="all"), None, SilentMonitor())
    correct(labelled_run.run, {"gone": np.ones((4, 4), np.uint8)})
    monitor = listener()
    assert not given_masks(labelled_run.run, dataset, LABELS, None, monitor).sources
    assert "has masks of 1 images that" in monitor.warnings[0]
    with pytest.raises(ArtifactError, match="has masks of the classes 'red', 'blue', the run has 'red', 'green'"):
        CorrectionFile(labelled_run.run, ("red", "green"))


def test_calibration_samples__corrected_masks_first(labelled_run: Any, correct: Callable[..., CorrectionFile]) -> None:
    dataset = open_dataset(labelled_run.data)
    mask = labelled_run.masks["deep/d"].copy()
    correct(labelled_run.run, {"deep/d": mask})
    config = replace(LABELS, calibration_images=1)
    given = given_masks(labelled_run.run, dataset, config, None, SilentMonitor())
    samples = given.added_to(dataset, None).split()
    (chosen,) = calibration_samples(samples, NAMES, config, SilentMonitor(), given.sources)
    assert chosen.id == "deep/d"
    assert "the corrected mask of 'deep/d'" in str(chosen.mask)


def test_make_labels__corrected_masks_are_the_labels(
    cam_run: Path,
    pictures: Path,
    draw_pictures: Callable[[Path], Path],
    tmp_path: Path,
    correct: Callable[..., CorrectionFile],
    listener: Any,
) -> None:
    data = draw_pictures(tmp_path / "data")
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("a.jpg,red,train\n", ""))  # an image without image labels
    truth = {one: np.zeros((64, width), np.uint8) for one, width in (("a", 48), ("b", 64))}
    truth["a"][:9] = 2
    truth["b"][:, :9] = 1  # not one of its labels
    correct(cam_run, truth)
    folder = make_labels(cam_run, LABELS, SilentMonitor(), data=data)
    masks, cams = LabelFile(folder / "labels.h5", "masks"), LabelFile(folder / "cams.h5", "cams")
    assert "a" in masks.ids
    for one, mask in truth.items():
        np.testing.assert_array_equal(masks.read(one), mask)
    assert (cams.classes("a"), cams.classes("b")) == ((2,), (1, 2))
    entry = read_config(cam_run, "labels")["given_masks"]
    assert (entry["ids"], entry["corrected"]) == (["a", "b"], 2)

    before = {one: masks.read(one) for one in masks.ids if one not in truth}
    del masks, cams
    make_labels(cam_run, replace(LABELS, use_masks="none"), SilentMonitor(), data=data, overwrite=True)
    masks = LabelFile(folder / "labels.h5", "masks")
    assert "a" not in masks.ids
    assert not np.array_equal(masks.read("b"), truth["b"])
    for one, mask in before.items():
        np.testing.assert_array_equal(masks.read(one), mask)


def test_make_labels__notices_other_given_masks(
    cam_run: Path, correct: Callable[..., CorrectionFile], listener: Any
) -> None:
    monitor = listener(stop=("advance", 3))
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, LABELS, monitor)
    correct(cam_run, {"a": np.ones((64, 48), np.uint8)})
    message = r"labels was made with 0 corrected masks; .* has 1 now, or others: to use them, run toco make-labels "
    with pytest.raises(ArtifactError, match=message):
        make_labels(cam_run, LABELS, SilentMonitor(), resume=True)
    make_labels(cam_run, LABELS, SilentMonitor(), overwrite=True)
    assert other_given_masks(cam_run, "labels") is None
    correct(cam_run, {"a": np.full((64, 48), 255, np.uint8)})
    monitor = listener()
    make_labels(cam_run, LABELS, monitor, resume=True)
    assert "was made with 1 corrected masks" in monitor.warnings[0]
    (cam_run / CORRECTIONS).unlink()
    assert other_given_masks(cam_run, "labels") is not None


def test_make_labels__notices_other_ground_truth(
    cam_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path, listener: Any
) -> None:
    data = draw_pictures(tmp_path / "data")
    config = replace(LABELS, use_masks="all")
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, config, listener(stop=("advance", 3)), data=data)
    Image.fromarray(np.ones((64, 48), np.uint8)).save(data / "masks" / "a.png")
    message = (
        r"labels was made with other ground-truth masks than .* has now, of 1 images, first 'a': to use them, run "
    )
    with pytest.raises(ArtifactError, match=message):
        make_labels(cam_run, config, SilentMonitor(), data=data, resume=True)
    make_labels(cam_run, config, SilentMonitor(), data=data, overwrite=True)
    monitor = listener()
    make_labels(cam_run, config, monitor, data=data, resume=True)
    assert not monitor.warnings
    (data / "masks" / "b.png").unlink()
    make_labels(cam_run, config, monitor, data=data, resume=True)
    assert "with other ground-truth masks" in monitor.warnings[0]
    assert "first 'b'" in monitor.warnings[0]


def test_train_seg__notices_other_ground_truth(labelled_run: Any, listener: Any) -> None:
    config = replace(SEG, use_masks="all")
    train_seg(labelled_run.run, config, SilentMonitor())
    assert other_given_masks(labelled_run.run, "seg") is None
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(labelled_run.data / "masks" / "v1.png")  # not of the split
    assert other_given_masks(labelled_run.run, "seg") is None
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(labelled_run.data / "masks" / "c.png")
    monitor = listener()
    train_seg(labelled_run.run, config, monitor, resume=True)
    assert "seg was made with other ground-truth masks" in monitor.warnings[0]
    assert stages_of_other_given_masks(labelled_run.run, labelled_run.data) == ("train-seg",)
    entry = labelled_run.run / "seg" / "config.json"
    entry.write_text(entry.read_text().replace('"truth"', '"unknown"'))  # as earlier versions wrote it
    assert other_given_masks(labelled_run.run, "seg") is None


def test_train_seg__learns_corrected_masks(
    labelled_run: Any, correct: Callable[..., CorrectionFile], listener: Any
) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 2
    correct(labelled_run.run, {"a": mask})
    monitor = listener()
    train_seg(labelled_run.run, SEG, monitor)
    assert monitor.notes[0] == "masks drawn by people that are used as they are: 1 corrected"
    assert "labels was made with 0 corrected masks" in monitor.warnings[0]
    assert read_config(labelled_run.run, "seg")["given_masks"]["ids"] == ["a"]
    assert other_given_masks(labelled_run.run, "seg") is None
    given = given_masks(labelled_run.run, open_dataset(labelled_run.data), SEG, None, SilentMonitor())
    load = LoadLabelled(labelled_run.run / "labels/labels.h5", 2, 64, SEG, given)
    sample = open_dataset(labelled_run.data).by_id()["a"]
    torch.manual_seed(0)
    assert set(np.unique(load(sample).mask).tolist()) <= {0, 2, 255}  # the pseudo mask shows 1


def test_validation_images__not_those_whose_mask_the_student_learns(labelled_run: Any) -> None:
    dataset = open_dataset(labelled_run.data)
    assert [one.id for one in validation_images(dataset, SEG, SilentMonitor(), learned={"v1"})] == ["v2"]
    assert validation_images(dataset, SEG, SilentMonitor(), learned={"v1", "v2"}) == []


@pytest.mark.parametrize("batch", [2, 4])
def test_student_stream__corrected_images_in_every_batch(
    batch: int, labelled_run: Any, correct: Callable[..., CorrectionFile]
) -> None:
    correct(labelled_run.run, {"c": np.ones((64, 64), np.uint8)})
    dataset = open_dataset(labelled_run.data)
    given = given_masks(labelled_run.run, dataset, SEG, None, SilentMonitor())
    stream = student_stream(dataset.split(), number_of, given, replace(SEG, batch_size=batch))
    drawn = [stream[position].checked() for position in range(12 * batch)]
    for first in range(0, len(drawn), batch):
        assert "c" in drawn[first : first + batch]
    assert {*drawn} == {"a", "b", "c", "deep/d"}


def number_of(sample: Sample) -> str:
    return sample.id
