"""A network with stages (Swin, ConvNeXt, PVT, ResNet, ...) as encoder: its feature maps become tokens.

    images -> stage 1 ... auxiliary stage -> last stage -> norm -> final tokens -> mean: class token
                                |
                                +-> auxiliary tokens

All tokens are on one grid of 16 pixels, as those of a ViT. The last stage has most often a stride of 32 pixels, so its
map is resized bilinearly; the auxiliary stage has one of 16. A finer last stage is
possible where timm offers it (`output_stride=16` of ConvNeXt, ResNet, EfficientNet), at a higher cost.

Letters: b images, c channels of an image, d a widths of tokens, h w tokens down and across. _h _w are pixels.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.classifier import NormMlpClassifierHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.toco.backbone import Backbone, Tokens

AUXILIARY_STAGE = -2  # of stride 16 in nearly all networks; earlier ones see only colours and edges
TOKEN_SIDE = 16  # pixels; the grid of all tokens


def stages_of(name: str, network: Any) -> "list[dict[str, Any]]":
    """Return timm's description of each stage: 'num_chs' is its width, 'reduction' its stride in pixels.

    Raises:
        ValueError: The network gives no feature maps.
    """
    stages = list(getattr(network, "feature_info", None) or ())
    if not stages or not all(hasattr(network, one) for one in ("forward_intermediates", "prune_intermediate_layers")):
        raise ValueError(f"--backbone {name!r} gives no map of tokens; {_ADVICE}")
    return stages


class MapBackbone(Backbone):
    """A timm network with feature maps, for images of any size. The mean of its final tokens is its class token."""

    has_class_token = False

    def __init__(
        self,
        name: str,
        network: Any,
        *,
        auxiliary_block: int,
        channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        """Take over a network; see `build_backbone`."""
        super().__init__(name, network, channels, mean, std)
        stages = stages_of(name, network)
        self._dims = [int(stage["num_chs"]) for stage in stages]
        self._strides = [int(stage["reduction"]) for stage in stages]
        self._names = [str(stage.get("module", "")) for stage in stages]
        self.auxiliary_block = auxiliary_block % len(stages)
        self.embed_dim, self.auxiliary_dim = self._dims[-1], self._dims[self.auxiliary_block]
        self.patch_size = min(TOKEN_SIDE, self._strides[-1])
        self._keep_statistics = False
        # Networks that pool before their last norm have it in the head; here it is applied to each token.
        head = getattr(network, "head", None)
        norm = head.norm if isinstance(head, NormMlpClassifierHead) else None
        network.prune_intermediate_layers([len(stages) - 1], prune_norm=False, prune_head=True)
        if norm is not None:
            network.head.norm = norm
        self._head_norm = norm is not None
        self.stages = network

    @property
    def network(self) -> Any:
        """Timm's network, without its classifier."""
        return self.stages

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The stages."""
        modules = dict(self.stages.named_modules())
        return [modules[name] for name in self._names if name in modules]

    @property
    def block_dims(self) -> Sequence[int]:
        """Width of the tokens after each stage."""
        return self._dims

    def forward(self, images: Float[Tensor, "b c _h _w"]) -> Tokens:
        """Encode normalised images; pixels at the right and bottom that do not fill a token are dropped."""
        last = len(self._dims) - 1
        maps = self._maps(images, {self.auxiliary_block, last})
        final = maps[last]
        return Tokens(final=final, auxiliary=maps[self.auxiliary_block], class_token=final.mean(dim=(-2, -1)))

    def tokens_after(self, block: int, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b _d h w"]:
        """Compute only the tokens after one stage; later stages are not run."""
        return self._maps(images, {block})[block]

    def class_token(self, images: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b d"]:
        """Compute only the mean of the final tokens of normalised images."""
        last = len(self._dims) - 1
        return self._maps(images, {last})[last].mean(dim=(-2, -1))

    def block_tokens(self, images: Float[Tensor, "b c _h _w"]) -> "list[Float[Tensor, 'b _d h w']]":
        """Compute the tokens after each stage, all on the grid; the last two entries are both the final tokens."""
        maps = self._maps(images, set(range(len(self._dims))))
        return [*maps.values(), maps[len(self._dims) - 1]]

    def converted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename keys of a file of timm's weights that differ from those of timm's network, by timm's own function."""
        convert = getattr(sys.modules[type(self.stages).__module__], "checkpoint_filter_fn", None)
        return state if convert is None else dict(convert(state, self.stages))

    def weights_loaded(self) -> None:
        """Freeze the statistics of batch normalisation.

        A training step has too few images, and too different views of them, to replace those of the pretraining.
        """
        self._keep_statistics = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "MapBackbone":
        """Set training or evaluation mode."""
        super().train(mode)
        if self._keep_statistics:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _maps(self, images: Tensor, stages: set[int]) -> dict[int, Tensor]:
        """Compute the maps of some stages, on the grid of tokens."""
        height, width = (side // self.patch_size for side in images.shape[-2:])
        images = images[..., : height * self.patch_size, : width * self.patch_size]
        # Whole strides of the coarsest stage, so that all maps cover the same pixels.
        stride = self._strides[-1]
        images = F.pad(images, (0, -images.shape[-1] % stride, 0, -images.shape[-2] % stride))
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        maps = {}
        for stage, features in zip(sorted(stages), self._stage_maps(images, stages), strict=True):
            if self._strides[stage] > self.patch_size:
                features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
            elif self._strides[stage] < self.patch_size:
                features = F.avg_pool2d(features, self.patch_size // self._strides[stage])
            maps[stage] = features[..., :height, :width]
        return maps

    def _stage_maps(self, images: Tensor, stages: set[int]) -> list[Tensor]:
        """Compute the maps of some stages, each (b, d, _h / stride, _w / stride)."""
        maps: list[Tensor] = self.stages.forward_intermediates(
            images, indices=sorted(stages), norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        if self._head_norm and len(self._dims) - 1 in stages:
            maps[-1] = self.stages.head.norm(maps[-1])
        return maps

    @torch.no_grad()
    def try_out(self, side: int) -> None:
        """Run a strip that is lower and wider than the images that the network was made for.

        Args:
            side: Pixels per side of these.

        Raises:
            ValueError: The network refuses its size, or its maps do not have the strides that timm says.
        """
        self.eval()
        stride = self._strides[-1]
        down, across = 2 * stride, (2 * side // stride + 1) * stride
        try:
            maps = self._stage_maps(torch.zeros(1, len(self.mean), down, across), set(range(len(self._dims))))
        except Exception as error:  # each network raises its own kind of exception
            raise ValueError(
                f"--backbone {self.name!r} does not take images of every size ({error}), but crops and the scales of "
                f"CAMs have several; {_ADVICE}"
            ) from error
        finally:
            self.train()
        for features, dim, stride in zip(maps, self._dims, self._strides, strict=True):
            if features.shape[1:] != (dim, down // stride, across // stride):
                raise ValueError(
                    f"--backbone {self.name!r} has a map of shape {tuple(features.shape[1:])} where timm announces "
                    f"{(dim, down // stride, across // stride)}; {_ADVICE}"
                )


_ADVICE = "choose one such as 'deit_base_patch16_224', 'vit_small_patch14_dinov2' or 'swin_tiny_patch4_window7_224'"
