"""PixelRule: how values in image files become what networks get; `pixel_facts` finds that of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class BandRange:
    """A band that networks get, and the values that it has in the training images.

    Attributes:
        number: Its number in the file, from 1.
        low: Value that becomes 0: 0.1 % of the values are below it.
        high: Value that becomes 255: 0.1 % of the values are above it.
        mean: Mean of the scaled values, in units of 255.
        std: Standard deviation of the scaled values, in units of 255; above 0.
    """

    number: int
    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelRule:
    """How networks get the values in files: one rule for all images of a data set, so that they stay comparable.

    Without `bands`, all images become 8-bit RGB, as an image viewer shows them.

    Attributes:
        bits: Number of bits that values in 16-bit files use, 8 to 16; 2 ** bits - 1 becomes 255.
        alpha: Whether a band that a file marks as alpha is transparency. It is not if it holds, for example, infrared.
        clip: Whether values of more bits become 255, as in images outside the data set; otherwise they are an error.
        bands: The bands that networks get, in this order and at full depth; empty for 8-bit RGB.
        count: With bands, the number of bands in a file; one that is marked as alpha may come on top.
        kinds: With bands, the kinds of values that files may have, see `value_kind`.
    """

    bits: int = 16
    alpha: bool = True
    clip: bool = False
    bands: tuple[BandRange, ...] = ()
    count: int = 0
    kinds: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels that networks get."""
        return len(self.bands) or 3

    @property
    def fill(self) -> tuple[float, ...]:
        """What stands for missing values: the mean of each band, in 0..255."""
        return tuple(255 * band.mean for band in self.bands)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        plain: dict[str, Any] = {"bits": self.bits, "alpha": self.alpha, "clip": self.clip}
        if self.bands:
            plain |= {"bands": [asdict(band) for band in self.bands], "count": self.count, "kinds": list(self.kinds)}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> PixelRule:
        """Return the rule of plain values; what is missing gets its default.

        Raises:
            TypeError: They are not those of a rule.
        """
        values = dict(plain)
        bands = tuple(BandRange(**band) for band in values.pop("bands", ()))
        rule = cls(**{**values, "bands": bands, "kinds": tuple(values.get("kinds", ()))})
        numbers = [number for band in bands for number in (band.low, band.high, band.mean, band.std)]
        if (
            rule.bits not in range(8, 17)
            or not isinstance(rule.alpha, bool)
            or not isinstance(rule.clip, bool)
            or not all(isinstance(number, int | float) for number in numbers)
            or any(band.number < 1 or band.high <= band.low or band.std <= 0 for band in bands)
        ):
            raise TypeError(f"{rule!r} is not a rule for pixels")
        return rule


AS_STORED = PixelRule()


def value_kind(kind: np.dtype[Any] | str) -> str:
    """Return the kind of values of a type: '8-bit', 'integer' (of more bits) or 'floating-point'."""
    kind = np.dtype(kind)
    if kind.kind == "f":
        return "floating-point"
    return "8-bit" if kind.itemsize == 1 else "integer"
