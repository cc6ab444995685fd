from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation

from data.images import read_image
from data.palette import colour_map
from data.readers import open_dataset, read_mask
from data.written_folders import MARK
from stages.export import export
from stages.exports.flat_names import flat_name
from stages.runtime.monitor import SilentMonitor


@pytest.fixture
def tree(export_run: Any, tmp_path: Path) -> Path:
    export(export_run.run, tmp_path / "out", SilentMonitor(), format="voc", min_area=1)
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(tmp_path / "out")  # where torchvision expects it
    return tmp_path


def test_export_voc__torchvision_reads_the_stored_masks(export_run: Any, tree: Path) -> None:
    read = VOCSegmentation(str(tree), image_set="train")
    assert len(read) == len(export_run.masks)
    for index, (image, mask) in enumerate(read):
        image_id = unquote(Path(read.masks[index]).stem)
        np.testing.assert_array_equal(np.array(mask), export_run.masks[image_id])
        np.testing.assert_array_equal(np.array(mask.convert("RGB")), colour_map()[export_run.masks[image_id]])
        assert image.size == mask.size


def test_export_voc__label_map_names_every_colour(export_run: Any, tree: Path) -> None:
    lines = (tree / "out/labelmap.txt").read_text(encoding="utf-8").splitlines()
    names = {}
    for name, colour, *others in (line.split(":") for line in lines if not line.startswith("#")):
        assert others == ["", ""]  # Datumaro asks for four fields
        names[tuple(map(int, colour.split(",")))] = name
    expected = {0: "background", 255: "ignored", **dict(enumerate(export_run.class_names, start=1))}
    for image_id, mask in export_run.masks.items():
        with Image.open(tree / f"out/SegmentationClass/{flat_name(image_id)}.png") as image:
            colours = np.array(image.convert("RGB"))
        for number in np.unique(mask):
            assert {names[tuple(pixel)] for pixel in colours[mask == number].tolist()} == {expected[number]}


def test_export_voc__boxes_count_from_one(export_run: Any, tree: Path) -> None:
    (tree / "out/ImageSets/Main").symlink_to(tree / "out/ImageSets/Segmentation")
    read = VOCDetection(str(tree), image_set="train")
    found = {unquote(annotation["annotation"]["filename"][:-4]): annotation["annotation"] for _, annotation in read}
    assert found.keys() == export_run.masks.keys()
    boxes = [tuple(map(int, one["bndbox"].values())) for one in found["deep/d"]["object"] if one["name"] == "dent"]
    assert boxes == [(1, 1, 30, 20), (74, 57, 81, 64)]
    assert found["deep/d"]["size"] == {"width": "81", "height": "64", "depth": "3"}
    for image_id in ("empty", "ignored"):
        assert found[image_id].get("object", []) == []
    for image_id, mask in export_run.masks.items():
        names = {one["name"] for one in found[image_id].get("object", [])}
        assert names == {export_run.class_names[number - 1] for number in set(np.unique(mask)) - {0, 255}}


def test_export_voc__images(export_run: Any, tree: Path) -> None:
    for image_id, name in (("a", "a"), ("deep/d", "deep%2Fd")):
        assert (tree / f"out/JPEGImages/{name}.jpg").read_bytes() == export_run.files[image_id].read_bytes()
    with Image.open(tree / "out/JPEGImages/deep%2Fer%2Fmy%20photo%2Ev2.jpg") as image:
        assert image.format == "JPEG"
        original = np.array(read_image(export_run.files["deep/er/my photo.v2"]), int)
        assert abs(np.array(image) - original).mean() < 5  # noise is the worst case for JPEG


def test_export_voc__a_rotated_jpeg_is_turned_upright(make_export_run: Any, tmp_path: Path) -> None:
    mask = np.zeros((40, 24), np.uint8)
    mask[:10] = 1
    made = make_export_run({"a": mask})
    upright = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8  # to be rotated by 90 degrees counter-clockwise
    upright.transpose(Image.Transpose.ROTATE_270).save(made.files["a"], exif=exif)
    assert read_image(made.files["a"]).size == (24, 40)
    export(made.run, tmp_path / "out", SilentMonitor(), format="voc", min_area=1)
    with Image.open(tmp_path / "out/JPEGImages/a.jpg") as image:
        assert not image.getexif()
        bright = np.array(image.convert("L")) > 128
    assert ((mask > 0) == bright).mean() > 0.97


def test_export_voc__files(export_run: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    files = export(export_run.run, tmp_path / "out", monitor, format="voc", min_area=1)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != MARK]
    assert sorted(files) == sorted(written)
    assert (tmp_path / "out/classes.txt").read_text(encoding="utf-8").splitlines() == list(export_run.class_names)
    ElementTree.parse(tmp_path / "out/Annotations/a.xml")
    assert monitor.notes[:1] == ["converted to JPEG (quality 95), as the format requires: 5 of 7 images"]


def test_export_voc__toco_reads_it(export_run: Any, tmp_path: Path) -> None:
    export(export_run.run, tmp_path / "out", SilentMonitor(), format="voc", min_area=1)
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.layout, dataset.class_names) == ("voc", export_run.class_names)
    samples = dataset.split("train")
    assert [unquote(sample.id) for sample in samples] == sorted(export_run.masks)
    for sample in samples:
        mask = export_run.masks[unquote(sample.id)]
        np.testing.assert_array_equal(read_mask(sample, mask.shape, 3), mask)
        assert sample.image.is_file()
        assert set(sample.classes) == set(np.unique(mask).tolist()) - {0, 255}
