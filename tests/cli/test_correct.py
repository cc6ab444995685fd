"""The way back, as the guide has it: pick, correct, import, run again."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data.palette import palette_image
from toco_cli.main import main


@pytest.mark.slow
def test_guide__pick_correct_import_run_again(
    whole_run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picked = tmp_path / "run", tmp_path / "picked"
    shutil.copytree(whole_run, run)
    assert main(["pick", str(run), "--count", "2", "--format", "png", "--out", str(picked), "--quiet"]) == 0
    told = capsys.readouterr().out
    assert f"Next: toco import {run} PATH --from png" in told
    files = sorted(picked.rglob("*.png"))
    truth = {}
    for file in files:
        name = file.relative_to(picked).with_suffix("").as_posix()
        assert name in told
        truth[name] = np.asarray(Image.open(pictures / "masks" / f"{name}.png"))
        palette_image(truth[name]).save(file)
    assert main(["import", str(run), str(picked), "--from", "png", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"] == 2
    assert main(["import", str(run), str(picked), "--from", "png", "--quiet"]) == 0
    told = capsys.readouterr().out
    following = f"toco run --config {run / 'config.toml'}"
    assert f"2 corrected masks were imported into {run / 'corrections.h5'} (2 replaced). Next: {following}" in told
    assert main([*following.split()[1:], "--quiet"]) == 0
    with h5py.File(run / "labels" / "labels.h5") as labels:
        for name, mask in truth.items():
            np.testing.assert_array_equal(labels[f"masks/{name}"][()], mask)


def test_import__says_how_to_make_the_labels_again(
    whole_run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run", ignore=shutil.ignore_patterns("config.toml", "seg", "panels"))
    words = ["import", str(run), str(pictures / "masks" / "a.png"), "--from", "png", "--quiet"]
    assert main(words) == 0
    following = capsys.readouterr().out.partition("Next: ")[2].strip()
    assert following.startswith(f"toco make-labels {run} --overwrite --")
    assert "--refine crf" in following  # as before
    assert "--relabel none" in following
    shutil.rmtree(run / "labels")
    assert main(words) == 0
    assert capsys.readouterr().out.strip().endswith(f"Next: toco make-labels {run} --crf")
