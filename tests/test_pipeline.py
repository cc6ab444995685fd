"""The README's walk, from a folder to a network, by the real command line on tiny pictures."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import rasterio
from PIL import Image

from data.drawing.sample import draw_sample
from data.written_folders import MARK
from stages.export import FORMATS
from toco_cli.main import main

ROOT = Path(__file__).parent.parent
# What makes each command small enough for a test.
SMALL = {
    "train-cam": "--backbone vit_tiny_patch16_224 --backbone-option patch_size=8 --backbone-option embed_dim=32 "
    "--backbone-option depth=3 --backbone-option num_heads=2 --weights none --image-size 32 --iterations 3 "
    "--batch-size 2 --evaluate-images 2 --panel-every 0",
    "make-labels": "--relabel-rounds 1 --relabel-steps 20",
    "train-seg": "--arch Linknet --encoder tu-mobilenetv3_small_050 --weights none --image-size 32 --iterations 2 "
    "--batch-size 2 --evaluate-images 2 --panel-every 0",
}
STAGES = tuple(SMALL)
SMALL["tile"] = "--size 64 --overlap 16"
SMALL["import"] = "--skip-bad"  # of a network that has hardly learned, some masks are empty, which is refused
SMALL["run"] = SMALL["plan"] = " ".join(SMALL[stage].replace("--", f"--{stage}.") for stage in STAGES)
# No processes for the CRF, and one kind of relabelling; the walk in new processes has both.
ALONE = {
    "make-labels": "--workers 1 --relabel linear",
    "run": "--make-labels.workers 1 --make-labels.relabel linear",
}


class Finished(NamedTuple):
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str


class Walk(NamedTuple):
    """A folder in which all of the README's commands were run, and how each ended."""

    folder: Path
    ended: dict[str, Finished]


def toco(*arguments: str, folder: Path) -> Finished:
    """Run the command line in this process, which has imported torch already."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr("stages.relabel.heads.PROBE_STEPS", 20)
        return Finished(main(arguments), out.getvalue(), err.getvalue())


def toco_anew(*arguments: str, folder: Path) -> Finished:
    """Run the command line as a user does, in a new process, which takes seconds to import torch."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("toco")), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def readme_commands() -> list[list[str]]:
    """The indented `toco ...` lines of the README's walk."""
    walk = (ROOT / "README.md").read_text(encoding="utf-8").split("## Quick start")[1].split("\n## ")[0]
    lines = [line.split("#")[0].strip() for line in walk.splitlines() if line.startswith("    toco ")]
    return [shlex.split(line)[1:] for line in lines]


def run_walk(folder: Path, run: Callable[..., Finished], more: Mapping[str, str]) -> dict[str, Finished]:
    """Run all of the README's commands in a folder, some with more options, and return how each ended."""
    draw_sample(folder / "photos", images=6, validation=3, size=48)
    (folder / "photos/images/a").mkdir()
    shutil.copy(folder / "photos/images/00000.jpg", folder / "photos/images/a/0001.jpg")
    (folder / "new_photos").mkdir()
    shutil.copy(folder / "photos/images/00000.jpg", folder / "new_photos/Café 1.JPG")
    ended = {}
    for name, *words in readme_commands():
        if "runs/small" in words:  # the same once more with other sizes
            continue
        if name == "import":
            export_of_label_studio(folder / "runs/photos/picked/tasks.json", folder / "export.json")
        if name == "tile":
            draw_scene(folder)
        if name == "join":
            words = ["tiles", "of_tiles", *words[2:]]  # 'predicted' has the results of new_photos
            assert run("predict", "runs/photos", "tiles/images", "--out", "of_tiles", folder=folder).returncode == 0
        ended[name] = run(
            name, *words, *shlex.split(SMALL.get(name, "")), *shlex.split(more.get(name, "")), folder=folder
        )
    return ended


