"""The folder that `toco predict` writes: an image's files, and the record of what they were made with.

DIR/predict.json         the network's digest, the settings, the classes' names, and the images they were used for
DIR/masks/NAME.png       palette PNGs whose pixels are class numbers, 0 background
DIR/overlays/NAME.png    the image with the colours of its mask; a legend below names the classes that it shows
DIR/numpy/NAME.npy       uint8 (h, w): class numbers
DIR/probabilities/NAME.npy    float16 (classes, h, w): the background's first
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.atomic_write import atomic_write
from data.dataset import Sample
from data.errors import ArtifactError, SettingsError
from data.palette import overlay, palette_image
from stages.config import Predict, upgraded
from stages.networks.inference import resize_maps
from stages.networks.segmenter import Segmentation
from stages.run_folder.artifacts import StageFolder, as_plain, check_same_settings, file_digest
from stages.run_folder.saving import write_json

SUFFIXES = {"masks": ".png", "overlays": ".png", "numpy": ".npy", "probabilities": ".npy"}  # by kind, and folder
RECORD = "predict.json"
# Settings that may differ when predicting goes on. Which network `source` means is told by its digest.
PREDICT_MAY_CHANGE = (
    "source",
    "outputs",
    "batch_size",
    "crf_backend",
    "device",
    "devices",
    "nodes",
    "workers",
    "skip_bad",
)

Record = Mapping[str, Any]


def files_of(out: Path, sample: Sample, kinds: Sequence[str] = tuple(SUFFIXES)) -> dict[str, Path]:
    """Where an image's results are written, by kind."""
    return {kind: out / kind / f"{sample.id}{SUFFIXES[kind]}" for kind in kinds}


def new_record(samples: Sequence[Sample], config: Predict, folder: StageFolder) -> Record:
    """Write down what images are to be segmented with."""
    record: Record = as_plain(
        {
            "toco": version("toco"),
            "network": str(folder.path.resolve()),
            "weights": file_digest(folder.path / "model.safetensors"),
            "class_names": folder.class_names,
            "settings": asdict(config),
            "images": {sample.id: str(sample.image.resolve()) for sample in samples},
        }
    )
    return record


def read_record(out: Path) -> Record | None:
    """Read the record of a folder; None if it has none.

    Raises:
        ArtifactError: It is damaged.
    """
    path = out / RECORD
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(record[name], dict) for name in ("settings", "images")):
            raise TypeError("'settings' and 'images' are no objects")
        str(record["weights"])
        return {**record, "settings": {**as_plain(asdict(Predict())), **upgraded(Predict, record["settings"])}}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): delete it, and predict with --overwrite") from error


def finished_images(
    out: Path, samples: Sequence[Sample], kinds: Sequence[str], record: Record, earlier: Record | None, *, resume: bool
) -> set[str]:
    """Tell which images need nothing more, and refuse to replace files.

    Args:
        out: Folder of the results.
        samples: The images.
        kinds: What is to be written.
        record: Of what is asked for now.
        earlier: Of what the folder was begun with, if it was.
        resume: Go on with it: files that were made from the same image, with the same, are kept.

    Returns:
        Ids of images all of whose files are there.

    Raises:
        ArtifactError: To go on, other settings or another network are given than before.
        SettingsError: Files exist that are not to go on with.
    """
    made: Mapping[str, str] = {}
    if resume and earlier is not None:
        check_same_settings(earlier, record["settings"], out, PREDICT_MAY_CHANGE)
        if earlier["weights"] != record["weights"]:
            raise ArtifactError(
                f"{out} was begun with another network than {record['network']} is now: use --overwrite to start "
                "again, or another folder"
            )
        made = earlier["images"]
    strangers = [
        file
        for sample in samples
        if made.get(sample.id) != record["images"][sample.id]
        for file in files_of(out, sample).values()
        if file.exists()
    ]
    if strangers:
        more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        how = ", and was made from another image" if resume else ""
        go_on = "" if resume else "--resume to go on, "
        raise SettingsError(
            f"{strangers[0]} exists{how}{more}: use {go_on}--overwrite to replace it, or another folder"
        )
    return {
        sample.id for sample in samples if made and all(file.exists() for file in files_of(out, sample, kinds).values())
    }


def begin(out: Path, samples: Sequence[Sample], record: Record, earlier: Record | None, *, overwrite: bool) -> None:
    """Write the record; with `overwrite`, first delete what the images have, so that going on does not keep it."""
    for file in (file for sample in samples if overwrite for file in files_of(out, sample).values()):
        file.unlink(missing_ok=True)
    for partial in (path for kind in SUFFIXES for path in (out / kind).rglob(".*.partial")):
        partial.unlink()  # of a run that was killed while it wrote
    before: Mapping[str, str] = earlier["images"] if earlier is not None and _made_alike(record, earlier) else {}
    write_json(out / RECORD, {**record, "images": {**before, **record["images"]}})


def _made_alike(record: Record, earlier: Record) -> bool:
    settings = [
        {key: value for key, value in one["settings"].items() if key not in PREDICT_MAY_CHANGE}
        for one in (record, earlier)
    ]
    return record["weights"] == earlier["weights"] and settings[0] == settings[1]


def write_results(
    files: Mapping[str, Path], picture: Image.Image, result: Segmentation, class_names: Sequence[str]
) -> None:
    """Write an image's results, each with an atomic write; the overlay's legend names the classes 1..C."""
    mask = result.label.numpy()
    for kind, file in files.items():
        with atomic_write(file) as temporary:
            if kind == "masks":
                palette_image(mask).save(temporary, format="PNG")
            elif kind == "overlays":
                overlay(picture, mask, legend=class_names).save(temporary, format="PNG")
            elif kind == "numpy":
                with temporary.open("wb") as opened:
                    np.save(opened, mask)
            elif result.probabilities is not None:  # never in windows: the settings refuse it
                _save_probabilities(temporary, result.probabilities, mask.shape)


def _save_probabilities(path: Path, probabilities: Float[Tensor, "classes _h _w"], size: tuple[int, ...]) -> None:
    """Save probabilities at the image's size (h, w), class by class: all together may not fit into memory."""
    shape = (len(probabilities), *size)
    with path.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for plane in probabilities:
            resized = resize_maps(plane[None], (size[0], size[1]))[0]
            opened.write(resized.half().cpu().numpy().astype("<f2", copy=False).tobytes())
