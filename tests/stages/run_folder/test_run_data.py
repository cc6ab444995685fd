import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.dataset import Dataset, Sample
from data.errors import ArtifactError, DataError
from data.readers import open_dataset
from stages.config import MakeLabels, TrainCam, TrainSeg
from stages.run_folder.artifacts import PRODUCERS, StageFolder, begin_stage, begun_stage
from stages.run_folder.run_data import (
    check_same_data,
    finish_again,
    open_run_data,
    present_root,
    spread,
    usable_samples,
    warn_of_other_data,
)


def test_usable_samples__all_of_a_split(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = replace(open_dataset(pictures), warnings=("one row is odd",))
    assert len(usable_samples(dataset, None, 8, False, monitor)) == 8
    assert len(usable_samples(dataset, "val", 8, False, monitor)) == 2
    assert monitor.warnings == ["one row is odd"] * 2


def test_usable_samples__too_small(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = open_dataset(pictures)
    with pytest.raises(DataError, match="is too small"):
        usable_samples(dataset, None, 50, False, monitor)
    good = usable_samples(dataset, None, 50, True, monitor)
    assert [sample.id for sample in good] == ["b", "c", "deep/e", "deep/f", "h"]
    assert len(monitor.warnings) == 3
    assert all(text.startswith("skipped: ") for text in monitor.warnings)


def test_usable_samples__many_bad_images_are_counted(pictures: Path, listener: Any) -> None:
    monitor = listener()
    dataset = open_dataset(pictures)
    one = dataset.split()[0]
    missing = tuple(replace(one, id=f"x{number}", image=pictures / f"x{number}.jpg") for number in range(14))
    dataset = replace(dataset, splits={"train": (one, *missing)})
    assert usable_samples(dataset, None, 1, True, monitor) == (one,)
    assert len(monitor.warnings) == 11
    assert monitor.warnings[-1] == "skipped: 4 more images"


def data_in(root: Path, labels: str = "1 2 12", size: int = 9) -> Dataset:
    """A data set of one image for each word; its digits are the classes."""
    samples = []
    for number, word in enumerate(labels.split()):
        image = root / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"x" * size)
        samples.append(Sample(id=str(number), image=image, classes=tuple(int(digit) for digit in word), mask=None))
    return Dataset(
        root=root, layout="custom", class_names=("a", "b"), splits={"train": tuple(samples)}, train_split="train",
        val_split=None,
    )  # fmt: skip


def begin(run: Path, stage: str, dataset: Dataset) -> StageFolder:
    settings = {"cam": TrainCam(), "labels": MakeLabels(), "seg": TrainSeg()}[stage]
    return begin_stage(run, stage, settings=settings, dataset=dataset)


@pytest.mark.parametrize("stage", ["cam", "labels", "seg"])
@pytest.mark.parametrize("change", [{"labels": "1 2 1"}, {"labels": "1 2 12 2"}, {"labels": "1 2"}, {"size": 8}])
def test_check_same_data__another_data_set(tmp_path: Path, listener: Any, stage: str, change: dict[str, Any]) -> None:
    old, new, run, monitor = tmp_path / "old", tmp_path / "new", tmp_path / "run", listener()
    check_same_data(run, stage, data_in(new), monitor)  # not begun
    begin(run, stage, data_in(old))
    check_same_data(run, stage, data_in(old), monitor)
    assert monitor.warnings == []
    with pytest.raises(ArtifactError) as caught:
        check_same_data(run, stage, data_in(new, **change), monitor)
    assert str(caught.value) == (
        f"{new} has other images or labels than {old}, from which {run / stage} was made: give the data set "
        f"that {PRODUCERS[stage]} was started with, or --overwrite to start again"
    )
    check_same_data(run, stage, data_in(old, **change), monitor)  # perhaps a bad image was replaced, to resume
    (warning,) = monitor.warnings
    assert warning.startswith(f"{old} has changed since {run / stage} was made from it: images or labels differ; what")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bus", "car"), "lacks the class 'a' .*give the data set of that run"),
        (("b", "a"), "has the classes in another order"),
        (("a", "b", "c"), "has the additional class 'c'"),
    ],
)
@pytest.mark.parametrize("root", ["old", "new"])
def test_check_same_data__other_classes(
    tmp_path: Path, listener: Any, names: tuple[str, ...], message: str, root: str
) -> None:
    begin(tmp_path, "cam", data_in(tmp_path / "old"))
    for known in (True, False):
        if not known:
            forget_fingerprint(tmp_path)
        with pytest.raises(ArtifactError, match=message):
            finish_again(
                tmp_path, "cam", replace(data_in(tmp_path / root), class_names=names), listener(), skip_bad=False
            )


