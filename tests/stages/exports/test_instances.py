"""Touching objects: cut where there is evidence, and nowhere else."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.errors import SettingsError
from stages.export import FORMATS, export
from stages.exports.components import components
from stages.exports.instances import cut_at_saddles, separate
from stages.exports.labelled_images import Separation
from stages.runtime.monitor import SilentMonitor

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROWS, COLUMNS = np.ogrid[:80, :120]


def disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    pixels: NDArray[np.bool_] = (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2
    return pixels


def box(top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
    pixels = np.zeros((80, 120), bool)
    pixels[top:bottom, left:right] = True
    return pixels


def road() -> NDArray[np.bool_]:
    """A long band whose width varies between 6 and 12 pixels."""
    half = 4.5 + 1.5 * np.sin(np.arange(120) / 9)
    pixels: NDArray[np.bool_] = np.abs(ROWS - 40) <= half
    return pixels


def ragged() -> NDArray[np.bool_]:
    """A disc whose border was drawn by a classifier."""
    noise = np.random.default_rng(0).normal(size=(80, 120))
    return (noise < 1.2) & disc(40, 60, 25) | disc(40, 60, 22)


def parts(pixels: NDArray[np.bool_], separation: Separation, cam: NDArray[Any] | None = None) -> int:
    return sum(len(separate(one, separation, cam)) for one in components(pixels.astype(np.uint8)))


@pytest.mark.parametrize(
    ("pixels", "count"),
    [
        pytest.param(disc(40, 40, 18) | disc(40, 72, 18), 2, id="two"),
        pytest.param(disc(30, 30, 12) | disc(30, 53, 12) | disc(50, 41, 12), 3, id="three"),
        pytest.param(disc(40, 30, 20) | disc(40, 62, 15), 2, id="unequal"),
        pytest.param(disc(40, 40, 18) | disc(40, 50, 18), 1, id="hardly a neck"),
        pytest.param(box(20, 60, 20, 50), 1, id="box"),
        pytest.param(box(20, 60, 20, 50) | box(35, 45, 50, 90), 1, id="handle"),
        pytest.param(box(10, 70, 10, 30) | box(50, 70, 10, 90), 1, id="L"),
        pytest.param(disc(40, 40, 25) & ~disc(40, 50, 14), 1, id="crescent"),
        pytest.param(road(), 1, id="road"),
        pytest.param(ragged(), 1, id="ragged"),
        pytest.param(box(40, 42, 5, 60) | box(40, 43, 60, 115), 1, id="scratch"),
        pytest.param(disc(40, 40, 2) | disc(40, 44, 2), 1, id="a few pixels"),
    ],
)
def test_separate__by_distance(pixels: NDArray[np.bool_], count: int) -> None:
    assert parts(pixels, "distance") == count
    assert parts(pixels, "components") == 1


def bumps(*places: tuple[int, float]) -> NDArray[np.float32]:
    """A CAM with a peak at each (column, height)."""
    heights = [height * np.exp(-((COLUMNS - column) ** 2 + (ROWS - 40) ** 2) / 200) for column, height in places]
    highest: NDArray[np.float32] = np.max(heights, axis=0).astype(np.float32)
    return highest


@pytest.mark.parametrize(
    ("cam", "count"),
    [
        (bumps((30, 1.0), (70, 0.9)), 2),
        (bumps((30, 1.0), (45, 0.9)), 1),  # the saddle is as high as the lower peak, nearly
        (bumps((50, 1.0)), 1),
        (np.ones((80, 120), np.float32), 1),
        (np.zeros((80, 120), np.float32), 1),
        (None, 1),
    ],
)
def test_separate__by_cam(cam: NDArray[np.float32] | None, count: int) -> None:
    assert parts(box(30, 50, 20, 80), "cam", cam) == count


def test_separate__parts_cover_the_component_without_overlap() -> None:
    mask = (disc(30, 30, 12) | disc(30, 50, 12) | disc(47, 40, 12)).astype(np.uint8)
    (whole,) = components(mask)
    drawn = np.zeros(mask.shape, int)
    for one in separate(whole, "distance"):
        assert one.pixels.any(axis=0).all()  # cropped to its box
        assert one.pixels.any(axis=1).all()
        drawn[one.window] += one.pixels
    np.testing.assert_array_equal(drawn, mask)


def test_cut_at_saddles__a_share_of_the_peak_and_an_error() -> None:
    heights = np.array([[10.0, 8.0, 6.0, 8.0, 9.0]])
    inside = np.ones((1, 5), bool)
    assert cut_at_saddles(inside, heights, 0.3).max() == 2  # 0.7 * 9 is above the saddle of 6
    assert cut_at_saddles(inside, heights, 0.35).max() == 1
    assert cut_at_saddles(inside, heights, 0.3, error=0.5).max() == 1


@pytest.fixture
def touching(make_export_run: Callable[..., Any]) -> Any:
    return make_export_run(
        {
            "a/b": (disc(40, 40, 18) | disc(40, 72, 18)).astype(np.uint8),
            "c": 2 * disc(30, 30, 12).astype(np.uint8),
            "empty": np.zeros((80, 120), np.uint8),
        }
    )


def store_cam(run: Path, image_id: str, cam: NDArray[np.float32]) -> None:
    with h5py.File(run / "labels" / "cams.h5", "r+") as file:
        file[f"cams/{image_id}"][0] = cam


@pytest.mark.parametrize(("instances", "count"), [(None, 3), ("distance", 3), ("components", 2), ("cam", 2)])
def test_export__coco_says_how_it_separated(
    instances: str | None, count: int, touching: Any, tmp_path: Path, listener: Any
) -> None:
    monitor = listener()
    store_cam(touching.run, "a/b", np.full((80, 120), 0.75, np.float32))
    (file,) = export(touching.run, tmp_path / "out", monitor, format="coco", instances=instances)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert len(content["annotations"]) == count
    assert content["info"]["instances"] == monitor.notes[0]
    assert (
        monitor.notes[0]
        == {
            3: "3 objects: watershed on the distance to the border, 1 components cut",
            2: "2 objects: connected components, touching objects are one"
            if instances == "components"
            else "2 objects: watershed on the CAM, 0 components cut",
        }[count]
    )
    scores = {one["category_id"]: one.get("score") for one in content["annotations"]}
    assert scores == {1: 0.75, 2: None}  # the image c has no CAM of the class that its mask shows
    assert "map of its class in cams.h5" in content["info"]["score"]
    assert sum(one["area"] for one in content["annotations"]) == sum((one > 0).sum() for one in touching.masks.values())


def test_export__pycocotools_evaluates_the_file_against_itself(touching: Any, tmp_path: Path) -> None:
    for image_id in ("a/b", "c"):
        store_cam(touching.run, image_id, np.full((80, 120), 0.5, np.float32))
    (file,) = export(touching.run, tmp_path / "out", SilentMonitor(), format="coco")
    content = json.loads(file.read_text(encoding="utf-8"))
    found = [one for one in content["annotations"] if "score" in one]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, truth.loadRes(found), kind)
            evaluation.params.catIds = [1]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[1] == 1.0


def objects_in(out: Path, format: str, image_id: str = "a/b") -> int:
    """Number of objects of an image in an export."""
    flat = image_id.replace("/", "%2F")
    if format.startswith("yolo"):
        return len((out / f"labels/train/{flat}.txt").read_text().splitlines())
    if format == "voc":
        return (out / f"Annotations/{flat}.xml").read_text().count("<object>")
    if format == "coco":
        content = json.loads((out / "annotations/instances_train.json").read_text())
        (number,) = [one["id"] for one in content["images"] if Path(one["file_name"]).with_suffix("") == Path(image_id)]
        return sum(one["image_id"] == number for one in content["annotations"])
    colours = np.asarray(Image.open(out / f"SegmentationObject/{image_id}.png")).reshape(-1, 3)
    return len(np.unique(colours, axis=0)) - 1


@pytest.mark.parametrize("format", ["yolo", "yolo-detect", "voc", "cvat"])
def test_export__every_format_has_the_same_objects(format: str, touching: Any, tmp_path: Path) -> None:
    for instances, count in (("distance", 2), ("components", 1)):
        export(touching.run, tmp_path / instances, SilentMonitor(), format=format, instances=instances)
        assert objects_in(tmp_path / instances, format) == count


@pytest.mark.parametrize("format", ["coco", "yolo", "yolo-detect", "voc"])
def test_export__specks_are_no_objects_and_are_counted(
    format: str, make_export_run: Callable[..., Any], tmp_path: Path, listener: Any
) -> None:
    """Beside the disc: one pixel, 9 and 10 pixels."""
    mask = disc(40, 40, 18) | box(1, 2, 1, 2) | box(1, 4, 10, 13) | box(1, 3, 20, 25)
    made = make_export_run({"a/b": mask.astype(np.uint8)})
    for min_area, count, said in ((None, 2, "pieces of fewer than 10 pixels left out (--min-area): 2"), (11, 1, ": 3")):
        monitor, out = listener(), tmp_path / str(min_area)
        export(made.run, out, monitor, format=format, min_area=min_area)
        assert objects_in(out, format) == count
        (summary,) = [note for note in monitor.notes if "left out (--min-area)" in note]
        assert summary.endswith(said)
    monitor = listener()
    export(made.run, tmp_path / "all", monitor, format=format, min_area=1)
    assert objects_in(tmp_path / "all", format) == 4 - (format == "yolo")  # one pixel has no polygon
    assert not any("min-area" in note for note in monitor.notes)


def test_export__says_that_an_image_lost_all_objects_of_a_class(
    make_export_run: Callable[..., Any], tmp_path: Path, listener: Any
) -> None:
    """In YOLO, the image becomes one without objects."""
    made = make_export_run({"a/b": box(1, 3, 1, 4).astype(np.uint8)})
    monitor = listener()
    export(made.run, tmp_path / "out", monitor, format="yolo")
    assert any("images that lost all objects of a class: 1" in note for note in monitor.notes)


def test_export__cvat_keeps_specks(make_export_run: Callable[..., Any], tmp_path: Path) -> None:
    """People correct the whole mask."""
    made = make_export_run({"a/b": (disc(40, 40, 18) | box(1, 2, 1, 2)).astype(np.uint8)})
    export(made.run, tmp_path / "out", SilentMonitor(), format="cvat")
    assert objects_in(tmp_path / "out", "cvat") == 2


@pytest.mark.parametrize(
    ("format", "min_area", "message"),
    [
        ("coco", 0, "--min-area is 0: it must be at least 1"),
        ("png", 5, "--min-area has no effect on --format png, which leaves nothing out: do not give it, or choose"),
        ("cvat", 5, "--min-area has no effect on --format cvat"),
    ],
)
def test_export__refuses_min_area(format: str, min_area: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        export(tmp_path / "run", tmp_path / "out", SilentMonitor(), format=format, min_area=min_area)


@pytest.mark.parametrize(
    ("format", "instances", "message"),
    [
        ("coco", "watershed", "--instances 'watershed' is not known: choose one of distance, cam, components"),
        (
            "png",
            "cam",
            "--instances has no effect on --format png, which has no objects: leave it out, or choose one of ",
        ),
        ("onnx", "cam", "--instances has no effect on --format onnx"),
    ],
)
def test_export__refuses_instances(format: str, instances: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        export(tmp_path / "run", tmp_path / "out", SilentMonitor(), format=format, instances=instances)
    assert str(caught.value).startswith(message)
    assert format in FORMATS
