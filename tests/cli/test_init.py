from pathlib import Path

import pytest
from PIL import Image

from toco_cli.main import main


def test_init__a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    assert main(["init", str(root)]) == 0
    assert sorted(path.name for path in root.iterdir()) == ["classes.txt", "images", "labels.csv"]
    assert capsys.readouterr().out == (
        f"Put images into {root / 'images'}, and write what each shows into {root / 'labels.csv'}.\n"
        f"Next: toco check {root}\n"
    )
    assert main(["check", str(root)]) == 1
    assert "labels.csv has no rows below its header" in capsys.readouterr().err


def test_init__images_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.jpg")
    assert main(["init", str(tmp_path)]) == 0
    assert "labels.csv has a row for each image (1): write what it shows, remove its '#'.\n" in capsys.readouterr().out
    assert main(["init", str(tmp_path)]) == 1
    assert "labels.csv exists already, and nothing was written" in capsys.readouterr().err
