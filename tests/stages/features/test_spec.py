from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data.errors import SettingsError
from stages.config import MakeLabels
from stages.features.spec import feature_spec
from stages.run_folder.artifacts import StageFolder


def cam_folder(tmp_path: Path, weights: str = "none", options: Mapping[str, Any] | None = None) -> StageFolder:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = {"backbone": "vit_small_patch14_dinov2", "backbone_options": options or {}}
    return StageFolder(path=tmp_path, config={"dataset": {}, "settings": {"weights": weights}, "model": model})


def test_feature_spec__the_weights_that_the_training_began_with(tmp_path: Path) -> None:
    file = tmp_path / "begun.safetensors"
    file.write_bytes(b"begun")
    spec = feature_spec(MakeLabels(), cam_folder(tmp_path, str(file)))
    assert (spec.weights, spec.backbone, spec.long_side, spec.blocks) == (
        str(file), "vit_small_patch14_dinov2", 448, (-1,),
    )  # fmt: skip
    file.write_bytes(b"other")
    assert feature_spec(MakeLabels(), cam_folder(tmp_path, str(file))).digest != spec.digest
    file.unlink()
    with pytest.raises(
        SettingsError,
        match=r"begun\.safetensors, do not exist: give them with 'toco make-labels --feature-weights FILE'",
    ):
        feature_spec(MakeLabels(), cam_folder(tmp_path, str(file)))


def test_feature_spec__after_random_weights_those_of_the_training(tmp_path: Path) -> None:
    folder = cam_folder(tmp_path, options={"patch_size": 8})
    spec = feature_spec(MakeLabels(), folder)
    assert (spec.weights, spec.long_side) == ("trained", 256)
    (tmp_path / "model.safetensors").write_bytes(b"trained again")
    assert feature_spec(MakeLabels(), folder).digest != spec.digest


def test_feature_spec__another_network(tmp_path: Path) -> None:
    config = MakeLabels(feature_backbone="vit_base_patch16_224", feature_size=640, feature_blocks=(6, -1))
    spec = feature_spec(config, cam_folder(tmp_path))
    assert (spec.weights, spec.long_side, spec.blocks) == ("pretrained", 640, (6, -1))
    with pytest.raises(SettingsError, match="give no other --feature-backbone"):
        feature_spec(
            MakeLabels(feature_backbone="vit_base_patch16_224", feature_weights="trained"), cam_folder(tmp_path)
        )


def test_feature_spec__no_random_features(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--feature-weights none would give random features"):
        feature_spec(MakeLabels(feature_weights="none"), cam_folder(tmp_path))
