"""Segments of an image, as `--segments` says: superpixels made now, or a file of segments."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from data.dataset import Sample
from data.segment_files import describe_lacking, find_segment_files, read_segment_file
from stages.config import MakeLabels
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.segments.sam import compute_segments
from stages.segments.superpixels import superpixels
from stages.toco.segment_vote import Segments


def image_segments(image: UInt8[Tensor, "3 h w"], config: MakeLabels, file: Path | None = None) -> Segments | None:
    """Return the segments of an image; None if it has none.

    Args:
        image: Red, green, blue in 0..255.
        config: Settings.
        file: Its segment file, if there is one.

    Raises:
        DataError: The file is unreadable, or of another size.
    """
    if config.segments == "slic":
        return Segments.of(superpixels(image.permute(1, 2, 0).cpu().numpy(), config))
    size = (image.shape[-2], image.shape[-1])
    return None if file is None else Segments.of(read_segment_file(file, size))


def prepared_segments(
    run: Path, config: MakeLabels, samples: Sequence[Sample], fabric: Fabric, monitor: Monitor
) -> Mapping[str, Path]:
    """Return the segment file of each image that has one, by image id; SAM's are computed first, on rank 0.

    Raises:
        DataError: There is no file for any image; or an image is bad, and bad images are not to be skipped.
        SettingsError: The model of SAM is not available.
    """
    if config.segments in ("none", "slic"):
        return {}
    if config.segments == "sam":
        if fabric.is_global_zero:
            compute_segments(run, config, samples, fabric, monitor)
        fabric.barrier()
        return find_segment_files(run / "segments" / "images", samples)
    files = find_segment_files(Path(config.segments).expanduser(), samples)
    if lacking := describe_lacking(files, samples):
        monitor.warn(f"--segments {config.segments} {lacking}")
    return files
