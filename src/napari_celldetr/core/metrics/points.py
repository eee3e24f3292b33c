"""Plain point precision, recall and F1 over fields, for detection and for each class.

Class ids index `class_names`; -1 is a nucleus of unknown type: it counts for detection and never
for or against a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval
from napari_celldetr.core.metrics.matching import (
    Match,
    as_points,
    as_scores,
    match_points,
    match_points_greedy,
)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PointField:
    """True and found cells of one field.

    Attributes
    ----------
    truth_xy, found_xy : (N, 2), (M, 2)
    truth_ids, found_ids : (N,), (M,) int
        Class ids, -1 for unknown; left out, every cell is of unknown type.
    name : str
    scores : (M,) or None
        How sure the model is of each found cell; needed for curves over thresholds.
    area_mm2 : float or None
        Area of the field; needed for counts per mm².
    """

    truth_xy: NDArray[np.floating]
    found_xy: NDArray[np.floating]
    truth_ids: NDArray[np.integer] | None = None
    found_ids: NDArray[np.integer] | None = None
    name: str = ""
    scores: NDArray[np.floating] | None = None
    area_mm2: float | None = None

    def __post_init__(self) -> None:
        if self.scores is not None:
            scores = as_scores(self.scores, np.size(self.found_xy) // 2)
            object.__setattr__(self, "scores", scores)
        for points, ids, what in (
            ("truth_xy", "truth_ids", "true"),
            ("found_xy", "found_ids", "found"),
        ):
            xy = as_points(getattr(self, points), what)
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
        return mean_of_known([c.f1 for c in self.classes])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report or a model card; NaN becomes None."""
        table: dict[str, Any] = {
            "rule": self.rule,
            "radius": self.radius,
            "fields": self.n_fields,
            "class_mean_f1": or_none(self.class_mean),
        }
        for rate in (self.detection, *self.classes):
            table[rate.name] = {
                "precision": or_none(rate.precision),
                "recall": or_none(rate.recall),
                "f1": or_none(rate.f1),
                "truth": rate.n_truth,
                "found": rate.n_found,
                "matched": rate.matched,
            }
        for name, pair in self.intervals.items():
            table.setdefault("intervals", {})[name] = [or_none(v) for v in pair]
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


def or_none(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value


def mean_of_known(values: Iterable[float]) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    known = [v for v in values if not math.isnan(v)]
    return float(sum(known) / len(known)) if known else math.nan


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
    cell that detection pairs with a true cell of unknown type counts neither for nor against a
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
    counts = [
        _count(f, radius, len(class_names), matcher) for f in checked_fields(fields, class_names)
    ]
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


def point_scores_at(
    fields: Iterable[PointField],
    radii: Sequence[float],
    *,
    class_names: Sequence[str] = (),
    greedy: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[float, PointScores]:
    """`point_scores` at several radii, by radius in the order given, each once."""
    items = checked_fields(fields, class_names)
    return {
        float(r): point_scores(
            items, r, class_names=class_names, greedy=greedy, bootstrap=bootstrap, seed=seed
        )
        for r in radii
    }


def checked_fields(fields: Iterable[PointField], class_names: Sequence[str]) -> list[PointField]:
    """The fields as a list; `DataError` for none, or for a class id without a name."""
    items = listed(fields)
    for item in items if class_names else ():
        for ids in item.ids():
            refuse_unnamed(ids, class_names, item.name)
    return items


def listed(fields: Iterable[T]) -> list[T]:
    """The fields as a list; `DataError` for none."""
    items = list(fields)
    if not items:
        raise DataError(
            "There is nothing to score.",
            expected="at least one field",
            found="none",
            remedy="check the data folder and the split",
        )
    return items


def refuse_unnamed(ids: NDArray[np.integer], class_names: Sequence[str], field: str) -> None:
    """Raise `DataError` when a field has a class id without a name; -1 needs none."""
    if len(ids) and not UNKNOWN <= ids.min() <= ids.max() < len(class_names):
        raise DataError(
            f"Field {field!r} has a class id without a name.",
            expected=f"-1..{len(class_names) - 1} ({', '.join(class_names)})",
            found=f"{ids.min()}..{ids.max()}",
            remedy="give the class names of truth and model in one common order",
        )


def _count(
    item: PointField, radius: float, n_classes: int, matcher: Callable[..., Match]
) -> list[tuple[int, int, int]]:
    """(matched, true, found) of detection and of each class in one field."""
    truth_ids, found_ids = item.ids()
    true, other, _ = matcher(item.truth_xy, item.found_xy, radius)
    rows = [(len(true), len(item.truth_xy), len(item.found_xy))]
    # Partners of cells of unknown type: each such cell excuses one found cell, of one class.
    excused = np.zeros(len(item.found_xy), bool)
    excused[other[truth_ids[true] == UNKNOWN]] = True
    for c in range(n_classes):
        truth, rows_of = item.truth_xy[truth_ids == c], np.flatnonzero(found_ids == c)
        _, used, _ = matcher(truth, item.found_xy[rows_of], radius)
        spare = np.delete(rows_of, used)
        rows.append((len(used), len(truth), len(rows_of) - int(excused[spare].sum())))
    return rows


def _intervals(
    rows: NDArray[np.integer], names: Sequence[str], times: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of F1 over fields drawn with replacement."""
    draws = field_draws(len(rows), times, seed=seed)
    drawn = np.einsum("tf,fnc->tnc", draws, rows).astype(np.float64)
    matched, truth, found = np.moveaxis(drawn, 2, 0)
    total = truth + found
    f1 = np.divide(2 * matched, total, out=np.full_like(total, np.nan), where=total > 0)
    result = {name: percentile_interval(f1[:, i]) for i, name in enumerate(names)}
    if len(names) > 1:
        means = np.array([mean_of_known(list(row)) for row in f1[:, 1:]])
        result["class mean"] = percentile_interval(means)
    return result


def detection_f1(truth_xy: Any, found_xy: Any, radius: float) -> float:
    """F1 of one field by `match_points`; NaN when there is nothing true and nothing found."""
    truth, found = as_points(truth_xy, "true"), as_points(found_xy, "found")
    return Rate("", len(match_points(truth, found, radius)[0]), len(truth), len(found)).f1
