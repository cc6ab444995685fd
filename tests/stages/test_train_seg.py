import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import data.image_cache
import stages.train_seg
from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.images import read_image, read_reduced
from data.transforms import Photometric, SegTransform
from stages.config import MakeLabels, TrainSeg
from stages.labels.training_pairs import LoadLabelled
from stages.make_labels import make_labels
from stages.networks.student import load_student
from stages.run_folder.artifacts import open_stage
from stages.run_folder.saving import load_weights
from stages.runtime.monitor import SilentMonitor
from stages.train_seg import cross_entropy, train_seg

CONFIG = TrainSeg(
    arch="DeepLabV3Plus",  # with dropout and batch norm, both of which a run that goes on must continue
    encoder="tu-mobilenetv3_small_050",
    weights="none",
    iterations=4,
    batch_size=2,
    image_size=64,
    long_side=64,
    warmup_fraction=0.25,
    evaluate_every=2,
    log_every=1,
    panel_every=0,
    device="cpu",
)


class Listener(SilentMonitor):
    """Keeps what is said, and presses Ctrl-C (or pulls the plug) after some steps."""

    def __init__(self, stop_after: int = 0, by: type[BaseException] = KeyboardInterrupt) -> None:
        self.stop_after = stop_after
        self.by = by
        self.steps = 0
        self.said: list[str] = []

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps
        if self.steps == self.stop_after:
            raise self.by

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "seg" / "model.safetensors")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "seg" / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def label_file(run: Path) -> Iterator[h5py.File]:
    with h5py.File(run / "labels" / "labels.h5", "r+") as file:
        yield file


@pytest.fixture(scope="module")
def undisturbed(labelled_run_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Listener]:
    """A run in which the training finished, and what was said."""
    run, monitor = labelled_run_in(tmp_path_factory.mktemp("undisturbed")).run, Listener()
    assert train_seg(run, CONFIG, monitor) == run / "seg"
    return run, monitor


def test_train_seg__writes_a_student_that_opens(undisturbed: tuple[Path, Listener]) -> None:
    run, monitor = undisturbed
    assert sorted(path.name for path in (run / "seg").iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors", "sessions.jsonl",
    ]  # fmt: skip
    opened = open_stage(run, "seg")
    assert opened.class_names == ("red", "blue")
    assert opened.config["model"] == {
        "arch": "DeepLabV3Plus",
        "encoder": "tu-mobilenetv3_small_050",
        "num_classes": 2,
        "long_side": 64,
        "channels": 3,
        "features": None,
    }
    images = torch.zeros(1, 3, 50, 40, dtype=torch.uint8)
    assert load_student(opened)(images).shape == (1, 3, 50, 40)
    assert monitor.steps == 4
    losses = [line for line in lines(run) if "loss" in line]
    assert [line["iteration"] for line in losses] == [1, 2, 3, 4]
    assert all(0 < line["labelled"] <= 1 for line in losses)
    assert losses[0]["learning_rate"] < losses[1]["learning_rate"] > losses[3]["learning_rate"]
    scores = [line for line in lines(run) if "student_miou" in line]
    assert [line["iteration"] for line in scores] == [2, 4]
    assert all(0 <= line["student_miou"] <= 1 for line in scores)


@pytest.mark.parametrize(("stop_after", "by"), [(1, KeyboardInterrupt), (3, KeyboardInterrupt), (3, OSError)])
def test_train_seg__resumed_run_is_the_same_bit_for_bit(
    labelled_run: Any, undisturbed: tuple[Path, Listener], stop_after: int, by: type[BaseException]
) -> None:
    run, whole = labelled_run.run, undisturbed[0]
    # One kind of stop writes a checkpoint at once, the other leaves the last regular one.
    config = replace(CONFIG, checkpoint_every=2)
    with pytest.raises(by):
        train_seg(run, config, Listener(stop_after, by))
    assert not (run / "seg" / "model.safetensors").exists()
    torch.rand(7)
    train_seg(run, config, SilentMonitor(), resume=True)
    expected, resumed = weights(whole), weights(run)
    assert expected.keys() == resumed.keys()
    assert any(name.endswith("running_var") for name in expected)
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name
    assert lines(run) == lines(whole)
    assert not (run / "seg" / "checkpoint.pt").exists()


def test_train_seg__a_cache_changes_nothing(labelled_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, iterations=2, rescale_max=0.6, evaluate_every=0)  # 39 of the images' 64 pixels are needed
    train_seg(labelled_run.run, config, SilentMonitor())
    expected = weights(labelled_run.run)
    cached = replace(config, cache=str(tmp_path / "cache"))
    for _ in ("cold", "warm"):
        train_seg(labelled_run.run, cached, SilentMonitor(), overwrite=True)
        assert all(torch.equal(value, expected[name]) for name, value in weights(labelled_run.run).items())
        assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4
        monkeypatch.setattr("data.image_cache.read_reduced", None)  # whatever is read now is from the cache


