"""`toco predict`: masks of new images, by the student or by the CAM network's decoder (METHOD section 8).

In: RUN/seg or RUN/cam, and any images. Out: a folder as stages/prediction/output_folder.py says.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data.dataset import DataError
from data.errors import SettingsError
from data.readers import check_images
from stages.config import Predict
from stages.networks.inference import to_tensor
from stages.networks.segmenter import choose_network, open_segmenter
from stages.prediction.inputs import find_inputs
from stages.prediction.output_folder import begin, files_of, finished_images, new_record, read_record, write_results
from stages.prediction.read_ahead import batches, read_ahead
from stages.run_folder.artifacts import outdated, outdated_message
from stages.runtime.fabric import start
from stages.runtime.launch import own_cores
from stages.runtime.monitor import Monitor


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
    """Write the masks of images, and the images with their masks laid over them, or what else `config` asks for.

    Args:
        run: A run folder in which `toco train-seg` finished (for the decoder, `toco train-cam`).
        paths: Files, folders, which are searched to the bottom, and patterns.
        out: Folder to write to: KIND/NAME, where NAME is the image's own, or its path below the folder that was given,
            or below the folders that a pattern begins with.
        config: Settings.
        monitor: Told of progress.
        resume: Go on: leave out images all of whose files are there.
        overwrite: Delete what an earlier run wrote for these images.

    Returns:
        The files, those left out included, by kind.

    Raises:
        SettingsError: There are no images, one is bad, or a file to be written exists.
        ArtifactError: The network is not there, or the folder to go on with was begun with other settings.
    """
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is no folder: give another one with --out")
    if (out / "labels.csv").exists():
        raise SettingsError(f"{out} is a data set, in which masks/ means true masks: give another folder with --out")
    fabric, monitor, share = start(config, monitor)
    samples = find_inputs(paths, out, monitor)
    network = choose_network(run, config)
    if outdated(run, network.path.name):
        monitor.warn(outdated_message(run, network.path.name))
    record, earlier = new_record(samples, config, network), read_record(out)
    replace = overwrite and not resume
    done = set() if replace else finished_images(out, samples, config.outputs, record, earlier, resume=resume)
    good, problems = check_images(samples, 1, skip_bad=config.skip_bad)
    for problem in problems:
        monitor.warn(f"left out: {problem}")
    # The first's list: what is shared out must be the same for all.
    left = fabric.broadcast([sample for sample in good if sample.id not in done])
    if not left:
        monitor.note(f"{out} is finished already")
    else:
        segmenter = open_segmenter(run, config, fabric)
        fabric.barrier()  # all have seen what was there before
        if fabric.is_global_zero:
            begin(out, samples, record, earlier, overwrite=replace)
        fabric.barrier()
        monitor.start(f"predicting with {network.path}", len(done) + len(left), done=len(done))
        threads = max(1, min(8, own_cores(config.devices)) if config.workers is None else config.workers)
        bad = partial(_leave_out, config=config, monitor=share)
        mine = left[fabric.global_rank :: fabric.world_size]
        for batch in read_ahead(batches(mine, segmenter.batch_size), threads, bad):
            results = segmenter.segment([to_tensor(picture) for _, picture in batch])
            for (sample, picture), result in zip(batch, results, strict=True):
                write_results(files_of(out, sample, config.outputs), picture, result, network.class_names)
                monitor.advance(fabric.world_size)  # the others' shares are as large
        fabric.barrier()
        monitor.finish()
    every = [files_of(out, sample, config.outputs) for sample in samples]
    written = [files for files in every if all(file.exists() for file in files.values())]
    return {kind: [files[kind] for files in written] for kind in config.outputs}


def _leave_out(error: DataError, *, config: Predict, monitor: Monitor) -> None:
    """Go on without an image that cannot be read, if that was asked for."""
    if not config.skip_bad:
        raise DataError(f"{error}; mend or remove it, or go on without it: --skip-bad") from error
    monitor.warn(f"left out: {error}")
    monitor.advance()
