import errno
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.dataset import Dataset, Sample
from stages.artifacts import (
    PRODUCTS,
    ArtifactError,
    MetricsLog,
    StageFolder,
    begin_stage,
    check_classes,
    finished,
    load_checkpoint,
    load_weights,
    open_stage,
    read_config,
    save_checkpoint,
    save_weights,
    whole_file,
    write_json,
)
from stages.config import TrainCam


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


def begin(run: Path, dataset: Dataset, **more: Any) -> StageFolder:
    settings = more.pop("settings", TrainCam(weights="none"))
    return begin_stage(run, "cam", settings=settings, dataset=dataset, **more)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte can be written any more, whoever tries."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)  # where a full disk is told of at the latest


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


# --- whole_file -----------------------------------------------------------------------------------------------


def test_whole_file__appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # renaming works within a file system alone
    assert path.read_text() == "whole"
    assert names(path.parent) == {"file.txt"}


def test_whole_file__may_be_read_as_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with whole_file(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def write_half(path: Path, error: BaseException) -> None:
    with whole_file(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_whole_file__leaves_nothing_behind_on_an_error(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_whole_file__disk_full_at_the_end(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device"), whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("config.json", lambda path: write_json(path, {"a": 1})),
        ("model.safetensors", lambda path: save_weights(path, {"a": torch.ones(3)})),
        ("checkpoint.pt", lambda path: save_checkpoint(path, {"a": torch.ones(3)})),
        ("metrics.jsonl", lambda path: MetricsLog(path, start=0)),
    ],
)
def test_products__survive_a_full_disk(
    tmp_path: Path, full_disk: None, name: str, write: Callable[[Path], object]
) -> None:
    (tmp_path / name).write_text("earlier")
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "earlier"
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("write", [save_weights, save_checkpoint])
@pytest.mark.parametrize("state", [{"a": torch.rand(20_000)}, {str(number): torch.rand(500) for number in range(50)}])
def test_products__disk_full_while_writing(
    small_disk: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    write: Callable[[Path, dict[str, torch.Tensor]], None],
    state: dict[str, torch.Tensor],
) -> None:
    """Torch itself says 'unexpected pos' and safetensors something of its own."""
    path = tmp_path / "product"
    path.write_text("earlier")
    with small_disk(), pytest.raises(OSError, match="File too large"):
        write(path, state)
    assert path.read_text() == "earlier"
    assert names(tmp_path) == {"product"}


def test_save_weights__disk_full_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.ones(3)})

    def fail(state: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save_weights(path, {"a": torch.zeros(3)})
    assert load_weights(path)["a"].tolist() == [1, 1, 1]
    assert names(tmp_path) == {"model.safetensors"}


# --- begin_stage, open_stage ------------------------------------------------------------------------------------


def test_begin_stage__writes_what_the_next_stage_reads(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path / "run", dataset, extra={"model": {"grid": (2, 3)}})
    assert read_config(tmp_path / "run", "cam") == folder.config
    assert folder.config["stage"] == "train-cam"
    assert folder.config["model"] == {"grid": [2, 3]}
    assert folder.class_names == ("cat", "dog")
    assert folder.dataset_root == dataset.root.resolve()
    assert folder.settings["scales"] == [1.0, 0.5, 1.5]
    assert names(folder.path) == {"config.json"}


def test_begin_stage__existing_folder(tmp_path: Path, dataset: Dataset) -> None:
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
def test_begin_stage__folder_of_somebody_else(tmp_path: Path, dataset: Dataset, how: str) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / "holidays.jpg").write_text("dear")
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset, **{how: True})
    assert_one_line(caught, "has no config.json, so it is none of toco's: give another run folder")
    assert names(tmp_path / "cam") == {"holidays.jpg"}


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_begin_stage__killed_before_it_had_a_config(tmp_path: Path, dataset: Dataset, how: dict[str, bool]) -> None:
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


def test_begin_stage__resume_with_other_settings(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset, settings=TrainCam(weights="none", batch_size=4)).path
    before = (folder / "config.json").read_text()
    other = TrainCam(weights="none", batch_size=8, workers=3)
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, dataset, settings=other, resume=True, may_change=("workers",))
    assert_one_line(caught, "--batch-size 4 and cannot go on with 8: give the same, or --overwrite to start again")
    assert (folder / "config.json").read_text() == before
    begin(tmp_path, dataset, settings=other, resume=True, may_change=("workers", "batch_size"))
    assert read_config(tmp_path, "cam")["settings"]["batch_size"] == 8


