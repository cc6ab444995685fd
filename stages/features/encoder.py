"""Load the network of the features."""

from contextlib import nullcontext
from pathlib import Path

from data.errors import SettingsError, reason
from stages.features.spec import FeatureSpec
from stages.networks.cam_model import input_options, load_cam_model
from stages.networks.frozen_encoder import FrozenEncoder
from stages.networks.hub import failing_at_once
from stages.run_folder.artifacts import open_stage
from stages.run_folder.saving import load_weights
from stages.toco.build_backbone import build_backbone, load_backbone_weights


def load_encoder(spec: FeatureSpec, run: Path) -> FrozenEncoder:
    """Build the network of the features, on the CPU.

    Args:
        spec: What it is.
        run: The run folder, for the weights 'trained'.

    Raises:
        SettingsError: The network does not exist, or its weights are not available or do not fit.
    """
    if spec.weights == "trained":
        return FrozenEncoder(load_cam_model(open_stage(run, "cam")).backbone, spec.blocks)
    pretrained = spec.weights == "pretrained"
    try:
        with failing_at_once() if pretrained else nullcontext():
            backbone = build_backbone(
                spec.backbone,
                auxiliary_block=-1,
                pretrained=pretrained,
                **input_options(spec.pixels),
                **spec.backbone_options,
            )
        if spec.digest is not None:
            load_backbone_weights(backbone, load_weights(Path(spec.weights)))
    except Exception as error:  # downloads fail in many ways
        raise SettingsError(
            f"the features cannot be computed with {spec.backbone!r} and the weights {spec.weights}: {reason(error)}; "
            "give --feature-backbone and --feature-weights, or use --feature-weights trained or --relabel none"
        ) from error
    return FrozenEncoder(backbone, spec.blocks)
