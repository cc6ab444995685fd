"""Names of classes and images that look like markup, code or formulas come back from every format as they are."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from data.readers import open_dataset
from stages.export import export
from stages.runtime.monitor import SilentMonitor

NAMES = (
    "<script>alert(1)</script>",
    "</name></object><!--",
    "\"quoted\" 'single' `back`",
    "100% $x^2$ {a} {{ b }} %s \\n",
    "שלום \u202e evil",
    "😀👩\u200d👩\u200d👧",
    "n" * 300,
    "a:b,c",
    "&amp; &#0;",
    "- yaml: [x, &a *b]",
    "null",
    "=cmd()",
    "_hidden",
)
IDS = (
    "<img src=x onerror=alert(1)>",
    "\"quoted\" 'single'",
    "100% $x$ {a} %s",
    "שלום\u202e",
    "😀",
    "deep & deeper/<b>",
    "two\nlines\ttab",
    "# no comment",
    "-n",
    "c:\\windows",
    "?q=1#fragment",
    "%2e%2e%2f",
    "=cmd()",
    "\x1b[31mred\x01",
    "n" * 240,
)


def masks() -> dict[str, Any]:
    made = {}
    for number, image_id in enumerate(IDS):
        mask = np.zeros((40, 44), np.uint8)
        mask[4:30, 4:30] = 1 + number % len(NAMES)
        made[image_id] = mask
    return made


@pytest.fixture
def hostile(make_export_run: Any) -> Any:
    return make_export_run(masks(), NAMES)


def below(files: list[Path], out: Path) -> bool:
    return all(path.resolve().is_relative_to(out.resolve()) for path in files)


def test_coco__names(hostile: Any, tmp_path: Path) -> None:
    (file,) = export(hostile.run, tmp_path / "out", SilentMonitor(), format="coco")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert tuple(category["name"] for category in content["categories"]) == hostile.class_names
    assert {image["file_name"] for image in content["images"]} == {f"{image_id}.png" for image_id in IDS}
    (tmp_path / "out" / "images").symlink_to(hostile.data / "images")
    read = open_dataset(tmp_path / "out")
    assert read.class_names == hostile.class_names
    assert set(read.by_id()) == set(IDS)


def test_voc__names(hostile: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export(hostile.run, out, SilentMonitor(), format="voc")
    assert below(files, out)
    assert len(files) == 3 * len(IDS) + 3
    listed = (out / "ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(map(unquote, listed)) == sorted(IDS)
    assert (out / "classes.txt").read_text(encoding="utf-8").split("\n")[:-1] == list(map(xml_text, NAMES))
    for number, name in enumerate(listed):
        root = ElementTree.parse(out / "Annotations" / f"{name}.xml").getroot()
        shown = NAMES[IDS.index(unquote(name)) % len(NAMES)]
        assert [item.text for item in root.iterfind("object/name")] == [xml_text(shown)], number
    assert open_dataset(out).class_names == tuple(map(xml_text, NAMES))


def xml_text(name: str) -> str:
    """XML has no control characters, not even as references."""
    return name.replace("\x1b", "\ufffd").replace("\x01", "\ufffd")


def test_yolo__names(hostile: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export(hostile.run, out, SilentMonitor(), format="yolo")
    assert below(files, out)
    assert sorted(unquote(path.stem) for path in (out / "images/train").iterdir()) == sorted(IDS)
    content = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(hostile.class_names))


def test_labelstudio__names(hostile: Any, tmp_path: Path) -> None:
    tasks, config = export(hostile.run, tmp_path / "out", SilentMonitor(), format="labelstudio")
    content = json.loads(tasks.read_text(encoding="utf-8"))
    urls = [task["data"]["image"] for task in content]
    assert {unquote(url.removeprefix("/data/local-files/?d=images/")) for url in urls} == {f"{one}.png" for one in IDS}
    assert not any(character in "".join(urls) for character in "<>\"' \n&#")
    labels = [label.get("value") for label in ElementTree.parse(config).getroot().iter("Label")]
    used = [task["predictions"][0]["result"][0]["value"]["brushlabels"][0] for task in content]
    assert labels == [xml_text(name) for name in NAMES]
    assert set(used) <= set(labels)  # Label Studio finds the label of a region by its name


def test_png__names(hostile: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export(hostile.run, out, SilentMonitor(), format="png")
    assert {path.relative_to(out).as_posix() for path in files} == {f"{image_id}.png" for image_id in IDS}
