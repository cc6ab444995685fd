"""How well does the verdict without ground truth predict which classes failed?

    python -m bench.verdict RUN [RUN ...] --out FILE.json [--data NAME=FOLDER ...]
    python -m bench.verdict --out FILE.json --table FILE.md --chosen-on NAME [NAME ...]

Makes good and deliberately bad masks from the CAMs of each run, collects the evidence of stages/verdict and some other
signs, and compares them with the IoU of each class with the ground truth. RUN has labels, cached features, and a data
set with ground truth. Needs no GPU; a run of 330 images takes some minutes. The first form adds to FILE.json.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from data.atomic_write import atomic_write
from data.dataset import Sample
from data.readers import open_dataset, read_mask
from stages.features.cache import stored_features
from stages.labels.mask_shares import all_shares
from stages.labels.store import LabelFile
from stages.labels.stored_cams import read_cam
from stages.relabel.average_precision import mean_average_precision
from stages.relabel.choose_heads import held_out_heads, probabilities_by_image
from stages.relabel.patches import Patches, collect_patches
from stages.relabel.rounds import relabel_rounds
from stages.run_folder.artifacts import open_stage
from stages.toco.cam import labels_at, to_class_numbers
from stages.toco.metrics import Confusion
from stages.verdict.evidence import EMPTY, FEATURE_BYTES, area_under_curve, held_out
from stages.verdict.judge import GOOD_IOU, WEAK_IOU, ClassEvidence, judge_class

Masks = Mapping[str, NDArray[np.uint8]]
NATURAL = ("CAM at 0.3", "CAM at 0.5", "CAM at 0.7", "relabelled")
SIGNS = {  # whether a high value speaks for good masks
    "repeated": True,
    "told_apart": True,
    "average precision of that head": True,
    "probability of the class inside its masks": True,
    "AUC of that probability, inside and outside": True,
    "AUC of that probability, inside and images without the class": True,
    "image-label probe: AUC inside and outside": True,
    "image-label probe: part of the mask unlike other images": True,
    "IoU with the CAM at 0.5": True,
    "empty": False,
    "cover": False,
    "images with another class": False,
    "images": True,
}


def measure(run: Path, data: Path | None) -> list[dict[str, Any]]:
    """Evidence and IoU of each class, for each kind of masks."""
    labels = open_stage(run, "labels")
    dataset = open_dataset(data or labels.dataset_root)
    features = stored_features(run)
    assert features is not None
    cams = LabelFile(labels.path / "cams.h5", "cams")
    classes = len(dataset.class_names)
    samples = [one for one in dataset.split() if one.id in cams and one.id in features and one.labelled]
    truth = {one.id: read_mask(one, cams.image_size(one.id), classes) for one in samples if one.mask is not None}
    kinds = {kind: make() for kind, make in mask_makers(run, samples, cams, features.read, classes).items()}
    kinds["relabelled"] = relabelled(samples, kinds["CAM at 0.5"], features.read, classes)
    patches = patches_of(samples, kinds["CAM at 0.5"], features.read, classes, limit=FEATURE_BYTES)
    probe = image_label_probe(patches)
    rows = []
    for kind, masks in kinds.items():
        print(run.name, kind, flush=True)
        patches = with_labels_of(patches, samples, masks, features.read)
        heads = list(held_out_heads(patches))
        found, others = held_out(samples, patches, heads), other_signs(patches, heads, probe)
        iou, cam_iou = object_ious(masks, truth, classes), object_ious(masks, kinds["CAM at 0.5"], classes)
        quality = {one: image_iou(masks[one], truth[one], classes) for one in truth}
        for number, name in enumerate(dataset.class_names, start=1):
            if math.isnan(iou[number]):
                continue
            own = [one for one in samples if number in one.classes]
            covers = np.array([float((masks[one.id] == number).mean()) for one in own])
            others_beside = [sum(o in one.classes for one in own) for o in range(1, classes + 1) if o != number]
            rows.append(
                {
                    "kind": kind,
                    "class": name,
                    "iou": iou[number],
                    "repeated": found.repeated[number],
                    "told_apart": found.told_apart.get(number),
                    "IoU with the CAM at 0.5": cam_iou[number],
                    "empty": float((covers < EMPTY).mean()),
                    "cover": float(np.median(covers[covers >= EMPTY])) if (covers >= EMPTY).any() else 0.0,
                    "images": len(own),
                    "images with another class": max(others_beside, default=0) / max(1, len(own)),
                    **{sign: values[number - 1] for sign, values in others.items()},
                }
            )
        shown = [one for one in quality if one in found.images and not math.isnan(quality[one])]
        order = spearman([quality[one] for one in shown], [found.images[one] for one in shown])
        rows.append({"kind": kind, "class": None, "images_order": order})
    return rows


def mask_makers(
    run: Path, samples: Sequence[Sample], cams: LabelFile, read: Callable[[str], Any], classes: int
) -> dict[str, Callable[[], Masks]]:
    """Masks by kind, good and bad ones."""
    scores = {one.id: read_cam(cams, one.id) for one in samples}

    def at(threshold: float) -> Masks:
        return {
            one.id: to_class_numbers(labels_at(scores[one.id], threshold), one.classes).byte().numpy()
            for one in samples
        }

    def boxes() -> Masks:
        """Vertical strips, one for each class, of a box in the middle."""
        found = {}
        for one in samples:
            height, width = cams.image_size(one.id)
            mask = np.zeros((height, width), np.uint8)
            edges = np.linspace(width // 6, width - width // 6, len(one.classes) + 1).astype(int)
            for place, number in enumerate(one.classes):
                mask[height // 6 : height - height // 6, edges[place] : edges[place + 1]] = number
            found[one.id] = mask
        return found

    def shapes_of_others() -> Masks:
        """The region that another image's objects cover, with the classes of the image itself."""
        masks, showing = at(0.5), [one for one in samples if one.classes]
        order = np.random.default_rng(0).permutation(len(showing))
        found = {one.id: np.zeros(cams.image_size(one.id), np.uint8) for one in samples}
        for one, other in zip(showing, order, strict=True):
            shape = torch.from_numpy(masks[showing[other].id] > 0)[None, None].float()
            inside = F.interpolate(shape, size=cams.image_size(one.id))[0, 0].numpy() > 0
            best = np.array(one.classes, np.uint8)[scores[one.id].argmax(dim=0).numpy()]
            found[one.id] = np.where(inside, best, 0).astype(np.uint8)
        return found

    def turned_inside_out() -> Masks:
        """The background of every fourth class's images is taken for the class."""
        found = dict(at(0.5))
        for one in samples:
            if wrong := [number for number in one.classes if number % 4 == 1]:
                mask = found[one.id]
                found[one.id] = np.where(mask == 0, wrong[0], np.where(np.isin(mask, wrong), 0, mask)).astype(np.uint8)
        return found

    thresholds = (0.1, 0.3, 0.5, 0.7, 0.9)
    return {
        **{f"CAM at {one}": partial(at, one) for one in thresholds},
        "box in the middle": boxes,
        "shape of another image": shapes_of_others,
        "background of every fourth class": turned_inside_out,
    }


