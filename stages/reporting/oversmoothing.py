"""Over-smoothing: how similar the patch tokens of a run's network are, compared with other networks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.dataset import Sample
from data.errors import ArtifactError, DataError
from stages.config import TrainCam
from stages.networks.cam_model import load_cam_model, new_cam_model
from stages.networks.inference import load_image
from stages.run_folder.artifacts import StageFolder, open_stage
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.toco.model import ToCo


class Smoothness(NamedTuple):
    """One network's curve."""

    name: str
    values: tuple[float, ...]  # 0..1: mean |cosine similarity| after each block, and after the final LayerNorm


def smoothness_curves(
    cam: StageFolder,
    trained: ToCo,
    others: Sequence[str],
    samples: Sequence[Sample],
    fabric: Fabric,
    monitor: Monitor,
) -> list[Smoothness]:
    """Measure a run's network, the same network before training (if its weights are available), and other runs.

    Args:
        cam: RUN/cam of the run.
        trained: Network of the run.
        others: Other run folders.
        samples: Images to measure on. Images that cannot be read are skipped.
        fabric: Device and precision.
        monitor: Receives the progress, and a warning if the network before training is not available.

    Raises:
        ArtifactError: `toco train-cam` did not finish in another run.
    """
    folders = [open_stage(Path(other), "cam") for other in others]
    curves = []
    for name, model, side in _networks(cam, trained, folders, monitor):
        monitor.start(f"measuring over-smoothing: {name}", len(samples))
        fabric.to_device(model)
        curves.append(Smoothness(name, _curve(model, samples, side, fabric, monitor)))
        monitor.finish()
    return curves


def _networks(
    cam: StageFolder, trained: ToCo, others: Sequence[StageFolder], monitor: Monitor
) -> Iterator[tuple[str, ToCo, int]]:
    """Yield the name, the network and the side of its input; one at a time, to save memory."""
    start = _starting_network(cam, monitor)
    if start is not None:
        from_scratch = cam.settings["weights"] == "none"
        yield "before training (from scratch)" if from_scratch else "pretrained", start, cam.settings["image_size"]
        del start
    yield _name(cam, "after training"), trained, cam.settings["image_size"]
    for other in others:
        yield _name(other, other.path.resolve().parent.name), load_cam_model(other), other.settings["image_size"]


def _name(folder: StageFolder, name: str) -> str:
    return name if folder.settings["ptc_weight"] else f"{name} (PTC off)"


def _starting_network(cam: StageFolder, monitor: Monitor) -> ToCo | None:
    if "imported" in cam.config:  # the weights before its training are not known
        return None
    config = cam.typed_settings(TrainCam)
    torch.manual_seed(config.seed)  # as in training, so that random weights are the same
    try:
        return new_cam_model(config, len(cam.class_names), cam.pixels)[0].eval()
    except (ValueError, ArtifactError) as error:
        monitor.warn(f"the network before training is left out of the over-smoothing chart: {error}")
        return None


@torch.inference_mode()
def _curve(model: ToCo, samples: Sequence[Sample], side: int, fabric: Fabric, monitor: Monitor) -> tuple[float, ...]:
    sums, measured = torch.zeros(0), 0
    for sample in samples:
        monitor.advance()
        try:
            image = load_image(sample, side).squashed[None].to(fabric.device)
        except DataError:  # the gallery reports it
            continue
        with fabric.autocast():
            tokens = model.backbone.block_tokens(model.backbone.normalise(image.float()))
        values = torch.stack([mean_absolute_cosine(one)[0] for one in tokens]).cpu()
        sums, measured = (sums + values if measured else values), measured + 1
    return tuple((sums / max(measured, 1)).tolist())


def mean_absolute_cosine(tokens: Float[Tensor, "b d h w"]) -> Float[Tensor, " b"]:
    """Return the mean |cosine similarity| over all pairs of different patch tokens of an image.

    It is 0..1; 1 means that all tokens point in the same or the opposite direction.

    Raises:
        ValueError: There is only one token.
    """
    vectors = F.normalize(tokens.float().flatten(2), dim=1)  # (b, d, n)
    count = vectors.shape[-1]
    if count < 2:
        raise ValueError("there is only one token, and no other to compare it with")
    cosines = torch.einsum("bdn,bdm->bnm", vectors, vectors).abs()
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)) / (count * (count - 1))
