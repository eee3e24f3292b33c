"""Doubts about a data set's µm/px: nuclei that would be far too small, large, dense or sparse."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.fields import Field

SIDES_UM = (2.5, 25.0)
"""Median side of the boxes of a set's nuclei."""
APART_UM = (3.0, 30.0)
"""Median distance from a nucleus to the next; only where all are labelled can it be too long."""
FEWEST = 10
"""Fewer boxes or distances say nothing."""


def warn_of_scale(fields: Sequence[Field], data_set: str, mpp: float | None = None) -> None:
    """Warn where nuclei have an extent or density that they cannot have.

    `mpp` is what the data set's word says, None where its files do. A factor of two goes
    unnoticed: tissues differ as much.
    """
    doubt = scale_doubt(fields)
    if doubt:
        now = "" if mpp is None else f" ({mpp:g} now)"
        # One place for all callers, so that a set read twice is doubted once.
        warnings.warn(
            f"The nuclei of {data_set!r} would {doubt}. Check the µm/px of its images{now}.",
            stacklevel=1,
        )


def scale_doubt(fields: Sequence[Field]) -> str:
    """What nuclei would do that they do not; '' where they may, or where too few are known.

    Boxes are judged by their median side, centres by the median distance to the next.
    """
    known = [f for f in fields if f.mpp is not None]
    sides = _joined([_sides_um(f) for f in known])
    if len(sides) >= 2 * FEWEST:
        side = float(np.median(sides))
        low, high = SIDES_UM
        usual = f"the usual median is {low:g} to {high:g}"
        return "" if low <= side <= high else f"measure {side:.2g} µm; {usual}"
    pairs = [f for f in known if len(f) > 1]
    apart = _joined([_apart_um(f) for f in pairs])
    if len(apart) < FEWEST:
        return ""
    distance = float(np.median(apart))
    low, high = APART_UM
    sparse = distance > high and all(f.complete for f in pairs)
    usual = f"the usual median is {low:g} to {high:g}"
    return f"lie {distance:.2g} µm apart; {usual}" if distance < low or sparse else ""


def _sides_um(field: Field) -> NDArray[np.float64]:
    sides = field.sizes[np.isfinite(field.sizes).all(axis=1)].ravel()
    return np.asarray(sides * (field.mpp or np.nan), np.float64)


def _apart_um(field: Field) -> NDArray[np.float64]:
    """Distance of each nucleus to the next."""
    from scipy.spatial import cKDTree

    points = field.points.astype(np.float64)
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1] * (field.mpp or np.nan))


def _joined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *parts])
