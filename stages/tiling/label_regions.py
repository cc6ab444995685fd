"""Labels of large images and of their parts, from a table or from polygons of a GeoJSON, in pixels of the images."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.class_list import refuse_doubtful_names
from data.class_names import canonical_name
from data.dataset import list_names
from data.errors import DataError, reason
from data.file_names import FileNames
from data.label_table import SEPARATE, Mistakes, find_columns, read_row, table_lines
from data.text_files import read_text
from stages.tiling.rasters import rasterio_errors
from stages.tiling.shapes import Box, Shape
from stages.tiling.tile_index import LargeImage, TileIndex

if TYPE_CHECKING:
    from rasterio.crs import CRS

BOX_COLUMNS = ("x", "y", "width", "height")
TOUCHING = 1e-6  # square pixels; less is a rounding error of shapes that only touch
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
            labels.regions.append(LabelledPart(line, row.labels, Shape((box.ring(),))))
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
    """A feature of a GeoJSON: one or several objects."""

    number: int  # from 1
    classes: frozenset[str]
    shapes: tuple[Shape, ...]  # in its coordinates


class Features(NamedTuple):
    """The features of a GeoJSON, and the name of their coordinate system."""

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
            shapes = _shapes(geometry)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            problem = str(error) if isinstance(error, DataError) else "is not a valid feature"
            raise DataError(f"{path} feature {number} {problem}: give polygons or points") from error
        if classes:
            features.append(Feature(number, classes, shapes))
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


def _shapes(geometry: Mapping[str, Any]) -> tuple[Shape, ...]:
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        return tuple(shape for part in geometry["geometries"] for shape in _shapes(part))
    if kind not in ("Polygon", "MultiPolygon", "Point", "MultiPoint"):
        raise DataError(f"has the geometry '{kind}'")
    assert coordinates is not None
    if kind in ("Polygon", "Point"):
        coordinates = [coordinates]
    polygons = [[[point]] for point in coordinates] if "Point" in kind else coordinates
    shapes = tuple(
        Shape(tuple(np.array([point[:2] for point in ring], dtype=np.float64).reshape(-1, 2) for ring in polygon))
        for polygon in polygons
    )
    if not shapes or not all(shape.rings and len(shape.rings[0]) for shape in shapes):
        raise DataError("has no coordinates")
    return shapes


def place_features(features: Features, image: LargeImage, path: Path) -> list[LabelledPart]:
    """Return the objects of a GeoJSON that touch an image, in its pixels: each polygon and point is one.

    Args:
        features: The features.
        image: The large image.
        path: The GeoJSON, for messages.

    Raises:
        DataError: The image has no coordinate system, that of the GeoJSON is not known, or its coordinates are no
            longitudes and latitudes, though they should be.
    """
    if image.transform is None or image.crs is None:
        raise DataError(
            f"{image.file} has no coordinate system (CRS), so that the polygons of {path} have no place in it: set it "
            "(gdal_edit.py -a_srs EPSG:... FILE), or give a table with x, y, width, height in pixels"
        )
    with rasterio_errors(path):
        from rasterio.crs import CRS
        from rasterio.errors import CRSError

        try:
            own = CRS.from_user_input(features.crs)
        except CRSError as error:
            raise DataError(f"{path} has the coordinate system '{features.crs}', which is not known") from error
        written = [(feature, shape) for feature in features.features for shape in feature.shapes]
        if own.is_geographic:
            _check_degrees(written, path)
        placed = _transformed([np.concatenate(shape.rings) for _, shape in written], own, CRS.from_wkt(image.crs))
    a, b, c, d, e, f = image.transform
    to_pixels = np.linalg.inv(np.array([[a, b], [d, e]]))
    frame = Box(0, 0, image.width, image.height)
    regions = []
    for (feature, shape), points in zip(written, placed, strict=True):
        if np.isfinite(points).all():
            pixels = (points - (c, f)) @ to_pixels.T
            ends = np.cumsum([len(ring) for ring in shape.rings])[:-1]
            part = LabelledPart(feature.number, feature.classes, Shape(tuple(np.split(pixels, ends))))
            if part.shape.share_in(frame) > 0:
                regions.append(part)
    return regions


def _check_degrees(written: Sequence[tuple[Feature, Shape]], path: Path) -> None:
    for feature, shape in written:
        longitude, latitude = np.abs(shape.rings[0]).max(axis=0)
        if longitude > 360 or latitude > 90:
            raise DataError(
                f"{path} feature {feature.number} has coordinates that are not longitude and latitude (first: "
                f"{', '.join(f'{value:.10g}' for value in shape.rings[0][0])}): name its coordinate system in a member "
                "'crs', or convert it"
            )


def _transformed(shapes: Sequence[NDArray[np.float64]], own: "CRS", wanted: "CRS") -> list[NDArray[np.float64]]:
    """Convert the points (n, 2) of each shape; all become NaN if one has no place in the wanted coordinates."""
    from rasterio._err import CPLE_BaseError
    from rasterio.warp import transform

    if not shapes:
        return []
    try:
        x, y = transform(own, wanted, *np.concatenate(shapes).T)
    except CPLE_BaseError:  # one point far away is enough
        if len(shapes) == 1:
            return [np.full_like(shapes[0], np.nan)]
        half = len(shapes) // 2
        return _transformed(shapes[:half], own, wanted) + _transformed(shapes[half:], own, wanted)
    return np.split(np.stack([x, y], axis=1), np.cumsum([len(points) for points in shapes])[:-1])


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
    enough = max(min_tile_share * box.area, TOUCHING)
    return frozenset(classes | {name for name, area in covered.items() if area >= enough})
