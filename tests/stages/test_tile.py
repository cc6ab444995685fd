"""`toco tile` and `toco join` on tiny rasters; needs rasterio, an optional package."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from data.errors import DataError, SettingsError, UserError
from data.images import MaskFile
from data.palette import palette_image
from data.readers import open_dataset
from stages.config import Tile
from stages.join import join
from stages.runtime.monitor import SilentMonitor
from stages.tile import Tiles, tile

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZE = 100  # pixels of 10 m, from the corner LEFT, TOP
LEFT, TOP = 500000.0, 5300000.0
SMALL = Tile(size=32, overlap=8)


class Listening(SilentMonitor):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def write_raster(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "scene.tif", bands: int = 3, dtype: str = "uint8", **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        placed = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, LEFT, 0, -10, TOP)}
        options = {"driver": "GTiff", **(placed if name.endswith(".tif") else {}), **options}
        pixels = np.random.default_rng(bands).integers(1, np.iinfo(dtype).max, (bands, SIZE, SIZE)).astype(dtype)
        if options.get("nodata") is not None:
            pixels[:, :40, :40] = options["nodata"]
        with rasterio.open(path, "w", width=SIZE, height=SIZE, count=bands, dtype=dtype, **options) as file:
            file.write(pixels)
        return path

    return write


def in_degrees(kind: str, coordinates: Any) -> dict[str, Any]:
    """A geometry in the raster's coordinates, turned into degrees."""
    from rasterio.warp import transform_geom

    geometry = {"type": kind, "coordinates": coordinates}
    converted: dict[str, Any] = transform_geom("EPSG:32632", "OGC:CRS84", geometry, precision=9)
    return converted


