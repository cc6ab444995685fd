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

import stages.features.cache
import stages.labels.maker
import stages.make_labels
import stages.relabel.choose_heads
import stages.relabel.choose_instances
import stages.relabel.instance_head
import stages.relabel.relabel_maker
from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.readers import open_dataset, read_mask
from stages.config import MakeLabels
from stages.features.cache import stored_features
from stages.features.spec import feature_spec
from stages.labels.choose_background import GRID, calibration_samples
from stages.labels.label_settings import used_settings
from stages.labels.store import ImageLabels, LabelFile, write_shard
from stages.labels.stored_cams import read_cam
from stages.make_labels import make_labels
from stages.networks.cam_model import load_cam_model
from stages.networks.inference import load_image, predicted_classes
from stages.run_folder.artifacts import finished, open_stage
from stages.runtime.monitor import SilentMonitor
from stages.toco.cam import Cams
from stages.toco.metrics import Confusion
from stages.toco.model import ToCo
from toco_cli.stage_commands import run_make_labels

# One image at a time: in batches, the last bits depend on which images are together.
CONFIG = MakeLabels(relabel="none", device="cpu", workers=1, scales=(1.0, 0.5), batch_size=1)
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
    assert {path.name for path in folder.iterdir()} - {"log.txt", "verdict.json"} == {
        "config.json",
        "sessions.jsonl",
        "cams.h5",
        "labels.h5",
    }


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
    cams = LabelFile(labels / "cams.h5", "cams")
    assert stored.keys() == samples.keys() == {"a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h"}
    for image_id, (classes, cam, mask) in stored.items():
        size = tuple(load_image(samples[image_id], 8).original.shape[1:])
        assert classes == samples[image_id].classes
        assert cam.dtype == np.float16
        assert cam.shape == (len(classes), 32, 32)  # the network's size
        assert cams.image_size(image_id) == size
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


def ramp(height: int, width: int) -> NDArray[np.float64]:
    """Scores of a map of two rows, 0 above 1, resized bilinearly: 0 and 1 in the outer quarters, linear between."""
    rows = (np.arange(height) + 0.5) / height
    return np.broadcast_to((2 * rows - 0.5).clip(0, 1)[:, None], (height, width))


