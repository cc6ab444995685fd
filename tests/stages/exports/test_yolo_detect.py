from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import supervision as sv
import yaml

from stages.export import export
from stages.exports.components import Component, components
from stages.exports.yolo_detect import box_line
from stages.runtime.monitor import SilentMonitor


def test_export_yolo_detect__supervision_reads_the_boxes(export_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export(export_run.run, out, SilentMonitor(), format="yolo-detect", min_area=1, instances="components")
    assert len(files) == 2 * len(export_run.masks) + 1
    read = sv.DetectionDataset.from_yolo(
        images_directory_path=str(out / "images/train"),
        annotations_directory_path=str(out / "labels/train"),
        data_yaml_path=str(out / "data.yaml"),
    )
    assert read.classes == list(export_run.class_names)
    assert {unquote(Path(path).stem) for path in read.image_paths} == export_run.masks.keys()
    for path, detections in read.annotations.items():
        expected = [
            [one.class_number - 1, one.left, one.top, one.left + one.pixels.shape[1], one.top + one.pixels.shape[0]]
            for one in components(export_run.masks[unquote(Path(path).stem)])
        ]
        assert detections.class_id is not None
        found = [[number, *box] for number, box in zip(detections.class_id, detections.xyxy.tolist(), strict=True)]
        assert len(found) == len(expected)
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=0.01)


def test_export_yolo_detect__files(export_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(export_run.run, out, SilentMonitor(), format="yolo-detect", min_area=1)
    assert (out / "labels/train/empty.txt").read_text() == ""
    content = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(export_run.class_names))
    assert (out / content["train"]).is_dir()


def test_export_yolo_detect__labels_of_an_earlier_export_are_named(
    export_run: Any, tmp_path: Path, listener: Any
) -> None:
    out = tmp_path / "out"
    export(export_run.run, out, monitor := listener(), format="yolo-detect")
    (out / "labels/train/old.txt").write_text("0 0.5 0.5 1 1\n")
    export(export_run.run, out, monitor, format="yolo-detect", overwrite=True)
    (text,) = monitor.warnings
    assert text.startswith(f"1 label file is of an earlier export (first {out / 'labels/train/old.txt'}), and training")


def test_box_line__from_edge_to_edge() -> None:
    region = Component(3, top=10, left=20, pixels=np.ones((5, 10), bool))
    assert box_line(region, (50, 100)) == "2 0.250000 0.250000 0.100000 0.100000"
    whole = Component(1, top=0, left=0, pixels=np.ones((7, 3), bool))
    assert box_line(whole, (7, 3)) == "0 0.500000 0.500000 1.000000 1.000000"
