"""The network that learns from image labels: encoder, classifiers, decoder, projectors (METHOD section 1).

    images -> encoder -> final tokens      -> classifier            -> class logits, CAM
                                           -> decoder               -> segmentation logits
                      -> auxiliary tokens  -> auxiliary classifier  -> class logits, auxiliary CAM
                      -> class token       -> projector, teacher projector (in the training step)

Letters: b images, c foreground classes, d embedding width, h w tokens down and across.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.toco.backbone import Backbone, Tokens
from stages.toco.cam import Cams


class Outputs(NamedTuple):
    """Everything that one forward pass computes; maps are on the token grid."""

    class_logits: Float[Tensor, "b c"]
    auxiliary_class_logits: Float[Tensor, "b c"]
    cams: Cams  # raw: before ReLU and normalisation
    seg_logits: Float[Tensor, "b classes h w"] | None  # background first; None without `decode`
    patch_tokens: Float[Tensor, "b d h w"]  # the encoder's final patch tokens
    class_token: Float[Tensor, "b d"]


class ToCo(nn.Module):
    """Token Contrast network: a ViT encoder, two classifiers, a decoder, and a student and a teacher projector."""

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
        """Put new heads on an encoder; the default sizes are the paper's.

        Args:
            backbone: The encoder.
            num_classes: Number of foreground classes.
            decoder_channels: Channels of the decoder's hidden layers.
            projector_hidden: Width of the projectors' hidden layers.
            projector_bottleneck: Width of the vectors that are L2-normalised.
            projector_out: Width of the projectors' output.
        """
        super().__init__()
        width = backbone.embed_dim
        self.num_classes = num_classes
        self.backbone = backbone
        # A 1 x 1 convolution is a linear map on each token: the same weights classify the image and make the CAM.
        self.classifier = nn.Conv2d(width, num_classes, kernel_size=1, bias=False)
        self.auxiliary_classifier = nn.Conv2d(backbone.auxiliary_dim, num_classes, kernel_size=1, bias=False)
        self.decoder = LargeFieldOfView(width, num_classes + 1, decoder_channels)
        self.projector = Projector(width, projector_hidden, projector_bottleneck, projector_out)
        # The teacher starts equal to the student; it gets no gradient, only the moving average of `update_teacher`.
        self.teacher_projector = Projector(width, projector_hidden, projector_bottleneck, projector_out)
        self.teacher_projector.load_state_dict(self.projector.state_dict())
        self.teacher_projector.requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "b bands _h _w"], *, decode: bool = True, train_encoder: bool = True
    ) -> Outputs:
        """Run encoder and heads on normalised images; the projectors are left to the training step.

        Without `train_encoder` the encoder is frozen: no gradient reaches it, and its activations are not kept.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and train_encoder):
            tokens = self.backbone(images)
        return self.heads(tokens, decode=decode)

    def heads(self, tokens: Tokens, *, decode: bool = True) -> Outputs:
        """Run classifiers and decoder on tokens, which may also come from a cache of a frozen encoder's features.

        Args:
            tokens: The encoder's output.
            decode: Whether to run the decoder.
        """
        return Outputs(
            class_logits=_classify(self.classifier, tokens.final),
            auxiliary_class_logits=_classify(self.auxiliary_classifier, tokens.auxiliary),
            # CAM(class, y, x) = <w_class, F(:, y, x)>
            cams=Cams(final=self.classifier(tokens.final), auxiliary=self.auxiliary_classifier(tokens.auxiliary)),
            seg_logits=self.decoder(tokens.final) if decode else None,
            patch_tokens=tokens.final,
            class_token=tokens.class_token,
        )

    def raw_cams(self, images: Float[Tensor, "b bands _h _w"]) -> Cams:
        """Compute only the raw CAMs of normalised images."""
        return self.heads(self.backbone(images), decode=False).cams

    def raw_auxiliary_cam(self, images: Float[Tensor, "b bands _h _w"]) -> Float[Tensor, "b c h w"]:
        """Compute only the raw auxiliary CAM; the encoder stops after the auxiliary block."""
        cam: Tensor = self.auxiliary_classifier(self.backbone.auxiliary_tokens(images))
        return cam

    @torch.no_grad()
    def update_teacher(self, momentum: float = 0.9) -> None:
        """Update the teacher projector by an exponential moving average, once a step, before it is used.

        teacher <- momentum * teacher + (1 - momentum) * student
        """
        for teacher, student in zip(self.teacher_projector.parameters(), self.projector.parameters(), strict=True):
            teacher.lerp_(student, 1 - momentum)


def _classify(classifier: nn.Conv2d, tokens: Tensor) -> Tensor:
    """Class logits of globally max-pooled tokens: logit(class) = <w_class, max over y, x of F(:, y, x)>."""
    logits: Tensor = classifier(tokens.amax(dim=(-2, -1), keepdim=True))  # (b, d, 1, 1) -> (b, c, 1, 1)
    return logits.flatten(1)


class LargeFieldOfView(nn.Module):
    """DeepLab's LargeFOV decoder: two 3 x 3 convolutions of dilation 5 and a linear map, no biases."""

    def __init__(self, width: int, classes: int, channels: int = 512) -> None:
        super().__init__()
        self.conv6 = nn.Conv2d(width, channels, kernel_size=3, padding=5, dilation=5, bias=False)
        self.conv7 = nn.Conv2d(channels, channels, kernel_size=3, padding=5, dilation=5, bias=False)
        self.conv8 = nn.Conv2d(channels, classes, kernel_size=1, bias=False)

    def forward(self, tokens: Float[Tensor, "b d h w"]) -> Float[Tensor, "b classes h w"]:
        """Compute class logits, background first."""
        logits: Tensor = self.conv8(F.relu(self.conv7(F.relu(self.conv6(tokens)))))
        return logits


class Projector(nn.Module):
    """Projects class tokens into the space in which views are compared (METHOD section 1).

    width -> hidden -> GELU -> hidden -> GELU -> bottleneck, L2-normalised -> weight-normed linear map -> out
    """

    def __init__(self, width: int, hidden: int = 2048, bottleneck: int = 256, out: int = 1024) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        # Weight normalisation with its gain fixed at 1: only the directions of the rows matter.
        self.prototypes = nn.Parameter(torch.empty(out, bottleneck))
        bound = bottleneck**-0.5  # torch's initialisation of a linear layer
        nn.init.uniform_(self.prototypes, -bound, bound)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, class_tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b out"]:
        """Project class tokens; every output is a cosine, in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(class_tokens), dim=-1), F.normalize(self.prototypes, dim=-1))
