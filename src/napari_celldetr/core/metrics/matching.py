"""One-to-one pairs of true and found cells, each rule under the name of its source.

Points are (N, 2) as x, y in one common unit (usually px of the resolution the truth was drawn
at); radii are in that unit.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError

Indices: TypeAlias = NDArray[np.intp]
Distances: TypeAlias = NDArray[np.float64]
Match: TypeAlias = tuple[Indices, Indices, Distances]


def as_points(xy: Any, what: str) -> NDArray[np.float64]:
    """Points as float64 (N, 2), (0, 2) for nothing; `DataError` for any other thing."""
    points = np.asarray(xy, dtype=np.float64)
    if points.size == 0:
        return np.zeros((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(
            f"The {what} points cannot be scored.",
            expected="finite numbers of shape (N, 2)",
            found=f"shape {points.shape}"
            + ("" if np.isfinite(points).all() else " with NaN or infinity"),
            remedy="give one x, y per cell",
        )
    return points


def check_radius(radius: float) -> float:
    """The radius if it is finite and above 0, else `DataError`."""
    if not (math.isfinite(radius) and radius > 0):
        raise DataError(
            "The matching radius is impossible.",
            expected="a finite number above 0",
            found=repr(radius),
            remedy="give the radius in the unit of the points",
        )
    return float(radius)


# --- assignment ------------------------------------------------------------------------------


def assign(cost: NDArray[np.floating]) -> tuple[Indices, Indices]:
    """Rows and columns of the assignment of least total cost.

    Shortest augmenting paths with dual variables (Jonker and Volgenant 1987; the rectangular
    form of Crouse 2016), started from the rows' own minima.

    Parameters
    ----------
    cost : (N, M) finite numbers

    Returns
    -------
    rows, columns : (min(N, M),) each, rows ascending
    """
    matrix = np.asarray(cost, dtype=np.float64)
    if matrix.shape[0] > matrix.shape[1]:
        columns, rows = assign(matrix.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    n, m = matrix.shape
    if n == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    u, v = matrix.min(axis=1), np.zeros(m)
    column_of, row_of = np.full(n, -1, np.intp), np.full(m, -1, np.intp)
    for row, column in enumerate(matrix.argmin(axis=1).tolist()):
        if row_of[column] < 0:
            column_of[row], row_of[column] = column, row
    for single in np.flatnonzero(column_of < 0):
        _augment(int(single), matrix, u, v, column_of, row_of)
    return np.arange(n), column_of


def _augment(
    start: int,
    matrix: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    column_of: Indices,
    row_of: Indices,
) -> None:
    """Assign one more row along the cheapest alternating path; updates everything in place."""
    m = matrix.shape[1]
    cheapest, before = np.full(m, np.inf), np.full(m, -1, np.intp)
    still_open = np.ones(m, dtype=bool)
    row, low, sink = start, 0.0, -1
    seen: list[int] = []
    while sink < 0:
        through = low + matrix[row] - u[row] - v
        better = still_open & (through < cheapest)
        cheapest[better], before[better] = through[better], row
        column = int(np.where(still_open, cheapest, np.inf).argmin())
        low = float(cheapest[column])
        still_open[column] = False
        if row_of[column] < 0:
            sink = column
        else:
            seen.append(column)
            row = int(row_of[column])
    u[start] += low
    slack = low - cheapest[seen]
    u[row_of[seen]] += slack
    v[seen] -= slack
    column = sink
    while True:
        row = int(before[column])
        row_of[column] = row
        column_of[row], column = column, int(column_of[row])
        if row == start:
            return


# --- gated one-to-one ------------------------------------------------------------------------


def match_points(truth_xy: Any, found_xy: Any, radius: float) -> Match:
    """One-to-one pairs within `radius`: as many as possible, then the least total distance.

    Exact for any radius. Candidate pairs come from a hash grid and fall apart into small groups,
    so the cost grows with the number of points, not with its square.

    Parameters
    ----------
    truth_xy, found_xy : (N, 2), (M, 2)
    radius : float
        Largest distance of a pair, inclusive.

    Returns
    -------
    truth_index, found_index : (K,) intp
        Ordered by truth_index.
    distance : (K,) float64

    Raises
    ------
    DataError
        Points that are not finite (N, 2), or a radius that is not positive.
    """
    truth, found = as_points(truth_xy, "true"), as_points(found_xy, "found")
    a, b, distance = pairs_within(truth, found, check_radius(radius))
    group = _groups(a, b, len(truth), len(found))
    order = np.argsort(group, kind="stable")
    a, b, distance, group = a[order], b[order], distance[order], group[order]
    edges = (
        np.flatnonzero(np.diff(group, prepend=-1, append=-1)) if len(group) else np.zeros(1, int)
    )
    starts, stops = edges[:-1], edges[1:]
    alone = stops - starts == 1
    chosen = [starts[alone]]
    for start, stop in zip(starts[~alone], stops[~alone], strict=True):
        chosen.append(start + _best_of(a[start:stop], b[start:stop], distance[start:stop]))
    keep = np.concatenate(chosen)
    keep = keep[np.argsort(a[keep])]
    return a[keep], b[keep], distance[keep]


def pairs_within(
    truth: NDArray[np.float64], found: NDArray[np.float64], radius: float
) -> tuple[Indices, Indices, Distances]:
    """Every pair not farther apart than `radius`, by a hash grid of cells of that side."""
    none = np.zeros(0, np.intp)
    if not len(truth) or not len(found):
        return none, none, np.zeros(0)
    origin = np.minimum(truth.min(axis=0), found.min(axis=0))
    # A radius far smaller than the field would overflow the cell numbers; larger cells are safe.
    side = max(radius, float(np.ptp(np.concatenate([truth, found]), axis=0).max()) / 2**28)
    cell_t = ((truth - origin) // side).astype(np.int64) + 1
    cell_f = ((found - origin) // side).astype(np.int64) + 1
    width = int(max(cell_t[:, 0].max(), cell_f[:, 0].max())) + 2
    key = cell_f[:, 1] * width + cell_f[:, 0]
    order = np.argsort(key, kind="stable")
    key = key[order]
    a_parts, b_parts = [], []
    for down in (-1, 0, 1):
        # The three cells of a row are neighbours in the sorted keys: one range covers them.
        middle = (cell_t[:, 1] + down) * width + cell_t[:, 0]
        first = np.searchsorted(key, middle - 1, side="left")
        count = np.searchsorted(key, middle + 1, side="right") - first
        a_parts.append(np.repeat(np.arange(len(truth)), count))
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        b_parts.append(order[np.repeat(first, count) + within])
    a, b = np.concatenate(a_parts), np.concatenate(b_parts)
    distance = np.hypot(*(truth[a] - found[b]).T)
    near = distance <= radius
    return a[near], b[near], distance[near]


def _groups(a: Indices, b: Indices, n: int, m: int) -> Indices:
    """Connected component of every candidate pair, by spreading the smallest node number."""
    node = np.arange(n + m)
    b = b + n
    while len(a):
        low = np.minimum(node[a], node[b])
        spread = node.copy()
        np.minimum.at(spread, a, low)
        np.minimum.at(spread, b, low)
        spread = spread[spread]
        if np.array_equal(spread, node):
            break
        node = spread
    return node[a]


def _best_of(a: Indices, b: Indices, distance: Distances) -> Indices:
    """Positions of the pairs to keep inside one connected group."""
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    # A pair that is not allowed costs more than all allowed ones together: so the number of
    # pairs comes first and their distance second.
    refused = 1.0 + float(distance.max()) * (min(len(rows), len(columns)) + 1)
    cost = np.full((len(rows), len(columns)), refused)
    cost[row, column] = distance
    position = np.full(cost.shape, -1, np.intp)
    position[row, column] = np.arange(len(a))
    picked = position[assign(cost)]
    return picked[picked >= 0]


def hits_by_score(truth_xy: Any, found_xy: Any, scores: Any, radius: float) -> NDArray[np.bool_]:
    """Which found cells are right (M,), the surest first.

    Found cells are added in the order of falling score (equal ones in their own order); one is a
    hit when the largest one-to-one matching within `radius` grows with it. So among the cells
    scored at least t there are, for every t, as many hits as `match_points` has pairs: one pass
    gives precision and recall at every threshold. (Augmenting paths, Berge 1957.)

    Raises
    ------
    DataError
        As `match_points`, or not one finite score per found point.
    """
    truth, found = as_points(truth_xy, "true"), as_points(found_xy, "found")
    order = np.argsort(-as_scores(scores, len(found)), kind="stable")
    a, b, _ = pairs_within(truth, found, check_radius(radius))
    partners: dict[int, list[int]] = {}
    for i, j in zip(a.tolist(), b.tolist(), strict=True):
        partners.setdefault(j, []).append(i)
    owner: dict[int, int] = {}
    held: dict[int, int] = {}
    hits = np.zeros(len(found), dtype=bool)
    for j in order.tolist():
        hits[j] = j in partners and _grow(j, partners, owner, held)
    return hits


def as_scores(scores: Any, count: int) -> NDArray[np.float64]:
    """The scores as float64 (count,); `DataError` when they are not that many finite numbers."""
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(
            "The scores do not fit the found cells.",
            expected=f"{count} finite numbers",
            found=f"{len(values)} numbers" + ("" if np.isfinite(values).all() else " with NaN"),
            remedy="give one score per found cell",
        )
    return values


def _grow(
    start: int, partners: dict[int, list[int]], owner: dict[int, int], held: dict[int, int]
) -> bool:
    """Match one more found cell along an alternating path.

    `owner` maps a true cell to its found one and `held` the other way round.
    """
    came_from: dict[int, int] = {}
    waiting = [start]
    for found in waiting:
        for truth in partners[found]:
            if truth in came_from:
                continue
            came_from[truth] = found
            if truth not in owner:
                _turn(truth, came_from, owner, held)
                return True
            waiting.append(owner[truth])
    return False


def _turn(
    free: int, came_from: dict[int, int], owner: dict[int, int], held: dict[int, int]
) -> None:
    truth: int | None = free
    while truth is not None:
        found = came_from[truth]
        before = held.get(found)
        owner[truth], held[found] = found, truth
        truth = before


def match_points_greedy(truth_xy: Any, found_xy: Any, radius: float) -> Match:
    """MCSpatNet's rule (ICCV 2021): each true point in turn takes the nearest free found one.

    True points are visited row by row (y, then x) and a pair must be *closer* than `radius`.
    The published code looks at the 50 nearest only, which no real field reaches. Never matches
    more than `match_points`.
    """
    truth, found = as_points(truth_xy, "true"), as_points(found_xy, "found")
    a, b, distance = pairs_within(truth, found, check_radius(radius))
    inside = distance < radius
    a, b, distance = a[inside], b[inside], distance[inside]
    turn = np.empty(len(truth), np.intp)
    turn[np.lexsort((truth[:, 0], truth[:, 1]))] = np.arange(len(truth))
    truth_taken, found_taken = np.zeros(len(truth), bool), np.zeros(len(found), bool)
    keep = []
    for i in np.lexsort((b, distance, turn[a])):
        if not truth_taken[a[i]] and not found_taken[b[i]]:
            truth_taken[a[i]] = found_taken[b[i]] = True
            keep.append(i)
    kept = np.array(keep, np.intp)
    kept = kept[np.argsort(a[kept])]
    return a[kept], b[kept], distance[kept]


def match_points_hovernet(truth_xy: Any, found_xy: Any, radius: float) -> Match:
    """HoVer-Net's rule: the least total distance over *all* pairs, then far ones are dropped.

    Not the same as `match_points`: a distant spurious point can pull a true pair apart.
    """
    truth, found = as_points(truth_xy, "true"), as_points(found_xy, "found")
    limit = check_radius(radius)
    distance = np.hypot(*np.moveaxis(truth[:, None] - found[None], 2, 0))
    a, b = assign(distance)
    near = distance[a, b] <= limit
    return a[near], b[near], distance[a, b][near]
