"""`toco predict`: masks of new images, from the student or the CAM network's decoder (METHOD section 8).

In: RUN/seg or RUN/cam, and any images. Out: a folder as stages/prediction/output_folder.py describes it.

torch, and all that needs it, is imported only after the checks, so that a wrong path is reported at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from data.band_files import has_coordinates
from data.band_image import as_picture, clipped_share, is_dark
from data.errors import FIX_OR_SKIP, DataError
from data.images import file_contents
from data.missing_pixels import describe_missing_pixels, without_missing_pixels
from data.output_place import check_file_names, check_folder
from data.pixel_facts import describe_clipped, describe_dark
from data.pixel_rule import PixelRule
from data.read_ahead import ImageBatch, batches, read_ahead
from data.readers import check_images
from stages.config import Predict
from stages.networks.choose_network import choose_network, rule_for_new_images
from stages.prediction.inputs import find_inputs
from stages.prediction.output_folder import (
    begin,
    check_place,
    files_of,
    finished_images,
    new_record,
    read_record,
    replaced_images,
    results_of_others,
)
from stages.run_folder.artifacts import outdated, outdated_message
from stages.run_folder.lock import output_lock
from stages.run_folder.warning_log import WarningLog
from stages.runtime.extras import check_crf_backend
from stages.runtime.launch import own_cores
from stages.runtime.memory import free_memory
from stages.runtime.monitor import Monitor
from stages.runtime.quick_imports import quick_imports
from stages.tiling.rasters import check_rasterio

FAR_LARGER = 16  # than the network's input: photographs of 4032 pixels are 9 times as large as 448
BYTES_A_PIXEL, BYTES_A_BAND = 20, 6  # that an image needs, measured; the second for each of its bands in float32


def predict(
    run: Path,
    paths: Sequence[Path],
    out: Path,
    config: Predict,
    monitor: Monitor,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Mapping[str, list[Path]]:
    """Segment images and write the kinds of files that `config.outputs` lists.

    Args:
        run: A run folder in which `toco train-seg` finished (for the decoder, `toco train-cam`).
        paths: Files; folders, with all their subfolders; and patterns.
        out: Folder for the results. They are written to KIND/NAME, where NAME is the name of the image, or its path
            below the given folder, or below the fixed part of the given pattern.
        config: Settings.
        monitor: Receives progress.
        resume: Skip images whose files all exist, unless the image has changed.
        overwrite: Delete the files that an earlier run wrote for these images.

    Returns:
        The files by kind, including those of skipped images.

    Raises:
        SettingsError: There are no images, an image is bad, a file of the results exists, or the folders of the
            results are among the files of a data set or hold other images.
        ArtifactError: The network is missing, or the folder to resume was started with other settings.
    """
    check_folder(out)
    if config.crf:
        check_crf_backend(config.crf_backend)
    if "geotiff" in config.outputs:
        check_rasterio()
    network = choose_network(run, config)
    rule = rule_for_new_images(run, network.pixels)
    samples = find_inputs(paths, monitor, pixels=rule)
    check_place(out, config.outputs, datasets=[network.dataset_root], inputs=samples)
    check_file_names(file for sample in samples for file in files_of(out, sample, config.outputs).values())
    with output_lock(out, monitor):
        record, earlier = new_record(samples, config, network), read_record(out)
        replace = overwrite and not resume
        done = set() if replace else finished_images(out, samples, config.outputs, record, earlier, resume=resume)
        stale = replaced_images(out, samples, record, earlier) if resume else []
        done -= {sample.id for sample in stale}
        good, problems = check_images(samples, 1, skip_bad=config.skip_bad)

        with quick_imports():
            import torch

            from stages.networks.inference import to_tensor
            from stages.networks.segmenter import open_segmenter
            from stages.prediction.results import write_results
            from stages.runtime.fabric import all_ids, start

        log = WarningLog(monitor)
        fabric, monitor, share = start(config, log)
        if outdated(run, network.path.name):
            monitor.warn(outdated_message(run, network.path.name))
        for problem in problems:
            monitor.warn(f"skipped: {problem}")
        # The list of rank 0: all ranks must divide the same list.
        left = fabric.broadcast([sample for sample in good if sample.id not in done])
        if not left:
            monitor.note(f"{out} is finished already")
        else:
            segmenter = open_segmenter(run, config, fabric)
            fabric.barrier()  # all ranks have seen the earlier files
            if fabric.is_global_zero:
                if others := results_of_others(out, record, earlier):
                    monitor.warn(
                        f"{out} also holds results of another network or of other settings, for images that are not "
                        f"given now: {len(others)} (first {others[0]!r}); better give a folder of their own"
                    )
                if stale:
                    have, are = ("s have", "are") if len(stale) > 1 else (" has", "is")
                    monitor.warn(
                        f"{len(stale)} image{have} changed since the results were made (first {stale[0].image}), and "
                        f"{are} predicted again"
                    )
                begin(out, record, earlier, overwrite=samples if replace else stale)
                log.write_to(out)
            fabric.barrier()
            monitor.start(f"predicting with {network.path}", len(done) + len(left), done=len(done))
            threads = max(1, min(8, own_cores(config.devices)) if config.workers is None else config.workers)
            bad = partial(_leave_out, config=config, monitor=share)
            mine = left[fabric.global_rank :: fabric.world_size]
            clipped: list[float] = []
            dark: list[Path] = []
            lacking: set[str] = set()
            placed: set[str] = set()
            paged: set[str] = set()
            network_side = network.config["model"].get("long_side") or network.settings["image_size"]
            reduced: dict[Path, int] = {}  # the longer side of each image that is far larger
            ahead = _telling_of_memory(batches(mine, segmenter.batch_size), rule, share)
            for batch in read_ahead(ahead, threads, bad):
                results = segmenter.segment([to_tensor(picture) for _, picture in batch])
                for (sample, picture), result in zip(batch, results, strict=True):
                    shown = as_picture(picture)
                    clipped.append(clipped_share(picture))
                    if is_dark(shown):
                        dark.append(sample.image)
                    if config.window is None and max(picture.size) >= FAR_LARGER * network_side:
                        reduced[sample.image] = max(picture.size)
                    label = result.label.numpy()
                    mask = without_missing_pixels(label, sample.image, sample.pixels)
                    if mask is not label:
                        lacking.add(sample.id)
                    write_results(
                        files_of(out, sample, config.outputs),
                        shown,
                        result._replace(label=torch.from_numpy(mask)),
                        network.class_names,
                        sample.image,
                    )
                    if has_coordinates(sample.image):
                        placed.add(sample.id)
                    with suppress(DataError):  # of a later page, which is damaged
                        if file_contents(sample.image).pages > 1:
                            paged.add(sample.id)
                    monitor.advance(fabric.world_size)  # the other ranks' shares are as large
            fabric.barrier()
            monitor.finish()
            for text in (describe_clipped(clipped, rule), describe_dark(dark, len(clipped), rule)):
                if text:
                    share.warn(text)
            if reduced:
                path, side = next(iter(reduced.items()))
                share.warn(
                    f"{len(reduced)} image{'s are' if len(reduced) > 1 else ' is'} reduced to a {FAR_LARGER}th of the "
                    f"size or less (first {path}: from {side} to {network_side} pixels), where small objects vanish: "
                    "if there are any, give --window with the size of the training images"
                )
            if count := len(all_ids(paged, fabric)):
                monitor.warn(
                    f"{count} image{'s have' if count > 1 else ' has'} several pages, of which only the first is "
                    "predicted: to use the others, save each as a separate image"
                )
            if text := describe_missing_pixels(all_ids(lacking, fabric), "predicted"):
                monitor.note(text)
            if (count := len(all_ids(placed, fabric))) and "geotiff" not in config.outputs:
                monitor.note(
                    f"PNG masks do not keep the coordinates that {count} of the images have: add --outputs geotiff, or "
                    "put masks of tiles together with 'toco join'"
                )
        every = [files_of(out, sample, config.outputs) for sample in samples]
        written = [files for files in every if all(file.exists() for file in files.values())]
        return {kind: [files[kind] for files in written] for kind in config.outputs}


def _telling_of_memory(groups: Iterable[ImageBatch], rule: PixelRule, monitor: Monitor) -> Iterator[ImageBatch]:
    """Warn, before it is read, of the first image for which the free memory may not be enough."""
    told = False
    for batch in groups:
        needed, free = batch.pixels * (BYTES_A_PIXEL + BYTES_A_BAND * len(rule.bands)), free_memory()
        if needed > free and len(batch.samples) == 1 and not told:
            told = True
            monitor.warn(
                f"{batch.samples[0].image} has {batch.pixels / 1e6:.3g} megapixels, which need about "
                f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: if memory runs out, cut it with "
                "'toco tile', predict the tiles, and put their masks together with 'toco join'"
            )
        yield batch


def _leave_out(error: DataError, *, config: Predict, monitor: Monitor) -> None:
    """Skip an image that cannot be read, if bad files are to be skipped."""
    if not config.skip_bad:
        raise DataError(f"{error}; {FIX_OR_SKIP}") from error
    monitor.warn(f"skipped: {error}")
    monitor.advance()
