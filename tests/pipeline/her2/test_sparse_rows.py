"""Rows of which some places are filled: as dense ones have them."""

import numpy as np
import pytest

from napari_celldetr.pipeline.her2.sparse_rows import SparseRows


def dense_rows(n, seed=0, *, columns=96):
    rng = np.random.default_rng(seed)
    filled = rng.random((n, columns)) < rng.random((n, 1))
    return rng.normal(size=(n, columns)).astype(np.float32), filled


@pytest.mark.parametrize("n", [0, 1, 57])
def test_what_is_filled_comes_back(n):
    values, filled = dense_rows(n)
    rows = SparseRows.of(values, filled)
    np.testing.assert_array_equal(rows.filled(slice(None)), filled)
    np.testing.assert_array_equal(rows.dense(slice(None), 9.0), np.where(filled, values, 9))
    some = slice(3, 20)
    np.testing.assert_array_equal(rows.dense(some, 9.0), np.where(filled, values, 9)[some])
    np.testing.assert_array_equal(rows.of_rows(some), values[some][filled[some]])


def test_rows_can_be_picked_and_put_together_in_any_order():
    values, filled = dense_rows(40, seed=1)
    rows = SparseRows.of(values, filled)
    expected = rows.dense(slice(None), 0)
    order = np.random.default_rng(2).permutation(40)
    picked = rows.select(order)
    np.testing.assert_array_equal(picked.dense(slice(None), 0), expected[order])
    mask = np.arange(40) % 3 == 0
    np.testing.assert_array_equal(rows.select(mask).dense(slice(None), 0), expected[mask])
    parts = [(order[a : a + 7], rows.select(order[a : a + 7])) for a in range(0, 40, 7)]
    whole = SparseRows.assembled(parts, 40)
    np.testing.assert_array_equal(whole.dense(slice(None), 0), expected)


def test_a_value_is_held_up_to_the_next():
    rng = np.random.default_rng(3)
    long = np.sort(rng.integers(0, 8, (30, 96)), axis=1)
    rows = SparseRows.of_runs(long)
    assert len(rows.values) <= 30 * 8
    np.testing.assert_array_equal(rows.held(rows.of_rows(slice(None)), slice(None)), long)
    np.testing.assert_array_equal(rows.held(rows.of_rows(slice(4, 9)), slice(4, 9)), long[4:9])
