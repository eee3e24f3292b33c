"""Percentile bootstrap over fields: how far a figure would move with other fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError

LEVEL = 0.95


def field_draws(
    n_fields: int, times: int, *, seed: int = 0, groups: Sequence[Hashable] = ()
) -> NDArray[np.int64]:
    """How often each field is drawn (times, n_fields) when as many are drawn with replacement.

    Parameters
    ----------
    n_fields, times : int
    groups : sequence of n_fields
        Unit that each field belongs to (patient, site). With it, whole groups are drawn, as many
        as there are: fields of one patient are alike, and drawing them apart would make the
        intervals too narrow.

    Raises
    ------
    DataError
        No fields, or groups that do not fit them.
    """
    if n_fields < 1 or times < 1 or (len(groups) and len(groups) != n_fields):
        raise DataError(
            "Fields cannot be drawn for an interval.",
            expected="at least one field, one drawing, and no groups or one per field",
            found=f"{n_fields} fields, {times} drawings, {len(groups)} groups",
            remedy="give fields, and one group for each",
        )
    rng = np.random.default_rng(seed)
    number: dict[Hashable, int] = {}
    member = [number.setdefault(g, len(number)) for g in groups] or list(range(n_fields))
    units = max(member) + 1
    drawn = rng.integers(0, units, (times, units)) + units * np.arange(times)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=times * units).reshape(times, units)
    return counts[:, member]


def percentile_interval(
    values: Iterable[float] | NDArray[np.floating], level: float = LEVEL
) -> tuple[float, float]:
    """Middle `level` of resampled values; those that are not finite are left out.

    (NaN, NaN) where no value is finite.
    """
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    n_fields: int,
    *,
    times: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    groups: Sequence[Hashable] = (),
) -> tuple[float, float]:
    """Percentile interval of any figure over fields (Efron 1979).

    Parameters
    ----------
    statistic : function of weights (n_fields,) to a number
        The figure when field i is there weights[i] times; NaN where it is not defined.
    n_fields, times, seed : int
    level : float
        0.95 gives the middle 95 %.
    groups : sequence of n_fields
        See `field_draws`.
    """
    draws = field_draws(n_fields, times, seed=seed, groups=groups)
    return percentile_interval([statistic(weights) for weights in draws], level)


def bootstrap_intervals(
    statistic: Callable[[NDArray[np.int64]], dict[str, float]],
    n_fields: int,
    *,
    times: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    groups: Sequence[Hashable] = (),
) -> dict[str, tuple[float, float]]:
    """`bootstrap_interval` of several named figures from the same drawings."""
    draws = field_draws(n_fields, times, seed=seed, groups=groups)
    rows = [statistic(weights) for weights in draws]
    return {name: percentile_interval([row[name] for row in rows], level) for name in rows[0]}
