import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.readers import open_dataset
from stages.config import TrainCam
from stages.run_folder.artifacts import begin_stage, open_stage
from stages.verdict.judged_run import _settings, judge_run, read_verdict

CAM = TrainCam(backbone="vit_tiny_patch16_224", weights="none", image_size=64, device="cpu")


@pytest.fixture
def judged(labelled_run_in: Any, tmp_path: Path) -> Any:
    """Makes a run by hand that can be judged; `judged(fill=0)` has empty masks."""

    def make(**how: Any) -> Any:
        made = labelled_run_in(tmp_path, **how)
        begin_stage(made.run, "cam", settings=CAM, dataset=open_dataset(made.data))
        (made.run / "cam" / "model.safetensors").touch()
        return made

    return make


def without_truth(data: Path, keep: tuple[str, ...] = ()) -> None:
    for path in (data / "masks").rglob("*.png"):
        if path.stem not in keep:
            path.unlink()


def change_settings(run: Path, **how: Any) -> None:
    """As if `toco make-labels` had been given other options."""
    path = run / "labels" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "settings": {**config["settings"], **how}}))


def test_judge_run__right_masks_are_good(judged: Any, listener: Any) -> None:
    made = judged()
    verdict = judge_run(made.run, listener()).verdict
    assert [(one.name, one.level, one.by_ground_truth) for one in verdict.classes] == [
        ("red", "good", True),
        ("blue", "good", True),
    ]
    assert read_verdict(made.run) == verdict
    assert "headline" in json.loads((made.run / "labels" / "verdict.json").read_text())


def test_judge_run__of_a_run_that_cannot_be_written(judged: Any, listener: Any, request: pytest.FixtureRequest) -> None:
    made, monitor = judged(), listener()
    request.getfixturevalue("full_disk")
    assert judge_run(made.run, monitor).verdict.named("good")
    assert "verdict.json cannot be written: No space left on device" in monitor.warnings[0]
    assert read_verdict(made.run) is None


def test_judge_run__empty_masks_fail_with_and_without_ground_truth(judged: Any, listener: Any) -> None:
    made = judged(fill=0)
    measured = judge_run(made.run, listener()).verdict
    assert measured.headline.startswith("2 of 2 classes failed: red (masks: IoU 0 % on 2 images with ground truth, no")
    without_truth(made.data)
    monitor = listener()
    verdict = judge_run(made.run, monitor).verdict
    assert monitor.warnings == []
    assert verdict.headline.startswith("2 of 2 classes failed: red (no pixel in 2 of 2 images, ")
    assert verdict.measured == 0


def test_judge_run__ground_truth_of_some_images(judged: Any, listener: Any) -> None:
    made = judged(fill=0)
    without_truth(made.data, keep=("a",))  # which shows red alone
    verdict = judge_run(made.run, listener()).verdict
    assert [(one.by_ground_truth, one.reasons[0]) for one in verdict.classes] == [
        (True, "masks: IoU 0 % on 1 image with ground truth"),
        (False, "no pixel in 2 of 2 images"),
    ]
    assert verdict.measured == 1


def test_judge_run__sizes_of_objects_are_those_of_the_ground_truth_or_else_found(judged: Any, listener: Any) -> None:
    made = judged()
    assert judge_run(made.run, listener()).verdict.small_objects is None  # 4.4 and 4.9 patches of 16 pixels
    change_settings(made.run, image_size=32)
    measured = judge_run(made.run, listener()).verdict.small_objects
    assert measured is not None
    assert "red 1.1, blue 1.2: train with a larger --image-size" in measured
    without_truth(made.data)
    found = judge_run(made.run, listener()).verdict
    assert found.small_objects == measured.replace("1.1", "1.1 (as found)").replace("1.2", "1.2 (as found)")
    assert read_verdict(made.run) == found
    change_settings(made.run, image_size=32, window=32)  # in which objects are larger
    assert judge_run(made.run, listener()).verdict.small_objects is None


def test_judge_run__bad_ground_truth_does_not_end_the_command(judged: Any, listener: Any) -> None:
    made, monitor = judged(), listener()
    Image.fromarray(np.ones((3, 3), np.uint8)).save(made.data / "masks" / "a.png")
    assert judge_run(made.run, monitor).verdict.measured == 3
    assert any("a.png is 3 x 3" in text for text in monitor.warnings)


def test_judge_run__ground_truth_that_contradicts_the_labels_is_not_used(judged: Any, listener: Any) -> None:
    made, monitor = judged(), listener()
    for path in (made.data / "masks").rglob("*.png"):
        Image.fromarray(np.array([0, 2, 1, *range(3, 256)], np.uint8)[np.array(Image.open(path))]).save(path)
    verdict = judge_run(made.run, monitor).verdict
    assert not any(one.by_ground_truth for one in verdict.classes)
    assert any(text.startswith("judged without ground truth: ") for text in monitor.warnings)


@pytest.mark.parametrize("text", [None, "", "[]", '{"classes": []}', '{"classes": [{}], "examined": 1, "measured": 0}'])
def test_read_verdict__none_or_of_another_version(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "labels").mkdir()
    if text is not None:
        (tmp_path / "labels" / "verdict.json").write_text(text)
    assert read_verdict(tmp_path) is None


def test_judge_run__advice_repeats_the_settings_that_were_used(judged: Any, listener: Any) -> None:
    made = judged(fill=0)
    advice = _settings(made.run, open_stage(made.run, "labels"), open_dataset(made.data)).again(
        "train-cam", "iterations", 9, "test"
    )
    assert advice.command == (
        f"toco train-cam {made.data} --out {made.run} --overwrite --recipe voc --device cpu --backbone "
        "vit_tiny_patch16_224 --weights none --image-size 64 --iterations 9"
    )  # without a recipe, what has its default would be planned


@pytest.mark.parametrize("how", [{"source": "decoder"}, {"calibration_images": 5}])
def test_judge_run__advises_no_threshold_beside_what_excludes_it(how: dict[str, Any], judged: Any) -> None:
    made = judged(fill=0)
    change_settings(made.run, **how)
    assert _settings(made.run, open_stage(made.run, "labels"), open_dataset(made.data)).threshold_fits


def test_judge_run__advice_names_the_present_folder_of_the_data(judged: Any, listener: Any, tmp_path: Path) -> None:
    made = judged()
    without_truth(made.data)  # then there is the advice to label more images
    moved = made.data.rename(tmp_path / "my photos")
    advice = judge_run(made.run, listener(), data=moved).verdict.advice
    assert advice is not None
    assert advice.command == f"toco check '{moved}'"
