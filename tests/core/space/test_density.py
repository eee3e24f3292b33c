"""Pictures of density count every point once, in the bin it lies in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space.density import (
    bounds_of,
    class_histogram,
    histogram,
    mean_histogram,
)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_as_one_point_after_the_other(seed: int, rows: int, columns: int, single: bool) -> None:
    rng = np.random.default_rng(seed)
    # Eighths lie exactly on the edges of bins as well.
    points = rng.integers(-16, 4 * max(rows, columns) * 2, (200, 2)) / 8
    points = points.astype(np.float32 if single else np.float64)
    wanted = np.zeros((rows, columns), np.uint32)
    for x, y in points:
        row, column = math.floor(y), math.floor(x)
        if 0 <= row < rows and 0 <= column < columns:
            wanted[row, column] += 1
    found = histogram(points, (0, 0, columns, rows), (rows, columns))
    assert found.dtype == np.uint32
    assert (found == wanted).all()


def test_numpy_counts_the_same() -> None:
    points = np.random.default_rng(0).standard_normal((100_000, 2))
    found = histogram(points, (-2, -1, 2, 3), (40, 30))
    wanted, _, _ = np.histogram2d(points[:, 1], points[:, 0], (40, 30), ((-1, 3), (-2, 2)))
    assert (found == wanted).all()


def test_classes_add_up() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (5000, 2)).astype(np.float32)
    ids = rng.integers(-1, 3, 5000).astype(np.int16)
    planes = class_histogram(points, ids, (0, 0, 0.9, 1), (6, 7), classes=3)
    assert planes.shape == (4, 6, 7)
    assert (planes.sum(axis=0) == histogram(points, (0, 0, 0.9, 1), (6, 7))).all()
    for plane, class_id in enumerate([0, 1, 2, -1]):
        some = histogram(points[ids == class_id], (0, 0, 0.9, 1), (6, 7))
        assert (planes[plane] == some).all()


def test_the_mean_of_a_measurement_leaves_out_cells_without_one() -> None:
    points = np.array([(0.5, 0.5), (0.6, 0.5), (1.5, 0.5), (0.5, 0.5), (9, 9)])
    values = np.array([1.0, 3.0, np.nan, np.nan, 7.0])
    found = mean_histogram(points, values, (0, 0, 2, 1), (1, 2))
    np.testing.assert_array_equal(found, [[2.0, np.nan]])


def test_points_that_are_no_numbers_are_in_no_bin() -> None:
    odd = [np.nan, np.inf, -np.inf, 3e38, 0.5]
    points = np.array([(x, y) for x in odd for y in odd], np.float32)
    assert histogram(points, (0, 0, 1, 1), (2, 2)).sum() == 1
    assert histogram(np.zeros((0, 2)), (0, 0, 1, 1), (2, 2)).sum() == 0


@pytest.mark.parametrize("bounds", [(0, 0, 0, 1), (0, 1, 1, 0), (0, 0, np.nan, 1)])
def test_bounds_without_area_are_refused(bounds: tuple) -> None:
    with pytest.raises(EmbeddingError, match="no room"):
        histogram(np.zeros((3, 2)), bounds, (4, 4))


def test_bounds_hold_every_point() -> None:
    points = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    assert histogram(points, bounds_of(points), (5, 5)).sum() == 1000
    points[3] = np.nan
    points[4, 0] = np.inf
    x0, y0, x1, y1 = bounds_of(points)
    assert x0 < points[5:, 0].min()
    assert y1 > points[5:, 1].max()
    assert np.isfinite([x0, y0, x1, y1]).all()
    assert histogram(np.ones((7, 2)), bounds_of(np.ones((7, 2))), (1, 1)).sum() == 7
    assert bounds_of(np.zeros((0, 2))) == (0, 0, 1, 1)
