"""A segmentation network of a frozen encoder and a small trained head.

Letters: b images, d width of the features, h w patches down and across, s t pixels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.networks.frozen_encoder import FrozenEncoder

WIDTH = 256  # of the hidden layer of mlp and conv
DROPOUT = 0.3  # on the hidden layer


class FeatureHead(nn.Module):
    """Class logits of patches, from the features as the encoder gives them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str, width: int, classes: int) -> None:
        """Begin with random weights.

        Args:
            kind: linear, mlp (one hidden layer) or conv (one 3 x 3 convolution over patches instead).
            width: Number of features of a patch, d.
            classes: Number of classes with background.
        """
        super().__init__()
        self.num_classes = classes - 1
        self.reach = 1 if kind == "conv" else 0  # patches around a patch that its logits depend on
        self.register_buffer("mean", torch.zeros(width, 1, 1))
        self.register_buffer("deviation", torch.ones(width, 1, 1))
        if kind == "linear":
            self.layers: nn.Module = nn.Conv2d(width, classes, 1)
        else:
            first = nn.Conv2d(width, WIDTH, 1) if kind == "mlp" else nn.Conv2d(width, WIDTH, 3)
            self.layers = nn.Sequential(first, nn.GELU(), nn.Dropout(DROPOUT), nn.Conv2d(WIDTH, classes, 1))

    def forward(self, features: Float[Tensor, "b d h w"], *, whole: bool = True) -> Float[Tensor, "b classes s t"]:
        """Class logits of each patch, background first.

        Args:
            features: Features as the encoder gives them.
            whole: Whether they are those of whole images, which are padded with the mean. Otherwise they are windows,
                and the logits are those of the patches that are `reach` patches away from the border.
        """
        standardised = (features.float() - self.mean) / self.deviation
        logits: Tensor = self.layers(F.pad(standardised, [self.reach] * 4) if whole else standardised)
        return logits


class FeatureNetwork(nn.Module):
    """A frozen encoder and a head, for normalised images of any size."""

    def __init__(self, encoder: FrozenEncoder, head: FeatureHead) -> None:
        """Join the two."""
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, normalised: Float[Tensor, "b bands s t"]) -> Float[Tensor, "b classes s t"]:
        """Class logits of the image's size; its sides are multiples of the patch size."""
        logits = self.head(self.encoder.tokens(normalised))
        size = (normalised.shape[-2], normalised.shape[-1])
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
