from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import supervision as sv
import yaml
from numpy.typing import NDArray
from scipy import ndimage
from supervision.dataset.utils import approximate_mask_with_polygons

from data.written_folders import MARK
from stages.export import export
from stages.exports.components import components
from stages.exports.yolo import outlines, region_polygons
from stages.runtime.monitor import SilentMonitor


def is_thin(pixels: NDArray[np.bool_]) -> bool:
    """Whether a component is a single pixel or a straight line one pixel wide, with fewer than three corners."""
    return 1 in pixels.shape or any(np.array_equal(way, np.eye(*pixels.shape)) for way in (pixels, pixels[::-1]))


def shown(mask: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
    """The pixels of a class that polygons can describe."""
    result = np.zeros(mask.shape, bool)
    for one in components(mask):
        if one.class_number == number and not is_thin(one.pixels):
            result[one.top :, one.left :][: one.pixels.shape[0], : one.pixels.shape[1]] |= one.pixels
    return result


def fill(polygons: list[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    drawn = np.zeros(shape, np.uint8)
    for points in polygons:
        cv2.fillPoly(drawn, [points.astype(np.int32)], 1)  # astype truncates
    return drawn > 0


def test_export_yolo__supervision_reads_the_masks(export_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(export_run.run, out, SilentMonitor(), format="yolo", min_area=1, instances="components")
    read = sv.DetectionDataset.from_yolo(
        images_directory_path=str(out / "images/train"),
        annotations_directory_path=str(out / "labels/train"),
        data_yaml_path=str(out / "data.yaml"),
        force_masks=True,
    )
    assert read.classes == list(export_run.class_names)
    assert {unquote(Path(path).stem) for path in read.image_paths} == export_run.masks.keys()
    for path, detections in read.annotations.items():
        mask = export_run.masks[unquote(Path(path).stem)]
        for number in range(1, 4):
            found = np.zeros(mask.shape, bool)
            if detections.mask is not None:
                found = np.asarray(detections.mask)[detections.class_id == number - 1].any(axis=0)
            np.testing.assert_array_equal(found, shown(mask, number))


def test_region_polygons__cover_nearly_the_same_pixels(export_run: Any) -> None:
    for image_id in ("a", "deep/er/my photo.v2"):
        mask = export_run.masks[image_id]
        polygons = region_polygons(components(mask)).drawn
        for number in (1, 2):
            if (expected := mask == number).sum() > 10:
                found = fill([polygon.points for polygon in polygons if polygon.class_number == number], mask.shape)
                assert (found & expected).sum() / (found | expected).sum() >= 0.97


def test_export_yolo__readers_that_truncate_get_the_same_pixels(export_run: Any, tmp_path: Path) -> None:
    export(export_run.run, tmp_path / "out", SilentMonitor(), format="yolo", min_area=1, instances="components")
    for image_id in ("a", "deep/d", "deep_d"):
        mask = export_run.masks[image_id]
        drawn: dict[int, list[NDArray[Any]]] = {1: [], 2: [], 3: []}
        text = (tmp_path / f"out/labels/train/{image_id.replace('/', '%2F')}.txt").read_text()
        for line in text.splitlines():
            first, *values = line.split()
            points = np.array(values, float).reshape(-1, 2)
            assert points.min() >= 0
            assert points.max() <= 1
            drawn[int(first) + 1].append(points * mask.shape[::-1])
        for number, polygons in drawn.items():
            np.testing.assert_array_equal(fill(polygons, mask.shape), shown(mask, number))


def test_export_yolo__files(export_run: Any, tmp_path: Path, listener: Any) -> None:
    out = tmp_path / "out"
    monitor = listener()
    files = export(export_run.run, out, monitor, format="yolo", min_area=1, instances="components")
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file() and path.name != MARK)
    for image_id in ("empty", "ignored"):
        assert (out / f"labels/train/{image_id}.txt").read_text() == ""
    assert (out / "images/train/deep%2Fd.JPG").read_bytes() == export_run.files["deep/d"].read_bytes()
    content = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(export_run.class_names))
    assert (out / content["train"]).is_dir()
    lost = sum(region_polygons(components(mask)).lost for mask in export_run.masks.values())
    assert lost >= 3  # a single pixel, a pair and a line in `specks`
    assert monitor.notes[1:] == [
        f"specks and thin lines left out, because a polygon needs at least three corners: {lost}"
    ]


def test_region_polygons__specks_and_straight_lines_are_counted() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[0, 0] = 1
    mask[4, 2:7] = 2
    mask[6:8, 6:8] = 2
    drawn, lost = region_polygons(components(mask))
    assert lost == 2
    assert [polygon.class_number for polygon in drawn] == [2]
    np.testing.assert_array_equal(fill([drawn[0].points], mask.shape), (np.indices((9, 9)) // 2 == 3).all(axis=0))


def test_region_polygons__an_ignored_mask_has_none() -> None:
    assert region_polygons(components(np.full((9, 9), 255, np.uint8))) == ([], 0)


@pytest.mark.parametrize("seed", range(40))
def test_region_polygons__filled_polygons_equal_the_mask(seed: int) -> None:
    draws = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(draws.random((60, 60)), draws.uniform(0.3, 3))
    mask = (values > np.quantile(values, draws.uniform(0.1, 0.9))).astype(np.uint8)
    drawn, lost = region_polygons(components(mask))
    found, expected = fill([polygon.points for polygon in drawn], mask.shape), shown(mask, 1)
    assert not (found & ~expected).any()
    thin = sum(is_thin(one.pixels) for one in components(mask))
    assert lost >= thin
    assert (expected & ~found).sum() <= (
        0 if lost == thin else 0.01 * expected.sum()
    )  # a component that was cut in two


WITHOUT_SEAM = """
###########
..##.##..#.
##...#.#.##
##.#.##..#.
#..##...#.#
###.#...#.#
##.##.####.
...##.####.
....#.#####
....###.#..
......#.###
"""


def test_outlines__cuts_a_component_in_two_if_no_seam_reaches_a_hole() -> None:
    pixels = np.array([[character == "#" for character in line] for line in WITHOUT_SEAM.split()])
    with pytest.raises(ValueError, match="No foreground-contained seam"):
        approximate_mask_with_polygons(pixels, bridge_holes=True)
    polygons = [points for points in outlines(pixels) if len(points)]
    assert len(polygons) > 1
    found = fill(polygons, pixels.shape)
    assert not (found & ~pixels).any()
    assert found.sum() >= pixels.sum() - 3  # a piece may have fewer than three corners
