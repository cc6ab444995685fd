"""Fixtures that all tests share."""

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from stages.config import MakeLabels, Run, TrainCam, TrainSeg
from stages.runtime.monitor import SilentMonitor

if TYPE_CHECKING:
    from torch import Tensor

# The tensors of these tests are too small to share out between threads; child processes take this over.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as toco sets it before it imports torch
DEVICE = os.environ.get("TOCO_DEVICE")  # set by bench/gpu.py, which runs the golden tests on a GPU
if DEVICE:
    import torch

    torch.set_default_device(DEVICE)
    torch.backends.cudnn.allow_tf32 = False  # full float32, as in the arrays
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--budget", type=float, default=math.inf, help="seconds after which no further test starts")


# Files whose tests take longest. They start first, so that no worker is left with one of them at the end.
LONG_FILES = (
    "test_run", "test_train_cam", "test_make_labels", "test_several_processes", "test_pipeline", "test_onnx",
    "test_train_seg",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() - BEGAN > item.config.getoption("--budget"):
        pytest.skip("the time that --budget gives is over")


@pytest.fixture(scope="session", autouse=True)
def child_processes() -> Iterator[ModuleType]:
    """Runs functions and commands in processes that fork from one server, so that they have torch at once."""
    import child_processes  # type: ignore[import-not-found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseContext, "set_forkserver_preload", child_processes.preload(BaseContext))
        yield child_processes


@pytest.fixture(scope="session", autouse=True)
def git_once() -> Iterator[None]:
    """Each stage of a run asks git for two commits, by two processes each; these stay the same while tests run."""
    import stages.run_folder.provenance as provenance

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_state", cache(provenance.git_state))
        yield


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Loads a file of the published program's arrays: tensors, and Python scalars for what has no shape.

    `TOCO_GOLDEN` names another folder of files of the same form: other sizes, classes, constants, seeds.
    """
    folder = Path(os.environ.get("TOCO_GOLDEN") or Path(__file__).parent / "golden")

    def load(name: str) -> dict[str, Any]:
        import torch  # not above: many tests do without it

        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return {
            key: torch.from_numpy(value).to(DEVICE) if value.ndim else value.item() for key, value in arrays.items()
        }

    return load


@pytest.fixture(scope="session")
def assert_golden() -> Callable[..., None]:
    """Compares floats with the published program's: relative to each entry, and a little to the largest one.

    An entry near zero is a sum of terms about as large as the largest entry, each rounded to 6e-8 of its own
    size in float32 in both programs; a tenth of `rtol` of the largest entry allows for these, and no more.
    """

    def check(actual: "Tensor | float", expected: "Tensor | float", rtol: float = 1e-5) -> None:
        import torch

        actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
        largest = expected.abs().max().item()
        torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=0.1 * rtol * largest)

    return check


class Listener(SilentMonitor):
    """Keeps what is said, and presses Ctrl-C (or pulls the plug) where it is told to."""

    def __init__(self, stop: tuple[str, int] | None = None, by: type[BaseException] = KeyboardInterrupt) -> None:
        """Raise `by` at the n-th call of a method, for stop = (method, n)."""
        self.stop = stop
        self.by = by
        self.calls: list[str] = []
        self.steps = 0
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def heard(self, method: str) -> None:
        self.calls.append(method)
        if self.stop == (method, self.calls.count(method)):
            raise self.by

    def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        self.steps = done
        self.heard("start")

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps
        self.heard("advance")

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.heard("note")

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.heard("warn")

    def finish(self) -> None:
        self.heard("finish")


@pytest.fixture(scope="session")
def listener() -> type[Listener]:
    return Listener


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte can be written any more, whoever tries."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)  # where a full disk is told of at the latest


@pytest.fixture(scope="session")
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """Files cannot grow beyond 30,000 bytes while this context lasts; what a full disk does to writers, for real."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def draw_pictures() -> Callable[[Path], Path]:
    """Writes a custom folder: red and blue squares on grey, eight images to train on, two to measure on."""

    def draw(root: Path) -> Path:
        classes = (("red",), ("blue",), ("red", "blue"), ())
        rows = ["image,labels,split"]
        for number, image_id in enumerate(("a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h", "v", "w")):
            names = classes[number % 4]
            mask = np.zeros((64, 64 if number % 3 else 48), np.uint8)
            for name in names:
                top, left = 4 + 3 * number, (4 if name == "red" else 28)
                mask[top : top + 24, left : left + 18] = 1 + ("red", "blue").index(name)
            colours = np.array([(110, 110, 110), (210, 50, 40), (40, 60, 210)])[mask]
            noise = np.random.default_rng(number).integers(-30, 30, colours.shape)
            for folder, suffix, picture in (("images", "jpg", colours + noise), ("masks", "png", mask)):
                path = root / folder / f"{image_id}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
            rows.append(f"{image_id}.jpg,{';'.join(names)},{'val' if image_id in 'vw' else 'train'}")
        (root / "labels.csv").write_text("\n".join(rows) + "\n")
        (root / "classes.txt").write_text("red\nblue\n")
        return root

    return draw


@pytest.fixture(scope="session")
def fill_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that all workers of pytest-xdist share: the first one fills it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def fill(name: str, write: Callable[[Path], object]) -> Path:
        folder, filled = common / f"shared-{name}", common / f"shared-{name}.filled"
        try:
            folder.mkdir()
        except FileExistsError:
            while not filled.exists():
                time.sleep(0.1)
            return folder
        try:
            write(folder)
        finally:
            filled.touch()  # also after an error: the other workers find that files are missing
        return folder

    return fill


@pytest.fixture(scope="session")
def pictures(draw_pictures: Callable[[Path], Path], fill_once: Callable[..., Path]) -> Path:
    """The folder that `draw_pictures` writes; not to be changed."""
    return fill_once("pictures", draw_pictures)


@pytest.fixture(scope="session")
def small_heads() -> None:
    """Give all CAM networks small heads, from now on."""
    import small_heads  # type: ignore[import-not-found]  # noqa: F401  # not above: many tests do without torch


@pytest.fixture(scope="session")
def cam_settings(small_heads: None) -> Callable[..., TrainCam]:
    """Settings for a ViT of two blocks and four steps on the pictures, all losses on from the second step."""

    def settings(**changes: Any) -> TrainCam:
        defaults: dict[str, Any] = {
            "backbone": "vit_tiny_patch16_224",
            "backbone_option": ("patch_size=8", "embed_dim=32", "depth=2", "num_heads=2"),
            "auxiliary_block": -2,
            "weights": "none",
            "iterations": 4,
            "batch_size": 2,
            "image_size": 32,
            "seg_start": 0.25,
            "log_every": 1,
            "checkpoint_every": 2,
            "evaluate_every": 2,
            "evaluate_images": 3,
            "panel_every": 0,  # a panel takes as long as all the steps
            "device": "cpu",
            "workers": 0,
        }
        return TrainCam(**{**defaults, **changes})

    return settings


@pytest.fixture(scope="session")
def trained_run(
    pictures: Path, cam_settings: Callable[..., TrainCam], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder in which `toco train-cam` finished, undisturbed; not to be changed."""
    from stages.train_cam import train_cam  # not above: other tests start sooner without it

    run = tmp_path_factory.mktemp("trained") / "run"
    train_cam(pictures, run, cam_settings(), SilentMonitor())
    return run


@pytest.fixture
def cam_run(trained_run: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own that holds the trained CAM network."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "cam").symlink_to(trained_run / "cam")
    return run


@pytest.fixture(scope="session")
def seg_settings() -> Callable[..., TrainSeg]:
    """Settings for a small student and two steps on the pictures."""

    def settings(**changes: Any) -> TrainSeg:
        defaults: dict[str, Any] = {
            "arch": "Linknet",
            "encoder": "tu-mobilenetv3_small_050",
            "weights": "none",
            "image_size": 32,
            "iterations": 2,
            "batch_size": 2,
            "evaluate_images": 2,
            "panel_every": 0,
            "device": "cpu",
            "workers": 0,
        }
        return TrainSeg(**{**defaults, **changes})

    return settings


@pytest.fixture(scope="session")
def whole_run(
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    fill_once: Callable[..., Path],
) -> Path:
    """A run folder in which `toco run` finished, with panels; not to be changed."""

    def write(out: Path) -> None:
        from stages.run import run

        labels = MakeLabels(relabel="none", refine="crf", device="cpu", workers=1)
        cam, seg = cam_settings(panel_every=None), seg_settings(panel_every=None)
        run(pictures, out, Run(device="cpu"), SilentMonitor(), cam=cam, labels=labels, seg=seg)

    return fill_once("run", write)
