import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.errors import ArtifactError, DataError, SettingsError
from data.palette import palette_image
from stages.corrections.correction_file import CORRECTIONS, CorrectionFile
from stages.corrections.picked_masks import PickedMasks
from stages.import_masks import import_masks
from stages.run_folder.lock import stage_lock
from stages.runtime.monitor import SilentMonitor

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Mask = NDArray[np.uint8]
NAMES = ("red", "blue")


def corrected(run: Any, image_id: str = "a") -> Mask:
    """The pseudo mask with a larger object, nothing ignored."""
    mask: Mask = run.masks[image_id].copy()
    mask[mask == 255] = 0
    mask[40:44, 4:40] = mask.max()
    return mask


def folder_of(masks: Mapping[str, Mask | Image.Image], folder: Path) -> Path:
    for name, mask in masks.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (palette_image(mask) if isinstance(mask, np.ndarray) else mask).save(path)
    return folder


def test_import_masks__keeps_masks_before_and_provenance(labelled_run: Any, tmp_path: Path) -> None:
    masks = {one: corrected(labelled_run, one) for one in ("a", "deep/d")}
    done = import_masks(labelled_run.run, folder_of(masks, tmp_path / "in"), SilentMonitor(), tool="png")
    assert (done.masks, done.replaced) == (2, 0)
    stored = CorrectionFile(labelled_run.run, NAMES)
    assert stored.classes == {"a": (1,), "deep/d": (2,)}
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(stored.mask(image_id).read(), mask)
        np.testing.assert_array_equal(stored.before(image_id), labelled_run.masks[image_id])
    provenance = stored.provenance("a")
    assert provenance.source == str((tmp_path / "in").resolve())
    assert provenance.tool == "png"
    assert provenance.imported[:2] == "20"


def test_import_masks__again_replaces_per_image(labelled_run: Any, tmp_path: Path) -> None:
    run = labelled_run.run
    first = {one: corrected(labelled_run, one) for one in ("a", "b")}
    import_masks(run, folder_of(first, tmp_path / "1"), SilentMonitor(), tool="png")
    digest = CorrectionFile(run, NAMES).digest
    second = {"b": first["b"].copy(), "c": corrected(labelled_run, "c")}
    second["b"][:4, :4] = 2
    done = import_masks(run, folder_of(second, tmp_path / "2"), SilentMonitor(), tool="png")
    assert (done.masks, done.replaced) == (2, 1)
    stored = CorrectionFile(run, NAMES)
    assert set(stored.classes) == {"a", "b", "c"}
    np.testing.assert_array_equal(stored.mask("b").read(), second["b"])
    np.testing.assert_array_equal(stored.before("b"), labelled_run.masks["b"])
    assert stored.digest != digest
    import_masks(run, tmp_path / "1", SilentMonitor(), tool="png")
    (run / CORRECTIONS).unlink()
    import_masks(run, tmp_path / "1", SilentMonitor(), tool="png")
    assert CorrectionFile(run, NAMES).digest == digest  # of the masks alone


def larger(mask: Mask) -> Mask:
    return np.pad(mask, 1)


