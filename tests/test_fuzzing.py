"""Damaged inputs: none crashes or hangs, each gives a value or one clear line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "processes" / "fuzzing_process.py"
INPUTS = {"images": 6000, "coco": 4000, "labels": 3000}


def fuzz(kind: str, count: int, folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-W", "ignore", str(PROGRAM), kind, "0", str(count), str(folder)]
    run = subprocess.run(words, cwd=PROGRAM.parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"ended with {run.returncode} at input {(folder / 'last').read_text()}: {run.stderr}"
    ended: dict[str, Any] = json.loads(run.stdout)
    assert ended["faults"] == []
    return ended


@pytest.mark.parametrize("kind", INPUTS)
def test_damaged_inputs__some(kind: str, tmp_path: Path) -> None:
    fuzz(kind, 60, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
def test_damaged_inputs__thousands(kind: str, tmp_path: Path) -> None:
    ended = fuzz(kind, INPUTS[kind], tmp_path)
    assert ended["values"] + ended["lines"] == INPUTS[kind]
    assert min(ended["values"], ended["lines"]) > INPUTS[kind] / 50  # the damage is neither too small nor too large