def draw_scene(folder: Path) -> None:
    """Write scene.tif, a tenth of a degree wide, and objects.geojson with an object in its upper left quarter."""
    corner, pixel = (10.0, 50.0), 0.1 / 96
    pixels = np.random.default_rng(0).integers(1, 256, (3, 96, 96), dtype=np.uint8)
    placed = {"crs": "EPSG:4326", "transform": rasterio.Affine(pixel, 0, corner[0], 0, -pixel, corner[1])}
    with rasterio.open(
        folder / "scene.tif", "w", "GTiff", width=96, height=96, count=3, dtype="uint8", **placed
    ) as file:
        file.write(pixels)
    ring = [(corner[0] + x, corner[1] - y) for x, y in ((0, 0), (0.04, 0), (0.04, 0.04), (0, 0.04), (0, 0))]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    objects = [{"type": "Feature", "properties": {"class": "house"}, "geometry": geometry}]
    text = json.dumps({"type": "FeatureCollection", "features": objects})
    (folder / "objects.geojson").write_text(text, encoding="utf-8")


def export_of_label_studio(tasks: Path, export: Path) -> None:
    """Write what Label Studio exports if a person submits the predictions of all tasks as they are."""
    found = json.loads(tasks.read_text(encoding="utf-8"))
    for number, task in enumerate(found):
        (prediction,) = task.pop("predictions")
        task["annotations"] = [{"id": number, "result": prediction["result"]}]
    export.write_text(json.dumps(found), encoding="utf-8")


def assert_successful(ended: dict[str, Finished]) -> None:
    assert list(ended) == [
        "check", "plan", "run", "predict", "export", "view", "pick", "import", "tile", "join", "train-cam",
        "make-labels", "evaluate", "train-seg", "report",
    ]  # fmt: skip
    for name, run in ended.items():
        assert run.returncode == 0, f"toco {name}: {run.stderr}"
        assert "Traceback" not in run.stderr
        assert not re.search(r"\x1b|\r", run.stderr), "control characters in a log file"


@pytest.fixture(scope="module")
def walk(small_heads: None, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("walk")
    return Walk(folder, run_walk(folder, toco, ALONE))


def test_readme__every_command_of_the_walk_succeeds(walk: Walk) -> None:
    assert_successful(walk.ended)


@pytest.mark.slow
def test_readme__every_command_of_the_walk_succeeds_in_a_new_process(tmp_path: Path) -> None:
    assert_successful(run_walk(tmp_path, toco_anew, {}))


def test_readme__the_products_open(walk: Walk) -> None:
    folder, _ = walk
    run = folder / "runs/photos"
    for stage in ("cam", "labels", "seg"):
        config = json.loads((run / stage / "config.json").read_text())
        assert config["dataset"]["class_names"] == (folder / "photos/classes.txt").read_text().split("\n")[:-1]
    for stage in ("cam", "seg"):
        lines = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    with h5py.File(run / "labels/labels.h5") as masks, h5py.File(run / "labels/cams.h5") as cams:
        assert sorted(masks["masks"]) == sorted(cams["cams"]) == [f"{index:05d}" for index in range(6)]
        for name, cam in cams["cams"].items():
            mask = masks["masks"][name][()]
            assert mask.shape == tuple(cam.attrs["size"]) == (48, 48)
            assert cam.shape == (len(cam.attrs["classes"]), 32, 32)  # --image-size
            assert set(np.unique(mask)) <= {0, 255, *cam.attrs["classes"].tolist()}
            with Image.open(folder / "masks_png" / f"{name}.png") as exported:
                np.testing.assert_array_equal(np.array(exported), mask)
    with Image.open(folder / "predicted/masks/Café 1.png") as predicted:
        assert predicted.size == (48, 48)


OTHER_FORMATS = [format for format in FORMATS if format not in ("png", "onnx")]  # the walk has png


@pytest.mark.parametrize("format", [*OTHER_FORMATS, pytest.param("onnx", marks=pytest.mark.slow)])
def test_export__other_formats(format: str, walk: Walk, tmp_path: Path) -> None:
    folder, _ = walk
    run = toco("export", "runs/photos", "--out", str(tmp_path / "out"), "--format", format, "--json", folder=folder)
    assert run.returncode == 0, run.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != MARK]
    assert json.loads(run.stdout) == {"files": len(files), "out": str(tmp_path / "out")}


