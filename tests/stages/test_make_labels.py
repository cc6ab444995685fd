import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import stages.make_labels
from data.dataset import DataError, Sample
from data.errors import ArtifactError
from data.readers import open_dataset
from stages.config import MakeLabels
from stages.labels.choose_background import GRID
from stages.labels.label_settings import resolved
from stages.labels.pixel_labels import pixel_labels
from stages.labels.store import ImageLabels, write_shard
from stages.make_labels import make_labels
from stages.networks.cam_model import load_cam_model
from stages.networks.inference import class_label_matrix, load_image, predicted_classes, resize_maps, square_cams
from stages.run_folder.artifacts import open_stage
from stages.runtime.monitor import SilentMonitor
from stages.toco.cam import label_one_threshold, label_two_thresholds, present_classes
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.refine import against_backgrounds, most_likely

# One image at a time: in batches, the last bits depend on which images are together.
CONFIG = MakeLabels(device="cpu", workers=1, scales=(1.0, 0.5), batch_size=1)
Stored = dict[str, tuple[tuple[int, ...], NDArray[np.float16], NDArray[np.uint8]]]


def stored_in(folder: Path) -> Stored:
    """Image id -> its classes, CAMs and mask; read with h5py alone."""
    found: Stored = {}
    with h5py.File(folder / "cams.h5") as cams, h5py.File(folder / "labels.h5") as labels:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                cam = cams["cams"][name]
                found[name] = (tuple(cam.attrs["classes"].tolist()), cam[()], item[()])

        labels["masks"].visititems(visit)
        names: list[str] = []
        cams["cams"].visit(names.append)
        assert {name for name in names if isinstance(cams["cams"][name], h5py.Dataset)} == found.keys()
    return found


def assert_same(folder: Path, other: Path) -> None:
    mine, theirs = stored_in(folder), stored_in(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name][0] == theirs[name][0]
        np.testing.assert_array_equal(mine[name][1], theirs[name][1])
        np.testing.assert_array_equal(mine[name][2], theirs[name][2])
    assert {path.name for path in folder.iterdir()} == {"config.json", "sessions.jsonl", "cams.h5", "labels.h5"}


def numbered(label: torch.Tensor, classes: Sequence[int]) -> NDArray[np.uint8]:
    """Labels 1..k among an image's classes to class numbers."""
    table = np.array([0, *classes] + [255] * (255 - len(classes)))
    numbers: NDArray[np.uint8] = table[label.numpy()].astype(np.uint8)
    return numbers


