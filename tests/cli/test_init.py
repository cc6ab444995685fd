import json
from pathlib import Path

import pytest
from PIL import Image

from toco_cli.main import main


def test_init__a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    assert main(["init", str(root)]) == 0
    assert sorted(path.name for path in root.iterdir()) == ["classes.txt", "images", "labels.csv"]
    assert capsys.readouterr().out == (
        f"Put images into {root / 'images'}, and write the labels of each image into {root / 'labels.csv'}.\n"
        f"Next: toco check {root}\n"
    )
    assert main(["check", str(root)]) == 1
    assert "labels.csv has no rows below its header" in capsys.readouterr().err


def test_init__images_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.jpg")
    assert main(["init", str(tmp_path)]) == 0
    assert "labels.csv has a row for each image (1): write its labels and remove the '#'.\n" in capsys.readouterr().out
    assert main(["init", str(tmp_path)]) == 1
    assert "labels.csv exists already, and nothing was written" in capsys.readouterr().err


def test_init__kinds_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.HEIC").touch()
    assert main(["init", str(tmp_path)]) == 0
    assert capsys.readouterr().err == (
        f"In {tmp_path / 'images'}, 1 .heic file is not read: save as JPEG or PNG (.heic with pillow-heif).\n"
    )


def test_init__quiet_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "a"), "--quiet"]) == 0
    assert "Next:" not in capsys.readouterr().out
    (tmp_path / "b" / "images").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "b" / "images" / "a.jpg")
    assert main(["init", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "b"), "images": 1, "unread": []}
