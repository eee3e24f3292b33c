import numpy as np
import pytest
from tables import table_of

from napari_celldetr.core.regions import Region, TileGrid
from napari_celldetr.gui.layers import (
    Frame,
    class_rgba,
    edge_data,
    hatch_data,
    point_data,
    raster_colors,
    typical_size,
)


def test_half_a_pixel_and_the_axis_order():
    # A box around pixel (x=10, y=20) alone has its centre at level-0 (10.5, 20.5), which is
    # the centre of that pixel: in napari (20, 10).
    table = table_of([[10, 20, 11, 21]])
    np.testing.assert_array_equal(point_data(table.centres), [[20, 10]])


def test_edges_run_round_the_box():
    edges = edge_data(np.array([[10, 20, 14, 26], [0, 0, 1, 1]], np.float32))
    assert edges.shape == (8, 2, 2)
    starts, ends = edges[:4, 0], edges[:4].sum(axis=1)
    np.testing.assert_array_equal(starts, [[19.5, 9.5], [19.5, 13.5], [25.5, 13.5], [25.5, 9.5]])
    np.testing.assert_array_equal(ends, np.roll(starts, -1, axis=0))


@pytest.mark.parametrize("factor", [1, 4, 16])
def test_a_raster_covers_what_it_stands_for(factor):
    frame = Frame(scale=(0.25, 0.5), translate=(3.0, 7.0), units=("um", "um"))
    options = frame.raster_options(factor)
    scale, translate = np.array(options["scale"]), np.array(options["translate"])
    # The outer edge of raster pixel 0 is at -0.5 of its own data coordinates, and must fall on
    # the outer edge of level-0 pixel 0.
    corner = translate - 0.5 * scale
    np.testing.assert_allclose(corner, frame.to_world(np.array([[0.0, 0.0]]))[0])
    next_corner = translate + 0.5 * scale
    expected = frame.to_world(np.array([[factor, factor]], float))[0]
    np.testing.assert_allclose(next_corner, expected)


def test_world_round_trip():
    frame = Frame(scale=(0.5, 0.25), translate=(-3.0, 9.0), units=("um", "um"))
    points = np.random.default_rng(0).uniform(0, 1e5, (50, 2))
    np.testing.assert_allclose(frame.from_world(frame.to_world(points)), points, atol=1e-8)


def test_region_of_world_points():
    frame = Frame.of_mpp((0.5, 0.5))
    world = frame.to_world(np.array([[10.0, 20.0], [40.0, 21.0]]))
    assert frame.region_of(world) == Region(10, 20, 30, 1)
    assert frame.region_of(world[:1]) is None
    assert frame.region_of(np.array([[np.nan, 0.0], [1.0, 1.0]])) is None


def test_frame_without_pixel_size_is_in_pixels():
    assert Frame.of_mpp(None).units == ("pixel", "pixel")
    assert Frame.of_mpp(None).mpp is None
    assert Frame.of_mpp((0.25, 0.5)).scale == (0.5, 0.25)


def test_colours_of_classes_and_unknown():
    rgba = class_rgba(np.array([1, -1, 0], np.int16), [(255, 0, 0), (0, 255, 0)])
    np.testing.assert_allclose(rgba[0], [0, 1, 0, 1])
    assert rgba[1, 0] == rgba[1, 1] == rgba[1, 2]
    colors = raster_colors([(255, 0, 0)])
    assert colors[0][3] == 0
    assert colors[2] == (1.0, 0.0, 0.0, 1.0)


def test_hatches_stay_inside_the_tile():
    tile = TileGrid(100, 10).tile(1, 2)
    lines = hatch_data([tile])
    ends = lines.sum(axis=1)
    for points in (lines[:, 0], ends):
        assert (points >= [99.5, 199.5]).all()
        assert (points <= [199.5, 299.5]).all()
    assert (np.abs(lines[:, 1]).sum(axis=1) > 0).all()


def test_typical_size_of_nothing():
    assert typical_size(table_of([])) == 0.0
    assert typical_size(table_of([[0, 0, 8, 12]])) == 10.0