def test_train_seg__resume_of_a_finished_run_changes_nothing(labelled_run: Any) -> None:
    train_seg(labelled_run.run, replace(CONFIG, iterations=1), SilentMonitor())
    before = (labelled_run.run / "seg" / "model.safetensors").read_bytes()
    monitor = Listener()
    train_seg(labelled_run.run, replace(CONFIG, iterations=1), monitor, resume=True)
    assert (labelled_run.run / "seg" / "model.safetensors").read_bytes() == before
    assert monitor.said == [f"{labelled_run.run / 'seg'} is finished already"]


def test_train_seg__learns_the_squares(labelled_run: Any) -> None:
    config = replace(
        CONFIG, arch="Unet", iterations=12, learning_rate=1e-3, head_lr_multiplier=1.0, batch_size=4, evaluate_every=0
    )
    train_seg(labelled_run.run, config, SilentMonitor())
    losses = [line["loss"] for line in lines(labelled_run.run) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 5}, "was started with --iterations 4 and cannot be resumed with 5"),
        ({"encoder": "resnet18"}, "was started with --encoder tu-mobilenetv3_small_050 and cannot be resumed"),
    ],
)
def test_train_seg__resume_with_other_settings(labelled_run: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_seg(labelled_run.run, CONFIG, Listener(1))
    with pytest.raises(ArtifactError, match=message):
        train_seg(labelled_run.run, replace(CONFIG, **changes), SilentMonitor(), resume=True)
    assert (labelled_run.run / "seg" / "checkpoint.pt").exists()


def test_train_seg__existing_student_is_kept(labelled_run: Any) -> None:
    (labelled_run.run / "seg").mkdir()
    (labelled_run.run / "seg" / "model.safetensors").write_text("precious")
    with pytest.raises(ArtifactError, match="use --resume to continue it, --overwrite to start again"):
        train_seg(labelled_run.run, CONFIG, SilentMonitor())
    assert (labelled_run.run / "seg" / "model.safetensors").read_text() == "precious"


def test_train_seg__before_labels_are_made(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match=r"has no labels/config.json: run 'toco make-labels' first"):
        train_seg(tmp_path / "run", CONFIG, SilentMonitor())
    assert not (tmp_path / "run" / "seg").exists()


def test_train_seg__all_pixels_ignored(labelled_run_in: Callable[..., Any], tmp_path: Path) -> None:
    run = labelled_run_in(tmp_path, fill=255).run
    with pytest.raises(ArtifactError, match="has no labelled pixel"):
        train_seg(run, CONFIG, SilentMonitor())
    assert not (run / "seg").exists()


def test_train_seg__no_masks(labelled_run_in: Callable[..., Any], tmp_path: Path) -> None:
    run = labelled_run_in(tmp_path, without=("a", "b", "c", "deep/d")).run
    with pytest.raises(ArtifactError, match=f"holds no masks: run toco make-labels {run} --overwrite"):
        train_seg(run, CONFIG, SilentMonitor())


def test_train_seg__masks_without_their_images(labelled_run: Any) -> None:
    with label_file(labelled_run.run) as file:
        file["masks/gone"] = file["masks/a"][()]
    with pytest.raises(DataError, match=r"has masks of 1 images that .* lacks, first 'gone'"):
        train_seg(labelled_run.run, CONFIG, SilentMonitor())
    monitor = Listener()
    train_seg(labelled_run.run, replace(CONFIG, iterations=1, skip_bad=True), monitor)
    assert any(text.startswith("skipped: ") and "'gone'" in text for text in monitor.said)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((5, 7), np.uint8), "is 5 x 7 (height x width), the image"),
        (np.full((64, 64), 3, np.uint8), "has the value 3, but there are 2 classes"),
    ],
)
def test_train_seg__masks_that_do_not_fit(labelled_run: Any, mask: Any, message: str) -> None:
    with label_file(labelled_run.run) as file:
        del file["masks/a"]
        file["masks/a"] = mask
    with pytest.raises(DataError, match=re.escape(message)):
        train_seg(labelled_run.run, CONFIG, SilentMonitor())


