"""The encoder: any plain Vision Transformer of timm, with the three outputs of METHOD section 1.

    images -> patches -> block 1 ... auxiliary block ... last block -> LayerNorm -> final patch tokens, class token
                                            |
                                            +-> auxiliary patch tokens (before any norm)

Letters: b images, c channels of an image, d embedding width, h w tokens down and across, n = prefix tokens (class,
registers) + h * w. _h _w are pixels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.models import adapt_input_conv
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Grid = tuple[int | torch.SymInt, int | torch.SymInt]  # tokens down and across; symbols while a network is exported


class Tokens(NamedTuple):
    """The outputs of the encoder."""

    final: Float[Tensor, "b d h w"]  # patch tokens after the final LayerNorm
    auxiliary: Float[Tensor, "b d h w"]  # patch tokens after the auxiliary block, before any norm
    class_token: Float[Tensor, "b d"]  # after the final LayerNorm


class Backbone(nn.Module):
    """A timm ViT with frozen position embeddings, for images of any size."""

    mean: Tensor  # (c, 1, 1), in units of 255
    std: Tensor
    positions: Tensor | None
    vit: Any

    def __init__(
        self,
        name: str,
        *,
        auxiliary_block: int = -3,
        pretrained: bool = False,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **overrides: Any,
    ) -> None:
        """Create the encoder.

        Args:
            name: timm's model name.
            auxiliary_block: Block whose output is the auxiliary tokens; negative counts from the end. -3 is the
                paper's: an intermediate block, whose tokens are not over-smoothed yet.
            pretrained: Download timm's weights of this model; timm fits those of the first layer to the channels.
            channels: Channels of the images.
            mean: Mean of each channel, in the unit of the images. By default that of the pretraining, for 0..255;
                if the images do not have three channels, the average over red, green and blue for each channel.
            std: Standard deviation of each channel, likewise.
            overrides: Passed to timm (`depth`, `embed_dim`, `img_size`, ... of a model from scratch).

        Raises:
            ValueError: timm does not have the model, it is not a plain ViT with a class token, the block does not
                exist, or `mean` or `std` does not have one value per channel.
        """
        super().__init__()
        for what, values in (("mean", mean), ("standard deviation", std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"the {what} has {len(values)} values, but the images have {channels} channels")
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*vit*")[:3]) or "deit_base_patch16_224"
            raise ValueError(f"--backbone {name!r} is not a model of timm {timm.__version__}; try one like {near}")
        try:
            vit: Any = timm.create_model(
                name, pretrained=pretrained, num_classes=0, dynamic_img_size=True, in_chans=channels, **overrides
            )
        except TypeError as error:
            if overrides and "dynamic_img_size" not in str(error):
                shape = " ".join(f"{option}={value}" for option, value in overrides.items())
                raise ValueError(f"--backbone {name!r} cannot be built with {shape}: {error}") from error
            raise ValueError(_not_plain(name)) from error  # other model families lack the argument dynamic_img_size
        plain = type(getattr(vit, "patch_embed", None)) is PatchEmbed and hasattr(vit, "blocks")
        if not plain or getattr(vit, "cls_token", None) is None:
            raise ValueError(_not_plain(name))
        depth = len(vit.blocks)
        if not -depth <= auxiliary_block < depth:
            raise ValueError(
                f"--auxiliary-block {auxiliary_block} does not exist: "
                f"{name!r} has {depth} blocks; choose {-depth}..{depth - 1}"
            )
        self.name = name
        self.auxiliary_block = auxiliary_block % depth
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.embed_dim = int(vit.embed_dim)
        self.prefix_tokens = int(vit.num_prefix_tokens)
        self._position_prefix = 0 if getattr(vit, "no_embed_class", False) else self.prefix_tokens
        self.position_grid: tuple[int, int] = vit.patch_embed.grid_size
        # Absolute position embeddings are frozen (section 1), so they are a buffer here; `_fit_grid` resizes them.
        positions = getattr(vit, "pos_embed", None)
        self.register_buffer("positions", None if positions is None else positions.detach().clone())
        if positions is not None:
            del vit.pos_embed
        vit.pos_embed = None
        # Models made for pooled tokens have their final LayerNorm after the pooling (fc_norm); here it is applied to
        # each token. All other models have it before the pooling, and get an identity as fc_norm.
        if not isinstance(vit.norm, nn.Identity):
            vit.fc_norm = nn.Identity()
        for layer in ("head", "head_drop", "attn_pool"):
            setattr(vit, layer, nn.Identity())
        self.vit = vit
        config = vit.pretrained_cfg or {}
        self.register_buffer("mean", _per_channel(mean, config.get("mean", (0.5,) * 3), channels))
        self.register_buffer("std", _per_channel(std, config.get("std", (0.5,) * 3), channels))

    def normalise(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Turn images into the network's input, by the mean and standard deviation of their channels.

        By default the images are red, green, blue in 0..255, and mean and deviation are those of the pretraining.
        """
        return (images / 255 - self.mean) / self.std

    def forward(self, images: Float[Tensor, "b c _h _w"]) -> Tokens:
        """Encode normalised images; pixels at the right and bottom that do not fill a patch are dropped."""
        final, patches, (auxiliary,) = self._encode(images, [self.auxiliary_block])
        return Tokens(final=patches, auxiliary=auxiliary, class_token=final[:, 0])

    def auxiliary_tokens(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d h w"]:
        """Compute only the auxiliary tokens of normalised images; later blocks are not run."""
        images, _ = self._fit_grid(images)
        tokens: Tensor
        (tokens,) = self.vit.forward_intermediates(
            images, indices=[self.auxiliary_block], stop_early=True, intermediates_only=True
        )
        return tokens

    def class_token(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d"]:
        """Compute only the class token of normalised images.

        In the last block only the attention mixes tokens, so its MLP is run on the class token alone.
        """
        *earlier, last = self.vit.blocks
        if not earlier or type(last) is not Block:  # a block of another form: run all of it
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

    def set_grad_checkpointing(self) -> None:
        """Store only the input of each block for the backward pass, which recomputes its activations."""
        self.vit.set_grad_checkpointing(True)

    def set_position_grid(self, grid: tuple[int, int]) -> None:
        """Resize the buffer for position embeddings of another grid (tokens down and across), to be loaded next."""
        self.position_grid = grid
        if self.positions is not None:
            tokens = self._position_prefix + math.prod(grid)
            self.positions = self.positions.new_zeros(1, tokens, self.embed_dim)

    def _positions(self, grid: Grid) -> Tensor | None:
        if self.positions is None or grid == self.position_grid:
            return self.positions
        prefix = self.positions[:, : self._position_prefix]
        patches = self.positions[:, self._position_prefix :].transpose(1, 2)  # (1, d, n)
        patches = patches.reshape(1, -1, *self.position_grid)
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)  # type: ignore[arg-type]
        return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)


