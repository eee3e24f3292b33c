"""Detection and class F1 as HoVer-Net and PanNuke report them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.metrics.bootstrap import bootstrap_intervals
from napari_celldetr.core.metrics.matching import match_points, match_points_hovernet
from napari_celldetr.core.metrics.points import PointField, checked_fields, mean_of_known, or_none

_FAKE = -2  # class of the cell the published code puts into an empty image


@dataclass(frozen=True, slots=True)
class HoverNetScores:
    """HoVer-Net's detection F1 (F_d), accuracy of matched types, and per-class F_c.

    `class_f1` holds NaN for a class that is neither true nor found. `intervals` holds 95 %
    bootstrap intervals over fields by name (``detection``, ``accuracy``, each class, ``class
    mean``), where they were asked for.
    """

    rule: str
    radius: float
    f_d: float
    accuracy: float
    class_names: tuple[str, ...]
    class_f1: tuple[float, ...]
    n_fields: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def class_mean(self) -> float:
        """Mean F_c of the classes that occur."""
        return mean_of_known(self.class_f1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report; NaN becomes None."""
        table: dict[str, Any] = {
            "rule": self.rule,
            "radius": self.radius,
            "fields": self.n_fields,
            "f_d": or_none(self.f_d),
            "accuracy": or_none(self.accuracy),
            "class_mean_f1": or_none(self.class_mean),
            "class_f1": {
                name: or_none(v) for name, v in zip(self.class_names, self.class_f1, strict=True)
            },
        }
        if self.intervals:
            table["intervals"] = {k: [or_none(v) for v in p] for k, p in self.intervals.items()}
        return table


def hovernet_scores(
    fields: Iterable[PointField],
    radius: float,
    *,
    class_names: Sequence[str],
    gated: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
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
    bootstrap : int
        Number of resamplings of the fields for 95 % intervals; 0 for none.

    Raises
    ------
    DataError
        No fields, or a class id without a name.
    """
    items = checked_fields(fields, class_names)
    tallies = np.array([_hovernet_tally(f, radius, len(class_names), gated) for f in items])
    names = ("detection", "accuracy", *class_names)
    figures = _figures(tallies.sum(axis=0), names)

    def resampled(weights: NDArray[np.int64]) -> dict[str, float]:
        drawn = _figures(np.tensordot(weights, tallies, 1), names)
        return drawn | {"class mean": mean_of_known([drawn[n] for n in class_names])}

    return HoverNetScores(
        rule="HoVer-Net F_d / F_c, gated" if gated else "HoVer-Net F_d / F_c, as published",
        radius=float(radius),
        f_d=figures["detection"],
        accuracy=figures["accuracy"],
        class_names=tuple(class_names),
        class_f1=tuple(figures[name] for name in class_names),
        n_fields=len(items),
        intervals=bootstrap_intervals(resampled, len(items), times=bootstrap, seed=seed)
        if bootstrap
        else {},
    )


def _figures(total: NDArray[np.integer], names: Sequence[str]) -> dict[str, float]:
    """F_d, accuracy and F_c out of a summed tally."""
    (pairs, _, spare_all, missed_all), (same, other, _, _) = total[:2].tolist()
    figures = [_ratio(2 * pairs, 2 * pairs + spare_all + missed_all), _ratio(same, same + other)]
    figures += [
        _ratio(2 * tp, 2 * tp + 2 * wrong + spare + missed)
        for tp, wrong, spare, missed in total[2:].tolist()
    ]
    return dict(zip(names, figures, strict=True))


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
