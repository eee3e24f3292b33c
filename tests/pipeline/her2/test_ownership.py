"""A line between two cells is whose that is stained beyond it; sides add up to outlines."""

import numpy as np
import pytest

from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS
from napari_celldetr.pipeline.her2.ownership import SidesSoFar, find_sides, own_shares
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows

SHARED = np.r_[RAYS - 12 : RAYS, 0:12]
"""Directions in which two cells face each other: across direction 0."""
BEYOND = np.arange(12, RAYS - 12)


def two_cells(first, second, density=(0.8, 0.8)):
    """Cells that are stained where they meet, and on the given shares of what lies beyond."""
    neighbours = np.full((2, RAYS), NOBODY)
    neighbours[0, SHARED], neighbours[1, SHARED] = 1, 0
    stained = np.zeros((2, RAYS), bool)
    stained[:, SHARED] = True
    for cell, share in enumerate((first, second)):
        stained[cell, BEYOND[: round(share * len(BEYOND))]] = True
    band = np.where(stained, np.array(density)[:, None], 0.02)
    band[:, SHARED] = max(density)
    return neighbours, np.ones((2, RAYS), np.float32), stained, band.astype(np.float32)


def own(*args, **named):
    return own_shares(*two_cells(*args, **named))[:, SHARED[0]]


def test_a_line_is_whose_that_goes_on():
    bare, whole = own(0.0, 1.0)
    assert bare < 0.3
    assert whole > 0.8
    assert (own(1.0, 1.0) > 0.8).all()


def test_a_line_as_dark_as_the_neighbours_other_lines_is_the_neighbours():
    neighbours, arcs, stained, band = two_cells(0.4, 1.0, density=(0.2, 0.8))
    pale, dark = own_shares(neighbours, arcs, stained, band)[:, SHARED[0]]
    assert pale < dark


def test_where_a_cell_faces_nobody_lines_are_its_own():
    shares = own_shares(*two_cells(0.5, 1.0))
    np.testing.assert_array_equal(shares[:, BEYOND], 1)


def test_a_cell_that_is_stained_farther_is_never_less_complete():
    shares = np.linspace(0, 1, 15)
    read = [two_cells(share, 1.0) for share in shares]
    found = [(own_shares(*cells) * cells[2]).mean(axis=1)[0] for cells in read]
    assert (np.diff(found) > 0).all()


def test_sides_add_up_to_outlines_and_face_each_other():
    rng = np.random.default_rng(0)
    neighbours = np.repeat(rng.integers(-1, 6, (6, 12)), RAYS // 12, axis=1)
    neighbours[neighbours == np.arange(6)[:, None]] = NOBODY
    arcs = rng.uniform(0.5, 2, (6, RAYS)).astype(np.float32)
    stained = rng.random((6, RAYS)) < 0.5
    sides = find_sides(neighbours, arcs, stained, arcs)
    assert sides.per_cell(sides.length) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(sides.other[sides.bins], neighbours)
    np.testing.assert_array_equal(sides.owner[sides.bins], np.arange(6)[:, None] + 0 * neighbours)
    seen = sides.back != NOBODY
    np.testing.assert_array_equal(sides.back[sides.back[seen]], np.flatnonzero(seen))
    np.testing.assert_array_equal(sides.owner[sides.back[seen]], sides.other[seen])
    # A side across direction 0 is one.
    assert len(np.unique(find_sides(*two_cells(0, 0)).bins)) == 4


def slow_sides(neighbours, arcs, stained, band):
    """Of each side, by whose it is and whom it faces: length, stained, and its darkness."""
    found = {}
    for cell, ray in np.ndindex(neighbours.shape):
        length = float(arcs[cell, ray]) / float(arcs[cell].sum())
        line = length * stained[cell, ray]
        sums = found.setdefault((cell, int(neighbours[cell, ray])), np.zeros(3))
        sums += (length, line, line * band[cell, ray])
    return found


def test_sides_that_are_read_in_parts_are_those_of_all_cells():
    rng, n = np.random.default_rng(1), 23
    neighbours = np.repeat(rng.integers(-1, n, (n, 8)), RAYS // 8, axis=1)
    arcs, band = rng.uniform(0.1, 2, (2, n, RAYS)).astype(np.float32)
    stained = rng.random((n, RAYS)) < 0.5
    so_far = SidesSoFar(SparseRows.of_runs(neighbours.astype(np.int32)))
    for part in (slice(0, 5), slice(5, 6), slice(6, 20), slice(20, 40)):
        so_far.add(part, arcs[part], stained[part], band[part])
    sides, expected = drain(so_far.all_job()), slow_sides(neighbours, arcs, stained, band)
    keys = list(zip(sides.owner.tolist(), sides.other.tolist(), strict=True))
    assert keys == sorted(expected)
    sums = np.stack([sides.length, sides.stained, sides.dark], axis=1)
    np.testing.assert_allclose(sums, [expected[key] for key in keys], atol=1e-6)
    facing = [keys.index((b, a)) if (b, a) in expected else NOBODY for a, b in keys]
    np.testing.assert_array_equal(sides.back, facing)
    np.testing.assert_array_equal(sides.other[sides.bins], neighbours)


def test_no_cells_have_no_sides():
    none = np.zeros((0, RAYS))
    assert own_shares(none.astype(np.int64), none, none.astype(bool), none).shape == (0, RAYS)
