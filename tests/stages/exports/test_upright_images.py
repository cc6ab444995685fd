"""Photographs that EXIF rotates, in every format that has to do with the image files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images import read_image
from stages.export import export

SIZE = (60, 40)  # (h, w) upright


@pytest.fixture
def rotated(make_export_run: Any) -> Any:
    """A JPEG and a PNG that are stored rotated by 90 degrees, one by 180 degrees, and an upright one."""
    made = make_export_run({name: np.ones(SIZE, np.uint8) for name in ("a", "b", "deep/d", "upright")})
    turns = {"a": (6, Image.Transpose.ROTATE_90), "b": (8, Image.Transpose.ROTATE_270)}
    for name, (code, turn) in {**turns, "deep/d": (3, Image.Transpose.ROTATE_180)}.items():
        exif = Image.Exif()
        exif[0x0112] = code
        upright = Image.new("RGB", SIZE[::-1], "white")
        upright.paste("red", (0, 0, 40, 20))  # the upper third
        upright.transpose(turn).save(made.files[name], exif=exif)
    return made


@pytest.mark.parametrize(
    ("format", "words"),
    [("coco", "Detectron2 and OpenCV load them; with torchvision or Pillow"), ("labelstudio", "so browsers show them")],
)
def test_export__says_how_many_images_are_rotated(
    format: str, words: str, rotated: Any, tmp_path: Path, listener: Any
) -> None:
    monitor = listener()
    export(rotated.run, tmp_path / "out", monitor, format=format)
    changed, warning = monitor.warnings
    assert "has changed" in changed  # `rotated` writes other images than those of the run
    assert warning.startswith("EXIF rotates 3 of 4 images")
    assert words in warning


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_export__copies_are_upright_without_exif(format: str, rotated: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    files = export(rotated.run, tmp_path / "out", monitor, format=format)
    copies = {path.stem: path for path in files if path.parts[-2] == "JPEGImages" or "images" in path.parts}
    assert sorted(copies) == ["a", "b", "deep%2Fd", "upright"]
    for name, path in copies.items():
        with Image.open(path) as image:
            assert (image.size, dict(image.getexif())) == (SIZE[::-1], {})  # as loaders without EXIF see it
        if name != "upright":
            pixels = np.asarray(read_image(path), int)
            np.testing.assert_allclose(pixels[[5, 40], 20], [(255, 0, 0), (255, 255, 255)], atol=12)
    if format == "yolo":
        assert any("3 of 4 images" in note for note in monitor.notes)
        assert copies["upright"].read_bytes() == rotated.files["upright"].read_bytes()


@pytest.mark.parametrize("format", ["coco", "labelstudio", "yolo"])
def test_export__upright_images_need_no_word(format: str, export_run: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    export(export_run.run, tmp_path / "out", monitor, format=format)
    assert not monitor.warnings
    assert not any("EXIF" in note for note in monitor.notes)