def run_with_cam(folder: Path, trained_run: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cam").symlink_to(trained_run / "cam")
    return folder


@pytest.fixture(scope="module")
def labels(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/labels of an undisturbed run."""
    return make_labels(run_with_cam(tmp_path_factory.mktemp("labels"), trained_run), CONFIG, SilentMonitor())


def samples_of(data: Path) -> dict[str, Sample]:
    return {sample.id: sample for sample in open_dataset(data).split()}


def test_make_labels__writes_its_folder(labels: Path, pictures: Path) -> None:
    assert {path.name for path in labels.iterdir()} == {"config.json", "sessions.jsonl", "cams.h5", "labels.h5"}
    samples = samples_of(pictures)
    stored = stored_in(labels)
    assert stored.keys() == samples.keys() == {"a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h"}
    for image_id, (classes, cam, mask) in stored.items():
        size = tuple(load_image(samples[image_id], 8).original.shape[1:])
        assert classes == samples[image_id].classes
        assert cam.dtype == np.float16
        assert cam.shape == (len(classes), *size)
        assert mask.dtype == np.uint8
        assert mask.shape == size
        assert set(np.unique(mask)) <= {0, *classes}
    assert {image_id for image_id, (classes, _, _) in stored.items() if not classes} == {"d", "h"}
    assert not stored["d"][2].any()
    assert any((mask == 2).any() for _, _, mask in stored.values())


def test_make_labels__attributes_say_how(labels: Path) -> None:
    with h5py.File(labels / "labels.h5") as file:
        assert list(file.attrs["class_names"]) == ["red", "blue"]
        assert file.attrs["ignore_index"] == 255
        how = json.loads(file.attrs["made_by"])
    assert (how["background_threshold"], how["refine"], how["scales"]) == (0.5, "none", [1.0, 0.5])
    # What was left to the training's settings is spelled out.
    assert (how["image_size"], how["high_threshold"], how["low_threshold"]) == (32, 0.7, 0.25)
    config = json.loads((labels / "config.json").read_text())
    assert config["settings"]["high_threshold"] is None  # as asked for, which is what --resume compares
    assert config["settings"]["background_threshold"] is None
    assert config["background_threshold"] == 0.5


def test_make_labels__cams_are_those_of_the_network(labels: Path, pictures: Path, trained_run: Path) -> None:
    model = load_cam_model(open_stage(trained_run, "cam"))
    samples = samples_of(pictures)
    for image_id, (classes, cam, _) in stored_in(labels).items():
        if not classes:
            continue
        loaded = load_image(samples[image_id], 32)
        present = present_classes(class_label_matrix([samples[image_id]], 2))
        maps = square_cams(model, loaded.squashed[None], present, CONFIG.scales).final[0]
        expected = resize_maps(maps, (cam.shape[1], cam.shape[2]))
        np.testing.assert_allclose(cam, expected.numpy(), atol=2e-3)
        assert 0 <= cam.min() <= cam.max() <= 1


def test_make_labels__masks_follow_the_rule(labels: Path) -> None:
    for classes, cam, mask in stored_in(labels).values():
        if classes:
            label = label_one_threshold(torch.from_numpy(cam)[None].float(), 0.5)[0]
            np.testing.assert_array_equal(mask, numbered(label, classes))


def test_make_labels__two_thresholds(cam_run: Path, labels: Path) -> None:
    config = replace(CONFIG, ignore_uncertain=True, high_threshold=0.6, low_threshold=0.3)
    folder = make_labels(cam_run, config, SilentMonitor())
    ignored = 0
    for classes, cam, mask in stored_in(folder).values():
        if classes:
            label = label_two_thresholds(torch.from_numpy(cam)[None].float(), high=0.6, low=0.3)[0]
            np.testing.assert_array_equal(mask, numbered(label, classes))
        else:
            assert not mask.any()
        ignored += (mask == 255).sum()
    assert ignored > 0


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_make_labels__crf(cam_run: Path, pictures: Path, labels: Path, backend: Any) -> None:
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    folder = make_labels(cam_run, replace(CONFIG, refine="crf", crf_backend=backend), SilentMonitor())
    samples = samples_of(pictures)
    without = stored_in(labels)
    for image_id, (classes, cam, mask) in stored_in(folder).items():
        np.testing.assert_array_equal(cam, without[image_id][1])  # CAMs are kept as they were
        if not classes:
            assert not mask.any()
            continue
        image = load_image(samples[image_id], 32).original
        unaries = against_backgrounds(torch.from_numpy(cam).float(), (0.7, 0.25))
        label = most_likely(sharpen([image], [unaries], FOR_PSEUDO_LABELS, backend)[0]).label
        np.testing.assert_array_equal(mask, numbered(label, classes))
        assert set(np.unique(mask)) <= {0, *classes, 255}


def test_make_labels__crf_in_other_processes(cam_run: Path, tmp_path: Path, trained_run: Path) -> None:
    """As on any CPU with several cores; to the bit as here."""
    config = replace(CONFIG, refine="crf", crf_backend="torch")
    here = make_labels(cam_run, config, SilentMonitor())
    other = run_with_cam(tmp_path / "other", trained_run)
    assert_same(make_labels(other, replace(config, workers=2), SilentMonitor()), here)


@pytest.mark.parametrize("batch_size", [3, 8])
def test_make_labels__batches_do_not_matter(cam_run: Path, labels: Path, batch_size: int) -> None:
    folder = make_labels(cam_run, replace(CONFIG, batch_size=batch_size, workers=3), SilentMonitor())
    mine, theirs = stored_in(folder), stored_in(labels)
    for image_id in mine:
        np.testing.assert_allclose(mine[image_id][1], theirs[image_id][1], atol=2e-3)
        assert (mine[image_id][2] == theirs[image_id][2]).mean() > 0.98


def test_make_labels__other_split_and_size(cam_run: Path) -> None:
    folder = make_labels(cam_run, replace(CONFIG, split="val", image_size=40), SilentMonitor())
    assert stored_in(folder).keys() == {"v", "w"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("images", [1, 3, 6, 8])
def test_make_labels__goes_on(
    cam_run: Path,
    labels: Path,
    listener: Any,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    written: list[list[str]] = []

    def recorded(path: Path, labels: Sequence[ImageLabels], *, threads: int) -> None:
        write_shard(path, labels, threads=threads)
        written.append([one.id for one in labels])

    monkeypatch.setattr(stages.make_labels, "write_shard", recorded)
    with pytest.raises(error):
        make_labels(cam_run, CONFIG, listener(("advance", images), error))
    before = len(written)
    assert before == (images - 1) // 2
    assert not list((cam_run / "labels").glob("*.h5"))
    with pytest.raises(ArtifactError, match="did not finish there; run it again with --resume"):
        open_stage(cam_run, "labels")
    (cam_run / "labels" / "shards").mkdir(exist_ok=True)
    (cam_run / "labels" / "shards" / ".00000009.h5.x.partial").write_bytes(b"as if killed while writing")
    monitor = listener()
    folder = make_labels(cam_run, CONFIG, monitor, resume=True)
    assert_same(folder, labels)
    assert sorted(image_id for shard in written for image_id in shard) == sorted(
        stored_in(labels)
    )  # each once: none was made again
    assert monitor.calls.count("advance") == 8 - 2 * before
    assert monitor.steps == 8


def test_make_labels__crash_while_joining(
    cam_run: Path, labels: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every label is made, only the products are not."""

    def power_cut(path: Path) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", power_cut)  # just after
        with pytest.raises(RuntimeError, match="power cut"):
            make_labels(cam_run, CONFIG, SilentMonitor())
    (cam_run / "labels" / "labels.h5").unlink()
    monitor = listener()
    folder = make_labels(cam_run, CONFIG, monitor, resume=True)
    assert "advance" not in monitor.calls
    assert_same(folder, labels)


def test_make_labels__finished_is_left_alone(
    cam_run: Path, labels: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_labels(cam_run, CONFIG, SilentMonitor())
    (folder / "shards").mkdir()  # as if killed before it could be removed
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.*")}
    monitor = listener()
    make_labels(cam_run, replace(CONFIG, batch_size=1), monitor, resume=True)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.*")} == before
    assert monitor.notes == [f"{folder} is finished already"]
    assert not (folder / "shards").exists()


def test_make_labels__refuses_an_existing_folder(cam_run: Path) -> None:
    folder = make_labels(cam_run, CONFIG, SilentMonitor())
    before = (folder / "labels.h5").read_bytes()
    with pytest.raises(ArtifactError, match="exists: use --resume to continue it, --overwrite to start again"):
        make_labels(cam_run, CONFIG, SilentMonitor())
    other = replace(CONFIG, background_threshold=0.3)
    with pytest.raises(ArtifactError, match=r"--background-threshold None and cannot be resumed with 0\.3"):
        make_labels(cam_run, other, SilentMonitor(), resume=True)
    with pytest.raises(DataError):
        make_labels(cam_run, replace(CONFIG, split="nosuch"), SilentMonitor(), overwrite=True)
    assert (folder / "labels.h5").read_bytes() == before
    make_labels(cam_run, other, SilentMonitor(), overwrite=True)
    assert (folder / "labels.h5").read_bytes() != before


def test_make_labels__before_the_network_is_trained(tmp_path: Path, trained_run: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ArtifactError, match="there is no run folder"):
        make_labels(run, CONFIG, SilentMonitor())
    (run / "cam").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"has no cam/config\.json: run 'toco train-cam' first"):
        make_labels(run, CONFIG, SilentMonitor())
    shutil.copy(trained_run / "cam" / "config.json", run / "cam" / "config.json")
    message = r"cam has no model\.safetensors: 'toco train-cam' did not finish there; run it again with --resume"
    with pytest.raises(ArtifactError, match=message):
        make_labels(run, CONFIG, SilentMonitor())
    assert not (run / "labels").exists()


def test_make_labels__data_set_elsewhere(
    cam_run: Path, draw_pictures: Callable[[Path], Path], labels: Path, tmp_path: Path
) -> None:
    moved = draw_pictures(tmp_path / "moved")
    assert_same(make_labels(cam_run, CONFIG, SilentMonitor(), data=moved), labels)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("red\nblue\ngreen\n", "has the additional class 'green'"),
        ("blue\nred\n", "has the classes in another order"),
    ],
)
def test_make_labels__other_classes(
    cam_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path, classes: str, message: str
) -> None:
    data = draw_pictures(tmp_path / "data")
    (data / "classes.txt").write_text(classes)
    with pytest.raises(ArtifactError, match=message):
        make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    assert not (cam_run / "labels").exists()


