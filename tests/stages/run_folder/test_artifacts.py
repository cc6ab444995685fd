import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.dataset import Dataset, Sample
from data.errors import ArtifactError
from stages.config import MakeLabels, TrainCam
from stages.run_folder.artifacts import (
    PRODUCTS,
    StageFolder,
    already_finished,
    begin_stage,
    begun_stage,
    check_classes,
    check_up_to_date,
    finished,
    open_stage,
    outdated,
    read_config,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    samples = (Sample(id="a", image=tmp_path / "a.jpg", classes=(1,), mask=None),)
    return Dataset(
        root=tmp_path / "data",
        layout="custom",
        class_names=("cat", "dog"),
        splits={"train": samples},
        train_split="train",
        val_split=None,
    )


def begin(
    run: Path,
    dataset: Dataset,
    *,
    stage: str = "cam",
    resume: bool = False,
    overwrite: bool = False,
    extra: dict[str, Any] | None = None,
    settings: Any = None,
) -> StageFolder:
    """As stages begin: look first, load, write."""
    settings = settings or TrainCam(weights="none")
    if already_finished(run, stage, settings, resume=resume, overwrite=overwrite):
        return begun_stage(run, stage)
    return begin_stage(run, stage, settings=settings, dataset=dataset, extra=extra, resume=resume)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_begin_stage__writes_what_the_next_stage_reads(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path / "run", dataset, extra={"model": {"grid": (2, 3)}})
    assert read_config(tmp_path / "run", "cam") == folder.config
    assert folder.config["stage"] == "train-cam"
    assert folder.config["model"] == {"grid": [2, 3]}
    assert folder.class_names == ("cat", "dog")
    assert folder.dataset_root == dataset.root.resolve()
    assert folder.settings["scales"] == [1.0, 0.5, 1.5]
    assert names(folder.path) == {"config.json"}


def test_already_finished__existing_folder(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset).path
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset)
    assert_one_line(caught, f"{folder} exists", "--resume", "--overwrite")
    (folder / "model.safetensors").write_text("old")
    begin(tmp_path, dataset, overwrite=True)
    assert names(folder) == {"config.json"}


def test_begin_stage__overwrite_deletes_this_stage_alone(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.h5").write_text("kept")
    begin(tmp_path, dataset, overwrite=True)
    assert (tmp_path / "labels" / "labels.h5").read_text() == "kept"


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_already_finished__folder_of_somebody_else(tmp_path: Path, dataset: Dataset, how: str) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / "holidays.jpg").write_text("dear")
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset, resume=how == "resume", overwrite=how == "overwrite")
    assert_one_line(caught, "has no config.json, so toco did not write it: give another run folder")
    assert names(tmp_path / "cam") == {"holidays.jpg"}


@pytest.mark.parametrize("how", [{}, {"resume": True}])
def test_begin_stage__removes_what_a_killed_overwrite_left(
    tmp_path: Path, dataset: Dataset, how: dict[str, Any]
) -> None:
    trash = tmp_path / ".cam.deleted"
    trash.mkdir()
    (trash / "cams.h5").write_bytes(b"many gigabytes")
    begin(tmp_path, dataset, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["cam"]


EDITED = {
    "iterations": ("12", "the setting 'iterations' has the value '12'"),
    "split": (3, "the setting 'split' has the value 3"),
    "scales": ([1.0, "x"], "the setting 'scales' has the value"),
    "skip_bad": ("yes", "the setting 'skip_bad' has the value 'yes'"),
    "precision": ("fp8", "the setting 'precision' has the value 'fp8'"),
    "learning_rate": (None, "the setting 'learning_rate' has the value None"),
}


@pytest.mark.parametrize("name", EDITED)
def test_read_config__settings_edited_by_hand(tmp_path: Path, dataset: Dataset, name: str) -> None:
    path = begin(tmp_path, dataset).path / "config.json"
    config = json.loads(path.read_text())
    config["settings"][name], message = EDITED[name]
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path, "cam")
    assert_one_line(caught, f"{path} is damaged ({message}", "undo changes that were made by hand, or run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": {"root": "/d", "class_names": ["cat", 3]}}, "class_names are not all strings"),
        ({"dataset": {"root": "/d"}}, "it has no 'class_names'"),
        ({"dataset": "photos"}, "indices must be integers"),
        ({"settings": []}, "[] is not a dict"),
        ({"format": "two"}, "not supported between"),
        ({"model": {"num_classes": 3}}, "it lists 2 classes, and a network of 3"),
        ({"model": 3}, "has no attribute"),
    ],
)
def test_read_config__edited_by_hand(tmp_path: Path, dataset: Dataset, change: dict[str, Any], message: str) -> None:
    path = begin(tmp_path, dataset).path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path, "cam")
    assert_one_line(caught, f"{path} is damaged (", message, "undo changes")


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_begin_stage__killed_before_it_had_a_config(tmp_path: Path, dataset: Dataset, how: dict[str, Any]) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / ".config.json.x1.partial").write_text("{")
    begin(tmp_path, dataset, **how)
    assert names(tmp_path / "cam") == {"config.json"}


