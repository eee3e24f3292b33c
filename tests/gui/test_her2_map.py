"""The map of measured cells: exact near, cheap far out, recoloured without being rendered."""

import numpy as np
import pytest
from her2_fakes import SIZE, her2_reading, her2_state

from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_map import TILE, CellMap
from napari_celldetr.pipeline.her2.pixel_map import render_cells


@pytest.fixture
def cell_map():
    state = her2_state()
    found = CellMap(her2_reading().measured.outlines, SIZE, mpp=0.25)
    found.values = state.values()
    return found


def test_the_finest_level_is_what_is_rendered(cell_map):
    level = cell_map.levels()[0]
    assert level.shape == SIZE[::-1]
    whole = render_cells(cell_map.outlines, cell_map.values, Region(0, 0, *SIZE), SIZE[::-1])
    assert np.array_equal(np.asarray(level), whole)
    # Across a seam between tiles.
    part = (slice(TILE - 40, TILE + 60), slice(100, 900))
    assert np.array_equal(level[part], whole[part])
    assert np.array_equal(level[10:400:3, 5], whole[10:400:3, 5])


def test_coarse_levels_hold_the_same_classes_in_the_same_places(cell_map):
    fine = np.asarray(cell_map.levels()[0])
    cell_map.size = (4 * SIZE[0], 4 * SIZE[1])
    level = cell_map.levels()[2]
    coarse = level[: SIZE[1] // 4, : SIZE[0] // 4]
    sampled = fine[2::4, 2::4]
    both = (coarse > 0) & (sampled > 0)
    assert both.sum() > 0.85 * (sampled > 0).sum()
    assert (coarse[both] == sampled[both]).mean() > 0.95


def test_other_colours_render_nothing_anew(cell_map, monkeypatch):
    level = cell_map.levels()[0]
    before = level[:, :]

    def fail(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(cell_map, "_render", fail)
    cell_map.values = np.where(cell_map.values == 1, 4, cell_map.values).astype(np.uint8)
    after = level[:, :]
    assert np.array_equal(after, np.where(before == 1, 4, before))


def test_the_coarsest_level_is_one_array_that_follows(cell_map):
    """A viewer may take it once."""
    taken = np.asarray(cell_map.levels()[-1])
    assert taken is np.asarray(cell_map.levels()[-1])
    before = taken.copy()
    cell_map.values = np.where(cell_map.values == 1, 4, cell_map.values).astype(np.uint8)
    assert np.array_equal(taken, np.where(before == 1, 4, before))
    assert (taken != before).any()
    assert np.array(cell_map.levels()[-1], copy=True) is not taken


def test_a_slide_without_cells_is_empty():
    outlines = her2_reading().measured.outlines
    none = type(outlines)(*(getattr(outlines, n)[:0] for n in outlines.__dataclass_fields__))
    assert not np.asarray(CellMap(none, (3000, 2000), mpp=0.25).levels()[-1]).any()
