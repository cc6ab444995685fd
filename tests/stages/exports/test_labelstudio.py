import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from label_studio_converter.brush import decode_from_annotation, decode_rle

from stages.export import export
from stages.exports.labelstudio import brush_code
from stages.runtime.monitor import SilentMonitor


def test_export_labelstudio__label_studios_decoder_reads_the_stored_masks(export_run: Any, tmp_path: Path) -> None:
    tasks, _ = export(export_run.run, tmp_path / "out", SilentMonitor(), format="labelstudio")
    read = json.loads(tasks.read_text(encoding="utf-8"))
    assert len(read) == len(export_run.masks)
    for task in read:
        mask = export_run.masks[task["data"]["image_id"]]
        drawn = np.zeros_like(mask)
        (prediction,) = task["predictions"]
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == mask.shape
            # The converter expects the flat layout of an export from Label Studio.
            flat = {**region, **region["value"]}
            (pixels,) = decode_from_annotation("brush", [flat]).values()
            assert set(np.unique(pixels)) <= {0, 255}
            (name,) = region["value"]["brushlabels"]
            drawn[pixels > 0] = export_run.class_names.index(name) + 1
        np.testing.assert_array_equal(drawn, np.where(mask == 255, 0, mask))


def test_export_labelstudio__urls_point_to_the_images(export_run: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    tasks, _ = export(export_run.run, tmp_path / "out", monitor, format="labelstudio")
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        address = urlsplit(task["data"]["image"])
        assert address.path == "/data/local-files/"
        assert export_run.data / parse_qs(address.query)["d"][0] == export_run.files[task["data"]["image_id"]]
    assert monitor.notes == [f"the image URLs in the tasks are relative to {export_run.data.resolve()}"]


def test_export_labelstudio__interface(export_run: Any, tmp_path: Path) -> None:
    tasks, config = export(export_run.run, tmp_path / "out", SilentMonitor(), format="labelstudio")
    view = ElementTree.parse(config).getroot()
    (brush,) = view.iterfind("BrushLabels")
    (picture,) = view.iterfind("Image")
    assert tuple(label.attrib["value"] for label in brush) == export_run.class_names
    assert [label.attrib["background"] for label in brush] == ["#e69f00", "#56b4e9", "#009e73"]
    assert brush.attrib["toName"] == picture.attrib["name"]
    first = json.loads(tasks.read_text(encoding="utf-8"))[0]
    assert picture.attrib["value"].removeprefix("$") in first["data"]
    region = first["predictions"][0]["result"][0]
    assert (region["from_name"], region["to_name"]) == (brush.attrib["name"], picture.attrib["name"])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1), bool),
        np.ones((300, 200), bool),  # longer than the longest possible run
        np.ones((128, 128), bool),  # exactly the longest possible run
        np.eye(17, dtype=bool),
        np.random.default_rng(0).random((40, 33)) > 0.5,
        np.indices((200, 300))[1] < 150,
    ],
    ids=["pixel", "full", "longest", "diagonal", "noise", "half"],
)
def test_brush_code__decoded_is_the_region(pixels: Any) -> None:
    decoded = decode_rle(brush_code(pixels)).reshape(*pixels.shape, 4)
    np.testing.assert_array_equal(decoded, np.repeat(pixels[..., None], 4, axis=2) * 255)
