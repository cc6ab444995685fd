"""Stage 1, `toco train-cam`: train a Vision Transformer on image labels (METHOD sections 1 to 7).

In: a data set. Out: RUN/cam with config.json, model.safetensors, metrics.jsonl, sessions.jsonl.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.band_image import shown_bands
from data.dataset import Dataset, Sample
from data.errors import DataError, SettingsError
from data.image_cache import TrainingImages, open_cache
from data.pixel_facts import with_pixel_rule
from data.readers import read_mask
from data.stream import SampleStream, mixed_seed
from data.transforms import CamTransform
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.networks.inference import class_label_matrix, decoder_probabilities, load_image, resize_maps, square_cams
from stages.preflight.training import check_learnable, warn_of_shared_images
from stages.run_folder.artifacts import already_finished, begin_stage, check_run_place
from stages.run_folder.lock import stage_lock
from stages.run_folder.provenance import session
from stages.run_folder.run_data import (
    check_same_data,
    choose_pixels,
    finish_again,
    measurable_samples,
    open_data,
    spread,
    usable_samples,
)
from stages.run_folder.warning_log import WarningLog
from stages.runtime.fabric import ranks_of, share_counts, start
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.toco.cam import label_one_threshold, present_classes
from stages.toco.metrics import Confusion
from stages.toco.model import ToCo
from stages.toco.step import Phase, StepBatch, StepSettings, TrainingStep
from stages.training.loop import fit
from stages.training.panel_drawing import cam_panel


def train_cam(
    data: Path | Dataset,
    out: Path,
    config: TrainCam,
    monitor: Monitor,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train the CAM network and write RUN/cam.

    Args:
        data: A data set's folder, in any layout, or the open data set.
        out: The run folder.
        config: Settings.
        monitor: Shows progress.
        resume: Continue an interrupted training. On a CPU, the weights equal those of an undisturbed run bit for bit.
        overwrite: Delete RUN/cam and start again.

    Returns:
        The stage's folder.

    Raises:
        DataError: The data set cannot be used.
        SettingsError: The settings contradict each other, the weights are not available, or `out` is among the files of
            a data set.
        ArtifactError: RUN/cam exists, or cannot be resumed with these settings.
    """
    folder = out / "cam"
    with stage_lock(out, "cam", monitor=monitor):
        # First, before other processes start and rank 0 writes.
        if already_finished(out, "cam", config, resume=resume, overwrite=overwrite):
            finish_again(out, "cam", data, monitor, skip_bad=config.skip_bad)
            return folder
        # Some parts get no gradient until their losses start.
        log = WarningLog(monitor)
        fabric, monitor, share = start(config, log, unused_parameters=True)
        dataset = open_data(data, skip_bad=config.skip_bad)
        check_run_place(out, dataset)
        dataset.split(config.split)
        if resume:
            check_same_data(out, "cam", dataset, monitor)
        check_learnable(dataset, dataset.split(config.split), monitor)
        warn_of_shared_images(dataset, config.split, monitor)
        # Rank 0 reads images and chooses for all ranks.
        pixels = (
            choose_pixels(dataset, config, out, monitor, resume=resume) if fabric.is_global_zero else dataset.pixels
        )
        dataset = with_pixel_rule(dataset, fabric.broadcast(pixels))
        torch.manual_seed(config.seed)
        model, spec = new_cam_model(config, len(dataset.class_names), dataset.pixels)
        if not model.backbone.has_class_token and config.ctc_weight > 0:
            share.note(
                f"{config.backbone} has no class token: class-token contrast compares its pooled tokens of crops"
            )
        samples = usable_samples(dataset, config.split, model.backbone.patch_size, config.skip_bad, monitor)
        with_masks = spread([sample for sample in samples if sample.mask is not None], config.evaluate_images)
        # Masks are checked now instead of after hours.
        with_masks = measurable_samples(with_masks, dataset.class_names, skip_bad=config.skip_bad, monitor=monitor)
        if config.skip_bad:
            check_learnable(dataset, samples)  # without the skipped images
        settings = step_settings(config, model.backbone.patch_size, dataset.pixels.channels)
        load = LoadViews(len(dataset.class_names), config)
        evaluate: Callable[[], Mapping[str, float]] | None = None
        if with_masks:
            evaluate = partial(_scores, model, with_masks, config, fabric)
        panel = cam_panel(
            model,
            samples,
            dataset.class_names,
            side=config.image_size,
            threshold=config.background_threshold,
            seed=config.seed,
            fabric=fabric,
        )
        if config.compile:
            from stages.networks.compilation import compile_parts, uncompiled  # imported late: takes a second or two

            compile_parts(model.backbone.parts, fabric.device, share)
            evaluate, panel = evaluate and uncompiled(evaluate), uncompiled(panel)
        if fabric.is_global_zero:
            begin_stage(out, "cam", settings=config, dataset=dataset, extra={"model": asdict(spec)}, resume=resume)
            log.write_to(folder)
        fabric.barrier()
        with session(folder, recorded=fabric.is_global_zero):
            fit(
                TrainingStep(model, settings, ranks_of(fabric)),
                encoder=model.backbone,
                product=model,
                fabric=fabric,
                settings=config,
                folder=folder,
                monitor=share,
                title="training the CAM network",
                stream=SampleStream(
                    samples,
                    load,
                    seed=config.seed,
                    skip_bad=config.skip_bad,
                    stack=StepBatch.stack,
                    take_warnings=load.images.take_warnings,
                ),
                losses=partial(_losses, config, fabric),
                evaluate=evaluate,
                panel=panel,
                resume=resume,
            )
        return folder


