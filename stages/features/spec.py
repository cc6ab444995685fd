"""Which frozen features a run uses: network, weights and image size. This file does not import torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import SettingsError
from data.pixel_rule import AS_STORED, PixelRule
from stages.config import NO_FILES, MakeLabels, TrainCam
from stages.run_folder.artifacts import StageFolder, file_digest

FEATURES = "features"  # the folder in a run
SMALLEST_PATCH = 8  # pixels; of plain Vision Transformers
MIDDLE = "first of the second half"  # written instead of a block: the depth is not known here
PATCHES = 32  # on the longer side of an image, by default: 448 pixels for patches of 14


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that determines the features of an image."""

    backbone: str  # timm's name
    backbone_options: Mapping[str, Any]  # of a network of another shape than timm's
    weights: str  # 'pretrained', 'trained' (those of RUN/cam), or a file
    digest: str | None  # SHA-256 of the file
    long_side: int  # the longer side of the images, in pixels
    blocks: tuple[int, ...]  # whose tokens are joined; -1 is the last; none for MIDDLE
    pixels: PixelRule = AS_STORED

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        plain = {**asdict(self), "blocks": list(self.blocks) or MIDDLE}
        if self.pixels == AS_STORED:  # as before there were other rules
            del plain["pixels"]
        else:
            plain["pixels"] = self.pixels.as_dict()
        return plain


def feature_spec(config: MakeLabels, cam: StageFolder) -> FeatureSpec:
    """Choose the network of the features.

    By default it is the CAM network's encoder as it was before training, because training for classification makes
    patch tokens more alike. If that had random weights, the trained encoder is used.

    Args:
        config: Settings.
        cam: RUN/cam.

    Raises:
        SettingsError: There is no such file of weights, or the options contradict each other.
    """
    model, trained = cam.config["model"], cam.settings
    weights = config.feature_weights
    other = config.feature_backbone not in (None, model["backbone"])
    if weights == "auto":
        weights = "pretrained" if other else trained["weights"]
        if weights == "none":
            weights = "trained"
    if config.feature_weights == "none":
        raise SettingsError("--feature-weights none would give random features: use trained, pretrained or a FILE")
    if other and weights == "trained":
        raise SettingsError(
            f"--feature-weights trained are those of {model['backbone']!r}: give no other --feature-backbone"
        )
    digest = None
    if weights == "trained":
        digest = file_digest(cam.path / "model.safetensors")
    elif weights not in NO_FILES:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise SettingsError(
                f"the weights of the features, {path}, do not exist: give them with "
                "'toco make-labels --feature-weights FILE', or use --feature-weights trained or --relabel none"
            )
        weights, digest = str(path.resolve()), file_digest(path)
    return FeatureSpec(
        backbone=config.feature_backbone or model["backbone"],
        backbone_options={} if other else model["backbone_options"],
        weights=weights,
        digest=digest,
        long_side=config.feature_size or PATCHES * _patch_size(model, other, config),
        blocks=_blocks(config),
        pixels=cam.pixels,
    )


def _blocks(config: MakeLabels) -> tuple[int, ...]:
    if config.feature_blocks is not None:
        return tuple(config.feature_blocks)
    return () if config.relabel == "mil" else (-1,)


def _patch_size(model: Mapping[str, Any], other: bool, config: MakeLabels) -> int:
    """Pixels per side of a patch."""
    options: Mapping[str, Any] = {} if other else model["backbone_options"]
    name = config.feature_backbone or model["backbone"]
    return int(options.get("patch_size", patch_size_by_name(name) or 16))


def patch_size_by_name(backbone: str) -> int | None:
    """Pixels per side of a patch by timm's name of the network, '..._patch14_...'; None if it does not say.

    Networks with stages name the patches of their first stage, 'swin_tiny_patch4_...'; those are not the final tokens.
    """
    text = backbone.partition("patch")[2].partition("_")[0]
    return int(text) if text.isdigit() and int(text) >= SMALLEST_PATCH else None


def patch_side(cam: TrainCam) -> int:
    """Pixels per side of the backbone's patches, as its options or its name say; 16 if they do not."""
    for text in cam.backbone_option:
        name, _, value = text.partition("=")
        if name.strip() == "patch_size" and value.strip().isdigit():
            return int(value)
    return patch_size_by_name(cam.backbone) or 16
