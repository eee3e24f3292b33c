"""How many of a million points lie in each bin of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError

Bounds = tuple[float, float, float, float]
"""x0, y0, x1, y1."""
_BLOCK = 1 << 16


def histogram(points: NDArray[Any], bounds: Bounds, shape: tuple[int, int]) -> NDArray[np.uint32]:
    """Number of points (N, 2) in each bin, as (rows, columns); the first row is at y0.

    Bins are half-open; points beyond the bounds and points that are not numbers are left out.
    Raises `EmbeddingError` for bounds without area.
    """
    padded = (shape[0] + 2, shape[1] + 2)
    counts = np.bincount(_places(points, bounds, shape), minlength=padded[0] * padded[1])
    return counts.reshape(padded)[1:-1, 1:-1].astype(np.uint32)


def class_histogram(
    points: NDArray[Any],
    class_ids: NDArray[np.integer],
    bounds: Bounds,
    shape: tuple[int, int],
    *,
    classes: int,
) -> NDArray[np.uint32]:
    """Number of points of each class in each bin, (classes + 1, rows, columns).

    The last plane holds those of unknown class (-1). Otherwise as `histogram`.
    """
    padded = (classes + 1, shape[0] + 2, shape[1] + 2)
    plane = np.asarray(class_ids, np.int64) % (classes + 1)
    place = _places(points, bounds, shape) + plane * (padded[1] * padded[2])
    counts = np.bincount(place, minlength=int(np.prod(padded)))
    return counts.reshape(padded)[:, 1:-1, 1:-1].astype(np.uint32)


def mean_histogram(
    points: NDArray[Any], values: NDArray[Any], bounds: Bounds, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Mean of a measurement (N,) in each bin, (rows, columns); NaN where nobody has one."""
    padded = (shape[0] + 2, shape[1] + 2)
    use = np.isfinite(values)
    place = _places(points, bounds, shape)[use]
    count, total = (
        np.bincount(place, weights=weights, minlength=padded[0] * padded[1])
        for weights in (None, np.asarray(values)[use])
    )
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean.reshape(padded)[1:-1, 1:-1].astype(np.float32)


def bounds_of(points: NDArray[Any], *, margin: float = 0.02) -> Bounds:
    """Bounds of all finite points (N, 2), wider by a share of their extent on each side.

    Along a side where all points agree the bounds are 1 apart; no points get 0..1.
    """
    (x0, x1), (y0, y1) = (_extent(values, margin) for values in np.asarray(points).T)
    return x0, y0, x1, y1


def _extent(values: NDArray[Any], margin: float) -> tuple[float, float]:
    if not np.isfinite(values.sum(dtype=np.float64)):
        values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    more = (high - low) * margin if high > low else 0.5
    return low - more, high + more


def _places(points: NDArray[Any], bounds: Bounds, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Bin (N,) of each point in a picture with a border of bins for all that lies beyond."""
    x0, y0, x1, y1 = bounds
    # A comparison with NaN is false: bounds that are no numbers are refused as well.
    if not (x0 < x1 and y0 < y1 and min(shape) > 0):
        raise EmbeddingError(
            "There is no room for a picture.",
            expected="bounds x0 < x1, y0 < y1 and at least one bin",
            found=f"{x0:g}..{x1:g}, {y0:g}..{y1:g} in {shape[0]} × {shape[1]} bins",
            remedy="show at least two different points",
        )
    spots = np.asarray(points)
    found = np.empty(len(spots), np.int64)
    for start in range(0, len(spots), _BLOCK):
        some = spots[start : start + _BLOCK]
        place = found[start : start + _BLOCK]
        np.multiply(_along(some[:, 1], y0, y1, shape[0]), shape[1] + 2, out=place)
        place += _along(some[:, 0], x0, x1, shape[1])
    return found


def _along(values: NDArray[Any], low: float, high: float, count: int) -> NDArray[np.int32]:
    """Bin along one side, from 1; 0 and `count` + 1 are beyond it."""
    kind = values.dtype if values.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.subtract(values, low, dtype=kind)
        places *= kind.type(count / (high - low))
    places += 1
    # fmax gives 0 for what is not a number, where clip would keep it.
    np.fmax(places, 0, out=places)
    np.fmin(places, count + 1, out=places)
    return places.astype(np.int32)
