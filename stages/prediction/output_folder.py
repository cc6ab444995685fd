"""The folder that `toco predict` writes: the results of each image, and a record of how they were made.

DIR/predict.json              the digest of the network's weights, the settings, the class names, and the images with
                              their size and time of change
DIR/masks/NAME.png            palette PNG: 0 background, 1..C classes, 255 where the image has no value
DIR/overlays/NAME.png         the image with the colours of its mask; a legend below names the classes in the mask
DIR/numpy/NAME.npy            uint8 (h, w): the labels of masks/
DIR/probabilities/NAME.npy    float16 (C + 1, h, w): probabilities, background first
DIR/geotiff/NAME.tif          the mask with the place of a GeoTIFF; without a place if the image has none
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.dataset import Sample
from data.errors import ArtifactError, SettingsError, reason
from data.output_place import check_holds_results, check_output_place, first_other_image
from data.written_folders import MARKED, RECORD, mark_as_written, written_by_toco
from stages.config import Predict, upgraded
from stages.run_folder.artifacts import StageFolder, as_plain, check_same_settings, file_digest
from stages.run_folder.saving import write_json
from stages.segments.file_stamps import file_stamp

SUFFIXES = {
    "masks": ".png",
    "overlays": ".png",
    "numpy": ".npy",
    "probabilities": ".npy",
    "geotiff": ".tif",
}  # kind, which is also the folder -> extension
# Settings that may differ on --resume. The network itself is compared by the digest of its weights, not by `source`.
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
STAMPS = "stamps"  # of a record: by image id, see `file_stamp`; records of earlier versions have none


def files_of(out: Path, sample: Sample, kinds: Sequence[str] = tuple(SUFFIXES)) -> dict[str, Path]:
    """List the files for the results of one image, by kind."""
    return {kind: out / kind / f"{sample.id}{SUFFIXES[kind]}" for kind in kinds}


def check_place(out: Path, kinds: Sequence[str], *, datasets: Sequence[Path | None], inputs: Sequence[Sample]) -> None:
    """Refuse a place whose folders of results would change a data set, hold the inputs, or hide other images.

    Raises:
        SettingsError: Says what is in the way.
    """
    check_output_place(out, folders=kinds, datasets=datasets, inputs=(sample.image for sample in inputs))
    if not written_by_toco(out):
        for kind in kinds:
            check_holds_results(out / kind)


def new_record(samples: Sequence[Sample], config: Predict, folder: StageFolder) -> Record:
    """Make the record of a prediction: the network, the settings and the images."""
    record: Record = as_plain(
        {
            "toco": version("toco"),
            MARKED: True,
            "network": str(folder.path.resolve()),
            "weights": file_digest(folder.path / "model.safetensors"),
            "class_names": folder.class_names,
            "settings": asdict(config),
            "images": {sample.id: str(sample.image.resolve()) for sample in samples},
            STAMPS: {sample.id: file_stamp(sample.image) for sample in samples if sample.image.exists()},
        }
    )
    return record


def read_record(out: Path) -> Record | None:
    """Read the record of an output folder; None if the folder has no record.

    Raises:
        ArtifactError: The record is damaged.
    """
    path = out / RECORD
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError("it is not an object")
        if not all(isinstance(record[name], dict) for name in ("settings", "images")):
            raise TypeError("'settings' and 'images' must be objects")
        str(record["weights"])
        return {**record, "settings": {**as_plain(asdict(Predict())), **upgraded(Predict, record["settings"])}}
    except (ValueError, KeyError, TypeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise ArtifactError(f"{path} is damaged ({what}): delete it, and predict with --overwrite") from error


def finished_images(
    out: Path, samples: Sequence[Sample], kinds: Sequence[str], record: Record, earlier: Record | None, *, resume: bool
) -> set[str]:
    """Find the images whose results are complete, and refuse to replace any other result.

    Args:
        out: Folder for the results.
        samples: The images to predict.
        kinds: The kinds of results to write.
        record: Record of this prediction.
        earlier: Record of the earlier prediction in `out`, if there is one.
        resume: Keep the results of the earlier prediction that were made from the same image files.

    Returns:
        Ids of the images whose results all exist.

    Raises:
        ArtifactError: The earlier prediction had other settings or another network, so it cannot be resumed.
        SettingsError: A result exists that would be replaced.
    """
    made: Mapping[str, str] = {}  # image id -> image file
    if resume and earlier is not None:
        check_same_settings(earlier, record["settings"], out, PREDICT_MAY_CHANGE)
        if earlier["weights"] != record["weights"]:
            raise ArtifactError(
                f"{out} was started with another network than the present {record['network']}: "
                "use --overwrite to start again, or another folder"
            )
        made = earlier["images"]
    conflicts = [
        file
        for sample in samples
        if made.get(sample.id) != record["images"][sample.id]
        for file in files_of(out, sample).values()
        if file.exists()
    ]
    if conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        if resume:
            problem, options = f"exists, and was made from another image{more}", "--overwrite to replace it"
        else:
            problem, options = f"exists{more}", "--resume to continue, --overwrite to replace it"
        raise SettingsError(f"{conflicts[0]} {problem}: use {options}, or another folder")
    if not made:
        return set()
    return {sample.id for sample in samples if all(file.exists() for file in files_of(out, sample, kinds).values())}


def replaced_images(out: Path, samples: Sequence[Sample], record: Record, earlier: Record | None) -> list[Sample]:
    """List the images with results in `out` whose files have changed since these were made."""
    before: Mapping[str, Any] = {} if earlier is None else earlier.get(STAMPS) or {}
    now: Mapping[str, Any] = record[STAMPS]
    return [
        sample
        for sample in samples
        if sample.id in before
        and before[sample.id] != now.get(sample.id)
        and any(file.exists() for file in files_of(out, sample).values())
    ]


def begin(out: Path, record: Record, earlier: Record | None, *, overwrite: Sequence[Sample]) -> None:
    """Prepare the output folder: mark it, delete leftovers, and write the record.

    If it holds other images, the folders of results are marked instead, so that the others are still read.

    Args:
        out: Folder for the results.
        record: Record of this prediction.
        earlier: Record of the earlier prediction in `out`. Its images are kept in the new record if it had the same
            network and settings.
        overwrite: Images whose results are deleted first, so that a later --resume does not keep old ones.
    """
    only_results = first_other_image(out) is None
    for folder in (out,) if only_results else [out / kind for kind in record["settings"]["outputs"]]:
        mark_as_written(folder)
    for sample in overwrite:
        for file in files_of(out, sample).values():
            file.unlink(missing_ok=True)
    for kind in SUFFIXES:
        for partial in (out / kind).rglob(".*.partial"):  # left by a prediction that was killed
            partial.unlink()
    kept: Record = {}
    if earlier is not None and _same_network_and_settings(record, earlier):
        kept = earlier
    both = {part: {**kept.get(part, {}), **record[part]} for part in ("images", STAMPS)}
    write_json(out / RECORD, {**record, **both})


def results_of_others(out: Path, record: Record, earlier: Record | None) -> list[str]:
    """List the images whose results in the output folder are of another network, or of other settings, and stay."""
    if earlier is None or _same_network_and_settings(record, earlier):
        return []
    stay = [Sample(id=one, image=Path(), classes=(), mask=None) for one in earlier["images"].keys() - record["images"]]
    return sorted(one.id for one in stay if any(file.exists() for file in files_of(out, one).values()))


def _same_network_and_settings(first: Record, second: Record) -> bool:
    return first["weights"] == second["weights"] and _fixed_settings(first) == _fixed_settings(second)


def _fixed_settings(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record["settings"].items() if name not in PREDICT_MAY_CHANGE}
