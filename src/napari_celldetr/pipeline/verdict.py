"""Did a lesson help? Figures on the guard set with intervals, drawn anew by square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval
from napari_celldetr.core.metrics.reliability import calibration_error
from napari_celldetr.pipeline.lesson import Figure, Scores, Verdict

DRAWS = 1000
FEW_SQUARES = 10
"""Of fewer squares single cells are drawn: a handful of squares gives no interval at all."""
_NONE = Figure(float("nan"), float("nan"), float("nan"))


def judge(
    labels: NDArray[np.integer],
    squares: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    model: NDArray[np.floating],
    after: NDArray[np.floating],
    before: NDArray[np.floating] | None = None,
) -> Verdict:
    """The verdict on N cells kept aside.

    Parameters
    ----------
    labels : (N,) int
        Ids of `class_names`.
    squares : (N,)
        Where they lie: whole squares are drawn for the intervals.
    class_names : sequence of K str
    model, after, before : (N, K)
        Class probabilities of the model alone, of the new lesson, of the one that held before.
    """
    draws = _draws(squares)
    was = model if before is None else before
    first, last = (_hits(labels, p) for p in (was, after))
    return Verdict(
        _scores(labels, model, draws, class_names),
        None if before is None else _scores(labels, before, draws, class_names),
        _scores(labels, after, draws, class_names),
        _gain(first, last, draws),
    )


def _draws(squares: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each cell is there (`DRAWS` + 1, N); in the first row once."""
    n = len(squares)
    if not n:
        return np.zeros((0, 0), np.int64)
    by_square = len(np.unique(squares)) >= FEW_SQUARES
    groups = squares.tolist() if by_square else list(range(n))
    return np.concatenate((np.ones((1, n), np.int64), field_draws(n, DRAWS, groups=groups)))


def _hits(labels: NDArray[np.integer], p: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray(p.argmax(axis=1) == labels)


def _gain(first: NDArray[np.bool_], last: NDArray[np.bool_], draws: NDArray[np.int64]) -> Figure:
    if not len(first):
        return _NONE
    return _figure(draws @ (last.astype(np.int64) - first) / draws.sum(axis=1))


def _scores(
    labels: NDArray[np.integer],
    p: NDArray[np.floating],
    draws: NDArray[np.int64],
    class_names: Sequence[str],
) -> Scores:
    if not len(labels):
        return Scores(0, _NONE, _NONE, {}, float("nan"))
    found, hits = p.argmax(axis=1), _hits(labels, p)
    f1, known = {}, []
    for i, name in enumerate(class_names):
        if not (labels == i).any():
            continue
        right = draws @ (hits & (labels == i))
        both = draws @ ((labels == i).astype(np.int64) + (found == i))
        with np.errstate(invalid="ignore"):
            values = np.where(both, 2 * right / np.where(both, both, 1), np.nan)
        f1[name] = _figure(values)
        known.append(values)
    sure = np.clip(p.max(axis=1), 0, 1)
    ece = calibration_error(sure, hits, binning="mass", bins=min(10, max(1, len(labels) // 10)))
    return Scores(
        len(labels),
        _figure(draws @ hits / draws.sum(axis=1)),
        _figure(_mean(np.array(known))),
        f1,
        ece.ece,
    )


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes that are there; NaN where none is."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _figure(values: NDArray[np.floating]) -> Figure:
    low, high = percentile_interval(np.asarray(values[1:], np.float64))
    return Figure(float(values[0]), low, high)
