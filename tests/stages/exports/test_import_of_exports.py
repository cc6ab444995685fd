"""What toco exports for labelling tools comes back as it was, whatever the names of images and classes are."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.readers import open_dataset
from stages.corrections.correction_file import CorrectionFile
from stages.export import export
from stages.import_masks import import_masks
from stages.runtime.monitor import SilentMonitor

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def exported(export_run: Any, make_export_run: Callable[..., Any]) -> Any:
    """Without the masks that say nothing of the image's labels, which an import refuses."""
    shutil.rmtree(export_run.run)
    shutil.rmtree(export_run.data)
    return make_export_run(
        {key: one for key, one in export_run.masks.items() if key not in ("empty", "ignored")},
        ("dent", "Kratzer: 1 & 2", "錆"),  # CVAT's labelmap.txt cannot hold a ':'
    )


def annotated(tasks: Path) -> Path:
    """Label Studio's export after all predictions were submitted without a change."""
    content = json.loads(tasks.read_text(encoding="utf-8"))
    for number, task in enumerate(content):
        (prediction,) = task.pop("predictions")
        task["id"] = number + 1
        task["annotations"] = [{"id": 1, "completed_by": 7, "result": prediction["result"], "was_cancelled": False}]
    tasks.write_text(json.dumps(content), encoding="utf-8")
    return tasks


def zipped(folder: Path) -> Path:
    path = folder.parent / "export.zip"
    with zipfile.ZipFile(path, "w") as file:
        for one in folder.rglob("*"):
            if one.is_file():
                file.write(one, one.relative_to(folder))
    return path


@pytest.mark.parametrize(
    ("format", "as_the_tool_exports"),
    [
        ("labelstudio", lambda out: annotated(out / "tasks.json")),
        ("cvat", lambda out: out),
        ("cvat", zipped),
        ("coco", lambda out: next(out.rglob("*.json"))),
        ("png", lambda out: out),
    ],
)
def test_import_masks__exports_come_back(
    format: str, as_the_tool_exports: Callable[[Path], Path], exported: Any, tmp_path: Path
) -> None:
    smallest = 1 if format == "coco" else None  # as the other formats, which keep specks
    export(exported.run, tmp_path / "out", SilentMonitor(), format=format, min_area=smallest)
    path = as_the_tool_exports(tmp_path / "out")
    done = import_masks(exported.run, path, SilentMonitor(), tool=format, allow_new_labels=True, confirm_unchanged=True)
    assert (done.masks, done.replaced, done.left_out) == (len(exported.masks), 0, 0)
    corrections = CorrectionFile(exported.run, exported.class_names)
    for image_id, mask in exported.masks.items():
        expected = mask if format == "png" else np.where(mask == 255, 0, mask)
        np.testing.assert_array_equal(corrections.mask(image_id).read(), expected)
        np.testing.assert_array_equal(corrections.before(image_id), mask)
    assert corrections.provenance("deep/d").tool == format
    assert open_dataset(exported.data)  # and nothing was written there
