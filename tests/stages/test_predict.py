import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data.errors import ArtifactError, DataError, SettingsError
from data.image_files import find_images
from data.palette import colour_map
from data.readers import open_dataset
from data.written_folders import MARK, mark_as_written
from stages.config import Predict
from stages.networks.cam_model import load_cam_model
from stages.networks.inference import decoder_probabilities
from stages.networks.student import label_map, load_student, student_probabilities
from stages.predict import predict
from stages.run_folder.artifacts import open_stage
from stages.runtime.monitor import SilentMonitor
from toco_cli.main import main

CONFIG = Predict(device="cpu")


def picture(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3)).astype(np.uint8)
    Image.fromarray(values).resize((width, height)).save(path)
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MARK
    )


def test_predict__warns_of_images_of_another_scale(student_run: Any, tmp_path: Path, listener: Any) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)  # 12 bits of a camera
    for name, factor in (("a", 1), ("b", 1), ("c", 16)):
        Image.fromarray(values * factor).save(tmp_path / f"{name}.png")
    dark = [tmp_path / "a.png", tmp_path / "b.png"]
    predict(student_run.run, [*dark, tmp_path / "c.png"], tmp_path / "out", CONFIG, monitor := listener())
    assert [one.partition(":")[0] for one in monitor.warnings] == [
        f"2 of 3 images are nearly black for the network (first {dark[0]})"
    ]
    predict(student_run.run, [dark[0], tmp_path / "c.png"], tmp_path / "other", CONFIG, monitor := listener())
    assert monitor.warnings == []


def test_predict__masks_and_overlays_of_the_student(student_run: Any, tmp_path: Path) -> None:
    image = picture(tmp_path / "photo.png", width=90, height=50)
    out = tmp_path / "out"
    written = predict(student_run.run, [image], out, CONFIG, SilentMonitor())
    assert written == {"masks": [out / "masks" / "photo.png"], "overlays": [out / "overlays" / "photo.png"]}
    assert names(out) == ["masks/photo.png", "overlays/photo.png", "predict.json"]

    student = load_student(open_stage(student_run.run, "seg"))
    tensor = torch.from_numpy(pixels(image)).permute(2, 0, 1)
    expected = label_map(student_probabilities(student, [tensor])[0], (50, 90)).numpy()
    assert len(np.unique(expected)) > 1
    with Image.open(written["masks"][0]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.array(mask), expected)
        np.testing.assert_array_equal(np.array(mask.convert("RGB")), colour_map()[expected])
    blend = (pixels(image).astype(float) + colour_map()[expected]) / 2
    shown = pixels(out / "overlays" / "photo.png")
    assert shown.shape[0] > 50  # a legend follows below
    assert np.abs(shown[:50] - np.where(expected[:, :, None] > 0, blend, pixels(image))).max() <= 1


def test_predict__decoder(decoder_run: Any, tmp_path: Path) -> None:
    image = picture(tmp_path / "photo.jpg", width=90, height=50)
    (file,) = predict(decoder_run.run, [image], tmp_path / "out", CONFIG, SilentMonitor())["masks"]
    with Image.open(image) as opened:
        square = torch.from_numpy(np.array(opened.resize((64, 64), Image.Resampling.BILINEAR)))
    model = load_cam_model(open_stage(decoder_run.run, "cam"))
    probabilities = decoder_probabilities(model, square.permute(2, 0, 1)[None], (1.0,))[0]
    expected = label_map(probabilities, (50, 90)).numpy()
    assert (pixels(file) == expected).mean() > 0.99  # torchvision's resize is Pillow's up to rounding


def test_predict__tells_what_png_loses_and_when_memory_may_not_suffice(
    student_run: Any, tmp_path: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    scene = tmp_path / "scene.tif"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5300000), "nodata": 0}
    with rasterio.open(scene, "w", "GTiff", width=50, height=40, count=3, dtype="uint8", **place) as file:
        file.write(np.pad(np.full((3, 40, 40), 70, np.uint8), ((0, 0), (0, 0), (10, 0))))
    monkeypatch.setattr("stages.predict.free_memory", lambda: 10_000.0)
    monitor = listener()
    predict(student_run.run, [scene], tmp_path / "png", CONFIG, monitor)
    (warning,) = monitor.warnings
    assert re.match(r".*scene\.tif has 0\.002 megapixels, which need about .* cut it with 'toco tile'", warning)
    assert [note for note in monitor.notes if "do not keep the coordinates that 1 of the images" in note]
    monkeypatch.undo()
    monitor = listener()
    config = replace(CONFIG, outputs=("masks", "geotiff"))
    files = predict(student_run.run, [scene], tmp_path / "geotiff", config, monitor)
    assert not [note for note in monitor.notes if "coordinates" in note]
    with rasterio.open(files["geotiff"][0]) as made:
        assert (made.crs.to_epsg(), made.transform) == (32632, place["transform"])
        np.testing.assert_array_equal(made.read(1), pixels(files["masks"][0]))
        assert (made.read(1) == 255).sum() == 400
        assert (made.read(1)[:, :10] == 255).all()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="large images and GeoTIFF need the package 'rasterio'"):
        predict(student_run.run, [scene], tmp_path / "other", config, SilentMonitor())


