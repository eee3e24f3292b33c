"""Maps of filled outlines: as a slow reference has them, and independent of tiles."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.outline import ANGLES, RAYS, Outlines
from napari_celldetr.pipeline.her2.pixel_map import render_cells, render_owners


def drawn(n, seed=0, *, spacing=45.0, radius=24.0):
    rng = np.random.default_rng(seed)
    across = int(np.ceil(np.sqrt(n)))
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), -1).reshape(-1, 2)[:n]
    centres = (grid + 0.5) * spacing + rng.normal(0, 3, (n, 2))
    waves = np.sin(3 * ANGLES + rng.uniform(0, 6, (n, 1))) + rng.normal(0, 0.3, (n, RAYS))
    radii = radius + 4 * waves
    return Outlines(
        centres.astype(np.float32),
        radii.astype(np.float32),
    )


def test_a_pixel_belongs_to_the_outline_that_holds_its_centre():
    outlines = drawn(30, spacing=70)
    region = Region(20, 35, 300, 240)
    owners = render_owners(outlines, region, (120, 150))
    y, x = np.mgrid[:120, :150]
    points = np.stack([20 + (x + 0.5) * 2, 35 + (y + 0.5) * 2], -1).reshape(-1, 2)
    expected = np.zeros(120 * 150, int)
    for row, corners in enumerate(outlines.polygons().astype(float)):
        expected[Area(tuple(map(tuple, corners))).contains(points)] = row + 1
    assert (expected > 0).mean() > 0.2
    assert_array_equal(owners.ravel(), expected)


def test_where_outlines_overlap_the_deeper_cell_has_the_pixel():
    round_cell = np.full((2, RAYS), 20, np.float32)
    centres = np.array([[30, 30], [51, 30]], np.float32)
    outlines = Outlines(centres, round_cell)
    owners = render_owners(outlines, Region(0, 0, 80, 60), (60, 80))
    assert_array_equal(np.unique(owners[30, 12:40]), [1])
    assert_array_equal(np.unique(owners[30, 41:68]), [2])
    # As far from both: the first.
    assert_array_equal(np.unique(owners[20:40, 40]), [1])


@pytest.mark.parametrize("scale", [1, 3])
def test_a_tile_is_the_cut_of_the_whole(scale):
    outlines = drawn(100, spacing=36)
    values = np.arange(1, 101, dtype=np.uint8)
    whole = render_cells(outlines, values, Region(0, 0, 360, 360), (360 // scale, 360 // scale))
    for x in range(0, 360, 90):
        for y in range(0, 360, 60):
            cut = render_cells(outlines, values, Region(x, y, 90, 60), (60 // scale, 90 // scale))
            here = whole[y // scale : (y + 60) // scale, x // scale : (x + 90) // scale]
            assert_array_equal(cut, here)


def test_no_cells_and_no_cells_near_are_background():
    none = render_cells(drawn(0), np.zeros(0, np.uint8), Region(0, 0, 50, 40), (40, 50))
    far = render_cells(drawn(4), np.ones(4, np.uint8), Region(5000, 5000, 50, 40), (40, 50))
    assert none.shape == far.shape == (40, 50)
    assert not none.any()
    assert not far.any()


def test_a_view_of_1500_cells_takes_less_than_a_frame_of_patience():
    outlines = drawn(1521, spacing=40)
    values = np.ones(1521, np.uint8)
    took = []
    for _ in range(3):
        start = time.process_time()
        render_cells(outlines, values, Region(0, 0, 1920, 1080), (1080, 1920))
        took.append(time.process_time() - start)
    # Of processor time: 0.05 s on a machine with nothing else to do.
    assert min(took) < 0.4
