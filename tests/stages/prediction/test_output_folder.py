import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.band_files import has_coordinates
from data.dataset import Sample
from data.errors import ArtifactError, SettingsError
from data.palette import palette_image
from data.written_folders import MARK, RECORD
from stages.config import Predict
from stages.networks.segmenter import Segmentation
from stages.predict import predict
from stages.prediction.output_folder import files_of, read_record
from stages.prediction.results import write_results
from stages.runtime.monitor import SilentMonitor

CONFIG = Predict(device="cpu")
EVERYTHING = Predict(outputs=("masks", "overlays", "numpy", "probabilities"), device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abc"):
        values = np.random.default_rng(number).integers(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def file_contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def results(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in file_contents(out).items() if name not in (RECORD, MARK)}


def test_write_results__content_of_each_kind(tmp_path: Path) -> None:
    label = torch.tensor([[0, 1, 2], [2, 0, 0]], dtype=torch.uint8)
    probabilities = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    files = files_of(tmp_path, Sample(id="deep/a", image=Path("a.tif"), classes=(), mask=None), EVERYTHING.outputs)
    assert files["numpy"] == tmp_path / "numpy" / "deep" / "a.npy"
    picture = Image.new("RGB", (3, 2), "white")
    write_results(files, picture, Segmentation(label, probabilities), ("cat", "dog"), tmp_path / "a.tif")
    assert all(file.is_file() for file in files.values())
    with Image.open(files["masks"]) as mask:
        assert mask.getpalette() == palette_image(label.numpy()).getpalette()
        np.testing.assert_array_equal(np.array(mask), label)
    stored = np.load(files["numpy"])
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, label)
    stored = np.load(files["probabilities"])
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, probabilities, atol=1e-3)


def test_write_results__probabilities_at_the_image_s_size(tmp_path: Path) -> None:
    label, probabilities = torch.zeros(4, 6, dtype=torch.uint8), torch.ones(3, 2, 3)
    file = tmp_path / "a.npy"
    write_results({"probabilities": file}, Image.new("RGB", (6, 4)), Segmentation(label, probabilities), (), file)
    assert np.load(file).shape == (3, 4, 6)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_write_results__geotiff_with_the_place_of_the_image(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    label = torch.tensor([[0, 1, 2], [2, 0, 255]], dtype=torch.uint8)
    placed, plain = tmp_path / "placed.tif", tmp_path / "plain.png"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5300000)}
    with rasterio.open(placed, "w", "GTiff", width=3, height=2, count=4, dtype="uint16", **place):
        pass
    Image.new("RGB", (3, 2)).save(plain)
    for image in (placed, plain):
        file = tmp_path / f"{image.stem}.mask.tif"
        write_results({"geotiff": file}, Image.new("RGB", (3, 2)), Segmentation(label, None), ("wood", "lake"), image)
        with rasterio.open(file) as made, rasterio.open(image) as source:
            np.testing.assert_array_equal(made.read(1), label)
            assert (made.crs, made.transform, made.nodata) == (source.crs, source.transform, 255)
            assert made.tags(1) == {"class_1": "wood", "class_2": "lake"}
        assert has_coordinates(image) == (image == placed)


