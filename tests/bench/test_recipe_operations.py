import pytest

from bench.recipe_operations import SMALL, operations, table
from stages.planning.recipes import RECIPES


def test_operations__masks_and_features_grow_with_the_images() -> None:
    quick = RECIPES["quick", "cpu"]
    training, cams, features = operations(quick, 100, 213, 320)
    assert cams == pytest.approx(100 * 2 * (SMALL.encode(196) + SMALL.encode(392)))  # scales 1 and 2, flipped as well
    assert operations(quick, 200, 213, 320) == pytest.approx((training, 2 * cams, 2 * features))  # 500 steps for both


def test_table__has_a_row_for_each_recipe() -> None:
    assert len(list(table(327, 213, 320))) == 2 + len(RECIPES)