def test_predict__tells_of_images_that_are_far_reduced(student_run: Any, tmp_path: Path, listener: Any) -> None:
    photos = [picture(tmp_path / "photo.png", width=1000), picture(tmp_path / "scene.png", width=1030)]
    monitor = listener()
    predict(student_run.run, photos, tmp_path / "out", replace(CONFIG, outputs=("masks",)), monitor)
    (warning,) = monitor.warnings  # the network sees 64 pixels
    assert warning.startswith(
        f"1 image is reduced to a 16th of the size or less (first {photos[1]}: from 1030 to 64 pi"
    )
    monitor = listener()
    predict(student_run.run, photos, tmp_path / "two", replace(CONFIG, outputs=("masks",), window=512), monitor)
    assert monitor.warnings == []


def test_predict__tells_of_pages_that_are_not_read(student_run: Any, tmp_path: Path, listener: Any) -> None:
    pages = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    monitor = listener()
    predict(student_run.run, [tmp_path / "stack.tif", picture(tmp_path / "one.tif")], tmp_path / "out", CONFIG, monitor)
    assert monitor.warnings == [
        "1 image has several pages, of which only the first is predicted: to use the others, save each as a separate "
        "image"
    ]


def test_predict__a_damaged_second_page_does_not_matter(student_run: Any, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    path.write_bytes(path.read_bytes()[:3880])  # within the tags of the second page
    predict(student_run.run, [path], tmp_path / "out", CONFIG, SilentMonitor())
    assert list((tmp_path / "out").rglob("stack*.png"))


def test_predict__folders_keep_their_tree_and_names_stay_unique(
    student_run: Any, tmp_path: Path, listener: Any
) -> None:
    photos = tmp_path / "photos"
    for name in ("a.png", "a.jpg", "sub/a.png", "sub/deeper/B.PNG", ".hidden.png"):
        picture(photos / name)
    (photos / "notes.txt").write_text("no image")
    other = picture(tmp_path / "elsewhere" / "A.png")
    out = photos / "out"  # within the folder that is searched
    monitor = listener()
    given = [photos, other, photos / "a.png"]
    files = predict(student_run.run, given, out, CONFIG, monitor)["masks"]
    expected = ["A-3.png", "a-2.png", "a.png", "sub/a.png", "sub/deeper/B.png"]
    assert names(out / "masks") == names(out / "overlays") == expected
    assert sorted(files) == sorted(out / "masks" / name for name in expected)
    assert monitor.steps == 5
    # Once more: what was written is no input.
    assert len(predict(student_run.run, given, out, CONFIG, monitor, overwrite=True)["masks"]) == 5


def test_predict__existing_files_are_kept(student_run: Any, tmp_path: Path) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / "overlays" / "a.png").write_text("mine")
    with pytest.raises(ValueError, match=r"overlays holds images that toco did not write \(first 'a.png'\)"):
        predict(student_run.run, [image], out, CONFIG, SilentMonitor(), overwrite=True)
    mark_as_written(out / "overlays")
    with pytest.raises(ValueError, match=r"overlays/a.png exists: use --resume to continue, --overwrite to replace"):
        predict(student_run.run, [image], out, CONFIG, SilentMonitor())
    assert names(out) == ["overlays/a.png"]
    predict(student_run.run, [image], out, CONFIG, SilentMonitor(), overwrite=True)
    assert pixels(out / "overlays" / "a.png")[:30].shape == (30, 40, 3)  # a legend may follow below


def test_predict__unreadable_image(student_run: Any, tmp_path: Path, listener: Any) -> None:
    good, bad = picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    cut = picture(tmp_path / "c.png", 200, 200)  # its header is whole, the rest is not
    cut.write_bytes(cut.read_bytes()[:80])
    with pytest.raises(DataError, match=r"b.png is not a readable .*--skip-bad"):
        predict(student_run.run, [good, bad], tmp_path / "out", CONFIG, SilentMonitor())
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"c.png cannot be read.*--skip-bad"):
        predict(student_run.run, [cut], tmp_path / "out", CONFIG, SilentMonitor())
    monitor = listener()
    skipping = replace(CONFIG, skip_bad=True)
    files = predict(student_run.run, [cut, bad, good], tmp_path / "out", skipping, monitor)["masks"]
    assert files == [tmp_path / "out" / "masks" / "a.png"]
    assert [text.startswith("skipped: ") for text in monitor.warnings] == [True, True]
    # Gone on with, there is nothing left but what is left out.
    files = predict(student_run.run, [bad, good], tmp_path / "out", skipping, listener(), resume=True)["masks"]
    assert files == [tmp_path / "out" / "masks" / "a.png"]


