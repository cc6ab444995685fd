"""The gallery of a report: the choice of images, and the pictures of each image."""

import base64
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from data.dataset import IGNORE_INDEX, Sample
from data.palette import class_colours
from data.pictures import coloured, heat
from data.readers import read_mask
from stages.corrections.given_masks import used_ids
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.reporting.products import Products, RunProducts, best_score
from stages.run_folder.run_data import skipping
from stages.runtime.monitor import Monitor

PICTURE_SIDE = 480  # pixels; longer side of a picture when it is enlarged
SLIDER_SIDE = 128  # pixels; longer side of the masks that follow the slider
EACH_CLASS = 3  # at least this many images of each class, if there are any ...
MOST_IMAGES = 60  # ... but no images are added beyond this many: each adds about 0.3 MB to the page

CAM_NAMES = {"cam": "CAM", "aux": "auxiliary CAM"}  # by --source
Rank = Literal["best", "median", "worst"]


class Ranked(NamedTuple):
    """An image and how good its pseudo mask is, as far as that is known."""

    sample: Sample
    score: float  # 0..1: IoU of the objects against the ground truth; without one, how far the mask can be trusted
    rank: Rank


def rankable_samples(products: RunProducts) -> list[Sample]:
    """List the images with a pseudo mask that no person drew; only those with ground truth, if there are any."""
    masks = products.masks
    if masks is None or products.labels_folder is None:
        return []
    drawn = used_ids(products.labels_folder)
    stored = [one for one in products.dataset.by_id().values() if one.id in masks and one.id not in drawn]
    return [sample for sample in stored if sample.mask is not None] or stored


def rank(
    samples: Sequence[Sample],
    products: RunProducts,
    monitor: Monitor,
    *,
    trust: Mapping[str, float],
    skip_bad: bool,
) -> list[Ranked]:
    """Sort images by the quality of their pseudo masks, worst first, and divide them into three ranks of equal size.

    The quality is the IoU of the objects with the ground truth. For an image without ground truth it is `trust`, or
    else the IoU with the mask of the CAM alone; an image whose label names a class that its mask lacks is worst.
    Images that show no object, and are not marked either, are left out: there is nothing to see.

    Args:
        samples: Images with a pseudo mask.
        products: Products of the run; its labels must be finished.
        monitor: Receives the progress and warnings.
        trust: How far the mask of an image can be trusted, 0..1, by image id; see `stages.verdict.evidence`.
        skip_bad: Skip images whose ground-truth mask cannot be used.

    Raises:
        DataError: A ground-truth mask cannot be used, and `skip_bad` is false.
    """
    assert products.masks is not None
    assert products.labels_folder is not None
    cams = LabelFile(products.labels_folder.path / "cams.h5", "cams")
    scored = []
    monitor.start("ranking the masks", len(samples))
    for sample in samples:
        with skipping(skip_bad, monitor):
            mask = products.masks.read(sample.id)
            if sample.mask is None and sample.id in trust:
                score = trust[sample.id]
            else:
                reference = _reference(sample, mask, cams, products)
                score = object_iou(mask, reference, sample.classes if sample.mask is None else ())
            if not math.isnan(score):
                scored.append((score, sample))
        monitor.advance()
    monitor.finish()
    scored.sort(key=lambda pair: pair[0])
    return [Ranked(sample, score, _rank(place, len(scored))) for place, (score, sample) in enumerate(scored)]