def test_begin_stage__resume_clears_halves_away(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset).path
    (folder / "shards").mkdir()
    for name in (".checkpoint.pt.x1.partial", "shards/.0.h5.x2.partial", "checkpoint.pt", "shards/1.h5"):
        (folder / name).write_text("x")
    begin(tmp_path, dataset, resume=True)
    assert names(folder) == {"config.json", "checkpoint.pt", "shards"}
    assert names(folder / "shards") == {"1.h5"}


def test_already_finished__resume_with_other_settings(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset, settings=TrainCam(weights="none", batch_size=4)).path
    before = (folder / "config.json").read_text()
    other = TrainCam(weights="none", batch_size=8, workers=3)
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset, settings=other, resume=True)
    assert_one_line(caught, "--batch-size 4 and cannot be resumed with 8: give the same value, or --overwrite")
    assert (folder / "config.json").read_text() == before
    faster = TrainCam(weights="none", batch_size=4, workers=3, cache="cache")  # with which the result is the same
    begin(tmp_path, dataset, settings=faster, resume=True)
    assert read_config(tmp_path, "cam")["settings"]["workers"] == 3


def test_already_finished__resume_when_the_auxiliary_block_was_a_number_by_default(
    tmp_path: Path, dataset: Dataset
) -> None:
    begin(tmp_path, dataset, settings=TrainCam(weights="none", auxiliary_block=-3))
    with pytest.raises(ArtifactError, match="--auxiliary-block -3 and cannot be resumed with -2"):
        begin(tmp_path, dataset, settings=TrainCam(weights="none", auxiliary_block=-2), resume=True)
    begin(tmp_path, dataset, settings=TrainCam(weights="none"), resume=True)


def test_already_finished__resume_when_the_feature_blocks_were_numbers_by_default(
    tmp_path: Path, dataset: Dataset
) -> None:
    begin(tmp_path, dataset, stage="labels", settings=MakeLabels(feature_blocks=(-1,)))
    begin(tmp_path, dataset, stage="labels", settings=MakeLabels(), resume=True)


def test_begin_stage__resume_with_other_classes(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    with pytest.raises(ArtifactError, match=r"has the classes in another order .* train again with --overwrite"):
        begin(tmp_path, replace(dataset, class_names=("dog", "cat")), resume=True)


def test_already_finished__a_finished_stage_keeps_its_config(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset).path
    (folder / "model.safetensors").write_text("done")
    settings = TrainCam(weights="none", workers=3)
    begin(tmp_path, dataset, settings=settings, resume=True)
    assert read_config(tmp_path, "cam")["settings"]["workers"] is None


def test_read_config__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path / "nosuch", "labels")
    assert_one_line(caught, f"there is no run folder {tmp_path / 'nosuch'}", "toco train-cam DATA --out")
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path, "labels")
    assert_one_line(caught, f"{tmp_path} has no labels/config.json: run 'toco make-labels' first")


def test_read_config__a_stage_in_place_of_its_run(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path / "cam", "labels")
    assert_one_line(caught, f"{tmp_path / 'cam'} is a stage of a run: give the run folder {tmp_path}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "{}",
        '{"settings": {}}',
        '{"settings": {}, "dataset": {"root": "x"}}',
        '{"settings": {}, "dataset": []}',
        '{"settings": 5, "dataset": {"root": "x", "class_names": ["a"]}}',
        '{"settings": {}, "dataset": {"root": "x", "class_names": 5}}',
        '{"settings": {}, "dataset": {"root": 5, "class_names": ["a"]}}',
        b"\xff\xfe\x00",
        b"\x00" * 100,
    ],
)
def test_read_config__damaged(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "cam" / "config.json"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "cam" / "model.safetensors").write_text("")
    with pytest.raises(ArtifactError) as caught:
        open_stage(tmp_path, "cam")
    assert_one_line(caught, f"{path} is damaged", f"toco train-cam DATA --out {tmp_path} --overwrite")


