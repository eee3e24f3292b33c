"""The guard set: a fifth of what a person said is kept from training, to see whether it helped.

Which side a cell is on depends on where it lies: neighbours are alike, so whole squares are kept
aside. Of few labels single cells are, by key. Once a cell is on a side it stays there, so that
every lesson can be judged on cells that no earlier one learned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Key

SQUARE_UM = 250.0
ONE_IN = 5
FEW_CELLS, FEW_SQUARES = 60, 10
"""With fewer labels, or in fewer squares, single cells are kept aside."""
USUAL_MPP = 0.5
_SALT = 0x9E3779B97F4A7C15


def squares_of(
    centres: NDArray[np.floating], mpp: tuple[float, float] | None, *, side_um: float = SQUARE_UM
) -> NDArray[np.int64]:
    """Number (N,) of the square that each centre (N, 2), level-0 px, lies in; equal for the same.

    Squares are anchored at (0, 0). Where the pixel size is not known a usual one is taken.
    """
    um = np.asarray(centres, np.float64).reshape(-1, 2) * (mpp or (USUAL_MPP, USUAL_MPP))
    column, row = np.floor(um / side_um).astype(np.int64).T
    return np.asarray((row << 32) + (column & 0xFFFFFFFF), np.int64)


def guard_cells(
    keys: NDArray[np.uint64],
    squares: NDArray[np.int64],
    class_ids: NDArray[np.integer],
    *,
    known: Mapping[Key, bool] | None = None,
    always: Set[Key] = frozenset(),
) -> NDArray[np.bool_]:
    """Which labelled cells (N,) are the guard set.

    Parameters
    ----------
    keys : (N, 2) uint64
    squares : (N,)
        See `squares_of`.
    class_ids : (N,)
        Labels. Of a class with two labels or more, some are on either side where none of them
        is settled yet.
    known : mapping of key to bool, optional
        Sides that are settled: True for the guard.
    always : set of keys
        Cells drawn at random to be asked about; they tell most, and nothing is learned from them
        unless they are `known` as learned from.
    """
    keys = np.asarray(keys, np.uint64).reshape(-1, 2)
    by_key = _mixed(keys[:, 0] ^ keys[:, 1])
    few = len(keys) < FEW_CELLS or len(np.unique(squares)) < FEW_SQUARES
    drawn = by_key if few else _mixed(np.asarray(squares, np.int64).view(np.uint64))
    guard = drawn % np.uint64(ONE_IN) == 0
    names = [(a, b) for a, b in keys.tolist()]
    sides = dict.fromkeys(always, True) | dict(known or {})
    settled = np.array([name in sides for name in names], bool)
    for i in np.flatnonzero(settled):
        guard[i] = sides[names[i]]
    for class_id in np.unique(class_ids):
        _balance(guard, ~settled & (class_ids == class_id), class_ids == class_id, by_key)
    return guard


def _balance(
    guard: NDArray[np.bool_],
    free: NDArray[np.bool_],
    mine: NDArray[np.bool_],
    order: NDArray[np.uint64],
) -> None:
    """See that one class is on both sides, by the cells whose side is `free`."""
    total = int(mine.sum())
    if total < 2:
        guard[free] = False
        return
    ranked = np.flatnonzero(free)[np.argsort(order[free], kind="stable")]
    if not guard[mine].any():
        guard[ranked[:1]] = True
    # A class of which most lies in one square of the guard would hardly be learned.
    held = ranked[guard[ranked]]
    too_many = int(guard[mine].sum()) - total // 2
    if too_many > 0:
        guard[held[len(held) - min(too_many, len(held)) :]] = False


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    values = values + np.uint64(_SALT)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
