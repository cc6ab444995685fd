"""Masks of tiles, put together as one mask of the large image.

Letters: h w pixels of a tile, _h _w of some rows of the large image.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data.dataset import IGNORE_INDEX, Mask
from stages.tiling.tile_index import TilePlace

ReadMask = Callable[[TilePlace], Mask | None]  # None if there is no mask of the tile


class Strip(NamedTuple):
    """Some rows of the large image's mask, as wide as the image."""

    top: int
    mask: UInt8[np.ndarray, "_h _w"]


def mosaic(rows: list[list[TilePlace]], width: int, read: ReadMask, without_data: Collection[str]) -> Iterator[Strip]:
    """Yield the mask of a large image strip by strip, from top to bottom.

    Each pixel is that of the tile in which it is farthest from the border. Where this tile has no mask, a neighbour
    that overlaps it gives the pixel. Pixels without any mask, or of tiles without data, are 255.

    Args:
        rows: The tiles, row by row.
        width: Of the large image.
        read: Reads the mask of a tile.
        without_data: Ids of the tiles without data.
    """
    for number, row in enumerate(rows):
        kept = row[0].rows.kept
        strip = np.full((kept.stop - kept.start, width), IGNORE_INDEX, dtype=np.uint8)
        masks = {tile.id: read(tile) for tile in row}
        lacking = {id for id, mask in masks.items() if mask is None} - set(without_data)
        if lacking:
            for tile in (*rows[max(0, number - 1)], *(rows[number + 1] if number + 1 < len(rows) else ()), *row):
                mask = masks[tile.id] if tile.id in masks else read(tile)
                if mask is not None:
                    _paste(strip, kept, tile, mask)
        for tile in row:
            if (mask := masks[tile.id]) is not None:
                strip[:, tile.columns.kept] = mask[tile.rows.kept_of_seen, tile.columns.kept_of_seen]
            elif tile.id in without_data:
                strip[:, tile.columns.kept] = IGNORE_INDEX
        yield Strip(kept.start, strip)


def _paste(strip: Mask, kept: slice, tile: TilePlace, mask: Mask) -> None:
    """Copy all of a tile that lies in a strip."""
    seen = tile.rows.seen
    first, last = max(kept.start, seen.start), min(kept.stop, seen.stop)
    if first < last:
        strip[first - kept.start : last - kept.start, tile.columns.seen] = mask[first - seen.start : last - seen.start]
