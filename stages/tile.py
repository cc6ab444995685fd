"""`toco tile`: cut large images into a data set of tiles with labels.

In: large images; labels in a table or a GeoJSON. Out: a custom folder with images/, classes.txt, labels.csv, and
tiles.json, with which `toco join` puts masks of the tiles together.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.class_list import CLASSES_FILE
from data.class_names import in_order
from data.custom_writer import begin_custom, check_class_names, write_tables
from data.dataset import TRAIN_NAMES, VAL_NAMES, list_names
from data.errors import DataError, SettingsError
from data.file_kinds import suffix_of
from data.file_names import FileNames
from data.images import is_rotated
from data.label_table import LABELS_FILE
from data.output_place import check_file_names, check_folder, check_output_place
from stages.config import Tile
from stages.prediction.inputs import find_inputs
from stages.runtime.monitor import Monitor
from stages.tiling.label_regions import (
    GEOJSON_SUFFIXES,
    RegionLabels,
    classes_of_tile,
    place_features,
    read_features,
    read_label_table,
)
from stages.tiling.rasters import (
    TIFF_SUFFIXES,
    check_rasterio,
    cut_window,
    has_nodata,
    is_placed,
    open_raster,
    tile_suffix,
)
from stages.tiling.tile_index import INDEX_FILE, LargeImage, TileIndex, write_tile_index


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """What `toco tile` wrote.

    Attributes:
        folder: The data set.
        images: Number of large images.
        tiles: Number of tiles.
        left_out: Number of tiles without data, which were not written.
        unlabelled: Number of written tiles without labels.
        classes: Number of tiles of each class, in the order of the class numbers.
    """

    folder: Path
    images: int
    tiles: int
    left_out: int
    unlabelled: int
    classes: Mapping[str, int]


TileLabels = Mapping[str, tuple[frozenset[str], str]]  # tile id -> classes, split; without the unlabelled tiles


def tile(paths: Sequence[Path], out: Path, config: Tile, monitor: Monitor, *, labels: Path | None = None) -> Tiles:
    """Cut large images into overlapping tiles, and give the tiles labels.

    Args:
        paths: Files; folders, with all their subfolders; and patterns.
        out: Folder of the data set; it must not have images or tables yet.
        config: Settings.
        monitor: Receives progress and warnings.
        labels: A table (.csv) or a GeoJSON. Without it, labels.csv gets a row for each tile, to be filled in.

    Raises:
        DataError: An image or the labels cannot be used.
        SettingsError: rasterio is missing, or `out` cannot be written.
    """
    check_rasterio()
    check_folder(out)
    files = find_inputs(paths, monitor)
    check_output_place(out, folders=("images",), inputs=[one.image for one in files])
    for name in ("images", LABELS_FILE, CLASSES_FILE, INDEX_FILE):
        if os.path.lexists(out / name):
            raise SettingsError(f"{out / name} exists already, and nothing was written: give another folder")
    paged: list[Path] = []
    index = TileIndex(
        size=config.size,
        overlap=config.overlap,
        images=tuple(_open_header(one.id, one.image, config.size, paged) for one in files),
    )
    if paged:
        monitor.warn(
            f"images of several pages: {len(paged)} (first {paged[0]}); only the first page is cut into tiles: to use "
            "the others, save each as a separate image"
        )
    validation = _validation_images(index, config)
    check_file_names(out / "images" / (one.id + image.suffix) for image in index.images for one in index.tiles(image))
    known = _labels_of_tiles(index, labels, validation, config, monitor) if labels else {}
    names = in_order(set().union(*(classes for classes, _ in known.values())))
    if labels and not names:
        raise DataError(
            f"{labels} gives none of the {sum(1 for image in index.images for _ in index.tiles(image))} tiles a class: "
            "check that the labels are of these images (a GeoJSON has longitude before latitude), and see "
            "--min-object-share and --min-tile-share"
        )
    check_class_names(names)
    written, images = _cut(index, out, monitor)
    write_tile_index(out, replace(index, images=images))
    if labels:
        rows = [(file, sorted(known[one][0], key=names.index), known[one][1]) for one, file in written if one in known]
        write_tables(out, names, rows)
    else:
        begin_custom(out)
    counts = Counter(name for one, _ in written if one in known for name in known[one][0])
    return Tiles(
        folder=out,
        images=len(images),
        tiles=len(written),
        left_out=sum(len(image.left_out) for image in images),
        unlabelled=sum(one not in known for one, _ in written),
        classes={name: counts[name] for name in names},
    )


def _open_header(name: str, path: Path, size: int, paged: list[Path]) -> LargeImage:
    """Read the header of an image, and add the image to `paged` if it has several pages."""
    with open_raster(path) as raster:
        if suffix_of(path.name) in TIFF_SUFFIXES and is_rotated(path):  # GDAL reads, and would write, the stored pixels
            raise DataError(f"{path} is stored rotated (TIFF orientation): save it upright")
        if min(raster.height, raster.width) < size:
            raise DataError(
                f"{path} has {raster.width} x {raster.height} pixels, less than a tile of --size {size}: use a smaller "
                "size, or leave the image out"
            )
        if len(set(raster.dtypes)) > 1:
            raise DataError(f"{path} has bands of different types ({list_names(raster.dtypes)}): save it with one type")
        if len(raster.subdatasets) > 1:
            paged.append(path)
        return LargeImage(
            id=name,
            file=str(path.resolve()),
            height=raster.height,
            width=raster.width,
            transform=tuple(raster.transform)[:6] if is_placed(raster) else None,
            crs=raster.crs.to_wkt() if raster.crs else None,
            nodata=has_nodata(raster),
            suffix=tile_suffix(raster, path),
        )


def _validation_images(index: TileIndex, config: Tile) -> set[str]:
    """Return the ids of the images that --val names."""
    ids = {image.id + Path(image.file).suffix: image.id for image in index.images}
    names = FileNames(Path("images"), ids)
    found = [names.find(name) for name in config.val]
    for name, one in zip(config.val, found, strict=True):
        if one is None:
            raise SettingsError(f"--val {name} is not one of the images: use one of {list_names(list(ids))}")
    chosen = {ids[one] for one in found if one is not None}
    if chosen and len(chosen) == len(index.images):
        raise SettingsError("--val names all images: no tile would be left for training")
    return chosen


def _labels_of_tiles(index: TileIndex, path: Path, validation: set[str], config: Tile, monitor: Monitor) -> TileLabels:
    """Return the classes and the split of each tile, and warn about labels that no tile got."""
    if suffix_of(path.name) in GEOJSON_SUFFIXES:
        features = read_features(path, config.class_property)
        found = {image.id: RegionLabels(regions=place_features(features, image, path)) for image in index.images}
        inside = {region.number for labels in found.values() for region in labels.regions}
        if outside := [one.number for one in features.features if one.number not in inside]:
            monitor.warn(
                f"{len(outside)} of {len(features.features)} features of {path} lie in none of the images (first: "
                f"{outside[0]}): they are not used"
            )
    else:
        found = read_label_table(path, index)
    known: dict[str, tuple[frozenset[str], str]] = {}
    for image in index.images:
        if (labels := found.get(image.id)) is None:
            monitor.warn(f"{path} has no row of {image.file}: its tiles have no labels")
            continue
        validates = image.id in validation
        default = VAL_NAMES[0] if validates else labels.split or TRAIN_NAMES[0]
        used: set[int] = set()
        bounds = np.array([region.shape.bounds() for region in labels.regions]).reshape(-1, 4)
        for one in index.tiles(image):
            if one.id in labels.tiles:
                classes, split = labels.tiles[one.id]
                known[one.id] = classes, default if validates or not split else split
            elif labels.whole is not None:
                known[one.id] = labels.whole, default
            elif labels.regions or not labels.tiles:
                near = (bounds[:, :2] <= one.box[2:]).all(axis=1) & (bounds[:, 2:] >= one.box[:2]).all(axis=1)
                touching = [labels.regions[number] for number in np.flatnonzero(near)]
                made = classes_of_tile(
                    touching,
                    one.box,
                    min_object_share=config.min_object_share,
                    min_tile_share=config.min_tile_share,
                )
                used |= {region.number for region in touching if region.classes <= made}
                # Parts without classes say that nothing is there.
                seen = sum(region.shape.area(one.box) for region in touching if not region.classes)
                if config.outside == "none" or made or seen >= one.box.area / 2:
                    known[one.id] = made, default
        _warn_of_labels(image, labels, used, path, config, monitor)
    return known


def _warn_of_labels(
    image: LargeImage, labels: RegionLabels, used: set[int], path: Path, config: Tile, monitor: Monitor
) -> None:
    """Warn if tiles get doubtful labels, or a region gives its class to no tile."""
    if labels.whole:
        monitor.warn(
            f"all tiles of {image.file} get the classes of the whole image, also those that do not show them: better "
            "label tiles, parts of the image (columns x, y, width, height) or polygons"
        )
    elif labels.whole is None and not labels.regions and not labels.tiles and config.outside == "none":
        monitor.warn(f"no polygon of {path} lies in {image.file}: its tiles show none of the classes")
    numbers = dict.fromkeys(region.number for region in labels.regions)
    if lost := [number for number in numbers if number not in used]:
        monitor.warn(
            f"{len(lost)} of the {len(numbers)} labelled parts of {image.file} give no tile their class (first: "
            f"{lost[0]} in {path}): too little of them lies in any tile (--min-object-share, --min-tile-share)"
        )


def _cut(index: TileIndex, out: Path, monitor: Monitor) -> tuple[list[tuple[str, str]], tuple[LargeImage, ...]]:
    """Write the tiles; return their ids and files below images/, and the images with the tiles that were left out."""
    written, images = [], []
    monitor.start("cutting tiles", sum(1 for image in index.images for _ in index.tiles(image)))
    for image in index.images:
        left_out = []
        with open_raster(Path(image.file)) as raster:
            for one in index.tiles(image):
                file = one.id + image.suffix
                if cut_window(raster, one.rows.seen, one.columns.seen, out / "images" / file):
                    written.append((one.id, file))
                else:
                    left_out.append(one.id)
                monitor.advance()
        images.append(replace(image, left_out=tuple(left_out)))
    monitor.finish()
    if not written:
        raise DataError(f"{index.images[0].file} has no data: all its pixels have the value that stands for no data")
    return written, tuple(images)
