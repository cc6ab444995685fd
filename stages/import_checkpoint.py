"""`toco import-checkpoint`: turn a checkpoint of the published program into a run.

In: a .pth file with the state dict of the published program, and the classes. Out: RUN/cam, as after `toco train-cam`.

    published                                            here
    encoder.*                                            backbone.vit.* (position embeddings: backbone.positions)
    classifier.weight, aux_classifier.weight             classifier.weight, auxiliary_classifier.weight
    decoder.conv6..8.weight                              the same
    proj_head.mlp.*, proj_head.last_layer.weight_v       projector.mlp.*, projector.prototypes
    proj_head_t.*                                        teacher_projector.*
"""

import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.class_list import read_class_list
from data.dataset import Dataset
from data.errors import DataError, SettingsError, reason
from data.pixel_facts import with_pixel_rule
from stages.config import TrainCam
from stages.networks.cam_model import CamModelSpec, build_cam_model
from stages.run_folder.artifacts import already_finished, begin_stage, check_run_place, file_digest
from stages.run_folder.lock import stage_lock
from stages.run_folder.provenance import session
from stages.run_folder.run_data import choose_pixels, open_data
from stages.run_folder.saving import load_weights, save_weights
from stages.runtime.monitor import Monitor
from stages.toco.build_backbone import load_backbone_weights
from stages.toco.model import ToCo

BASE = "deit_base_patch16_224"  # other widths and depths are told as its options
PATCH_KERNEL = "encoder.patch_embed.proj.weight"  # a key of every checkpoint
# The published program normalises images so, whatever the network.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SHOWN_KEYS = 3
DEEPEST = 3  # dicts around the state dict


