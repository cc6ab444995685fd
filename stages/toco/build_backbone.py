"""Build an encoder by timm's name, and load weights into it."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
from timm.models import adapt_input_conv
from torch import Tensor

from stages.toco import map_backbone, vit_backbone
from stages.toco.backbone import Backbone
from stages.toco.map_backbone import MapBackbone
from stages.toco.vit_backbone import VitBackbone, is_plain_vit


def build_backbone(
    name: str,
    *,
    auxiliary_block: int | None = None,
    pretrained: bool = False,
    image_size: int | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **overrides: Any,
) -> Backbone:
    """Create the encoder.

    Args:
        name: timm's model name.
        auxiliary_block: Block (or stage, of a network that has them) whose output is the auxiliary tokens; negative
            counts from the end. By default -3 for blocks, as in the paper, and -2 for stages.
        pretrained: Download timm's weights of this model; timm fits those of the first layer to the channels.
        image_size: Pixels per side that position embeddings or windows are made for, if the network has a choice.
        channels: Channels of the images.
        mean: Mean of each channel, in the unit of the images. By default that of the pretraining, for 0..255;
            if the images do not have three channels, the average over red, green and blue for each channel.
        std: Standard deviation of each channel, likewise.
        overrides: Passed to timm (`depth`, `embed_dim`, `img_size`, ... of a model from scratch).

    Raises:
        ValueError: timm does not have the model, it gives no map of tokens for images of any size, the block does not
            exist, or `mean` or `std` does not have one value per channel.
    """
    for what, values in (("mean", mean), ("standard deviation", std)):
        if values is not None and len(values) != channels:
            raise ValueError(f"the {what} has {len(values)} values, but the images have {channels} channels")
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models())) or "deit_base_patch16_224"
        raise ValueError(f"--backbone {name!r} is not a model of timm {timm.__version__}; try one like {near}")
    # Wanted, but not known to every network. The method has no dropout in the encoder (METHOD section 5).
    wishes: dict[str, Any] = {"dynamic_img_size": True, "drop_path_rate": 0.0}
    if image_size is not None:
        wishes["img_size"] = image_size
    network, options = _create(name, overrides, wishes, num_classes=0, in_chans=channels, pretrained=pretrained)
    plain = is_plain_vit(network) and "dynamic_img_size" in options
    depth = len(network.blocks) if plain else len(map_backbone.stages_of(name, network))
    if auxiliary_block is None:
        auxiliary_block = vit_backbone.AUXILIARY_BLOCK if plain else map_backbone.AUXILIARY_STAGE
    if not -depth <= auxiliary_block < depth:
        raise ValueError(
            f"--auxiliary-block {auxiliary_block} does not exist: "
            f"{name!r} has {depth} {'blocks' if plain else 'stages'}; choose {-depth}..{depth - 1}"
        )
    family = VitBackbone if plain else MapBackbone
    backbone = family(name, network, auxiliary_block=auxiliary_block, channels=channels, mean=mean, std=std)
    backbone.options = {
        option: value for option, value in options.items() if option in overrides or option == "img_size"
    }
    if isinstance(backbone, MapBackbone):
        side = options.get("img_size") or (network.pretrained_cfg or {}).get("input_size", (3, 224, 224))[-1]
        backbone.try_out(side if isinstance(side, int) else max(side))
    if pretrained:
        backbone.weights_loaded()
    return backbone


def _create(name: str, given: dict[str, Any], wishes: dict[str, Any], **fixed: Any) -> tuple[Any, dict[str, Any]]:
    """Create timm's network with all given options and those of the wishes that it knows; also return these options.

    Raises:
        ValueError: It does not know a given option.
    """
    options = {**wishes, **given}
    while True:
        try:
            return timm.create_model(name, **fixed, **options), options
        except TypeError as error:
            unknown = [option for option in options if option not in given and f"'{option}'" in str(error)]
            if not unknown:
                if not given:
                    raise
                shape = " ".join(f"{option}={value}" for option, value in given.items())
                raise ValueError(f"--backbone {name!r} cannot be built with {shape}: {error}") from error
            del options[unknown[0]]


def load_backbone_weights(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Load the state of a network of timm, with timm's key names.

    Classification heads are skipped; half precision is converted. If the file is of a network for red, green and blue
    and the backbone takes other channels, the weights of the first layer are fitted to them as timm does: summed for
    one channel, else repeated and scaled.

    Raises:
        ValueError: Keys are missing or have other shapes: the file is of another model.
    """
    try:
        state = backbone.converted({key: value.float() for key, value in state.items()})
    except Exception as error:  # timm's functions expect certain keys, each in its own way
        raise ValueError(f"is of another model than --backbone {backbone.name!r}: timm cannot convert it") from error
    positions = None if backbone.positions is None else state.pop("pos_embed", None)
    wanted = backbone.network.state_dict()
    for key in (f"{layer}.weight" for layer in backbone.first_layers):
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
        tokens = positions.shape[1] - backbone.position_prefix
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise ValueError(f"has position embeddings for {tokens} patches, which is not a square number")
        backbone.position_grid = (side, side)
        backbone.positions = positions.to(backbone.positions)
    backbone.network.load_state_dict({key: state[key] for key in wanted})
    backbone.weights_loaded()