def choose(ranked: Sequence[Ranked], count: int, num_classes: int) -> list[Ranked]:
    """Choose the images of the gallery.

    One third of `count` images are the worst, one third are in the middle, one third are the best. Then images are
    added until each class is shown in EACH_CLASS images, if it has this many, or until there are MOST_IMAGES.

    Args:
        ranked: All images, worst first.
        count: Number of images, without those added for the classes.
        num_classes: Number of foreground classes.

    Returns:
        The chosen images, worst first.
    """
    third, total = -(-count // 3), len(ranked)
    middle = max(0, (total - third) // 2)
    places = {
        *range(min(third, total)),
        *range(middle, min(middle + third, total)),
        *range(max(0, total - third), total),
    }
    for number in range(1, num_classes + 1):
        having = [place for place, one in enumerate(ranked) if number in one.sample.classes]
        # Add the worst, the best and the middle one, until there are enough.
        for index in (0, len(having) - 1, len(having) // 2):
            if having and len(places) < MOST_IMAGES and sum(place in places for place in having) < EACH_CLASS:
                places.add(having[index])
    return [ranked[place] for place in sorted(places)]


def _rank(place: int, total: int) -> Rank:
    return "worst" if 3 * place < total else "median" if 3 * place < 2 * total else "best"


def _reference(sample: Sample, mask: NDArray[np.uint8], cams: LabelFile, products: RunProducts) -> NDArray[np.uint8]:
    if sample.mask is not None:
        return read_mask(sample, (mask.shape[0], mask.shape[1]), len(products.dataset.class_names))
    assert products.labels_folder is not None
    decoder = products.labels_folder.settings["source"] == "decoder"
    label = stored_label(cams, sample.id, None if decoder else products.background_threshold)
    return label.numpy().astype(np.uint8)


def object_iou(mask: NDArray[np.uint8], reference: NDArray[np.uint8], expected: Collection[int] = ()) -> float:
    """Return the IoU, averaged over the classes in either of two masks (h, w), and those that are expected.

    Background does not count, so that a mask without any object is not good. If the reference has no class, the result
    is the part of the image that the mask leaves free; NaN if the mask has no class either.

    Args:
        mask: Pixels that are 255 here count as wrong.
        reference: Pixels that are 255 here are left out.
        expected: Classes whose IoU counts, as 0, if they are in neither mask.
    """
    known = reference != IGNORE_INDEX
    found = set(np.unique(mask[known]).tolist()) - {0, IGNORE_INDEX}
    wanted = (set(np.unique(reference).tolist()) - {0, IGNORE_INDEX}) | set(expected)
    if not wanted:
        return 1 - float(np.isin(mask[known], list(found)).mean()) if found else math.nan
    return float(
        np.mean(
            [
                ((mask == number) & (reference == number)).sum()
                / max(1, (((mask == number) | (reference == number)) & known).sum())
                for number in found | wanted
            ]
        )
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of the gallery, as the page shows it. Pictures are data URLs."""

    name: str
    classes: tuple[int, ...]
    rank: Rank
    score: float  # as in Ranked
    pictures: Mapping[str, str]  # title -> picture; the page puts the slider's mask after the third, the CAMs
    slider: Mapping[
        str, Any
    ]  # for the slider's mask: width, height, scores and labels (base64 of bytes), see `_slider`


def entries(chosen: Sequence[Ranked], products: RunProducts, monitor: Monitor, *, skip_bad: bool) -> Iterator[Entry]:
    """Run the networks on the chosen images, and yield their entries.

    Raises:
        DataError: An image or its ground-truth mask cannot be used, and `skip_bad` is false.
    """
    colours = class_colours(len(products.dataset.class_names))
    monitor.start("making the gallery", len(chosen))
    for one in chosen:
        with skipping(skip_bad, monitor):
            made = products.of(one.sample)
            yield Entry(
                name=one.sample.id,
                classes=made.classes,
                rank=one.rank,
                score=one.score,
                pictures=_pictures(made, products, colours),
                slider=_slider(made),
            )
        monitor.advance()
    monitor.finish()


def pseudo_mask_title(products: RunProducts) -> str:
    """Return a title that says how the pseudo masks were refined."""
    settings = products.label_settings
    steps = []
    if settings is not None and settings.segments != "none":
        steps.append({"slic": "SLIC", "sam": "SAM"}.get(settings.segments, "segments"))
    if settings is not None and settings.uses_par:
        steps.append("PAR")
    if settings is not None and settings.uses_crf:
        steps.append("CRF")
    return f"pseudo mask ({' and '.join(steps) or 'not refined'})"


def panels(
    made: Products, products: RunProducts, colours: NDArray[np.uint8], background: float | None = None
) -> dict[str, Image.Image]:
    """Draw all products of an image, by title.

    Args:
        made: Products of the image.
        products: Products of the run.
        colours: Colours of the classes 1..C, shape (C, 3).
        background: Background threshold for an additional panel with the mask of the CAM alone; None for no such panel.
    """
    masks: dict[str, NDArray[np.uint8] | None] = {}
    if background is not None:
        masks[f"{CAM_NAMES[made.source]} above {background:g}"] = made.at(background)
    masks |= {
        pseudo_mask_title(products): made.pseudo_mask,
        "student": made.student,
        "ground truth": made.truth,
    }
    return {
        "image": made.image,
        "CAM": heat(made.image, best_score(made.cam).numpy()),
        "auxiliary CAM": heat(made.image, best_score(made.auxiliary_cam).numpy()),
        **{name: coloured(made.image, mask, colours) for name, mask in masks.items() if mask is not None},
    }


def _pictures(made: Products, products: RunProducts, colours: NDArray[np.uint8]) -> dict[str, str]:
    small = resized_products(made, PICTURE_SIDE)
    return {name: data_url(picture) for name, picture in panels(small, products, colours).items()}


def resized_products(made: Products, side: int) -> Products:
    """Resize all products so that the longer side has at most `side` pixels."""
    factor = min(1.0, side / max(made.image.size))
    width, height = (max(1, round(length * factor)) for length in made.image.size)

    def resized_mask(mask: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        if mask is None:
            return None
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))

    def resized_maps(maps: torch.Tensor) -> torch.Tensor:
        if not len(maps):  # `interpolate` refuses an image without classes
            return maps.new_zeros(0, height, width)
        return F.interpolate(maps[None], size=(height, width), mode="bilinear")[0]

    return Products(
        image=made.image.resize((width, height), Image.Resampling.LANCZOS),
        classes=made.classes,
        cam=resized_maps(made.cam),
        auxiliary_cam=resized_maps(made.auxiliary_cam),
        source=made.source,
        pseudo_mask=resized_mask(made.pseudo_mask),
        student=resized_mask(made.student),
        truth=resized_mask(made.truth),
    )


def _slider(made: Products) -> dict[str, Any]:
    """Return each pixel's best class and its score in percent, from which the page draws the mask at any threshold.

    Scores are rounded up, so that a score above a whole percent stays above it.
    """
    small = resized_products(made, SLIDER_SIDE)
    scores = (100 * best_score(small.scores)).ceil().byte().numpy()
    return {
        "width": scores.shape[1],
        "height": scores.shape[0],
        "scores": base64.b64encode(scores.tobytes()).decode(),
        "labels": base64.b64encode(small.at(-1.0).tobytes()).decode(),
    }


def data_url(picture: Image.Image) -> str:
    """Return a picture as a data URL of a WebP."""
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