def polygon(left: float, top: float, right: float, bottom: float, **properties: Any) -> dict[str, Any]:
    """A feature around pixels of the raster, in degrees."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    ring = [(LEFT + 10 * x, TOP - 10 * y) for x, y in corners]
    return {"type": "Feature", "properties": properties, "geometry": in_degrees("Polygon", [ring])}


def write_geojson(path: Path, *features: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))
    return path


def labels_of(made: Tiles) -> dict[str, tuple[str, str]]:
    with (made.folder / "labels.csv").open() as file:
        return {row["image"]: (row["labels"], row["split"]) for row in csv.DictReader(file)}


def stored(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        values: NDArray[Any] = file.read()
        return values


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint16"), (7, "int16"), (2, "float32")])
def test_tiles__of_a_geotiff_keep_bands_bits_and_place(
    bands: int, dtype: str, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    if dtype == "float32":
        scene = write_raster("scene.tif", bands, "uint8")
        with rasterio.open(scene) as file:
            profile, values = file.profile, file.read().astype("float32") / 7
        with rasterio.open(scene, "w", **{**profile, "dtype": dtype}) as file:
            file.write(values)
    else:
        scene = write_raster("scene.tif", bands, dtype)
    made = tile([scene], tmp_path / "tiles", SMALL, SilentMonitor())
    assert (made.tiles, made.left_out, made.images) == (16, 0, 1)
    whole = stored(scene)
    for row, column, y, x in ((0, 0, 0, 0), (1, 2, 24, 48), (3, 3, 68, 68)):  # the last ones end with the image
        with rasterio.open(tmp_path / f"tiles/images/scene/r{row}-c{column}.tif") as one:
            assert np.array_equal(one.read(), whole[:, y : y + 32, x : x + 32])
            assert one.dtypes == (dtype,) * bands
            assert one.crs.to_epsg() == 32632
            assert one.transform[:6] == (10, 0, LEFT + 10 * x, 0, -10, TOP - 10 * y)
    rows = (tmp_path / "tiles/labels.csv").read_text().splitlines()
    assert "#scene/r0-c0.tif,,train" in rows  # to be filled in


def test_tiles__of_photographs_are_upright_pngs(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    flat = write_raster("a/flat.png", 3, driver="PNG")
    deep = write_raster("a/deep.png", 1, "uint16", driver="PNG")
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[:30, :45] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned to the right: the bright corner is at the upper right
    Image.fromarray(pixels).save(tmp_path / "a/turned.jpg", exif=turned)
    coloured = palette_image(np.tile(np.arange(3, dtype=np.uint8), (64, 20)))
    coloured.save(tmp_path / "a/coloured.png")
    made = tile([tmp_path / "a"], tmp_path / "tiles", SMALL, SilentMonitor())
    images = made.folder / "images"
    assert np.array_equal(stored(images / "flat/r1-c1.png"), stored(flat)[:, 24:56, 24:56])
    assert np.array_equal(stored(images / "deep/r1-c1.png"), stored(deep)[:, 24:56, 24:56])
    assert stored(images / "turned/r0-c1.png").mean() > 200
    assert stored(images / "turned/r2-c1.png").mean() < 5
    with Image.open(images / "coloured/r0-c0.png") as one:
        assert one.convert("RGB").tobytes() == coloured.crop((0, 0, 32, 32)).convert("RGB").tobytes()


def test_tiles__of_the_first_page_alone_are_told(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    files = [tmp_path / "stack.tif", tmp_path / "other.tif"]
    for file in files:
        pages[0].save(file, save_all=True, append_images=pages[1:])
    monitor = Listening()
    tile(files, tmp_path / "tiles", SMALL, monitor)
    assert monitor.warnings == [
        f"images of several pages: 2 (first {files[0]}); only the first page is cut into tiles: to use the others, "
        "save each as a separate image"
    ]


def test_tiles__without_data_are_left_out(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    made = tile([write_raster(nodata=0)], tmp_path / "tiles", SMALL, SilentMonitor())
    assert (made.tiles, made.left_out) == (15, 1)
    assert json.loads((made.folder / "tiles.json").read_text())["images"][0]["left_out"] == ["scene/r0-c0"]
    assert not (made.folder / "images/scene/r0-c0.tif").exists()


def test_labels__from_polygons(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    # Tiles begin at 0, 24, 48 and 68 pixels.
    features = [
        polygon(2, 2, 8, 8, **{"class": "house"}),  # in the first tile
        polygon(33, 0, 100, 100, **{"class": "water; reed"}),  # large: in all tiles but those of the first column
        polygon(29, 50, 33, 54, **{"class": "boat"}),  # three quarters of it in the first column
        polygon(400, 400, 410, 410, **{"class": "house"}),
    ]
    path = write_geojson(tmp_path / "objects.geojson", *features)
    monitor = Listening()
    made = tile([write_raster()], tmp_path / "tiles", SMALL, monitor, labels=path)
    labels = {name: row[0] for name, row in labels_of(made).items()}
    assert labels["scene/r0-c0.tif"] == "house"
    assert labels["scene/r3-c0.tif"] == ""
    assert labels["scene/r2-c0.tif"] == "boat"
    assert labels["scene/r2-c1.tif"] == "boat;reed;water"
    assert labels["scene/r0-c3.tif"] == "reed;water"
    assert monitor.warnings == [f"1 of 4 features of {path} lie in none of the images (first: 4): they are not used"]
    assert made.classes == {"boat": 4, "house": 1, "reed": 12, "water": 12}
    dataset = open_dataset(made.folder)
    assert dataset.class_names == ("boat", "house", "reed", "water")
    assert len(dataset.split("train")) == 16


def test_labels__each_polygon_of_a_feature_is_an_object(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    # As a GIS dissolves a class: each house lies in one tile, and covers less than 1 % of it.
    squares = [polygon(left, 2, left + 2, 4)["geometry"]["coordinates"] for left in (2, 34, 58, 90)]
    houses = {"type": "Feature", "properties": {"class": "house"}}
    path = write_geojson(
        tmp_path / "a.geojson", {**houses, "geometry": {"type": "MultiPolygon", "coordinates": squares}}
    )
    monitor = Listening()
    made = tile([write_raster()], tmp_path / "tiles", SMALL, monitor, labels=path)
    assert [name for name, row in labels_of(made).items() if row[0] == "house"] == [
        f"scene/r0-c{column}.tif" for column in range(4)
    ]
    assert monitor.warnings == []


def test_labels__a_share_of_0_does_not_label_tiles_beside_a_polygon(
    write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    # Its bounding box touches the tile at 0, 0; the triangle does not.
    triangle = polygon(30, 30, 90, 90, **{"class": "wood"})
    del triangle["geometry"]["coordinates"][0][0]  # the upper left corner
    triangle["geometry"]["coordinates"][0][-1] = triangle["geometry"]["coordinates"][0][0]
    path = write_geojson(tmp_path / "a.geojson", triangle)
    config = Tile(size=32, overlap=8, min_tile_share=0.0)
    found = labels_of(tile([write_raster()], tmp_path / "tiles", config, Listening(), labels=path))
    assert (found["scene/r0-c0.tif"][0], found["scene/r3-c3.tif"][0]) == ("", "wood")


def test_labels__a_feature_on_the_other_side_of_the_world_does_no_harm(
    write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    far = {"type": "Feature", "properties": {"class": "a"}, "geometry": {"type": "Point", "coordinates": [99, 0]}}
    path = write_geojson(tmp_path / "a.geojson", far, polygon(2, 2, 8, 8, **{"class": "house"}), far)
    monitor = Listening()
    made = tile([write_raster()], tmp_path / "tiles", SMALL, monitor, labels=path)
    assert made.classes == {"house": 1}
    assert "2 of 3 features" in monitor.warnings[0]


def test_labels__from_points_in_the_coordinates_of_the_image(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [LEFT + 10 * 70.5, TOP - 10 * 3.5]}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    feature = {"type": "Feature", "properties": {"kind": ["tree"]}, "geometry": point}
    path = write_geojson(tmp_path / "trees.json", feature, crs=crs)
    config = Tile(size=32, overlap=8, class_property="kind", outside="unlabelled", val=())
    made = tile([write_raster()], tmp_path / "tiles", config, Listening(), labels=path)
    assert labels_of(made) == {f"scene/r0-c{column}.tif": ("tree", "train") for column in (2, 3)}
    assert made.unlabelled == 14


def test_labels__from_parts_and_whole_images_of_a_table(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    images = [write_raster("one.tif"), write_raster("two.png", driver="PNG")]
    parts = tmp_path / "parts.csv"
    parts.write_text("image,x,y,width,height,labels\none.tif,0,0,10,10,crack\ntwo.png,60,60,40,40,\n")
    config = Tile(size=32, overlap=8, outside="unlabelled")
    labels = labels_of(tile(images, tmp_path / "parts", config, Listening(), labels=parts))
    # The part without classes covers half of three tiles, and less of the one that begins at 48, 48.
    assert labels == {
        "one/r0-c0.tif": ("crack", "train"),
        **{f"two/r{row}-c{column}.png": ("", "train") for row in (2, 3) for column in (2, 3) if row + column > 4},
    }
    whole = tmp_path / "whole.csv"
    whole.write_text("image,labels,split\none.tif,crack,train\ntwo,,val\none/r1-c1,,train\n")
    monitor = Listening()
    made = tile(images, tmp_path / "whole", SMALL, monitor, labels=whole)
    found = labels_of(made)
    assert found["one/r0-c0.tif"] == ("crack", "train")
    assert found["one/r1-c1.tif"] == ("", "train")
    assert found["two/r0-c0.png"] == ("", "val")
    assert len(monitor.warnings) == 1
    assert f"all tiles of {images[0]} get the classes of the whole image" in monitor.warnings[0]


def test_val__makes_the_validation_split(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    images = [write_raster("one.tif"), write_raster("two.tif")]
    path = write_geojson(tmp_path / "all.geojson", polygon(0, 0, 50, 50, **{"class": "wood"}))
    made = tile(images, tmp_path / "tiles", Tile(size=32, overlap=8, val=("two",)), Listening(), labels=path)
    assert {(name[:3], split) for name, (_, split) in labels_of(made).items()} == {("one", "train"), ("two", "val")}
    table = tmp_path / "table.csv"
    table.write_text("image,labels,split\none/r0-c0,a,\ntwo/r0-c0,a,\ntwo/r0-c1,a,train\n")
    made = tile(images, tmp_path / "again", Tile(size=32, overlap=8, val=("two",)), Listening(), labels=table)
    assert [split for _, split in labels_of(made).values()] == ["train", "val", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,labels\nother.tif,crack\n",
            r"line 2: 'other.tif' is neither an image \('scene.tif'\) nor one of its t",
        ),
        (
            "image,x,y,labels\nscene.tif,1,1,crack\n",
            r"line 1: a part of an image needs the columns x, y, width, height",
        ),
        ("image,x,y,width,height,labels\nscene.tif,1,1,0,5,crack\n", "must be numbers of pixels, width and height pos"),
        (
            "image,x,y,width,height,labels\nscene.tif,300,1,9,5,a\n",
            r"the part lies outside of 'scene', which has 100 x",
        ),
        (
            "image,labels\nscene.tif,\n",
            r"gives none of the 16 tiles a class: check that the labels are of these images",
        ),
        ("image,labels\nscene.tif,nan\n", r"label 'nan'"),
        ("image,labels,split\nscene,a,train\nscene.tif,b,val\n", "splits 'train' and 'val': use one"),
    ],
)
def test_tables__with_mistakes_are_refused(
    text: str, message: str, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        tile([write_raster()], tmp_path / "tiles", SMALL, Listening(), labels=path)
    assert not (tmp_path / "tiles").exists()


LINE = {"type": "Feature", "properties": {"class": "road"}, "geometry": {"type": "LineString", "coordinates": [[0, 0]]}}
EMPTY = {"type": "Feature", "properties": {"class": "road"}, "geometry": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a GeoJSON with features"),
        ('{"type": "FeatureCollection", "features": []}', "has no features"),
        (json.dumps(LINE), "feature 1 has the geometry 'LineString': give polygons or points"),
        (json.dumps(EMPTY), "feature 1 is not a valid feature: give polygons or points"),
        (
            json.dumps(
                {**LINE, "properties": {"kind": 1, "id": 2}, "geometry": {"type": "Point", "coordinates": [1, 1]}}
            ),
            r"1 of 1 features without a class in the property 'class', first feature 1: name the property with "
            r"--class-property \(the features have .*kind.*id",
        ),
        (
            json.dumps({**LINE, "geometry": {"type": "Point", "coordinates": [1, 1]}}),
            r"gives none of the 16 tiles a class: .* \(a GeoJSON has longitude before latitude\)",
        ),
        (
            json.dumps({**LINE, "geometry": {"type": "Point", "coordinates": [LEFT, TOP]}}),
            "feature 1 has coordinates that are not longitude and latitude .first: 500000, 5300000.: name its coord",
        ),
    ],
)
def test_geojson__with_mistakes_is_refused(
    text: str, message: str, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "objects.geojson"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        tile([write_raster()], tmp_path / "tiles", SMALL, Listening(), labels=path)


def test_images__that_cannot_be_cut_are_refused(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "all.geojson", polygon(0, 0, 50, 50, **{"class": "wood"}))

    def refused(error: type[UserError], match: str, *images: Path, config: Tile = SMALL) -> None:
        with pytest.raises(error, match=match):
            tile(images, tmp_path / "tiles", config, Listening(), labels=path)

    refused(DataError, r"plain.png has no coordinate system \(CRS\)", write_raster("plain.png", driver="PNG"))
    refused(DataError, r"scene.tif has 100 x 100 pixels, less than a tile of --size 512", write_raster(), config=Tile())
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "turned.tif", exif=turned)
    bands = np.zeros((SIZE, SIZE, 5), np.uint8)  # which Pillow does not read
    tifffile.imwrite(tmp_path / "turned5.tif", bands, photometric="minisblack", extratags=[(0x0112, "H", 1, 6, True)])
    for name in ("turned.tif", "turned5.tif"):
        refused(DataError, rf"{name} is stored rotated \(TIFF orientation\): save it upright", tmp_path / name)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 and nothing")
    refused(DataError, "broken.tif cannot be read", broken)
    refused(
        SettingsError,
        "--val other is not one of the images",
        write_raster(),
        config=Tile(size=32, overlap=8, val=("other",)),
    )
    (tmp_path / "tiles/images").mkdir(parents=True)
    refused(SettingsError, "images exists already, and nothing was written", write_raster())


def test_settings__refuse_an_overlap_of_a_whole_tile() -> None:
    with pytest.raises(SettingsError, match="--overlap 64 is not less than --size 64"):
        Tile(size=64, overlap=64)


@pytest.fixture
def masks_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes masks of tiles as toco predict does: the first band, divided by 100."""

    def write(tiles: Path, out: str = "predicted", prefix: str = "") -> Path:
        for file in sorted((tiles / "images").rglob("*.*")):
            name = file.relative_to(tiles / "images").with_suffix(".png")
            path = tmp_path / out / "masks" / prefix / name
            path.parent.mkdir(parents=True, exist_ok=True)
            palette_image((stored(file)[0] // 100).astype(np.uint8)).save(path)
        return tmp_path / out

    return write


@pytest.mark.parametrize("prefix", ["", "images"])
def test_join__gives_a_geotiff_with_the_place_of_the_image(
    prefix: str, write_raster: Callable[..., Path], masks_of: Callable[..., Path], tmp_path: Path
) -> None:
    scene = write_raster(nodata=0)
    made = tile([scene], tmp_path / "tiles", SMALL, SilentMonitor())
    (made.folder / "classes.txt").write_text("wood\nwater\n")
    (file,) = join(made.folder, masks_of(made.folder, prefix=prefix), tmp_path / "joined", Listening())
    whole = stored(scene)[0]
    with rasterio.open(file) as one, rasterio.open(scene) as source:
        assert (one.shape, one.crs, one.transform) == (source.shape, source.crs, source.transform)
        assert one.tags(1) == {"class_1": "wood", "class_2": "water"}
        assert one.colormap(1)[1] == (230, 159, 0, 255)
        assert one.nodata == 255
        assert np.array_equal(one.read(1), np.where(whole == 0, 255, whole // 100))


def test_join__gives_a_png_of_other_images_and_tells_what_lacks(
    write_raster: Callable[..., Path], masks_of: Callable[..., Path], tmp_path: Path
) -> None:
    images = [write_raster("one.png", driver="PNG"), write_raster("two.tif")]
    made = tile(images, tmp_path / "tiles", SMALL, SilentMonitor())
    masks = masks_of(made.folder)
    (masks / "masks/one/r1-c1.png").unlink()
    for file in (masks / "masks/two").iterdir():
        file.unlink()
    monitor = Listening()
    assert join(made.folder, masks, tmp_path / "joined", monitor) == [tmp_path / "joined/one.png"]
    assert monitor.warnings == [
        f"{masks} lacks the masks of 1 of 16 tiles of one: pixels that lie in no other tile are 255",
        f"{masks} has no masks of two: it is left out",
    ]
    expected = stored(images[0])[0] // 100
    expected[32:48, 32:48] = 255
    assert np.array_equal(MaskFile(tmp_path / "joined/one.png").read(), expected)
    with pytest.raises(SettingsError, match=r"one.png exists already: use --overwrite"):
        join(made.folder, masks, tmp_path / "joined", monitor)


def test_join__keeps_what_a_transparent_value_of_a_png_hides(masks_of: Callable[..., Path], tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(1, 255, (SIZE, SIZE)).astype(np.uint8)
    grey[:50, :60] = 0
    Image.fromarray(grey).save(tmp_path / "grey.png", transparency=0)
    made = tile([tmp_path / "grey.png"], tmp_path / "tiles", SMALL, SilentMonitor())
    (file,) = join(made.folder, masks_of(made.folder), tmp_path / "joined", Listening())
    assert np.array_equal(MaskFile(file).read(), np.where(grey == 0, 255, grey // 100))


def test_join__refuses_what_is_not_of_the_tiles(
    write_raster: Callable[..., Path], masks_of: Callable[..., Path], tmp_path: Path
) -> None:
    made = tile([write_raster()], tmp_path / "tiles", SMALL, SilentMonitor())
    with pytest.raises(DataError, match=r"has no tiles.json: give the folder that 'toco tile --out' wrote"):
        join(tmp_path, tmp_path, tmp_path / "joined", Listening())
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty holds no mask of a tile \(for example 'scene/r0-c0.png'; it has 0 masks"
    ):
        join(made.folder, tmp_path / "empty", tmp_path / "joined", Listening())
    masks = masks_of(made.folder)
    palette_image(np.zeros((30, 32), dtype=np.uint8)).save(masks / "masks/scene/r0-c0.png")
    with pytest.raises(DataError, match=r"'scene/r0-c0' is 32 x 30 pixels, the tile 32 x 32: it was made from other"):
        join(made.folder, masks, tmp_path / "joined", Listening())


def test_join__takes_the_classes_of_the_masks_and_refuses_others(
    write_raster: Callable[..., Path], masks_of: Callable[..., Path], tmp_path: Path
) -> None:
    made = tile([write_raster()], tmp_path / "tiles", SMALL, SilentMonitor())
    masks = masks_of(made.folder)  # with the values 0, 1 and 2
    (made.folder / "classes.txt").write_text("wood\n")
    with pytest.raises(DataError, match=r"'scene/r0-c0' has the value 2, but there are only 1 classes \('wood'\)"):
        join(made.folder, masks, tmp_path / "joined", Listening())
    record = {"class_names": ["lake", "river"], "weights": "", "settings": {}, "images": {}}
    (masks / "predict.json").write_text(json.dumps(record))
    (file,) = join(made.folder, masks, tmp_path / "joined", Listening())
    with rasterio.open(file) as one:
        assert one.tags(1) == {"class_1": "lake", "class_2": "river"}


def test_join__keeps_what_a_mask_in_the_file_hides(
    write_raster: Callable[..., Path], masks_of: Callable[..., Path], tmp_path: Path
) -> None:
    scene = write_raster()
    valid = np.ones((SIZE, SIZE), dtype=bool)
    valid[:30, 40:] = False
    with rasterio.open(scene, "r+") as file:
        file.write_mask(valid)  # in scene.tif.msk
    made = tile([scene], tmp_path / "tiles", SMALL, SilentMonitor())
    assert not list(made.folder.rglob("*.msk"))
    (file,) = join(made.folder, masks_of(made.folder), tmp_path / "joined", Listening())
    assert np.array_equal(stored(file)[0], np.where(valid, stored(scene)[0] // 100, 255))
