"""Stage 2, `toco make-labels`: make CAMs of images, and pseudo masks from them (METHOD sections 2, 3, 8).

In: RUN/cam and its data set. Out: RUN/labels with config.json, cams.h5, labels.h5, sessions.jsonl; RUN/features, and
scores.h5 if the masks were relabelled.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import IGNORE_INDEX, Dataset, Sample
from data.errors import ArtifactError, DataError
from data.images import read_image
from data.missing_pixels import describe_missing_pixels
from stages.config import MakeLabels
from stages.corrections.given_masks import ENTRY, GivenMasks, check_same_given_masks, given_masks, other_given_masks
from stages.features.cache import check_encoder
from stages.features.spec import FEATURES, feature_spec
from stages.labels.choose_background import calibration_samples, choose_background
from stages.labels.kept_cams import KEPT_CAMS, StoredCamMaker, kept_cam_maker, may_keep_cams
from stages.labels.label_settings import (
    CHOSEN,
    INSTANCES,
    UNREFINED,
    resolved,
    with_chosen,
    with_training_defaults,
)
from stages.labels.maker import LabelMaker
from stages.labels.store import (
    ImageLabels,
    join_file,
    join_shards,
    label_attributes,
    stored_ids,
    write_shard,
)
from stages.networks.cam_model import check_scales, load_cam_model
from stages.preflight.training import check_instances
from stages.relabel.choose_instances import learns_from_instances
from stages.relabel.relabel_maker import RelabelMaker, new_relabeller
from stages.run_folder.artifacts import already_finished, begin_stage, in_use, open_stage, read_config
from stages.run_folder.lock import stage_lock
from stages.run_folder.provenance import session
from stages.run_folder.run_data import (
    check_same_data,
    finish_again,
    open_run_data,
    usable_samples,
    warn_of_other_data,
)
from stages.run_folder.saving import write_json
from stages.run_folder.warning_log import WarningLog
from stages.runtime.fabric import all_ids, start
from stages.runtime.monitor import Monitor
from stages.segments.file_stamps import SEGMENT_FILES, check_same_segments, file_digests
from stages.segments.image_segments import prepared_segments

SHARD = 16  # images in a shard, or --batch-size if it is larger


def make_labels(
    run: Path,
    config: MakeLabels,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Make CAMs and pseudo masks of a split and write RUN/labels.

    Args:
        run: A run folder in which `toco train-cam` finished.
        config: Settings.
        monitor: Receives progress and warnings.
        data: The data set's present folder if it was moved, or the open data set.
        resume: Continue an interrupted run; its finished shards are kept.
        overwrite: Delete RUN/labels and start again; CAMs that would be the same are kept.

    Returns:
        The stage's folder.

    Raises:
        DataError: The data set or an image is bad.
        SettingsError: The settings contradict each other, the data or the machine.
        ArtifactError: RUN/cam is not finished, or RUN/labels exists.
    """
    cam = open_stage(run, "cam")
    trained = cam.settings
    config = with_training_defaults(config, trained)
    folder = run / "labels"
    locked = ("labels", "cam", FEATURES) if config.may_relabel else ("labels", "cam")
    with stage_lock(run, *locked, monitor=monitor):
        # Before there are several processes, because rank 0 soon writes to this folder.
        if already_finished(run, "labels", config, resume=resume, overwrite=overwrite):
            finish_again(run, "labels", data, monitor, skip_bad=config.skip_bad)
            if difference := other_given_masks(run, "labels", data):
                monitor.warn(difference)
            return folder
        log = WarningLog(monitor)
        fabric, monitor, share = start(config, log)
        dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
        earlier: Mapping[str, Any] = {}
        if resume and in_use(folder):
            earlier = read_config(run, "labels")
            check_same_data(run, "labels", dataset, monitor)
            check_same_given_masks(run, "labels", dataset)
        else:
            warn_of_other_data(cam, dataset, monitor)
        chosen: Mapping[str, Any] = earlier.get(CHOSEN, {})
        given = given_masks(run, dataset, config, config.split, monitor)
        model = load_cam_model(cam)
        assert config.image_size is not None
        assert config.scales is not None
        check_scales(config.scales, config.image_size, model.backbone)
        fabric.to_device(model)
        labelled = given.added_to(dataset, config.split)
        samples = samples_to_label(labelled, config, model.backbone.patch_size, monitor)
        if config.may_relabel and fabric.is_global_zero:
            check_encoder(run, feature_spec(with_chosen(config, chosen), cam), samples)
        files = prepared_segments(run, config, samples, fabric, monitor)
        if earlier:
            check_same_segments(run, files, made_with_segments(folder, with_chosen(config, chosen)))
        maker = LabelMaker(model=model, fabric=fabric, config=config, monitor=share, segment_files=files)
        calibration = calibration_samples(samples, dataset.class_names, config, monitor, given.sources)
        background = earlier.get("background_threshold")
        if fabric.is_global_zero:  # chooses for all ranks
            if not earlier and config.relabel == "auto" and config.may_relabel:
                if config.calibration_images:
                    monitor.note(
                        "--relabel auto with --calibration-images chooses among none, linear and mlp: mil is not tried"
                    )
                elif learns_from_instances(run, samples, maker, config):
                    chosen = INSTANCES
            check_instances(labelled, with_chosen(config, chosen), monitor)
            maker.config = with_chosen(config, chosen)  # a threshold is that of the CAMs at the scales that are used
            if background is None and (config.background_threshold == "auto" or config.calibration_images):
                judges = calibration if config.calibration_images else samples
                background = choose_background(maker.scores, judges, len(dataset.class_names), config, monitor)
        maker.config = with_chosen(resolved(config, trained, fabric.broadcast(background)), fabric.broadcast(chosen))
        if fabric.is_global_zero:
            extra = {
                "background_threshold": maker.config.background_threshold,  # the number used
                CHOSEN: chosen,
                ENTRY: given.as_entry(config.use_masks),
                SEGMENT_FILES: file_digests(files) if config.segment_folder is not None else {},
            }
            keep = {"cams.h5": KEPT_CAMS} if may_keep_cams(run, maker.config, dataset) else {}
            begin_stage(run, "labels", settings=config, dataset=dataset, extra=extra, resume=resume, keep=keep)
            log.write_to(folder)
        fabric.barrier()
        with session(folder, recorded=fabric.is_global_zero):
            _label(folder, samples, maker, dataset, calibration, given)
        return folder


