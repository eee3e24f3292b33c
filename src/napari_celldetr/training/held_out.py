"""Cells found in fields by networks that never saw their group, and what they score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import PointField, PointScores, point_scores, threshold_curve
from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval

FLOOR = 0.05
"""Scores below it are never chosen as a threshold."""


@dataclass(frozen=True, eq=False)
class HeldOutField:
    """One field, its true cells and what was found in it.

    Attributes
    ----------
    group : str
        Patient (or other unit) of the field.
    fold : int
        Number of the fold that held it out, from 1.
    cells : PointField
        With scores; positions in px of the network's scale.
    sure : (M,) float32
        Probability of the class that each found cell was given.
    """

    group: str
    fold: int
    cells: PointField
    sure: NDArray[np.float32]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Score of each found cell (M,)."""
        return np.asarray(self.cells.scores, np.float64)


def save_held_out(path: Path, fields: Sequence[HeldOutField], **words: str) -> None:
    """Write fields, and words about them, as one npz file without pickles."""
    arrays: dict[str, Any] = {f"word:{key}": np.array(value) for key, value in words.items()}
    arrays["names"] = np.array([f.cells.name for f in fields])
    arrays["groups"] = np.array([f.group for f in fields])
    arrays["folds"] = np.array([f.fold for f in fields])
    for i, field in enumerate(fields):
        true_ids, found_ids = field.cells.ids()
        arrays[f"{i}:true"] = np.column_stack((field.cells.truth_xy, true_ids))
        found = (field.cells.found_xy, found_ids, field.scores, field.sure)
        arrays[f"{i}:found"] = np.column_stack(found)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def load_held_out(path: Path, **words: str) -> list[HeldOutField] | None:
    """What `save_held_out` wrote; None when it is not there or says other words."""
    if not path.is_file():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if any(str(arrays.get(f"word:{k}", "")) != v for k, v in words.items()):
            return None
        names, groups, folds = arrays["names"], arrays["groups"], arrays["folds"]
        return [
            _restored(str(n), str(g), int(f), arrays[f"{i}:true"], arrays[f"{i}:found"])
            for i, (n, g, f) in enumerate(zip(names, groups, folds, strict=True))
        ]


def _restored(
    name: str, group: str, fold: int, true: NDArray[Any], found: NDArray[Any]
) -> HeldOutField:
    cells = PointField(
        true[:, :2],
        found[:, :2],
        true[:, 2].astype(np.int64),
        found[:, 2].astype(np.int64),
        name,
        found[:, 3],
    )
    return HeldOutField(group, fold, cells, found[:, 4].astype(np.float32))


def above(field: HeldOutField, threshold: float) -> PointField:
    """The field with those found cells alone that score at least `threshold`."""
    kept = field.scores >= threshold
    true_ids, found_ids = field.cells.ids()
    return PointField(
        field.cells.truth_xy,
        field.cells.found_xy[kept],
        true_ids,
        found_ids[kept],
        field.cells.name,
        field.scores[kept],
    )


def best_threshold(fields: Iterable[HeldOutField], radius: float) -> float:
    """The score threshold of the highest pooled detection F1; `DataError` for none.

    It is the score of the last cell that still pays, and never below `FLOOR`.
    """
    cells = [above(f, FLOOR) for f in fields]
    best = threshold_curve(cells, radius).best()[0] if cells else math.nan
    if not any(len(c.truth_xy) for c in cells) or math.isnan(best):
        raise DataError(
            "A threshold cannot be chosen.",
            expected="fields with true and found cells",
            found=f"{sum(len(c.truth_xy) for c in cells)} true and "
            f"{sum(len(c.found_xy) for c in cells)} found cells",
            remedy="train longer, or choose other fields",
        )
    return best


def fold_thresholds(fields: Sequence[HeldOutField], radius: float) -> dict[int, float]:
    """For every fold the best threshold of the *other* folds' fields.

    So no threshold is chosen on the fields that it is scored on.
    """
    folds = sorted({f.fold for f in fields})
    if len(folds) < 2:
        return {k: best_threshold(fields, radius) for k in folds}
    return {k: best_threshold([f for f in fields if f.fold != k], radius) for k in folds}


def thresholded(fields: Sequence[HeldOutField], thresholds: dict[int, float]) -> list[PointField]:
    """Each field with the cells above its fold's threshold."""
    return [above(f, thresholds[f.fold]) for f in fields]


def scores_at(
    fields: Sequence[HeldOutField],
    thresholds: dict[int, float],
    radii: Sequence[float],
    class_names: Sequence[str],
    *,
    bootstrap: int = 1000,
) -> dict[float, PointScores]:
    """Pooled point scores of the thresholded fields at each radius, with intervals over fields."""
    cells = thresholded(fields, thresholds)
    return {r: point_scores(cells, r, class_names=class_names, bootstrap=bootstrap) for r in radii}


@dataclass(frozen=True)
class Difference:
    """Figure of one method minus another's on the same fields, with a 95 % interval."""

    name: str
    value: float
    low: float
    high: float


def paired_differences(
    ours: Sequence[PointField],
    theirs: Sequence[PointField],
    radius: float,
    class_names: Sequence[str],
    *,
    times: int = 1000,
) -> list[Difference]:
    """Differences of F1 (detection, classes, class mean), resampling the fields they share.

    Fields are paired by name; `DataError` when the two do not hold the same ones.
    """
    names = [f.name for f in ours]
    other = {f.name: f for f in theirs}
    if sorted(names) != sorted(other) or len(theirs) != len(names):
        raise DataError(
            "Two methods can be compared on the same fields only.",
            expected=", ".join(sorted(names)[:5]),
            found=", ".join(sorted(other)[:5]),
            remedy="evaluate both on the same fields",
        )
    a = _counts(ours, radius, class_names)
    b = _counts([other[n] for n in names], radius, class_names)
    draws = field_draws(len(names), times)
    gaps = _figures(a, draws) - _figures(b, draws)
    whole = np.ones((1, len(names)), np.int64)
    point = (_figures(a, whole) - _figures(b, whole))[0]
    rows = ("detection", *class_names, "class mean")[: len(point)]
    return [
        Difference(name, float(value), *percentile_interval(gaps[:, i]))
        for i, (name, value) in enumerate(zip(rows, point, strict=True))
    ]


def _counts(
    fields: Sequence[PointField], radius: float, class_names: Sequence[str]
) -> NDArray[np.int64]:
    # Matched, true and found cells (fields, 1 + classes, 3).
    rows = []
    for field in fields:
        one = point_scores([field], radius, class_names=class_names)
        rows.append([(r.matched, r.n_truth, r.n_found) for r in (one.detection, *one.classes)])
    return np.array(rows, np.int64)


def _figures(counts: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    # F1 of each drawing (times, 1 + classes), and behind them the mean of the classes.
    pooled = np.einsum("tf,frc->trc", draws, counts)
    with np.errstate(invalid="ignore"):
        f1 = 2 * pooled[..., 0] / (pooled[..., 1] + pooled[..., 2])
    if f1.shape[1] < 2:
        return cast("NDArray[np.float64]", f1)
    return np.column_stack((f1, np.nanmean(f1[:, 1:], axis=1)))
