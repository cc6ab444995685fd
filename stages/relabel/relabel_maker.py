"""RelabelMaker: trains the heads of relabelling, and makes masks from their probabilities.

Letters: k classes of an image, d width of the features, h w patches down and across.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.dataset import Sample
from stages.config import MakeLabels
from stages.features.cache import FeatureCache, compute_features
from stages.features.spec import feature_spec
from stages.labels.maker import LabelMaker, Scored
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.networks.inference import LoadedImage
from stages.relabel.heads import Loss, TwoHeads, probabilities_map
from stages.relabel.rounds import Patches, collect_patches, patch_shares, relabel_rounds
from stages.run_folder.artifacts import open_stage
from stages.run_folder.saving import load_weights, save_weights
from stages.runtime.monitor import Monitor

HIDDEN = {"linear": 0, "mlp": 64}  # width of the heads' hidden layer
# Of the foreground head. With the generalised cross-entropy an MLP loses small classes (bench/quality.md).
LOSS: Mapping[str, Loss] = {"linear": "gce", "mlp": "ce"}
FINER = 4  # seed labels are counted on a grid this much finer than the patches


@dataclass(kw_only=True)
class RelabelMaker(LabelMaker):
    """Makes the masks of images from the probabilities of heads on frozen features."""

    samples: Sequence[Sample]  # those that have a CAM, with their known or predicted classes
    heads: TwoHeads
    features: FeatureCache

    @property
    def probabilities_given(self) -> bool:
        """Whether score maps are probabilities, see `pixel_labels`."""
        return True

    @torch.inference_mode()
    def score(
        self, samples: Sequence[Sample], images: Sequence[LoadedImage], with_tokens: bool = False
    ) -> list[Scored]:
        """Return the images with the probabilities of their classes, on the grid of the features' patches."""
        return [
            Scored(sample=sample, image=image.original.to(self.fabric.device), maps=self.probabilities(sample))
            for sample, image in zip(samples, images, strict=True)
        ]

    def probabilities(self, sample: Sample) -> Float[Tensor, "k h w"]:
        """Probabilities of the image's classes."""
        device = self.fabric.device
        values = torch.from_numpy(self.features.read(sample.id)).to(device).float()
        allowed = torch.zeros(self.model.num_classes, dtype=torch.bool, device=device)
        allowed[[number - 1 for number in sample.classes]] = True
        return probabilities_map(self.heads, values, allowed)[list(sample.classes)]


def new_relabeller(
    run: Path, samples: Sequence[Sample], seeds: Path, maker: LabelMaker, config: MakeLabels
) -> RelabelMaker:
    """Train the heads on the labels of the CAMs, on rank 0; the other ranks receive them.

    Args:
        run: The run folder.
        samples: The images to label.
        seeds: Folder of cams.h5; the heads are kept there for a resumed run.
        maker: What made the CAMs, with its device.
        config: Settings.

    Raises:
        DataError: An image is bad, and bad images are not to be skipped.
        SettingsError: The network of the features is not available.
    """
    cams = LabelFile(seeds / "cams.h5", "cams")
    fabric, monitor = maker.fabric, maker.monitor
    known = [replace(one, classes=cams.classes(one.id)) for one in samples if one.id in cams]
    spec = feature_spec(config, open_stage(run, "cam"))
    path = seeds / "heads.safetensors"
    if fabric.is_global_zero:
        features = compute_features(run, spec, known, config, fabric, monitor)
        known = [one for one in known if one.id in features]  # without bad images that were skipped
        if not path.is_file():
            save_weights(
                path, train_relabeller(known, cams, features, config, maker.model.num_classes, fabric.device, monitor)
            )
        features.close()
    fabric.barrier()
    weights = load_weights(path)
    heads = TwoHeads(weights["mean"], weights["deviation"], maker.model.num_classes, HIDDEN[config.relabel])
    heads.load_state_dict(weights)
    features = FeatureCache(run, spec)
    return RelabelMaker(
        model=maker.model,
        fabric=fabric,
        config=config,
        monitor=monitor,
        samples=[one for one in known if one.id in features],
        heads=heads.to(fabric.device).eval(),
        features=features,
    )


def train_relabeller(
    samples: Sequence[Sample],
    cams: LabelFile,
    features: FeatureCache,
    config: MakeLabels,
    classes: int,
    device: torch.device,
    monitor: Monitor,
) -> dict[str, Tensor]:
    """Run the rounds of relabelling, and return the weights of the last heads."""
    threshold = None if config.source == "decoder" else config.background_threshold
    assert threshold != "auto"

    def seed_shares(image_id: str, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
        size = (FINER * grid[0], FINER * grid[1])
        return patch_shares(stored_label(cams, image_id, threshold, size), classes, grid)

    # Images whose classes are unknown say nothing, not even what is background.
    images = [(one.id, one.classes) for one in samples if one.labelled or one.classes]
    patches = collect_patches(features.read, seed_shares, images, classes, seed=0, device=device)
    before = objects_share(patches)
    monitor.start("relabelling", config.relabel_rounds, unit="rounds")
    heads = relabel_rounds(
        patches,
        rounds=config.relabel_rounds,
        steps=config.relabel_steps,
        after_round=lambda: monitor.advance(objects=objects_share(patches)),
        foreground_loss=LOSS[config.relabel],
        hidden=HIDDEN[config.relabel],
    )
    monitor.finish()
    share = objects_share(patches)
    monitor.note(f"relabelling: objects cover {before:.0%} of the images in the CAMs' labels, {share:.0%} afterwards")
    if not 0.5 * before < share < min(2 * before, 0.95):
        monitor.warn(
            f"relabelling changed the share of the objects from {before:.0%} to {share:.0%}: look at the masks, and "
            "compare with --relabel none"
        )
    return {name: value.cpu().contiguous() for name, value in heads.state_dict().items()}


def objects_share(patches: Patches) -> float:
    """Part of all patches that is not background, 0..1."""
    return 1 - float(patches.shares[:, 0].float().mean())
