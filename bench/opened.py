"""The network of a run, ready to give scores, for benches that measure its maps against true masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Sample
from data.readers import open_dataset
from stages.config import Device, MakeLabels
from stages.labels.maker import LabelMaker
from stages.make_labels import samples_to_label
from stages.networks.cam_model import load_cam_model
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import spread
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import SilentMonitor


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What there is to measure."""

    maker: LabelMaker
    trained: Any  # settings of the training, by name
    classes: int  # foreground
    images: list[Sample]  # of the split that was trained on

    def with_masks(self, count: int) -> list[Sample]:
        """At most so many images with true masks and at least a class, evenly spread."""
        return spread([sample for sample in self.images if sample.mask is not None and sample.classes], count)


def open_run(run: Path, device: Device) -> Opened:
    """Load the network of RUN/cam."""
    cam = open_stage(run, "cam")
    config = MakeLabels(image_size=cam.settings["image_size"], split=cam.settings["split"], device=device)
    dataset = open_dataset(cam.dataset_root)
    model = load_cam_model(cam)
    fabric = make_fabric(config.device)
    fabric.to_device(model)
    return Opened(
        maker=LabelMaker(model=model, fabric=fabric, config=config, monitor=SilentMonitor()),
        trained=cam.settings,
        classes=len(dataset.class_names),
        images=samples_to_label(dataset, config, model.backbone.patch_size, SilentMonitor()),
    )
