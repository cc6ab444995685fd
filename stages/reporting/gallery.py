"""The gallery of a report: which images it shows, and what the page needs of each."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from data.dataset import Sample
from data.readers import read_mask
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.reporting.pictures import class_colours, coloured, heat
from stages.reporting.products import Products, RunProducts, best_score
from stages.run_folder.run_data import skipping
from stages.runtime.monitor import Monitor
from stages.toco.metrics import Confusion

PICTURE_SIDE = 200  # pixels of the longer side, in the page
SLIDER_SIDE = 128  # of what the slider works on
EACH_CLASS = 3  # images shown of a class at least, as far as there are any

CAM_NAMES = {"cam": "CAM", "aux": "auxiliary CAM"}  # by --source
Rank = Literal["best", "median", "worst"]


class Ranked(NamedTuple):
    """An image to be shown, and why."""

    sample: Sample
    score: float  # mIoU of its pseudo mask: against the true mask, or else against the mask of its CAM alone
    rank: Rank


def rank(samples: Sequence[Sample], products: RunProducts, monitor: Monitor, *, skip_bad: bool) -> list[Ranked]:
    """Order images by how good their pseudo masks are, best first, and say of each which third it is in.

    Where there are no true masks, a good mask is one that the CAM alone would have given nearly as well.

    Args:
        samples: Images with a pseudo mask.
        products: Their run.
        monitor: Told of progress.
        skip_bad: Leave out those whose true mask is bad.
    """
    assert products.masks is not None
    assert products.labels_folder is not None
    cams = LabelFile(products.labels_folder.path / "cams.h5", "cams")
    scored = []
    monitor.start("ranking the masks", len(samples))
    for sample in samples:
        with skipping(skip_bad, monitor):
            mask = products.masks.read(sample.id)
            scored.append((_likeness(mask, _reference(sample, mask, cams, products)), sample))
        monitor.advance()
    monitor.finish()
    scored.sort(key=lambda pair: -pair[0])
    return [Ranked(sample, score, _rank(place, len(scored))) for place, (score, sample) in enumerate(scored)]


def choose(ranked: Sequence[Ranked], count: int, num_classes: int) -> list[Ranked]:
    """Choose the best, the median and the worst third of `count` images, then those that a class still lacks.

    Args:
        ranked: Best first.
        count: How many in all, without those for the classes.
        num_classes: Foreground classes.

    Returns:
        Best first.
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
        # The best, the worst, the one in the middle: as long as too few are chosen.
        for index in (0, len(having) - 1, len(having) // 2):
            if having and sum(place in places for place in having) < EACH_CLASS:
                places.add(having[index])
    return [ranked[place] for place in sorted(places)]


def _rank(place: int, total: int) -> Rank:
    return "best" if 3 * place < total else "median" if 3 * place < 2 * total else "worst"


def _reference(sample: Sample, mask: NDArray[np.uint8], cams: LabelFile, products: RunProducts) -> NDArray[np.uint8]:
    if sample.mask is not None:
        return read_mask(sample, (mask.shape[0], mask.shape[1]), len(products.dataset.class_names))
    assert products.labels_folder is not None
    decoder = products.labels_folder.settings["source"] == "decoder"
    label = stored_label(cams, sample.id, None if decoder else products.background_threshold)
    return label.numpy().astype(np.uint8)


def _likeness(mask: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean IoU of one image over the labels that either has; ignored pixels of the mask count as wrong."""
    confusion = Confusion(int(max(mask[mask < 255].max(initial=0), reference[reference < 255].max(initial=0))) + 1)
    confusion.add(torch.from_numpy(mask), torch.from_numpy(reference))
    counts = confusion.counts.double()
    both = counts.diagonal()
    either = counts.sum(dim=1) + counts.sum(dim=0)[:-1] - both
    return float((both[either > 0] / either[either > 0]).mean()) if (either > 0).any() else 0.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of the gallery, as the page takes it; pictures are data URLs."""

    name: str
    classes: tuple[int, ...]
    rank: Rank
    score: float
    pictures: Mapping[str, str]  # heading -> picture; the moving mask's place is between the CAMs and the rest
    slider: Mapping[str, Any]  # width, height, scores and labels (base64 of bytes), for the moving mask


def entries(chosen: Sequence[Ranked], products: RunProducts, monitor: Monitor, *, skip_bad: bool) -> Iterator[Entry]:
    """Run the networks on the chosen images."""
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
    """How the stored masks were refined, in a heading."""
    settings = products.label_settings
    refined = [] if settings is None else ["PAR"] * settings.uses_par + ["CRF"] * settings.uses_crf
    return f"pseudo mask ({' and '.join(refined) if refined else 'not refined'})"


def panels(
    made: Products, products: RunProducts, colours: NDArray[np.uint8], background: float | None = None
) -> dict[str, Image.Image]:
    """Pictures of all that there is of an image, by their headings.

    Args:
        made: What the run makes of it.
        products: The run.
        colours: Of the classes 1..C, shape (C, 3).
        background: Also show the mask of the CAM alone at this score.
    """
    masks = {
        **({} if background is None else {f"{CAM_NAMES[made.source]} above {background:g}": made.at(background)}),
        pseudo_mask_title(products): made.pseudo_mask,
        "student": made.student,
        "true mask": made.truth,
    }
    return {
        "image": made.image,
        "CAM": heat(made.image, best_score(made.cam).numpy()),
        "auxiliary CAM": heat(made.image, best_score(made.auxiliary_cam).numpy()),
        **{name: coloured(made.image, mask, colours) for name, mask in masks.items() if mask is not None},
    }


def _pictures(made: Products, products: RunProducts, colours: NDArray[np.uint8]) -> dict[str, str]:
    small = _reduced(made, PICTURE_SIDE)
    return {name: _data_url(picture) for name, picture in panels(small, products, colours).items()}


def _reduced(made: Products, side: int) -> Products:
    """All of it with a longer side of at most `side` pixels."""
    factor = min(1.0, side / max(made.image.size))
    width, height = (max(1, round(length * factor)) for length in made.image.size)

    def mask(of: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        resized = None if of is None else Image.fromarray(of).resize((width, height), Image.Resampling.NEAREST)
        return None if resized is None else np.asarray(resized)

    def maps(of: torch.Tensor) -> torch.Tensor:
        return (
            F.interpolate(of[None], size=(height, width), mode="bilinear")[0]
            if len(of)
            else of.new_zeros(0, height, width)
        )

    return Products(
        image=made.image.resize((width, height), Image.Resampling.LANCZOS),
        classes=made.classes,
        cam=maps(made.cam),
        auxiliary_cam=maps(made.auxiliary_cam),
        source=made.source,
        pseudo_mask=mask(made.pseudo_mask),
        student=mask(made.student),
        truth=mask(made.truth),
    )


def _slider(made: Products) -> dict[str, Any]:
    """Each pixel's best class and its score in percent: all that a moving threshold needs to know.

    Scores are rounded up, so that those above a whole percent stay above it.
    """
    small = _reduced(made, SLIDER_SIDE)
    scores = (100 * best_score(small.scores)).ceil().byte().numpy()
    return {
        "width": scores.shape[1],
        "height": scores.shape[0],
        "scores": base64.b64encode(scores.tobytes()).decode(),
        "labels": base64.b64encode(small.at(-1.0).tobytes()).decode(),
    }


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