BAD: list[tuple[str, Callable[[Mask], Any], str]] = [
    ("a", larger, r"a\.png: it is 66 x 66 \(height x width\), its image is 64 x 64"),
    ("a", lambda mask: np.full_like(mask, 3), r"a\.png: it has the value 3 in 4096 pixels"),
    ("a", lambda mask: np.full_like(mask, 2), r"it shows 'blue', but the labels of image 'a' are 'red': correct its"),
    ("a", lambda mask: np.zeros_like(mask), r"it shows only background, but the labels of image 'a' are 'red'"),
    ("a", lambda mask: np.full_like(mask, 255), r"no pixel of image 'a' was judged"),
    ("a", lambda mask: Image.new("RGB", (64, 64), (1, 2, 3)), r"4096 pixels have the colour \(1, 2, 3\), which no"),
    ("a", lambda mask: Image.new("RGBA", (64, 64)), r"transparent in parts: save it without"),
    ("unknown", lambda mask: mask, r"image 'unknown' is missing in images/"),
    ("v1", lambda mask: mask, r"image 'v1' is not a training image"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_import_masks__refuses_what_does_not_fit_and_writes_nothing(
    name: str, change: Callable[[Mask], Any], message: str, labelled_run: Any, tmp_path: Path, listener: Any
) -> None:
    good = corrected(labelled_run)
    path = folder_of({"c": corrected(labelled_run, "c"), name: change(good)}, tmp_path / "in")
    monitor = listener()
    with pytest.raises(DataError, match=f"nothing was imported: 1 of 2 masks .*{message}"):
        import_masks(labelled_run.run, path, monitor, tool="png")
    assert not monitor.warnings  # the only problem is in the error
    assert not (labelled_run.run / CORRECTIONS).exists()
    done = import_masks(labelled_run.run, path, monitor, tool="png", skip_bad=True)
    assert (done.masks, done.left_out) == (1, 1)
    assert len(monitor.warnings) == 1
    assert set(CorrectionFile(labelled_run.run, NAMES).classes) == {"c"}


def test_import_masks__other_numberings_are_one_line(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    run, ids = labelled_run.run, ("a", "b", "c", "deep/d")
    monitor = listener()
    strange = np.array([0, 15, 20, *range(3, 256)], np.uint8)  # as if of Pascal VOC
    path = folder_of({one: strange[corrected(labelled_run, one)] for one in ids}, tmp_path / "voc")
    with pytest.raises(DataError) as error:
        import_masks(run, path, monitor, tool="png")
    assert monitor.warnings == []
    assert f"nothing was imported: 4 of 4 masks in {path} do not fit: 4 masks have values that" in str(error.value)
    names = f"('{path / 'a.png'}', '{path / 'b.png'}', '{path / 'c.png'}' and 1 more; values 15, 20): allowed are 0"
    assert names in str(error.value)
    Image.fromarray(corrected(labelled_run)).save(path / "a.png")
    assert import_masks(run, path, monitor, tool="png", skip_bad=True).left_out == 3
    assert [one.startswith("3 masks have values") for one in monitor.warnings] == [True]

    swapped = np.array([0, 2, 1, *range(3, 256)], np.uint8)
    path = folder_of({one: swapped[corrected(labelled_run, one)] for one in ids}, tmp_path / "swapped")
    with pytest.raises(DataError, match=r"do not fit: 4 masks contradict the labels .*and 1 more.*in another order"):
        import_masks(run, path, monitor, tool="png")
    assert len(monitor.warnings) == 1


def test_import_masks__objects_saved_as_255_are_refused(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    ids = ("a", "b", "c", "deep/d")
    objects = {one: np.where(corrected(labelled_run, one) > 0, 255, 0).astype(np.uint8) for one in ids}
    path = folder_of(objects, tmp_path / "in")
    with pytest.raises(DataError, match=r"do not fit: 4 masks contradict the labels .*only objects from background"):
        import_masks(labelled_run.run, path, listener(), tool="png")
    assert not (labelled_run.run / CORRECTIONS).exists()


def test_import_masks__new_labels_when_asked(labelled_run: Any, tmp_path: Path) -> None:
    path = folder_of({"a": np.full((64, 64), 2, np.uint8)}, tmp_path / "in")
    import_masks(labelled_run.run, path, SilentMonitor(), tool="png", allow_new_labels=True)
    assert CorrectionFile(labelled_run.run, NAMES).classes == {"a": (2,)}


def test_import_masks__says_what_may_be_a_mistake(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    partly = np.zeros((64, 64), np.uint8)
    partly[:4] = 255
    path = folder_of({"c": partly}, tmp_path / "in")
    import_masks(labelled_run.run, path, monitor, tool="png")
    assert any("lack a class of their image's labels: 1, first 'c'" in note for note in monitor.notes)


def test_import_masks__unchanged_masks_only_when_asked(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    unchanged = folder_of({"a": labelled_run.masks["a"]}, tmp_path / "unchanged")
    with pytest.raises(DataError, match="nothing was imported: masks that equal the pseudo masks: 1"):
        import_masks(labelled_run.run, unchanged, listener(), tool="png")
    monitor = listener()
    both = folder_of({"a": labelled_run.masks["a"], "c": corrected(labelled_run, "c")}, tmp_path / "both")
    assert import_masks(labelled_run.run, both, monitor, tool="png").masks == 1
    assert CorrectionFile(labelled_run.run, NAMES).classes.keys() == {"c"}
    assert any("left out, masks that equal the pseudo masks: 1" in note for note in monitor.notes)
    import_masks(labelled_run.run, unchanged, monitor, tool="png", confirm_unchanged=True)
    assert CorrectionFile(labelled_run.run, NAMES).classes.keys() == {"a", "c"}


def test_import_masks__picked_masks_that_no_person_changed_need_not_fit(
    labelled_run: Any, tmp_path: Path, listener: Any
) -> None:
    """A pseudo mask may lack its class, or show one that is no label any more."""
    monitor, run = listener(), labelled_run.run
    untouched = {"a": np.zeros_like(labelled_run.masks["a"]), "b": np.ones_like(labelled_run.masks["b"])}
    path = folder_of({**untouched, "c": corrected(labelled_run, "c")}, tmp_path / "in")
    with pytest.raises(DataError, match="2 of 3 masks"):
        import_masks(run, path, monitor, tool="png")
    PickedMasks(run).add(untouched.items())
    with pytest.raises(DataError, match="2 of 3 masks"):
        import_masks(run, path, monitor, tool="png", confirm_unchanged=True)
    assert import_masks(run, path, monitor, tool="png").masks == 1
    assert CorrectionFile(run, NAMES).classes.keys() == {"c"}
    assert any("left out, masks that equal the pseudo masks: 2" in note for note in monitor.notes)


def test_import_masks__says_that_a_mask_is_from_another_folder(
    labelled_run: Any, tmp_path: Path, listener: Any
) -> None:
    monitor = listener()
    masks = {"other/d": corrected(labelled_run, "deep/d"), "a": corrected(labelled_run)}
    import_masks(labelled_run.run, folder_of(masks, tmp_path / "in"), monitor, tool="png")
    assert CorrectionFile(labelled_run.run, NAMES).classes.keys() == {"a", "deep/d"}
    assert monitor.warnings == [
        "masks whose folder is not that of their image: 1, first 'other/d' for 'deep/d'; check that these are the same "
        "images"
    ]


def test_import_masks__of_another_folder_beside_the_mask_of_the_image(
    labelled_run: Any, tmp_path: Path, listener: Any
) -> None:
    right = corrected(labelled_run)
    path = folder_of({"a": right, "old/a": np.ones_like(right)}, tmp_path / "in")
    with pytest.raises(DataError, match=r"1 of 2 masks .*old/a\.png: it is in another folder than image 'a', and"):
        import_masks(labelled_run.run, path, SilentMonitor(), tool="png")
    monitor = listener()
    assert import_masks(labelled_run.run, path, monitor, tool="png", skip_bad=True).masks == 1
    np.testing.assert_array_equal(CorrectionFile(labelled_run.run, NAMES).mask("a").read(), right)
    assert len(monitor.warnings) == 1  # none of masks in another folder, of which none is left
    path = folder_of({"old/a": right, "new/a": right}, tmp_path / "two")
    with pytest.raises(DataError, match="nothing was imported: 2 of 2 masks"):
        import_masks(labelled_run.run, path, listener(), tool="png")


@pytest.mark.parametrize("mode", ["L", "RGB", "sorted palette"])
@pytest.mark.parametrize("turned", [False, True])
def test_import_masks__png_of_any_program(mode: str, turned: bool, labelled_run: Any, tmp_path: Path) -> None:
    mask = corrected(labelled_run)
    image = Image.fromarray(mask) if mode == "L" else palette_image(mask)
    if mode == "RGB":
        image = image.convert("RGB")
    if mode == "sorted palette":  # as image programs save indexed colours
        image = image.convert("RGB").quantize(8)
        assert not np.array_equal(np.asarray(image), mask)
    path = folder_of({"a": image}, tmp_path / "in") / "a.png"
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 3
        image.transpose(Image.Transpose.ROTATE_180).save(path, exif=exif)
    import_masks(labelled_run.run, path, SilentMonitor(), tool="png")
    np.testing.assert_array_equal(CorrectionFile(labelled_run.run, NAMES).mask("a").read(), mask)


def test_import_masks__refusals_before_reading(labelled_run: Any, tmp_path: Path) -> None:
    run = labelled_run.run
    with pytest.raises(SettingsError, match="--from 'vott' is not known: choose one of labelstudio, cvat, coco, png"):
        import_masks(run, tmp_path, SilentMonitor(), tool="vott")
    with pytest.raises(DataError, match=r"there is no .*nothing: check the path"):
        import_masks(run, tmp_path / "nothing", SilentMonitor(), tool="png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no PNG files: give the folder of the masks"):
        import_masks(run, tmp_path / "empty", SilentMonitor(), tool="png")
    folder_of({"a": corrected(labelled_run)}, tmp_path / "in")
    (run / CORRECTIONS).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"corrections\.h5 is not a complete file of corrected masks"):
        import_masks(run, tmp_path / "in", SilentMonitor(), tool="png")


def region(kind: str, value: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": "r", "type": kind, "original_width": 64, "original_height": 64, "image_rotation": 0,
        "from_name": "brush", "to_name": "image", "value": value, **changes,
    }  # fmt: skip


def task(results: list[Any], image: str = "/data/local-files/?d=data/images/a.png", **changes: Any) -> dict[str, Any]:
    annotation = {"id": 11, "completed_by": 3, "updated_at": "2026-05-01T10:00:00Z", "result": results, **changes}
    return {"id": 5, "data": {"image": image}, "annotations": [annotation]}


def import_tasks(run: Any, tasks: list[Any], tmp_path: Path, monitor: Any = None) -> Mask:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    import_masks(run.run, path, monitor or SilentMonitor(), tool="labelstudio")
    return CorrectionFile(run.run, NAMES).mask("a").read()


SQUARE = {"x": 25, "y": 12.5, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["red"]}


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=data/images/a.png",
        "/data/local-files/?d=images%2Fa.png",
        "/data/upload/2/0a1b2c3d-a.png",
        "s3://bucket/photos/a.png",
        "https://example.com/x/a.png?token=1",
    ],
)
def test_import_masks__labelstudio_image_names(image: str, labelled_run: Any, tmp_path: Path) -> None:
    mask = import_tasks(labelled_run, [task([region("rectanglelabels", SQUARE)], image)], tmp_path)
    expected = np.zeros((64, 64), np.uint8)
    expected[8:24, 16:48] = 1
    np.testing.assert_array_equal(mask, expected)
    assert CorrectionFile(labelled_run.run, NAMES).provenance("a").annotator == "3"


def test_import_masks__labelstudio_shapes(labelled_run: Any, tmp_path: Path) -> None:
    polygon = region("polygonlabels", {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["red"]})
    ellipse = region("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "ellipselabels": ["red"]})
    # A square of 16 pixels that is rotated by 90 degrees around its corner (48, 0) covers x 32..48.
    rotated = {"x": 75, "y": 0, "width": 25, "height": 25, "rotation": 90, "rectanglelabels": ["red"]}
    assert import_tasks(labelled_run, [task([polygon])], tmp_path)[:32, :32].all()
    drawn = import_tasks(labelled_run, [task([ellipse])], tmp_path)
    assert drawn.sum() == pytest.approx(np.pi * 16 * 8, rel=0.05)
    assert drawn[32, 17:47].all()
    drawn = import_tasks(labelled_run, [task([region("rectanglelabels", rotated)])], tmp_path)
    assert drawn[:16, 32:48].all()
    assert drawn.sum() == 256


def test_import_masks__labelstudio_brush_of_its_own_encoder(labelled_run: Any, tmp_path: Path) -> None:
    from label_studio_converter.brush import mask2rle

    mask = (np.random.default_rng(0).random((64, 64)) < 0.5).astype(np.uint8)  # long lists of different values
    brush = {"format": "rle", "rle": mask2rle(mask * 255), "brushlabels": ["red"]}
    np.testing.assert_array_equal(import_tasks(labelled_run, [task([region("brushlabels", brush)])], tmp_path), mask)


def test_import_masks__labelstudio_labels_in_a_tag_of_their_own(labelled_run: Any, tmp_path: Path) -> None:
    shape = region("rectangle", {key: value for key, value in SQUARE.items() if key != "rectanglelabels"})
    named = {"id": "r", "type": "labels", "from_name": "label", "to_name": "image", "value": {"labels": ["red"]}}
    other = {"id": "q", "type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["good"]}}
    assert import_tasks(labelled_run, [task([shape, named, other])], tmp_path).sum() == 16 * 32


def test_import_masks__labelstudio_regions_without_ids(labelled_run: Any, tmp_path: Path) -> None:
    hole = {**SQUARE, "width": 25, "rectanglelabels": ["background"]}
    regions = [region("rectanglelabels", value, id=None) for value in (SQUARE, hole)]
    assert import_tasks(labelled_run, [task(regions)], tmp_path).sum() == 16 * 16


def test_import_masks__labelstudio_last_of_two_annotations_without_a_time(labelled_run: Any, tmp_path: Path) -> None:
    both = task([region("rectanglelabels", SQUARE)])
    later = {**both["annotations"][0], "id": 12, "result": [region("rectanglelabels", {**SQUARE, "width": 25})]}
    both["annotations"].append(later)
    for one in both["annotations"]:
        one.pop("updated_at", None)
        one.pop("created_at", None)
    assert import_tasks(labelled_run, [both], tmp_path).sum() == 16 * 16


def test_import_masks__labelstudio_tasks_of_the_same_number(labelled_run: Any, tmp_path: Path) -> None:
    """As in exports of two projects that were joined."""
    tasks = [task([region("rectanglelabels", SQUARE)], f"/data/upload/1/{name}.png") for name in ("a", "c")]
    import_tasks(labelled_run, tasks, tmp_path)
    assert set(CorrectionFile(labelled_run.run, NAMES).classes) == {"a", "c"}


@pytest.mark.parametrize(
    "data",
    [
        [{"image_id": "deep/d", "image": "/other/d.png"}, {"image": "/other/d.png"}],
        [{"image": "s3://bucket/photos/d.png"}, {"image": "/data/local-files/?d=two/photos/d.png"}],
    ],
)
def test_import_masks__labelstudio_two_tasks_of_one_path(
    data: list[dict[str, str]], labelled_run: Any, tmp_path: Path
) -> None:
    drawn = region("rectanglelabels", {**SQUARE, "rectanglelabels": ["blue"]}, original_height=56)
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task([drawn]) | {"data": one} for one in data]))
    import_masks(labelled_run.run, path, SilentMonitor(), tool="labelstudio")
    assert set(CorrectionFile(labelled_run.run, NAMES).classes) == {"deep/d"}


def test_import_masks__labelstudio_newest_of_two_annotators(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    both = task([region("rectanglelabels", SQUARE)])
    newer = {**SQUARE, "width": 25}
    both["annotations"] += [
        {
            "id": 12,
            "completed_by": {"email": "b@c"},
            "updated_at": "2026-05-02",
            "result": [region("rectanglelabels", newer)],
        },
        {"id": 13, "updated_at": "2026-05-03", "was_cancelled": True, "result": []},
    ]
    monitor = listener()
    mask = import_tasks(
        labelled_run, [both, {"id": 6, "data": {"image": "/b.png"}, "annotations": []}], tmp_path, monitor
    )
    assert mask.sum() == 16 * 16
    assert CorrectionFile(labelled_run.run, NAMES).provenance("a").annotator == "b@c"
    assert "images that were annotated several times: 1, first 'a'" in monitor.notes[0]
    assert "images without an annotation, left out: 1" in monitor.notes[1]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task([])], "it shows only background, but the labels of image 'a' are 'red'"),
        ([task([region("rectanglelabels", {**SQUARE, "rectanglelabels": ["green"]})])], "the run has no class 'green'"),
        ([task([region("rectanglelabels", {**SQUARE, "rectanglelabels": ["red", "blue"]})])], "has 2 labels"),
        ([task([region("rectanglelabels", SQUARE, original_width=32)])], "drawn on an image of 32 x 64"),
        ([task([region("rectanglelabels", SQUARE, image_rotation=90)])], "rotated in Label Studio: turn it back"),
        ([task([region("rectanglelabels", {"x": 1, "rectanglelabels": ["red"]})])], "region of the type 'rectanglel"),
        ([task([region("keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["red"]})])], "type 'keypointlabels': use"),
        ([task([region("brushlabels", {"rle": [0, 0, 64, 0, 1], "brushlabels": ["red"]})])], "brush region"),
        ([task([region("brushlabels", {"rle": [300], "brushlabels": ["red"]})])], "is damaged"),
        ([task("x")], "its 'result' is not a list"),  # type: ignore[arg-type]
        ([{"id": 1, "image": "/a.png", "brush": []}], "tasks without 'annotations': .*not 'JSON-MIN'"),
        ({"a": 1}, "is not a list of tasks"),
        ([{"id": 1, "data": {}, "annotations": []}], "has no annotated image"),
    ],
)
def test_import_masks__labelstudio_refusals(tasks: Any, message: str, labelled_run: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        import_tasks(labelled_run, tasks, tmp_path)
    assert not (labelled_run.run / CORRECTIONS).exists()


def cvat_folder(path: Path, label_map: str, image: Image.Image, name: str = "a") -> Path:
    folder_of({name: image}, path / "SegmentationClass")
    (path / "labelmap.txt").write_text(label_map)
    (path / "ImageSets/Segmentation").mkdir(parents=True)
    (path / "ImageSets/Segmentation/default.txt").write_text(f"{name}\nb\n")
    return path


def test_import_masks__cvat_by_colour_and_name(labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    label_map = "# label:color_rgb:parts:actions\nblue:9,9,9::\nbackground:0,128,0::\nred:10,20,30::\n"
    pixels = np.full((64, 64, 3), (0, 128, 0), np.uint8)
    pixels[:8] = (10, 20, 30)
    monitor = listener()
    path = cvat_folder(tmp_path / "in", label_map, Image.fromarray(pixels))
    import_masks(labelled_run.run, path, monitor, tool="cvat")
    mask = CorrectionFile(labelled_run.run, NAMES).mask("a").read()
    assert (mask[:8] == 1).all()
    assert not mask[8:].any()
    assert "images without an annotation, left out: 1" in monitor.notes[0]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ("background:0,0,0::\ngreen:10,20,30::\n", "the run has no class 'green' .*: rename the class in the tool"),
        ("background:0,0,0::\nred:10,20,31::\n", r"512 pixels have the colour \(10, 20, 30\), which no class has"),
        ("red\n", "labelmap.txt line 1: 'red' is not 'name:red,green,blue::'"),
    ],
)
def test_import_masks__cvat_refusals(label_map: str, message: str, labelled_run: Any, tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:8] = (10, 20, 30)
    path = cvat_folder(tmp_path / "in", label_map, Image.fromarray(pixels))
    with pytest.raises(DataError, match=message):
        import_masks(labelled_run.run, path, SilentMonitor(), tool="cvat")


def test_import_masks__other_formats_are_told(labelled_run: Any, tmp_path: Path) -> None:
    file = tmp_path / "export.json"
    file.write_text("[]")
    with pytest.raises(DataError, match=r"neither a folder nor a \.zip"):
        import_masks(labelled_run.run, file, SilentMonitor(), tool="cvat")
    with pytest.raises(DataError, match="is not a file of COCO instances"):
        import_masks(labelled_run.run, file, SilentMonitor(), tool="coco")
    with pytest.raises(DataError, match=r"has no SegmentationClass/ with labelmap\.txt: export from CVAT as"):
        import_masks(labelled_run.run, tmp_path, SilentMonitor(), tool="cvat")


def test_import_masks__coco_polygons_and_boxes(labelled_run: Any, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    shape: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 4, "segmentation": [[0, 0, 32, 0, 32, 16, 0, 16]]}
    content = {"images": [image], "annotations": [shape], "categories": [{"id": 4, "name": "red"}]}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    import_masks(labelled_run.run, file, SilentMonitor(), tool="coco")
    assert CorrectionFile(labelled_run.run, NAMES).mask("a").read().sum() == 32 * 16
    del shape["segmentation"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has only a box: draw its outline"):
        import_masks(labelled_run.run, file, SilentMonitor(), tool="coco")


def test_import_masks__not_while_a_stage_runs(labelled_run: Any, tmp_path: Path, child_processes: Any) -> None:
    path = folder_of({"a": corrected(labelled_run)}, tmp_path / "in")
    with stage_lock(labelled_run.run, "labels", monitor=SilentMonitor()):
        import_masks(labelled_run.run, path, SilentMonitor(), tool="png")  # the same process may
    assert not (labelled_run.run / ".labels.lock").exists()