def _per_channel(given: Sequence[float] | None, pretraining: Sequence[float], channels: int) -> Tensor:
    """Return one value per channel in units of 255, shape (c, 1, 1); `given` is in the unit of the images."""
    if given is not None:
        return torch.tensor(given, dtype=torch.float64).div(255).float().view(-1, 1, 1)
    if channels == len(pretraining):
        return torch.tensor(pretraining).view(-1, 1, 1)
    return torch.full((channels, 1, 1), sum(pretraining) / len(pretraining))


def _not_plain(name: str) -> str:
    return (
        f"--backbone {name!r} is not a plain Vision Transformer with a class token; "
        "choose one such as 'deit_base_patch16_224' or 'vit_small_patch14_dinov2'"
    )


def load_backbone_weights(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Load the state of a timm ViT, with timm's key names.

    Classification heads are skipped; half precision is converted. If the file is of a network for red, green and blue
    and the backbone takes other channels, the weights of the first layer are fitted to them as timm does: summed for
    one channel, else repeated and scaled.

    Raises:
        ValueError: Keys are missing or have other shapes: the file is of another model.
    """
    state = {key: value.float() for key, value in state.items()}
    positions = state.pop("pos_embed", None)
    wanted = backbone.vit.state_dict()
    for key in _first_layers(backbone):
        weight = state.get(key)
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 != wanted[key].shape[1]:
            state[key] = adapt_input_conv(wanted[key].shape[1], weight)
    missing = sorted(wanted.keys() - state.keys())
    shapes = sorted(key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape)
    if backbone.positions is not None:
        if positions is None:
            missing.append("pos_embed")
        elif positions.shape[-1] != backbone.positions.shape[-1]:
            shapes.append("pos_embed")
    if missing or shapes:
        what = f"has no {missing[0]!r}" if missing else f"has another shape of {shapes[0]!r}"
        raise ValueError(f"is of another model than --backbone {backbone.name!r}: it {what}")
    if backbone.positions is not None and positions is not None:
        tokens = positions.shape[1] - backbone._position_prefix
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise ValueError(f"has position embeddings for {tokens} patches, which is not a square number")
        backbone.position_grid = (side, side)
        backbone.positions = positions.to(backbone.positions)
    backbone.vit.load_state_dict({key: state[key] for key in wanted})


def _first_layers(backbone: Backbone) -> list[str]:
    """Keys of the weights that read the image."""
    first = (backbone.vit.pretrained_cfg or {}).get("first_conv") or ()
    return [f"{layer}.weight" for layer in ((first,) if isinstance(first, str) else first)]
