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


def may_keep_cams(run: Path, config: MakeLabels, dataset: Dataset) -> bool:
    """Whether new labels would have the CAMs of the finished labels of a run, where the image has not changed."""
    with suppress(ArtifactError):  # damaged labels are made again
        if not finished(run, "labels") or outdated(run, "labels"):
            return False
        labels = open_stage(run, "labels")
        before = used_settings(labels)
        return (
            labels.config["toco"] == version("toco")
            and labels.class_names == dataset.class_names
            and labels.pixels == dataset.pixels
            and all(getattr(before, name) == getattr(config, name) for name in CAM_SETTINGS)
        )
    return False


def samples_with_cams(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    """List the samples whose stored CAM can be read, and whose image and classes have not changed since it was made."""
    found = []
    with suppress(ArtifactError):
        cams, digests = LabelFile(path, "cams"), LabelFile(path, "digests")
        for sample in samples:
            with suppress(ArtifactError):
                if (
                    sample.labelled
                    and sample.id in cams
                    and sample.id in digests
                    and cams.classes(sample.id) == sample.classes
                    and np.array_equal(digests.read(sample.id), image_digest(sample))
                    and cams.read(sample.id) is not None
                ):
                    found.append(sample)
    return found
