import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data.errors import ArtifactError, DataError, SettingsError
from data.images import MaskFile
from data.palette import palette_image
from data.pixel_rule import BandRange, PixelRule
from stages.import_masks import import_masks
from stages.labels.label_settings import CHOSEN, INSTANCES
from stages.pick import candidates, pick
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import open_run_data
from stages.run_folder.saving import write_json
from stages.runtime.monitor import SilentMonitor
from stages.verdict.judged_run import judge_run


@pytest.fixture
def own_run(whole_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_run, tmp_path / "run")
    return tmp_path / "run"


def test_pick__exports_the_images_of_the_table(own_run: Path, tmp_path: Path) -> None:
    found = pick(own_run, SilentMonitor(), count=4)
    assert found.out == own_run / "picked"
    tasks = json.loads((found.out / "tasks.json").read_text())
    assert {one["data"]["image_id"] for one in tasks} == {one.id for one in found.images}
    assert len(found.images) == 4
    assert {one.chosen_for for one in found.images} == {"red", "blue"}  # and none without labels
    assert all("unsure 0." in one.why for one in found.images)
    again = pick(own_run, SilentMonitor(), count=4, format="png", out=tmp_path / "png")
    assert again.images == found.images
    assert {
        one.relative_to(tmp_path / "png").with_suffix("").as_posix() for one in (tmp_path / "png").rglob("*.png")
    } == {one.id for one in found.images}


def test_pick__keeps_what_may_be_corrected_already(own_run: Path, correct: Callable[..., object]) -> None:
    pick(own_run, SilentMonitor(), count=1, format="png")
    with pytest.raises(
        SettingsError,
        match="picked holds another or an unfinished export: give another folder with --out, or --overwrite",
    ):
        pick(own_run, SilentMonitor(), count=1, format="png")
    (first,) = pick(own_run, SilentMonitor(), count=1, format="png", overwrite=True).images
    file = own_run / "picked" / f"{first.id}.png"
    for mask in (Image.new("P", (64, 64), 1), Image.new("RGB", (64, 64))):
        mask.save(file)
        before = file.read_bytes()
        with pytest.raises(
            SettingsError,
            match=rf"would be replaced \('{first.id}'\): run 'toco import .* --from png' if you corrected them",
        ):
            pick(own_run, SilentMonitor(), format="png", overwrite=True)
        assert file.read_bytes() == before
    correct(own_run, {first.id: np.ones((64, 64), np.uint8)})
    others = pick(own_run, SilentMonitor(), format="png", overwrite=True).images
    assert first.id not in {one.id for one in others}
    assert file.read_bytes() == before


def test_pick__a_mask_that_no_one_changed_is_no_correction_after_new_labels(own_run: Path) -> None:
    (first,) = pick(own_run, SilentMonitor(), count=1, format="png").images
    file = own_run / "picked" / f"{first.id}.png"
    with h5py.File(own_run / "labels" / "labels.h5", "r+") as labels:  # as if they were made again
        stored = labels["masks"][first.id]
        stored[...] = np.roll(stored[()], 20, axis=0)
        new = stored[()]
    with pytest.raises(DataError, match="nothing was imported: masks that equal the pseudo masks: 1"):
        import_masks(own_run, file.parent, SilentMonitor(), tool="png")
    changed = new.copy()
    changed[:8] = 1
    palette_image(changed).save(file)
    with pytest.raises(SettingsError, match="would be replaced"):
        pick(own_run, SilentMonitor(), format="png", overwrite=True)
    assert import_masks(own_run, file.parent, SilentMonitor(), tool="png", allow_new_labels=True).masks == 1


def test_pick__replaces_masks_of_earlier_labels_that_no_one_changed(own_run: Path) -> None:
    (first,) = pick(own_run, SilentMonitor(), count=1, format="png").images
    with h5py.File(own_run / "labels" / "labels.h5", "r+") as labels:
        stored = labels["masks"][first.id]
        stored[...] = np.roll(stored[()], 20, axis=0)
        new = stored[()]
    pick(own_run, SilentMonitor(), count=8, format="png", overwrite=True)
    np.testing.assert_array_equal(MaskFile(own_run / "picked" / f"{first.id}.png").read(), new)


def test_pick__a_damaged_list_of_picked_masks(own_run: Path) -> None:
    pick(own_run, SilentMonitor(), count=1, format="png")
    (own_run / "picked.json").write_text("[1]")
    with pytest.raises(ArtifactError, match=r"picked.json is damaged: delete it"):
        pick(own_run, SilentMonitor(), count=1, format="png", overwrite=True)