@pytest.fixture
def ramps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees class 1 below and class 2 above in every image; its auxiliary maps say the opposite."""

    def raw_cams(model: ToCo, images: torch.Tensor) -> Cams:
        maps = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]).expand(len(images), 2, 2, 2)
        return Cams(final=maps, auxiliary=maps.flip(1))

    monkeypatch.setattr(ToCo, "raw_cams", raw_cams)


@pytest.mark.parametrize("source", ["cam", "aux"])
def test_make_labels__cams_and_masks_by_hand(cam_run: Path, ramps: None, source: Any) -> None:
    lower, upper = (1, 2) if source == "cam" else (2, 1)
    below, above = ramp(32, 32), ramp(32, 32)[::-1]
    sizes = set()
    for classes, cam, mask in stored_in(make_labels(cam_run, replace(CONFIG, source=source), SilentMonitor())).values():
        expected = np.zeros_like(mask)
        for place, number in enumerate(classes):
            np.testing.assert_allclose(cam[place], below if number == lower else above, atol=1e-3)
            half = slice(len(mask) // 2, None) if number == lower else slice(None, len(mask) // 2)
            expected[half] = number
        np.testing.assert_array_equal(mask, expected)
        sizes.add(mask.shape)
        assert classes in {(), (1,), (2,), (lower, upper), (upper, lower)}
    assert sizes == {(64, 64), (64, 48)}


def test_make_labels__two_thresholds_by_hand(cam_run: Path, ramps: None) -> None:
    config = replace(CONFIG, ignore_uncertain=True, high_threshold=0.6, low_threshold=0.3)
    stored = stored_in(make_labels(cam_run, config, SilentMonitor()))
    # Row r of h has the score 2 (r + 0.5) / h - 0.5, which is 0.3 at 0.4 h and 0.6 at 0.55 h.
    for image_id, (classes, _, mask) in stored.items():
        height = len(mask)
        if classes == (1,):
            low, high = round(0.4 * height), round(0.55 * height)
            expected = np.repeat([0, 255, 1], [low, high - low, height - high])
            np.testing.assert_array_equal(mask, np.broadcast_to(expected[:, None], mask.shape), err_msg=image_id)
        elif not classes:
            assert not mask.any()
    assert any(classes == (1,) for classes, _, _ in stored.values())


def test_make_labels__refining_changes_masks_and_keeps_cams(cam_run: Path, labels: Path) -> None:
    folder = make_labels(cam_run, replace(CONFIG, refine="crf", crf_backend="torch"), SilentMonitor())
    without = stored_in(labels)
    changed = 0
    for image_id, (classes, cam, mask) in stored_in(folder).items():
        np.testing.assert_array_equal(cam, without[image_id][1])
        assert set(np.unique(mask)) <= {0, *classes, 255}
        changed += (mask != without[image_id][2]).sum()
    assert changed > 0


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


@pytest.mark.parametrize(
    ("images", "error"), [(1, RuntimeError), (3, KeyboardInterrupt), (6, RuntimeError), (8, KeyboardInterrupt)]
)
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

    def power_cut(path: Path, **options: Any) -> None:
        if Path(path).name == "shards":
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
    with pytest.raises(ArtifactError, match=r"--background-threshold its default and cannot be resumed with 0\.3"):
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
    assert str(caught.value).endswith("; fix or remove it, or skip it with --skip-bad")
    assert "\n" not in str(caught.value)
    monitor = listener()
    skipping = replace(CONFIG, skip_bad=True)
    folder = make_labels(cam_run, skipping, monitor, data=data, resume=True)
    assert [text.split(" cannot")[0] for text in monitor.warnings] == [f"skipped: {bad}"]
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
    cam_run: Path, tmp_path: Path, trained_run: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    config = replace(CONFIG, image_size=256)  # whose CAMs are large enough
    with small_disk(), pytest.raises(OSError, match="File too large"):
        make_labels(cam_run, config, SilentMonitor())
    assert not list((cam_run / "labels").rglob("*.h5"))
    undisturbed = make_labels(run_with_cam(tmp_path / "other", trained_run), config, SilentMonitor())
    assert_same(make_labels(cam_run, config, SilentMonitor(), resume=True), undisturbed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1.0, 0.1)}, r"--scales 0\.1 of --image-size 32 is less than one patch \(8 pixels\)"),
        ({"low_threshold": 0.8}, r"--low-threshold 0\.8 must be below --high-threshold 0\.7"),
        ({"device": "cuda"}, "--device cuda: torch finds no CUDA GPU"),
    ],
)
def test_make_labels__settings_that_do_not_work(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        make_labels(cam_run, replace(CONFIG, **changes), SilentMonitor())
    assert not (cam_run / "labels").exists()


@pytest.mark.parametrize(
    ("source", "refine"),
    [("cam", "none"), ("cam", "par"), ("aux", "crf"), ("decoder", "none"), ("decoder", "par+crf")],
)
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
    cams = LabelFile(folder / "cams.h5", "cams")
    for image_id, (classes, _, mask) in stored_in(folder).items():
        if classes:
            best = read_cam(cams, image_id).amax(dim=0).numpy()
            assert ((mask > 0) == (best > chosen)).mean() > 0.99


class Stops(SilentMonitor):
    """Pulls the plug after some images."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.labelling = False

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        self.labelling = title == "making labels"

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.left -= steps * self.labelling
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


