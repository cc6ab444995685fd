"""Keep the CAMs of earlier labels, and make masks from them.

Masks are often made again: with corrected masks, another threshold or another refinement. The CAMs, which take most of
the time, stay the same unless the network, the image or a setting in CAM_SETTINGS has changed.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from data.dataset import Dataset, Sample
from data.errors import ArtifactError
from stages.config import MakeLabels
from stages.labels.label_settings import used_settings
from stages.labels.maker import LabelMaker, Scored, image_digest
from stages.labels.store import LabelFile
from stages.networks.inference import LoadedImage, to_rgb
from stages.run_folder.artifacts import finished, open_stage, outdated

KEPT_CAMS = "shards/kept/cams.h5"  # in RUN/labels, while labels are made again
CAM_SETTINGS = ("source", "image_size", "window", "scales", "precision")  # that CAMs depend on


@dataclass(kw_only=True)
class StoredCamMaker(LabelMaker):
    """Makes the masks of images from their stored CAMs."""

    samples: Sequence[Sample]  # with their known or predicted classes
    cams: LabelFile

    @torch.inference_mode()
    def score(
        self, samples: Sequence[Sample], images: Sequence[LoadedImage], with_tokens: bool = False
    ) -> list[Scored]:
        """Return the images with the CAMs of their classes."""
        device = self.fabric.device
        return [
            Scored(
                sample=sample,
                image=to_rgb(image.original.to(device)),
                maps=torch.from_numpy(self.cams.read(sample.id)).to(device).float(),
            )
            for sample, image in zip(samples, images, strict=True)
        ]


def stored_cam_maker(
    maker: LabelMaker, config: MakeLabels, samples: Sequence[Sample], cams: LabelFile
) -> StoredCamMaker:
    """Prepare to make masks from stored CAMs with other settings, but on the device and cores of `maker`."""
    shared = {one.name: getattr(maker, one.name) for one in fields(LabelMaker)}
    return StoredCamMaker(**{**shared, "config": config}, samples=samples, cams=cams)


@dataclass(kw_only=True)
class KeptCamMaker(StoredCamMaker):
    """Makes the masks of images from their stored CAMs, and leaves out images that have changed since."""

    digests: LabelFile

    def _load(self, sample: Sample) -> LoadedImage | None:
        image = super()._load(sample)
        if image is None or not np.array_equal(self.digests.read(sample.id), image_digest(image)):
            return None
        return image

    def score(
        self, samples: Sequence[Sample], images: Sequence[LoadedImage], with_tokens: bool = False
    ) -> list[Scored]:
        """Return the images with the CAMs of their classes, and with their digests."""
        found = super().score(samples, images, with_tokens)
        return [one._replace(digest=self.digests.read(one.sample.id)) for one in found]


def kept_cam_maker(maker: LabelMaker, samples: Sequence[Sample], path: Path) -> KeptCamMaker | None:
    """Prepare to make masks from the CAMs of earlier labels; None if there are none.

    Args:
        maker: What makes the other CAMs.
        samples: The images to label.
        path: cams.h5 of the earlier labels.
    """
    kept: list[str] = []
    if maker.fabric.is_global_zero:  # decides for all ranks, which have to agree
        with suppress(ArtifactError, KeyError, RuntimeError, OSError):  # damaged CAMs are made again
            cams, digests = LabelFile(path, "cams"), LabelFile(path, "digests")
            for one in samples:
                with suppress(ArtifactError, KeyError, RuntimeError, OSError):
                    if one.labelled and one.id in digests and cams.classes(one.id) == one.classes:
                        cams.read(one.id)
                        digests.read(one.id)
                        kept.append(one.id)
    kept = maker.fabric.broadcast(kept)
    if not kept:
        return None
    ids = set(kept)
    shared = {one.name: getattr(maker, one.name) for one in fields(LabelMaker)}
    usable = [one for one in samples if one.id in ids]
    return KeptCamMaker(**shared, samples=usable, cams=LabelFile(path, "cams"), digests=LabelFile(path, "digests"))


def may_keep_cams(run: Path, config: MakeLabels, dataset: Dataset) -> bool:
    """Whether new labels would have the CAMs of the finished labels of a run, where the image has not changed."""
    try:
        if not finished(run, "labels") or outdated(run, "labels"):
            return False
        labels = open_stage(run, "labels")
        before = used_settings(labels)
    except ArtifactError:  # damaged labels are made again
        return False
    return (
        labels.config.get("toco") == version("toco")
        and labels.class_names == dataset.class_names
        and labels.pixels == dataset.pixels
        and all(getattr(before, name) == getattr(config, name) for name in CAM_SETTINGS)
    )
