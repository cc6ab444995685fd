"""A training step in the order of the published program: what is done twice there is done twice here.

Written from METHOD.md and the paper, of toco's own functions. Losses and gradients are those of `TrainingStep`, within
rounding: where toco departs from the published program on purpose (boxes in tokens, parts without pixels, one
mirroring of the first global view), it does so here too.
"""

from collections.abc import Sequence
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco import energy, par
from stages.toco.cam import IGNORE_INDEX, PresentClasses, ignore_outside, keep_present, multi_scale_cams
from stages.toco.cam import uncertainty_map as uncertainties
from stages.toco.crops import choose_crops, cut_crops, positive_views
from stages.toco.energy import energy_loss
from stages.toco.lattice import PermutohedralLattice
from stages.toco.losses import class_token_contrast, segmentation_loss
from stages.toco.model import Outputs
from stages.toco.par import combine_labels, refine_masks
from stages.toco.step import Losses, Phase, StepBatch, StepCams, TrainingStep


class PublishedStep(TrainingStep):
    """Every pass anew: the CAM's scale 1, both global views, these again for the teacher; the rest image by image."""

    def forward(self, batch: StepBatch, phase: Phase, generators: Sequence[torch.Generator]) -> Losses:
        """Compute all losses; those of the segmentation branch also while their weight is 0."""
        losses = super().forward(batch, phase._replace(segment=True), generators)
        if not phase.segment:
            settings = self.settings
            total = losses.classification + losses.auxiliary_classification
            total = total + settings.ptc_weight * losses.ptc + settings.ctc_weight * losses.ctc
            losses = losses._replace(total=total + 0 * losses.segmentation + 0 * losses.regularised)
        return losses

    @torch.no_grad()
    def _cams(self, images: Tensor, outputs: Outputs, present: PresentClasses, *, final: bool) -> StepCams:
        """CAMs of all classes and of both blocks, the image at scale 1 among the passes."""
        cams = multi_scale_cams(self.model.raw_cams, images, scales=self.settings.scales)
        class_labels = labels_of(present, self.model.num_classes)
        valid = [keep_present(cam, class_labels) for cam in (cams.auxiliary, cams.final)]
        return StepCams(contrast=valid[0], labels=valid[1] if final else valid[0])

    def _ctc(
        self, batch: StepBatch, outputs: Outputs, auxiliary_cam: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Both global views through the encoder, and once more for the teacher."""
        settings, model = self.settings, self.model
        uncertainty = uncertainties(auxiliary_cam, high=settings.background_high, low=settings.background_low)
        size = settings.local_crop_size
        places = choose_crops(uncertainty, count=settings.local_crops, size=size, generators=generators)
        crops = cut_crops(batch.local.float(), places, size)
        views = [batch.image.float(), batch.second.float()]

        def class_tokens(images: Tensor) -> Tensor:
            token: Tensor = model.backbone(model.backbone.normalise(images)).class_token
            return token

        student = torch.stack([class_tokens(view) for view in views], dim=1)  # (b, 2, d)
        local = class_tokens(crops.flatten(0, 1)).reshape(*crops.shape[:2], -1)
        if self.training:
            model.update_teacher(settings.momentum)
        with torch.no_grad():
            teacher = model.teacher_projector(torch.stack([class_tokens(view) for view in views], dim=1))
        return class_token_contrast(
            model.projector(torch.cat([student, local], dim=1)),
            teacher,
            positive_views(uncertainty, places, size),
            settings.temperature,
        )

    def _segmentation(
        self, batch: StepBatch, outputs: Outputs, cam: Tensor, present: PresentClasses
    ) -> tuple[Tensor, Tensor]:
        """Image by image: PAR once for each background score, and the bilateral filter on the CPU class by class."""
        settings = self.settings
        assert outputs.seg_logits is not None
        images = batch.image.float()
        logits = F.interpolate(outputs.seg_logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        with torch.no_grad(), mock.patch.object(par, "_deviation", torch_deviation):
            label = labels_one_by_one(
                cam,
                images,
                labels_of(present, self.model.num_classes),
                batch.box,
                backgrounds=(settings.background_high, settings.background_low),
            )
        return segmentation_loss(logits, label), energy_one_by_one(logits, images, label, batch.box)


def labels_of(present: PresentClasses, num_classes: int) -> Tensor:
    """The classes of each image as zeros and ones, (b, c)."""
    return present.valid.new_zeros(len(present.index), num_classes).scatter(1, present.index, present.valid)


def torch_deviation(colours: Tensor) -> Tensor:
    """What PAR's deviation of colours is by torch's own function."""
    return colours.std(dim=2, keepdim=True)


def labels_one_by_one(
    cam: Tensor, images: Tensor, class_labels: Tensor, box: Tensor, *, backgrounds: tuple[float, float]
) -> Tensor:
    """What `refined_labels` does for all images and both background scores at a time; (b, h, w)."""
    size = cam.shape[-2:]
    half = (size[0] // 2, size[1] // 2)
    small_cam = F.interpolate(cam.float(), size=half, mode="bilinear", align_corners=False)
    small_images = F.interpolate(images, size=half, mode="bilinear", align_corners=False)
    labels = []
    for maps, image, own in zip(small_cam, small_images, class_labels, strict=True):
        classes = own.nonzero().flatten()
        numbers = F.pad(classes + 1, (1, 0))
        chosen = []
        for background in backgrounds:
            plane = maps.new_full((1, *half), background)
            masks = torch.cat([plane, maps[classes]])[None].softmax(dim=1)
            refined = refine_masks(masks, image[None])
            refined = F.interpolate(refined, size=size, mode="bilinear", align_corners=False)
            chosen.append(numbers[refined.argmax(dim=1)])
        labels.append(combine_labels(chosen[0], chosen[1]))
    return ignore_outside(torch.cat(labels), box, IGNORE_INDEX)


class _ClassByClass(PermutohedralLattice):
    """A lattice that filters one class after another."""

    def filter(self, values: Tensor) -> Tensor:
        return torch.cat(
            [super(_ClassByClass, self).filter(one) for one in values.chunk(values.shape[-1], dim=-1)], dim=-1
        )


def energy_one_by_one(logits: Tensor, images: Tensor, label: Tensor, box: Tensor) -> Tensor:
    """What `energy_loss` does for all images and classes at a time."""
    with mock.patch.object(energy, "PermutohedralLattice", _ClassByClass):
        each = [
            energy_loss(*(one[place : place + 1].cpu() for one in (logits, images, label, box)))
            for place in range(len(logits))
        ]
    return torch.stack(each).mean().to(logits.device)
