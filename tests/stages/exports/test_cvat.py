from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data.errors import SettingsError
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
    # Pascal VOC's colours 1, 2, ...; Datumaro, which reads the files for CVAT, refuses all others.
    assert set(codes[mask > 0].tolist()) == set(
        [0x800000, 0x008000, 0x808000, 0x000080, 0x800080, 0x008080, 0x808080, 0x400000, 0xC00000][:parts]
    )


def test_export_cvat__more_objects_than_colours(make_export_run: Any, tmp_path: Path, listener: Any) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[::2, ::4] = 1  # 32 * 16 single pixels
    mask[::8, 2::4] = 3
    mask[1:4, 1:4] = 2
    run = make_export_run({"a": mask})
    monitor = listener()
    export(run.run, tmp_path / "out", monitor, format="cvat", instances="components")
    objects = np.asarray(Image.open(tmp_path / "out/SegmentationObject/a.png")).astype(int) @ (65536, 256, 1)
    pairs = set(zip(objects.ravel().tolist(), mask.ravel().tolist(), strict=True))
    assert len(pairs) == len({code for code, _ in pairs})  # each colour belongs to one class
    assert len(pairs) == 256 - 1  # the background and 252 + 2 colours: class 2 needs no shared one
    assert (objects == objects[2, 2]).sum() == 9  # the largest has its own
    assert monitor.notes[1] == (
        "images with more than 255 objects, the most that CVAT can tell apart: 1; there, the smallest ones of a class "
        "are one object"
    )


def test_export_cvat__refuses_names_that_differ_in_a_colon(make_export_run: Any, tmp_path: Path) -> None:
    run = make_export_run({"a": np.ones((9, 9), np.uint8)}, ("a:b", "c", "a_b"))
    with pytest.raises(SettingsError, match="two classes would both be 'a_b' in CVAT: use another format"):
        export(run.run, tmp_path / "out", SilentMonitor(), format="cvat")
