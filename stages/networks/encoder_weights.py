"""Pretrained weights of the student's encoder, from a download or a file, and their colour statistics."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from timm.models import adapt_input_conv
from torch import Tensor, nn

from data.errors import SettingsError, reason


class Normalisation(NamedTuple):
    """Mean and standard deviation of the colours in pretraining, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Download(NamedTuple):
    """Weights that segmentation-models-pytorch can download for an encoder."""

    key: str | bool | None  # the library's name for the weights; None if there are none
    repository: str  # on the Hugging Face hub


def download_of(name: str) -> Download:
    """Find the weights that can be downloaded for an encoder: ImageNet's if there are several."""
    if name.startswith("tu-"):
        config = timm_config(name)
        known = config is not None and config.has_weights
        return Download(True if known else None, (config.hf_hub_id or config.url or "") if known else "")
    import segmentation_models_pytorch as smp

    choices = smp.encoders.encoders[name]["pretrained_settings"]
    key = "imagenet" if "imagenet" in choices else next(iter(choices), None)
    return Download(key, choices[key]["repo_id"] if key else "")


def timm_config(name: str) -> Any:
    """Return timm's description of the weights of a 'tu-' encoder; None if timm has no weights."""
    import timm

    return timm.get_pretrained_cfg(name.removeprefix("tu-"))


def normalisation_of(name: str, downloaded: Download | None = None) -> Normalisation:
    """Return the colour statistics that an encoder expects.

    timm knows those of its encoders. segmentation-models-pytorch stores them with each download. Encoders from a file
    or from scratch get ImageNet's, which nearly all of that library's encoders use.
    """
    if name.startswith("tu-"):
        config = timm_config(name)
        return Normalisation(tuple(config.mean), tuple(config.std)) if config else IMAGENET
    if downloaded is None:
        return IMAGENET
    import segmentation_models_pytorch as smp

    found = smp.encoders.get_preprocessing_params(name, pretrained=downloaded.key)
    white = max(found["input_range"])  # 1 or 255
    return Normalisation(
        mean=tuple(value / white for value in found["mean"]),
        std=tuple(value / white for value in found["std"]),
    )


def no_download(name: str, download: Download, error: Exception) -> str:
    """Error text for a failed download: how to provide the weights."""
    return (
        f"the weights of --encoder {name!r} could not be downloaded ({reason(error)}): download model.safetensors "
        f"of {download.repository!r} on the Hugging Face hub on a machine with network, and give it with "
        "--weights FILE; or train from scratch: --weights none"
    )


def load_encoder_weights(encoder: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load weights into an encoder.

    Weights of a complete classification network are accepted: the parts that the encoder lacks are ignored.

    Args:
        encoder: The encoder of a network of segmentation-models-pytorch.
        state: Weights of any float type; named as in timm for a 'tu-' encoder, otherwise as in the encoder.
        name: The encoder's name.

    Raises:
        SettingsError: They belong to another network. The text says where they differ and continues '--weights FILE'.
    """
    # timm renames modules when it extracts an encoder ('stages.0' becomes 'stages_0'), and
    # segmentation-models-pytorch adds the prefix 'model.'.
    prefix = "model." if name.startswith("tu-") else ""
    own = {_plain(key.removeprefix(prefix)): (key, value) for key, value in encoder.state_dict().items()}
    given = {_plain(key): (key, value) for key, value in state.items()}
    remedy = f"give the weights of {name.removeprefix('tu-')!r}, or another --encoder"
    for plain, (key, value) in own.items():
        if plain not in given:
            if key.endswith("num_batches_tracked"):
                continue
            raise SettingsError(f"has no {key.removeprefix(prefix)!r}, which --encoder {name!r} needs: {remedy}")
        found, weight = given[plain]
        if weight.ndim == 4 and weight.shape[1] == 3 != value.shape[1] and weight.shape[2:] == value.shape[2:]:
            given[plain] = found, adapt_input_conv(value.shape[1], weight)  # the first layer, of other channels
        shape = tuple(given[plain][1].shape)
        if shape != tuple(value.shape):
            raise SettingsError(
                f"has {found!r} of shape {shape}, --encoder {name!r} needs {tuple(value.shape)}: {remedy}"
            )
    whole = _names_of_whole_network(name)
    for plain, (key, _) in given.items():
        part = _plain(key.split(".")[0]) + "_"
        if plain not in own and plain not in whole and any(other.startswith(part) for other in own):
            raise SettingsError(f"has {key!r}, which --encoder {name!r} does not: {remedy}")
    fitting = {key: given[plain][1] for plain, (key, _) in own.items() if plain in given}
    # Not the encoder's own load_state_dict, which may rename again.
    nn.Module.load_state_dict(encoder, fitting, strict=False)


def _plain(key: str) -> str:
    return key.replace(".", "_")


def _names_of_whole_network(name: str) -> set[str]:
    """Names in the complete timm network of an encoder: shallow encoders lack its last stages."""
    if not name.startswith("tu-"):
        return set()
    import timm

    return {_plain(key) for key in timm.create_model(name.removeprefix("tu-")).state_dict()}
