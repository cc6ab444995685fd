from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stages.config import Evaluate
from stages.evaluate import NoGroundTruthError
from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard
from stages.runtime.monitor import SilentMonitor
from stages.sweep import sweep
from toco_cli.tables import sweep_table

CONFIG = Evaluate(device="cpu")


@pytest.fixture
def swept(labelled_run: Any) -> Any:
    """A run whose CAMs are 0.5 on the object and 0.2 elsewhere."""
    folder = labelled_run.run / "labels"
    labels = []
    for image_id, mask in labelled_run.masks.items():
        number = int(mask[mask != 255].max())
        cam = np.where(mask == number, 0.5, 0.2)[None].astype(np.float16)
        labels.append(ImageLabels(id=image_id, classes=(number,), cam=cam, mask=mask))
    write_shard(folder / "shards" / "1.h5", labels)
    join_shards([folder / "shards" / "1.h5"], folder, label_attributes(("red", "blue"), {}))
    return labelled_run


def test_sweep__finds_the_best_scores(swept: Any) -> None:
    curve = sweep(swept.run, CONFIG, SilentMonitor())
    by_score = dict(zip(curve.backgrounds, curve.mious, strict=True))
    assert all(by_score[score] > 0.9 for score in (0.25, 0.3, 0.35, 0.4, 0.45))
    assert by_score[0.15] < 0.5
    assert by_score[0.6] < 0.5
    assert 0.2 <= curve.backgrounds[curve.best] < 0.5
    assert (curve.split, curve.images, curve.used, curve.source) == ("train", 4, 0.5, "cam")


def test_sweep__as_plain_values_and_as_a_table(swept: Any) -> None:
    curve = sweep(swept.run, CONFIG, SilentMonitor())
    plain = curve.as_dict()
    assert plain["best"] == curve.backgrounds[curve.best]
    assert [point["background"] for point in plain["curve"]] == list(curve.backgrounds)
    console = Console(width=100, record=True, file=StringIO())
    console.print(sweep_table(curve))
    text = console.export_text()
    assert "4 images of split 'train'" in text
    assert text.count("best") == 1


def test_sweep__without_ground_truth(swept: Any) -> None:
    for path in (swept.data / "masks").rglob("*.png"):
        path.unlink()
    with pytest.raises(NoGroundTruthError, match="has no ground-truth masks for split 'train'"):
        sweep(swept.run, CONFIG, SilentMonitor())


def test_sweep__the_decoder_has_no_threshold(swept: Any) -> None:
    path: Path = swept.run / "labels" / "config.json"
    path.write_text(path.read_text().replace('"source": "cam"', '"source": "decoder"'))
    with pytest.raises(ValueError, match="was made from the decoder, which has no threshold to sweep over"):
        sweep(swept.run, CONFIG, SilentMonitor())
