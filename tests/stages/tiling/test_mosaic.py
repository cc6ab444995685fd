import numpy as np
import pytest

from data.dataset import Mask
from stages.tiling.mosaic import mosaic
from stages.tiling.tile_index import LargeImage, TilePlace


def large_image(height: int, width: int) -> LargeImage:
    return LargeImage(
        id="a", file="a.png", height=height, width=width, transform=None, crs=None, nodata=False, suffix=".png"
    )


def joined(whole: Mask, size: int, overlap: int, lacking: set[str], without_data: set[str] = frozenset()) -> Mask:  # type: ignore[assignment]
    rows = large_image(*whole.shape).rows_of_tiles(size, overlap)

    def read(tile: TilePlace) -> Mask | None:
        return None if tile.id in lacking | without_data else whole[tile.rows.seen, tile.columns.seen]

    strips = list(mosaic(rows, whole.shape[1], read, without_data))
    assert [strip.top for strip in strips] == np.cumsum([0, *(len(strip.mask) for strip in strips[:-1])]).tolist()
    return np.concatenate([strip.mask for strip in strips])


WHOLE = np.random.default_rng(0).integers(0, 4, (45, 70)).astype(np.uint8)


@pytest.mark.parametrize(("size", "overlap"), [(16, 4), (16, 0), (45, 10), (20, 19)])
def test_mosaic__of_cut_masks_is_the_mask(size: int, overlap: int) -> None:
    assert np.array_equal(joined(WHOLE, size, overlap, set()), WHOLE)


def test_mosaic__each_pixel_from_the_tile_in_which_it_is_farthest_from_the_border() -> None:
    rows = large_image(8, 14).rows_of_tiles(8, 2)  # tiles at x 0 and 6; x 6 is 1 pixel from the border of both
    values = {tile.id: number for number, tile in enumerate(rows[0], start=1)}
    (strip,) = mosaic(rows, 14, lambda tile: np.full((8, 8), values[tile.id], dtype=np.uint8), ())
    assert strip.mask[0].tolist() == [1] * 7 + [2] * 7


def test_mosaic__neighbours_give_the_pixels_of_a_tile_that_lacks_a_mask() -> None:
    found = joined(WHOLE, 16, 4, {"a/r1-c1"})  # rows 12..27, columns 12..27; its neighbours reach 4 pixels into it
    expected = WHOLE.copy()
    expected[16:24, 16:24] = 255
    assert np.array_equal(found, expected)
    assert (
        joined(WHOLE, 16, 4, {tile.id for row in large_image(45, 70).rows_of_tiles(16, 4) for tile in row}) == 255
    ).all()


def test_mosaic__tiles_without_data_are_not_filled_from_neighbours() -> None:
    found = joined(WHOLE, 16, 4, set(), {"a/r1-c1"})
    expected = WHOLE.copy()
    expected[14:26, 14:26] = 255
    assert np.array_equal(found, expected)
