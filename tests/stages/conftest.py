"""A run as `toco make-labels` leaves it, made by hand: tiny pictures of squares, and masks that are right."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.readers import open_dataset
from stages.config import MakeLabels, TrainCam, TrainSeg
from stages.corrections.correction_file import Correction, CorrectionFile, Provenance
from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard
from stages.run_folder.artifacts import begin_stage
from stages.run_folder.saving import save_weights

PROVENANCE = Provenance(source="masks", tool="png", annotator="", annotated="", imported="2026-01-01")
COLOURS = ((40, 40, 40), (220, 60, 40), (40, 80, 220))


@dataclass(frozen=True)
class LabelledRun:
    run: Path
    data: Path
    masks: dict[str, NDArray[np.uint8]]  # as in RUN/labels/labels.h5


def draw(path: Path, mask: NDArray[np.uint8], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-20, 20, (*mask.shape, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS)[mask % 3] + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def correct() -> Callable[..., CorrectionFile]:
    """Writes corrected masks into a run, by image id."""

    def write(
        run: Path, masks: Mapping[str, NDArray[np.uint8]], names: tuple[str, ...] = ("red", "blue")
    ) -> CorrectionFile:
        new = [Correction(id=key, mask=mask, before=None, provenance=PROVENANCE) for key, mask in masks.items()]
        CorrectionFile(run, names).add(new)
        return CorrectionFile(run, names)

    return write


@pytest.fixture(scope="session")
def labelled_run_in() -> Callable[..., LabelledRun]:
    """Draws a custom folder (four images to train on, two to measure on) and writes RUN/labels for it.

    `fill` sets all pseudo masks to one value; `without` leaves ids out of the label file.
    """

    def make(folder: Path, *, fill: int | None = None, without: tuple[str, ...] = ()) -> LabelledRun:
        data, run = folder / "data", folder / "run"
        rows = ["image,labels,split"]
        truth: dict[str, NDArray[np.uint8]] = {}
        for number, image_id in enumerate(("a", "b", "c", "deep/d", "v1", "v2")):
            mask = np.zeros((64 - 8 * (number % 2), 64), dtype=np.uint8)
            mask[8:40, 4 + number : 40] = 1 + number % 2
            truth[image_id] = mask
            draw(data / "images" / f"{image_id}.png", mask, number)
            path = data / "masks" / f"{image_id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
            split = "val" if image_id.startswith("v") else "train"
            rows.append(f"{image_id}.png,{('red', 'blue')[number % 2]},{split}")
        (data / "labels.csv").write_text("\n".join(rows) + "\n")
        (data / "classes.txt").write_text("red\nblue\n")
        masks = {key: mask.copy() for key, mask in truth.items() if key[0] != "v" and key not in without}
        for mask in masks.values():
            mask[-4:] = 255
            if fill is not None:
                mask[:] = fill
        folder = begin_stage(
            run, "labels", settings=MakeLabels(), dataset=open_dataset(data), extra={"background_threshold": 0.5}
        ).path
        shard = folder / "shards" / "0.h5"
        write_shard(
            shard,
            [
                ImageLabels(id=key, classes=(1,), cam=np.zeros((1, *mask.shape), np.float16), mask=mask)
                for key, mask in masks.items()
            ],
        )
        join_shards([shard], folder, label_attributes(("red", "blue"), {}))
        return LabelledRun(run=run, data=data, masks=masks)

    return make


@pytest.fixture
def labelled_run(labelled_run_in: Callable[..., LabelledRun], tmp_path: Path) -> LabelledRun:
    return labelled_run_in(tmp_path)


SEG = TrainSeg(
    arch="Unet", encoder="tu-mobilenetv3_small_050", weights="none", image_size=64, long_side=64, device="cpu"
)
CAM = TrainCam(
    backbone="vit_tiny_patch16_224",
    backbone_option=("embed_dim=32", "depth=3", "num_heads=2"),
    weights="none",
    image_size=64,
    device="cpu",
)


@pytest.fixture(scope="session")
def untrained_student() -> tuple[Any, Any]:
    """A student and its spec, which take long to build."""
    import torch  # not above: other tests start sooner without it

    from stages.networks.student import new_student

    torch.manual_seed(0)
    return new_student(SEG, 2)


@pytest.fixture
def student_run(labelled_run: LabelledRun, untrained_student: tuple[Any, Any]) -> LabelledRun:
    """A run whose student is untrained, but has seen all classes as often."""
    student, spec = untrained_student
    dataset = open_dataset(labelled_run.data)
    extra = {"model": asdict(spec)}
    folder = begin_stage(labelled_run.run, "seg", settings=SEG, dataset=dataset, extra=extra).path
    save_weights(folder / "model.safetensors", student.state_dict())
    return labelled_run


@pytest.fixture
def decoder_run(labelled_run: LabelledRun, small_heads: None) -> LabelledRun:
    """A run whose CAM network is untrained; beside `student_run`, it is the same run."""
    import torch

    from stages.networks.cam_model import new_cam_model

    torch.manual_seed(0)
    model, spec = new_cam_model(CAM, 2)
    extra = {"model": asdict(spec)}
    dataset = open_dataset(labelled_run.data)
    folder = begin_stage(labelled_run.run, "cam", settings=CAM, dataset=dataset, extra=extra).path
    save_weights(folder / "model.safetensors", model.state_dict())
    return labelled_run
