"""Mistakes that every command reports before it imports torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.config import MakeLabels, TrainCam
from stages.labels.store import label_attributes

PROGRAM = """
import contextlib, io, json, sys
for name in ("torch", "timm", "lightning_fabric", "matplotlib", "jinja2", "scipy"):
    sys.modules[name] = None  # to import it is an error
from toco_cli.main import main
results = []
for words in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    results.append([code, errors.getvalue()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folders(draw_pictures: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a run folder whose first two stages look finished, one with nothing, and files in the way."""
    root = tmp_path_factory.mktemp("early")
    draw_pictures(root / "photos")
    for stage, settings in (("cam", TrainCam()), ("labels", MakeLabels())):
        folder = root / "run" / stage
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        dataset = {"root": str(root / "photos"), "layout": "custom", "class_names": ["red", "blue"]}
        model = {"backbone": "vit_base_patch16_224", "backbone_options": {}}
        config = {"format": 2, "settings": asdict(settings), "dataset": dataset, "model": model}
        (folder / "config.json").write_text(json.dumps(config))
    labels = root / "run" / "labels"
    (labels / "cams.h5").touch()
    with h5py.File(labels / "labels.h5", "w") as file:
        file["masks/a"] = np.ones((64, 48), np.uint8)
        file.attrs.update(label_attributes(("red", "blue"), {}))
    (root / "empty").mkdir()
    (root / "used" / "cam").mkdir(parents=True)
    (root / "used" / "cam" / "notes.txt").touch()
    return root


CASES = {
    "train-cam gone --out new": "gone is not a folder",
    "train-cam photos --out used": "used/cam exists: use --resume",
    "train-cam photos --out new --split nosuch": "has no split 'nosuch': choose one of 'train', 'val' (--split)",
    "train-cam photos --out new --weights gone.safetensors": "there is no file gone.safetensors",
    "train-cam photos --out new --cache photos/labels.csv": "images cannot be cached in",
    "make-labels gone": "there is no run folder gone",
    "make-labels empty": "run 'toco train-cam' first",
    "make-labels run": "run/labels exists: use --resume",
    "make-labels run --overwrite --split nosuch": "has no split 'nosuch'",
    "make-labels run --overwrite --data gone": "gone is not a folder",
    "make-labels run --overwrite --background-threshold 0": "--low-threshold 0 (default for --background-threshold 0)",
    "train-seg empty": "run 'toco make-labels' first",
    "train-seg run --val-split nosuch": "has no split 'nosuch': choose one of 'train', 'val' (--val-split)",
    "train-seg run --confidence-weighting": "has no confidence",
    "train-seg run --weights gone.safetensors": "there is no file gone.safetensors",
    "evaluate gone": "there is no run folder gone",
    "evaluate run --split nosuch": "has no split 'nosuch'",
    "evaluate empty --sweep": "run 'toco make-labels' first",
    "report empty": "run 'toco train-cam' first",
    "report run --compare gone": "there is no run folder gone",
    "view gone.jpg run": "gone.jpg",
    "view run photos/images/a.jpg": "run is a folder: give the image files first, and the run folder last",
    "view run --count 51": "51 images are too many for one PNG",
    "view photos/images/a.jpg gone": "there is no run folder gone",
    "predict gone photos --out new": "there is no run folder gone",
    "predict run gone.jpg --out new": "there is no file or folder gone.jpg",
    "predict run photos --out photos": "photos/masks, which belongs to the data set",
    "predict run photos --out photos/masks": "photos/masks, which belongs to the data set",
    "predict run photos/images --out photos/images/a.jpg": "a.jpg is not a folder",
    "export run --out photos/masks --overwrite": "photos/masks, which belongs to the data set",
    "export run --out photos/images/new": "photos/images, which belongs to the data set",
    "export run --out empty/../photos --overwrite": "photos is or holds the data set",
    "train-cam photos --out photos/masks/run": "photos/masks, which belongs to the data set",
    "run photos --out photos/images": "photos/images, which belongs to the data set",
    "view photos/images/a.jpg run --out photos/images/b.jpg": "photos/images, which belongs to the data set",
    "check photos --write-labels photos": "already has a labels.csv",
    "export gone --out new": "there is no run folder gone",
    "export run --out new --format gif": "'gif' is not known",
    "export run --out photos": "photos is or holds the data set",
    "export run --out used": "used is not empty",
    "demo --out photos": "photos was not made by a demo",
    "run gone --out new": "gone is not a folder",
    "run photos --out new --train-cam.weights none --train-seg.weights gone": "check the path (--train-seg.weights)",
    "run photos --out new --make-labels.background-threshold 0": "--make-labels.low-threshold 0 (default for",
}


def test_commands__report_a_mistake_without_torch(folders: Path) -> None:
    words = [case.split() for case in CASES]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)], cwd=folders, capture_output=True, text=True, check=True
    )
    said = dict(zip(CASES, json.loads(run.stdout), strict=True))
    assert {case: text for case, (_, text) in said.items() if CASES[case] not in text} == {}
    errors = {case: [line for line in text.splitlines() if "warning: " not in line] for case, (_, text) in said.items()}
    assert [case for case, (code, _) in said.items() if code != 1 or len(errors[case]) != 1] == []
    assert not (folders / "new").exists()