def patches_of(
    samples: Sequence[Sample], masks: Masks, read: Callable[[str], Any], classes: int, limit: int = 2**31
) -> Patches:
    """The patches of images, with the labels of masks."""
    return collect_patches(
        read,
        lambda image_id, grid: all_shares(masks[image_id], classes, grid),
        [(one.id, one.classes) for one in samples],
        classes,
        seed=0,
        limit=limit,
    )


def with_labels_of(patches: Patches, samples: Sequence[Sample], masks: Masks, read: Callable[[str], Any]) -> Patches:
    """The same patches with the labels of other masks. They are drawn again as `collect_patches` draws them."""
    classes, counts = patches.allowed.shape[1], patches.image.bincount(minlength=len(samples)).tolist()
    generator = torch.Generator().manual_seed(0)
    shares = []
    for one, count in zip(samples, counts, strict=True):
        height, width = read(one.id).shape[1:]
        own = all_shares(masks[one.id], classes, (height, width)).flatten(1).T.half()
        if count < height * width:
            own = own[torch.randperm(height * width, generator=generator)[:count]]
        shares.append(own)
    return replace(patches, shares=torch.cat(shares))


def relabelled(samples: Sequence[Sample], masks: Masks, read: Callable[[str], Any], classes: int) -> Masks:
    """The masks of linear heads, as coarse as the patches."""
    patches = patches_of(samples, masks, read, classes)
    relabel_rounds(patches, rounds=6, steps=300, after_round=lambda: None)
    labels = torch.split(patches.shares.argmax(dim=1), patches.image.bincount(minlength=len(samples)).tolist())
    found = {}
    for one, own in zip(samples, labels, strict=True):
        grid = read(one.id).shape[1:]
        coarse = own.reshape(1, 1, *grid).float()
        found[one.id] = F.interpolate(coarse, size=masks[one.id].shape)[0, 0].byte().numpy()
    return found


