"""One training step of the CAM network: all losses of one batch (METHOD sections 1 to 7).

    L = L_cls + L_cls_aux + 0.2 L_ptc + 0.5 L_ctc + 0.1 L_seg + 0.05 L_reg      (section 7, weights for VOC)

    loss               from                                                              section
    L_cls, L_cls_aux   image labels, one classifier each on final and auxiliary tokens   1
    L_ptc              patch tokens, in pairs labelled by the auxiliary CAM              4
    L_ctc              class tokens of global views and of local crops                   5
    L_seg              the decoder, on the CAM's labels refined by PAR                   6
    L_reg              the decoder, by the energy of a dense CRF                         6

The published program computes some passes twice; here each is computed once, because the results are equal. The
training image is also global view 1 of CTC and scale 1 of the multi-scale CAM, and the teacher's class tokens are the
student's, detached (the encoder has no teacher copy).

A GPU makes the CPU wait in only one place, twice: the size of the bilateral filter's lattice depends on the images.

Letters: b images, c foreground classes, k classes of an image (the largest number in the batch), s image side in
pixels, h w tokens down and across, d embedding width, n local crops of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import default_collate

from stages.toco.cam import (
    IGNORE_INDEX,
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
from stages.toco.ranks import SINGLE_RANK, Ranks


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Constants of the losses; the defaults are the paper's for VOC (sections 3, 5 and 7)."""

    # Weights of the losses, section 7.
    ptc_weight: float = 0.2
    ctc_weight: float = 0.5
    seg_weight: float = 0.1
    reg_weight: float = 0.05
    # Background scores (section 3): objects are above the high one, background is up to the low one. COCO: high 0.65.
    high_threshold: float = 0.7
    low_threshold: float = 0.25
    # Class-token contrast, sections 1 and 5.
    temperature: float = 0.5  # COCO 1.0
    momentum: float = 0.9  # of the teacher projector's moving average
    local_crops: int = 8  # of each image
    shown_bands: tuple[int, ...] = (0, 1, 2)  # bands that PAR and the bilateral filter take for red, green and blue
    local_crop_size: int = 96  # pixels
    # Multi-scale CAM, section 2.
    scales: tuple[float, ...] = SCALES


class StepBatch(NamedTuple):
    """The views of a batch, red, green, blue in 0..255, and its labels (section 7 has the augmentation)."""

    image: UInt8[Tensor, "b bands s s"] | Float[Tensor, "b bands s s"]  # the training crop, which is also global view 1
    second: UInt8[Tensor, "b bands s s"] | Float[Tensor, "b bands s s"]  # global view 2
    local: (
        UInt8[Tensor, "b bands s s"] | Float[Tensor, "b bands s s"]
    )  # another view of the training crop, from which local crops are cut
    box: Int[Tensor, "b 4"]  # y0, y1, x0, x1 in pixels: the part of the training crop that is not padding
    class_labels: Float[Tensor, "b c"]  # 1 where the image has the class, else 0
    most_classes: int  # the largest number of classes of one image; counted by the loader, so that no GPU is waited for
    missing: Bool[Tensor, "b s s"] | None = None  # where the training crop has no value; None if each pixel has one

    @staticmethod
    def stack(images: "Sequence[StepBatch]") -> "StepBatch":
        """Make a batch of single images, whose tensors have no dimension b yet."""
        tensors = default_collate([image[:5] for image in images])
        missing = None
        if any(image.missing is not None for image in images):
            everywhere = torch.zeros(images[0].image.shape[-2:], dtype=torch.bool)
            missing = torch.stack([everywhere if one.missing is None else one.missing for one in images])
        return StepBatch._make([*tensors, max(image.most_classes for image in images), missing])


class Phase(NamedTuple):
    """What is trained at this point of the run; both classifiers always are (section 7).

    VOC: contrast from the start, segment from iteration 2,000 of 20,000. COCO: neither for 8,000 of 80,000 iterations,
    then both, with auxiliary_labels until 12,000.
    """

    contrast: bool  # L_ptc and L_ctc
    segment: bool  # L_seg and L_reg
    auxiliary_labels: bool = False  # the pseudo labels come from the auxiliary CAM (COCO, section 7)
    encoder: bool = True  # False: the encoder is frozen, only the heads learn


class StepCams(NamedTuple):
    """Valid multi-scale CAMs of the classes that each image has, by what they are used for."""

    contrast: Float[Tensor, "b k s s"]  # the auxiliary CAM, for PTC and CTC
    labels: Float[
        Tensor, "b k s s"
    ]  # for the pseudo labels of the segmentation branch; the auxiliary CAM if not needed


