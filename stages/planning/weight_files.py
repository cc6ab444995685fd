"""Pretrained weights of a plan: which network a file holds, and which files to bring to a machine without network."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from data.errors import SettingsError
from stages.config import NO_FILES, TrainCam
from stages.run_folder.run_config import AllSettings

LARGEST_HEADER = 100_000_000  # bytes; that of the safetensors library
# timm's plain networks, by width, patch size, LayerScale, registers and distillation token. Networks that differ only
# in their training, and in how they scale colours, stand together: a file does not tell them apart.
KNOWN_VITS: dict[tuple[int, int, bool, bool, bool], tuple[str, ...]] = {
    (384, 14, True, False, False): ("vit_small_patch14_dinov2",),
    (768, 14, True, False, False): ("vit_base_patch14_dinov2",),
    (1024, 14, True, False, False): ("vit_large_patch14_dinov2",),
    (384, 14, True, True, False): ("vit_small_patch14_reg4_dinov2",),
    (768, 14, True, True, False): ("vit_base_patch14_reg4_dinov2",),
    (1024, 14, True, True, False): ("vit_large_patch14_reg4_dinov2",),
    (192, 16, False, False, True): ("deit_tiny_distilled_patch16_224",),
    (384, 16, False, False, True): ("deit_small_distilled_patch16_224",),
    (768, 16, False, False, True): ("deit_base_distilled_patch16_224",),
    (192, 16, False, False, False): ("deit_tiny_patch16_224", "vit_tiny_patch16_224"),
    (384, 16, False, False, False): ("deit_small_patch16_224", "vit_small_patch16_224"),
    (768, 16, False, False, False): ("deit_base_patch16_224", "vit_base_patch16_224"),
}
VIT_DEPTHS = {192: 12, 384: 12, 768: 12, 1024: 24}


def backbone_of_file(path: Path) -> str:
    """Return timm's name of the network whose weights a file holds, by the shapes of its tensors.

    Raises:
        SettingsError: It is another network, or one of several; says to give --backbone.
    """
    shapes = _shapes(path)
    kernel, first = shapes.get("patch_embed.proj.weight", []), shapes.get("pos_embed", [])
    advice = "give its timm name with --backbone"
    if len(kernel) != 4 or not first or "cls_token" not in shapes:
        raise SettingsError(f"--weights {path} is not a Vision Transformer that can be recognised: {advice}")
    width, patch = kernel[0], kernel[-1]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    traits = ("blocks.0.ls1.gamma" in shapes, "reg_token" in shapes, "dist_token" in shapes)
    names = KNOWN_VITS.get((width, patch, *traits), ()) if VIT_DEPTHS.get(width) == depth else ()
    if len(names) > 1:  # the name of the file or of its folder may tell
        stems = f"{path.parent.name}/{path.name}"
        names = tuple(name for name in names if name in stems) or names
    if not names or "norm_pre.weight" in shapes:
        raise SettingsError(
            f"--weights {path} is a Vision Transformer of width {width}, depth {depth} and patches of {patch} pixels, "
            f"which is not one of the usual ones: {advice}"
        )
    if len(names) > 1:
        raise SettingsError(f"--weights {path} may be of {' or '.join(names)}, which expect other colours: {advice}")
    return names[0]


def _shapes(path: Path) -> dict[str, list[int]]:
    """Read the names and shapes of the tensors in a .safetensors file, from its header.

    Raises:
        SettingsError: It is not such a file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"--weights {path} is not a .safetensors file: check the path") from error


@dataclass(frozen=True)
class HubFile:
    """A file that a plan downloads."""

    option: str  # that takes the file instead, for example '--train-cam.weights'
    repository: str  # on the Hugging Face hub
    name: str = "model.safetensors"

    def is_cached(self) -> bool:
        """Whether it was downloaded before."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, self.name), str)


def downloads_of(settings: AllSettings) -> list[HubFile]:
    """List the files that a run with these settings downloads from the Hugging Face hub."""
    files = []
    if settings.cam.weights == "pretrained" and (repository := _repository(settings.cam)):
        files.append(HubFile("--train-cam.weights", repository))
    seg = settings.seg
    if not seg.uses_features and seg.weights == "pretrained":
        from stages.networks.encoder_weights import download_of

        try:
            repository = download_of(seg.encoder).repository
        except KeyError:  # an unknown encoder, which train-seg reports
            repository = ""
        if repository and "://" not in repository:  # timm has the weights of some encoders elsewhere
            files.append(HubFile("--train-seg.weights", repository))
    return files


def _repository(cam: TrainCam) -> str:
    import timm

    try:
        config = timm.get_pretrained_cfg(cam.backbone)
    except Exception:  # an unknown name, which train-cam reports
        return ""
    return (config.hf_hub_id or "") if config is not None and config.has_weights else ""


def check_files(settings: AllSettings) -> None:
    """Check that the weights of all networks can be had, before anything is timed or trained.

    Raises:
        SettingsError: The hub does not answer. Names all files to bring, and the options that take them.
    """
    from stages.networks.hub import hub_problem

    missing = [file for file in downloads_of(settings) if not file.is_cached()]
    if not missing or not (problem := hub_problem()):
        return
    listed = " and ".join(f"{one.name} of '{one.repository}' for {one.option} FILE" for one in missing)
    only = ""
    if settings.seg.uses_features and settings.cam.weights not in NO_FILES[1:]:
        only = f" (the student, {settings.seg.arch}, uses the same network: no other file is needed)"
    raise SettingsError(
        f"the weights cannot be downloaded ({problem}): on a machine with network, download from the Hugging Face hub "
        f"{listed}{only}"
    )
