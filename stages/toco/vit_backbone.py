"""A plain Vision Transformer as encoder, with the three outputs of METHOD section 1.

    images -> patches -> block 1 ... auxiliary block ... last block -> LayerNorm -> final patch tokens, class token
                                            |
                                            +-> auxiliary patch tokens (before any norm)

Positions may be absolute (resized to the image's tokens), rotary (timm computes them for each grid), or both.
Letters: b images, c channels of an image, d embedding width, h w tokens down and across, n = prefix tokens (class,
registers) + h * w. _h _w are pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.toco.backbone import Backbone, Grid, Tokens

AUXILIARY_BLOCK = -3  # the paper's: an intermediate block, whose tokens are not over-smoothed yet


def is_plain_vit(network: Any) -> bool:
    """Whether a network of timm is a Vision Transformer of one resolution, with patches cut from the image."""
    return type(getattr(network, "patch_embed", None)) is PatchEmbed and all(
        hasattr(network, part) for part in ("blocks", "pos_embed", "norm", "fc_norm")
    )


class VitBackbone(Backbone):
    """A timm ViT with frozen position embeddings, for images of any size.

    Without a class token (SigLIP), the model's own pooling of the final tokens, or else their mean, takes its place.
    """

    vit: Any

    def __init__(
        self,
        name: str,
        vit: Any,
        *,
        auxiliary_block: int,
        channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        """Take over a network that `is_plain_vit`; see `build_backbone`."""
        super().__init__(name, vit, channels, mean, std)
        self.auxiliary_block = auxiliary_block % len(vit.blocks)
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.embed_dim = self.auxiliary_dim = int(vit.embed_dim)
        self.prefix_tokens = int(vit.num_prefix_tokens)
        self.has_class_token = getattr(vit, "cls_token", None) is not None
        self.position_prefix = 0 if getattr(vit, "no_embed_class", False) else self.prefix_tokens
        self.position_grid = vit.patch_embed.grid_size
        # Absolute position embeddings are frozen (section 1), so they are a buffer here; `_fit_grid` resizes them.
        positions = getattr(vit, "pos_embed", None)
        if positions is not None:
            self.positions = positions.detach().clone()
            del vit.pos_embed
        vit.pos_embed = None
        # Models made for pooled tokens have their final LayerNorm after the pooling (fc_norm); here it is applied to
        # each token. All other models have it before the pooling, and get an identity as fc_norm.
        if not isinstance(vit.norm, nn.Identity):
            vit.fc_norm = nn.Identity()
        for layer in ("head", "head_drop", *(("attn_pool",) if self.has_class_token else ())):
            setattr(vit, layer, nn.Identity())
        self.vit = vit

    @property
    def network(self) -> Any:
        """Timm's network, without its head and positions."""
        return self.vit

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The blocks."""
        return list(self.vit.blocks)

    @property
    def block_dims(self) -> Sequence[int]:
        """Width of the tokens after each block."""
        return [self.embed_dim] * len(self.vit.blocks)

    def forward(self, images: Float[Tensor, "b c _h _w"]) -> Tokens:
        """Encode normalised images; pixels at the right and bottom that do not fill a patch are dropped."""
        final, patches, (auxiliary,) = self._encode(images, [self.auxiliary_block])
        return Tokens(final=patches, auxiliary=auxiliary, class_token=self._class_token(final))

    def tokens_after(self, block: int, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d h w"]:
        """Compute only the patch tokens after one block; later blocks are not run."""
        images, _ = self._fit_grid(images)
        tokens: Tensor
        (tokens,) = self.vit.forward_intermediates(images, indices=[block], stop_early=True, intermediates_only=True)
        return tokens

    def class_token(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d"]:
        """Compute only the class token of normalised images.

        In the last block only the attention mixes tokens, so its MLP is run on the class token alone.
        """
        *earlier, last = self.vit.blocks
        # Without a class token all tokens are pooled, and a block of another form is run as a whole.
        if not earlier or type(last) is not Block or not self.has_class_token:
            whole: Tokens = self(images)
            return whole.class_token

        def last_block(tokens: Tensor) -> Tensor:  # (b, n, d) -> (b, d)
            token = (tokens + last.drop_path1(last.ls1(last.attn(last.norm1(tokens)))))[:, 0]
            after: Tensor = token + last.drop_path2(last.ls2(last.mlp(last.norm2(token))))
            return after

        images, _ = self._fit_grid(images)
        ((patches, prefix),) = self.vit.forward_intermediates(
            images,
            indices=[len(earlier) - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        tokens = torch.cat([prefix, patches], dim=1)  # (b, n, d)
        if self.vit.grad_checkpointing:  # timm does this for the earlier blocks
            token = checkpoint(last_block, tokens, use_reentrant=False)
        else:
            token = last_block(tokens)
        final: Tensor = self.vit.fc_norm(self.vit.norm(token))
        return final

    def block_tokens(self, images: Float[Tensor, "b c _h _w"]) -> "list[Float[Tensor, 'b d h w']]":
        """Compute the patch tokens after each block; the last entry is after the final LayerNorm."""
        _, patches, blocks = self._encode(images, list(range(len(self.vit.blocks))))
        return [*blocks, patches]

    def _encode(
        self, images: Float[Tensor, "b c _h _w"], blocks: list[int]
    ) -> "tuple[Float[Tensor, 'b n d'], Float[Tensor, 'b d h w'], list[Float[Tensor, 'b d h w']]]":
        """Compute all final tokens, the final patch tokens as a map, and the patch tokens after the given blocks."""
        images, grid = self._fit_grid(images)
        final, intermediate = self.vit.forward_intermediates(images, indices=blocks, output_fmt="NCHW", norm=False)
        final = self.vit.fc_norm(final)  # (b, n, d)
        patches = final[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, grid)  # (b, d, h, w)
        return final, patches, intermediate

    def _fit_grid(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Crop images to whole patches and set the position embeddings of their grid (tokens down and across)."""
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        images = images[..., : grid[0] * self.patch_size, : grid[1] * self.patch_size]
        # timm resizes position embeddings with antialiasing; the published program resizes them without (section 1).
        # timm does not touch embeddings whose grid is that of the image, so both are set here.
        self.vit.pos_embed = self._positions(grid)
        self.vit.patch_embed.grid_size = grid
        return images, grid

    def _class_token(self, final: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        if self.has_class_token:
            return final[:, 0]
        pool = getattr(self.vit, "attn_pool", None)
        pooled: Tensor = final[:, self.prefix_tokens :].mean(dim=1) if pool is None else pool(final)
        return pooled

    def _positions(self, grid: Grid) -> Tensor | None:
        if self.positions is None or grid == self.position_grid:
            return self.positions
        prefix = self.positions[:, : self.position_prefix]
        patches = self.positions[:, self.position_prefix :].transpose(1, 2)  # (1, d, n)
        patches = patches.reshape(1, -1, *self.position_grid)
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)  # type: ignore[arg-type]
        return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
