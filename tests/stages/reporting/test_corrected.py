import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.readers import open_dataset
from stages.config import Machine, Report
from stages.corrections.correction_file import Correction, CorrectionFile
from stages.labels.store import LabelFile
from stages.report import report
from stages.reporting.corrected import corrected_masks
from stages.reporting.products import open_products
from stages.runtime.monitor import SilentMonitor


@pytest.fixture
def own_run(whole_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_run, tmp_path / "run")
    return tmp_path / "run"


def test_report__shows_masks_before_and_after_their_correction(
    own_run: Path, pictures: Path, correct: Callable[..., CorrectionFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.report._charts", lambda *_: {})
    dataset = open_dataset(pictures)
    products = open_products(own_run, dataset, Machine(device="cpu"), SilentMonitor())
    assert corrected_masks(products, SilentMonitor(), skip_bad=False) is None
    corrections = correct(own_run, {"a": np.ones((64, 48), np.uint8), "gone": np.ones((4, 4), np.uint8)})
    before = LabelFile(own_run / "labels/labels.h5", "masks").read("c")
    corrections.add([Correction(id="c", mask=before, before=before, provenance=corrections.provenance("a"))])
    found = corrected_masks(products, SilentMonitor(), skip_bad=False)
    assert found is not None
    assert (found.count, [one.name for one in found.entries]) == (2, ["a", "c"])
    assert [*found.entries[0].pictures] == ["image", "corrected", "student now"]
    shown = found.entries[1].pictures
    assert [*shown] == ["image", "pseudo mask before", "corrected", "student now"]
    assert shown["pseudo mask before"] == shown["corrected"] != shown["image"]
    path = own_run / "labels/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "given_masks": {"ids": ["a", "b", "c", "deep/e"]}}))
    page = report(own_run, Report(device="cpu", gallery=9), SilentMonitor()).read_text()
    assert "2 training images have a corrected mask." in page
    assert 'alt="pseudo mask before of c"' in page
    assert 'aria-label="deep/f"' in page  # the gallery
    assert 'aria-label="deep/e"' not in page  # a person drew its mask
