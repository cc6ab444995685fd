"""`toco check` by the command line, on folders as people have them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.readers import open_dataset
from toco_cli.main import main


def photographs(root: Path, *names: str) -> Path:
    """Write images of noise, all different."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return root


def custom(root: Path, table: str = "image,labels\na.jpg,cat\nb.jpg,dog\n") -> Path:
    photographs(root / "images", "a.jpg", "b.jpg")
    (root / "labels.csv").write_text(table)
    return root


def test_check__text_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(custom(tmp_path))]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == (
        f"{tmp_path}: layout custom; classes: 2; images: 2; "
        "width x height: 40 x 32 (smallest), 40 x 32 (median), 40 x 32 (largest)"
    )
    assert re.search(r"cat +│ +1 │", said.out)
    assert "Warnings" in lines
    assert "Errors" not in lines
    assert lines[-1] == f"The data set is ready for training. Next: toco run {tmp_path} --out RUN"
    assert said.err.startswith("reading the images: 2 images\n")
    assert "\x1b" not in said.out + said.err


def test_check__errors_that_skip_bad_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = custom(tmp_path, "image,labels\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n")
    cut = root / "images" / "b.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    assert main(["check", str(root), "--quiet"]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    errors = lines[lines.index("Errors") + 1 : lines.index("Warnings")]
    assert [line.split(":")[0] for line in errors] == [
        "- 1 image with labels but without a file",
        "    c.jpg",
        "- 1 image that cannot be read",
        "    images/b.jpg cannot be read",
    ]
    assert lines[-1] == (f"Fix the errors first, or skip these files: toco run {root} --out RUN --skip-bad")
    assert said.err == ""


def test_check__errors_that_must_be_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(custom(tmp_path, "image,labels\na.jpg,cat\nb.jpg,cat\n"))]) == 1
    assert capsys.readouterr().out.endswith(
        "Fix the errors first. --skip-bad skips the files of those errors only whose advice says so.\n"
    )


def test_check__long_lists_are_cut_in_the_text_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photographs(custom(tmp_path) / "images", *(f"{number:02d}.jpg" for number in range(20))).parent
    main(["check", str(root)])
    assert "images/06.jpg; images/07.jpg; and 12 more\n" in capsys.readouterr().out
    assert main(["check", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (unlabelled,) = (finding for finding in found["findings"] if finding["topic"] == "unlabelled")
    assert len(unlabelled["items"]) == 20
    assert found["written"] is None


def test_check__a_table_by_windows_and_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs(tmp_path / "images", "my photo.JPG", "Bär/süß 1.jpeg", "c.PNG")
    rows = ["image,labels,split", "my photo.JPG,Bär,train", "Bär\\süß 1.jpeg,Öl;Bär,train", "c,,val"]
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert main(["check", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class_names"] == ["Bär", "Öl"]
    assert found["splits"]["train"] == {"images": 2, "negatives": 0, "masks": 0}
    assert found["splits"]["val"] == {"images": 1, "negatives": 1, "masks": 0}
    assert (found["missing"], found["unlabelled"]) == (0, 0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,labels\na.jpg,cat\n", "line 1: no column 'image' among 'file', 'labels': write image,labels[,split]"),
        ("image,labels\n# a.jpg,cat\n", "has no rows below its header: write one per image"),
        (
            "image,labels\nx.jpg,cat\n",
            "line 2: image 'x.jpg' is missing in images/ (which has for example 'a.jpg'): add it or",
        ),
    ],
)
def test_check__a_table_that_says_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, message: str
) -> None:
    assert main(["check", str(custom(tmp_path, table))]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("toco: error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_check__a_wrong_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "fotos")]) == 1
    assert capsys.readouterr().err.startswith(f"toco: error: {tmp_path / 'fotos'} is not a folder: give the folder of")


def test_check__write_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photographs(tmp_path / "photos", "cats/a.jpg", "dogs/b.jpg")
    words = ["check", str(root), "--write-labels", str(tmp_path / "out")]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"The labels are in {tmp_path / 'out' / 'labels.csv'}.",
        f"The data set is ready for training. Next: toco run {tmp_path / 'out'} --out RUN",
    ]
    assert [sample.id for sample in open_dataset(tmp_path / "out").split()] == ["cats/a", "dogs/b"]
    assert main(words) == 1
    assert "among whose files results must not be written: give a folder of their own" in capsys.readouterr().err


def test_check__write_labels_says_that_masks_are_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photographs(tmp_path / "voc" / "JPEGImages", "a.jpg", "b.jpg").parent
    for folder in ("ImageSets/Segmentation", "SegmentationClass", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    for name, shown in (("a", "<object><name>cat</name></object>"), ("b", "")):
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{shown}</annotation>")
    Image.fromarray(np.ones((32, 40), np.uint8)).save(root / "SegmentationClass" / "a.png")
    main(["check", str(root), "--write-labels", str(tmp_path / "out")])
    assert f"{tmp_path / 'out' / 'labels.csv'}. Ground-truth masks are not copied.\n" in capsys.readouterr().out


def test_check__needs_no_torch(tmp_path: Path) -> None:
    program = (
        f"import sys; from toco_cli.main import main; main(['check', {str(custom(tmp_path))!r}])\n"
        "sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
