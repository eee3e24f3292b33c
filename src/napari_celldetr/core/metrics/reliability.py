"""Expected calibration error: does 0.8 mean that 8 of 10 are right? (Guo et al., ICML 2017).

The values 0..1 are put into bins; ECE is the mean over bins, weighted by their counts, of the
distance between the mean value and the share that is right. Bins of equal width follow the
paper; bins of equal mass do not leave most of the axis to a handful of cells (Nixon et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.bootstrap import bootstrap_interval

BINS = 15
Binning = Literal["width", "mass"]


@dataclass(frozen=True, slots=True)
class Bin:
    """One row of a reliability table: values in (low, high], how many, their mean, right share."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of a set of values.

    Attributes
    ----------
    ece : float
        Expected calibration error; NaN without values.
    worst : float
        Largest distance in any bin that holds something.
    count : int
    bins : tuple of Bin
        Bins that hold something, in order.
    interval : (low, high) or None
        95 % bootstrap interval of `ece` over fields, where asked for. Chance alone makes an ECE
        above 0, and drawing fields adds to it: the interval leans upwards.
    """

    ece: float
    worst: float
    count: int
    bins: tuple[Bin, ...]
    interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figure with its table; NaN becomes None."""
        return {
            "ece": None if math.isnan(self.ece) else self.ece,
            "worst": None if math.isnan(self.worst) else self.worst,
            "count": self.count,
            "interval": None
            if self.interval is None
            else [None if math.isnan(v) else v for v in self.interval],
            "bins": [
                {
                    "low": b.low,
                    "high": b.high,
                    "count": b.count,
                    "confidence": b.confidence,
                    "right": b.right,
                }
                for b in self.bins
            ],
        }


def calibration_error(
    confidence: Any,
    right: Any,
    *,
    bins: int = BINS,
    binning: Binning = "width",
    fields: Sequence[int] | NDArray[np.integer] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Reliability:
    """ECE and reliability table of values against what came true.

    Parameters
    ----------
    confidence : (N,) numbers in 0..1
    right : (N,) bool
    bins : int
    binning : str
        ``width``: (0, 1/bins], …, with 0 in the first. ``mass``: as many values in each as equal
        values allow, which never part.
    fields : (N,) int, optional
        Number of the field each value comes from, for intervals; each value is its own without.
    bootstrap : int
        Number of resamplings of the fields for a 95 % interval; 0 for none.

    Raises
    ------
    DataError
        Values outside 0..1, or not one truth per value.
    """
    value, true = _checked(confidence, right, bins)
    edges = np.linspace(0, 1, bins + 1) if binning == "width" else _mass_edges(value, bins)
    place = np.clip(np.searchsorted(edges, value, side="left") - 1, 0, len(edges) - 2)
    interval = None
    if bootstrap and len(value):
        member = np.arange(len(value)) if fields is None else np.asarray(fields, np.int64)
        units, member = np.unique(member, return_inverse=True)

        def resampled(weights: NDArray[np.int64]) -> float:
            count, total, hits = _sums(
                value, true, place, len(edges) - 1, weights[member].astype(np.float64)
            )
            return _error(count, total, hits)

        interval = bootstrap_interval(resampled, len(units), times=bootstrap, seed=seed)
    count, total, hits = _sums(value, true, place, len(edges) - 1, np.ones(len(value)))
    rows = tuple(
        Bin(float(edges[i]), float(edges[i + 1]), int(c), float(total[i] / c), float(hits[i] / c))
        for i, c in enumerate(count)
        if c
    )
    worst = max((abs(b.confidence - b.right) for b in rows), default=math.nan)
    return Reliability(_error(count, total, hits), worst, len(value), rows, interval)


def _checked(
    confidence: Any, right: Any, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    value = np.asarray(confidence, dtype=np.float64).reshape(-1)
    true = np.asarray(right, dtype=np.float64).reshape(-1)
    inside = bool(((value >= 0) & (value <= 1)).all())  # False for NaN too
    if len(value) != len(true) or not inside or not np.isin(true, (0, 1)).all() or bins < 1:
        raise DataError(
            "Calibration cannot be measured.",
            expected="values in 0..1, one true or false for each, and at least one bin",
            found=f"{len(value)} values, {len(true)} truths, {bins} bins"
            + ("" if inside else ", values outside 0..1"),
            remedy="give probabilities and what came true",
        )
    return value, true


def _mass_edges(value: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Edges 0 … 1 between which about the same number of values lie."""
    if not len(value):
        return np.array([0.0, 1.0])
    ranked = np.sort(value)
    inner = ranked[(np.arange(1, bins) * len(value) + bins - 1) // bins - 1]
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _sums(
    value: NDArray[np.float64],
    true: NDArray[np.float64],
    place: NDArray[np.intp],
    n: int,
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(place, values, n).astype(np.float64)

    return summed(weights), summed(weights * value), summed(weights * true)


def _error(
    count: NDArray[np.float64], total: NDArray[np.float64], hits: NDArray[np.float64]
) -> float:
    n = count.sum()
    return float(np.abs(total - hits).sum() / n) if n else math.nan
