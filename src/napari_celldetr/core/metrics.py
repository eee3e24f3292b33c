"""Published matching rules for cells given as points, each under the name of its source.

All functions take points (N, 2) as x, y in one common unit (usually px of the resolution the
truth was drawn at); radii are in that unit. Class ids index `class_names`; -1 is a nucleus of
unknown type: it counts for detection and never for or against a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError

Indices: TypeAlias = NDArray[np.intp]
Distances: TypeAlias = NDArray[np.float64]
Match: TypeAlias = tuple[Indices, Indices, Distances]


def _points(xy: Any, what: str) -> NDArray[np.float64]:
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


def _check_radius(radius: float) -> float:
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
    truth, found = _points(truth_xy, "true"), _points(found_xy, "found")
    a, b, distance = _pairs_within(truth, found, _check_radius(radius))
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


def _pairs_within(
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


def match_points_greedy(truth_xy: Any, found_xy: Any, radius: float) -> Match:
    """MCSpatNet's rule (ICCV 2021): each true point in turn takes the nearest free found one.

    True points are visited row by row (y, then x) and a pair must be *closer* than `radius`.
    The published code looks at the 50 nearest only, which no real field reaches. Never matches
    more than `match_points`.
    """
    truth, found = _points(truth_xy, "true"), _points(found_xy, "found")
    a, b, distance = _pairs_within(truth, found, _check_radius(radius))
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
    truth, found = _points(truth_xy, "true"), _points(found_xy, "found")
    limit = _check_radius(radius)
    distance = np.hypot(*np.moveaxis(truth[:, None] - found[None], 2, 0))
    a, b = assign(distance)
    near = distance[a, b] <= limit
    return a[near], b[near], distance[a, b][near]


# --- plain point scores ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PointField:
    """True and found cells of one field.

    Attributes
    ----------
    truth_xy, found_xy : (N, 2), (M, 2)
    truth_ids, found_ids : (N,), (M,) int
        Class ids, -1 for unknown; left out, every cell is of unknown type.
    name : str
    """

    truth_xy: NDArray[np.floating]
    found_xy: NDArray[np.floating]
    truth_ids: NDArray[np.integer] | None = None
    found_ids: NDArray[np.integer] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for points, ids, what in (
            ("truth_xy", "truth_ids", "true"),
            ("found_xy", "found_ids", "found"),
        ):
            xy = _points(getattr(self, points), what)
            given = getattr(self, ids)
            classes = np.full(len(xy), UNKNOWN) if given is None else np.asarray(given)
            if classes.size == 0:
                classes = np.zeros(0, np.int64)
            if classes.shape != (len(xy),):
                raise DataError(
                    f"Field {self.name!r}: {what} class ids do not fit the points.",
                    expected=f"shape ({len(xy)},)",
                    found=str(classes.shape),
                    remedy="give one class id per point",
                )
            object.__setattr__(self, points, xy)
            object.__setattr__(self, ids, classes.astype(np.int64))

    def ids(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """True and found class ids, never None."""
        unknown = np.zeros(0, np.int64)
        return (
            unknown if self.truth_ids is None else self.truth_ids,
            unknown if self.found_ids is None else self.found_ids,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """Counts of one matching and the rates they give.

    `f1` is NaN where nothing is true and nothing is found: there is nothing to score.
    Precision and recall are NaN where their denominator is 0.
    """

    name: str
    matched: int
    n_truth: int
    n_found: int

    @property
    def precision(self) -> float:
        """Matched / found."""
        return self.matched / self.n_found if self.n_found else math.nan

    @property
    def recall(self) -> float:
        """Matched / true."""
        return self.matched / self.n_truth if self.n_truth else math.nan

    @property
    def f1(self) -> float:
        """2 matched / (true + found)."""
        total = self.n_truth + self.n_found
        return 2 * self.matched / total if total else math.nan


@dataclass(frozen=True, slots=True)
class PointScores:
    """Point F1 pooled over fields, with a row per class.

    Attributes
    ----------
    rule : str
        Name of the matching rule.
    radius : float
    detection : Rate
        Whatever the class.
    classes : tuple of Rate
    n_fields : int
    intervals : dict of str to (low, high)
        Bootstrap intervals of F1 by name: ``detection``, each class and ``class mean``; empty
        when none were asked for.
    """

    rule: str
    radius: float
    detection: Rate
    classes: tuple[Rate, ...]
    n_fields: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def precision(self) -> float:
        """Precision of detection."""
        return self.detection.precision

    @property
    def recall(self) -> float:
        """Recall of detection."""
        return self.detection.recall

    @property
    def f1(self) -> float:
        """F1 of detection."""
        return self.detection.f1

    @property
    def class_mean(self) -> float:
        """Mean F1 of the classes that are true or found anywhere; NaN without any."""
        return _mean_of_known([c.f1 for c in self.classes])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report or a model card; NaN becomes None."""
        table: dict[str, Any] = {
            "rule": self.rule,
            "radius": self.radius,
            "fields": self.n_fields,
            "class_mean_f1": _or_none(self.class_mean),
        }
        for rate in (self.detection, *self.classes):
            table[rate.name] = {
                "precision": _or_none(rate.precision),
                "recall": _or_none(rate.recall),
                "f1": _or_none(rate.f1),
                "truth": rate.n_truth,
                "found": rate.n_found,
                "matched": rate.matched,
            }
        for name, pair in self.intervals.items():
            table.setdefault("intervals", {})[name] = [_or_none(v) for v in pair]
        return table

    def to_text(self) -> str:
        """The table for people, one line a row."""
        head = f"{'':14}{'precision':>10}{'recall':>10}{'F1':>10}{'true':>8}{'found':>8}"
        lines = [f"{self.rule}, within {self.radius:g}, {self.n_fields} fields", head]
        for rate in (self.detection, *self.classes):
            lines.append(
                f"{rate.name:14}{rate.precision:10.3f}{rate.recall:10.3f}{rate.f1:10.3f}"
                f"{rate.n_truth:8d}{rate.n_found:8d}" + self._interval(rate.name)
            )
        if self.classes:
            mean = f"{'class mean':14}{'':20}{self.class_mean:10.3f}{'':16}"
            lines.append(mean + self._interval("class mean"))
        return "\n".join(line.rstrip() for line in lines)

    def _interval(self, name: str) -> str:
        if name not in self.intervals:
            return ""
        low, high = self.intervals[name]
        return f"  [{low:.3f}, {high:.3f}]"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean_of_known(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def point_scores(
    fields: Iterable[PointField],
    radius: float,
    *,
    class_names: Sequence[str] = (),
    greedy: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> PointScores:
    """Plain point precision, recall and F1, pooled over `fields`.

    Detection matches all points whatever their class. Each class is matched on its own: the
    cells found as class c against the cells that are truly c, as MCSpatNet evaluates; so a
    cell with a wrong class is a false positive of one class and a miss of another. A found
    cell whose only partner is a true cell of unknown type counts neither for nor against a
    class.

    Parameters
    ----------
    fields : iterable of PointField
    radius : float
    class_names : sequence of str
        Names of the classes to score; ids beyond them are refused.
    greedy : bool
        Match as MCSpatNet's published code does (`match_points_greedy`) instead of exactly.
    bootstrap : int
        Number of resamplings of the fields for 95 % intervals; 0 for none.

    Raises
    ------
    DataError
        No fields, or a class id without a name.
    """
    matcher = match_points_greedy if greedy else match_points
    counts = [_count(f, radius, len(class_names), matcher) for f in _checked(fields, class_names)]
    rows = np.array(counts)
    names = ("detection", *class_names)
    rates = [Rate(n, *map(int, row)) for n, row in zip(names, rows.sum(axis=0), strict=True)]
    return PointScores(
        rule="MCSpatNet greedy point F1" if greedy else "gated one-to-one point F1",
        radius=float(radius),
        detection=rates[0],
        classes=tuple(rates[1:]),
        n_fields=len(rows),
        intervals=_intervals(rows, names, bootstrap, seed) if bootstrap else {},
    )


def _checked(fields: Iterable[PointField], class_names: Sequence[str]) -> list[PointField]:
    items = list(fields)
    if not items:
        raise DataError(
            "There is nothing to score.",
            expected="at least one field",
            found="none",
            remedy="check the data folder and the split",
        )
    for item in items if class_names else ():
        for ids in item.ids():
            if len(ids) and not UNKNOWN <= ids.min() <= ids.max() < len(class_names):
                raise DataError(
                    f"Field {item.name!r} has a class id without a name.",
                    expected=f"-1..{len(class_names) - 1} ({', '.join(class_names)})",
                    found=f"{ids.min()}..{ids.max()}",
                    remedy="give the class names of truth and model in one common order",
                )
    return items


def _count(
    item: PointField, radius: float, n_classes: int, matcher: Callable[..., Match]
) -> list[tuple[int, int, int]]:
    """(matched, true, found) of detection and of each class in one field."""
    truth_ids, found_ids = item.ids()
    matched = len(matcher(item.truth_xy, item.found_xy, radius)[0])
    rows = [(matched, len(item.truth_xy), len(item.found_xy))]
    untyped = item.truth_xy[truth_ids == UNKNOWN]
    for c in range(n_classes):
        truth, found = item.truth_xy[truth_ids == c], item.found_xy[found_ids == c]
        _, used, _ = matcher(truth, found, radius)
        spare = np.delete(found, used, axis=0)
        excused = len(matcher(untyped, spare, radius)[0])
        rows.append((len(used), len(truth), len(found) - excused))
    return rows


def _intervals(
    rows: NDArray[np.integer], names: Sequence[str], times: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of F1 over fields drawn with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(rows), (times, len(rows)))
    matched, truth, found = np.moveaxis(rows[drawn].sum(axis=1), 2, 0).astype(np.float64)
    total = truth + found
    f1 = np.divide(2 * matched, total, out=np.full_like(total, np.nan), where=total > 0)
    result = {name: _percentiles(f1[:, i]) for i, name in enumerate(names)}
    if len(names) > 1:
        result["class mean"] = _percentiles(
            np.array([_mean_of_known(list(row)) for row in f1[:, 1:]])
        )
    return result


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def detection_f1(truth_xy: Any, found_xy: Any, radius: float) -> float:
    """F1 of one field by `match_points`; NaN when there is nothing true and nothing found."""
    truth, found = _points(truth_xy, "true"), _points(found_xy, "found")
    return Rate("", len(match_points(truth, found, radius)[0]), len(truth), len(found)).f1


# --- HoVer-Net / PanNuke ---------------------------------------------------------------------

_FAKE = -2  # class of the cell the published code puts into an empty image


@dataclass(frozen=True, slots=True)
class HoverNetScores:
    """HoVer-Net's detection F1 (F_d), accuracy of matched types, and per-class F_c.

    `class_f1` holds NaN for a class that is neither true nor found.
    """

    rule: str
    radius: float
    f_d: float
    accuracy: float
    class_names: tuple[str, ...]
    class_f1: tuple[float, ...]
    n_fields: int

    @property
    def class_mean(self) -> float:
        """Mean F_c of the classes that occur."""
        return _mean_of_known(self.class_f1)


def hovernet_scores(
    fields: Iterable[PointField],
    radius: float,
    *,
    class_names: Sequence[str],
    gated: bool = False,
) -> HoverNetScores:
    """F_d and F_c as HoVer-Net and PanNuke report them, pooled over images.

    Among matched pairs where the true or the found class is c:
    ``F_c = 2 (TP_c + TN_c) / (2 (TP_c + TN_c) + 2 FP_c + 2 FN_c + FP_d,c + FN_d,c)``.
    Every such pair involves c, so TN_c is always 0, as in the published code.

    Parameters
    ----------
    radius : float
        12 px at 0.25 µm/px, 6 px at 0.5.
    gated : bool
        False is the published rule: least total distance over all pairs, then pairs beyond the
        radius are dropped, and an image without true (or found) cells gets one fake cell of no
        class at (0, 0), which counts. True pairs within the radius only and adds no fake cell;
        it scores noisy fields several points higher, so print both.

    Raises
    ------
    DataError
        No fields, or a class id without a name.
    """
    items = _checked(fields, class_names)
    tallies = np.array([_hovernet_tally(f, radius, len(class_names), gated) for f in items])
    total = tallies.sum(axis=0)
    (pairs, _, spare_all, missed_all), (same, other, _, _) = total[:2].tolist()
    return HoverNetScores(
        rule="HoVer-Net F_d / F_c, gated" if gated else "HoVer-Net F_d / F_c, as published",
        radius=float(radius),
        f_d=_ratio(2 * pairs, 2 * pairs + spare_all + missed_all),
        accuracy=_ratio(same, same + other),
        class_names=tuple(class_names),
        class_f1=tuple(
            _ratio(2 * tp, 2 * tp + 2 * wrong + spare + missed)
            for tp, wrong, spare, missed in total[2:].tolist()
        ),
        n_fields=len(items),
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def _hovernet_tally(
    item: PointField, radius: float, n_classes: int, gated: bool
) -> list[tuple[int, int, int, int]]:
    """Rows (right, wrong, spare, missed): pairs at all, their types, then each class."""
    truth, found = item.truth_xy, item.found_xy
    truth_ids, found_ids = item.ids()
    if not gated:
        truth, truth_ids = _or_fake_cell(truth, truth_ids)
        found, found_ids = _or_fake_cell(found, found_ids)
    matcher = match_points if gated else match_points_hovernet
    a, b, _ = matcher(truth, found, radius)
    true_class, found_class = truth_ids[a], found_ids[b]
    missed, spare = np.delete(truth_ids, a), np.delete(found_ids, b)
    # A pair whose true type is unknown says nothing about the class it was given.
    typed = true_class != UNKNOWN
    same = int((true_class == found_class)[typed].sum())
    rows = [(len(a), 0, len(spare), len(missed)), (same, int(typed.sum()) - same, 0, 0)]
    for c in range(n_classes):
        is_true, is_found = true_class == c, found_class == c
        wrong = (is_true ^ is_found) & typed
        rows.append(
            (
                int((is_true & is_found).sum()),
                int(wrong.sum()),
                int((spare == c).sum()),
                int((missed == c).sum()),
            )
        )
    return rows


def _or_fake_cell(
    xy: NDArray[np.floating], ids: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    if len(xy):
        return xy, ids
    return np.zeros((1, 2)), np.array([_FAKE])
