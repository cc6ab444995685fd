"""tiles.json beside the tiles of a data set: the large images, and where each tile lies in them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from data.errors import ArtifactError, DataError, reason
from data.spans import Span, spans
from stages.run_folder.saving import write_json
from stages.tiling.shapes import Box

INDEX_FILE = "tiles.json"


class TilePlace(NamedTuple):
    """A tile of a large image, which may be left out of the data set."""

    id: str  # its path below images/, without extension
    rows: Span
    columns: Span

    @property
    def box(self) -> Box:
        """Its place in the large image, in pixels."""
        rows, columns = self.rows.seen, self.columns.seen
        return Box(columns.start, rows.start, columns.stop, rows.stop)


@dataclass(frozen=True, kw_only=True)
class LargeImage:
    """An image that was cut into tiles.

    Attributes:
        id: Its name, which is also the folder of its tiles.
        file: Its file when it was cut.
        height: Pixels.
        width: Pixels.
        transform: From pixels (x, y) to coordinates (a, b, c, d, e, f): a x + b y + c, d x + e y + f; None if it has no
            coordinates.
        crs: The coordinate system as WKT; None if it is not known.
        nodata: Whether pixels may have no data.
        suffix: Extension of its tiles: '.tif' or '.png'.
        left_out: Ids of the tiles without data, which have no file.
    """

    id: str
    file: str
    height: int
    width: int
    transform: tuple[float, float, float, float, float, float] | None
    crs: str | None
    nodata: bool
    suffix: str
    left_out: tuple[str, ...] = ()

    def rows_of_tiles(self, size: int, overlap: int) -> list[list[TilePlace]]:
        """Return its tiles, row by row."""
        rows, columns = spans(self.height, size, overlap), spans(self.width, size, overlap)
        digits = len(str(max(len(rows), len(columns)) - 1))
        made = [
            TilePlace(f"{self.id}/r{row:0{digits}d}-c{column:0{digits}d}", rows[row], columns[column])
            for row, column in product(range(len(rows)), range(len(columns)))
        ]
        return [made[first : first + len(columns)] for first in range(0, len(made), len(columns))]


@dataclass(frozen=True, kw_only=True)
class TileIndex:
    """The large images of a data set of tiles, and how they were cut."""

    size: int
    overlap: int
    images: tuple[LargeImage, ...]

    def tiles(self, image: LargeImage) -> Iterator[TilePlace]:
        """Yield the tiles of an image, row by row, also those without data."""
        for row in image.rows_of_tiles(self.size, self.overlap):
            yield from row


def write_tile_index(root: Path, index: TileIndex) -> None:
    """Write tiles.json."""
    write_json(root / INDEX_FILE, asdict(index))


def read_tile_index(root: Path) -> TileIndex:
    """Read tiles.json of a folder that `toco tile` wrote.

    Raises:
        DataError: The folder has no such file.
        ArtifactError: It is damaged.
    """
    path = root / INDEX_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        images = [
            LargeImage(
                **{
                    **image,
                    "transform": None if image["transform"] is None else tuple(image["transform"]),
                    "left_out": tuple(image["left_out"]),
                }
            )
            for image in found["images"]
        ]
        return TileIndex(size=int(found["size"]), overlap=int(found["overlap"]), images=tuple(images))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{root} has no {INDEX_FILE}: give the folder that 'toco tile --out' wrote") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({reason(error)}): cut the images again with 'toco tile'") from error