def step_settings(config: TrainCam, patch_size: int, channels: int = 3) -> StepSettings:
    """Return the constants of the losses, with crop sizes rounded to whole patches."""
    crop_size = config.crop_side(patch_size)
    if crop_size > config.image_size:
        raise SettingsError(
            f"--local-crop-size {crop_size} (in whole patches of {patch_size}) is above "
            f"--image-size {config.image_size}"
        )
    return StepSettings(
        ptc_weight=config.ptc_weight,
        ctc_weight=config.ctc_weight,
        seg_weight=config.seg_weight,
        reg_weight=config.reg_weight,
        high_threshold=config.high_threshold,
        low_threshold=config.low_threshold,
        temperature=config.temperature,
        momentum=config.momentum,
        scales=config.scales,
        local_crops=config.local_crops,
        local_crop_size=crop_size,
        shown_bands=shown_bands(channels),
    )


class LoadViews:
    """Read an image, draw its random views, and add its labels."""

    def __init__(self, num_classes: int, config: TrainCam) -> None:
        self.num_classes = num_classes
        self.transform = CamTransform(
            config.image_size, long_side=config.long_side, rescale=(config.rescale_min, config.rescale_max)
        )
        self.images = TrainingImages(self.transform.needed_side, open_cache(config.cache))

    def __call__(self, sample: Sample) -> StepBatch:
        """Load one sample as a `StepBatch` without the batch axis.

        Raises:
            DataError: The image is unreadable.
        """
        image = self.images.read(sample.image, sample.pixels)
        views = self.transform(image, self.images.missing(sample.image, image.size, sample.pixels))
        labels = class_label_matrix([sample], self.num_classes)[0]
        return StepBatch(
            image=views.image,
            second=views.second,
            local=views.local,
            box=views.box,
            class_labels=labels,
            most_classes=len(sample.classes),
            missing=views.missing,
        )


def phase_at(iteration: int, config: TrainCam) -> Phase:
    """Return which parts are trained at an iteration."""
    done = iteration / config.iterations
    return Phase(
        contrast=done >= config.contrast_start,
        segment=done >= config.seg_start,
        auxiliary_labels=done < config.auxiliary_labels_until,
        encoder=done >= config.freeze_encoder_until,
    )


def _losses(
    config: TrainCam, fabric: Fabric, step: torch.nn.Module, iteration: int, batch: StepBatch
) -> Mapping[str, Tensor]:
    # Seeded per iteration and rank, so that a resumed run draws the same dropout (if a --backbone-option turns it on).
    # Local crops are seeded by the image's position in the whole batch, whichever rank has it.
    torch.manual_seed(mixed_seed(config.seed, iteration, fabric.global_rank + 1))
    places = range(fabric.global_rank, config.batch_size, fabric.world_size)
    crops = [torch.Generator().manual_seed(mixed_seed(config.seed, iteration, place, 1)) for place in places]
    losses = step(batch, phase_at(iteration, config), crops)
    return {
        "loss": losses.total,
        **{name: getattr(losses, name) for name in losses._fields if name != "total"},
    }


def _scores(model: ToCo, samples: Sequence[Sample], config: TrainCam, fabric: Fabric) -> dict[str, float]:
    """Evaluate CAM, auxiliary CAM and decoder on ground-truth masks: mIoU without the pixels that are 255 there.

    Each rank evaluates its part of the images; all ranks return the result over all images.
    """
    classes = model.num_classes
    confusions = {name: Confusion(classes + 1) for name in ("cam", "auxiliary_cam", "decoder")}
    for sample in samples[fabric.global_rank :: fabric.world_size]:
        try:
            loaded = load_image(sample, config.image_size)
        except DataError:  # the training loop reports it
            if not config.skip_bad:
                raise
            continue
        size = (loaded.original.shape[-2], loaded.original.shape[-1])
        truth = torch.from_numpy(read_mask(sample, size, classes)).long()
        present = present_classes(class_label_matrix([sample], classes).to(fabric.device))
        images = loaded.squashed[None].to(fabric.device)
        with fabric.autocast():
            cams = square_cams(model, images, present, config.scales)
            probabilities = decoder_probabilities(model, images, (1.0,))  # the same scale as `toco evaluate`
        for name, cam in (("cam", cams.final), ("auxiliary_cam", cams.auxiliary)):
            label = label_one_threshold(resize_maps(cam[0], size)[None], config.background_threshold)
            confusions[name].add(present.class_numbers(label)[0].cpu(), truth)
        confusions["decoder"].add(resize_maps(probabilities[0], size).argmax(dim=0).cpu(), truth)
    return {f"{name}_miou": share_counts(confusion, fabric).scores().miou for name, confusion in confusions.items()}
