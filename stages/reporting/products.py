"""All products of a run for one image (CAMs, masks), to be shown by `toco report` and `toco view`."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.band_image import Pixels, as_picture
from data.dataset import Dataset, Mask, Sample
from data.images import read_pixels
from data.missing_pixels import without_missing_pixels
from data.readers import read_mask
from stages.config import Machine, MakeLabels, Precision, Predict
from stages.labels.label_settings import resolved, used_settings
from stages.labels.pixel_labels import at_image_size, pixel_labels, with_class_numbers
from stages.labels.store import LabelFile
from stages.networks.cam_model import load_cam_model
from stages.networks.inference import class_label_matrix, predicted_classes, square_cams, squash, to_rgb, to_tensor
from stages.networks.segmenter import NetworkName, Segmenter, decoder_segmenter, open_segmenter
from stages.networks.windows import cams_in_windows
from stages.run_folder.artifacts import StageFolder, current, open_stage
from stages.runtime.fabric import make_fabric
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.segments.image_segments import image_segments
from stages.toco.cam import labels_at, present_classes, to_class_numbers
from stages.toco.model import ToCo


class Products(NamedTuple):
    """The products of one image; those that the run does not have yet are None."""

    image: Image.Image
    classes: tuple[int, ...]  # 1..C: from the image labels, or else predicted; of the maps below in this order
    cam: Float[Tensor, "k h w"]  # on the CPU, 0..1, at the size of the image
    auxiliary_cam: Float[Tensor, "k h w"]
    source: str  # the CAM from which the labels were made and to which thresholds apply: cam or aux
    pseudo_mask: Mask | None  # as stored; made now for an image that is not in the labels
    student: Mask | None
    truth: Mask | None

    def at(self, background: float) -> Mask:
        """The mask of the CAM alone: pixels whose best score is at most `background` are background."""
        mask: Mask = to_class_numbers(labels_at(self.scores, background), self.classes).byte().numpy()
        return mask

    @property
    def scores(self) -> Float[Tensor, "k h w"]:
        """The CAM to which thresholds apply."""
        return self.auxiliary_cam if self.source == "aux" else self.cam


def best_score(cam: Float[Tensor, "k h w"]) -> Float[Tensor, "h w"]:
    """The score of the best class at each pixel; 0 for an image without classes."""
    return cam.amax(dim=0) if len(cam) else cam.new_zeros(cam.shape[1:])


@dataclass(frozen=True)
class RunProducts:
    """The networks and labels of a run. Those that are not finished or are outdated are None."""

    run: Path
    dataset: Dataset
    cam_folder: StageFolder
    labels_folder: StageFolder | None
    model: ToCo
    student: Segmenter | None
    fabric: Fabric

    @property
    def background_threshold(self) -> float:
        """The background threshold of the labels, or of the training if there are no labels."""
        score = self.labels_folder.config["background_threshold"] if self.labels_folder else None
        return float(self.cam_folder.settings["background_threshold"] if score is None else score)

    @property
    def source(self) -> str:
        """The CAM of the labels: 'cam' or 'aux'. 'cam' if there are no labels, or the decoder made them."""
        return "aux" if self.labels_folder and self.labels_folder.settings["source"] == "aux" else "cam"

    @property
    def relabelled(self) -> bool:
        """Whether the pseudo masks were relabelled."""
        return self.labels_folder is not None and (self.labels_folder.path / "scores.h5").is_file()

    @cached_property
    def masks(self) -> LabelFile | None:
        """The stored pseudo masks."""
        return LabelFile(self.labels_folder.path / "labels.h5", "masks") if self.labels_folder else None

    @cached_property
    def label_settings(self) -> MakeLabels | None:
        """The settings of the pseudo masks, with all thresholds filled in."""
        if self.labels_folder is None:
            return None
        asked = used_settings(self.labels_folder)
        # Both back ends give the same result, and the one of the labels may be missing on this machine.
        used = replace(asked, crf_backend="auto")
        return resolved(used, self.cam_folder.settings, self.labels_folder.config["background_threshold"])

    def segmenters(self, precision: Precision) -> dict[NetworkName, Segmenter]:
        """The networks of the run as segmenters. They are not loaded again."""
        config = Predict(source="decoder", device="auto", precision=precision)
        found: dict[NetworkName, Segmenter] = {
            "decoder": decoder_segmenter(self.cam_folder, self.model, config, self.fabric)
        }
        if self.student:
            found["student"] = self.student
        return found

    def of(self, sample: Sample) -> Products:
        """Run the networks on an image.

        Raises:
            DataError: The image or its ground-truth mask cannot be used.
        """
        image = read_pixels(sample.image, rule=sample.pixels)
        size, pixels = (image.height, image.width), to_tensor(image)
        cams, classes = self._cams(image, sample)
        truth = student = None
        if sample.mask is not None:
            truth = read_mask(sample, size, len(self.dataset.class_names))
        if self.student:
            student = without_missing_pixels(self.student(pixels).numpy(), sample.image, sample.pixels)
        # Rounded as for masks, so that the CAM above its threshold is the pseudo mask of the CAM alone.
        cam, auxiliary = (at_image_size(one, size).float().cpu() for one in cams)
        return Products(
            image=as_picture(image),
            classes=classes,
            cam=cam,
            auxiliary_cam=auxiliary,
            source=self.source,
            pseudo_mask=self._pseudo_mask(sample, classes, pixels, cams[self.source == "aux"]),
            student=student,
            truth=truth,
        )

    def _cams(self, image: Pixels, sample: Sample) -> tuple[tuple[Tensor, Tensor], tuple[int, ...]]:
        """Return the final and the auxiliary CAM, (k, _h, _w) each, and their k classes."""
        # The CAMs with the settings of the labels, if there are labels.
        made = asdict(self.label_settings) if self.label_settings else self.cam_folder.settings
        side = made["image_size"]
        square = squash(image, side)[None].to(self.fabric.device)
        with self.fabric.autocast():
            classes = sample.classes if sample.labelled else predicted_classes(self.model, square)[0]
            known = class_label_matrix([replace(sample, classes=classes)], self.model.num_classes)
            present = present_classes(known.to(self.fabric.device))
            scales, window = made["scales"], made.get("window")
            if window and max(image.size) > window:
                cams = cams_in_windows(self.model, to_tensor(image), present, scales, window=window, side=side)
            else:
                cams = square_cams(self.model, square, present, scales)
        return (cams.final[0, : len(classes)], cams.auxiliary[0, : len(classes)]), classes

    def _pseudo_mask(self, sample: Sample, classes: tuple[int, ...], pixels: Tensor, maps: Tensor) -> Mask | None:
        if self.masks is None or self.label_settings is None:
            return None
        if sample.id in self.masks:
            stored: Mask = self.masks.read(sample.id)
            return stored
        settings = self.label_settings
        others = settings.source == "decoder" or settings.segments not in ("none", "slic")
        if others or self.relabelled:  # made only by `toco make-labels`
            return None
        rgb = to_rgb(pixels)
        (labels,) = pixel_labels([maps.cpu()], [rgb], settings, segments=[image_segments(rgb, settings)])
        mask = with_class_numbers(labels.mask, replace(sample, classes=classes))
        return without_missing_pixels(mask, sample.image, sample.pixels)


def open_products(run: Path, dataset: Dataset, config: Machine, monitor: Monitor) -> RunProducts:
    """Open the networks and labels of a run. What is outdated is left out, with a warning.

    Raises:
        ArtifactError: `toco train-cam` did not finish, or a part of the run is damaged.
        SettingsError: This machine does not have the device.
    """
    cam_folder = open_stage(run, "cam")
    labels = current(run, "labels", monitor, "left out")
    student = None
    if current(run, "seg", monitor, "left out"):
        student = open_segmenter(run, Predict(source="student", device=config.device, precision=config.precision))
    fabric = make_fabric(config.device, precision=config.precision)
    model = load_cam_model(cam_folder)
    fabric.to_device(model)
    return RunProducts(
        run=run,
        dataset=dataset,
        cam_folder=cam_folder,
        labels_folder=open_stage(run, "labels") if labels else None,
        model=model,
        student=student,
        fabric=fabric,
    )