@pytest.mark.parametrize("stage", PRODUCTS)
def test_open_stage__unfinished(tmp_path: Path, dataset: Dataset, stage: str) -> None:
    begin_stage(tmp_path, stage, settings=TrainCam(), dataset=dataset)
    for name in PRODUCTS[stage]:
        assert not finished(tmp_path, stage)
        with pytest.raises(ArtifactError) as caught:
            open_stage(tmp_path, stage)
        assert_one_line(caught, f"{tmp_path / stage} has no {name}", "did not finish there; run it again with --resume")
        (tmp_path / stage / name).write_text("done")
    assert finished(tmp_path, stage)
    assert open_stage(tmp_path, stage).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (("cat",), "lacks the class 'dog' (1 classes; "),
        (("cat", "cow", "dog"), "has the additional class 'cow' (3 classes; "),
        (("cat", "horse"), "lacks the class 'dog'"),
        (("dog", "cat"), "has the classes in another order"),
    ],
)
def test_check_classes__names_the_difference(
    tmp_path: Path, dataset: Dataset, class_names: tuple[str, ...], message: str
) -> None:
    folder = begin(tmp_path, dataset)
    check_classes(folder, dataset)
    with pytest.raises(ArtifactError) as caught:
        check_classes(folder, replace(dataset, class_names=class_names))
    assert_one_line(caught, message, str(folder.path), "give the data set of that run, or train again")


def test_outdated__when_the_stage_before_has_changed(tmp_path: Path, dataset: Dataset) -> None:
    model = tmp_path / "cam" / "model.safetensors"
    begin(tmp_path, dataset, stage="cam")
    model.write_text("first")
    begin(tmp_path, dataset, stage="labels")
    for name in PRODUCTS["labels"]:
        (tmp_path / "labels" / name).write_text("made from the first")
    assert not outdated(tmp_path, "labels")
    check_up_to_date(tmp_path, "labels")
    model.write_text("second")
    assert outdated(tmp_path, "labels")
    with pytest.raises(ArtifactError) as caught:
        check_up_to_date(tmp_path, "labels")
    assert_one_line(
        caught,
        "was made from a cam/model.safetensors that has been replaced since",
        f"run toco make-labels {tmp_path} --overwrite",
    )
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset, stage="labels", resume=True)
    assert_one_line(caught, "was started from a cam/model.safetensors that has been replaced since", "--overwrite")
    model.unlink()  # somebody took the labels alone to another machine
    assert not outdated(tmp_path, "labels")


def test_already_finished__only_asks(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset).path
    for name in ("model.safetensors", "checkpoint.pt"):
        (folder / name).write_text("x")
    begin(tmp_path, dataset, resume=True)  # before the folder is locked: another command may write there
    assert names(folder) == {"config.json", "model.safetensors", "checkpoint.pt"}


def rewrite_config(run: Path, **changes: Any) -> None:
    path = run / "cam" / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_read_config__a_newer_format_is_not_called_damaged(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    rewrite_config(tmp_path, format=99, settings=None)
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path, "cam")
    assert_one_line(caught, "has format 99", "reads up to format 2: update toco")


def test_read_config__version_0_1_has_no_format_and_old_names(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    rewrite_config(tmp_path, format=None, settings={"encoder_start": 0.4, "background": 0.3, "scales": [1.0]})
    settings = read_config(tmp_path, "cam")["settings"]
    assert (settings["freeze_encoder_until"], settings["background_threshold"]) == (0.4, 0.3)
    assert settings["precision"] == "auto"  # newer than the run
    assert begun_stage(tmp_path, "cam").typed_settings(TrainCam) == TrainCam(
        freeze_encoder_until=0.4, background_threshold=0.3, scales=(1.0,)
    )


def test_typed_settings__a_setting_that_this_version_lacks(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset)
    rewrite_config(tmp_path, settings={"colour": 1})
    with pytest.raises(ArtifactError) as caught:
        replace(folder, config=read_config(tmp_path, "cam")).typed_settings(TrainCam)
    assert_one_line(caught, "this version of toco has no setting 'colour'", "install that version")
