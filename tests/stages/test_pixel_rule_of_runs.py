"""The rule for pixel values is chosen by train-cam and used by all later stages."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import ArtifactError, DataError
from data.pixel_rule import AS_STORED, PixelRule
from data.readers import open_dataset
from stages.check import check
from stages.config import MakeLabels, PixelValues, Predict
from stages.labels.pseudo_masks import PseudoMasks
from stages.labels.store import LabelFile
from stages.make_labels import make_labels
from stages.networks.cam_model import load_cam_model
from stages.option import Given
from stages.plan import plan
from stages.predict import predict
from stages.prediction.predictor import load_predictor
from stages.run_folder.artifacts import open_stage, read_config
from stages.run_folder.run_config import AllSettings
from stages.run_folder.run_data import open_run_data
from stages.runtime.monitor import SilentMonitor
from stages.train_cam import train_cam

DEFAULT = {"bits": 16, "alpha": True, "clip": False}


def in_grey(data: Path, depth: int) -> Path:
    """Turn the images into grey ones: of 8 bits, or all but one of 12 bits in files of 16 with the same brightness."""
    for number, path in enumerate(sorted((data / "images").rglob("*.jpg"))):
        grey = np.asarray(Image.open(path).convert("L"))
        path.unlink()
        Image.fromarray(grey.astype(np.uint16) * 16 + 7 if depth == 12 and number else grey).save(
            path.with_suffix(".png")
        )
    table = data / "labels.csv"
    table.write_text(table.read_text().replace(".jpg", ".png"))
    return data


def test_train_cam__12_bits_give_the_network_of_8(
    draw_pictures: Callable[[Path], Path], cam_settings: Callable[..., Any], listener: Any, tmp_path: Path
) -> None:
    monitor = listener()
    runs = {}
    for depth in (8, 12):
        data = in_grey(draw_pictures(tmp_path / f"data{depth}"), depth)
        runs[depth] = tmp_path / f"run{depth}"
        train_cam(data, runs[depth], cam_settings(cache=str(tmp_path / "cache")), monitor)
        make_labels(runs[depth], MakeLabels(relabel="none", device="cpu", workers=1), SilentMonitor())
        predict(runs[depth], [data / "images" / "v.png"], tmp_path / f"out{depth}", PREDICT, SilentMonitor())
    (text,) = [warning for warning in monitor.warnings if "bits" in warning]
    assert text.startswith(
        "9 images of 16 bits, read as 8-bit RGB (4095 becomes 255), since others have 8 bits (first "
    )
    assert text.endswith("to keep the depth, save all images with 16 bits; if 8 bits are enough, give --image-bits 12")
    weights = [(run / "cam" / "model.safetensors").read_bytes() for run in runs.values()]
    assert weights[0] == weights[1]
    masks = [LabelFile(run / "labels" / "labels.h5", "masks").read("a") for run in runs.values()]
    np.testing.assert_array_equal(masks[0], masks[1])
    predictions = [(tmp_path / f"out{depth}" / "masks" / "v.png").read_bytes() for depth in runs]
    assert predictions[0] == predictions[1]
    for stage in ("cam", "labels"):
        assert [read_config(run, stage)["dataset"]["pixels"] for run in runs.values()] == [
            DEFAULT,
            {"bits": 12, "alpha": True, "clip": False},
        ]
    too_bright = tmp_path / "bright.png"
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(too_bright)
    monitor = listener()
    white = tmp_path / "white.png"
    Image.fromarray(np.full((40, 40), 4095, np.uint16)).save(white)
    predict(runs[12], [too_bright, white], tmp_path / "out", PREDICT, monitor)
    (text,) = monitor.warnings
    assert text.startswith("1 image has values above 4095, which were clipped (in up to 100.00% of the pixels): the")
    results = [(tmp_path / "out" / "masks" / name).read_bytes() for name in ("bright.png", "white.png")]
    assert results[0] == results[1]
    change_settings(runs[12], image_bits="12")
    with pytest.raises(DataError, match=r"bright\.png cannot be read: it has the value 9000, but .* 12 bits"):
        predict(runs[12], [too_bright], tmp_path / "out2", PREDICT, SilentMonitor())


def change_settings(run: Path, **changes: Any) -> None:
    path = run / "cam" / "config.json"
    config = json.loads(path.read_text())
    config["settings"].update(changes)
    path.write_text(json.dumps(config))


PREDICT = Predict(source="decoder", device="cpu", outputs=("masks",))


def test_train_cam__bits_by_option(
    draw_pictures: Callable[[Path], Path], cam_settings: Callable[..., Any], tmp_path: Path
) -> None:
    data = in_grey(draw_pictures(tmp_path / "data"), 12)
    train_cam(data, tmp_path / "run", cam_settings(image_bits="14", iterations=1), SilentMonitor())
    assert open_stage(tmp_path / "run", "cam").pixels == PixelRule(bits=14)


def test_open_run_data__runs_without_a_rule_keep_theirs(cam_run: Path, tmp_path: Path) -> None:
    folder = open_stage(cam_run, "cam")
    assert folder.pixels == AS_STORED
    old = {**folder.config, "dataset": {**folder.config["dataset"]}}
    del old["dataset"]["pixels"]
    run = tmp_path / "old"
    (run / "cam").mkdir(parents=True)
    (run / "cam" / "config.json").write_text(json.dumps(old))
    (run / "cam" / "model.safetensors").touch()
    assert open_run_data(open_stage(run, "cam"), None, skip_bad=False).pixels == AS_STORED
    for damaged in ({"bits": 99}, {"bytes": 1}, {"clip": 1}, [1]):
        old["dataset"]["pixels"] = damaged
        (run / "cam" / "config.json").write_text(json.dumps(old))
        with pytest.raises(ArtifactError, match=r"cam/config\.json is damaged"):
            open_stage(run, "cam")


def test_check__shows_the_rule(draw_pictures: Callable[[Path], Path], tmp_path: Path) -> None:
    data = in_grey(draw_pictures(tmp_path / "data"), 12)
    found = check(data, SilentMonitor())
    assert found.as_dict()["pixels"] == {"bits": 12, "alpha": True, "clip": False}
    (finding,) = [one for one in found.findings if one.topic == "bits"]
    assert finding.level == "warning"
    assert finding.text.startswith(
        "9 images of 16 bits, read as 8-bit RGB (4095 becomes 255), since others have 8 bits"
    )
    planned = plan(data, AllSettings(), Given(None, {}), SilentMonitor(), timed=False)
    assert planned.fingerprint.lines()[-1] == finding.text
    assert not {"nearly_black", "one_colour", "duplicate"} & {one.topic for one in found.findings}
    other = check(data, SilentMonitor(), PixelValues(image_bits="16", alpha="ignore"))
    assert other.as_dict()["pixels"] == {"bits": 16, "alpha": False, "clip": False}
    assert "nearly_black" in {one.topic for one in other.findings}
    assert open_dataset(data).pixels == AS_STORED  # readers do not look at pixels


def test_stages__bands_and_depth_reach_the_network(
    draw_pictures: Callable[[Path], Path], cam_settings: Callable[..., Any], listener: Any, tmp_path: Path
) -> None:
    """Five bands of floating-point numbers, with missing values, from training to prediction and Python."""
    data, run, monitor = in_bands(draw_pictures(tmp_path / "data")), tmp_path / "run", listener()
    train_cam(data, run, cam_settings(bands="5,1"), monitor)
    (told, missing) = [note for note in monitor.notes if "band" in note]
    assert told.startswith("images have 5 bands of 32 bits (float32), read at full depth: band 5 (")
    assert "of the values are missing" in missing
    rule = open_stage(run, "cam").pixels
    assert ([band.number for band in rule.bands], rule.count) == ([5, 1], 5)
    backbone = load_cam_model(open_stage(run, "cam")).backbone
    assert backbone.state_dict()["vit.patch_embed.proj.weight"].shape[1] == 2
    assert backbone.mean.flatten().tolist() == pytest.approx([band.mean for band in rule.bands], abs=1e-4)
    labels = MakeLabels(relabel="linear", relabel_rounds=1, relabel_steps=20, refine="par", device="cpu", workers=1)
    monitor = listener()
    make_labels(run, labels, monitor)
    assert sum("8 of the images labelled now have pixels without a value" in note for note in monitor.notes) == 1
    assert open_run_data(open_stage(run, "labels"), None, skip_bad=False).pixels == rule
    image, mask = PseudoMasks(run)[0]
    assert (image.dtype, len(image), image.shape[1:]) == (torch.float32, 2, mask.shape)
    assert (np.argwhere(mask.numpy() == 255) < 3).all()
    assert (mask[:3, :3] == 255).all()
    path = data / "images" / "v.npy"
    monitor = listener()
    files = predict(run, [path], tmp_path / "out", replace(PREDICT, outputs=("masks", "overlays")), monitor)
    assert sum("1 of the images predicted now has pixels without a value" in note for note in monitor.notes) == 1
    stored = np.asarray(Image.open(files["masks"][0]))
    assert (stored[:3, :3] == 255).all()
    assert (stored[3:] != 255).all()
    predictor = load_predictor(run, PREDICT)
    np.testing.assert_array_equal(predictor.predict(path), stored)
    np.testing.assert_array_equal(predictor.predict(np.load(path)), stored)
    Image.new("RGB", (30, 30)).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"photo\.png cannot be read: it has 3 bands, but .* have 5"):
        predict(run, [tmp_path / "photo.png"], tmp_path / "out2", PREDICT, SilentMonitor())


def in_bands(data: Path) -> Path:
    """Turn the images into arrays of five bands."""
    for path in (data / "images").rglob("*.jpg"):
        values = np.asarray(Image.open(path), np.float32)[..., [0, 1, 2, 1, 0]] / 3000 - 0.01
        values[:3, :3] = np.nan
        np.save(path.with_suffix(".npy"), values)
        path.unlink()
    table = data / "labels.csv"
    table.write_text(table.read_text().replace(".jpg", ".npy"))
    return data
