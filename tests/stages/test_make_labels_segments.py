"""`toco make-labels --segments`, from the settings to RUN/labels."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import stages.make_labels
import stages.relabel.instance_head
from data.errors import ArtifactError, DataError, SettingsError
from data.images import image_size
from data.readers import open_dataset
from stages.config import MakeLabels, Run, TrainCam, TrainSeg
from stages.labels.store import LabelFile
from stages.make_labels import make_labels
from stages.preflight.checks import before_make_labels
from stages.run import before_run, check_run, complete_settings, run
from stages.run_folder.run_config import AllSettings
from stages.runtime.monitor import SilentMonitor
from stages.segments.superpixels import superpixels

CONFIG = MakeLabels(relabel="none", device="cpu", workers=1, scales=(1.0,), batch_size=1)
SEG = TrainSeg(arch="Linknet", encoder="tu-mobilenetv3_small_050", weights="none", device="cpu")


class Stops(SilentMonitor):
    """Stops a command at the nth image."""

    def __init__(self, images: int) -> None:
        self.left = images

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.left -= steps
        if self.left <= 0:
            raise RuntimeError("stopped")


class Recorder(SilentMonitor):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def masks_of(run: Path, config: MakeLabels, monitor: SilentMonitor | None = None) -> dict[str, Any]:
    folder = make_labels(run, config, monitor or SilentMonitor(), overwrite=True)
    stored = LabelFile(folder / "labels.h5", "masks")
    return {one: stored.read(one) for one in stored.ids}


@pytest.fixture
def blocks(tmp_path: Path, pictures: Path) -> Path:
    """Label images of all pictures but 'a': blocks of 3 x 3 pixels."""
    for sample in open_dataset(pictures).split():
        if sample.id != "a":
            height, width = image_size(sample.image)
            path = tmp_path / "blocks" / f"{sample.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, 1 + np.arange(height)[:, None] // 3 * 1000 + np.arange(width) // 3)
    return tmp_path / "blocks"


def test_make_labels__segments_of_a_folder_vote(cam_run: Path, blocks: Path) -> None:
    plain = masks_of(cam_run, CONFIG)
    monitor = Recorder()
    voted = masks_of(cam_run, replace(CONFIG, segments=str(blocks)), monitor)
    (warning,) = monitor.warnings
    assert warning.endswith("has no file for 1 of 8 images, first 'a': their masks are made without segments")
    np.testing.assert_array_equal(voted["a"], plain["a"])
    assert any((voted[one] != plain[one]).any() for one in plain)
    slic = masks_of(cam_run, replace(CONFIG, segments="slic", slic_segments=20))
    assert any((slic[one] != plain[one]).any() for one in plain)
    for mask, before in ((voted, plain), (slic, plain)):
        for one in before:  # no class that the image does not have
            assert set(np.unique(mask[one])) <= {0, *LabelFile(cam_run / "labels" / "cams.h5", "cams").classes(one)}


def test_make_labels__segments_that_do_not_fit(cam_run: Path, blocks: Path, tmp_path: Path) -> None:
    np.save(blocks / "b.npy", np.ones((5, 6), np.int32))
    (blocks / "deep" / "e.npy").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"b\.npy: it is 5 x 6 \(height x width\), its image is .*: segment the upright .* \(and 1 more of 7 seg",
    ):
        before_make_labels(cam_run, replace(CONFIG, segments=str(blocks)), SilentMonitor(), overwrite=True)
    with pytest.raises(DataError, match="is not a folder: give the folder of the segment files, slic or sam"):
        before_make_labels(cam_run, replace(CONFIG, segments="slick"), SilentMonitor(), overwrite=True)
    (tmp_path / "others").mkdir()
    with pytest.raises(DataError, match="has no file for any of the 8 images"):
        before_make_labels(cam_run, replace(CONFIG, segments=str(tmp_path / "others")), SilentMonitor(), overwrite=True)


def test_run__checks_segments_before_it_trains(
    blocks: Path, pictures: Path, tmp_path: Path, cam_settings: Callable[..., TrainCam]
) -> None:
    labels = replace(CONFIG, segments=str(blocks))
    settings = AllSettings(cam=cam_settings(), labels=labels)
    monitor = Recorder()
    check_run(pictures, tmp_path / "run", *complete_settings(Run(), settings), monitor)
    assert any("has no file for 1 of 8 images, first 'a'" in one for one in monitor.warnings)
    np.save(blocks / "b.npy", np.ones((5, 6), np.int32))
    with pytest.raises(DataError, match=r"b\.npy: it is 5 x 6"):
        before_run(pictures, tmp_path / "run", Run(), settings, SilentMonitor())


def test_run__counts_images_without_segments_once(
    whole_run: Path, blocks: Path, pictures: Path, tmp_path: Path, cam_settings: Callable[..., TrainCam]
) -> None:
    class StopsAtMasks(Recorder):
        def advance(self, steps: int = 1, **figures: float) -> None:
            raise RuntimeError("stopped")

    out, monitor = tmp_path / "run", StopsAtMasks()
    shutil.copytree(whole_run / "cam", out / "cam")
    with pytest.raises(RuntimeError, match="stopped"):
        run(pictures, out, Run(), monitor, cam=cam_settings(), labels=replace(CONFIG, segments=str(blocks)), seg=SEG)
    assert ["has no file for 1 of 8 images" in one for one in monitor.warnings] == [True]
    assert "has no file for 1 of 8 images" in (out / "labels" / "log.txt").read_text()  # of this stage


def test_make_labels__resume_notices_changed_segments(
    cam_run: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, segments=str(blocks))
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)

    def interrupted() -> None:
        with pytest.raises(RuntimeError):
            make_labels(cam_run, config, Stops(5), overwrite=True)  # 'a' to 'd' are made

    interrupted()
    later = np.load(blocks / "h.npy")
    np.save(blocks / "h.npy", np.repeat(later[None], 2, axis=0))  # not used yet
    os.utime(blocks / "b.npy")  # as after copying the folder
    make_labels(cam_run, config, SilentMonitor(), resume=True)
    interrupted()
    np.save(blocks / "h.npy", later)
    np.save(blocks / "b.npy", np.load(blocks / "b.npy").astype(np.int32))
    with pytest.raises(ArtifactError, match=r"segment files of 1 images, first 'b', have changed since .*--overwrite"):
        make_labels(cam_run, config, SilentMonitor(), resume=True)
    (blocks / "b.npy").unlink()
    np.save(blocks / "a.npy", np.ones(np.load(blocks / "h.npy").shape, np.int32))
    with pytest.raises(ArtifactError, match="segment files of 2 images, first 'a', have changed"):
        make_labels(cam_run, config, SilentMonitor(), resume=True)


def test_make_labels__resume_after_auto_chose_mil(cam_run: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass, in which it was stopped, uses no segments: these may change."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    monkeypatch.setattr(stages.make_labels, "learns_from_instances", lambda *_: True)
    monkeypatch.setattr(stages.relabel.instance_head, "STEPS", 20)
    config = replace(CONFIG, relabel="auto", segments=str(blocks))
    with pytest.raises(RuntimeError, match="stopped"):
        make_labels(cam_run, config, Stops(5))
    np.save(blocks / "b.npy", np.load(blocks / "b.npy").astype(np.int32))
    make_labels(cam_run, config, SilentMonitor(), resume=True)


def test_superpixels__of_a_large_image_are_made_on_a_reduced_one(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((61, 90, 3), 30, np.uint8)
    image[:, 40:] = (200, 60, 60)
    monkeypatch.setattr("stages.segments.superpixels.SLIC_PIXELS", 1200)
    parts = superpixels(image, replace(CONFIG, segments="slic", slic_segments=12, slic_compactness=1.0))
    assert 4 <= len(parts) <= 24
    assert sorted(np.concatenate(parts)) == list(range(61 * 90))  # each pixel once
    for pixels in parts:
        right = (pixels % 90 >= 40).mean()
        assert min(right, 1 - right) < 0.1  # on one side of the edge, apart from one reduced pixel


@pytest.mark.parametrize(
    ("segments", "package", "extra"), [("slic", "scikit-image", "segments"), ("sam", "transformers", "sam")]
)
def test_make_labels__segments_without_their_package(
    segments: str, package: str, extra: str, cam_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=f"--segments {segments} needs the package '{package}'.*{extra}"):
        before_make_labels(cam_run, replace(CONFIG, segments=segments), SilentMonitor())


@pytest.mark.slow
def test_make_labels__segments_in_other_processes_and_relabelled(cam_run: Path) -> None:
    config = replace(CONFIG, segments="slic", slic_segments=20)
    here, there = masks_of(cam_run, config), masks_of(cam_run, replace(config, workers=2))
    for one, mask in here.items():
        np.testing.assert_array_equal(mask, there[one])
    relabelled = replace(config, relabel="linear", feature_weights="trained", relabel_rounds=1, relabel_steps=20)
    plain, voted = masks_of(cam_run, replace(relabelled, segments="none")), masks_of(cam_run, relabelled)
    assert any((plain[one] != voted[one]).any() for one in plain)


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM with random weights, as transformers saves it."""
    import torch
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    folder = tmp_path_factory.mktemp("sam")
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=32,
        num_pos_feats=8,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2
    )
    torch.manual_seed(0)
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    SamModel(config).save_pretrained(folder)
    SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what transformers warns of is not ours