def test_predict__results_beside_the_images(student_run: Any, tmp_path: Path) -> None:
    here = tmp_path / "here"
    picture(here / "photos" / "a.png")
    for out in (here / "predicted", here, here / "photos"):
        for overwrite in (False, True):  # what was written is no input then
            written = predict(student_run.run, [here], out, CONFIG, SilentMonitor(), overwrite=overwrite)
            assert written["masks"] == [out / "masks" / "photos" / "a.png"]
    picture(here / "masks2" / "b.png").parent.rename(tmp_path / "masks")
    with pytest.raises(ValueError, match=r"masks is or holds the input image .*b.png: give another place"):
        predict(student_run.run, [tmp_path / "masks"], tmp_path, CONFIG, SilentMonitor())
    with pytest.raises(DataError, match="holds results of toco: give the folder of the images"):
        predict(student_run.run, [here / "predicted"], tmp_path / "again", CONFIG, SilentMonitor())


def test_predict__into_another_data_set_does_not_hide_it(student_run: Any, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    for seed, name in enumerate(("cat/a.png", "dog/b.png")):
        picture(classes / name, seed=seed)
    before = open_dataset(classes)
    predict(student_run.run, [classes / "cat"], classes, replace(CONFIG, outputs=("overlays",)), SilentMonitor())
    assert open_dataset(classes) == before
    predict(student_run.run, [classes], tmp_path / "out", CONFIG, SilentMonitor())
    assert names(tmp_path / "out" / "masks") == ["cat/a.png", "dog/b.png"]


def test_predict__resumes_the_folder_of_an_earlier_version(student_run: Any, tmp_path: Path) -> None:
    """Until 0.2.0 the record was the mark of the whole folder."""
    photo, out = picture(tmp_path / "photos" / "a.png"), tmp_path / "out"
    predict(student_run.run, [photo], out, CONFIG, SilentMonitor())
    record = json.loads((out / "predict.json").read_text())
    del record["marked"]
    (out / "predict.json").write_text(json.dumps(record))
    (out / MARK).unlink()
    picture(tmp_path / "photos" / "b.png")
    only_masks = replace(CONFIG, outputs=("masks",))
    predict(student_run.run, [photo.parent], out, only_masks, SilentMonitor(), resume=True)
    assert names(out) == ["masks/a.png", "masks/b.png", "overlays/a.png", "predict.json"]
    assert not any(name.startswith("out") for name in find_images(tmp_path))


def test_predict__not_into_a_data_set(student_run: Any, tmp_path: Path) -> None:
    image = picture(tmp_path / "photos" / "images" / "a.png")
    (tmp_path / "photos" / "labels.csv").write_text("image,labels\na.png,red\n")
    with pytest.raises(ValueError, match=r"photos/masks overlaps .*photos/masks, which belongs to the data set"):
        predict(student_run.run, [image], tmp_path / "photos", CONFIG, SilentMonitor())
    assert not (tmp_path / "photos" / "masks").exists()


def test_predict__nothing_trained(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="run 'toco train-cam' first"):
        predict(tmp_path / "run", [picture(tmp_path / "a.png")], tmp_path / "out", CONFIG, SilentMonitor())


PEAK = """
import resource, sys
from toco_cli.main import main
code = main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in kilobytes, on Linux
sys.exit(code)
"""


@pytest.mark.parametrize(("student", "following"), [(True, "export {run} --format onnx"), (False, "train-seg {run}\n")])
def test_predict__proposes_what_the_run_can_do(
    student: bool, following: str, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    if not student:
        shutil.rmtree(run / "seg")
    image = picture(tmp_path / "photo.png")
    assert main(["predict", str(run), str(image), "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 0
    assert f"Next: toco {following.format(run=run)}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count peak memory otherwise")
@pytest.mark.parametrize("options", [[], ["--window", "1024"]], ids=["whole", "windows"])
def test_predict__a_picture_of_100_megapixels_in_4_gb(student_run: Any, tmp_path: Path, options: list[str]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    Image.fromarray(values).resize((10_000, 10_000)).save(tmp_path / "large.tif")
    words = ["predict", str(student_run.run), str(tmp_path / "large.tif"), "--out", str(tmp_path / "out"), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *words, "--device", "cpu"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) < 4_000_000
    with Image.open(tmp_path / "out" / "masks" / "large.png") as image:
        assert image.size == (10_000, 10_000)
    with Image.open(tmp_path / "out" / "overlays" / "large.png") as image:  # with a legend if a class was found
        assert image.width == 10_000
        assert image.height >= 10_000
