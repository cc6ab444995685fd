import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import pytest

from data.errors import ArtifactError, DataError
from stages.config import MakeLabels, Report, View
from stages.labels.label_settings import CHOSEN, INSTANCES
from stages.make_labels import make_labels
from stages.report import report
from stages.run_folder.artifacts import open_stage
from stages.runtime.monitor import SilentMonitor
from stages.view import view

CONFIG = Report(device="cpu")


class Reader(HTMLParser):
    """Collects the references, ids and text of a page, and checks that its tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.without_text: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [value for name in ("src", "href") if (value := values.get(name))]
        self.ids += [value for value in [values.get("id")] if value]
        if tag == "img" and not values.get("alt"):
            self.without_text.append(str(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_report__refers_to_no_other_file_or_address(whole_run: Path) -> None:
    found = read(whole_run / "report.html")
    inside = {f"#{name}" for name in found.ids}
    assert all(address.startswith("data:") or address in inside for address in found.addresses)
    assert len(found.ids) == len(set(found.ids))
    assert found.without_text == []
    page = (whole_run / "report.html").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"data:[^\"]*", "", page)


def test_report__shows_each_part(whole_run: Path) -> None:
    found = read(whole_run / "report.html")
    assert {"verdict", "run", "scores", "gallery", "training", "confusion", "smoothing", "settings"} <= set(found.ids)
    for words in (
        "Or correct masks by hand: toco pick ",
        "pseudo mask (CRF)",
        "student",
        "ground truth",
        "auxiliary CAM",
        "--iterations 4",
        "finished after",
    ):
        assert words in found.text, words


def test_report__slider_has_the_data_of_each_gallery_image(whole_run: Path) -> None:
    page = (whole_run / "report.html").read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page)
    assert match is not None
    facts = json.loads(match[1])
    assert (
        len(facts["sliders"]) == page.count('<article class="entry"') == 6
    )  # of 8 training images: nothing is to be seen in two
    assert {(one["width"], one["height"]) for one in facts["sliders"]} == {(64, 64), (48, 64)}
    assert len(facts["colours"]) == 2
    assert facts["curve"][0]["background"] == 0.02


def test_report__shows_the_settings_that_auto_chose(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    config = json.loads((run / "labels/config.json").read_text())
    (run / "labels/config.json").write_text(json.dumps({**config, CHOSEN: dict(INSTANCES)}))
    text = read(report(run, CONFIG, SilentMonitor())).text
    assert "--relabel mil" in text
    assert "--refine crf" not in text


def test_report__of_a_run_with_only_train_cam(cam_run: Path, listener: Callable[[], Any]) -> None:
    found = read(report(cam_run, CONFIG, listener()))
    assert "gallery" not in found.ids
    assert {"scores", "smoothing"} <= set(found.ids)


def test_report__without_ground_truth(
    draw_pictures: Callable[[Path], Path], cam_run: Path, tmp_path: Path, listener: Callable[[], Any]
) -> None:
    data = draw_pictures(tmp_path / "data")
    shutil.rmtree(data / "masks")
    make_labels(cam_run, MakeLabels(relabel="none", device="cpu", workers=1), SilentMonitor(), data=data)
    monitor = listener()
    found = read(report(cam_run, CONFIG, monitor, data=data))
    assert "gallery" in found.ids
    assert not {"scores", "confusion"} & set(found.ids)
    assert "These images have no ground-truth masks" in found.text
    assert "most suspicious" in found.text
    assert any(note.startswith("no scores: ") for note in monitor.notes)


def test_report__skips_bad_images_if_the_training_did(
    draw_pictures: Callable[[Path], Path], whole_run: Path, tmp_path: Path
) -> None:
    data, run = draw_pictures(tmp_path / "data"), tmp_path / "run"
    shutil.copytree(whole_run, run)
    (data / "images/w.jpg").write_bytes(b"")  # an image on which the networks are measured
    with pytest.raises(DataError, match=r"w\.jpg is empty"):
        report(run, CONFIG, SilentMonitor(), data=data)
    config = json.loads((run / "cam/config.json").read_text())
    config["settings"]["skip_bad"] = True
    (run / "cam/config.json").write_text(json.dumps(config))
    report(run, CONFIG, SilentMonitor(), data=data)


def test_report__leaves_out_an_outdated_student(whole_run: Path, tmp_path: Path, listener: Callable[[], Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    config = json.loads((run / "seg/config.json").read_text())
    (run / "seg/config.json").write_text(json.dumps({**config, "made_from": "0" * 64}))
    monitor = listener()
    page = report(run, CONFIG, monitor).read_text(encoding="utf-8")
    assert "<figcaption>student</figcaption>" not in page
    cause = "seg was made from a labels/labels.h5 that has been replaced since"
    assert any("left out" in warning and cause in warning for warning in monitor.warnings)


def test_report__compares_with_another_run(whole_run: Path, cam_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "other"
    shutil.copytree(whole_run, run)
    found = read(report(run, Report(device="cpu", compare=(str(cam_run),), images=2, gallery=3), SilentMonitor()))
    assert "after training" in found.text
    assert f"{open_stage(cam_run, 'cam').path.parent.name}: 0." in found.text


def test_report__escapes_names_and_paths(
    draw_pictures: Callable[[Path], Path], whole_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "<b>run & co"
    shutil.copytree(whole_run, run)
    page = report(run, Report(device="cpu", images=2, gallery=3), SilentMonitor())
    assert "<b>run & co" in read(page).text
    assert "<b>" not in page.read_text(encoding="utf-8")


HOSTILE_CLASSES = ("_</script><script>alert(1)</script>", "100% $x^2$ \"q\" 'q' {{ 1234 * 7 }} שלום \u202e😀")
HOSTILE_IDS = {
    "a": "</article><script>alert('x')</script>".replace("/", "\u2215"),
    "b": '{{ 1234 * 7 }} %s "q"\n😀\x01',
}


@pytest.fixture
def hostile_run(draw_pictures: Callable[[Path], Path], whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the run and its data, with names of classes and images that look like markup or code."""
    data, run = draw_pictures(tmp_path / "data"), tmp_path / "run"
    shutil.copytree(whole_run, run)
    (data / "classes.txt").write_text("\n".join(HOSTILE_CLASSES) + "\n", encoding="utf-8")
    with (data / "labels.csv").open(encoding="utf-8") as table:
        header, *rows = list(csv.reader(table))
    new_names = dict(zip(("red", "blue"), HOSTILE_CLASSES, strict=True))
    for row in rows:
        row[0] = HOSTILE_IDS.get(Path(row[0]).stem, Path(row[0]).with_suffix("").as_posix()) + ".jpg"
        row[1] = ";".join(new_names[name] for name in row[1].split(";") if name)
    with (data / "labels.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([header, *rows])
    for old, new in HOSTILE_IDS.items():
        (data / f"images/{old}.jpg").rename(data / f"images/{new}.jpg")
        (data / f"masks/{old}.png").rename(data / f"masks/{new}.png")
        for name, group in (("labels", "masks"), ("cams", "cams")):
            with h5py.File(run / f"labels/{name}.h5", "r+") as file:
                file.move(f"{group}/{old}", f"{group}/{new}")
                file.attrs["class_names"] = list(HOSTILE_CLASSES)
    for stage in ("cam", "labels", "seg"):
        path = run / stage / "config.json"
        config = json.loads(path.read_text())
        config["dataset"] |= {"root": str(data), "class_names": list(HOSTILE_CLASSES)}
        config.pop("made_from", None)
        path.write_text(json.dumps(config))
    return run


def test_report__names_of_classes_and_images_are_text(hostile_run: Path, whole_run: Path) -> None:
    page = report(hostile_run, CONFIG, SilentMonitor())
    found, before = page.read_text(encoding="utf-8"), (whole_run / "report.html").read_text(encoding="utf-8")
    assert found.count("<script") == before.count("<script")
    assert found.count("<article") == before.count("<article")
    text = read(page).text
    for name in (*HOSTILE_CLASSES, *HOSTILE_IDS.values()):
        assert name in text
    assert "8638" not in re.sub(r"data:[^\"]*", "", text)  # the product: no template was filled in


def test_view__names_of_classes_and_images_are_text(hostile_run: Path, tmp_path: Path) -> None:
    (image,) = (tmp_path / "data/images").glob("*alert*")
    assert view([image], hostile_run, tmp_path / "view.png", View(device="cpu"), SilentMonitor())[0].is_file()


def test_report__needs_a_trained_network(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no run folder"):
        report(tmp_path / "nowhere", CONFIG, SilentMonitor())
