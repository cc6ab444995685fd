import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import stages.evaluate
from data.errors import ArtifactError, DataError
from data.readers import open_dataset
from stages.config import Evaluate, MakeLabels, Predict, TrainSeg
from stages.evaluate import NoGroundTruthError, evaluate, label_columns, network_columns
from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard
from stages.make_labels import make_labels
from stages.run_folder.artifacts import begin_stage
from stages.runtime.monitor import SilentMonitor
from stages.sweep import sweep
from stages.train_cam import train_cam
from stages.verdict.judged_run import measured_student

CONFIG = Evaluate(device="cpu")
# Two images: truth, pseudo mask, and the CAMs of their classes.
TRUTH = {"a": [[0, 0, 1, 1], [0, 255, 1, 2]], "deep/b": [[2, 0]]}
MASKS = {"a": [[0, 1, 1, 1], [255, 0, 1, 2]], "deep/b": [[2, 0]]}
CLASSES = {"a": (1, 2), "deep/b": (2,)}
CAMS = {
    "a": [[[0.1, 0.9, 0.9, 0.9], [0.2, 0.1, 0.9, 0.3]], [[0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.8]]],
    "deep/b": [[[0.9, 0.1]]],
}
NAMES = ("red", "blue", "green")


def save(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for image_id, truth in TRUTH.items():
        save(root / "images" / f"{image_id}.png", np.zeros((*np.shape(truth), 3)))
        save(root / "masks" / f"{image_id}.png", truth)
    (root / "labels.csv").write_text("image,labels\na.png,red;blue\ndeep/b.png,blue\n")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    """RUN/labels with masks and CAMs made by hand."""
    folder = begin_stage(
        tmp_path / "run",
        "labels",
        settings=MakeLabels(),
        dataset=open_dataset(data),
        extra={"background_threshold": 0.5},
    ).path
    labels = [
        ImageLabels(
            id=image_id,
            classes=CLASSES[image_id],
            cam=np.array(CAMS[image_id], np.float16),
            mask=np.array(mask, np.uint8),
        )
        for image_id, mask in MASKS.items()
    ]
    write_shard(folder / "shards" / "0.h5", labels)
    join_shards([folder / "shards" / "0.h5"], folder, label_attributes(NAMES, {}))
    return tmp_path / "run"


def columns_of(run: Path, data: Path, **more: Any) -> dict[str, Any]:
    columns = label_columns(run, open_dataset(data), SilentMonitor(), **more)
    return {column.name: column for column in columns}


def test_label_columns__pseudo_masks_by_hand(run: Path, data: Path) -> None:
    column = columns_of(run, data)["pseudo masks"]
    assert (column.split, column.images) == ("train", 2)
    # Background: 2 of 4 true pixels found, one taken for class 1, one left 255; class 1: 3 found and 1 too many.
    np.testing.assert_allclose(column.scores.iou, [2 / 4, 3 / 4, 2 / 2, math.nan])
    assert column.scores.miou == pytest.approx((2 / 4 + 3 / 4 + 1) / 3)
    # Without the pixel that is 255 in the pseudo mask.
    assert column.scores.miou_ignoring_unlabelled == pytest.approx((2 / 3 + 3 / 4 + 1) / 3)
    assert column.scores.labelled == pytest.approx(8 / 9)
    assert column.scores.pixel_accuracy == pytest.approx(7 / 9)


def use_given(folder: Path, *ids: str) -> None:
    """Let a stage have been trained with masks that people drew of these images."""
    config = json.loads((folder / "config.json").read_text())
    config["given_masks"] = {"use": "corrected", "corrected": len(ids), "digest": "", "ids": ids}
    (folder / "config.json").write_text(json.dumps(config))


def test_label_columns__masks_that_people_drew_are_not_measured(run: Path, data: Path, listener: Any) -> None:
    use_given(run / "labels", "a")
    monitor = listener()
    columns = label_columns(run, open_dataset(data), monitor)
    assert [column.images for column in columns] == [1, 1]
    assert monitor.notes == ["pseudo masks of 1 images with a mask drawn by people are not measured"]
    use_given(run / "labels", "a", "deep/b")
    with pytest.raises(NoGroundTruthError, match=r"all 2 images with a pseudo mask in .* have a mask drawn by people"):
        label_columns(run, open_dataset(data), SilentMonitor())


def test_label_columns__cam_by_hand(run: Path, data: Path) -> None:
    column = columns_of(run, data)["CAM"]
    np.testing.assert_allclose(column.scores.iou, [3 / 4, 3 / 4, 2 / 2, math.nan])
    assert column.scores.miou == column.scores.miou_ignoring_unlabelled == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert column.scores.labelled == 1


def test_label_columns__threshold_is_that_of_the_labels(run: Path, data: Path) -> None:
    path = run / "labels" / "config.json"
    config = json.loads(path.read_text())
    config["background_threshold"] = 0.85
    path.write_text(json.dumps(config))
    # The one pixel of class 2 in the first image (0.8) is background now.
    np.testing.assert_allclose(columns_of(run, data)["CAM"].scores.iou, [3 / 5, 3 / 4, 1 / 2, math.nan])


def test_label_columns__images_that_were_left_out(run: Path, data: Path) -> None:
    save(data / "images" / "c.png", np.zeros((2, 2, 3)))
    save(data / "masks" / "c.png", np.ones((2, 2)))
    with (data / "labels.csv").open("a") as file:
        file.write("c.png,red\n")
    assert columns_of(run, data)["CAM"].images == 2


def test_label_columns__no_masks(run: Path, data: Path) -> None:
    for image_id in TRUTH:
        (data / "masks" / f"{image_id}.png").unlink()
    with pytest.raises(DataError) as caught:
        columns_of(run, data)
    assert str(caught.value).startswith(f"{data} has no ground-truth masks for split 'train' to measure against")
    assert "put some into masks/" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_label_columns__bad_mask(run: Path, data: Path, listener: Any) -> None:
    save(data / "masks" / "deep" / "b.png", [[2], [0]])
    with pytest.raises(DataError, match=r"b\.png is 2 x 1 \(height x width\), its image is 1 x 2"):
        columns_of(run, data)
    monitor = listener()
    columns = label_columns(run, open_dataset(data), monitor, skip_bad=True)
    assert [column.images for column in columns] == [1, 1]
    assert len(monitor.warnings) == 1
    assert "b.png is 2 x 1" in monitor.warnings[0]


def test_label_columns__not_made(run: Path, data: Path) -> None:
    (run / "labels" / "labels.h5").unlink()
    with pytest.raises(ArtifactError, match="'toco make-labels' did not finish there"):
        columns_of(run, data)


@pytest.fixture
def whole_run(cam_run: Path) -> Path:
    make_labels(cam_run, MakeLabels(relabel="none", device="cpu", workers=1, scales=(1.0,)), SilentMonitor())
    return cam_run


def test_evaluate__what_exists(whole_run: Path) -> None:
    evaluation = evaluate(whole_run, CONFIG, SilentMonitor())
    assert evaluation.class_names == ("background", "red", "blue")
    assert [(column.name, column.split, column.images) for column in evaluation.columns] == [
        ("CAM", "train", 8),
        ("pseudo masks", "train", 8),
        ("decoder", "val", 2),
    ]
    assert all(0 <= column.scores.miou <= 1 for column in evaluation.columns)
    # Here the pseudo masks are the CAMs at one threshold, before the CAMs were rounded for storing.
    assert evaluation.columns[0].scores.miou == pytest.approx(evaluation.columns[1].scores.miou, abs=2e-3)


def test_evaluate__network_alone(cam_run: Path) -> None:
    evaluation = evaluate(cam_run, CONFIG, SilentMonitor())
    assert [column.name for column in evaluation.columns] == ["decoder"]


def test_evaluate__split_for_the_networks(whole_run: Path) -> None:
    evaluation = evaluate(whole_run, replace(CONFIG, split="train"), SilentMonitor())
    assert [(column.name, column.split, column.images) for column in evaluation.columns] == [
        ("CAM", "train", 8),
        ("pseudo masks", "train", 8),
        ("decoder", "train", 8),
    ]


class Oracle:
    """Returns the given answers, image after image."""

    def __init__(self, answers: Sequence[Tensor]) -> None:
        self.answers = iter(answers)

    def __call__(self, image: Tensor) -> Tensor:
        answer = next(self.answers)
        assert answer.shape == image.shape[1:]
        return answer


def test_evaluate__student_beside_the_decoder(whole_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = begin_stage(whole_run, "seg", settings=CONFIG, dataset=open_dataset(pictures)).path
    (student / "model.safetensors").touch()
    masks = [torch.from_numpy(np.array(Image.open(pictures / "masks" / f"{name}.png"))).long() for name in "vw"]

    def open_segmenter(run: Path, config: Predict) -> Oracle:
        return Oracle(masks if config.source == "student" else [torch.zeros_like(mask) for mask in masks])

    monkeypatch.setattr(stages.evaluate, "open_segmenter", open_segmenter)
    columns = {column.name: column.scores for column in evaluate(whole_run, CONFIG, SilentMonitor()).columns}
    assert list(columns) == ["CAM", "pseudo masks", "decoder", "student"]
    assert columns["student"].miou == 1
    background = sum(int((mask == 0).sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    present = len({number for mask in masks for number in mask.flatten().tolist()})
    assert columns["decoder"].miou == pytest.approx(background / present)


@pytest.mark.parametrize("stage", ["labels", "seg"])  # labels.h5 has the masks that people drew, too
def test_network_columns__masks_that_the_student_learned_are_not_measured(
    stage: str, whole_run: Path, pictures: Path, tmp_path: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, monitor = shutil.copytree(whole_run, tmp_path / "copy"), listener()
    begin_stage(run, "seg", settings=TrainSeg(), dataset=open_dataset(pictures))
    (run / "seg" / "model.safetensors").touch()
    use_given(run / stage, "v")
    mask = torch.from_numpy(np.array(Image.open(pictures / "masks" / "w.png"))).long()
    monkeypatch.setattr(stages.evaluate, "open_segmenter", lambda run, config: Oracle([mask]))
    config = replace(CONFIG, images=1)  # which would be v
    columns = network_columns(run, open_dataset(pictures), config, monitor, split="val", segmenters={})
    assert [(one.name, one.images) for one in columns] == [("decoder", 1), ("student", 1)]
    assert "1 images of split 'val' are not measured, because the student learned their masks" in monitor.warnings[0]
    use_given(run / stage, "v", "w")
    assert measured_student(run, open_dataset(pictures), TrainSeg(device="cpu"), monitor) is None
    assert "the student is not measured: the student learned" in monitor.warnings[-1]


def test_evaluate__leaves_out_a_student_of_earlier_labels(
    whole_run: Path, pictures: Path, listener: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(whole_run, tmp_path / "copy")
    student = begin_stage(run, "seg", settings=CONFIG, dataset=open_dataset(pictures)).path
    (student / "model.safetensors").touch()
    with (run / "labels" / "labels.h5").open("ab") as file:
        file.write(b"more")
    monitor = listener()
    names = [column.name for column in evaluate(run, CONFIG, monitor).columns]
    assert names == ["CAM", "pseudo masks", "decoder"]
    assert any("seg was made from a labels/labels.h5 that has been replaced since" in text for text in monitor.warnings)


def test_evaluate__only_the_validation_split_has_masks(
    whole_run: Path, draw_pictures: Callable[[Path], Path], listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    for path in (data / "masks").rglob("*.png"):
        if path.stem not in "vw":
            path.unlink()
    monitor = listener()
    evaluation = evaluate(whole_run, CONFIG, monitor, data=data)
    assert [column.name for column in evaluation.columns] == ["decoder"]
    assert monitor.warnings[-1].startswith(f"not measured: {data} has no ground-truth masks for split 'train'")


def test_evaluate__only_the_training_split_has_masks(
    whole_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    for name in "vw":
        (data / "masks" / f"{name}.png").unlink()
    evaluation = evaluate(whole_run, CONFIG, SilentMonitor(), data=data)
    assert {column.split for column in evaluation.columns} == {"train"}


def test_evaluate__no_masks_at_all(whole_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data")
    for path in (data / "masks").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="has no ground-truth masks for split 'train' to measure against"):
        evaluate(whole_run, CONFIG, SilentMonitor(), data=data)


def test_evaluate__bad_files(
    whole_run: Path, draw_pictures: Callable[[Path], Path], listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    path = data / "images" / "v.jpg"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"v\.jpg cannot be read"):
        evaluate(whole_run, CONFIG, SilentMonitor(), data=data)
    monitor = listener()
    evaluation = evaluate(whole_run, replace(CONFIG, skip_bad=True), monitor, data=data)
    assert evaluation.columns[-1].images == 1
    assert any("v.jpg" in text for text in monitor.warnings)


def swapped(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([0, 2, 1], np.uint8)[mask]


def from_zero(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([255, 0, 1], np.uint8)[mask]


def only_objects(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def change_masks(data: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], names: str = "*") -> Path:
    for path in (data / "masks").rglob(f"{names}.png"):
        save(path, change(np.array(Image.open(path))))
    return data


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (swapped, r"in another order \(1 is 'blue', 2 is 'red'\)"),
        (from_zero, "count the classes from 0"),
        (only_objects, "only objects from background"),
    ],
)
def test_evaluate__masks_that_contradict_the_labels(
    whole_run: Path,
    draw_pictures: Callable[[Path], Path],
    cam_settings: Any,
    tmp_path: Path,
    change: Callable[..., Any],
    cause: str,
) -> None:
    data = change_masks(draw_pictures(tmp_path / "data"), change)
    for measure in (evaluate, sweep):
        with pytest.raises(DataError, match=f"masks contradict the image labels: they seem to .*{cause}"):
            measure(whole_run, CONFIG, SilentMonitor(), data=data)
    with pytest.raises(DataError, match=cause):
        train_cam(data, tmp_path / "new", cam_settings(evaluate_images=100), SilentMonitor())
    assert not (tmp_path / "new" / "cam").exists()


def test_evaluate__masks_of_background_alone(
    whole_run: Path, draw_pictures: Callable[[Path], Path], listener: Any, cam_settings: Any, tmp_path: Path
) -> None:
    data = change_masks(draw_pictures(tmp_path / "data"), np.zeros_like, names="[vw]")
    monitor = listener()
    assert [one.split for one in evaluate(whole_run, CONFIG, monitor, data=data).columns] == ["train", "train"]
    assert any("none of 2 ground-truth masks of split 'val' shows any class" in text for text in monitor.warnings)
    change_masks(data, np.zeros_like)
    for measure in (evaluate, sweep):
        with pytest.raises(NoGroundTruthError, match="none of 8 ground-truth masks of split 'train' shows any class"):
            measure(whole_run, CONFIG, SilentMonitor(), data=data)
    monitor = listener()
    folder = train_cam(data, tmp_path / "new", cam_settings(), monitor)
    assert any("not evaluated: none of 3 ground-truth masks shows any class" in text for text in monitor.warnings)
    assert "miou" not in (folder / "metrics.jsonl").read_text()


def test_evaluate__single_wrong_masks_are_a_warning(
    whole_run: Path, draw_pictures: Callable[[Path], Path], listener: Any, tmp_path: Path
) -> None:
    data = change_masks(draw_pictures(tmp_path / "data"), swapped, names="a")
    monitor = listener()
    assert len(evaluate(whole_run, CONFIG, monitor, data=data).columns) == 3
    (text,) = [text for text in monitor.warnings if "ground-truth masks show none" in text]  # not for each split
    assert "1 of 10 ground-truth masks show none of the image's classes, but others: first a (" in text


def test_evaluate__before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no run folder"):
        evaluate(tmp_path / "run", CONFIG, SilentMonitor())


def test_as_dict__is_plain_json(run: Path, data: Path) -> None:
    columns = tuple(label_columns(run, open_dataset(data), SilentMonitor()))
    evaluation = stages.evaluate.Evaluation(class_names=("background", *NAMES), columns=columns)
    value = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert [column["name"] for column in value["columns"]] == ["CAM", "pseudo masks"]
    masks = value["columns"][1]
    assert masks["iou"] == {"background": 0.5, "red": 0.75, "blue": 1.0, "green": None}
    assert masks["miou"] == pytest.approx(0.75)
    assert masks["miou_where_labelled"] == pytest.approx(0.805556)
    assert (masks["split"], masks["images"]) == ("train", 2)
    assert "255" in value["rule"]
    assert masks["not_in_ground_truth"] == ["green"]
    assert evaluation.remarks == (
        value["rule"],
        "mean IoU of train without 'green', which no mask of the 2 measured images shows",
    )
