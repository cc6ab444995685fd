"""RelabelMaker: trains the heads of relabelling, and makes masks from their probabilities.

Letters: k classes of an image, d width of the features, h w patches down and across.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.dataset import Sample
from data.readers import read_mask
from stages.config import MakeLabels
from stages.features.cache import FeatureCache, compute_features
from stages.features.spec import feature_spec
from stages.labels.maker import LabelMaker, Scored
from stages.labels.pixel_labels import at_image_size
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.networks.inference import LoadedImage
from stages.relabel.choose_heads import HIDDEN, chosen_heads
from stages.relabel.heads import TwoHeads, probabilities_map
from stages.relabel.rounds import collect_patches, patch_shares
from stages.run_folder.artifacts import open_stage
from stages.run_folder.saving import load_weights, save_weights
from stages.runtime.monitor import Monitor
from stages.toco.cam import to_class_numbers
from stages.toco.metrics import Confusion
from stages.toco.refine import most_likely, with_background

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
        values = torch.from_numpy(self.features.read(sample.id)).to(self.fabric.device).float()
        return gated_probabilities(self.heads, values, sample.classes)


def gated_probabilities(
    heads: TwoHeads, features: Float[Tensor, "d h w"], classes: Sequence[int]
) -> Float[Tensor, "k h w"]:
    """Probabilities of the classes that an image is known to have, from its features as the encoder gives them."""
    allowed = torch.zeros(heads.num_classes, dtype=torch.bool, device=features.device)
    allowed[[number - 1 for number in classes]] = True
    return probabilities_map(heads, features, allowed)[list(classes)]


def new_relabeller(
    run: Path,
    samples: Sequence[Sample],
    seeds: Path,
    maker: LabelMaker,
    config: MakeLabels,
    calibration: Sequence[Sample] = (),
) -> RelabelMaker | None:
    """Train the heads on the labels of the CAMs, on rank 0; the other ranks receive them.

    Args:
        run: The run folder.
        samples: The images to label.
        seeds: Folder of cams.h5; the heads are kept there for a resumed run.
        maker: What made the CAMs, with its device.
        config: Settings.
        calibration: Images whose ground truth chooses the heads, with --relabel auto; none to choose without.

    Returns:
        What makes the new masks; None if --relabel auto keeps those of the CAMs.

    Raises:
        DataError: An image or a ground-truth mask is bad, and bad images are not to be skipped.
        SettingsError: The network of the features is not available.
    """
    cams = LabelFile(seeds / "cams.h5", "cams")
    fabric, monitor = maker.fabric, maker.monitor
    known = [replace(one, classes=cams.classes(one.id)) for one in samples if one.id in cams]
    spec = feature_spec(config, open_stage(run, "cam"))
    paths = {kind: seeds / f"heads-{kind}.safetensors" for kind in HIDDEN}
    if fabric.is_global_zero:
        features = compute_features(run, spec, known, config, fabric, monitor)
        if not any(path.is_file() for path in paths.values()):
            known = [one for one in known if one.id in features]  # without bad images that were skipped
            training = SeedTraining(
                samples=known,
                calibration=[one for one in known if one.id in {other.id for other in calibration}],
                cams=cams,
                features=features,
                config=config,
                num_classes=maker.model.num_classes,
                device=fabric.device,
                monitor=monitor,
            )
            if chosen := training.heads():
                kind, heads = chosen
                save_weights(paths[kind], {name: one.cpu().contiguous() for name, one in heads.state_dict().items()})
        features.close()
    fabric.barrier()
    found = [kind for kind, path in paths.items() if path.is_file()]
    if not found:
        return None
    weights = load_weights(paths[found[0]])
    heads = TwoHeads(weights["mean"], weights["deviation"], maker.model.num_classes, HIDDEN[found[0]])
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


@dataclass(frozen=True, kw_only=True)
class SeedTraining:
    """Trains heads on the labels of the CAMs."""

    samples: Sequence[Sample]  # with features and with known or predicted classes
    calibration: Sequence[Sample]  # those of them whose ground truth may be used
    cams: LabelFile
    features: FeatureCache
    config: MakeLabels
    num_classes: int
    device: torch.device
    monitor: Monitor

    def heads(self) -> tuple[str, TwoHeads] | None:
        """Return the kind of the heads with the heads; None if the masks of the CAMs are to stay."""
        # Images whose classes are unknown say nothing, not even what is background.
        images = [(one.id, one.classes) for one in self.samples if one.labelled or one.classes]
        if not images:
            return None
        patches = collect_patches(
            self.features.read, self.seed_shares, images, self.num_classes, seed=0, device=self.device
        )
        measure = self.measured if self.calibration else None
        return chosen_heads(patches, self.config, self.monitor, measure)

    def seed_shares(self, image_id: str, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
        """Share of each label in each patch, by the CAM."""
        return patch_shares(self.seed(image_id, (FINER * grid[0], FINER * grid[1])), self.num_classes, grid)

    def seed(self, image_id: str, size: tuple[int, int] | None = None) -> Int[Tensor, "h w"]:
        """The label of the CAM; by default at the image's size."""
        threshold = None if self.config.source == "decoder" else self.config.background_threshold
        assert threshold != "auto"
        return stored_label(self.cams, image_id, threshold, size)

    def measured(self, heads: TwoHeads | None) -> float:
        """MIoU, 0..1, of the masks of heads, or of the CAMs (None), on the images to calibrate on."""
        confusion = Confusion(self.num_classes + 1)
        for sample in self.calibration:
            size = self.cams.image_size(sample.id)
            if heads is None:
                mask = self.seed(sample.id)
            else:
                values = torch.from_numpy(self.features.read(sample.id)).to(self.device).float()
                own = at_image_size(gated_probabilities(heads, values, sample.classes), size).float()
                mask = to_class_numbers(most_likely(with_background(own)).label, sample.classes)
            confusion.add(mask.cpu(), torch.from_numpy(read_mask(sample, size, self.num_classes)).long())
        return confusion.scores().miou
