"""What was looked at: areas to the pixel, and nothing else passes for looked at."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.regions import Region, TileGrid
from napari_celldetr.gui.coverage import Coverage, Seen

SIZE = (1000, 700)
STATES = ("done", "reused", "failed", "saturated", "skipped")


def slow_area(told, core, within):
    """Pixels of the slide that were counted, one by one."""
    known = np.zeros((SIZE[1], SIZE[0]), bool)
    for (row, column), state, part in told:
        tile = Region(column * core, row * core, core, core)
        place = tile if part is None else tile.intersect(part)
        if place is None:
            continue
        rows = slice(max(place.y, 0), max(place.y1, 0))
        columns = slice(max(place.x, 0), max(place.x1, 0))
        if state in ("done", "reused", "saturated"):
            known[rows, columns] = True
    rows, columns = slice(max(within.y, 0), max(within.y1, 0)), slice(within.x, within.x1)
    return int(known[rows, slice(max(columns.start, 0), max(columns.stop, 0))].sum())


REGION = st.builds(
    Region,
    st.integers(-100, 900),
    st.integers(-100, 600),
    st.integers(1, 900),
    st.integers(1, 800),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.tuples(st.integers(0, 3), st.integers(0, 4)),
            st.sampled_from(("done", "reused", "saturated")),
            st.none() | REGION,
        ),
        max_size=12,
    ),
    REGION,
)
def test_areas_are_those_of_the_pixels(told, within):
    coverage = Coverage(SIZE, 256)
    for index, state, part in told:
        coverage.tell(index, state, part)
    assert coverage.area_px(within) == slow_area(told, 256, within)
    kept = Coverage.from_json(json.loads(json.dumps(coverage.to_json())))
    assert kept.area_px(within) == coverage.area_px(within)
    np.testing.assert_array_equal(kept.seen, coverage.seen)


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_tile_is_seen(state):
    coverage = Coverage(SIZE, 256)
    coverage.tell((1, 2), state)
    pixel = coverage.seen[round(384 / coverage.step), round(640 / coverage.step)]
    assert int(pixel) != Seen.NOT_YET
    assert coverage.area_px() == (256 * 256 if state in ("done", "reused", "saturated") else 0)
    assert coverage.counted()[Seen.NOT_YET] < coverage.seen.size


def test_a_failed_tile_is_looked_at_no_more():
    coverage = Coverage(SIZE, 256)
    coverage.tell((0, 0), "done")
    coverage.tell((0, 0), "failed")
    assert coverage.area_px() == 0


def test_the_veil_ends_where_the_slide_ends():
    coverage = Coverage(SIZE, 256)
    height, width = coverage.seen.shape
    assert 0 <= height * coverage.step - SIZE[1] < coverage.step
    assert 0 <= width * coverage.step - SIZE[0] < coverage.step
    for tile in TileGrid(256, 0).plan(Region(0, 0, *SIZE)):
        coverage.tell(tile.index, "done")
    assert not coverage.seen.any()
    assert coverage.area_px() == SIZE[0] * SIZE[1]


def test_tiles_beside_the_slide_are_ignored():
    coverage = Coverage(SIZE, 256)
    coverage.tell((9, 9), "done")
    coverage.tell((-1, 0), "done")
    assert coverage.area_px() == 0


def test_what_is_missing_is_what_was_not_looked_at_or_failed():
    coverage = Coverage(SIZE, 256)
    whole = Region(0, 0, *SIZE)
    assert coverage.missing(whole) == 1
    for tile in TileGrid(256, 0).plan(whole):
        coverage.tell(tile.index, "skipped")
    assert coverage.missing(whole) == 0
    coverage.tell((0, 0), "failed")
    assert coverage.missing(Region(0, 0, 256, 256)) == 1
    assert coverage.missing(Region(256, 0, 256, 256)) == 0
    half = Area(((128, 0), (384, 0), (384, 200), (128, 200)))
    assert coverage.missing_in(half) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "change", [{"size": [10, 10]}, {"seen": "eA=="}, {"core": "x"}, {"seen": None}]
)
def test_damaged_coverage_is_refused(change):
    kept = Coverage(SIZE, 256).to_json() | change
    with pytest.raises((ValueError, KeyError, TypeError)):
        Coverage.from_json(kept)