def test_train_seg__split_and_moved_data(labelled_run: Any, tmp_path: Path) -> None:
    labelled_run.data.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"does not exist or is empty: if it was moved, .* --data"):
        train_seg(labelled_run.run, CONFIG, SilentMonitor())
    config = replace(CONFIG, iterations=1, split="val")
    with pytest.raises(DataError, match="has no masks of the images of split 'val': choose another --split"):
        train_seg(labelled_run.run, config, SilentMonitor(), data=tmp_path / "moved")
    config = replace(CONFIG, iterations=1, split="train", val_split="train")
    train_seg(labelled_run.run, config, SilentMonitor(), data=tmp_path / "moved")
    assert lines(labelled_run.run)[-1].keys() == {"iteration", "student_miou"}


def test_train_seg__no_true_masks(labelled_run: Any) -> None:
    for path in (labelled_run.data / "masks").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"split 'val' of .* has no ground-truth masks: choose another --val-split"):
        train_seg(labelled_run.run, replace(CONFIG, val_split="val"), SilentMonitor())
    train_seg(labelled_run.run, replace(CONFIG, iterations=1), SilentMonitor())
    assert not any("student_miou" in line for line in lines(labelled_run.run))


def test_train_seg__other_classes(labelled_run: Any) -> None:
    (labelled_run.data / "classes.txt").write_text("blue\nred\n")
    with pytest.raises(ArtifactError, match="has the classes in another order"):
        train_seg(labelled_run.run, CONFIG, SilentMonitor())


def test_load_labelled__travels_to_other_processes_with_its_file_open(labelled_run: Any) -> None:
    load = LoadLabelled(labelled_run.run / "labels" / "labels.h5", 2, 64, CONFIG)
    sample = Sample(id="a", image=labelled_run.data / "images" / "a.png", classes=(1,), mask=None)
    views = []
    for one in (load, load, pickle.loads(pickle.dumps(load))):
        torch.manual_seed(0)
        views.append(one(sample))
    for view in views:
        assert torch.equal(view.image, views[0].image)
        assert torch.equal(view.mask, views[0].mask)