def _label(
    folder: Path,
    samples: Sequence[Sample],
    maker: LabelMaker,
    dataset: Dataset,
    calibration: Sequence[Sample],
    given: GivenMasks,
) -> None:
    """Make the missing labels, shard by shard, and join all shards at the end."""
    fabric, config = maker.fabric, maker.config
    shards, relabelled = folder / "shards", folder / "shards" / "relabelled"
    attributes = label_attributes(dataset.class_names, asdict(config))
    if only_relabelled(config):  # the masks of the CAMs are not used
        first = replace(maker, config=replace(config, refine="none", crf_fast=False, segments="none"), segment_files={})
    else:
        first = maker
    relabeller: RelabelMaker | StoredCamMaker | None = None
    _keep_cams(folder, samples, first)
    label_in_shards(shards, samples, first, "making CAMs" if config.may_relabel else "making labels")
    if config.may_relabel:
        if fabric.is_global_zero:
            join_file(
                shards / "cams" / "cams.h5",
                sorted(shards.glob("*.h5")),
                {"cams": "cams", "masks": "masks"},
                attributes,
                ids={one.id for one in samples},
            )
        fabric.barrier()
        relabeller = new_relabeller(folder.parent, samples, shards / "cams", maker, config, calibration, given)
        used = replace(config, relabel="none") if relabeller is None else relabeller.config
        attributes = label_attributes(dataset.class_names, asdict(used))  # what auto chose
        if relabeller is not None:
            if isinstance(relabeller, StoredCamMaker) and fabric.is_global_zero:
                write_json(folder / "config.json", {**read_config(folder.parent, "labels"), CHOSEN: UNREFINED})
            label_in_shards(relabelled, relabeller.samples, relabeller, "labelling again")
    if text := describe_missing_pixels(all_ids(maker.lacking, fabric), "labelled"):
        maker.monitor.note(text)
    if fabric.is_global_zero:
        again = sorted(relabelled.glob("*.h5"))
        ids = {one.id for one in samples}
        by_people = write_given(
            shards / "given", samples, stored_ids(again or sorted(shards.glob("*.h5"))), maker, given
        )
        if isinstance(relabeller, StoredCamMaker):  # its scores are those of cams.h5
            by_people, again = [*by_people, *again], []
        join_shards(sorted(shards.glob("*.h5")), folder, attributes, relabelled=again, given=by_people, ids=ids)
        shutil.rmtree(shards)
    fabric.barrier()
    maker.monitor.finish()


def _keep_cams(folder: Path, samples: Sequence[Sample], maker: LabelMaker) -> None:
    """Make masks from the CAMs of earlier labels. A function of its own, so that their file is closed at its end."""
    if kept := kept_cam_maker(maker, samples, folder / KEPT_CAMS):
        label_in_shards(folder / "shards", kept.samples, kept, "making masks from the earlier CAMs", complete=False)