def test_resume__after_an_interruption_gives_the_results_of_an_undisturbed_run(
    student_run: Any, photos: Path, tmp_path: Path, listener: Any
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(student_run.run, [photos], whole, CONFIG, SilentMonitor(), resume=True)  # there is nothing to resume yet
    with pytest.raises(KeyboardInterrupt):
        predict(student_run.run, [photos], out, CONFIG, listener(stop=("advance", 2)))
    assert sorted(results(out)) == ["masks/a.png", "masks/b.png", "overlays/a.png", "overlays/b.png"]
    (out / "overlays" / "b.png").unlink()  # as if stopped between two files of an image
    (out / "masks" / ".c.png.x.partial").touch()  # as if killed during a write
    before = (out / "masks" / "a.png").stat()
    monitor = listener()
    written = predict(student_run.run, [photos], out, CONFIG, monitor, resume=True)
    assert results(out) == results(whole)
    assert (out / "masks" / "a.png").stat() == before
    assert (monitor.steps, monitor.calls.count("advance")) == (3, 2)
    assert written["masks"] == [out / "masks" / f"{name}.png" for name in "abc"]
    predict(student_run.run, [photos], out, CONFIG, monitor, resume=True)
    assert monitor.notes == [f"{out} is finished already"]


def test_resume__predicts_an_image_again_that_was_replaced_under_the_same_name(
    student_run: Any, photos: Path, tmp_path: Path, listener: Any
) -> None:
    run, out, config = student_run.run, tmp_path / "out", replace(CONFIG, outputs=("masks",))
    predict(run, [photos], out, replace(CONFIG, outputs=("masks", "numpy")), SilentMonitor())
    before = (out / "masks" / "a.png").stat()
    Image.new("RGB", (12, 10), "white").save(photos / "b.png")
    with pytest.raises(KeyboardInterrupt):  # it must not pass for finished after this
        predict(run, [photos], out, config, listener(stop=("start", 1)), resume=True)
    assert not (out / "masks" / "b.png").exists()
    assert not (out / "numpy" / "b.npy").exists()  # it would be that of the old image
    (photos / "c.png").touch()  # as if copied
    monitor = listener()
    predict(run, [photos], out, config, monitor, resume=True)
    assert monitor.warnings == [
        f"1 image has changed since the results were made (first {photos / 'c.png'}), and is predicted again"
    ]
    with Image.open(out / "masks" / "b.png") as mask:
        assert mask.size == (12, 10)
    assert (out / "masks" / "a.png").stat() == before
    record = read_record(out)
    assert record is not None
    (out / RECORD).write_text(json.dumps({**record, "stamps": {}}))  # as of an earlier version
    predict(run, [photos], out, config, monitor := listener(), resume=True)
    assert monitor.notes == [f"{out} is finished already"]


def test_resume__may_add_outputs_but_not_change_settings_or_network(
    student_run: Any, photos: Path, tmp_path: Path
) -> None:
    run, out = student_run.run, tmp_path / "out"
    predict(run, [photos], out, CONFIG, SilentMonitor())
    predict(run, [photos], out, replace(CONFIG, outputs=("numpy",), batch_size=2), SilentMonitor(), resume=True)
    with Image.open(out / "masks" / "a.png") as mask:
        np.testing.assert_array_equal(np.load(out / "numpy" / "a.npy"), np.array(mask))
    before = file_contents(out)
    for changes, message in (
        ({"flip_tta": False}, "out was started with --flip-tta True and cannot be resumed with False: give"),
        ({"window": 32}, "started with --window its default and cannot be resumed with 32"),
        ({"scales": (1.0, 1.5)}, r"started with --scales \[1.0\] and cannot be resumed with \[1.0, 1.5\]"),
    ):
        with pytest.raises(ArtifactError, match=message):
            predict(run, [photos], out, replace(CONFIG, **changes), SilentMonitor(), resume=True)
    weights = run / "seg" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(
        ArtifactError, match=r"out was started with another network than the present .*seg: use --overwrite"
    ):
        predict(run, [photos], out, CONFIG, SilentMonitor(), resume=True)
    assert file_contents(out) == before


def test_resume__refuses_results_of_other_images(student_run: Any, photos: Path, tmp_path: Path) -> None:
    run, out = student_run.run, tmp_path / "out"
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "a.png", other)
    predict(run, [other], out, CONFIG, SilentMonitor())
    with pytest.raises(SettingsError, match=r"masks/a.png exists, and was made from another image \(and 1 more\)"):
        predict(run, [photos], out, CONFIG, SilentMonitor(), resume=True)
    # With other settings for other images, the first images can no longer be resumed.
    predict(run, [photos / "b.png"], out, replace(CONFIG, flip_tta=False), SilentMonitor())
    with pytest.raises(ArtifactError, match="started with --flip-tta False"):
        predict(run, [other], out, CONFIG, SilentMonitor(), resume=True)
    record = read_record(out)
    assert record is not None
    assert list(record["images"]) == ["b"]


def test_overwrite__keeps_no_old_result_even_if_interrupted(
    student_run: Any, photos: Path, tmp_path: Path, listener: Any
) -> None:
    run, out = student_run.run, tmp_path / "out"
    predict(run, [photos], out, EVERYTHING, SilentMonitor())
    changed = replace(CONFIG, flip_tta=False)
    with pytest.raises(KeyboardInterrupt):
        predict(run, [photos], out, changed, listener(stop=("advance", 1)), overwrite=True)
    assert sorted(results(out)) == ["masks/a.png", "overlays/a.png"]
    predict(run, [photos], out, changed, SilentMonitor(), resume=True)
    predict(run, [photos], tmp_path / "fresh", changed, SilentMonitor())
    assert results(out) == results(tmp_path / "fresh")


def test_predict__tells_of_results_of_other_settings_that_stay(
    student_run: Any, photos: Path, tmp_path: Path, listener: Any
) -> None:
    out = tmp_path / "out"
    predict(student_run.run, [photos / "a.png", photos / "b.png"], out, CONFIG, SilentMonitor())
    monitor = listener()
    predict(student_run.run, [photos / "b.png"], out, replace(CONFIG, flip_tta=False), monitor, overwrite=True)
    (warning,) = monitor.warnings
    assert warning.startswith(f"{out} also holds results of another network or of other settings, for images that are")
    assert "not given now: 1 (first 'a')" in warning


def test_predict__more_images_can_be_added_to_the_same_folder(student_run: Any, photos: Path, tmp_path: Path) -> None:
    run, out = student_run.run, tmp_path / "out"
    for name in "ab":
        predict(run, [photos / f"{name}.png"], out, CONFIG, SilentMonitor())
    monitor = SilentMonitor()
    assert len(predict(run, [photos / "a.png", photos / "b.png"], out, CONFIG, monitor, resume=True)["masks"]) == 2
    record = read_record(out)
    assert record is not None
    assert record["class_names"] == ["red", "blue"]
    assert record["images"] == {name: str((photos / f"{name}.png").resolve()) for name in "ab"}


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {}, "weights": ""}', '{"settings": 1, "images": {}}'])
def test_read_record__damaged(text: str, tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "predict.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"predict.json is damaged \(.*\): delete it, and predict with --overwrite"):
        read_record(tmp_path)


def test_predict__the_output_folder_is_a_file(student_run: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out is not a folder: give another one"):
        predict(student_run.run, [photos], tmp_path / "out", CONFIG, SilentMonitor())
