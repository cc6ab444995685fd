"""`--segments sam`: a Segment Anything Model of transformers segments the images, once, into RUN/segments.

    config.json        what determines the segments: the model and the number of points
    images/ID.json     the segments of an image, in the format of SA-1B; `bytes` and `modified` are those of the image

A file under its final name is complete, so that an interrupted command goes on where it stopped.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_lengths

from data.atomic_write import atomic_write
from data.band_image import as_picture
from data.dataset import Sample
from data.errors import FIX_OR_SKIP, DataError, SettingsError, reason
from data.images import read_image
from stages.config import MakeLabels
from stages.networks.hub import failing_at_once
from stages.run_folder.artifacts import file_digest
from stages.run_folder.saving import write_json
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.segments.file_stamps import file_stamp

# A segment that the model is less sure of is left out; values of SAM's own automatic mask generator.
PREDICTED_IOU, STABILITY = 0.88, 0.95


def compute_segments(
    run: Path, config: MakeLabels, samples: Sequence[Sample], fabric: Fabric, monitor: Monitor
) -> None:
    """Segment the images that have no segments in RUN/segments yet, or whose file has changed.

    Raises:
        DataError: An image cannot be read, and bad images are not to be skipped.
        SettingsError: The model is not available.
    """
    folder = run / "segments"
    spec = {"model": config.sam_model, "digest": _digest(Path(config.sam_model)), "points": config.sam_points}
    if _read(folder / "config.json") != spec:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "config.json", spec)
    left = [one for one in samples if _stamp_in(folder / "images" / f"{one.id}.json") != file_stamp(one.image)]
    if not left:
        return
    generator = _load(config, fabric)
    monitor.start("segmenting images", len(samples), done=len(samples) - len(left))
    for sample in left:
        try:
            image = as_picture(read_image(sample.image, rule=sample.pixels))
        except DataError as error:
            if not config.skip_bad:
                raise DataError(f"{error}; {FIX_OR_SKIP}") from error
            monitor.warn(f"skipped: {error}")
        else:
            annotations = _segments(generator, image, config.sam_points)
            about = {"width": image.width, "height": image.height, **file_stamp(sample.image)}
            with atomic_write(folder / "images" / f"{sample.id}.json") as temporary:
                temporary.write_text(json.dumps({"image": about, "annotations": annotations}), encoding="utf-8")
        monitor.advance()
    monitor.finish()


def _load(config: MakeLabels, fabric: Fabric) -> Any:
    """Load model and image processor, from safetensors only."""
    import transformers

    library: Any = transformers  # whose annotations are incomplete
    library.utils.logging.disable_progress_bar()
    try:
        with failing_at_once():
            model = library.AutoModelForMaskGeneration.from_pretrained(config.sam_model, use_safetensors=True)
            processor = library.AutoImageProcessor.from_pretrained(config.sam_model)
        return library.pipeline("mask-generation", model=model.eval(), image_processor=processor, device=fabric.device)
    except Exception as error:  # failed downloads and other folders raise many kinds of exceptions
        raise SettingsError(
            f"--sam-model {config.sam_model!r} cannot be loaded ({reason(error)}): give a model of SAM or SAM 2 for "
            "transformers, by its name on the Hugging Face hub, or a folder with config.json, preprocessor_config.json "
            "and model.safetensors"
        ) from error


def _segments(generator: Any, image: Image.Image, points: int) -> list[dict[str, Any]]:
    made = generator(
        image,
        points_per_crop=points,
        points_per_batch=64,
        pred_iou_thresh=PREDICTED_IOU,
        stability_score_thresh=STABILITY,
    )
    return [
        _annotation(np.asarray(mask, bool), float(score))
        for mask, score in zip(made["masks"], made["scores"], strict=True)
    ]


def _annotation(mask: NDArray[np.bool_], score: float) -> dict[str, Any]:
    code: Any = run_lengths.encode(np.asfortranarray(mask, np.uint8))
    segmentation = {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}
    return {"segmentation": segmentation, "area": int(mask.sum()), "predicted_iou": round(score, 4)}


def _digest(folder: Path) -> str | None:
    """Checksum of the weights in a local folder; None for a name on the hub."""
    weights = folder.expanduser() / "model.safetensors"
    return file_digest(weights) if weights.is_file() else None


def _stamp_in(file: Path) -> object:
    content = _read(file)
    about = content.get("image") if isinstance(content, dict) else None
    return {key: about.get(key) for key in ("bytes", "modified")} if isinstance(about, dict) else None


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
