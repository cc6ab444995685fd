"""Labels of large images and of their parts, from a table or from polygons of a GeoJSON, in pixels of the images."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.class_list import refuse_doubtful_names
from data.class_names import canonical_name
from data.custom_reader import SEPARATE, Mistakes, find_columns, read_row, table_lines
from data.dataset import list_names
from data.errors import DataError, reason
from data.file_names import FileNames
from data.text_files import read_text
from stages.tiling.rasters import rasterio_errors
from stages.tiling.shapes import Box, Ring, Shape
from stages.tiling.tile_index import LargeImage, TileIndex

BOX_COLUMNS = ("x", "y", "width", "height")
LON_LAT = "OGC:CRS84"  # coordinates of a GeoJSON that names no others (RFC 7946)
GEOJSON_SUFFIXES = (".geojson", ".json")


class LabelledPart(NamedTuple):
    """A part of a large image, in its pixels, and the classes that the part shows."""

    number: int  # of the feature or row
    classes: frozenset[str]
    shape: Shape


@dataclass
class RegionLabels:
    """What the labels say of one large image."""

    whole: frozenset[str] | None = None  # classes of all its tiles
    regions: list[LabelledPart] = field(default_factory=list)
    tiles: dict[str, tuple[frozenset[str], str | None]] = field(default_factory=dict)  # tile id -> classes, split
    split: str | None = None  # of all other tiles


def read_label_table(path: Path, index: TileIndex) -> dict[str, RegionLabels]:
    """Read a table of labels: a row for an image, for a tile, or with columns x, y, width, height for a part.

    The other columns are those of labels.csv in a custom folder.

    Returns:
        {id of the large image: its labels}, for the images that the table names.

    Raises:
        DataError: The table has mistakes; a part that lies outside of its image is one.
    """
    lines = table_lines(path)
    header_line, header = next(lines)
    lowered = [name.strip().lower() for name in header]
    places = [lowered.index(name) for name in BOX_COLUMNS if name in lowered]
    if len(places) not in (0, len(BOX_COLUMNS)):
        raise DataError(
            f"{path} line {header_line}: a part of an image needs the columns {', '.join(BOX_COLUMNS)}: there are only "
            f"{list_names([header[place] for place in places])}"
        )

    def others(cells: list[str]) -> list[str]:
        return [cell for place, cell in enumerate(cells) if place not in places]

    columns = find_columns(others(header), (), f"{path} line {header_line}")
    mistakes = Mistakes(path)
    images = {image.id + Path(image.file).suffix: image.id for image in index.images}
    frames = {image.id: Box(0, 0, image.width, image.height) for image in index.images}
    tiles = {tile.id + image.suffix: (image.id, tile.id) for image in index.images for tile in index.tiles(image)}
    names = FileNames(Path("images"), [*images, *tiles])
    found: dict[str, RegionLabels] = defaultdict(RegionLabels)
    counts: Counter[str] = Counter()
    for line, cells in lines:
        if (row := read_row(others(cells), columns, len(header) - len(places), line, mistakes)) is None:
            continue
        counts.update(row.labels)
        try:
            name = names.find(row.image)
        except DataError as error:
            mistakes.add(str(error), line)
            continue
        if name is None:
            mistakes.add(f"'{row.image}' is neither an image ({list_names(list(images))}) nor one of its tiles", line)
            continue
        image, tile = tiles.get(name) or (images[name], None)
        labels = found[image]
        split = row.split if columns.split is not None else None
        if tile is not None:
            if places:
                mistakes.add(f"'{row.image}' is a tile: {', '.join(BOX_COLUMNS)} are pixels of the large image", line)
            labels.tiles[tile] = (row.labels, split)
            continue
        if labels.split not in (None, split):
            mistakes.add(f"the rows of '{image}' are in the splits '{labels.split}' and '{split}': use one", line)
        labels.split = split
        if not places:
            if labels.whole is not None:
                mistakes.add(f"'{row.image}' has a row already: keep one", line)
            labels.whole = row.labels
        elif (box := _box([cells[place] for place in places])) is None:
            mistakes.add(
                f"{', '.join(BOX_COLUMNS)} must be numbers of pixels, width and height positive: "
                f"{', '.join(cells[place] for place in places)}",
                line,
            )
        elif not box.touches(frames[image]):
            mistakes.add(f"the part lies outside of '{image}', which has {frames[image].size} pixels", line)
        else:
            labels.regions.append(LabelledPart(line, row.labels, Shape(((box.ring(),),))))
    mistakes.report()
    refuse_doubtful_names(counts, path, "label", SEPARATE)
    return dict(found)


def _box(cells: Sequence[str]) -> Box | None:
    try:
        left, top, width, height = map(float, cells)
    except ValueError:
        return None
    box = Box(left, top, left + width, top + height)
    return box if np.isfinite(box).all() and width > 0 and height > 0 else None


class Feature(NamedTuple):
    """An object of a GeoJSON."""

    number: int  # from 1
    classes: frozenset[str]
    polygons: tuple[tuple[Ring, ...], ...]  # in its coordinates; see `Shape`


class Features(NamedTuple):
    """The objects of a GeoJSON, and the name of their coordinate system."""

    crs: str
    features: tuple[Feature, ...]


def read_features(path: Path, class_property: str) -> Features:
    """Read the polygons and points of a GeoJSON.

    Args:
        path: The file.
        class_property: The property with the class, with several classes separated by ';', or with a list of classes.

    Raises:
        DataError: It is not a GeoJSON, has no features, or one of them has no class or another geometry.
    """
    try:
        found = json.loads(read_text(path))
        written = found["features"] if found["type"] == "FeatureCollection" else [found]
        crs = (found.get("crs") or {}).get("properties", {}).get("name", LON_LAT)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a GeoJSON with features ({reason(error)})") from error
    if not written:
        raise DataError(f"{path} has no features")
    features, without = [], []
    properties: Counter[str] = Counter()
    for number, one in enumerate(written, start=1):
        try:
            of_feature, geometry = one.get("properties") or {}, one["geometry"]
            properties.update(of_feature.keys())
            classes = _classes(of_feature.get(class_property))
            polygons = _polygons(geometry)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            problem = str(error) if isinstance(error, DataError) else "is not a valid feature"
            raise DataError(f"{path} feature {number} {problem}: give polygons or points") from error
        if classes:
            features.append(Feature(number, classes, polygons))
        else:
            without.append(number)
    if without:
        raise DataError(
            f"{path} has {len(without)} of {len(written)} features without a class in the property "
            f"'{class_property}', first feature {without[0]}: name the property with --class-property (the features "
            f"have {list_names(list(properties)) or 'none'}), or remove them"
        )
    refuse_doubtful_names(Counter(name for one in features for name in one.classes), path, "class", SEPARATE)
    return Features(str(crs), tuple(features))


def _classes(value: object) -> frozenset[str]:
    values = value if isinstance(value, list) else [] if value is None else str(value).split(";")
    return frozenset(name for one in values if (name := canonical_name(str(one))))


def _polygons(geometry: Mapping[str, Any]) -> tuple[tuple[Ring, ...], ...]:
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        return tuple(polygon for part in geometry["geometries"] for polygon in _polygons(part))
    if kind not in ("Polygon", "MultiPolygon", "Point", "MultiPoint"):
        raise DataError(f"has the geometry '{kind}'")
    assert coordinates is not None
    if kind in ("Polygon", "Point"):
        coordinates = [coordinates]
    nested = [[[point]] for point in coordinates] if "Point" in kind else coordinates
    polygons = tuple(
        tuple(np.array([point[:2] for point in ring], dtype=np.float64).reshape(-1, 2) for ring in polygon)
        for polygon in nested
    )
    if not polygons or not all(polygon and len(polygon[0]) for polygon in polygons):
        raise DataError("has no coordinates")
    return polygons


def place_features(features: Features, image: LargeImage, path: Path) -> list[LabelledPart]:
    """Return the objects of a GeoJSON that touch an image, in its pixels.

    Args:
        features: The objects.
        image: The large image.
        path: The GeoJSON, for messages.

    Raises:
        DataError: The image has no coordinate system, or that of the GeoJSON is not known.
    """
    if image.transform is None or image.crs is None:
        raise DataError(
            f"{image.file} has no coordinate system (CRS), so that the polygons of {path} have no place in it: set it "
            "(gdal_edit.py -a_srs EPSG:... FILE), or give a table with x, y, width, height in pixels"
        )
    with rasterio_errors(path):
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
        from rasterio.warp import transform

        try:
            own = CRS.from_user_input(features.crs)
        except CRSError as error:
            raise DataError(f"{path} has the coordinate system '{features.crs}', which is not known") from error
        points = np.concatenate([ring for one in features.features for polygon in one.polygons for ring in polygon])
        x, y = transform(own, CRS.from_wkt(image.crs), points[:, 0], points[:, 1])
    a, b, c, d, e, f = image.transform
    with np.errstate(invalid="ignore"):
        pixels = np.linalg.solve(np.array([[a, b], [d, e]]), np.array([x, y]) - np.array([[c], [f]])).T
    frame = Box(0, 0, image.width, image.height)
    regions, first = [], 0
    for one in features.features:
        polygons = []
        for polygon in one.polygons:
            rings = []
            for ring in polygon:
                rings.append(pixels[first : first + len(ring)])
                first += len(ring)
            polygons.append(tuple(rings))
        shape = Shape(tuple(polygons))
        # Points far away may have no place in the image's coordinates.
        if all(np.isfinite(polygon[0]).all() for polygon in polygons) and shape.share_in(frame) > 0:
            regions.append(LabelledPart(one.number, one.classes, shape))
    return regions


def classes_of_tile(
    regions: Sequence[LabelledPart], box: Box, *, min_object_share: float, min_tile_share: float
) -> frozenset[str]:
    """Return the classes that a tile gets from regions.

    It has a class if the tile contains a large part of one of its regions, or if its regions cover a large part of the
    tile. Touching a region with a few pixels is not enough.

    Args:
        regions: Those of the large image.
        box: The tile.
        min_object_share: Share of a region that is a large part of it, 0..1.
        min_tile_share: Share of the tile that is a large part of it, 0..1.
    """
    classes: set[str] = set()
    covered: dict[str, float] = defaultdict(float)
    for region in regions:
        if region.classes <= classes:
            continue
        if region.shape.share_in(box) >= min_object_share:
            classes |= region.classes
        else:
            area = region.shape.area(box)
            for name in region.classes:
                covered[name] += area
    return frozenset(classes | {name for name, area in covered.items() if area >= min_tile_share * box.area})
