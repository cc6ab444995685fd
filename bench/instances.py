"""How well are touching objects separated? AP50 on drawings, whose objects are known.

    python -m bench.instances RUN --out DIR [--seeds 0 1] [--images 150] [--min-area 1] [--table FILE]

RUN is the run of a finished `toco demo`; its network makes the pseudo masks. For each seed, two sets are drawn: the
demo's pictures, and crowded ones, where two to four objects of one class touch. Masks are the ground truth and the
pseudo masks. pycocotools measures the objects that `toco export --format coco` writes. Finished parts are kept in DIR.
"""

import argparse
import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.atomic_write import atomic_write
from data.drawing.sample import draw_sample, sample_scene
from data.readers import open_dataset
from stages.demo import LABELS, SAMPLE
from stages.export import export
from stages.exports.labelled_images import SEPARATIONS
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard
from stages.make_labels import make_labels
from stages.run_folder.artifacts import finished
from stages.runtime.monitor import SilentMonitor
from toco_cli.progress import RichMonitor

SETS: Mapping[str, bool] = {"demo": False, "crowded": True}
MASKS = ("ground truth", "pseudo")
SIZE = SAMPLE["size"]
Coco = dict[str, Any]


def prepare(network: Path, place: Path, *, seed: int, images: int, crowded: bool) -> Path:
    """Draw a set and make its pseudo masks, and a run with the ground truth as masks beside them."""
    data, run, truth = place / "data", place / "pseudo", place / "ground truth"
    if not data.exists():
        draw_sample(data, images=images, validation=0, size=SIZE, seed=seed, crowded=crowded)
    if not (run / "cam").exists():
        shutil.copytree(network / "cam", run / "cam")
    if not finished(run, "labels"):
        make_labels(run, LABELS, RichMonitor(), data=open_dataset(data), resume=(run / "labels").exists())
    if not finished(truth, "labels"):
        shutil.copytree(run / "labels", truth / "labels", ignore=lambda _, names: {"labels.h5"} & set(names))
        cams = LabelFile(run / "labels" / "cams.h5", "cams")
        drawn = [
            ImageLabels(
                id=one, classes=cams.classes(one), cam=cams.read(one), mask=scene(one, seed=seed, crowded=crowded)[1]
            )
            for one in cams.ids
        ]
        shard = truth / "shard.h5"
        write_shard(shard, drawn)
        join_shards([shard], truth / "labels", label_attributes(cams.class_names, {}))
    return place


def scene(image_id: str, *, seed: int, crowded: bool) -> Any:
    """Draw a picture again: image, mask and objects."""
    return sample_scene(int(image_id), size=SIZE, seed=seed, crowded=crowded)


def true_objects(content: Coco, *, seed: int, crowded: bool) -> Coco:
    """Return the drawn objects of the images of a COCO file."""
    annotations: list[Coco] = []
    for entry in content["images"]:
        _, mask, objects = scene(Path(entry["file_name"]).stem, seed=seed, crowded=crowded)
        for number in np.unique(objects[objects > 0]):
            pixels = objects == number
            code: Any = run_lengths.encode(np.asfortranarray(pixels.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["id"],
                    "category_id": int(mask[pixels][0]),
                    "iscrowd": 0,
                    "area": int(pixels.sum()),
                    "bbox": run_lengths.toBbox(code).tolist(),
                    "segmentation": code,
                }
            )
    return {**content, "annotations": annotations}


def average_precision(truth: Coco, found: Coco, kind: Literal["bbox", "segm"]) -> float:
    """AP at an IoU of 0.5, in %, of 'bbox' or 'segm'."""
    with contextlib.redirect_stdout(io.StringIO()):
        known, made = (index(one) for one in (truth, found))
        evaluation = COCOeval(known, made, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[1])


def index(content: Coco) -> COCO:
    """Open annotations that are in memory."""
    coco = COCO()
    coco.dataset = content  # type: ignore[assignment]
    coco.createIndex()
    return coco


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Export and measure every combination."""
    rows = []
    for seed in options.seeds:
        for name, crowded in SETS.items():
            place = prepare(
                options.run, options.out / f"{name}-{seed}", seed=seed, images=options.images, crowded=crowded
            )
            for masks in MASKS:
                for separation in ("components", *(one for one in SEPARATIONS if one != "components")):
                    (file,) = export(
                        place / masks,
                        place / "exports" / f"{masks}, {separation}",
                        SilentMonitor(),
                        format="coco",
                        instances=separation,
                        min_area=options.min_area,
                        data=place / "data",
                        overwrite=True,
                    )
                    found = json.loads(file.read_text(encoding="utf-8"))
                    truth = true_objects(found, seed=seed, crowded=crowded)
                    rows.append(
                        {
                            "seed": seed,
                            "pictures": name,
                            "masks": masks,
                            "instances": separation,
                            "objects": len(truth["annotations"]),
                            "found": len(found["annotations"]),
                            "boxes": average_precision(truth, found, "bbox"),
                            "outlines": average_precision(truth, found, "segm"),
                        }
                    )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line for each row."""
    lines = [
        "| seed | pictures | masks | `--instances` | drawn | found | AP50 boxes | AP50 masks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--min-area", type=int, default=1, help="of 'toco export'; 1 keeps all pieces of the masks")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    text = table(measure(options))
    print(text)
    if options.table:
        with atomic_write(options.table) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
