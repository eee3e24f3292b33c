from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.regions import Region, TileGrid, bounding_region

sides = st.integers(1, 500)
places = st.integers(-500, 500)
regions = st.builds(Region, places, places, sides, sides)


def test_a_region_without_area_is_refused():
    with pytest.raises(ConfigError, match="no area"):
        Region(0, 0, 0, 5)


@given(regions, regions)
def test_intersection_is_what_both_contain(a, b):
    common = a.intersect(b)
    assert common == b.intersect(a)
    if common is None:
        assert a.x1 <= b.x or b.x1 <= a.x or a.y1 <= b.y or b.y1 <= a.y
        return
    for x, y in ((common.x, common.y), (common.x1 - 1, common.y1 - 1)):
        assert a.contains(x, y)
        assert b.contains(x, y)
    assert bounding_region([a, b]).intersect(common) == common


def test_edges_are_half_open():
    region = Region(10, 20, 30, 40)
    assert region.contains(10, 20)
    assert not region.contains(40, 20)
    assert region.centre == (25, 40)
    assert region.grow(5) == Region(5, 15, 40, 50)
    assert Region.from_edges(10, 20, 40, 60) == region
    assert region.area == 1200


def test_bounding_region_of_nothing():
    assert bounding_region([]) is None


@given(regions, st.integers(7, 200), st.integers(0, 50))
def test_cores_partition_every_region(region, core, halo):
    tiles = TileGrid(core, halo).plan(region)
    covered = sum(t.core.intersect(region).area for t in tiles)
    assert covered == region.area
    assert len({t.index for t in tiles}) == len(tiles)
    assert all(t.read == t.core.grow(halo) for t in tiles)


@given(regions, st.floats(-500, 500), st.floats(-500, 500))
def test_starting_point_orders_by_distance_and_changes_nothing_else(region, x, y):
    grid = TileGrid(97, 10)
    plain, ordered = grid.plan(region), grid.plan(region, first=(x, y))
    assert sorted(t.index for t in ordered) == [t.index for t in plain]
    gaps = [np.hypot(t.core.centre[0] - x, t.core.centre[1] - y) for t in ordered]
    assert all(a <= b + 1e-6 for a, b in pairwise(gaps))


def test_a_viewports_tiles_are_the_whole_slides_tiles():
    grid = TileGrid(100, 10, 0.5)
    whole = set(grid.plan(Region(0, 0, 1000, 1000)))
    assert set(grid.plan(Region(333, 444, 150, 150))) <= whole


def test_keep_decides_by_core():
    grid = TileGrid(100, 10)
    kept = grid.plan(Region(0, 0, 300, 300), keep=lambda core: core.x == 100)
    assert [t.key for t in kept] == ["0_1", "1_1", "2_1"]


def test_an_impossible_grid_is_refused():
    with pytest.raises(ConfigError):
        TileGrid(0, 5)
    with pytest.raises(ConfigError):
        TileGrid(10, -1)
