from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from stages.export import export
from stages.runtime.monitor import SilentMonitor


def test_export_cvat__published_layout(export_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(export_run.run, out, SilentMonitor(), format="cvat")
    lines = (out / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# label:color_rgb:parts:actions"
    assert [line.split(":")[0] for line in lines[1:]] == ["background", *export_run.class_names]
    assert all(line.endswith("::") for line in lines[1:])
    colours = [tuple(map(int, line.split(":")[1].split(","))) for line in lines[1:]]
    listed = (out / "ImageSets/Segmentation/default.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(listed) == sorted(export_run.masks)
    for image_id, mask in export_run.masks.items():
        picture = np.asarray(Image.open(out / "SegmentationClass" / f"{image_id}.png"))
        drawn = np.array(colours)[np.where(mask == 255, 0, mask)]
        np.testing.assert_array_equal(picture, drawn)


def test_export_cvat__objects_have_colours_of_their_own(export_run: Any, tmp_path: Path) -> None:
    export(export_run.run, tmp_path / "out", SilentMonitor(), format="cvat")
    objects = np.asarray(Image.open(tmp_path / "out/SegmentationObject/deep/d.png")).astype(int)
    codes = objects @ (65536, 256, 1)
    mask = export_run.masks["deep/d"]
    parts = sum(ndimage.label(mask == number, structure=np.ones((3, 3)))[1] for number in (1, 2, 3))
    assert len(set(codes[mask > 0].tolist())) == parts
    assert set(codes[mask == 0].tolist()) == {0}
