"""The network that learns from image labels: encoder, classifiers, decoder, projectors (METHOD section 1).

Letters: b images, c foreground classes, d embedding width, h w tokens.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.toco.backbone import Backbone
from stages.toco.cam import Cams


class Outputs(NamedTuple):
    """All that one forward pass gives; maps are on the token grid."""

    class_logits: Float[Tensor, "b c"]
    auxiliary_class_logits: Float[Tensor, "b c"]
    cams: Cams  # raw: not yet rectified or normalised
    seg_logits: Float[Tensor, "b classes h w"] | None  # background first; None where not asked for
    patch_tokens: Float[Tensor, "b d h w"]
    class_token: Float[Tensor, "b d"]


class ToCo(nn.Module):
    """Token Contrast network."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        decoder_channels: int = 512,
        projector_hidden: int = 2048,
        projector_bottleneck: int = 256,
        projector_out: int = 1024,
    ) -> None:
        super().__init__()
        width = backbone.embed_dim
        self.num_classes = num_classes
        self.backbone = backbone
        self.classifier = nn.Conv2d(width, num_classes, kernel_size=1, bias=False)
        self.auxiliary_classifier = nn.Conv2d(width, num_classes, kernel_size=1, bias=False)
        self.decoder = LargeFieldOfView(width, num_classes + 1, decoder_channels)
        self.projector = Projector(width, projector_hidden, projector_bottleneck, projector_out)
        self.teacher_projector = Projector(width, projector_hidden, projector_bottleneck, projector_out)
        self.teacher_projector.load_state_dict(self.projector.state_dict())
        self.teacher_projector.requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "b 3 _h _w"], *, decode: bool = True, train_encoder: bool = True
    ) -> Outputs:
        """Run everything but the projectors on normalised images; the decoder only if asked for.

        Without `train_encoder`, no gradient reaches the encoder, nor is anything kept for one.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and train_encoder):
            tokens = self.backbone(images)
        cam, auxiliary_cam = self.classifier(tokens.final), self.auxiliary_classifier(tokens.auxiliary)
        return Outputs(
            class_logits=_classify(self.classifier, tokens.final),
            auxiliary_class_logits=_classify(self.auxiliary_classifier, tokens.auxiliary),
            cams=Cams(final=cam, auxiliary=auxiliary_cam),
            seg_logits=self.decoder(tokens.final) if decode else None,
            patch_tokens=tokens.final,
            class_token=tokens.class_token,
        )

    def raw_cams(self, images: Float[Tensor, "b 3 _h _w"]) -> Cams:
        """Only the raw CAMs of normalised images."""
        tokens = self.backbone(images)
        return Cams(final=self.classifier(tokens.final), auxiliary=self.auxiliary_classifier(tokens.auxiliary))

    def raw_auxiliary_cam(self, images: Float[Tensor, "b 3 _h _w"]) -> Float[Tensor, "b c h w"]:
        """Only the auxiliary one: the blocks behind it rest."""
        cam: Tensor = self.auxiliary_classifier(self.backbone.auxiliary_tokens(images))
        return cam

    @torch.no_grad()
    def update_teacher(self, momentum: float = 0.9) -> None:
        """Let the teacher projector follow the student: an exponential moving average, once a step."""
        for teacher, student in zip(self.teacher_projector.parameters(), self.projector.parameters(), strict=True):
            teacher.lerp_(student, 1 - momentum)


def _classify(classifier: nn.Conv2d, tokens: Tensor) -> Tensor:
    logits: Tensor = classifier(tokens.amax(dim=(-2, -1), keepdim=True))
    return logits.flatten(1)


class LargeFieldOfView(nn.Module):
    """DeepLab's LargeFOV decoder: two 3 x 3 convolutions of dilation 5 and a linear map, no biases."""

    def __init__(self, width: int, classes: int, channels: int = 512) -> None:
        super().__init__()
        self.conv6 = nn.Conv2d(width, channels, kernel_size=3, padding=5, dilation=5, bias=False)
        self.conv7 = nn.Conv2d(channels, channels, kernel_size=3, padding=5, dilation=5, bias=False)
        self.conv8 = nn.Conv2d(channels, classes, kernel_size=1, bias=False)

    def forward(self, tokens: Float[Tensor, "b d h w"]) -> Float[Tensor, "b classes h w"]:
        """Patch tokens to class logits, background first."""
        logits: Tensor = self.conv8(F.relu(self.conv7(F.relu(self.conv6(tokens)))))
        return logits


class Projector(nn.Module):
    """Class tokens to the space in which they are compared (METHOD section 1)."""

    def __init__(self, width: int, hidden: int = 2048, bottleneck: int = 256, out: int = 1024) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        # A weight-normed linear map whose gain stays 1: only the directions of its rows matter.
        self.prototypes = nn.Parameter(torch.empty(out, bottleneck))
        bound = bottleneck**-0.5  # as a linear layer starts
        nn.init.uniform_(self.prototypes, -bound, bound)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, class_tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b out"]:
        """Project class tokens; every output is a cosine, in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(class_tokens), dim=-1), F.normalize(self.prototypes, dim=-1))