def test_pick__passes_over_corrected_images(own_run: Path, correct: Callable[..., object], tmp_path: Path) -> None:
    (first,) = pick(own_run, SilentMonitor(), count=1).images
    correct(own_run, {first.id: np.ones((64, 64), np.uint8)})
    (second,) = pick(own_run, SilentMonitor(), count=1, out=tmp_path / "2").images
    assert second.id != first.id
    correct(
        own_run, {one: np.ones((64, 64), np.uint8) for one in ("a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h")}
    )
    with pytest.raises(DataError, match=r"people drew all 8 masks of .* already"):
        pick(own_run, SilentMonitor(), out=tmp_path / "3")


def test_pick__passes_over_ground_truth_that_was_used_as_masks(own_run: Path) -> None:
    path = own_run / "labels" / "config.json"
    drawn = ["a", "b", "c", "d", "deep/e", "deep/f", "deep/g"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "given_masks": {"ids": drawn}}))
    assert [one.id for one in pick(own_run, SilentMonitor()).images] == ["h"]


def test_candidates__pixels_without_a_value_are_not_unsure(whole_run: Path, tmp_path: Path) -> None:
    labels = open_stage(whole_run, "labels")
    sample = open_run_data(labels, None, skip_bad=True).by_id()["a"]
    rule = PixelRule(bands=(BandRange(number=1, low=0, high=1, mean=0.5, std=1),), count=1)
    unsure = []
    for value in (0.5, np.nan):
        path = tmp_path / f"{value}.npy"
        np.save(path, np.full((64, 64), value, np.float32))
        (found,) = candidates(whole_run, labels, [replace(sample, image=path, pixels=rule)], SilentMonitor())
        unsure.append(found.doubt.unsure)
    assert unsure[0] > 0.1
    assert unsure[1] == 0
    path.write_bytes(b"no longer an image")  # the mask is still judged: other images may be picked
    (found,) = candidates(whole_run, labels, [replace(sample, image=path, pixels=rule)], SilentMonitor())
    assert found.doubt.unsure == unsure[0]


def test_candidates__masks_that_were_made_without_cams_are_not_compared_with_them(own_run: Path) -> None:
    labels = open_stage(own_run, "labels")
    samples = [*open_run_data(labels, None, skip_bad=True).by_id().values()][:4]
    assert any(one.doubt.contradicted for one in candidates(own_run, labels, samples, SilentMonitor()))
    write_json(labels.path / "config.json", {**labels.config, CHOSEN: INSTANCES})
    labels = open_stage(own_run, "labels")
    assert not any(one.doubt.contradicted for one in candidates(own_run, labels, samples, SilentMonitor()))


def test_pick__failed_classes_get_more_images(own_run: Path, tmp_path: Path) -> None:
    verdict = judge_run(own_run, SilentMonitor()).verdict.as_dict()
    for place, other in enumerate(("blue", "red")):
        for number, one in enumerate(verdict["classes"]):
            one["level"] = "failed" if number == place else "good"
        (own_run / "labels" / "verdict.json").write_text(json.dumps(verdict))
        found = pick(own_run, SilentMonitor(), count=4, out=tmp_path / other).images
        assert [one.chosen_for for one in found].count(other) == 1


def test_pick__one_class(own_run: Path, correct: Callable[..., object], tmp_path: Path) -> None:
    found = pick(own_run, SilentMonitor(), classes=["blue"]).images
    assert len(found) < 8
    assert all("blue" in one.classes and one.chosen_for == "blue" for one in found)
    both = pick(own_run, SilentMonitor(), classes=["blue", "red"], out=tmp_path / "2").images
    assert {one.chosen_for for one in both} == {"blue", "red"}
    with pytest.raises(
        SettingsError, match=r"--class 'Blue' is not a class of .* \('red', 'blue'; did you mean 'blue'\?\)"
    ):
        pick(own_run, SilentMonitor(), classes=["Blue"], out=tmp_path / "3")
    correct(own_run, {one.id: np.full((64, 64), 2, np.uint8) for one in found})
    with pytest.raises(DataError, match=rf"people drew all {len(found)} masks of images with 'blue' already: give oth"):
        pick(own_run, SilentMonitor(), classes=["red", "blue"], out=tmp_path / "3")


def test_pick__a_class_without_images(own_run: Path, pictures: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("red", "blue").replace("blue;blue", "blue"))
    with pytest.raises(DataError, match=r"no image with a mask in .* has the label 'red': label some, or give other"):
        pick(own_run, SilentMonitor(), classes=["red"], data=data)


def test_pick__refusals(own_run: Path) -> None:
    with pytest.raises(SettingsError, match="--format 'yolo' is not known: choose one of labelstudio, cvat, png"):
        pick(own_run, SilentMonitor(), format="yolo")
    shutil.rmtree(own_run / "labels")
    with pytest.raises(ArtifactError, match=r"has no labels/config\.json: run 'toco make-labels' first"):
        pick(own_run, SilentMonitor())
