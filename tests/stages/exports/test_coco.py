import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from data.readers import open_dataset, read_mask
from stages.export import export
from stages.exports.components import components
from stages.runtime.monitor import SilentMonitor

# pycocotools 2.0.11 does not yet support the `copy` argument of numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_export_coco__pycocotools_reads_the_stored_masks(export_run: Any, tmp_path: Path) -> None:
    (file,) = export(
        export_run.run, tmp_path / "out", SilentMonitor(), format="coco", min_area=1, instances="components"
    )
    assert file == tmp_path / "out/annotations/instances_train.json"
    coco: Any = read(file)
    assert [category["name"] for category in coco.loadCats([1, 2, 3])] == list(export_run.class_names)
    by_name = {image["file_name"]: image for image in coco.imgs.values()}
    assert len(by_name) == len(export_run.masks)
    for image_id, mask in export_run.masks.items():
        image = by_name[str(export_run.files[image_id].relative_to(export_run.data / "images"))]
        drawn = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[image["id"]]:
            pixels = coco.annToMask(annotation)
            assert not drawn[pixels == 1].any(), "instances overlap"
            drawn[pixels == 1] = annotation["category_id"]
            rows, columns = np.nonzero(pixels)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["area"] == pixels.sum()
            assert annotation["iscrowd"] == 0
        np.testing.assert_array_equal(drawn, np.where(mask == 255, 0, mask))
        assert len(coco.imgToAnns[image["id"]]) == len(list(components(mask)))


def test_export_coco__run_lengths_equal_those_of_pycocotools(export_run: Any, tmp_path: Path) -> None:
    (file,) = export(export_run.run, tmp_path / "out", SilentMonitor(), format="coco", min_area=1)
    coco: Any = read(file)
    for annotation in coco.anns.values():
        code: Any = run_lengths.encode(np.asfortranarray(coco.annToMask(annotation)))
        assert annotation["segmentation"]["counts"] == code["counts"].decode()


def test_export_coco__ids_are_unique(export_run: Any, tmp_path: Path) -> None:
    (file,) = export(export_run.run, tmp_path / "out", SilentMonitor(), format="coco", min_area=1)
    content = json.loads(file.read_text(encoding="utf-8"))
    for section in ("images", "annotations"):
        numbers = [entry["id"] for entry in content[section]]
        assert numbers == list(range(1, len(numbers) + 1))


def test_export_coco__notes_the_image_folder(export_run: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    export(export_run.run, tmp_path / "out", monitor, format="coco", min_area=1)
    assert monitor.notes[1:] == [f"file_name is relative to the image folder {(export_run.data / 'images').resolve()}"]


def test_export_coco__toco_reads_it(export_run: Any, tmp_path: Path) -> None:
    export(export_run.run, tmp_path / "out", SilentMonitor(), format="coco", min_area=1)
    (tmp_path / "out/images").symlink_to(export_run.data / "images")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.layout == "coco"
    assert dataset.class_names == export_run.class_names
    samples = dataset.split("train")
    assert {sample.id for sample in samples} == export_run.masks.keys() - {"empty", "ignored"}
    for sample in samples:
        mask = export_run.masks[sample.id]
        np.testing.assert_array_equal(read_mask(sample, mask.shape, 3), np.where(mask == 255, 0, mask))
