import gc
import subprocess
import sys
from pathlib import Path

import pytest

from stages.runtime import quick_imports as module
from stages.runtime.quick_imports import begin_command, quick_imports


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the collector was enabled, at each `gc.freeze`; in a process that has not imported timm."""
    found: list[bool] = []
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(gc, "freeze", lambda: found.append(gc.isenabled()))
    monkeypatch.setattr(module, "_in_command", False)
    return found


def test_quick_imports__pause_the_collector(frozen: list[bool]) -> None:
    begin_command()
    with quick_imports():
        assert not gc.isenabled()
        with quick_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen == [False]


def test_quick_imports__end_the_pause_after_an_error(frozen: list[bool]) -> None:
    begin_command()
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()


def test_quick_imports__change_nothing_in_a_notebook(frozen: list[bool]) -> None:
    with quick_imports():
        assert gc.isenabled()
    assert frozen == []


def test_quick_imports__change_nothing_if_timm_is_imported(frozen: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    begin_command()
    monkeypatch.setitem(sys.modules, "timm", module)
    with quick_imports():
        assert gc.isenabled()
    assert frozen == []


FIRST_STEP = """
import gc, sys
from toco_cli.main import main
from toco_cli.progress import RichMonitor
def start(self, title, total, done=0, unit="images"):
    heavy = {"torch._dynamo", "sympy", "triton", "jinja2", "matplotlib", "scipy", "transformers"} & set(sys.modules)
    sys.exit(f"{title}: {sorted(heavy)}, {gc.isenabled()}, {gc.get_freeze_count() > 100_000}")
RichMonitor.start = start
main(sys.argv[1:])
"""


@pytest.mark.slow  # a new process imports torch
def test_train_cam__has_imported_only_what_the_first_step_needs(pictures: Path, tmp_path: Path) -> None:
    options = (
        "--recipe voc --backbone vit_tiny_patch16_224 --backbone-option patch_size=8 --backbone-option embed_dim=32 "
        "--backbone-option depth=2 --backbone-option num_heads=2 --auxiliary-block -2 --weights none --iterations 1 "
        "--image-size 32 --batch-size 2 --device cpu --workers 0"
    )
    words = [sys.executable, "-c", FIRST_STEP, "train-cam", str(pictures), "--out", str(tmp_path), *options.split()]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "training the CAM network: [], True, True"