def test_load_labelled__a_reduced_image_keeps_its_mask(labelled_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large picture the mask's view is the same whether the picture was reduced or not, and the image's alike."""
    path = labelled_run.data / "images" / "a.png"
    with Image.open(path) as image:
        image.resize((1030, 1017), Image.Resampling.BICUBIC).save(path, format="jpeg")
    mask = np.asarray(Image.fromarray(labelled_run.masks["a"]).resize((1030, 1017), Image.Resampling.NEAREST))
    with label_file(labelled_run.run) as file:
        del file["masks/a"]
        file["masks/a"] = mask
    load = LoadLabelled(labelled_run.run / "labels" / "labels.h5", 2, 64, CONFIG)
    sample = Sample(id="a", image=path, classes=(1,), mask=None)
    sizes = []

    def read(path: Path, side: int, rule: object) -> Image.Image:
        sizes.append(read_reduced(path, side).size)
        return read_image(path)

    for seed in range(8):
        torch.manual_seed(seed)
        reduced = load(sample)
        with monkeypatch.context() as patch:
            patch.setattr(data.image_cache, "read_reduced", read)
            torch.manual_seed(seed)
            whole = load(sample)
        assert torch.equal(reduced.mask, whole.mask)
        assert (reduced.image.float() - whole.image.float()).abs().mean() < 6  # a pixel of shift makes 8
    assert set(sizes) == {(129, 128)}  # as the decoder gives an eighth: sides rounded up, so of another shape


def test_cross_entropy__is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5)
    mask = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    mask[0, :2] = 255
    known = mask != 255
    chosen = logits.permute(0, 2, 3, 1)[known].log_softmax(dim=1)
    expected = -chosen[torch.arange(len(chosen)), mask[known].long()].mean()
    torch.testing.assert_close(cross_entropy(logits, mask), expected)
    logits[:, :, 0] = 50  # a row of which only the second image's is labelled
    changed = logits.clone()
    changed[0, :, :2] = torch.randn(3, 2, 5)
    assert torch.equal(cross_entropy(logits, mask), cross_entropy(changed, mask))


def test_cross_entropy__nothing_labelled_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    assert loss.item() == 0
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_seg_transform__image_and_mask_stay_together() -> None:
    # The mask can be read off the image: bright where 1.
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 5:40] = 1
    image = Image.fromarray(np.repeat(mask[:, :, None] * 200, 3, axis=2))
    transform = SegTransform(48, long_side=60, rescale=(0.5, 2.0))
    transform.jitter = Photometric(v2.Identity(), v2.Identity())
    padded = 0
    for seed in range(30):
        torch.manual_seed(seed)
        view = transform(image, mask)
        assert view.image.shape == (3, 48, 48)
        assert view.mask.shape == (48, 48)
        assert view.image.dtype == view.mask.dtype == torch.uint8
        assert set(view.mask.flatten().tolist()) <= {0, 1, 255}
        known = view.mask != 255
        agree = (view.image[0] > 100) == (view.mask == 1)
        assert agree[known].float().mean() > 0.94
        padded += int(not known.all())
    assert 0 < padded < 30


def test_seg_transform__pads_with_ignored_pixels() -> None:
    transform = SegTransform(64, long_side=32, rescale=(1.0, 1.0))
    view = transform(Image.new("RGB", (80, 40)), np.ones((40, 80), np.uint8))
    assert (view.mask == 1).sum() == 16 * 32
    assert (view.mask == 255).sum() == 64 * 64 - 16 * 32


@pytest.fixture(scope="module")
def relabelled(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny network with relabelled masks."""
    run = tmp_path_factory.mktemp("relabelled")
    (run / "cam").symlink_to(trained_run / "cam")
    config = MakeLabels(device="cpu", workers=1, scales=(1.0,), relabel="linear", relabel_steps=20)
    make_labels(run, config, SilentMonitor())
    return run


@pytest.fixture
def relabelled_run(relabelled: Path, tmp_path: Path) -> Path:
    """A run of the test's own that holds the relabelled masks."""
    return shutil.copytree(relabelled, tmp_path / "run", symlinks=True)


def head_settings(arch: str, **changes: Any) -> TrainSeg:
    settings = {
        "iterations": 4,
        "batch_size": 2,
        "evaluate_images": 2,
        "evaluate_every": 0,
        "panel_every": 0,
        "device": "cpu",
        "workers": 0,
    }
    return TrainSeg(arch=arch, **{**settings, **changes})


@pytest.mark.parametrize("arch", ["linear", "mlp", "conv"])
def test_train_seg__head_on_features(relabelled_run: Path, arch: str, pictures: Path) -> None:
    """The student that opens gives what the stored features and the trained head give."""
    from data.readers import open_dataset
    from stages.networks.inference import to_tensor
    from stages.networks.student import student_probabilities

    folder = train_seg(relabelled_run, head_settings(arch), SilentMonitor())
    assert lines(relabelled_run)[-1]["iteration"] == 4
    assert "student_miou" in lines(relabelled_run)[-1]
    student = load_student(open_stage(relabelled_run, "seg"))
    sample = open_dataset(pictures).split()[0]
    with h5py.File(relabelled_run / "features" / "00000000.h5") as file, torch.inference_mode():
        features = torch.from_numpy(file[f"features/{sample.id}"][()])[None]
        logits = torch.nn.functional.interpolate(
            student.network.head(features), scale_factor=8, mode="bilinear", align_corners=False
        )
    found = student_probabilities(student, [to_tensor(read_image(sample.image))], flip_tta=False)
    torch.testing.assert_close(found, (2 * logits).softmax(dim=1), rtol=0.02, atol=0.005)
    assert folder == relabelled_run / "seg"


def test_train_seg__labels_weigh_in_the_loss_of_a_head_on_features(
    relabelled_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no weight but the background's, nothing pulls the head towards the classes."""

    def learned(*weights: float) -> Tensor:
        monkeypatch.setattr(stages.train_seg, "label_weights", lambda *_: torch.tensor(weights))
        train_seg(relabelled_run, head_settings("linear"), SilentMonitor(), overwrite=True)
        student = load_student(open_stage(relabelled_run, "seg"))
        with torch.inference_mode():
            logits: Tensor = student.network.head(student.network.head.mean[None].repeat(1, 1, 8, 8))
        return logits.mean(dim=(0, 2, 3))

    assert learned(1.0, 0.0, 0.0)[0] > learned(1.0, 1.0, 1.0)[0] > learned(0.01, 1.0, 1.0)[0]


def test_train_seg__head_on_features_of_plain_labels(cam_run: Path) -> None:
    """Without relabelling, the features are computed and the masks are the targets."""
    make_labels(cam_run, MakeLabels(relabel="none", device="cpu", workers=1, refine="crf"), SilentMonitor())
    train_seg(cam_run, head_settings("linear"), SilentMonitor())
    assert 0 < lines(cam_run)[-2]["labelled"] < 1


def test_train_seg__head_on_features_goes_on(relabelled_run: Path) -> None:
    settings = head_settings("mlp", checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        train_seg(relabelled_run, settings, Listener(stop_after=2))
    train_seg(relabelled_run, settings, SilentMonitor(), resume=True)
    resumed = weights(relabelled_run)
    train_seg(relabelled_run, settings, SilentMonitor(), overwrite=True)
    for name, value in weights(relabelled_run).items():
        assert torch.equal(value, resumed[name])