def cut_off(path: Path) -> None:
    """Truncate a picture behind its header, which a first look does not notice."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def test_make_labels__unreadable_image(
    cam_run: Path, draw_pictures: Callable[[Path], Path], labels: Path, listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    bad = data / "images" / "deep" / "f.jpg"
    cut_off(bad)
    with pytest.raises(DataError) as caught:
        make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    assert str(caught.value).startswith(f"{bad} cannot be read")
    assert str(caught.value).endswith("mend or remove it, or go on without it: --skip-bad")
    assert "\n" not in str(caught.value)
    monitor = listener()
    skipping = replace(CONFIG, skip_bad=True)
    folder = make_labels(cam_run, skipping, monitor, data=data, resume=True)
    assert [text.split(" cannot")[0] for text in monitor.warnings] == [f"left out: {bad}"]
    mine, theirs = stored_in(folder), stored_in(labels)
    assert theirs.keys() - mine.keys() == {"deep/f"}
    for image_id in mine:
        np.testing.assert_array_equal(mine[image_id][2], theirs[image_id][2])


def test_make_labels__a_batch_larger_than_a_shard(cam_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    sizes: list[int] = []

    def recorded(path: Path, labels: Sequence[ImageLabels], *, threads: int) -> None:
        write_shard(path, labels, threads=threads)
        sizes.append(len(labels))

    monkeypatch.setattr(stages.make_labels, "write_shard", recorded)
    make_labels(cam_run, replace(CONFIG, batch_size=3), SilentMonitor())
    assert sizes == [3, 3, 2]


def test_make_labels__image_mended_before_going_on(
    cam_run: Path,
    draw_pictures: Callable[[Path], Path],
    labels: Path,
    listener: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Then all images after it move up a place: none may be lost, none be twice."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 3)
    data = draw_pictures(tmp_path / "data")
    bad = data / "images" / "b.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    skipping = replace(CONFIG, skip_bad=True)
    with pytest.raises(RuntimeError):
        make_labels(cam_run, skipping, listener(("advance", 5), RuntimeError), data=data)
    bad.write_bytes(whole)
    folder = make_labels(cam_run, skipping, SilentMonitor(), data=data, resume=True)
    assert stored_in(folder).keys() == stored_in(labels).keys()


def test_make_labels__nothing_but_bad_images_in_a_shard(
    cam_run: Path,
    draw_pictures: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    data = draw_pictures(tmp_path / "data")
    for name in ("a.jpg", "b.jpg"):
        cut_off(data / "images" / name)
    folder = make_labels(cam_run, replace(CONFIG, skip_bad=True), SilentMonitor(), data=data)
    assert stored_in(folder).keys() == {"c", "d", "deep/e", "deep/f", "deep/g", "h"}


def test_make_labels__disk_full(
    cam_run: Path, labels: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with small_disk(), pytest.raises(OSError, match="File too large"):
        make_labels(cam_run, CONFIG, SilentMonitor())
    assert not list((cam_run / "labels").rglob("*.h5"))
    assert_same(make_labels(cam_run, CONFIG, SilentMonitor(), resume=True), labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1.0, 0.1)}, r"--scales 0\.1 of --image-size 32 is less than a patch \(8 pixels\)"),
        ({"low_threshold": 0.8}, r"--low-threshold 0\.8 must be below --high-threshold 0\.7"),
        ({"device": "cuda"}, "--device cuda: torch sees no CUDA GPU"),
    ],
)
def test_make_labels__settings_that_do_not_work(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        make_labels(cam_run, replace(CONFIG, **changes), SilentMonitor())
    assert not (cam_run / "labels").exists()


def test_pixel_labels__without_classes() -> None:
    config = replace(CONFIG, background_threshold=0.5, high_threshold=0.7, low_threshold=0.25, confidence=True)
    images = [torch.zeros(3, 3, 4, dtype=torch.uint8)] * 2
    scores = [torch.zeros(0, 3, 4).half(), torch.ones(2, 3, 4).half()]
    ways: list[dict[str, Any]] = [{"ignore_uncertain": True}, {"refine": "crf"}, {"refine": "par+crf"}, {}]
    for changes in ways:
        empty, full = pixel_labels(scores, images, replace(config, **changes))
        assert empty.mask.tolist() == [[0] * 4] * 3
        assert empty.confidence is not None
        assert (empty.confidence == 255).all()
        assert full.mask.shape == (3, 4)


@pytest.mark.parametrize("refine", ["none", "par", "crf", "par+crf"])
@pytest.mark.parametrize("source", ["cam", "aux", "decoder"])
def test_make_labels__sources_and_refinements(cam_run: Path, pictures: Path, source: Any, refine: Any) -> None:
    config = replace(CONFIG, source=source, refine=refine, crf_backend="torch", confidence=True)
    folder = make_labels(cam_run, config, SilentMonitor())
    stored = stored_in(folder)
    with h5py.File(folder / "labels.h5") as file:
        for image_id, (classes, scores, mask) in stored.items():
            sure = file[f"confidence/{image_id}"][()]
            assert sure.dtype == np.uint8
            assert sure.shape == mask.shape
            assert not sure[mask == 255].any()
            assert set(np.unique(mask)) <= {0, *classes, 255}
            if source == "decoder":
                assert scores.sum(axis=0).max(initial=0) < 1.01
                assert 255 not in mask  # there is but one background
    assert any(mask.any() for _, _, mask in stored.values())


def test_make_labels__auxiliary_maps_are_the_other_ones(cam_run: Path, labels: Path) -> None:
    folder = make_labels(cam_run, replace(CONFIG, source="aux"), SilentMonitor())
    mine, theirs = stored_in(folder), stored_in(labels)
    assert any(not np.array_equal(mine[name][1], theirs[name][1]) for name in mine)


def test_make_labels__images_without_labels_are_predicted(
    cam_run: Path, draw_pictures: Callable[[Path], Path], labels: Path, listener: Any, tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    rows = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join(row for row in rows if not row.startswith("a.")) + "\n")
    monitor = listener()
    given = stored_in(make_labels(cam_run, CONFIG, monitor, data=data))
    assert any("without a row" in text for text in monitor.warnings)
    predicted = stored_in(
        make_labels(cam_run, replace(CONFIG, image_labels="predicted"), SilentMonitor(), data=data, overwrite=True)
    )
    assert predicted.keys() - given.keys() == {"a"}
    for name in given:
        np.testing.assert_array_equal(given[name][2], predicted[name][2])
    model = load_cam_model(open_stage(cam_run, "cam"))
    square = load_image(samples_of(data)["b"], 32).squashed[None]
    assert predicted_classes(model, square, 0.0) == [(1, 2)]
    assert predicted_classes(model, square, 1.0) == [()]


def test_make_labels__two_processes_write_what_one_does(
    cam_run: Path, tmp_path: Path, trained_run: Path, child_processes: Any
) -> None:
    other = run_with_cam(tmp_path / "other", trained_run)
    settings = ["--device", "cpu", "--batch-size", "1", "--scales", "1", "--scales", "0.5", "--workers", "1", "--quiet"]
    for run, ranks in ((cam_run, 2), (other, 1)):
        for ended in child_processes.toco("make-labels", str(run), "--devices", str(ranks), *settings, ranks=ranks):
            assert ended.returncode == 0, ended.stderr
    assert_same(cam_run / "labels", other / "labels")


def test_make_labels__a_chosen_background_is_kept(cam_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, background_threshold="auto")
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    with pytest.raises(RuntimeError):
        make_labels(cam_run, config, Stops(3))
    chosen = json.loads((cam_run / "labels" / "config.json").read_text())["background_threshold"]
    assert chosen in GRID
    monkeypatch.setattr(stages.make_labels, "choose_background", None)  # it must not choose again
    folder = make_labels(cam_run, config, SilentMonitor(), resume=True)
    with h5py.File(folder / "labels.h5") as file:
        how = json.loads(file.attrs["made_by"])
    assert how["background_threshold"] == chosen
    assert (how["high_threshold"], how["low_threshold"]) == (min(1.4 * chosen, 0.95), 0.5 * chosen)
    for classes, cam, mask in stored_in(folder).values():
        if classes:
            label = label_one_threshold(torch.from_numpy(cam)[None].float(), chosen)[0]
            np.testing.assert_array_equal(mask, numbered(label, classes))


class Stops(SilentMonitor):
    """Pulls the plug after some images."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.labelling = False

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        self.labelling = title == "making labels"

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.left -= self.labelling
        if self.left < 0:
            raise RuntimeError


