"""FROC: how many cells are found for how many false ones, over all thresholds (Bunch et al. 1977).

Sensitivity stands against false positives per field, or per mm² where areas are known, so that
fields of different size can be compared. At every threshold the true and found points are matched
one to one within a radius (`matching.hits_by_score`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.bootstrap import bootstrap_intervals
from napari_celldetr.core.metrics.matching import hits_by_score
from napari_celldetr.core.metrics.points import PointField, checked_fields, or_none

PER_FIELD = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PER_MM2 = (50.0, 100.0, 200.0, 400.0, 800.0)


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Counts of hits and found cells at every score that occurs, highest first.

    Attributes
    ----------
    thresholds : (T,)
        Cells scored at least that are counted.
    hits, found : (T,) int
        Summed over fields.
    n_truth : int
    """

    thresholds: NDArray[np.float64]
    hits: NDArray[np.int64]
    found: NDArray[np.int64]
    n_truth: int

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 (T,) of the gated one-to-one rule at each threshold; NaN where there is nothing."""
        total = self.found + self.n_truth
        return np.divide(2 * self.hits, total, out=np.full(len(total), np.nan), where=total > 0)

    def best(self) -> tuple[float, float]:
        """Threshold of the highest F1, and that F1; of equal ones the highest; NaN without any.

        Chosen on the very fields it is read from, so both are optimistic.
        """
        f1 = self.f1
        if not np.isfinite(f1).any():
            return math.nan, math.nan
        at = int(np.nanargmax(f1))
        return float(self.thresholds[at]), float(f1[at])


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity against false positives.

    Attributes
    ----------
    radius : float
    unit : str
        ``field`` or ``mm²``: what false positives are counted per.
    false_positives, sensitivity, thresholds : (T,)
        The curve, highest threshold first.
    at : dict of float to float
        Sensitivity at the rates asked for: the highest at no more false positives than that.
    mean : float
        Mean of these sensitivities.
    n_fields : int
    intervals : dict of str to (low, high)
        95 % bootstrap intervals over fields of ``mean`` and of each rate, where asked for.
    """

    radius: float
    unit: str
    false_positives: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    at: dict[float, float]
    mean: float
    n_fields: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain numbers; NaN becomes None."""
        return {
            "radius": self.radius,
            "fields": self.n_fields,
            "false_positives_per": self.unit,
            "sensitivity_at": {f"{rate:g}": or_none(v) for rate, v in self.at.items()},
            "mean_sensitivity": or_none(self.mean),
            "intervals": {k: [or_none(v) for v in p] for k, p in self.intervals.items()},
        }


def threshold_curve(fields: Iterable[PointField], radius: float) -> ThresholdCurve:
    """Hits and found cells at every threshold, pooled over fields with scores.

    Raises
    ------
    DataError
        No fields, or fields without scores.
    """
    items = _scored(fields)
    return _Pool.of(items, radius).curve(np.ones(len(items), np.int64))


def froc(
    fields: Iterable[PointField],
    radius: float,
    *,
    per: Literal["field", "mm2"] = "field",
    rates: Sequence[float] = (),
    bootstrap: int = 0,
    seed: int = 0,
) -> Froc:
    """The FROC curve of scored points, with its sensitivity at given rates of false positives.

    Parameters
    ----------
    fields : iterable of PointField
        With scores; with areas for ``mm2``.
    radius : float
    per : str
        What false positives are counted per.
    rates : sequence of float
        False positives at which to read the curve; `PER_FIELD` or `PER_MM2` when empty.
    bootstrap : int
        Number of resamplings of the fields for 95 % intervals; 0 for none.

    Raises
    ------
    DataError
        No fields, or fields without scores or areas.
    """
    items = _scored(fields)
    wanted = tuple(float(r) for r in rates) or (PER_FIELD if per == "field" else PER_MM2)
    size = np.ones(len(items)) if per == "field" else _areas(items)
    pool = _Pool.of(items, radius)

    def read(weights: NDArray[np.int64]) -> tuple[ThresholdCurve, NDArray[np.float64]]:
        curve = pool.curve(weights)
        return curve, (curve.found - curve.hits) / max(float((size * weights).sum()), 1e-300)

    def resampled(weights: NDArray[np.int64]) -> dict[str, float]:
        found = _at_rates(*read(weights), wanted)
        return {f"{r:g}": v for r, v in zip(wanted, found, strict=True)} | {
            "mean": float(np.mean(found))
        }

    curve, false = read(np.ones(len(items), np.int64))
    at = _at_rates(curve, false, wanted)
    return Froc(
        radius=float(radius),
        unit="field" if per == "field" else "mm²",
        false_positives=false,
        sensitivity=curve.hits / curve.n_truth if curve.n_truth else np.full(len(false), np.nan),
        thresholds=curve.thresholds,
        at=dict(zip(wanted, at, strict=True)),
        mean=float(np.mean(at)),
        n_fields=len(items),
        intervals=bootstrap_intervals(resampled, len(items), times=bootstrap, seed=seed)
        if bootstrap
        else {},
    )


def _at_rates(
    curve: ThresholdCurve, false: NDArray[np.float64], rates: Sequence[float]
) -> list[float]:
    if not curve.n_truth:
        return [math.nan] * len(rates)
    # False positives never fall along the curve: the last point within the rate is the best.
    last = np.searchsorted(false, np.asarray(rates), side="right") - 1
    return [float(curve.hits[i] / curve.n_truth) if i >= 0 else 0.0 for i in last]


@dataclass(frozen=True, eq=False)
class _Pool:
    """Found cells of all fields, the highest scored first."""

    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    field: NDArray[np.intp]
    n_truth: NDArray[np.int64]

    @classmethod
    def of(cls, items: Sequence[PointField], radius: float) -> _Pool:
        hit = [hits_by_score(f.truth_xy, f.found_xy, f.scores, radius) for f in items]
        scores = np.concatenate([np.asarray(f.scores, np.float64) for f in items])
        order = np.argsort(-scores, kind="stable")
        number = np.repeat(np.arange(len(items)), [len(h) for h in hit])
        return cls(
            scores[order],
            np.concatenate(hit)[order],
            number[order],
            np.array([len(f.truth_xy) for f in items], np.int64),
        )

    def curve(self, weights: NDArray[np.int64]) -> ThresholdCurve:
        times = weights[self.field]
        # A threshold takes all cells of one score or none of them.
        last = np.flatnonzero(np.diff(self.scores, append=-np.inf))
        return ThresholdCurve(
            self.scores[last],
            np.cumsum(self.hit * times)[last],
            np.cumsum(times)[last],
            int((self.n_truth * weights).sum()),
        )


def _scored(fields: Iterable[PointField]) -> list[PointField]:
    items = checked_fields(fields, ())
    bare = [f.name for f in items if f.scores is None]
    if bare:
        raise DataError(
            "A curve over thresholds needs scores.",
            expected="a score for every found cell of every field",
            found=f"none in {len(bare)} fields, the first {bare[0]!r}",
            remedy="give the scores with the fields",
        )
    return items


def _areas(items: Sequence[PointField]) -> NDArray[np.float64]:
    areas = [f.area_mm2 for f in items]
    known = [a for a in areas if a is not None and math.isfinite(a) and a > 0]
    if len(known) < len(areas):
        raise DataError(
            "False positives per mm² need the area of every field.",
            expected="an area above 0 mm² for each field",
            found=f"{len(areas) - len(known)} of {len(areas)} without",
            remedy="give the areas, or count per field",
        )
    return np.array(known)
