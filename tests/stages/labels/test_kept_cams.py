from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import MakeLabels
from stages.labels.maker import LabelMaker
from stages.labels.store import LabelFile
from stages.make_labels import make_labels
from stages.run_folder.artifacts import read_config
from stages.run_folder.saving import write_json
from stages.runtime.monitor import SilentMonitor

CONFIG = MakeLabels(relabel="none", device="cpu", workers=1, scales=(1.0, 0.5), batch_size=1)
ALL = {"a", "b", "c", "d", "deep/e", "deep/f", "deep/g", "h"}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of the images whose CAMs the network computes."""
    ids: set[str] = set()
    score = LabelMaker.score

    def record(self: LabelMaker, samples: Any, *others: Any) -> Any:
        ids.update(one.id for one in samples)
        return score(self, samples, *others)

    monkeypatch.setattr(LabelMaker, "score", record)
    return ids


@pytest.fixture
def data(draw_pictures: Callable[[Path], Path], tmp_path: Path) -> Path:
    return draw_pictures(tmp_path / "data")


def products(run: Path) -> dict[str, bytes]:
    return {name: (run / "labels" / name).read_bytes() for name in ("cams.h5", "labels.h5")}


def test_make_labels__keeps_cams_of_the_same_network(cam_run: Path, data: Path, computed: set[str]) -> None:
    """Their masks are those of new CAMs, bit for bit."""
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    assert computed == ALL
    computed.clear()
    other = replace(CONFIG, refine="crf", background_threshold=0.3)
    make_labels(cam_run, other, SilentMonitor(), data=data, overwrite=True)
    assert not computed
    kept = products(cam_run)
    assert not (cam_run / "labels" / "shards").exists()
    (cam_run / "labels" / "config.json").unlink()
    (cam_run / "labels").rename(cam_run / "elsewhere")
    make_labels(cam_run, other, SilentMonitor(), data=data)
    assert computed == ALL
    assert products(cam_run) == kept


def test_make_labels__computes_the_cams_of_changed_images_again(
    cam_run: Path, data: Path, computed: set[str], tmp_path: Path
) -> None:
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    Image.fromarray(np.full((64, 48, 3), 99, np.uint8)).save(data / "images" / "a.jpg")
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("b.jpg,blue", "b.jpg,red"))
    computed.clear()
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data, overwrite=True)
    assert computed == {"a", "b"}
    assert LabelFile(cam_run / "labels" / "cams.h5", "cams").classes("b") == (1,)


@pytest.mark.parametrize(
    "changes", [{"scales": (1.0,)}, {"image_size": 48}, {"source": "aux"}, {"window": 32}, {"precision": "bf16"}]
)
def test_make_labels__computes_all_cams_again_with_other_settings(
    cam_run: Path, data: Path, computed: set[str], changes: dict[str, Any]
) -> None:
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    computed.clear()
    make_labels(cam_run, replace(CONFIG, **changes), SilentMonitor(), data=data, overwrite=True)
    assert computed == ALL


@pytest.mark.parametrize("entry", [{"toco": "0.0.1"}, {"made_from": "another network"}])
def test_make_labels__computes_all_cams_again_for_another_network_or_version(
    cam_run: Path, data: Path, computed: set[str], entry: dict[str, str]
) -> None:
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    write_json(cam_run / "labels" / "config.json", {**read_config(cam_run, "labels"), **entry})
    computed.clear()
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data, overwrite=True)
    assert computed == ALL


def without_header(content: bytes) -> bytes:
    """The header of the last object is lost: HDF5 then fails with other errors than for damaged values."""
    place = content.rindex(b"OHDR")
    return content[:place] + b"xxxx" + content[place + 4 :]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:2000], lambda content: content[:-900] + bytes(900), without_header]
)
def test_make_labels__damaged_cams_are_computed_again(
    cam_run: Path, data: Path, computed: set[str], damage: Callable[[bytes], bytes]
) -> None:
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    good = products(cam_run)
    (cam_run / "labels" / "cams.h5").write_bytes(damage(good["cams.h5"]))
    computed.clear()
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data, overwrite=True)
    assert computed
    assert products(cam_run) == good


def test_make_labels__an_interrupted_run_goes_on_with_kept_cams(
    cam_run: Path, data: Path, computed: set[str], listener: Any
) -> None:
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    good = products(cam_run)
    computed.clear()
    with pytest.raises(KeyboardInterrupt):
        make_labels(cam_run, CONFIG, listener(("advance", 2)), data=data, overwrite=True)
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data, resume=True)
    assert not computed
    assert products(cam_run) == good


def test_make_labels__an_image_that_is_replaced_meanwhile_does_not_keep_its_cam(
    cam_run: Path, data: Path, computed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is that of the pixels that the network got, not of the file when the mask is finished."""
    collect = LabelMaker._collect

    def replaced(self: LabelMaker, waiting: Any) -> Any:
        Image.fromarray(np.full((64, 48, 3), 99, np.uint8)).save(data / "images" / "a.jpg")
        return collect(self, waiting)

    with monkeypatch.context() as patch:
        patch.setattr(LabelMaker, "_collect", replaced)
        make_labels(cam_run, CONFIG, SilentMonitor(), data=data)
    computed.clear()
    make_labels(cam_run, CONFIG, SilentMonitor(), data=data, overwrite=True)
    assert computed == {"a"}