class Losses(NamedTuple):
    """The losses before they are weighted, and their weighted sum; a loss that is not trained is zero."""

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    auxiliary_classification: Float[Tensor, ""]
    ptc: Float[Tensor, ""]
    ctc: Float[Tensor, ""]
    segmentation: Float[Tensor, ""]
    regularised: Float[Tensor, ""]


class TrainingStep(nn.Module):
    """The network together with its losses, so that a data-parallel wrapper sees one forward pass in each step."""

    def __init__(self, model: ToCo, settings: StepSettings, ranks: Ranks = SINGLE_RANK) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.ranks = ranks

    def forward(self, batch: StepBatch, phase: Phase, generators: Sequence[torch.Generator]) -> Losses:
        """Compute the losses that the phase trains.

        Args:
            batch: The images.
            phase: What is trained.
            generators: One per image; they draw the places of the local crops.
        """
        settings, model = self.settings, self.model

        # What to compute. A loss of weight 0 is left out. PTC and CTC train the encoder and the projector of its class
        # token, so they are left out while the encoder is frozen.
        segment = phase.segment and (settings.seg_weight > 0 or settings.reg_weight > 0)
        contrast = phase.contrast and phase.encoder
        contrast_patches = contrast and settings.ptc_weight > 0
        contrast_classes = contrast and settings.ctc_weight > 0

        # Main pass: class logits, raw CAMs, segmentation logits, patch tokens, class token of global view 1.
        images = model.backbone.normalise(batch.image.float())  # (b, 3, s, s)
        outputs = model(images, decode=segment, train_encoder=phase.encoder)

        # Section 1. Both classifiers learn the image labels, each on max-pooled tokens of its block.
        classification = classification_loss(outputs.class_logits, batch.class_labels)
        auxiliary = classification_loss(outputs.auxiliary_class_logits, batch.class_labels)

        # Losses that the phase does not train stay zero.
        zero = classification.new_zeros(())
        ptc = ctc = segmentation = regularised = zero

        # Sections 2 and 3. Valid multi-scale CAMs. They are only targets, so no gradient flows through them.
        if segment or contrast_patches or contrast_classes:
            present = present_classes(batch.class_labels, batch.most_classes)
            cams = self._cams(images, outputs, present, final=segment and not phase.auxiliary_labels)

        # Section 4. The auxiliary CAM says which patch tokens belong together; the final tokens learn that relation.
        if contrast_patches:
            ptc = self._ptc(outputs, cams.contrast, batch)

        # Section 5. Local crops from regions where the auxiliary CAM is uncertain, against the global views.
        if contrast_classes:
            ctc = self._ctc(batch, outputs, cams.contrast, generators)

        # Section 6. The decoder learns from the CAM's labels, refined by PAR, and from the energy of a dense CRF.
        if segment:
            segmentation, regularised = self._segmentation(batch, outputs, cams.labels, present)

        # Section 7. The weighted sum.
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
        """Fuse the CAMs of three scales and their horizontal flips (section 2), for the classes of each image.

        valid CAM = CAM * class label. Without `final` only the auxiliary CAM is computed, and the encoder stops after
        the auxiliary block.
        """
        scales = self.settings.scales
        # The main pass has given the CAM at scale 1, unflipped, which is not computed again.
        unflipped = present.pick_both(outputs.cams)  # (b, k, h, w) each
        if not final:
            auxiliary = multi_scale_cam(
                lambda scaled: present.pick(self.model.raw_auxiliary_cam(scaled)),
                images,
                scales=scales,
                unflipped=unflipped.auxiliary,
            )  # (b, k, s, s)
            valid = keep_present(auxiliary, present.valid)
            return StepCams(contrast=valid, labels=valid)
        cams = multi_scale_cams(
            lambda scaled: present.pick_both(self.model.raw_cams(scaled)), images, scales=scales, unflipped=unflipped
        )
        return StepCams(
            contrast=keep_present(cams.auxiliary, present.valid), labels=keep_present(cams.final, present.valid)
        )

    def _ptc(self, outputs: Outputs, auxiliary_cam: Tensor, batch: StepBatch) -> Tensor:
        """Patch-token contrast (section 4): label the tokens by the auxiliary CAM, compare the final patch tokens."""
        # (b, k, s, s) -> (b, k, h, w) -> labels (b, h, w). Tokens between the thresholds, and those that are not wholly
        # inside the image box, are ignored. Only equality of labels matters, so labels 1..k may stay as they are.
        grid = outputs.patch_tokens.shape[-2:]
        token_cam = F.interpolate(auxiliary_cam, size=grid, mode="bilinear", align_corners=False)
        labels = label_two_thresholds(
            token_cam,
            box_in_tokens(batch.box, self.model.backbone.patch_size),
            high=self.settings.high_threshold,
            low=self.settings.low_threshold,
        )
        if batch.missing is not None:  # tokens of which more than half has no value are ignored as well
            share = F.adaptive_avg_pool2d(batch.missing.float(), (grid[0], grid[1]))
            labels = labels.masked_fill(share > 0.5, IGNORE_INDEX)
        return patch_token_contrast(outputs.patch_tokens, labels, ranks=self.ranks)

    def _ctc(
        self, batch: StepBatch, outputs: Outputs, auxiliary_cam: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Class-token contrast (section 5): 2 global views and n local crops against the teacher's 2 global views."""
        settings, model = self.settings, self.model

        # Local crops, centred where the auxiliary CAM sees background (0) or is uncertain (1), not on objects (2).
        uncertainty = uncertainty_map(auxiliary_cam, high=settings.high_threshold, low=settings.low_threshold)
        size = settings.local_crop_size
        # Pixels without a value look like background, but a crop of them would show nothing.
        centres = uncertainty if batch.missing is None else uncertainty.masked_fill(batch.missing, 2)
        places = choose_crops(centres, count=settings.local_crops, size=size, generators=generators)
        crops = cut_crops(batch.local.float(), places, size)  # (b, n, 3, size, size)

        # Class tokens of all views; that of global view 1 is known from the main pass.
        second = model.backbone.class_token(model.backbone.normalise(batch.second.float()))  # (b, d)
        local = model.backbone.class_token(model.backbone.normalise(crops.flatten(0, 1)))  # (b * n, d)
        global_tokens = torch.stack([outputs.class_token, second], dim=1)  # (b, 2, d)
        views = torch.cat([global_tokens, local.reshape(*crops.shape[:2], -1)], dim=1)  # (b, 2 + n, d)

        # Student and teacher share the encoder, so the teacher projects the same class tokens, without gradient.
        if self.training:
            model.update_teacher(settings.momentum)
        with torch.no_grad():
            teacher = model.teacher_projector(global_tokens)  # (b, 2, out)
        student = model.projector(views)  # (b, 2 + n, out)
        return class_token_contrast(student, teacher, positive_views(uncertainty, places, size), settings.temperature)

    def _segmentation(
        self, batch: StepBatch, outputs: Outputs, cam: Tensor, present: PresentClasses
    ) -> tuple[Tensor, Tensor]:
        """The segmentation branch (section 6): L_seg on online pseudo labels, and L_reg."""
        settings = self.settings
        assert outputs.seg_logits is not None
        # 0..255: the colour scales of PAR and of the bilateral filter are in these units.
        shown = torch.stack([batch.image[:, band] for band in settings.shown_bands], dim=1)
        images = shown.float().clamp(0, 255)
        logits = F.interpolate(outputs.seg_logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)

        # Pseudo labels: PAR against the high and the low background score; 255 where the two disagree, outside the
        # image box, and where the image has no value. Labels 1..k among the image's own classes become class numbers
        # 1..c.
        with torch.no_grad():
            label = refined_labels(
                cam,
                images,
                present.valid,
                batch.box,
                high=settings.high_threshold,
                low=settings.low_threshold,
            )
            label = present.class_numbers(label)  # (b, s, s)
            if batch.missing is not None:
                label = label.masked_fill(batch.missing, IGNORE_INDEX)

        segmentation = segmentation_loss(logits, label, ranks=self.ranks)
        return segmentation, energy_loss(logits, images, label, batch.box, batch.missing)


def box_in_tokens(box: Int[Tensor, "b 4"], patch_size: int) -> Int[Tensor, "b 4"]:
    """Shrink boxes from pixels to the tokens that lie wholly inside: starts are rounded up, ends down.

    The published program compares the box in pixels with token positions; here the box is scaled to tokens, because
    the other drops the whole image wherever its crop was padded at the top or left by more than a few pixels.
    """
    y0, y1, x0, x1 = box.unbind(dim=1)
    # -(-a // p) is a / p rounded up.
    return torch.stack([-(-y0 // patch_size), y1 // patch_size, -(-x0 // patch_size), x1 // patch_size], dim=1)