def test_make_labels__segments_of_sam(
    cam_run: Path, tiny_sam: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import stages.segments.sam as sam

    config = replace(CONFIG, segments="sam", sam_model=str(tiny_sam), sam_points=3)
    monkeypatch.setattr(sam, "PREDICTED_IOU", -1e9)  # the random model is sure of nothing
    monkeypatch.setattr(sam, "STABILITY", -1e9)
    first = masks_of(cam_run, config)
    files = sorted((cam_run / "segments" / "images").rglob("*.json"))
    assert [one.relative_to(cam_run / "segments" / "images").as_posix() for one in files] == [
        *(f"{one}.json" for one in ("a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h")),
    ]
    content = json.loads(files[0].read_text())
    assert content["annotations"][0].keys() == {"segmentation", "area", "predicted_iou"}
    assert content["annotations"][0]["segmentation"]["size"] == [content["image"]["height"], content["image"]["width"]]

    def not_again(*_: Any) -> Any:
        raise AssertionError("the segments are there")

    with monkeypatch.context() as patch:
        patch.setattr(sam, "_load", not_again)
        again = masks_of(cam_run, config)
    for one, mask in first.items():
        np.testing.assert_array_equal(mask, again[one])
    # The stored files are also a --segments DIR.
    copied = masks_of(cam_run, replace(CONFIG, segments=str(cam_run / "segments" / "images")))
    for one, mask in first.items():
        np.testing.assert_array_equal(mask, copied[one])

    load = Mock(wraps=sam._load)
    monkeypatch.setattr(sam, "_load", load)
    files[0].unlink()
    masks_of(cam_run, config)
    load.assert_called_once()
    assert files[0].is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_make_labels__sam_that_cannot_be_loaded(cam_run: Path, tiny_sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.networks.hub.hub_problem", lambda: "https://huggingface.co cannot be reached: offline")
    config = replace(CONFIG, segments="sam", sam_model="facebook/sam-vit-base")
    with pytest.raises(
        SettingsError, match=r"'facebook/sam-vit-base' cannot be loaded .*cannot be reached: offline.*give"
    ):
        masks_of(cam_run, config)
    import torch
    from safetensors.torch import load_file

    weights = tiny_sam / "model.safetensors"
    torch.save(load_file(weights), tiny_sam / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(SettingsError, match=r"cannot be loaded .*safetensors"):  # pickles are not read
        masks_of(cam_run, replace(config, sam_model=str(tiny_sam)))
