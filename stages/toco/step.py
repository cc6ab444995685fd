"""One training step of the CAM network: all losses of METHOD sections 1 to 7 from one batch.

Letters: b images, c foreground classes, s image side in pixels. Every pass is done once: the training image
is also the first global view and the CAM's scale 1; the teacher's class tokens are the student's, detached.
The CPU waits for a GPU in the bilateral filter's lattice alone, twice: its extent and size depend on the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import default_collate

from stages.toco.cam import (
    SCALES,
    PresentClasses,
    keep_present,
    label_two_thresholds,
    multi_scale_cam,
    multi_scale_cams,
    present_classes,
    uncertainty_map,
)
from stages.toco.crops import choose_crops, cut_crops, positive_views
from stages.toco.energy import energy_loss
from stages.toco.losses import (
    class_token_contrast,
    classification_loss,
    patch_token_contrast,
    segmentation_loss,
)
from stages.toco.model import Outputs, ToCo
from stages.toco.par import refined_labels
from stages.toco.processes import SINGLE_PROCESS, Processes


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Constants of the losses; the defaults are the paper's for VOC."""

    ptc_weight: float = 0.2
    ctc_weight: float = 0.5
    seg_weight: float = 0.1
    reg_weight: float = 0.05
    high_threshold: float = 0.7
    low_threshold: float = 0.25
    temperature: float = 0.5
    momentum: float = 0.9
    scales: tuple[float, ...] = SCALES
    local_crops: int = 8
    local_crop_size: int = 96  # pixels


class StepBatch(NamedTuple):
    """A batch of views, red, green, blue in 0..255, and what is known of the images."""

    image: UInt8[Tensor, "b 3 s s"]
    second: UInt8[Tensor, "b 3 s s"]
    local: UInt8[Tensor, "b 3 s s"]
    box: Int[Tensor, "b 4"]  # y0, y1, x0, x1 in pixels
    class_labels: Float[Tensor, "b c"]
    most_classes: int  # that one of these images has; known here, so that nobody waits for a GPU to count them

    @staticmethod
    def stack(images: "Sequence[StepBatch]") -> "StepBatch":
        """A batch of single images, whose tensors have no b yet."""
        tensors = default_collate([image[:-1] for image in images])
        return StepBatch._make([*tensors, max(image.most_classes for image in images)])


class Phase(NamedTuple):
    """What is trained at this point of the run."""

    contrast: bool  # patch-token and class-token contrast
    segment: bool  # the decoder, on online pseudo labels
    auxiliary_labels: bool = False  # these labels come from the auxiliary CAM
    encoder: bool = True  # the encoder; else it rests, and only what stands on it learns


class StepCams(NamedTuple):
    """Valid multi-scale CAMs of the classes that each image has, and what a step takes them for."""

    contrast: Float[Tensor, "b k s s"]  # the auxiliary one
    labels: Float[Tensor, "b k s s"]  # for the segmentation branch; the auxiliary one, too, where nobody asks for more


class Losses(NamedTuple):
    """The parts before their weights, and their weighted sum; a part that is not trained is zero."""

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    auxiliary_classification: Float[Tensor, ""]
    ptc: Float[Tensor, ""]
    ctc: Float[Tensor, ""]
    segmentation: Float[Tensor, ""]
    regularised: Float[Tensor, ""]