def import_checkpoint(
    path: Path,
    run: Path,
    monitor: Monitor,
    *,
    data: Path | None = None,
    classes: Path | None = None,
    image_size: int = 448,
    auxiliary_block: int = -3,
    num_heads: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write RUN/cam from a checkpoint.

    Args:
        path: A file written by `torch.save`, or .safetensors. The state dict may be inside of a dict, and its keys may
            have a prefix such as 'module.'.
        run: The run folder.
        monitor: Receives a warning for keys that are not used.
        data: The data set; its classes are in the order of the checkpoint's.
        classes: Instead, a text file with one class per line. Later commands then need --data.
        image_size: Side of the square images that the network was trained with, in pixels.
        auxiliary_block: Block of the auxiliary CAM.
        num_heads: Attention heads of each block, which the file does not say; by default one for 64 channels.
        overwrite: Delete RUN/cam first.

    Returns:
        RUN/cam.

    Raises:
        DataError: The file is not such a checkpoint, or has another number of classes. Nothing is written.
        SettingsError: Not exactly one of `data` and `classes` is given.
        ArtifactError: RUN/cam exists.
    """
    if (data is None) == (classes is None):
        raise SettingsError("give the classes of the checkpoint: either --data DATA, or --classes FILE")
    config = TrainCam(backbone=BASE, weights="none", image_size=image_size, auxiliary_block=auxiliary_block)
    with stage_lock(run, "cam", monitor=monitor):
        already_finished(run, "cam", config, resume=False, overwrite=overwrite)
        if data is not None:
            dataset = open_data(data, skip_bad=True)
            dataset = with_pixel_rule(dataset, choose_pixels(dataset, config, run, monitor, resume=False))
        else:
            assert classes is not None
            dataset = _without_images(classes)
        check_run_place(run, dataset)
        state = published_state(path)
        model, spec = published_network(path, state, monitor, auxiliary_block=auxiliary_block, num_heads=num_heads)
        if spec.num_classes != len(dataset.class_names):
            raise DataError(
                f"{path} has {spec.num_classes} classes, but {data or classes} has {len(dataset.class_names)}: "
                "give the classes that the checkpoint was trained on, in the same order"
            )
        if image_size % model.backbone.patch_size:
            raise SettingsError(
                f"--image-size {image_size} is not a multiple of the patch size {model.backbone.patch_size}"
            )
        extra = {"model": asdict(spec), "imported": {"file": path.name, "sha256": file_digest(path)}}
        folder = begin_stage(run, "cam", settings=config, dataset=dataset, extra=extra).path
        with session(folder):
            save_weights(folder / "model.safetensors", {key: one.clone() for key, one in model.state_dict().items()})
    return folder


def published_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, with its prefix and what it was wrapped in removed.

    Raises:
        DataError: It cannot be read safely, or is not a checkpoint of the published program.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path")
    if path.suffix == ".safetensors":
        value: Any = load_weights(path)
    else:
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{path} holds more than tensors and plain values, so to open it could run any program: ask for a file "
                "with the state dict alone, as torch.save(model.state_dict(), FILE) writes it"
            ) from error
        except Exception as error:  # damaged files cause nearly any exception
            raise DataError(f"{path} is not a file of torch.save ({reason(error)}): download it again") from error
    found = _find_state(value)
    if found is None:
        raise DataError(f"{path} has no {PATCH_KERNEL!r}, so it is not a checkpoint of the published program of ToCo")
    return found


def _find_state(value: Any, depth: int = 0) -> dict[str, Tensor] | None:
    """Find the dict that holds the encoder, in dicts of dicts; also remove the prefix of its keys."""
    if not isinstance(value, Mapping) or depth > DEEPEST:
        return None
    for key in value:
        if isinstance(key, str) and key.endswith(PATCH_KERNEL):
            prefix = key.removesuffix(PATCH_KERNEL)
            tensors = {name: one for name, one in value.items() if isinstance(one, Tensor)}
            return {name.removeprefix(prefix): one.float() for name, one in tensors.items()}
    return next((found for one in value.values() if (found := _find_state(one, depth + 1))), None)


def published_network(
    path: Path, state: Mapping[str, Tensor], monitor: Monitor, *, auxiliary_block: int, num_heads: int | None
) -> tuple[ToCo, CamModelSpec]:
    """Build the network whose sizes a state dict has, and load it.

    Raises:
        DataError: Keys are missing or have shapes that do not fit each other.
    """
    infinite = [key for key, one in state.items() if not one.isfinite().all()]
    if infinite:
        raise DataError(f"{path} has NaN or infinite values in {_listed(infinite)}: its training diverged")
    missing = sorted(set(_HEADS) - state.keys())
    if missing:
        raise DataError(f"{path} lacks {_listed(missing)}: it is not a complete checkpoint of ToCo")
    encoder = {key.removeprefix("encoder."): one for key, one in state.items() if key.startswith("encoder.")}
    try:
        options = _shape_options(encoder, num_heads)
        spec = CamModelSpec(
            backbone=BASE,
            backbone_options=options,
            auxiliary_block=auxiliary_block,
            num_classes=len(state["classifier.weight"]),
            position_grid=(1, 1),
            heads={
                "decoder_channels": len(state["decoder.conv6.weight"]),
                "projector_hidden": len(state["proj_head.mlp.0.weight"]),
                "projector_bottleneck": len(state["proj_head.mlp.4.weight"]),
                "projector_out": len(state["proj_head.last_layer.weight_v"]),
            },
        )
        model = build_cam_model(spec, mean=MEAN, std=STD)
        load_backbone_weights(model.backbone, encoder)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise DataError(f"{path}: the network does not fit ({reason(error)})") from error
    own = model.state_dict()
    shapes = [key for key, ours in _HEADS.items() if state[key].shape != own[ours].shape]
    if shapes:
        raise DataError(
            f"{path}: wrong shapes of {_listed(shapes)}, for example {tuple(state[shapes[0]].shape)} instead of "
            f"{tuple(own[_HEADS[shapes[0]]].shape)}"
        )
    own.update({ours: state[key] for key, ours in _HEADS.items()})
    model.load_state_dict(own)
    network = model.backbone.network.state_dict()
    unused = [
        key
        for key in sorted(state.keys() - _HEADS.keys())
        if key.removeprefix("encoder.") not in {*network, "pos_embed"} and not key.startswith(_WITHOUT_USE)
    ]
    if other := [key for key in unused if key.startswith("encoder.blocks.")]:  # they would change its results
        raise DataError(f"{path}: the encoder is not a plain ViT, but has {_listed(other)}")
    if unused:
        monitor.warn(f"{path}: not used: {_listed(unused)}")
    grid = model.backbone.position_grid
    return model.eval(), CamModelSpec(**{**asdict(spec), "position_grid": list(grid)})


def _projector(theirs: str, ours: str) -> dict[str, str]:
    layers = [f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")]
    return {
        **{f"{theirs}.{name}": f"{ours}.{name}" for name in layers},
        f"{theirs}.last_layer.weight_v": f"{ours}.prototypes",
    }


_HEADS = {
    "classifier.weight": "classifier.weight",
    "aux_classifier.weight": "auxiliary_classifier.weight",
    **{f"decoder.conv{layer}.weight": f"decoder.conv{layer}.weight" for layer in (6, 7, 8)},
    **_projector("proj_head", "projector"),
    **_projector("proj_head_t", "teacher_projector"),
}
# The classifier of the pretraining, and gains that are fixed at 1.
_WITHOUT_USE = ("encoder.head", "proj_head.last_layer.weight_g", "proj_head_t.last_layer.weight_g")


def _shape_options(encoder: Mapping[str, Tensor], num_heads: int | None) -> dict[str, Any]:
    """Return what differs from `BASE`, as timm takes it."""
    width, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    depth = len({key.split(".")[1] for key in encoder if key.startswith("blocks.")})
    hidden = len(encoder["blocks.0.mlp.fc1.weight"])
    heads = num_heads or max(1, width // 64)
    if width % heads:
        raise ValueError(f"a width of {width} cannot be divided by {heads} attention heads: give --num-heads")
    shape = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    options = {key: one for key, one in shape.items() if one != _BASE_SHAPE[key]}
    return options if hidden == 4 * width else {**options, "mlp_ratio": (hidden + 0.5) / width}  # timm rounds down


_BASE_SHAPE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


def _without_images(classes: Path) -> Dataset:
    if not classes.is_file():
        raise DataError(f"--classes {classes} is not a file: give a text file with one class per line")
    return Dataset(
        root=classes.resolve().parent,
        layout="custom",
        class_names=read_class_list(classes),
        splits={},
        train_split="train",
        val_split=None,
    )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(repr(key) for key in keys[:SHOWN_KEYS]) + more
