"""`toco join`: put masks of tiles together, one mask for each large image.

In: a folder of `toco tile`; masks of its tiles. Out: a GeoTIFF for each image with coordinates, with its size, place
and coordinate system; a palette PNG for other images. Values: 0 background, 1..C classes, 255 not known.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.atomic_write import atomic_write
from data.class_list import CLASSES_FILE, read_class_list
from data.dataset import IGNORE_INDEX, Mask, list_names
from data.errors import DataError, SettingsError
from data.image_files import image_id
from data.images import MaskFile
from data.output_place import check_file_names, check_output_place
from data.palette import palette_image
from data.written_folders import mark_as_written
from stages.labels.store import LabelFile
from stages.prediction.output_folder import read_record
from stages.run_folder.artifacts import open_stage
from stages.run_folder.lock import output_lock
from stages.runtime.monitor import Monitor
from stages.tiling.mosaic import mosaic
from stages.tiling.rasters import check_rasterio, new_mask_raster, valid_pixels
from stages.tiling.tile_index import LargeImage, TileIndex, TilePlace, read_tile_index


class TileMasks(NamedTuple):
    """The masks of tiles in a folder."""

    ids: frozenset[str]
    read: Callable[[str], Mask]
    class_names: tuple[str, ...]  # of the network that made them; empty if they are not known


def join(tiles: Path, masks: Path, out: Path, monitor: Monitor, *, overwrite: bool = False) -> list[Path]:
    """Write one mask for each large image of which there are masks of tiles.

    Args:
        tiles: The folder that `toco tile` wrote.
        masks: The folder of `toco predict --out`, of `toco export --format png --out`, or a run folder, whose pseudo
            masks are taken.
        out: Folder for the results.
        monitor: Receives progress and warnings.
        overwrite: Replace results that exist.

    Returns:
        The files.

    Raises:
        DataError: There are no masks of the tiles, or one has another size than its tile or an unknown class.
        SettingsError: rasterio is missing, a result exists, or `out` is among the files of the data set.
        ArtifactError: The index of the tiles or the run is damaged.
    """
    check_rasterio()
    index = read_tile_index(tiles)
    check_output_place(out, datasets=[tiles])
    found = _masks_in(masks)
    ids = found.ids
    prefix = _prefix(index, ids, masks)
    chosen = {
        image.id: [tile for tile in index.tiles(image) if prefix + tile.id in ids and tile.id not in image.left_out]
        for image in index.images
    }
    files = {
        image.id: out / f"{image.id}{'.png' if image.transform is None else '.tif'}"
        for image in index.images
        if chosen[image.id]
    }
    check_file_names(files.values())
    if not overwrite and (there := [file for file in files.values() if file.exists()]):
        raise SettingsError(f"{there[0]} exists already: use --overwrite to replace it, or another folder")
    names = found.class_names or read_class_list(tiles / CLASSES_FILE)
    with output_lock(out, monitor):
        mark_as_written(out)
        monitor.start("joining masks", sum(map(len, chosen.values())))
        for image in index.images:
            if image.id in files:
                known = {tile.id for tile in chosen[image.id]}
                reader = _TileReader(tiles, image, known, lambda one: found.read(prefix + one), names, monitor)
                _write(files[image.id], index, image, reader, names)
                lacking = sum(1 for _ in index.tiles(image)) - len(known) - len(image.left_out)
                if lacking:
                    monitor.warn(
                        f"{masks} lacks the masks of {lacking} of {lacking + len(known)} tiles of {image.id}: pixels "
                        "that lie in no other tile are 255"
                    )
            else:
                monitor.warn(f"{masks} has no masks of {image.id}: it is left out")
        monitor.finish()
    return list(files.values())


def _masks_in(folder: Path) -> TileMasks:
    if (folder / "cam" / "config.json").is_file():  # a run
        labels = LabelFile(open_stage(folder, "labels").path / "labels.h5", "masks")
        return TileMasks(frozenset(labels.ids), labels.read, labels.class_names)
    root = folder / "masks" if (folder / "masks").is_dir() else folder
    if not root.is_dir():
        raise DataError(
            f"there is no folder {folder}: give that of 'toco predict' or of 'toco export', or a run folder"
        )
    files = {image_id(file.relative_to(root).as_posix()): MaskFile(file) for file in sorted(root.rglob("*.png"))}
    names = (read_record(folder) or {}).get("class_names", ())
    return TileMasks(frozenset(files), lambda one: files[one].read(), tuple(names))


def _prefix(index: TileIndex, ids: Collection[str], masks: Path) -> str:
    """Return what precedes the ids of the tiles in the names of the masks: nothing, or the folder of the images."""
    first = ""
    for image in index.images:
        for tile in index.tiles(image):
            first = first or tile.id
            for prefix in ("", "images/"):
                if prefix + tile.id in ids:
                    return prefix
    raise DataError(
        f"{masks} holds no mask of a tile (for example '{first}.png'; it has {len(ids)} masks): give the results of "
        "'toco predict RUN TILES', or those of a run on these tiles"
    )


@dataclass
class _TileReader:
    """Reads the masks of the tiles of one image; pixels without data become 255."""

    tiles: Path
    image: LargeImage
    known: set[str]
    read: Callable[[str], Mask]
    class_names: tuple[str, ...]
    monitor: Monitor
    counted: set[str] = field(default_factory=set)

    def __call__(self, tile: TilePlace) -> Mask | None:
        if tile.id not in self.known:
            return None
        mask = self.read(tile.id)
        size = (tile.rows.seen.stop - tile.rows.seen.start, tile.columns.seen.stop - tile.columns.seen.start)
        if mask.shape != size:
            raise DataError(
                f"the mask of tile '{tile.id}' is {mask.shape[1]} x {mask.shape[0]} pixels, the tile {size[1]} x "
                f"{size[0]}: it was made from other tiles; predict again"
            )
        largest = int(mask[mask != IGNORE_INDEX].max(initial=0))
        if self.class_names and largest > len(self.class_names):
            raise DataError(
                f"the mask of tile '{tile.id}' has the value {largest}, but there are only {len(self.class_names)} "
                f"classes ({list_names(self.class_names)}): it was made with other classes; give masks of a run on "
                "these tiles"
            )
        file = self.tiles / "images" / (tile.id + self.image.suffix)
        if self.image.nodata and file.is_file():
            mask = np.where(valid_pixels(file), mask, np.uint8(IGNORE_INDEX))
        if tile.id not in self.counted:
            self.counted.add(tile.id)
            self.monitor.advance()
        return mask


def _write(file: Path, index: TileIndex, image: LargeImage, read: _TileReader, names: tuple[str, ...]) -> None:
    strips = mosaic(image.rows_of_tiles(index.size, index.overlap), image.width, read, image.left_out)
    with atomic_write(file) as temporary:
        if image.transform is None:
            mask = np.concatenate([strip.mask for strip in strips])
            palette_image(mask).save(temporary, format="PNG")
            return
        with new_mask_raster(temporary, (image.height, image.width), image.transform, image.crs, names) as written:
            for strip in strips:
                written.write(strip.mask, 1, window=((strip.top, strip.top + len(strip.mask)), (0, image.width)))
