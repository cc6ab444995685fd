"""`toco predict`: masks of new images, by the student or by the CAM network's decoder (METHOD section 8).

In: RUN/seg or RUN/cam, and any images. Out: a folder with masks/NAME.png and overlays/NAME.png.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from data.dataset import DataError, Sample
from data.images import IMAGE_SUFFIXES, find_images, image_id, read_image
from data.readers import check_images
from stages.artifacts import StageFolder, finished, open_stage, outdated, outdated_message
from stages.cam_model import load_cam_model
from stages.config import Predict
from stages.inference import decoder_probabilities, resize_maps, to_tensor
from stages.machine import cores, make_fabric
from stages.monitor import Monitor
from stages.palette import overlay, palette_image
from stages.student import label_map, load_student, student_probabilities
from stages.toco.crf import FOR_SEGMENTATION, sharpen
from stages.toco.model import ToCo
from stages.whole_files import whole_file


def predict(
    run: Path,
    images: Sequence[Path],
    out: Path,
    config: Predict,
    monitor: Monitor,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write the masks of images, and the images with their masks laid over them.

    Args:
        run: A run folder in which `toco train-seg` finished (for the decoder, `toco train-cam`).
        images: Files, and folders, which are searched to the bottom.
        out: Folder to write to: masks/NAME.png, palette PNGs whose pixels are class numbers (0 background),
            and overlays/NAME.png. NAME is the file's own, or its path below the folder that was given.
        config: Settings.
        monitor: Told of progress.
        overwrite: Replace files that exist.

    Returns:
        The masks' files.

    Raises:
        ValueError: There are no images, one is bad, or a file to be written exists.
        ArtifactError: The network is not there.
    """
    found = find_inputs(images, out, monitor)
    refuse_existing(out, found, overwrite)
    stage = choose_network(run, config).path.name
    if outdated(run, stage):
        monitor.warn(outdated_message(run, stage))
    samples, problems = check_images(found, 1, skip_bad=config.skip_bad)
    for problem in problems:
        monitor.warn(f"left out: {problem}")
    segment = open_segmenter(run, config)
    monitor.start(f"predicting with {segment.folder.path}", len(samples))
    files = []
    for sample, image in _read_ahead(samples, config, monitor):
        mask = segment(to_tensor(image)).numpy().astype(np.uint8)
        for file, picture in zip(_files(out, sample), (palette_image(mask), overlay(image, mask)), strict=True):
            with whole_file(file) as temporary:
                picture.save(temporary, format="PNG")
        files.append(_files(out, sample)[0])
        monitor.advance()
    monitor.finish()
    return files


def find_inputs(images: Sequence[Path], out: Path, monitor: Monitor) -> list[Sample]:
    """List the images to predict; their ids are the names to write under, and unique.

    What lies below `out` is left out: it may be in a folder of images, and hold an earlier run's.

    Raises:
        DataError: A path does not exist, or a folder holds no images.
    """
    names: set[str] = set()  # in one case: some file systems do not tell case apart
    seen: set[Path] = set()
    samples = []
    for name, path in _named_files(images, out):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        unique = name
        for number in count(2):
            if unique.casefold() not in names:
                break
            unique = f"{name}-{number}"
        if unique != name:
            monitor.note(f"{path} is written as {unique!r}: another image is named {name!r}")
        names.add(unique.casefold())
        samples.append(Sample(id=unique, image=path, classes=(), mask=None))
    if not samples:
        raise DataError("there are no images to predict: give files or folders of images")
    return samples


