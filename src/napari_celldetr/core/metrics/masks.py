"""Aggregated Jaccard index and Dice: how well found masks cover the true ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.metrics.bootstrap import bootstrap_intervals
from napari_celldetr.core.metrics.matching import assign
from napari_celldetr.core.metrics.overlaps import overlaps
from napari_celldetr.core.metrics.panoptic import MaskField, checked_maps
from napari_celldetr.core.metrics.points import mean_of_known


def dice(truth: Any, found: Any) -> float:
    """Dice coefficient 2 |A ∩ B| / (|A| + |B|) of the foregrounds; NaN when both are empty.

    Parameters
    ----------
    truth, found : (H, W) instance maps or masks
    """
    shared = overlaps(truth, found)
    total = int(shared.truth_area.sum() + shared.found_area.sum())
    return 2 * int(shared.shared.sum()) / total if total else math.nan


def aggregated_jaccard(truth: Any, found: Any, *, one_to_one: bool = False) -> float:
    """Aggregated Jaccard index (Kumar et al., TMI 2017); NaN when both maps are empty.

    Every true object takes the found object of the highest IoU, also one that another true
    object took; intersections and unions are summed, and whatever was found and never taken is
    added to the union. An error is so punished more than once.

    Parameters
    ----------
    truth, found : (H, W) instance maps
    one_to_one : bool
        AJI+ (Graham et al., HoVer-Net 2019): each found object is taken once, by the assignment
        of the highest total IoU.
    """
    shared = overlaps(truth, found)
    iou = shared.iou
    if one_to_one:
        chosen = _assigned(shared.truth, shared.found, iou)
    else:
        order = np.lexsort((shared.found, -iou, shared.truth))
        _, first = np.unique(shared.truth[order], return_index=True)
        chosen = order[first]
    a, b = shared.truth[chosen], shared.found[chosen]
    inter = int(shared.shared[chosen].sum())
    union = int((shared.truth_area[a] + shared.found_area[b]).sum()) - inter
    union += int(np.delete(shared.truth_area, a).sum())
    union += int(np.delete(shared.found_area, np.unique(b)).sum())
    return inter / union if union else math.nan


def _assigned(
    a: NDArray[np.int64], b: NDArray[np.int64], iou: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Rows of the pairs in the one-to-one assignment of the highest total IoU."""
    if not len(a):
        return np.zeros(0, np.intp)
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    cost = np.zeros((len(rows), len(columns)))
    cost[row, column] = -iou
    position = np.full(cost.shape, -1, np.intp)
    position[row, column] = np.arange(len(a))
    picked = position[assign(cost)]
    return picked[picked >= 0]


@dataclass(frozen=True, slots=True)
class MaskScores:
    """Means over fields, as papers give them; fields empty on both sides are left out.

    `values` holds each figure per field, `intervals` 95 % bootstrap intervals of the means, both
    by ``AJI``, ``AJI+`` and ``Dice``.
    """

    aji: float
    aji_plus: float
    dice: float
    values: dict[str, tuple[float, ...]]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def mask_scores(fields: Iterable[MaskField], *, bootstrap: int = 0, seed: int = 0) -> MaskScores:
    """AJI, AJI+ and Dice of every field and their means; `DataError` without fields."""
    items = checked_maps(fields, ())
    values = {
        "AJI": [aggregated_jaccard(f.truth, f.found) for f in items],
        "AJI+": [aggregated_jaccard(f.truth, f.found, one_to_one=True) for f in items],
        "Dice": [dice(f.truth, f.found) for f in items],
    }

    def means(weights: NDArray[np.int64]) -> dict[str, float]:
        return {name: mean_of_known(np.repeat(v, weights)) for name, v in values.items()}

    return MaskScores(
        aji=mean_of_known(values["AJI"]),
        aji_plus=mean_of_known(values["AJI+"]),
        dice=mean_of_known(values["Dice"]),
        values={name: tuple(v) for name, v in values.items()},
        intervals=bootstrap_intervals(means, len(items), times=bootstrap, seed=seed)
        if bootstrap
        else {},
    )
