"""The encoder's interface: any network of timm that gives a map of tokens (METHOD section 1).

`VitBackbone` is a plain Vision Transformer, `MapBackbone` any other network; `build_backbone` chooses.

Letters: b images, c channels of an image, d width of the final tokens, a width of the auxiliary tokens, h w tokens down
and across. _h _w are pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Grid = tuple[int | torch.SymInt, int | torch.SymInt]  # tokens down and across; symbols while a network is exported


class Tokens(NamedTuple):
    """The outputs of the encoder."""

    final: Float[Tensor, "b d h w"]  # the last patch tokens, normalised
    auxiliary: Float[Tensor, "b a h w"]  # patch tokens of an intermediate block or stage
    class_token: Float[Tensor, "b d"]  # of a network without a class token: its final tokens, pooled


class Backbone(nn.Module, ABC):
    """A network of timm that turns images of any size into tokens."""

    mean: Tensor  # (c, 1, 1), in units of 255
    std: Tensor
    positions: Tensor | None  # absolute position embeddings, which are frozen
    position_prefix = 0  # of them, those that stand before the patches
    position_grid: tuple[int, int] = (1, 1)  # tokens down and across of `positions`
    auxiliary_block: int  # counts from 0
    patch_size: int  # pixels per side of a token
    embed_dim: int  # d
    auxiliary_dim: int  # a
    has_class_token: bool

    def __init__(
        self, name: str, network: Any, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        """Set the normalisation; see `build_backbone`."""
        super().__init__()
        self.name = name
        self.options: Mapping[str, Any] = {}  # that the network was built with, as timm takes them
        config = network.pretrained_cfg or {}
        self.first_layers: tuple[str, ...] = _names(config.get("first_conv"))  # that read the image
        self.register_buffer("positions", None)
        self.register_buffer("mean", _per_channel(mean, config.get("mean", (0.5,) * 3), channels))
        self.register_buffer("std", _per_channel(std, config.get("std", (0.5,) * 3), channels))

    def normalise(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Turn images into the network's input, by the mean and standard deviation of their channels.

        By default the images are red, green, blue in 0..255, and mean and deviation are those of the pretraining.
        """
        return (images / 255 - self.mean) / self.std

    @property
    @abstractmethod
    def network(self) -> Any:
        """Timm's network; its state has timm's key names."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[nn.Module]:
        """The blocks or stages, first to last, which can be compiled one by one."""

    @property
    @abstractmethod
    def block_dims(self) -> Sequence[int]:
        """Width of the tokens after each block or stage."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c _h _w"]) -> Tokens:
        """Encode normalised images; pixels at the right and bottom that do not fill a patch are dropped."""

    def auxiliary_tokens(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b a h w"]:
        """Compute only the auxiliary tokens of normalised images; later blocks are not run."""
        return self.tokens_after(self.auxiliary_block, images)

    @abstractmethod
    def tokens_after(self, block: int, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b _d h w"]:
        """Compute only the patch tokens after one block or stage (its number, from 0); later ones are not run."""

    @abstractmethod
    def class_token(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d"]:
        """Compute only the class token of normalised images."""

    @abstractmethod
    def block_tokens(self, images: Float[Tensor, "b c _h _w"]) -> "list[Float[Tensor, 'b _d h w']]":
        """Compute the patch tokens after each block or stage; the last entry are the final tokens."""

    def set_grad_checkpointing(self) -> None:
        """Store only the input of each block for the backward pass, which recomputes its activations.

        Raises:
            ValueError: timm does not support it for this network.
        """
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ValueError(
                f"--backbone {self.name!r} cannot recompute activations: drop --grad-checkpointing"
            ) from error

    def set_position_grid(self, grid: tuple[int, int]) -> None:
        """Resize the buffer for position embeddings of another grid (tokens down and across), to be loaded next."""
        self.position_grid = grid
        if self.positions is not None:
            tokens = self.position_prefix + grid[0] * grid[1]
            self.positions = self.positions.new_zeros(1, tokens, self.positions.shape[-1])

    def converted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename keys of a file of timm's weights that differ from those of timm's network."""
        return state

    def weights_loaded(self) -> None:
        """Called after pretrained weights were loaded."""


def _names(layers: str | Sequence[str] | None) -> tuple[str, ...]:
    return (layers,) if isinstance(layers, str) else tuple(layers or ())


def _per_channel(given: Sequence[float] | None, pretraining: Sequence[float], channels: int) -> Tensor:
    """Return one value per channel in units of 255, shape (c, 1, 1); `given` is in the unit of the images."""
    if given is not None:
        return torch.tensor(given, dtype=torch.float64).div(255).float().view(-1, 1, 1)
    if channels == len(pretraining):
        return torch.tensor(pretraining).view(-1, 1, 1)
    return torch.full((channels, 1, 1), sum(pretraining) / len(pretraining))