def test_finish_again__of_an_early_version_cannot_compare(tmp_path: Path, listener: Any) -> None:
    old, new, run, monitor = data_in(tmp_path / "old"), data_in(tmp_path / "new", "1"), tmp_path / "run", listener()
    begin(run, "cam", old)
    forget_fingerprint(run)
    finish_again(run, "cam", old, monitor, skip_bad=False)
    assert monitor.warnings == []
    finish_again(run, "cam", new, monitor, skip_bad=False)
    (warning,) = monitor.warnings
    assert warning.startswith(f"{run}/cam was made from {old.root} by an early version of toco")
    assert warning.endswith(f"make sure that {new.root} is the same data set")
    assert begun_stage(run, "cam").dataset_root == old.root


def test_present_root__without_fingerprints_is_not_that_of_another_stage(tmp_path: Path) -> None:
    old, new, run = data_in(tmp_path / "old"), data_in(tmp_path / "new"), tmp_path / "run"
    begin(run, "cam", old)
    begin(run, "labels", new)
    for stage in ("cam", "labels"):
        forget_fingerprint(run, stage)
    shutil.rmtree(old.root)
    with pytest.raises(ArtifactError, match="give its present folder with --data"):
        present_root(begun_stage(run, "cam"))


def forget_fingerprint(run: Path, stage: str = "cam") -> None:
    """Make a stage look as toco 0.1.0 wrote it."""
    path = run / stage / "config.json"
    config = json.loads(path.read_text())
    del config["dataset"]["fingerprint"]
    path.write_text(json.dumps(config))


def test_open_run_data__of_a_moved_data_set(draw_pictures: Any, tmp_path: Path, listener: Any) -> None:
    old, new, run, monitor = draw_pictures(tmp_path / "old"), tmp_path / "new", tmp_path / "run", listener()
    cam = begin(run, "cam", open_dataset(old))
    seg = begin(run, "seg", open_dataset(old))
    old.rename(new)
    old.mkdir()  # as a drive that is not mounted
    message = rf"^{old}, the data set of {run}/cam, does not exist or is empty: .* with --data$"
    with pytest.raises(ArtifactError, match=message):
        open_run_data(cam, None, skip_bad=False)
    assert open_run_data(cam, new, skip_bad=False).root == new
    check_same_data(run, "labels", open_dataset(new), monitor)
    begin(run, "labels", open_dataset(new))  # as make-labels --data does
    assert open_run_data(cam, None, skip_bad=False).root == new
    assert open_run_data(seg, None, skip_bad=False).root == new
    warn_of_other_data(cam, open_dataset(new), monitor)
    assert monitor.warnings == []


def test_finish_again__remembers_a_moved_data_set(draw_pictures: Any, tmp_path: Path, listener: Any) -> None:
    old, new, run, monitor = draw_pictures(tmp_path / "old"), tmp_path / "new", tmp_path / "run", listener()
    begin(run, "cam", open_dataset(old))
    old.rename(new)
    finish_again(run, "cam", None, monitor, skip_bad=False)
    finish_again(run, "cam", new, monitor, skip_bad=False)
    done = f"{run}/cam is finished already"
    assert monitor.notes == [done, f"the data set of {run}/cam was moved from {old} to {new}", done]
    assert open_run_data(begun_stage(run, "cam"), None, skip_bad=False).root == new


def test_finish_again__deletes_what_a_killed_run_left(tmp_path: Path, listener: Any) -> None:
    folder, monitor = begin(tmp_path, "labels", data_in(tmp_path / "data")).path, listener()
    (folder / "shards").mkdir()
    (folder / "labels.h5").touch()
    finish_again(tmp_path, "labels", None, monitor, skip_bad=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "labels.h5"]
    assert monitor.notes == [f"{folder} is finished already"]


def test_open_run_data__ignores_another_data_set_of_a_later_stage(
    draw_pictures: Any, tmp_path: Path, listener: Any
) -> None:
    old, other, run, monitor = (
        draw_pictures(tmp_path / "old"),
        draw_pictures(tmp_path / "b"),
        tmp_path / "run",
        listener(),
    )
    cam = begin(run, "cam", open_dataset(old))
    table = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(table.replace("a.jpg,red,", "a.jpg,blue,"))
    warn_of_other_data(cam, open_dataset(other), monitor)
    assert monitor.warnings == [f"{other} has other images or labels than {old}, from which {run}/cam was made"]
    begin(run, "labels", open_dataset(other))  # labelled by a network that was trained on other images
    shutil.rmtree(old)
    with pytest.raises(ArtifactError, match="give its present folder with --data"):
        open_run_data(cam, None, skip_bad=False)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (9, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (20, list(range(10)))],
)
def test_spread__evenly(count: int, expected: list[int]) -> None:
    assert spread(list(range(10)), count) == expected