class TrainingStep(nn.Module):
    """The network together with its losses, so that a data-parallel wrapper sees one forward a step."""

    def __init__(self, model: ToCo, settings: StepSettings, processes: Processes = SINGLE_PROCESS) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.processes = processes

    def forward(self, batch: StepBatch, phase: Phase, generators: Sequence[torch.Generator]) -> Losses:
        """Compute all losses that the phase trains; `generators`, one an image, draw the places of the local crops."""
        settings, model = self.settings, self.model
        segment = phase.segment and (settings.seg_weight > 0 or settings.reg_weight > 0)
        # Contrast teaches the encoder alone, and the projector of its class tokens.
        contrast = phase.contrast and phase.encoder
        contrast_patches = contrast and settings.ptc_weight > 0
        contrast_classes = contrast and settings.ctc_weight > 0
        images = model.backbone.normalise(batch.image.float())
        outputs = model(images, decode=segment, train_encoder=phase.encoder)
        classification = classification_loss(outputs.class_logits, batch.class_labels)
        auxiliary = classification_loss(outputs.auxiliary_class_logits, batch.class_labels)
        zero = classification.new_zeros(())
        ptc = ctc = segmentation = regularised = zero
        if segment or contrast_patches or contrast_classes:
            present = present_classes(batch.class_labels, batch.most_classes)
            cams = self._cams(images, outputs, present, final=segment and not phase.auxiliary_labels)
        if contrast_patches:
            ptc = self._ptc(outputs, cams.contrast, batch.box)
        if contrast_classes:
            ctc = self._ctc(batch, outputs, cams.contrast, generators)
        if segment:
            segmentation, regularised = self._segmentation(batch, outputs, cams.labels, present)
        total = (
            classification
            + auxiliary
            + settings.ptc_weight * ptc
            + settings.ctc_weight * ctc
            + settings.seg_weight * segmentation
            + settings.reg_weight * regularised
        )
        return Losses(total, classification, auxiliary, ptc, ctc, segmentation, regularised)

    @torch.no_grad()
    def _cams(self, images: Tensor, outputs: Outputs, present: PresentClasses, *, final: bool) -> StepCams:
        """Without `final`, while nothing learns from the final CAM, the passes end at the auxiliary block."""
        straight, scales = present.pick_both(outputs.cams), self.settings.scales
        if not final:
            auxiliary = multi_scale_cam(
                lambda scaled: present.pick(self.model.raw_auxiliary_cam(scaled)),
                images,
                scales=scales,
                straight=straight.auxiliary,
            )
            valid = keep_present(auxiliary, present.valid)
            return StepCams(contrast=valid, labels=valid)
        cams = multi_scale_cams(
            lambda scaled: present.pick_both(self.model.raw_cams(scaled)), images, scales=scales, straight=straight
        )
        return StepCams(
            contrast=keep_present(cams.auxiliary, present.valid), labels=keep_present(cams.final, present.valid)
        )

    def _ptc(self, outputs: Outputs, auxiliary_cam: Tensor, box: Tensor) -> Tensor:
        grid = outputs.patch_tokens.shape[-2:]
        token_cam = F.interpolate(auxiliary_cam, size=grid, mode="bilinear", align_corners=False)
        labels = label_two_thresholds(
            token_cam,
            box_in_tokens(box, self.model.backbone.patch_size),
            high=self.settings.high_threshold,
            low=self.settings.low_threshold,
        )
        return patch_token_contrast(outputs.patch_tokens, labels, processes=self.processes)

    def _ctc(
        self, batch: StepBatch, outputs: Outputs, auxiliary_cam: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        settings, model = self.settings, self.model
        uncertainty = uncertainty_map(auxiliary_cam, high=settings.high_threshold, low=settings.low_threshold)
        size = settings.local_crop_size
        places = choose_crops(uncertainty, count=settings.local_crops, size=size, generators=generators)
        crops = cut_crops(batch.local.float(), places, size)  # (b, k, 3, size, size)
        second = model.backbone.class_token(model.backbone.normalise(batch.second.float()))
        local = model.backbone.class_token(model.backbone.normalise(crops.flatten(0, 1)))
        global_tokens = torch.stack([outputs.class_token, second], dim=1)  # (b, 2, d)
        views = torch.cat([global_tokens, local.reshape(*crops.shape[:2], -1)], dim=1)  # (b, 2 + k, d)
        if self.training:
            model.update_teacher(settings.momentum)
        with torch.no_grad():
            teacher = model.teacher_projector(global_tokens)
        return class_token_contrast(
            model.projector(views), teacher, positive_views(uncertainty, places, size), settings.temperature
        )

    def _segmentation(
        self, batch: StepBatch, outputs: Outputs, cam: Tensor, present: PresentClasses
    ) -> tuple[Tensor, Tensor]:
        settings = self.settings
        assert outputs.seg_logits is not None
        images = batch.image.float()
        logits = F.interpolate(outputs.seg_logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        with torch.no_grad():
            label = refined_labels(
                cam,
                images,
                present.valid,
                batch.box,
                high=settings.high_threshold,
                low=settings.low_threshold,
            )
            label = present.class_numbers(label)
        segmentation = segmentation_loss(logits, label, processes=self.processes)
        return segmentation, energy_loss(logits, images, label, batch.box)


def box_in_tokens(box: Int[Tensor, "b 4"], patch_size: int) -> Int[Tensor, "b 4"]:
    """Shrink pixel boxes to the tokens that lie wholly inside.

    The published program compares the box in pixels with token positions, and so loses the whole image where the
    crop was padded at its top or left by more than a few pixels.
    """
    y0, y1, x0, x1 = box.unbind(dim=1)
    return torch.stack([-(-y0 // patch_size), y1 // patch_size, -(-x0 // patch_size), x1 // patch_size], dim=1)
