from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.export import export
from stages.monitor import SilentMonitor
from stages.palette import COLOURS, overlay, palette_image
from stages.whole_files import ArtifactError


def test_export__pictures_hold_the_stored_masks(labelled_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "png"
    files = export(labelled_run.run, out, SilentMonitor())
    assert sorted(files) == sorted(out / f"{image_id}.png" for image_id in labelled_run.masks)
    assert out / "deep" / "d.png" in files
    for image_id, mask in labelled_run.masks.items():
        with Image.open(out / f"{image_id}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), mask)
            np.testing.assert_array_equal(np.array(image.convert("RGB")), COLOURS[mask])
    assert not list(out.rglob("*.partial"))


def test_export__refuses_a_folder_in_use(labelled_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "png"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "a.png").write_text("old")
    with pytest.raises(ValueError, match="is not empty: give another folder, or --overwrite"):
        export(labelled_run.run, out, SilentMonitor())
    assert (out / "a.png").read_text() == "old"
    export(labelled_run.run, out, SilentMonitor(), overwrite=True)
    with Image.open(out / "a.png") as image:
        np.testing.assert_array_equal(np.array(image), labelled_run.masks["a"])
    assert (out / "mine.txt").read_text() == "keep"


def test_export__other_format(labelled_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'gif' is not known: choose one of png"):
        export(labelled_run.run, tmp_path / "out", SilentMonitor(), format="gif")


def test_export__labels_not_made(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="run 'toco make-labels' first"):
        export(tmp_path / "run", tmp_path / "out", SilentMonitor())
    assert not (tmp_path / "out").exists()


def test_colours__are_those_of_the_voc() -> None:
    # From the colour map that comes with the VOC development kit.
    assert COLOURS[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == 256


def test_palette_image__keeps_all_numbers(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette_image(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.array(image), mask)


def test_overlay__colours_objects_and_leaves_background() -> None:
    image = Image.new("RGB", (2, 1), (100, 100, 100))
    result = np.array(overlay(image, np.array([[0, 1]], np.uint8), strength=0.5))
    assert result.tolist() == [[[100, 100, 100], [114, 50, 50]]]