def _named_files(images: Sequence[Path], out: Path) -> Iterator[tuple[str, Path]]:
    for given in images:
        if not given.is_dir():
            if not given.exists():
                raise DataError(f"there is no file or folder {given}: check the path")
            yield image_id(given.name), given
            continue
        found = {
            name: path for name, path in find_images(given).items() if not path.resolve().is_relative_to(out.resolve())
        }
        if not found:
            raise DataError(f"{given} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        for name, path in found.items():
            yield image_id(name), path


def _files(out: Path, sample: Sample) -> tuple[Path, Path]:
    """Where the mask and the overlay of an image are written."""
    return out / "masks" / f"{sample.id}.png", out / "overlays" / f"{sample.id}.png"


def refuse_existing(out: Path, samples: Sequence[Sample], overwrite: bool) -> None:
    """Refuse to replace files, unless that was asked for.

    Raises:
        ValueError: Names the first file and counts the others.
    """
    existing = [file for sample in samples for file in _files(out, sample) if file.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]} exists{more}: use --overwrite to replace it, or another folder")


def choose_network(run: Path, config: Predict) -> StageFolder:
    """Open the stage whose network predicts: as asked, else the student where it is trained.

    Raises:
        ArtifactError: It is not finished.
    """
    student = config.source == "student" or (config.source == "auto" and finished(run, "seg"))
    return open_stage(run, "seg" if student else "cam")


def open_segmenter(run: Path, config: Predict) -> "Segmenter":
    """Load the network of a run, on its device.

    Raises:
        ArtifactError: It is not finished, or damaged.
        ValueError: This machine lacks the device.
    """
    folder = choose_network(run, config)
    fabric = make_fabric(config.device)
    if folder.path.name == "seg":
        student = load_student(folder)
        fabric.to_device(student)
        return Segmenter(folder, partial(student_probabilities, student, scales=config.scales), config, fabric)
    model = load_cam_model(folder)
    fabric.to_device(model)
    decode = partial(_decode, model, side=folder.settings["image_size"], scales=config.scales)
    return Segmenter(folder, decode, config, fabric)


@dataclass(frozen=True)
class Segmenter:
    """A network that segments images."""

    folder: StageFolder  # where it comes from
    probabilities: Callable[[Tensor], Tensor]  # image (3, h, w) -> (classes, _h, _w), background first
    config: Predict
    fabric: Fabric

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> Int[Tensor, "h w"]:
        """Label each pixel, 0 background, 1..C classes; image and result are on the CPU."""
        size = (image.shape[-2], image.shape[-1])
        with self.fabric.autocast():
            probabilities = self.probabilities(image)
        if not self.config.crf:
            return label_map(probabilities, size).long().cpu()
        (sharpened,) = sharpen(
            [image.to(probabilities.device)],
            [resize_maps(probabilities, size)[None]],
            FOR_SEGMENTATION,
            self.config.crf_backend,
        )
        return sharpened[0].argmax(dim=0).cpu()


def _decode(
    model: ToCo, image: UInt8[Tensor, "3 h w"], *, side: int, scales: Sequence[float]
) -> Float[Tensor, "classes s s"]:
    """Class probabilities by the CAM network's decoder, which sees images squashed to a square."""
    square = v2.functional.resize(image, [side, side], antialias=True)
    return decoder_probabilities(model, square[None].to(next(model.parameters()).device), scales)[0]


def _read_ahead(samples: Sequence[Sample], config: Predict, monitor: Monitor) -> Iterator[tuple[Sample, Image.Image]]:
    """Read images in the background while the network is busy, a few ahead of it."""
    threads = max(1, min(8, cores()) if config.workers is None else config.workers)
    waiting: deque[tuple[Sample, Future[Image.Image]]] = deque()

    def take() -> Iterator[tuple[Sample, Image.Image]]:
        sample, reading = waiting.popleft()
        try:
            yield sample, reading.result()
        except DataError as error:
            if not config.skip_bad:
                raise DataError(f"{error}; mend or remove it, or go on without it: --skip-bad") from error
            monitor.warn(f"left out: {error}")
            monitor.advance()

    with ThreadPoolExecutor(threads) as pool:
        for sample in samples:
            waiting.append((sample, pool.submit(read_image, sample.image)))
            if len(waiting) > threads:
                yield from take()
        while waiting:
            yield from take()