def test_make_labels__a_shard_that_is_lost_while_labelling_is_noticed(
    cam_run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards stay, so that --resume makes the missing images again."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)

    def losing(path: Path, labels: list[ImageLabels], *, threads: int) -> None:
        write_shard(path.with_name("0000-00000000.h5"), labels, threads=threads)  # each replaces the one before

    with monkeypatch.context() as patch:
        patch.setattr(stages.make_labels, "write_shard", losing)
        with pytest.raises(ArtifactError, match=r"shards lacks 6 of 8 images, first 'a': .* --resume', which makes"):
            make_labels(cam_run, CONFIG, SilentMonitor())
    assert not finished(cam_run, "labels")
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


def test_make_labels__the_decoder_is_asked_about_known_classes_alone(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it prefers a class that the image does not have, the best of the others counts, not the background."""

    def decoder(model: Any, images: torch.Tensor) -> torch.Tensor:
        planes = torch.tensor([0.1, 0.3, 0.6])[None, :, None, None]
        return planes.expand(len(images), 3, *images.shape[-2:])

    monkeypatch.setattr(stages.labels.maker, "decoder_probabilities", decoder)
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
    monkeypatch.setattr(stages.labels.maker, "predicted_classes", lambda model, images: [()] * len(images))
    config = replace(CONFIG, image_labels="predicted", confidence=True)
    folder = make_labels(cam_run, config, SilentMonitor(), data=data)
    stored = stored_in(folder)
    assert (stored["a"][2] == 255).all()
    confidence = LabelFile(folder / "labels.h5", "confidence")
    assert not confidence.read("a").any()
    assert (confidence.read("d") == 255).all()
    assert not stored["d"][2].any()  # somebody said that nothing is in this one


RELABEL = replace(CONFIG, relabel="linear", relabel_rounds=2, relabel_steps=20)


@pytest.fixture(scope="module")
def relabelled(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/labels of an undisturbed run with relabelling."""
    return make_labels(run_with_cam(tmp_path_factory.mktemp("relabelled"), trained_run), RELABEL, SilentMonitor())


def test_make_labels__relabelled(relabelled: Path, labels: Path, pictures: Path) -> None:
    """The CAMs are those of a run without relabelling; masks and scores have only the classes of their image."""
    assert {path.name for path in relabelled.iterdir()} == {
        "config.json", "sessions.jsonl", "cams.h5", "scores.h5", "labels.h5",
    }  # fmt: skip
    cams, before = LabelFile(relabelled / "cams.h5", "cams"), LabelFile(labels / "cams.h5", "cams")
    masks, scores = LabelFile(relabelled / "labels.h5", "masks"), LabelFile(relabelled / "scores.h5", "scores")
    for name, sample in samples_of(pictures).items():
        np.testing.assert_array_equal(cams.read(name), before.read(name))
        mask, probabilities = masks.read(name), scores.read(name)
        assert set(np.unique(mask)) <= {0, *sample.classes}
        assert probabilities.shape == (len(sample.classes), 32, 32 if mask.shape[0] == mask.shape[1] else 24)
        assert scores.image_size(name) == mask.shape
        assert (probabilities >= 0).all()
        assert (probabilities.sum(axis=0) <= 1.001).all()


@pytest.mark.parametrize("stop", [("start", 2), ("advance", 14), ("start", 4), ("advance", 22)])
def test_make_labels__relabelling_goes_on(
    cam_run: Path, relabelled: Path, listener: Any, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, int]
) -> None:
    """Stopped before or in the features, the rounds or the last pass."""
    monkeypatch.setattr(stages.make_labels, "SHARD", 2)
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, RELABEL, listener(stop))
    folder = make_labels(cam_run, RELABEL, SilentMonitor(), resume=True)
    for name in ("cams.h5", "scores.h5", "labels.h5"):
        assert (folder / name).read_bytes() == (relabelled / name).read_bytes()


@pytest.mark.parametrize("fast", [False, True])
def test_make_labels__relabelling_and_crf(cam_run: Path, pictures: Path, fast: bool) -> None:
    """The CRF refines the relabelled masks, and leaves no pixel out."""
    config = replace(RELABEL, refine="crf", crf_fast=fast, confidence=True)
    folder = make_labels(cam_run, config, SilentMonitor())
    masks, confidence = (LabelFile(folder / "labels.h5", group) for group in ("masks", "confidence"))
    for name in samples_of(pictures):
        assert not (masks.read(name) == 255).any()
        assert confidence.read(name).shape == masks.read(name).shape


AUTO = replace(RELABEL, relabel="auto")