def test_begin_stage__resume_with_other_classes(tmp_path: Path, dataset: Dataset) -> None:
    begin(tmp_path, dataset)
    with pytest.raises(ArtifactError, match=r"begun with other classes than .* has now: use --overwrite"):
        begin(tmp_path, replace(dataset, class_names=("dog", "cat")), resume=True)


def test_begin_stage__finished_stage_keeps_its_config(tmp_path: Path, dataset: Dataset) -> None:
    folder = begin(tmp_path, dataset).path
    (folder / "model.safetensors").write_text("done")
    settings = TrainCam(weights="none", workers=3)
    begin(tmp_path, dataset, settings=settings, resume=True, may_change=("workers",))
    assert read_config(tmp_path, "cam")["settings"]["workers"] is None


def test_read_config__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path / "nosuch", "labels")
    assert_one_line(caught, f"there is no run folder {tmp_path / 'nosuch'}", "toco train-cam DATA --out")
    with pytest.raises(ArtifactError) as caught:
        read_config(tmp_path, "labels")
    assert_one_line(caught, f"{tmp_path} has no labels/config.json: run 'toco make-labels' first")


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
    assert_one_line(caught, f"{path} is damaged", "run 'toco train-cam --overwrite' again")


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
        (("cat", "cow", "dog"), "has the class 'cow' more (3 classes; "),
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
    assert_one_line(caught, message, str(folder.path), "use the data set of that run, or train again")


# --- weights and checkpoints --------------------------------------------------------------------------------------


def damages(whole: bytes) -> Iterator[bytes]:
    """A file cut off at several places, with other bytes in it, and other things altogether."""
    yield from (whole[: len(whole) * part // 16] for part in range(16))
    yield whole[:-1]
    source = random.Random(0)
    for _ in range(60):
        place = source.randrange(len(whole))
        yield whole[:place] + source.randbytes(8) + whole[place + 8 :]
    yield from (source.randbytes(size) for size in (1, 7, 8, 9, 100, 1000) for _ in range(5))
    yield from (b"PK\x03\x04", b"\x80\x02.", b"text\n" * 20, b"\x00" * 200, pickle.dumps({"a": 1}))


def refusals(load: Callable[[Path], object], path: Path) -> list[str]:
    """What is said of the file when it is damaged; errors of other kinds than ArtifactError get through."""
    said = []
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        try:
            load(path)
        except ArtifactError as error:
            said.append(str(error))
    return said


def test_load_weights__missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*: check the path"):
        load_weights(tmp_path / "nosuch.safetensors")


def test_load_weights__damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(1, dtype=torch.int64)})
    assert load_weights(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    said = refusals(load_weights, path)  # other bytes inside a tensor are not noticed
    assert len(said) > 50
    assert all(str(path) in text and "make or copy it again" in text and "\n" not in text for text in said)


def test_save_checkpoint__round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    value = {"iteration": 3, "module": {"w": torch.ones(2)}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.999)}}
    save_checkpoint(path, value)
    back = load_checkpoint(path)
    assert torch.equal(back["module"].pop("w"), torch.ones(2))
    assert back == {"iteration": 3, "module": {}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.999)}}


def test_load_checkpoint__damaged(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"iteration": 3, "module": {f"w{number}": torch.ones(20) for number in range(5)}})
    said = refusals(load_checkpoint, path)
    assert len(said) > 50
    assert all(str(path) in text and "start again with --overwrite" in text and "\n" not in text for text in said)
    assert not any("weights_only" in text for text in said)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("__import__('builtins').__dict__.setdefault('_toco_was_here', True)",)


@pytest.mark.parametrize("legacy", [False, True])
def test_load_checkpoint__runs_no_code(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"iteration": Evil()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path)
    assert_one_line(caught, str(path))
    import builtins

    assert not hasattr(builtins, "_toco_was_here")


# --- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_log__goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, start=0)
    for iteration in (1, 2, 3):
        log.write(iteration=iteration, loss=0.5)
    with path.open("ab") as file:
        file.write(b'{"iteration": 4, "lo')
    again = MetricsLog(path, start=2)
    again.write(iteration=2, loss=0.5)  # there already
    again.write(iteration=2, miou=0.1)  # of another kind
    again.write(iteration=3, loss=0.25)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 1, "loss": 0.5},
        {"iteration": 2, "loss": 0.5},
        {"iteration": 2, "miou": 0.1},
        {"iteration": 3, "loss": 0.25},
    ]


def test_metrics_log__begins_anew_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "loss": 1.0}\n5\n\n')
    MetricsLog(path, start=0)
    assert path.read_text() == ""


def test_metrics_log__is_strict_json(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl", start=0).write(iteration=1, miou=float("nan"))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"iteration": 1, "miou": null}\n'
