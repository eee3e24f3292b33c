import numpy as np
from tables import random_table, table_of

from napari_celldetr.gui.raster import MAX_SIDE, CellRaster


def test_raster_shows_the_class_at_the_cell():
    raster = CellRaster((400, 300), mpp=0.5)
    table = table_of([[100, 60, 116, 76], [301, 200, 317, 216]], class_ids=[0, 1])
    raster.paint_table(table, 0.5)
    shown, f = raster.arrays[0], raster.factor
    assert shown[68 // f, 108 // f] == 2
    assert shown[208 // f, 309 // f] == 3
    assert shown[150 // f, 50 // f] == 0


def test_raster_threshold_needs_no_repainting():
    table = random_table(2000)
    raster = CellRaster((2000, 1500), mpp=0.5)
    raster.paint_table(table, 0.0)
    raster.show(0.6)
    again = CellRaster((2000, 1500), mpp=0.5)
    again.paint_table(table.above(0.6), 0.6)
    # Where a better cell covers one below the threshold the better one shows, so both agree.
    for one, other in zip(raster.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_raster_does_not_depend_on_the_order_of_tiles():
    table = random_table(1000)
    first, second = CellRaster((2000, 1500)), CellRaster((2000, 1500))
    first.paint_table(table, 0.5)
    for rows in np.array_split(np.arange(1000)[::-1], 7):
        second.paint_table(table.select(rows), 0.5)
    np.testing.assert_array_equal(first.arrays[0], second.arrays[0])


def test_raster_stays_small_on_a_huge_slide():
    raster = CellRaster((150_000, 90_000), mpp=0.25)
    assert max(raster.arrays[0].shape) <= MAX_SIDE
    # One absurd box must not cost minutes.
    raster.paint_table(table_of([[0, 0, 150_000, 90_000], [149_990, 89_990, 150_010, 90_010]]), 0.5)
    assert raster.arrays[0][-1, -1] == 2


def test_take_over_copies_the_other_raster():
    table = random_table(300)
    painted, shown = CellRaster((2000, 1500)), CellRaster((2000, 1500))
    painted.paint_table(table, 0.5)
    array = shown.arrays[0]
    shown.take_over(painted)
    assert shown.arrays[0] is array
    np.testing.assert_array_equal(array, painted.arrays[0])