def test_evaluate__json_holds_each_column(walk: Walk) -> None:
    folder, ended = walk
    assert "pseudo masks" in ended["evaluate"].stdout
    result = json.loads(toco("evaluate", "runs/photos", "--json", folder=folder).stdout)
    assert [(column["name"], column["split"], column["images"]) for column in result["columns"]] == [
        ("CAM", "train", 6),
        ("pseudo masks", "train", 6),
        ("decoder", "val", 3),
        ("student", "val", 3),
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train-cam nowhere --out runs/x", "nowhere is not a folder"),
        ("train-cam photos --out runs/photos", "runs/photos/cam exists: use --resume"),
        ("make-labels runs/photos", "runs/photos/labels exists: use --resume"),
        ("make-labels runs/x", "there is no run folder runs/x"),
        ("train-seg empty", "empty has no labels/config.json: run 'toco make-labels' first"),
        ("train-cam photos --out runs/x --split test", "has no split 'test'"),
        ("train-cam photos --out runs/x --weights gone.safetensors", "there is no file gone.safetensors"),
        (
            "train-cam photos --out runs/x --weights none --backbone vit_tiny_patch16_224 --cache photos/labels.csv",
            "images cannot be cached in photos/labels.csv (it is not a folder): give another folder, or omit --cache",
        ),
        ("predict runs/photos gone.jpg --out predicted2", "there is no file or folder gone.jpg"),
        ("predict runs/photos 'new_photos/*.tif' --out predicted2", "the pattern 'new_photos/*.tif' matches no images"),
        ("predict runs/photos new_photos --out predicted", "use --resume to continue, --overwrite to replace it"),
        ("predict runs/photos new_photos --out predicted --resume --window 64", "started with --window its default"),
        ("export runs/photos --out masks_png --format coco", "masks_png holds another or an unfinished export"),
    ],
)
def test_errors__one_clear_line(command: str, message: str, walk: Walk) -> None:
    folder, _ = walk
    (folder / "empty").mkdir(exist_ok=True)
    run = (toco_anew if "nowhere" in command else toco)(*shlex.split(command), folder=folder)
    assert run.returncode == 1
    errors = [line for line in run.stderr.splitlines() if line.startswith("toco: error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train-cam photos", "--out"),
        ("train-cam photos --out x --iterations 0", "iterations"),
        ("train-cam photos --out x --low-threshold 0.8", "--low-threshold 0.8 must be below --high-threshold 0.7"),
        ("make-labels runs/photos --crf --ignore-uncertain", "--ignore-uncertain needs plain CAMs"),
        (
            "predict runs/photos x --out y --outputs masks --outputs mask",
            "'mask' is not one of 'masks', 'overlays'",
        ),
        (
            "predict runs/photos x --out y --window 64 --outputs probabilities",
            "--outputs probabilities does not work with --window",
        ),
    ],
)
def test_errors__bad_options(command: str, message: str, tmp_path: Path) -> None:
    run = (toco_anew if command == "train-cam photos" else toco)(*shlex.split(command), folder=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_predict__json_names_the_files_of_each_kind(walk: Walk, tmp_path: Path) -> None:
    folder, ended = walk
    assert ended["predict"].stdout.startswith(
        "The results of 1 image are in predicted/masks and predicted/overlays. Next"
    )
    options = "--outputs numpy --outputs probabilities --batch-size 2 --no-flip-tta --json"
    run = toco("predict", "runs/photos", "new_photos/*.JPG", "--out", str(tmp_path), *options.split(), folder=folder)
    assert run.returncode == 0, run.stderr
    written = json.loads(run.stdout)
    assert written.pop("out") == str(tmp_path)
    assert written == {kind: [str(tmp_path / kind / "Café 1.npy")] for kind in ("numpy", "probabilities")}
    label, probabilities = (np.load(files[0]) for files in written.values())
    assert (label.dtype, label.shape) == (np.uint8, (48, 48))
    assert (probabilities.dtype, probabilities.shape[1:]) == (np.float16, (48, 48))
    assert (label == probabilities.argmax(axis=0)).mean() > 0.99  # rounding to float16 makes ties


@pytest.mark.slow
def test_satellite__bands_and_place_from_scenes_to_maps(tmp_path: Path) -> None:
    """The walk-through, with four bands of 16 bits and a corner without data."""
    draw_bands(tmp_path / "scenes")
    small = shlex.split(f"{SMALL['run']} {ALONE['run']}")
    told = {}
    for words in (
        "tile scenes/north.tif scenes/south.tif --labels scenes/landcover.geojson --val south.tif --size 64 --overlap "
        "16 --out landcover",
        "check landcover",
        "run landcover --out runs/landcover",
        "predict runs/landcover landcover --out predicted",
        "join landcover predicted --out maps",
        "join landcover runs/landcover --out pseudo_maps",
        "tile scenes/south.tif --size 64 --overlap 16 --out new",
        "predict runs/landcover new --out new_predicted",
        "join new new_predicted --out new_maps",
        "predict runs/landcover scenes/south.tif --out whole --outputs geotiff --window 64",
    ):
        name, *others = words.split()
        done = toco(name, *others, *(small if name == "run" else ()), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        told[name] = done.stdout + done.stderr
    assert "images have 4 bands of 16 bits (uint16), read at full depth" in " ".join(told["check"].split())
    assert "of the images labelled now have pixels without a value" in " ".join(told["run"].split())
    with (
        rasterio.open(tmp_path / "landcover/images/north/r1-c2.tif") as tile,
        rasterio.open(tmp_path / "scenes/north.tif") as scene,
    ):
        assert (tile.dtypes, tile.crs, tile.nodata) == (("uint16",) * 4, scene.crs, 0)
        assert tile.transform == scene.transform @ rasterio.Affine.translation(96, 48)
        np.testing.assert_array_equal(tile.read(), scene.read()[:, 48:112, 96:160])
    for name, folder in (
        ("north", "maps"),
        ("south", "maps"),
        ("north", "pseudo_maps"),
        ("south", "new_maps"),
        ("south", "whole/geotiff"),
    ):
        with (
            rasterio.open(tmp_path / folder / f"{name}.tif") as made,
            rasterio.open(tmp_path / f"scenes/{name}.tif") as scene,
        ):
            assert (made.shape, made.crs, made.transform) == (scene.shape, scene.crs, scene.transform)
            assert made.tags(1) == {"class_1": "forest", "class_2": "water"}
            labels, valid = made.read(1), scene.dataset_mask() > 0
        assert (labels[~valid] == 255).all()
        assert (labels[valid] <= 2).all()
    predicted = {
        file.stem: np.asarray(Image.open(file)) for file in (tmp_path / "predicted/masks/images/north").iterdir()
    }
    assert (predicted["r1-c1"][:8, :8] == 255).all()
    assert (predicted["r1-c2"] != 255).all()


def draw_bands(folder: Path) -> None:
    """Write two scenes of four bands, with forest in the upper half and water in the right half, and their polygons."""
    folder.mkdir()
    features = []
    for number, name in enumerate(("north", "south")):
        left, top = 10.0, 50.0 - number
        pixels = np.random.default_rng(number).integers(900, 1100, (4, 160, 160))
        pixels[3, :64] += 2000
        pixels[:3, :, 96:] //= 3
        pixels[:, :56, :56] = 0
        placed = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.001, 0, left, 0, -0.001, top), "nodata": 0}
        shape = {"width": 160, "height": 160, "count": 4, "dtype": "uint16"}
        with rasterio.open(folder / f"{name}.tif", "w", driver="GTiff", **shape, **placed) as file:
            file.write(pixels.astype(np.uint16))
        for kind, (x0, y0, x1, y1) in (("forest", (0, 0, 160, 64)), ("water", (96, 0, 160, 160))):
            ring = [[left + x / 1000, top - y / 1000] for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))]
            geometry = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "properties": {"class": kind}, "geometry": geometry})
    (folder / "landcover.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
