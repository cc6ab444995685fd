import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import ArtifactError
from data.written_folders import MARK, mark_as_written
from stages.export import FORMATS, export
from stages.runtime.monitor import SilentMonitor

OF_LABELS = [format for format in FORMATS if format != "onnx"]  # which is of the student


@pytest.mark.parametrize("format", OF_LABELS)
def test_export__every_format_writes_whole_files(format: str, labelled_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export(labelled_run.run, out, SilentMonitor(), format=format)
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file() and path.name != MARK)
    assert files


@pytest.mark.parametrize("format", OF_LABELS)
def test_export__refuses_a_folder_that_is_not_empty(format: str, labelled_run: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty: give another folder, or --overwrite"):
        export(labelled_run.run, tmp_path / "out", SilentMonitor(), format=format)


@pytest.mark.parametrize("format", [format for format in OF_LABELS if format != "png"])
def test_export__moved_data(format: str, labelled_run: Any, tmp_path: Path) -> None:
    moved = labelled_run.data.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"does not exist or is empty: if it was moved, .* --data"):
        export(labelled_run.run, tmp_path / "out", SilentMonitor(), format=format)
    assert not (tmp_path / "out").exists()
    assert export(labelled_run.run, tmp_path / "out", SilentMonitor(), format=format, data=moved)


@pytest.mark.parametrize("format", OF_LABELS)
def test_export__stopped_leaves_no_half_files(format: str, labelled_run: Any, tmp_path: Path, listener: Any) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(labelled_run.run, out, listener(stop=("advance", 2)), format=format)
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("*.json"))  # of all images, or none


@pytest.mark.parametrize(
    ("format", "module", "package"),
    [
        ("voc", "scipy", "scipy"),
        ("coco", "scipy", "scipy"),
        ("yolo-detect", "skimage", "scikit-image"),
        ("yolo", "supervision", "supervision"),
        ("yolo", "cv2", "opencv-python-headless"),
        ("onnx", "onnx", "onnx"),
        ("onnx", "onnxscript", "onnxscript"),
    ],
)
def test_export__missing_package(
    format: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        export(tmp_path / "run", tmp_path / "out", SilentMonitor(), format=format)
    assert str(caught.value) == (
        f"--format {format} needs the package '{package}', which is not installed: run uv sync --inexact --extra export"
    )


def test_export__png_and_labelstudio_need_no_other_package() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['scipy', 'supervision', 'cv2', 'yaml', 'torch']))\n"
        "import stages.export, stages.exports.png, stages.exports.labelstudio"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_formats__are_those_of_the_folder() -> None:
    names = {path.stem for path in (Path(__file__).parents[2] / "stages" / "exports").glob("*.py")}
    shared = {
        "components",
        "flat_names",
        "instances",
        "label_map",
        "labelled_images",
        "upright_images",
        "xml_names",
        "yolo_folder",
    }
    assert {name.replace("_", "-") for name in names - {"__init__"} - shared} == set(FORMATS)


def test_export__refuses_a_folder_in_use(labelled_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "png"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "a.png").write_text("old")
    with pytest.raises(ValueError, match="is not empty: give another folder, or --overwrite"):
        export(labelled_run.run, out, SilentMonitor())
    assert (out / "a.png").read_text() == "old"
    with pytest.raises(ValueError, match=r"png holds images that toco did not write .first 'a.png'."):
        export(labelled_run.run, out, SilentMonitor(), overwrite=True)
    mark_as_written(out)
    with pytest.raises(ValueError, match="holds another or an unfinished export: give another folder, or --overwrite"):
        export(labelled_run.run, out, SilentMonitor())
    export(labelled_run.run, out, SilentMonitor(), overwrite=True)
    with Image.open(out / "a.png") as image:
        np.testing.assert_array_equal(np.array(image), labelled_run.masks["a"])
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("format", OF_LABELS)
def test_export__once_more_after_one_that_wrote_nothing(format: str, labelled_run: Any, tmp_path: Path) -> None:
    mark_as_written(tmp_path / "out")
    assert export(labelled_run.run, tmp_path / "out", SilentMonitor(), format=format)


def test_export__other_format(labelled_run: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="'gif' is not known: choose one of png, voc, coco, yolo, yolo-detect, labelstudio, cvat, onnx"
    ):
        export(labelled_run.run, tmp_path / "out", SilentMonitor(), format="gif")


def test_export__labels_not_made(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="run 'toco make-labels' first"):
        export(tmp_path / "run", tmp_path / "out", SilentMonitor())
    assert not (tmp_path / "out").exists()


def test_export__onnx_of_a_run_without_a_student(labelled_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no seg/config.json: run 'toco train-seg' first"):
        export(labelled_run.run, tmp_path / "out", SilentMonitor(), format="onnx")
    assert not (tmp_path / "out").exists()