def image_label_probe(patches: Patches) -> torch.Tensor:
    """Log odds (n c) that a patch comes from an image with a class, by heads that learned other images' labels."""
    images, classes = patches.allowed.shape
    image = patches.image.long()
    odds = torch.zeros(len(image), classes)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    for half in (order[::2], order[1::2]):
        learn = torch.ones(images, dtype=torch.bool)
        learn[half] = False
        torch.manual_seed(0)
        head = torch.nn.Linear(patches.features.shape[1], classes)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
        known, generator = learn[image].nonzero().flatten(), torch.Generator().manual_seed(0)
        for _ in range(300):
            chosen = known[torch.randint(len(known), (2048,), generator=generator)]
            target = patches.allowed[image[chosen]].float()
            loss = F.binary_cross_entropy_with_logits(head(patches.features[chosen].float()), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            for part in torch.split((~learn[image]).nonzero().flatten(), 2**16):
                odds[part] = head(patches.features[part].float())
    return odds


def other_signs(
    patches: Patches, heads: Sequence[tuple[Any, torch.nn.Module]], probe: torch.Tensor
) -> dict[str, list[float]]:
    """Signs that the verdict does not use, by class."""
    images, classes = patches.allowed.shape
    image = patches.image.long()
    found = torch.zeros(len(image), classes + 1)
    scores = torch.zeros(images, classes)
    places = torch.split(torch.arange(len(image)), image.bincount(minlength=images).tolist())
    for half, head in heads:
        for number, own in probabilities_by_image(head, patches, half):
            found[places[number]] = own
            scores[number] = own[:, 1:].topk(max(1, len(own) // 20), dim=0).values.mean(dim=0)
    label = patches.shares.float().argmax(dim=1)
    names = [sign for sign in SIGNS if "probab" in sign or "probe" in sign or "precision" in sign]
    signs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(classes):
        has = patches.allowed[:, number][image]
        inside, outside, none = has & (label == number + 1), has & (label == 0), ~has
        own, odds = found[:, number + 1], probe[:, number]
        usual = float(odds[none].quantile(0.95)) if 0 < none.sum() < 2**24 else 0.0
        values = (
            mean_average_precision(scores[:, [number]], patches.allowed[:, [number]]),
            float(own[inside].mean()),
            some_area(own[inside], own[outside]),
            some_area(own[inside], own[none]),
            some_area(odds[inside], odds[outside]),
            float((odds[inside] > usual).float().mean()),
        )
        for name, value in zip(names, values, strict=True):
            signs[name].append(0.0 if math.isnan(value) else value)
    return signs


def some_area(first: torch.Tensor, second: torch.Tensor) -> float:
    """Area under the ROC curve of at most 2,000 values of each kind."""
    generator = torch.Generator().manual_seed(0)
    drawn = [one[torch.randperm(len(one), generator=generator)[:2000]] for one in (first, second)]
    return area_under_curve(drawn[0], drawn[1])


def object_ious(masks: Masks, truth: Masks, classes: int) -> list[float]:
    """IoU of background and all classes; NaN for classes that the ground truth does not show."""
    confusion = Confusion(classes + 1)
    for image_id, mask in truth.items():
        confusion.add(torch.from_numpy(masks[image_id]).long(), torch.from_numpy(mask).long())
    values: list[float] = confusion.scores().iou.tolist()
    return values


def image_iou(mask: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> float:
    """Mean IoU over the classes that the ground truth of one image shows; NaN if it shows none."""
    values = object_ious({"": mask}, {"": truth}, classes)[1:]
    return float(np.nanmean(values)) if not all(math.isnan(one) for one in values) else math.nan


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation."""
    ranks = [np.argsort(np.argsort(one)) for one in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def evidence_of(row: Mapping[str, Any]) -> ClassEvidence:
    """The evidence of a row as the verdict gets it."""
    count = int(row["images"])
    return ClassEvidence(
        name=row["class"],
        images=count,
        examined=count,
        empty=round(row["empty"] * count),
        cover=row["cover"],
        repeated=row["repeated"],
        told_apart=row["told_apart"],
        together="another" if row["images with another class"] >= 0.95 else None,
    )


def table(stored: Mapping[str, Sequence[Mapping[str, Any]]], chosen_on: Sequence[str]) -> str:
    """Markdown: precision and recall of the verdict, and what each sign is worth alone."""
    lines = [
        "| masks | runs | classes, below 30 | called failed: below 30, below 50 | of those below 30: failed, not good |"
    ]
    lines += ["| --- | --- | --- | --- | --- |"]
    others = [name for name in stored if name not in chosen_on]
    groups = {"chosen on": list(chosen_on), "held out": others, **{name: [name] for name in stored}}
    for title, kinds in (("usual", NATURAL), ("all, with bad ones", None)):
        for group, names in groups.items():
            rows = [
                row
                for name in names
                for row in stored[name]
                if row["class"] is not None and (kinds is None or row["kind"] in kinds)
            ]
            levels = [judge_class(evidence_of(row)).level for row in rows]
            failed = [row["iou"] < WEAK_IOU for row in rows]
            right = sum(level == "failed" and bad for level, bad in zip(levels, failed, strict=True))
            warned = sum(level != "good" and bad for level, bad in zip(levels, failed, strict=True))
            called = [row["iou"] for row, level in zip(rows, levels, strict=True) if level == "failed"]
            precision = [sum(iou < limit for iou in called) / max(1, len(called)) for limit in (WEAK_IOU, GOOD_IOU)]
            recall = [count / max(1, sum(failed)) for count in (right, warned)]
            lines.append(
                f"| {title} | {group} | {len(rows)}, {sum(failed)} | {precision[0]:.2f}, {precision[1]:.2f} "
                f"| {recall[0]:.2f}, {recall[1]:.2f} |"
            )
    lines += ["", "| sign alone | AUC for 'failed', usual masks | all masks |", "| --- | --- | --- |"]
    rows = [row for name in stored for row in stored[name] if row["class"] is not None]
    for sign, high_is_good in SIGNS.items():
        figures = []
        for kinds in (NATURAL, None):
            own = [row for row in rows if (kinds is None or row["kind"] in kinds) and row[sign] is not None]
            values = torch.tensor([(-1.0 if high_is_good else 1.0) * row[sign] for row in own])
            bad = torch.tensor([row["iou"] < WEAK_IOU for row in own], dtype=torch.bool)
            figures.append(f"{area_under_curve(values[bad], values[~bad]):.2f}")
        lines.append(f"| {sign} | {' | '.join(figures)} |")
    lines += ["", "| masks | rank correlation of the images' agreement with their IoU, by run |", "| --- | --- |"]
    for kind in dict.fromkeys(row["kind"] for row in next(iter(stored.values()))):
        orders = {
            name: row["images_order"]
            for name in stored
            for row in stored[name]
            if row["class"] is None and row["kind"] == kind
        }
        lines.append(f"| {kind} | {', '.join(f'{name} {value:.2f}' for name, value in orders.items())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, and measure or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--chosen-on", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    moved = dict(one.split("=", 1) for one in options.data)
    for run in options.runs:
        if run.name not in stored:
            stored[run.name] = measure(run, Path(moved[run.name]) if run.name in moved else None)
            with atomic_write(options.out) as temporary:
                temporary.write_text(json.dumps(stored))
    text = table(stored, options.chosen_on)
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
