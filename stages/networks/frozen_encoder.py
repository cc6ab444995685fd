"""A frozen encoder that turns an image into a map of patch tokens.

Letters: d width of the features, h w patches down and across, s t pixels down and across.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms import v2

from data.band_image import Pixels
from data.errors import SettingsError
from stages.networks.inference import BatchTensor, ImageTensor, to_tensor
from stages.toco.backbone import Backbone


class FrozenEncoder(nn.Module):
    """The patch tokens of one or several blocks of an encoder, joined."""

    def __init__(self, backbone: Backbone, blocks: tuple[int, ...]) -> None:
        """Use a backbone; it is put into evaluation mode and its weights are frozen.

        Args:
            backbone: The network.
            blocks: Numbers of the blocks; negative ones count from the last. None at all: the first block
                of the second half.

        Raises:
            SettingsError: It does not have such a block.
        """
        super().__init__()
        depth = len(backbone.block_dims)
        blocks = blocks or (depth // 2,)
        for block in blocks:
            if not -depth <= block < depth:
                raise SettingsError(f"--feature-blocks {block}: {backbone.name!r} has {depth} blocks, 0..{depth - 1}")
        self.backbone = backbone.eval().requires_grad_(False)
        self.blocks = blocks
        # `block_tokens` ends with the tokens after the final LayerNorm, which replace those of the last block.
        self.indices = [depth if block % depth == depth - 1 else block % depth for block in blocks]

    @property
    def width(self) -> int:
        """Number of features of a patch, d."""
        widths = (*self.backbone.block_dims, self.backbone.embed_dim)
        return sum(widths[index] for index in self.indices)

    @property
    def patch_size(self) -> int:
        """Pixels per side of a patch."""
        return self.backbone.patch_size

    def forward(self, images: BatchTensor) -> Float[Tensor, "b d h w"]:
        """Encode images with colours in 0..255, whose sides are multiples of the patch size."""
        return self.tokens(self.backbone.normalise(images.float()))

    def tokens(self, normalised: Float[Tensor, "b bands s t"]) -> Float[Tensor, "b d h w"]:
        """Encode normalised images, whose sides are multiples of the patch size."""
        if self.indices == [len(self.backbone.block_dims)]:
            return self.backbone(normalised).final.float()  # type: ignore[no-any-return]
        if len(self.indices) == 1:
            return self.backbone.tokens_after(self.indices[0], normalised).float()
        tokens = self.backbone.block_tokens(normalised)
        return torch.cat([tokens[index] for index in self.indices], dim=1).float()


def fitted_image(image: Pixels, long_side: int, patch_size: int) -> ImageTensor:
    """Resize an image for the encoder: the longer side to `long_side`, both sides to whole patches."""
    sides = fitted_sides((image.height, image.width), float(long_side), patch_size)
    resized: Tensor = v2.functional.resize(to_tensor(image), list(sides), antialias=True)
    return resized


def fitted_sides(size: Sequence[int], long_side: float, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels of an image of `size` (h, w) after `fitted_image`."""
    factor = long_side / max(size)
    return (
        max(1, round(size[0] * factor / patch_size)) * patch_size,
        max(1, round(size[1] * factor / patch_size)) * patch_size,
    )
