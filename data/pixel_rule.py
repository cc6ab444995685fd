"""Find the rule by which a data set's values become 8-bit RGB: the bits that 16-bit files use, and what alpha means.

Cameras store 10, 12 or 14 bits in files of 16, and aerial images have infrared where other files have transparency.
Both are decided once for all images of a data set, so that they stay comparable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import Dataset, Sample
from data.file_kinds import IMAGE_FORMATS
from data.images import PixelRule, has_16_bits, has_alpha

DEPTHS = (8, 10, 12, 14, 16)
DEEP_IMAGES = 1000  # number of 16-bit images to judge their bits by; images with larger values are refused when read
ALPHA_IMAGES = 100  # number of images with an alpha band to judge it by
BAND_VALUES = 32  # a band with at least this many values between 0 and 255, in most pixels, is not transparency


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """What the files of a data set say about their values.

    Attributes:
        deep: Images with 16 bits.
        bits: Number of bits that they use, one of DEPTHS; 16 if there are none.
        alpha: Images with a band that they call alpha.
        transparent: Whether that band looks like transparency in more than half of them.
    """

    deep: tuple[Path, ...] = ()
    bits: int = 16
    alpha: tuple[Path, ...] = ()
    transparent: bool = True

    @property
    def rule(self) -> PixelRule:
        """The rule that fits the files."""
        return PixelRule(bits=self.bits, alpha=self.transparent)


def pixel_facts(samples: Sequence[Sample], bits: str = "auto", alpha: str = "auto") -> PixelFacts:
    """Look at the headers of all images, at the values of some with 16 bits, and at some alpha bands.

    Images that cannot be read are passed over: they are reported where they are used.

    Args:
        samples: The images.
        bits: Number of bits that 16-bit files use, one of DEPTHS; 'auto' reads them, until one uses all bits.
        alpha: 'transparency' or 'ignore', for alpha bands; 'auto' looks at them.
    """
    paths = list({sample.image: None for sample in samples})
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        kinds = list(threads.map(_kind, paths, chunksize=256))
        deep = tuple(path for path, (is_deep, _) in zip(paths, kinds, strict=True) if is_deep)
        with_alpha = tuple(path for path, (_, is_alpha) in zip(paths, kinds, strict=True) if is_alpha)
        return PixelFacts(
            deep=deep,
            bits=_bits_of_all(threads, _spread(deep, DEEP_IMAGES)) if bits == "auto" else int(bits),
            alpha=with_alpha,
            transparent=_are_transparency(threads, _spread(with_alpha, ALPHA_IMAGES))
            if alpha == "auto"
            else alpha == "transparency",
        )


def _bits_of_all(threads: ThreadPoolExecutor, paths: Sequence[Path]) -> int:
    bits = DEPTHS[0] if paths else DEPTHS[-1]
    for start in range(0, len(paths), 32):  # more are not read ahead
        bits = max(bits, *threads.map(_used_bits, paths[start : start + 32]))
        if bits == DEPTHS[-1]:
            break
    return bits


def _are_transparency(threads: ThreadPoolExecutor, paths: Sequence[Path]) -> bool:
    judged = [one for one in threads.map(_is_transparency, paths) if one is not None]
    return not judged or 2 * sum(judged) > len(judged)


def _spread(paths: Sequence[Path], count: int) -> Sequence[Path]:
    return paths[:: -(-len(paths) // count)] if paths else paths


def with_pixel_rule(dataset: Dataset, rule: PixelRule) -> Dataset:
    """Return the data set with a rule for all its images."""
    if dataset.pixels == rule:
        return dataset

    def ruled(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(sample, pixels=rule) for sample in samples)

    splits = {name: ruled(samples) for name, samples in dataset.splits.items()}
    return replace(dataset, splits=splits, unlabelled=ruled(dataset.unlabelled), pixels=rule)


def describe_clipped(shares: Iterable[float], rule: PixelRule) -> str | None:
    """Return a warning about clipped images; None if no image was clipped.

    Args:
        shares: For each image, `clipped_share`.
        rule: The rule by which they were read.
    """
    clipped = [share for share in shares if share]
    if not clipped:
        return None
    return (
        f"{len(clipped)} image{'s have' if len(clipped) > 1 else ' has'} values above {(1 << rule.bits) - 1}, which "
        f"were clipped (in up to {max(clipped):.2%} of the pixels): the training images use {rule.bits} bits; to keep "
        "such values apart, train with a higher --image-bits"
    )


def all_samples(dataset: Dataset) -> list[Sample]:
    """Return the samples of all splits and the unlabelled ones, each once."""
    return list(dataset.by_id().values())


def _kind(path: Path) -> tuple[bool, bool]:
    """Whether an image has 16 bits, and whether it has an alpha band."""
    try:
        with path.open("rb") as file:
            if file.read(2) == b"\xff\xd8":  # JPEG, which has neither; opening it takes much longer
                return False, False
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return has_16_bits(image), has_alpha(image)
    except Exception:  # Pillow's plug-ins raise almost any exception
        return False, False


def _used_bits(path: Path) -> int:
    """Return how many bits the values of a 16-bit image use, one of DEPTHS, by the high byte of each."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            values = np.asarray(image)  # of bands with 16 bits, Pillow keeps the high byte
            if has_alpha(image):
                values = values[..., :-1]
            largest = int(values.max(initial=0))
            high = largest if values.dtype == np.uint8 else largest >> 8
    except Exception:
        return DEPTHS[0]
    return next((bits for bits in DEPTHS if high < 1 << (bits - 8)), DEPTHS[-1])


def _is_transparency(path: Path) -> bool | None:
    """Whether an alpha band looks like transparency; None if the image cannot be read.

    Transparency is mostly 0 or 255, or has few values. A band with many values over most of the image is another one.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            counts = image.getchannel(image.getbands()[-1]).histogram()
    except Exception:
        return None
    between = counts[1:255]
    return 2 * sum(between) <= sum(counts) or sum(count > 0 for count in between) < BAND_VALUES