def test_make_labels__a_deleted_shard_is_made_again(
    cam_run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the message about a damaged one advises; no other shard may be written over."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    with monkeypatch.context() as patch:
        patch.setattr(stages.make_labels, "join_shards", None)
        with pytest.raises(TypeError):
            make_labels(cam_run, CONFIG, SilentMonitor())
    first, *others = sorted((cam_run / "labels" / "shards").glob("*.h5"))
    assert len(others) == 3
    first.unlink()
    assert_same(make_labels(cam_run, CONFIG, SilentMonitor(), resume=True), labels)


def test_make_labels__uneven_processes_go_on_to_the_same_content(
    cam_run: Path, tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are the same whoever made what before; what is batched together decides on the last bits."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 4)
    config = replace(CONFIG, batch_size=4)
    whole = make_labels(run_with_cam(tmp_path / "whole", trained_run), config, SilentMonitor())
    with pytest.raises(RuntimeError):
        make_labels(cam_run, config, Stops(5))
    assert len(list((cam_run / "labels" / "shards").glob("0000-*.h5"))) == 1
    assert_same(make_labels(cam_run, config, SilentMonitor(), resume=True), whole)


@pytest.mark.parametrize(
    ("asked", "background", "bounds"),
    [
        ({}, None, (0.5, 0.7, 0.25)),  # as in training
        ({"background_threshold": 0.5}, None, (0.5, 0.7, 0.25)),
        ({"background_threshold": 0.2}, None, (0.2, 0.28, 0.1)),
        ({"background_threshold": "auto"}, 0.3, (0.3, 0.42, 0.15)),
        ({"background_threshold": 0.8}, None, (0.8, 0.95, 0.4)),
        ({"background_threshold": 0.2, "high_threshold": 0.6, "low_threshold": 0.05}, None, (0.2, 0.6, 0.05)),
    ],
)
def test_resolved__high_and_low_go_with_the_score(
    asked: dict[str, Any], background: float | None, bounds: tuple[float, float, float]
) -> None:
    trained = {"background_threshold": 0.5, "high_threshold": 0.7, "low_threshold": 0.25}
    config = resolved(MakeLabels(**asked), trained, background)
    assert (config.background_threshold, config.high_threshold, config.low_threshold) == pytest.approx(bounds)


def test_make_labels__the_decoder_is_asked_about_known_classes_alone(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it prefers a class that the image does not have, the best of the others counts, not the background."""

    def decoder(model: Any, images: torch.Tensor) -> torch.Tensor:
        planes = torch.tensor([0.1, 0.3, 0.6])[None, :, None, None]
        return planes.expand(len(images), 3, *images.shape[-2:])

    monkeypatch.setattr(stages.make_labels, "decoder_probabilities", decoder)
    stored = stored_in(make_labels(cam_run, replace(CONFIG, source="decoder"), SilentMonitor()))
    for classes, scores, mask in stored.values():
        if classes == (1,):
            np.testing.assert_allclose(scores, 0.75, atol=1e-3)  # of 0.1 background and 0.3
        if classes:
            assert (mask == max(classes)).all()


def test_make_labels__unlabelled_images_in_which_nothing_is_found_are_ignored(
    cam_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_pictures(tmp_path / "data")
    rows = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join(row for row in rows if not row.startswith("a.")) + "\n")
    monkeypatch.setattr(stages.make_labels, "predicted_classes", lambda model, images: [()] * len(images))
    stored = stored_in(make_labels(cam_run, replace(CONFIG, image_labels="predicted"), SilentMonitor(), data=data))
    assert (stored["a"][2] == 255).all()
    assert not stored["d"][2].any()  # somebody said that nothing is in this one
