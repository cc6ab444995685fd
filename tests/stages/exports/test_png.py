from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from data.errors import ArtifactError
from data.palette import colour_map
from stages.export import export
from stages.runtime.monitor import SilentMonitor


def test_export_png__files_hold_the_stored_masks(export_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "png"
    files = export(export_run.run, out, SilentMonitor(), format="png")
    assert sorted(files) == sorted(out / f"{image_id}.png" for image_id in export_run.masks)
    for image_id, mask in export_run.masks.items():
        with Image.open(out / f"{image_id}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), mask)
            np.testing.assert_array_equal(np.array(image.convert("RGB")), colour_map()[mask])
    assert not list(out.rglob("*.partial"))


def test_export_png__needs_no_images(export_run: Any, tmp_path: Path) -> None:
    export_run.data.rename(tmp_path / "gone")
    assert len(export(export_run.run, tmp_path / "png", SilentMonitor())) == len(export_run.masks)


def test_export_png__an_id_that_leads_out_of_the_folder(export_run: Any, tmp_path: Path) -> None:
    with h5py.File(export_run.run / "labels" / "labels.h5", "a") as file:
        file["masks/../x"] = np.zeros((2, 2), np.uint8)
    with pytest.raises(ArtifactError, match=f"leads out of .*: run toco make-labels {export_run.run} --overwrite"):
        export(export_run.run, tmp_path / "png", SilentMonitor())
