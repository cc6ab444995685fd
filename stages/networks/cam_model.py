"""Build the CAM network: from settings before training, from a run folder afterwards."""

import ast
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import ArtifactError, SettingsError, reason
from data.pixel_rule import AS_STORED, PixelRule
from stages.config import NO_FILES, TrainCam
from stages.networks.hub import failing_at_once
from stages.run_folder.artifacts import StageFolder, command_for
from stages.run_folder.saving import load_weights
from stages.toco.backbone import Backbone
from stages.toco.build_backbone import build_backbone, load_backbone_weights
from stages.toco.model import ToCo


@dataclass(frozen=True, kw_only=True)
class CamModelSpec:
    """Everything that determines the network's shape; saved beside its weights."""

    backbone: str
    backbone_options: Mapping[str, Any]
    auxiliary_block: int
    num_classes: int
    position_grid: Sequence[int]  # rows and columns of the position embeddings
    heads: Mapping[str, int] = field(default_factory=dict)  # sizes other than the paper's; arguments of `ToCo`
    channels: int = 3  # of the images


def new_cam_model(config: TrainCam, num_classes: int, pixels: PixelRule = AS_STORED) -> tuple[ToCo, CamModelSpec]:
    """Build the network that training starts from.

    Args:
        config: Settings.
        num_classes: Number of foreground classes.
        pixels: What the network gets of an image. With bands, its input is normalised by their mean and deviation.

    Raises:
        SettingsError: The backbone cannot be built, or its weights are not available; says how to provide them.
    """
    options = dict(_parse_option(text) for text in config.backbone_option)
    pretrained = config.weights == "pretrained"
    image_size = config.image_size if config.weights == "none" else None
    try:
        with failing_at_once() if pretrained else nullcontext():
            backbone = build_backbone(
                config.backbone,
                auxiliary_block=config.auxiliary_block,
                pretrained=pretrained,
                image_size=image_size,
                **input_options(pixels),
                **options,
            )
            if config.grad_checkpointing:
                backbone.set_grad_checkpointing()
    except Exception as error:  # failed downloads and impossible shapes raise many kinds of exceptions
        if isinstance(error, ValueError) and not isinstance(error, OSError):  # its text is complete
            raise SettingsError(str(error)) from error
        # If the state dict does not fit, the download worked; if timm does not know the tag, no file can help.
        if pretrained and not any(text in str(error) for text in ("state_dict", "Invalid pretrained tag")):
            raise SettingsError(_no_download(config.backbone, error)) from error
        shape = f" and --backbone-option {' '.join(config.backbone_option)}" if config.backbone_option else ""
        raise SettingsError(
            f"--backbone {config.backbone!r} with --weights {config.weights}{shape} cannot be built: {reason(error)}"
        ) from error
    if config.weights not in NO_FILES:
        path = Path(config.weights).expanduser()
        try:
            load_backbone_weights(backbone, load_weights(path))
        except ValueError as error:
            raise SettingsError(f"--weights {path} {error}") from error
    if config.image_size % backbone.patch_size:
        patch = backbone.patch_size
        raise SettingsError(
            f"--image-size {config.image_size} is not a multiple of the patch size {patch} of {config.backbone!r}: "
            f"use {max(1, round(config.image_size / patch)) * patch}"
        )
    check_scales(config.scales, config.image_size, backbone)
    spec = CamModelSpec(
        backbone=config.backbone,
        backbone_options=backbone.options,
        auxiliary_block=backbone.auxiliary_block,
        num_classes=num_classes,
        position_grid=backbone.position_grid,
        channels=pixels.channels,
    )
    return ToCo(backbone, num_classes), spec


def input_options(pixels: PixelRule) -> dict[str, Any]:
    """Return the arguments of `Backbone` that fit it to the images: none for 8-bit RGB."""
    if not pixels.bands:
        return {}
    return {"channels": pixels.channels, "mean": pixels.fill, "std": tuple(255 * band.std for band in pixels.bands)}


def load_cam_model(folder: StageFolder) -> ToCo:
    """Load the network of a finished `toco train-cam`, on the CPU, in evaluation mode.

    Raises:
        ArtifactError: The weights do not fit the folder's config.json.
    """
    path = folder.path / "model.safetensors"
    try:
        model = build_cam_model(CamModelSpec(**folder.config["model"]))
        model.load_state_dict(load_weights(path))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not fit {folder.path / 'config.json'} ({reason(error)}): run {command_for(path)}"
        ) from error
    return model.eval()


def build_cam_model(
    spec: CamModelSpec, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> ToCo:
    """Build a network with random weights.

    Args:
        spec: Its shape.
        mean: Mean of each channel of the images; see `build_backbone`.
        std: Standard deviation of each channel, likewise.

    Raises:
        ValueError: It cannot be built.
    """
    backbone = build_backbone(
        spec.backbone,
        auxiliary_block=spec.auxiliary_block,
        channels=spec.channels,
        mean=mean,
        std=std,
        **spec.backbone_options,
    )
    backbone.set_position_grid((spec.position_grid[0], spec.position_grid[1]))
    return ToCo(backbone, spec.num_classes, **spec.heads)


def check_scales(scales: Sequence[float], image_size: int, backbone: Backbone) -> None:
    """Refuse scales at which an image would have no patch token.

    Raises:
        SettingsError: Names the smallest.
    """
    if int(min(scales) * image_size) < backbone.patch_size:
        raise SettingsError(
            f"--scales {min(scales)} of --image-size {image_size} is less than one patch "
            f"({backbone.patch_size} pixels) of {backbone.name!r}: use larger scales"
        )


def _parse_option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _no_download(name: str, error: Exception) -> str:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return f"timm has no pretrained weights of {name!r}: give a file with --weights FILE, or --weights none"
    where = f"'{config.hf_hub_id}' on the Hugging Face hub" if config.hf_hub_id else f"{config.url}"
    return (
        f"timm's weights of {name!r} could not be downloaded ({reason(error)}): download model.safetensors of "
        f"{where} on a machine with network, and give it with --weights FILE; or train from scratch: --weights none"
    )