def judge(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """Let the image labels say this of the CAMs' labels and of the new ones; the CAM network has learned them."""
    found = iter(figures)
    monkeypatch.setattr(stages.relabel.choose_instances, "network_classification", lambda samples, maker: 1.0)
    for module in (stages.relabel.choose_heads, stages.relabel.relabel_maker):
        monkeypatch.setattr(module, "head_classification", lambda patches, labelled: next(found))


def made_by(folder: Path) -> Any:
    with h5py.File(folder / "labels.h5") as file:
        return json.loads(file.attrs["made_by"])["relabel"]


def test_make_labels__auto_relabels(cam_run: Path, relabelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, 0.5, 0.49)  # as good
    folder = make_labels(cam_run, AUTO, SilentMonitor())
    assert (folder / "scores.h5").read_bytes() == (relabelled / "scores.h5").read_bytes()
    assert stored_in(folder).keys() == stored_in(relabelled).keys()
    assert made_by(folder) == "linear"


def test_make_labels__auto_keeps_the_masks_of_the_cams(
    cam_run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, 0.5, 0.4)
    folder = make_labels(cam_run, AUTO, SilentMonitor())
    assert_same(folder, labels)
    assert made_by(folder) == "none"


@pytest.mark.parametrize(("refined", "stays"), [(0.46, True), (0.44, False)])
def test_make_labels__auto_refines_the_masks_of_the_cams_unless_that_harms_them(
    cam_run: Path, labels: Path, listener: Any, monkeypatch: pytest.MonkeyPatch, refined: float, stays: bool
) -> None:
    """Stopped before the last masks, and resumed without judging again."""
    judge(monkeypatch, 0.5, 0.4, 0.5, refined)
    config = replace(AUTO, refine="crf", confidence=True)
    if not stays:
        with pytest.raises(KeyboardInterrupt):
            make_labels(cam_run, config, listener(("start", 4)))
    folder = make_labels(cam_run, config, SilentMonitor(), resume=not stays)
    used = used_settings(open_stage(cam_run, "labels"))
    assert (made_by(folder), used.refine) == ("none", "crf" if stays else "none")
    assert not (folder / "scores.h5").exists()
    plain, made = stored_in(labels), stored_in(folder)
    assert made.keys() == plain.keys()
    # Stored CAMs are rounded, so that a few pixels next to the threshold may differ.
    equal = [float((made[name][2] == plain[name][2]).mean()) for name in plain]
    assert (min(equal) > 0.99) != stays
    assert LabelFile(folder / "labels.h5", "confidence").read(next(iter(made))).any()


def test_make_labels__auto_keeps_its_choice(
    cam_run: Path, relabelled: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the last pass, and resumed without judging again."""
    judge(monkeypatch, 0.5, 0.6)
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, AUTO, listener(("start", 4)))
    folder = make_labels(cam_run, AUTO, SilentMonitor(), resume=True)
    assert (folder / "scores.h5").read_bytes() == (relabelled / "scores.h5").read_bytes()


def instances_judge(monkeypatch: pytest.MonkeyPatch, network: float, head: float) -> None:
    """Let the mean average precision of the CAM network, and of heads on single patches, be this."""
    monkeypatch.setattr(stages.relabel.choose_instances, "FEWEST_CLASSIFIED", 2)
    monkeypatch.setattr(stages.relabel.choose_instances, "network_classification", lambda samples, maker: network)
    monkeypatch.setattr(stages.relabel.choose_instances, "instance_classification", lambda *_: head)
    monkeypatch.setattr(stages.relabel.instance_head, "STEPS", 20)


@pytest.mark.parametrize(
    ("network", "head", "said"), [(0.4, 0.7, True), (0.7, 0.66, True), (0.7, 0.64, True), (0.8, 0.9, False)]
)
def test_make_labels__auto_compares_network_and_instances(
    cam_run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, network: float, head: float, said: bool
) -> None:
    """A network that has learned the image labels makes the masks, even if heads on single patches do better.

    Its figure counts 0.05 less, because it was trained on the images.
    """
    judge(monkeypatch, 0.5, 0.4)
    instances_judge(monkeypatch, network, head)
    warnings: list[str] = []
    notes: list[str] = []
    monitor = SilentMonitor()
    monkeypatch.setattr(monitor, "warn", warnings.append)
    monkeypatch.setattr(monitor, "note", notes.append)
    taken = network - 0.05 < head and said
    folder = make_labels(cam_run, replace(AUTO, refine="crf", crf_fast=True) if taken else AUTO, monitor)
    assert any("has not learned the image labels well" in text for text in warnings) == said
    assert any("too few images do not show these classes" in text for text in warnings) == taken
    assert not any("mil is not tried" in note for note in notes)
    used = used_settings(open_stage(cam_run, "labels"))
    assert (made_by(folder), used.relabel, used.refine) == (
        ("mil", "mil", "none") if taken else ("none", "auto", "none")
    )
    if not taken:
        assert_same(folder, labels)


def test_run_make_labels__says_first_and_once_that_few_images_lack_a_class(
    cam_run: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.relabel.instance_head, "STEPS", 20)
    monitor = listener()
    run_make_labels(cam_run, replace(CONFIG, relabel="mil"), monitor, data=None, resume=False, overwrite=False)
    assert monitor.calls[0] == "warn"
    assert sum("too few images do not show these classes" in text for text in monitor.warnings) == 1
    assert "too few images do not show" in (cam_run / "labels" / "log.txt").read_text()


def test_make_labels__auto_keeps_its_choice_of_instances(
    cam_run: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the last pass, and resumed without judging or computing features again; students use the same ones."""
    instances_judge(monkeypatch, 0.4, 0.7)
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, AUTO, listener(("start", 4)))
    instances_judge(monkeypatch, 0.9, 0.1)
    monkeypatch.delattr(stages.features.cache, "features_of")
    folder = make_labels(cam_run, AUTO, SilentMonitor(), resume=True)
    assert made_by(folder) == "mil"
    scores = LabelFile(folder / "scores.h5", "scores")
    assert set(scores.ids) == set(LabelFile(folder / "labels.h5", "masks").ids)
    features = stored_features(cam_run)
    assert features is not None
    assert features.spec == feature_spec(used_settings(open_stage(cam_run, "labels")), open_stage(cam_run, "cam"))
    assert features.spec.blocks == ()


def test_make_labels__auto_chooses_the_threshold_at_the_scales_of_its_choice(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(scores: Any, *arguments: Any) -> float:
        scales.append(scores.__self__.config.scales)
        return 0.5

    scales: list[tuple[float, ...]] = []
    monkeypatch.setattr(stages.make_labels, "choose_background", choose)
    instances_judge(monkeypatch, 0.4, 0.7)
    make_labels(cam_run, replace(AUTO, background_threshold="auto"), SilentMonitor())
    assert scales == [(1.0,)]


def test_make_labels__auto_measures_the_masks_that_it_would_store(
    cam_run: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    """With ground truth, all kinds are measured, refined as they would be stored."""
    notes: list[str] = []
    monitor = SilentMonitor()
    monkeypatch.setattr(monitor, "note", notes.append)
    config = replace(AUTO, refine="crf", calibration_images=2)
    folder = make_labels(cam_run, config, monitor)
    (line,) = [note for note in notes if "chosen by the mIoU" in note]
    figures = dict(part.split(" ") for part in line.rpartition(": ")[2].split(", "))
    assert figures.keys() == {"none", "linear", "mlp"}
    assert sum("mil is not tried" in note for note in notes) == 1
    kind = made_by(folder)
    assert float(figures[kind]) == max(map(float, figures.values()))
    found = Confusion(3)
    masks = LabelFile(folder / "labels.h5", "masks")
    for sample in calibration_samples(list(samples_of(pictures).values()), ("red", "blue"), config, monitor):
        mask = masks.read(sample.id)
        truth = read_mask(sample, (mask.shape[0], mask.shape[1]), 2)
        found.add(torch.from_numpy(mask).long(), torch.from_numpy(truth).long())
    assert f"{100 * found.scores().miou:.1f}" == figures[kind]


def test_window__gives_cams_of_the_size_of_the_image(trained_run: Path, tmp_path: Path) -> None:
    run = run_with_cam(tmp_path / "run", trained_run)
    config = replace(CONFIG, window=40, scales=(1.0, 2.0), batch_size=4)
    windows = stored_in(make_labels(run, config, SilentMonitor()))
    other = run_with_cam(tmp_path / "other", trained_run)
    large = stored_in(make_labels(other, replace(config, window=64), SilentMonitor()))  # no image is larger
    whole = stored_in(make_labels(other, replace(config, window=None), SilentMonitor(), overwrite=True))
    side = open_stage(run, "cam").settings["image_size"]
    for name, (classes, cam, mask) in windows.items():
        assert cam.shape == (len(classes), *mask.shape)
        if classes:
            assert cam.min() == 0
            assert cam.max() > 0.99
            assert whole[name][1].shape == (len(classes), side, side)
        np.testing.assert_array_equal(large[name][2], whole[name][2])
    assert open_stage(run, "labels").settings["window"] == 40
    with pytest.raises(ArtifactError, match="--window"):
        make_labels(run, replace(config, window=32), SilentMonitor(), resume=True)


def test_window__is_not_for_the_decoder() -> None:
    with pytest.raises(ValueError, match="--window is for CAMs: it does not work with --source decoder"):
        MakeLabels(window=64, source="decoder")
