"""Find the rule by which networks get a data set's values; it is one for all images, so that they stay comparable.

Photographs become 8-bit RGB. Images with other bands, or with more than 8 bits, keep their bands and their depth: the
range, mean and standard deviation of each band are measured on training images. In data sets that have both, 16-bit
files are scaled to 8 bits, of which cameras use 10, 12 or 14. Aerial images have infrared where other files have
transparency.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from data.band_files import BandLayout, is_array
from data.band_image import MARGIN
from data.band_numbers import band_numbers
from data.dataset import Dataset, Sample
from data.errors import DataError, SettingsError
from data.file_kinds import IMAGE_FORMATS
from data.images import band_layout, has_16_bits, has_alpha, one_band, read_stored
from data.pixel_rule import BandRange, PixelRule, value_kind

DEPTHS = (8, 10, 12, 14, 16)
DEEP_IMAGES = 1000  # number of 16-bit images to judge their bits by; images with larger values are refused when read
ALPHA_IMAGES = 100  # number of images with an alpha band to judge it by
RANGE_IMAGES = 200  # number of training images to measure the ranges of bands on
RANGE_PIXELS = 10_000  # of each of them, chosen at random
TAIL = 0.1  # percent of the values below the range of a band, and above it
BAND_VALUES = 32  # a band with at least this many values between 0 and 255, in most pixels, is not transparency


class Layout(NamedTuple):
    """Bands and values of a file, as far as the images of a data set must agree."""

    bands: int  # without one that is marked as alpha
    kind: str  # see `value_kind`


PLAIN = Layout(3, "8-bit")


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """What the files of a data set say about their values.

    Attributes:
        deep: Images of 16 bits that are read as 8-bit RGB.
        bits: Number of bits that they use, one of DEPTHS; 16 if there are none.
        bits_given: Whether that was asked for. Otherwise `deep` images lose their depth because of other images.
        plain: The first image of 8 bits.
        alpha: Images with a band that they call alpha.
        transparent: Whether that band looks like transparency in more than half of them.
        bands: The bands that networks get; empty if all images are read as 8-bit RGB.
        layout: Bands and values of most files, if there are `bands`.
        depth: Bits and type of their values, for example '16 bits (uint16)'.
        without_value: Share of the measured values, 0..1, that are NaN, infinite, nodata or transparent.
        empty: Measured images in which no value was found.
    """

    deep: tuple[Path, ...] = ()
    bits: int = 16
    bits_given: bool = True
    plain: Path | None = None
    alpha: tuple[Path, ...] = ()
    transparent: bool = True
    bands: tuple[BandRange, ...] = ()
    layout: Layout = PLAIN
    depth: str = "8 bits (uint8)"
    without_value: float = 0.0
    empty: tuple[Path, ...] = ()

    @property
    def rule(self) -> PixelRule:
        """The rule that fits the files."""
        if not self.bands:
            return PixelRule(bits=self.bits, alpha=self.transparent)
        return PixelRule(alpha=self.transparent, bands=self.bands, count=self.layout.bands, kinds=(self.layout.kind,))

    def describe(self) -> str | None:
        """Say in one phrase what networks get; None if all images are read as 8-bit RGB."""
        if not self.bands:
            return None
        shown = [f"{band.number} ({band.low:.6g} to {band.high:.6g})" for band in self.bands[:MOST_SHOWN]]
        more = f" and {len(self.bands) - MOST_SHOWN} more" if len(self.bands) > MOST_SHOWN else ""
        return (
            f"images have {self.layout.bands} band{'s'[: self.layout.bands != 1]} of {self.depth}, read at full depth: "
            f"band {', '.join(shown)}{more}"
        )

    def describe_loss(self) -> tuple[str, str] | None:
        """Say how many images lose their depth, and what to do; None if none does, or if that was asked for."""
        if self.bits_given or not self.deep:
            return None
        white = (1 << self.bits) - 1
        if self.plain is None:
            why, how = "some are grey and others have colours", "all images with the same bands"
        else:
            why, how = f"others have 8 bits (first {self.plain})", "all images with 16 bits"
        return (
            f"{len(self.deep)} image{'s' if len(self.deep) > 1 else ''} of 16 bits, read as 8-bit RGB ({white} becomes "
            f"255), since {why}",
            f"to keep the depth, save {how}; if 8 bits are enough, give --image-bits {self.bits}",
        )

    def describe_missing(self) -> str | None:
        """Say how many values are missing; None if none are."""
        if not self.without_value:
            return None
        share = f"{self.without_value:.2%}" if self.without_value >= 0.0001 else "under 0.01%"
        return f"{share} of the values are missing (NaN, infinite, nodata or transparent): they get the band's mean"


def pixel_facts(
    samples: Sequence[Sample],
    bits: str = "auto",
    alpha: str = "auto",
    bands: str = "auto",
    *,
    training: Sequence[Sample] | None = None,
) -> PixelFacts:
    """Look at the headers of all images, and at the values of some.

    Images that cannot be read are passed over: they are reported where they are used.

    Args:
        samples: The images.
        bits: Number of bits that 16-bit files use, one of DEPTHS, to read them as 8-bit RGB; 'auto' keeps their depth,
            or reads the number, until one uses all bits, where they are mixed with files of 8 bits.
        alpha: 'transparency' or 'ignore', for alpha bands; 'auto' looks at them.
        bands: The bands that networks get: 'all', or numbers from 1 with commas between them; 'auto' is 8-bit RGB for
            usual pictures, and otherwise all bands.
        training: Images to measure the bands on; by default all.

    Raises:
        SettingsError: The images do not have these bands.
    """
    paths = list({sample.image: None for sample in samples})
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        kinds = list(threads.map(_kind, paths, chunksize=256))
        deep = tuple(path for path, one in zip(paths, kinds, strict=True) if one.deep)
        with_alpha = tuple(path for path, one in zip(paths, kinds, strict=True) if one.alpha)
        transparent = (
            _are_transparency(threads, _spread(with_alpha, ALPHA_IMAGES))
            if alpha == "auto"
            else alpha == "transparency"
        )
        facts = PixelFacts(alpha=with_alpha, transparent=transparent)
        other = any(one.other for one in kinds)
        only_deep = bool(deep) and not any(one.plain for one in kinds)
        if bands != "auto" or (bits == "auto" and (other or only_deep)):
            headers = dict(zip(paths, threads.map(_header, paths, chunksize=256), strict=True))
            layouts = Counter(_layout(header) for header in headers.values() if header is not None)
            usual = max(layouts, key=layouts.__getitem__, default=PLAIN)
            alike = len(layouts) == 1 or other  # grey and RGB of 16 bits, mixed, are all read as RGB
            if bands != "auto" or (alike and usual not in (PLAIN, Layout(1, "8-bit"))):
                fitting = {path: one for path, one in headers.items() if one is not None and _layout(one) == usual}
                numbers = _numbers(bands, fitting, transparent)
                measured = [one.image for one in (samples if training is None else training) if one.image in fitting]
                rule = PixelRule(alpha=transparent)
                ranges, missing, empty = measure_bands(_spread(measured, RANGE_IMAGES), numbers, rule, threads)
                example = next(iter(fitting.values()))
                depth = f"{example.bits} bits ({example.kind})"
                return replace(facts, bands=ranges, layout=usual, depth=depth, without_value=missing, empty=empty)
        depth_used = _bits_of_all(threads, _spread(deep, DEEP_IMAGES)) if bits == "auto" else int(bits)
        plain = next((path for path, one in zip(paths, kinds, strict=True) if one.plain), None)
        return replace(facts, deep=deep, bits=depth_used, bits_given=bits != "auto", plain=plain)


MOST_SHOWN = 8  # bands whose ranges a message gives


def _header(path: Path) -> BandLayout | None:
    try:
        return band_layout(path)
    except DataError:
        return None


def _layout(header: BandLayout) -> Layout:
    return Layout(header.count - header.alpha, value_kind(header.kind))


def _numbers(bands: str, headers: Mapping[Path, BandLayout], transparent: bool) -> list[int]:
    """Return the numbers of the bands that networks get.

    Args:
        bands: 'auto', 'all', or numbers with commas between them.
        headers: Of the files; all have the same bands.
        transparent: Whether an alpha band is transparency.

    Raises:
        SettingsError: The files have fewer bands.
    """
    least = min((one.count for one in headers.values()), default=0)
    if bands in ("auto", "all"):
        return list(range(1, 1 + min((one.count - (one.alpha and transparent) for one in headers.values()), default=0)))
    numbers = band_numbers(bands)
    if headers and max(numbers) > least:
        name = next(path for path, one in headers.items() if one.count == least)
        raise SettingsError(
            f"--bands {bands}: there is no band {max(numbers)}, since {name} has {least} band{'s'[: least != 1]}: "
            f"choose from 1 to {least}"
        )
    return numbers


def measure_bands(
    paths: Sequence[Path], numbers: Sequence[int], rule: PixelRule, threads: ThreadPoolExecutor
) -> tuple[tuple[BandRange, ...], float, tuple[Path, ...]]:
    """Measure bands on random pixels of images; bad images are passed over.

    Returns:
        The bands, the share of their values that are missing, and the images in which all are missing.
    """
    read = zip(paths, threads.map(lambda path: _some_values(path, numbers, rule), paths), strict=True)
    found = {path: one for path, one in read if one is not None}
    empty = tuple(path for path, one in found.items() if np.isnan(one).all())
    values = np.concatenate(list(found.values())) if found else np.full((1, len(numbers)), np.nan)
    bands = []
    for number, column in zip(numbers, values.T, strict=True):
        present = column[~np.isnan(column)]
        if not len(present):
            present = np.zeros(1)
        low, high = (float(one) for one in np.percentile(present, (TAIL, 100 - TAIL)))
        if high <= low:  # one value everywhere
            high = low + 1
        scaled = ((present - low) / (high - low)).clip(-MARGIN, 1 + MARGIN)
        bands.append(
            BandRange(number=number, low=low, high=high, mean=float(scaled.mean()), std=float(scaled.std()) or 1.0)
        )
    return tuple(bands), float(np.isnan(values).mean()) if found else 0.0, empty


def _some_values(path: Path, numbers: Sequence[int], rule: PixelRule) -> NDArray[np.float64] | None:
    """Return values of random pixels, (n, bands), NaN where they are missing; None if the image cannot be read."""
    try:
        stored = read_stored(path)
    except DataError:
        return None
    height, width = stored.values.shape[:2]
    chosen: Any = slice(None)
    if height * width > RANGE_PIXELS:
        chosen = np.random.default_rng(0).integers(height * width, size=RANGE_PIXELS)
    columns = []
    for number in numbers:
        plane, missing = one_band(stored, number, rule)
        columns.append(np.where(missing, np.nan, plane.astype(np.float64)).ravel()[chosen])
    return np.stack(columns, axis=1)


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
    if rule.bands:
        return (
            f"{len(clipped)} image{'s have' if len(clipped) > 1 else ' has'} values far outside of the range of the "
            f"training images, which were clipped (in up to {max(clipped):.2%} of the pixels): results may be wrong"
        )
    return (
        f"{len(clipped)} image{'s have' if len(clipped) > 1 else ' has'} values above {(1 << rule.bits) - 1}, which "
        f"were clipped (in up to {max(clipped):.2%} of the pixels): the training images use {rule.bits} bits; to keep "
        "such values apart, train with a higher --image-bits"
    )


def describe_dark(dark: Sequence[Path | str], count: int, rule: PixelRule) -> str | None:
    """Return a warning about images that are nearly black for networks; None if most images are not.

    They probably have another scale than the training images, as 12 bits of a camera in a 16-bit file.

    Args:
        dark: The nearly black images, by file or name.
        count: Number of all images.
        rule: The rule by which they were read.
    """
    if 2 * len(dark) <= count:
        return None
    scale = (
        f"the training images have values up to {rule.bands[0].high:.6g} in band {rule.bands[0].number}"
        if rule.bands
        else f"255 is white, and {(1 << rule.bits) - 1} in 16-bit files"
    )
    return (
        f"{len(dark)} of {count} images {'are' if len(dark) > 1 else 'is'} nearly black for the network (first "
        f"{dark[0]}): {scale}; if the images have another scale, results are wrong: save them with that of the "
        "training images"
    )


def all_samples(dataset: Dataset) -> list[Sample]:
    """Return the samples of all splits and the unlabelled ones, each once."""
    return list(dataset.by_id().values())


class _Kind(NamedTuple):
    """What a file needs to be read."""

    plain: bool = False  # it is a picture of 8 bits
    deep: bool = False  # it has 16 bits, and can be scaled to 8
    other: bool = False  # it has other bands or values
    alpha: bool = False


def _kind(path: Path) -> _Kind:
    try:
        if is_array(path):
            header = band_layout(path)
            rgb = header.count in (1, 3, 4)
            return _Kind(
                plain=rgb and header.kind == "uint8",
                deep=rgb and header.kind == "uint16",
                other=not rgb or header.kind not in ("uint8", "uint16"),
            )
        with path.open("rb") as file:
            if file.read(2) == b"\xff\xd8":  # JPEG, which has neither; opening it takes much longer
                return _Kind(plain=True)
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                other = image.mode == "F" or (image.format == "TIFF" and image.mode == "I")
                # Channels that are stored as pages: as RGB, only the first would be read.
                other = other or _pages_are_channels(image, path)
                deep = has_16_bits(image) and not other
                return _Kind(plain=not deep and not other, deep=deep, other=other, alpha=has_alpha(image))
        except UnidentifiedImageError:
            header = band_layout(path)
            return _Kind(other=True, alpha=header.alpha)
    except Exception:  # Pillow's plug-ins raise almost any exception
        return _Kind()


def _pages_are_channels(image: Image.Image, path: Path) -> bool:
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.n_frames == 1:
        return False
    return band_layout(path).count > int(image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))


def _used_bits(path: Path) -> int:
    """Return how many bits the values of a 16-bit image use, one of DEPTHS, by the high byte of each."""
    try:
        if is_array(path):
            largest = int(read_stored(path).values[..., :3].max(initial=0))
            return next((bits for bits in DEPTHS if largest < 1 << bits), DEPTHS[-1])
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
