"""Make masks again: from the probabilities of heads on frozen features, or from the CAMs without a refinement.

Letters: k classes of an image, d width of the features, h w patches down and across.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import Sample
from data.errors import DataError
from data.readers import read_mask
from stages.config import MakeLabels
from stages.corrections.given_masks import GivenMasks
from stages.features.cache import FeatureCache, compute_features
from stages.features.spec import feature_spec
from stages.labels.kept_cams import StoredCamMaker, stored_cam_maker
from stages.labels.label_settings import UNREFINED, with_chosen
from stages.labels.maker import LabelMaker, Scored
from stages.labels.mask_shares import all_shares, patches_with_values
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.networks.inference import LoadedImage, to_rgb
from stages.relabel.choose_heads import HIDDEN, Chosen, chosen_heads, head_classification, refinement_stays
from stages.relabel.heads import PatchHeads, TwoHeads, probabilities_map
from stages.relabel.instance_head import InstanceHead, images_in_memory
from stages.relabel.patches import BYTES, Patches, collect_patches, patch_shares
from stages.run_folder.artifacts import open_stage
from stages.run_folder.saving import load_weights, save_weights, write_json
from stages.toco.metrics import Confusion

FINER = 4  # seed labels are counted on a grid this much finer than the patches


@dataclass(kw_only=True)
class RelabelMaker(LabelMaker):
    """Makes the masks of images from the probabilities of heads on frozen features."""

    samples: Sequence[Sample]  # those that have a CAM, with their known or predicted classes
    heads: PatchHeads
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
            Scored(sample=sample, image=to_rgb(image.original.to(self.fabric.device)), maps=self.probabilities(sample))
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
    run: Path,
    samples: Sequence[Sample],
    seeds: Path,
    maker: LabelMaker,
    config: MakeLabels,
    calibration: Sequence[Sample],
    given: GivenMasks,
) -> RelabelMaker | StoredCamMaker | None:
    """Train the heads on the labels of the CAMs, on rank 0; the other ranks receive them.

    Args:
        run: The run folder.
        samples: The images to label.
        seeds: Folder of cams.h5, with the CAMs and their masks. The choice and the heads are kept there for a resumed
            run.
        maker: What made the CAMs, with its device.
        config: Settings.
        calibration: Images whose ground truth chooses the heads, with --relabel auto; none to choose without.
        given: Masks that people drew, which the heads learn as well.

    Returns:
        What makes the new masks; None if --relabel auto keeps those of the CAMs, with their refinement.

    Raises:
        DataError: An image is bad, and bad images are not to be skipped; or a ground-truth mask is bad; or no image has
            known classes.
        SettingsError: The network of the features is not available.
    """
    cams = LabelFile(seeds / "cams.h5", "cams")
    fabric, monitor = maker.fabric, maker.monitor
    known = [replace(one, classes=cams.classes(one.id)) for one in samples if one.id in cams]
    spec = feature_spec(config, open_stage(run, "cam"))
    kept, path = seeds / "choice.json", seeds / "heads.safetensors"
    kind: Literal["none", "unrefined", "linear", "mlp", "mil"] = "none"
    if fabric.is_global_zero:
        features = compute_features(run, spec, known, config, fabric, monitor)
        if not kept.is_file():
            training = SeedTraining(seeds=seeds, cams=cams, features=features, maker=maker, given=given)
            usable = [one for one in known if one.id in features]
            chosen = training.heads(usable, config, calibration)
            if chosen:
                save_weights(path, {name: one.cpu().contiguous() for name, one in chosen.heads.state_dict().items()})
            stays = bool(chosen or calibration) or config.refine == "none" or training.refinement_stays(usable, config)
            write_json(kept, {"relabel": chosen.kind if chosen else "none" if stays else "unrefined"})
        features.close()
        kind = json.loads(kept.read_text())["relabel"]
    kind = fabric.broadcast(kind)
    if kind == "none":
        return None
    if kind == "unrefined":
        return stored_cam_maker(maker, with_chosen(replace(config, relabel="none"), UNREFINED), known, cams)
    weights = load_weights(path)
    statistics, classes = (weights["mean"], weights["deviation"]), maker.model.num_classes
    heads = InstanceHead(*statistics, classes) if kind == "mil" else TwoHeads(*statistics, classes, HIDDEN[kind])
    heads.load_state_dict(weights)
    return new_relabel_maker(maker, replace(config, relabel=kind), known, heads, FeatureCache(run, spec))


def new_relabel_maker(
    maker: LabelMaker, config: MakeLabels, samples: Sequence[Sample], heads: PatchHeads, features: FeatureCache
) -> RelabelMaker:
    """Prepare to make masks with trained heads, on the device of `maker`; samples without features are left out."""
    return RelabelMaker(
        model=maker.model,
        fabric=maker.fabric,
        config=config,
        monitor=maker.monitor,
        segment_files=maker.segment_files,
        lacking=maker.lacking,
        samples=[one for one in samples if one.id in features],
        heads=heads.to(maker.fabric.device).eval(),
        features=features,
    )


@dataclass(frozen=True, kw_only=True)
class SeedTraining:
    """Trains heads on the labels of the CAMs."""

    seeds: Path
    cams: LabelFile
    features: FeatureCache
    maker: LabelMaker
    given: GivenMasks

    def heads(self, samples: Sequence[Sample], config: MakeLabels, calibration: Sequence[Sample]) -> Chosen | None:
        """Train heads.

        Args:
            samples: Images with features, with their known or predicted classes.
            config: Settings.
            calibration: Images whose ground truth chooses the heads, with --relabel auto; none to choose without.

        Returns:
            The heads; None if --relabel auto keeps the masks of the CAMs.

        Raises:
            DataError: No image has known classes, no pixel has a value, or a ground-truth mask is bad.
        """
        # Images whose classes are unknown say nothing, not even what is background. Image labels teach mil, not the
        # network's predictions.
        usable = [one for one in samples if one.labelled or (one.classes and config.relabel != "mil")]
        if not usable:
            raise DataError("no image has known classes to relabel the masks by: use --relabel none")

        ids = {one.id for one in calibration}
        judges = [one for one in samples if one.id in ids]
        measure = (lambda heads: self.measured(heads, judges, config)) if judges else None
        monitor = self.maker.monitor
        if config.relabel == "mil":
            every, usable = len(usable), list(images_in_memory(usable, self.features, self.given.sources))
            if len(usable) < every:
                monitor.note(
                    f"--relabel mil learns from {len(usable)} of {every} images: their features take at most 2 GiB"
                )
        labelled = torch.tensor([one.labelled for one in usable])
        drawn = [one for one in usable if one.id in self.given]
        if measure and drawn and config.relabel == "auto":
            # Heads that learned the masks that they are measured on would always win, so they are chosen without these.
            chosen = chosen_heads(self.patches(usable, config, ()), labelled, config, monitor, measure)
            if chosen is None:
                return None
            config = replace(config, relabel="mlp" if chosen.kind == "mlp" else "linear")
        chosen = chosen_heads(self.patches(usable, config, drawn), labelled, config, monitor, measure)
        for pair in chosen.exchanged if chosen else ():
            names = " and ".join(repr(self.cams.class_names[number]) for number in pair)
            monitor.note(
                f"relabelling: {names} occur in nearly the same images. The first rounds exchanged their labels, as "
                "images with only one of them show. The labels were exchanged back: check the masks of both classes"
            )
        return chosen

    def refinement_stays(self, samples: Sequence[Sample], config: MakeLabels) -> bool:
        """Whether the refined masks of the CAMs are no worse than those without the refinement."""
        labelled = [one for one in samples if one.labelled]
        refined = LabelFile(self.seeds / "cams.h5", "masks")
        known = torch.ones(len(labelled), dtype=torch.bool)
        before, after = (
            head_classification(self.patches(labelled, config, (), masks), known) for masks in (None, refined)
        )
        return refinement_stays(before, after, config.refine, self.maker.monitor)

    def patches(
        self,
        samples: Sequence[Sample],
        config: MakeLabels,
        drawn: Sequence[Sample],
        masks: LabelFile | None = None,
    ) -> Patches:
        """Load the patches of images with the labels of their CAMs, and with the masks that people drew of `drawn`.

        Patches without a value are left out: the heads would learn them as background.

        Args:
            samples: Images with features.
            config: Settings.
            drawn: Those of them that have a mask that people drew.
            masks: Masks that give the labels, instead of the CAMs.
        """
        threshold = None if config.source == "decoder" else config.background_threshold
        assert threshold != "auto"
        classes = self.maker.model.num_classes
        by_id, ids = {one.id: one for one in samples}, {one.id for one in drawn}

        def seed_shares(image_id: str, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"]:
            if masks is not None:
                return all_shares(masks.read(image_id), classes, grid)
            size = (FINER * grid[0], FINER * grid[1])
            return patch_shares(stored_label(self.cams, image_id, threshold, size), classes, grid)

        def given_shares(image_id: str, grid: tuple[int, int]) -> Float[Tensor, "c1 h w"] | None:
            return all_shares(self.given.read(by_id[image_id]), classes, grid) if image_id in ids else None

        found = collect_patches(
            self.features.read,
            seed_shares,
            [(one.id, one.classes) for one in samples],
            classes,
            seed=0,
            device=self.maker.fabric.device,
            given=given_shares,
            usable=lambda image_id, grid: patches_with_values(by_id[image_id], grid),
            limit=sys.maxsize if config.relabel == "mil" else BYTES,  # see `images_in_memory`
        )
        if not len(found.features):
            raise DataError("no image has pixels with a value (all are NaN, nodata or transparent): use --relabel none")
        return found

    def measured(self, heads: PatchHeads | None, samples: Sequence[Sample], config: MakeLabels) -> float:
        """Return the mIoU, 0..1, of the masks that would be stored: those of these heads, or of the CAMs (None)."""
        masks: Iterable[tuple[str, NDArray[np.uint8]]]
        if heads is None:
            stored = LabelFile(self.seeds / "cams.h5", "masks")
            masks = [(one.id, stored.read(one.id)) for one in samples]
        else:
            self.maker.monitor.start("measuring the masks", len(samples))
            made = new_relabel_maker(self.maker, config, samples, heads, self.features).run([samples])
            masks = [(one.id, one.mask) for group in made for one in group]
        by_id = {one.id: one for one in samples}
        classes = self.maker.model.num_classes
        confusion = Confusion(classes + 1)
        for image_id, mask in masks:
            truth = read_mask(by_id[image_id], (mask.shape[0], mask.shape[1]), classes)
            confusion.add(torch.from_numpy(mask).long(), torch.from_numpy(truth).long())
        return confusion.scores().miou
