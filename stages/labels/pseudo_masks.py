"""The pseudo masks of a run as a data set of PyTorch.

Letters: h w pixels of an image; `classes` includes the background, which comes first.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors

from data.command_line import as_command
from data.dataset import Dataset
from data.errors import ArtifactError, DataError
from data.images import read_pixels
from stages.labels.store import LabelFile
from stages.networks.inference import resize_maps, to_tensor
from stages.run_folder.artifacts import check_up_to_date, open_stage, repeating_command
from stages.run_folder.run_data import data_difference, open_run_data
from stages.runtime.monitor import Monitor


class PseudoMasks(TorchDataset[Any]):
    """Images and their pseudo masks, in the order of `ids`.

    An item is `(image, mask)`: uint8 (3, h, w), or float32 (c, h, w) of bands in the same range 0..255, and int64 (h,
    w) with 0 for background, 1..C for the classes and 255 for pixels without a label. Both are `tv_tensors`, so that a
    transform of `torchvision.transforms.v2` moves them together. Give the loss `ignore_index=255`.

    The object can be pickled and given to several workers of a `DataLoader`; each opens the files itself.
    """

    def __init__(
        self,
        run: str | Path,
        transform: Callable[..., Any] | None = None,
        *,
        data: str | Path | Dataset | None = None,
        split: str | None = None,
        probabilities: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        """Open the masks of a run.

        Args:
            run: A run folder in which `toco make-labels` finished.
            transform: Called with the parts of each item, `transform(image, mask)`; its result is the item.
            data: The data set's present folder if it was moved.
            split: Only images of this split of the data set; by default all that have a mask.
            probabilities: Add a third part to each item: the probabilities that relabelling gave, float32
                (classes, h, w) in 0..1, background first.
            monitor: Receives a warning if the data set has changed since; by default it is a warning of Python.

        Raises:
            ArtifactError: The labels are missing, outdated or damaged, or have no probabilities.
            DataError: The data set is missing, or lacks an image that has a mask.
        """
        labels = open_stage(Path(run), "labels")
        check_up_to_date(Path(run), "labels")
        root = Path(data) if isinstance(data, str) else data
        dataset = open_run_data(labels, root, skip_bad=labels.settings["skip_bad"])
        if difference := data_difference(labels, dataset):
            if monitor is None:
                warnings.warn(difference, stacklevel=2)
            else:
                monitor.warn(difference)
        self.class_names = labels.class_names
        self.transform = transform
        self._masks = LabelFile(labels.path / "labels.h5", "masks")
        self._scores: LabelFile | None = None
        if probabilities:
            if not (labels.path / "scores.h5").is_file():
                again = as_command("make-labels", run, "--overwrite", "--relabel", "linear")
                raise ArtifactError(
                    f"{labels.path} has no probabilities, because its masks were not relabelled: run {again}, or leave "
                    "out probabilities"
                )
            self._scores = LabelFile(labels.path / "scores.h5", "scores")
        known = dataset.by_id() if split is None else {sample.id: sample for sample in dataset.split(split)}
        lost = [one for one in self._masks.ids if one not in known] if split is None else []
        if lost:
            raise DataError(
                f"{labels.path / 'labels.h5'} has masks of {len(lost)} images that {dataset.root} lacks, first "
                f"'{lost[0]}': use the data set of that run, or run {repeating_command(Path(run), 'labels')}"
            )
        self._samples = [known[one] for one in self._masks.ids if one in known]

    @property
    def ids(self) -> list[str]:
        """Name of each image: its path below the folder of images, without extension."""
        return [sample.id for sample in self._samples]

    @property
    def paths(self) -> list[Path]:
        """File of each image."""
        return [sample.image for sample in self._samples]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        """Load an item.

        Raises:
            DataError: The image cannot be read, or its size differs from that of its mask.
            ArtifactError: The mask cannot be read.
        """
        sample = self._samples[index]
        picture = read_pixels(sample.image, rule=sample.pixels)
        mask = torch.from_numpy(self._masks.read(sample.id)).long()
        if mask.shape != (picture.height, picture.width):
            raise DataError(
                f"the mask of '{sample.id}' in {self._masks.path} is {mask.shape[0]} x {mask.shape[1]} (height x "
                f"width), the image {sample.image} is {picture.height} x {picture.width}: it was replaced since"
            )
        item: tuple[Tensor, ...] = (tv_tensors.Image(to_tensor(picture)), tv_tensors.Mask(mask))
        if self._scores is not None:
            item += (tv_tensors.Mask(self._probabilities(self._scores, sample.id, (picture.height, picture.width))),)
        return item if self.transform is None else self.transform(*item)

    def _probabilities(self, scores: LabelFile, image_id: str, size: tuple[int, int]) -> Float[Tensor, "classes h w"]:
        of_classes = torch.from_numpy(scores.read(image_id)).float()  # (k, gh, gw)
        small = of_classes.new_zeros(len(self.class_names) + 1, *of_classes.shape[1:])
        small[list(scores.classes(image_id))] = of_classes
        small[0] = (1 - of_classes.sum(dim=0)).clamp_min(0)
        return resize_maps(small, size)