def only_relabelled(config: MakeLabels) -> bool:
    """Whether all masks will be those of the heads, so that those of the CAMs are not refined."""
    return config.relabel in ("linear", "mlp", "mil")


def made_with_segments(folder: Path, config: MakeLabels) -> set[str]:
    """Return the ids of the images for which an interrupted run has used the segment files."""
    if config.segment_folder is None:
        return set()
    shards = folder / "shards" / ("relabelled" if only_relabelled(config) else "")
    return stored_ids(sorted(shards.glob("*.h5")))


def label_in_shards(
    shards: Path, samples: Sequence[Sample], maker: LabelMaker, title: str, *, complete: bool = True
) -> None:
    """Write the labels that are missing in a folder of shards; `complete` checks that none is missing afterwards."""
    fabric, monitor = maker.fabric, maker.monitor
    # By id, not by position: an image that was fixed since the interrupted run shifts all later images.
    done = stored_ids(sorted(shards.glob("*.h5")))
    fabric.barrier()  # no rank writes before all have listed the shards
    # The groups do not depend on ranks or resuming, because the batch that an image is in changes its last bits.
    size = max(SHARD, maker.config.batch_size)
    groups = [samples[first : first + size] for first in range(0, len(samples), size)]
    mine = [[one for one in group if one.id not in done] for group in groups[fabric.global_rank :: fabric.world_size]]
    monitor.start(title, len(samples), done=sum(one.id in done for one in samples))
    for labels in maker.run([group for group in mine if group]):
        write_shard(free_name(shards, fabric.global_rank), labels, threads=maker.threads)
        if fabric.world_size > 1:  # the other ranks do about as many
            monitor.advance(len(labels) * (fabric.world_size - 1))
    fabric.barrier()
    if fabric.is_global_zero and complete:
        check_complete(shards, samples, skip_bad=maker.config.skip_bad)


def write_given(
    folder: Path, samples: Sequence[Sample], made: Collection[str], maker: LabelMaker, given: GivenMasks
) -> list[Path]:
    """Write shards of the given masks of the images that have pseudo masks, and return them.

    Raises:
        DataError: A given mask does not fit its image.
    """
    drawn = [one for one in samples if one.id in given and one.id in made]
    paths = []
    for first in range(0, len(drawn), SHARD):
        labels = []
        for sample in drawn[first : first + SHARD]:
            mask = given.read(sample)
            confidence = np.where(mask == IGNORE_INDEX, 0, 255).astype(np.uint8) if maker.config.confidence else None
            empty = np.zeros((0, 1, 1), np.float16)  # CAMs are those of the network
            labels.append(ImageLabels(id=sample.id, classes=(), cam=empty, mask=mask, confidence=confidence))
        paths.append(folder / f"{first:08d}.h5")
        write_shard(paths[-1], labels, threads=maker.threads)
    return paths


def check_complete(shards: Path, samples: Sequence[Sample], *, skip_bad: bool) -> None:
    """Compare the shards with the list of images before they are joined and deleted.

    Raises:
        ArtifactError: An image has no labels, although it can be read or bad images are not to be skipped.
    """
    made = stored_ids(sorted(shards.glob("*.h5")))
    lost = [one for one in samples if one.id not in made and not (skip_bad and not _readable(one))]
    if lost:
        raise ArtifactError(
            f"{shards} lacks {len(lost)} of {len(samples)} images, first '{lost[0].id}': shards were lost while "
            "labels were made; run 'toco make-labels --resume', which makes them again"
        )


def _readable(sample: Sample) -> bool:
    try:
        read_image(sample.image, rule=sample.pixels)
    except DataError:
        return False
    return True


def samples_to_label(dataset: Dataset, config: MakeLabels, patch_size: int, monitor: Monitor) -> list[Sample]:
    """List the images to label: those of the split and, with --image-labels predicted, those without image labels.

    Raises:
        DataError: The split is empty, or an image is bad and bad images are not skipped.
    """
    samples = list(usable_samples(dataset, config.split, patch_size, config.skip_bad, monitor))
    if config.image_labels == "predicted":
        if not dataset.unlabelled:
            monitor.warn("--image-labels predicted has no effect: all images have a row in labels.csv")
        else:
            whole = replace(dataset, splits={"unlabelled": dataset.unlabelled}, warnings=())
            samples += usable_samples(whole, "unlabelled", patch_size, config.skip_bad, monitor)
    return samples


def free_name(shards: Path, process: int) -> Path:
    """Path of a new shard; different processes (ranks) get different paths."""
    taken = [int(path.stem.partition("-")[2]) for path in shards.glob(f"{process:04d}-*.h5")]
    return shards / f"{process:04d}-{max(taken, default=-1) + 1:08d}.h5"
