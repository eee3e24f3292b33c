"""Average precision and recall by the rules of the COCO evaluation (Lin et al., ECCV 2014).

The rules, written out because each one moves the figures:

- Of every field and class the best `max_detections` found objects count. The reference code keeps
  100, which a field of cells exceeds; here it is 2,000.
- Found objects choose in the order of falling score. Each takes the free true object of the
  highest IoU that is *at least* the threshold; where two are equal, the later one. True objects
  that are ignored are only taken when no other will do, and a crowd may be taken many times; its
  IoU is the shared part of the found object.
- For a range of areas, true objects outside it are ignored, and so are found objects outside it
  that took nothing. Both ends belong to the range. What took an ignored object is ignored.
- Precision is made monotone from the right and read at 101 recalls 0, 0.01 … 1; a recall that
  was not reached has precision 0. AP is the mean over recalls, thresholds and classes; AR is the
  mean of the final recall over thresholds and classes. Without a true object there is none (NaN;
  -1 in the reference code).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.bootstrap import bootstrap_intervals
from napari_celldetr.core.metrics.candidates import ScoredObjects
from napari_celldetr.core.metrics.points import mean_of_known, or_none, refuse_unnamed

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0, 1, 101)
COCO_AREAS_PX2 = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""The reference's own ranges: of everyday objects, nearly every nucleus is small there."""
NUCLEUS_AREAS_UM2 = {"small": (0.0, 30.0), "medium": (30.0, 80.0), "large": (80.0, 1e10)}
"""Ours: below most lymphocytes, up to common tumour nuclei, and above."""
_ALL = (0.0, 1e10)


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """AP and AR of one range of areas; NaN without a true object in it.

    Attributes
    ----------
    ap, ar : float
        Mean over thresholds and classes.
    by_threshold : tuple of float
        AP at each IoU threshold, mean of classes.
    class_ap : tuple of float
        AP of each class, mean of thresholds.
    n_truth : int
        True objects that count.
    """

    ap: float
    ar: float
    by_threshold: tuple[float, ...]
    class_ap: tuple[float, ...]
    n_truth: int


@dataclass(frozen=True, slots=True)
class CocoScores:
    """COCO figures of a set of fields.

    `overall` is over all areas, `areas` has one entry per range asked for. `intervals` holds 95 %
    bootstrap intervals over fields of ``AP``, ``AP50``, ``AP75``, ``AR`` and ``AP <range>``.
    """

    thresholds: tuple[float, ...]
    class_names: tuple[str, ...]
    max_detections: int
    overall: AveragePrecision
    areas: dict[str, AveragePrecision]
    n_fields: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def at(self, threshold: float) -> float:
        """AP at one of the IoU thresholds; NaN for one that was not asked for."""
        near = [i for i, t in enumerate(self.thresholds) if abs(t - threshold) < 1e-9]
        return self.overall.by_threshold[near[0]] if near else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report; NaN becomes None."""
        names = self.class_names
        return {
            "rule": "COCO average precision",
            "fields": self.n_fields,
            "max_detections": self.max_detections,
            "AP": or_none(self.overall.ap),
            "AP50": or_none(self.at(0.5)),
            "AP75": or_none(self.at(0.75)),
            "AR": or_none(self.overall.ar),
            "truth": self.overall.n_truth,
            "class_ap": {
                n: or_none(v) for n, v in zip(names, self.overall.class_ap, strict=bool(names))
            },
            "areas": {
                name: {"AP": or_none(a.ap), "AR": or_none(a.ar), "truth": a.n_truth}
                for name, a in self.areas.items()
            },
            "intervals": {k: [or_none(v) for v in p] for k, p in self.intervals.items()},
        }


@dataclass(frozen=True, eq=False)
class _Curve:
    """Found objects of one class and range over all fields, the best scored first.

    `right` and `wrong` (T, D) per threshold; both are False for ignored ones. `n_truth` (F,)
    true objects per field, `field` (D,) the field of each found object.
    """

    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    field: NDArray[np.int64]
    n_truth: NDArray[np.int64]

    def read(self, weights: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AP and final recall (T,) when field i is there weights[i] times; NaN without truth."""
        total = int((self.n_truth * weights).sum())
        if not total:
            nothing = np.full(len(self.right), np.nan)
            return nothing, nothing
        times = weights[self.field]
        tp = np.cumsum(self.right * times, axis=1)
        fp = np.cumsum(self.wrong * times, axis=1)
        recall = tp / total
        precision = tp / np.maximum(tp + fp, np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ap = np.array([_at_recalls(r, p) for r, p in zip(recall, envelope, strict=True)])
        last = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
        return ap, last


def _at_recalls(recall: NDArray[np.float64], envelope: NDArray[np.float64]) -> float:
    where = np.searchsorted(recall, RECALLS, side="left")
    reached = where < len(recall)
    return float(envelope[where[reached]].sum() / len(RECALLS))


def coco_scores(
    fields: Iterable[ScoredObjects],
    *,
    class_names: Sequence[str] = (),
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    max_detections: int = 2000,
    areas: Mapping[str, tuple[float, float]] | None = None,
    mpp: float | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> CocoScores:
    """AP and AR over fields; see the module for the rules.

    Parameters
    ----------
    fields : iterable of ScoredObjects
        From `box_objects` or `mask_objects`.
    class_names : sequence of str
        Classes to score apart and average. Without them, classes do not matter. A true object of
        unknown class (-1) is ignored in every class, so that what is found there costs nothing.
    thresholds : sequence of float
        IoU thresholds above 0.
    max_detections : int
        Found objects kept per field and class.
    areas : mapping of str to (low, high)
        Ranges of areas besides all: in px², or in µm² where `mpp` is given.
    mpp : float or None
        µm/px of the fields.
    bootstrap : int
        Number of resamplings of the fields for 95 % intervals; 0 for none.

    Raises
    ------
    DataError
        No fields, a class id without a name, or settings out of range.
    """
    items = _checked(list(fields), class_names, thresholds, max_detections, mpp)
    scale = 1.0 if mpp is None else mpp**2
    ranges = {"": _ALL} | {n: (lo / scale, hi / scale) for n, (lo, hi) in (areas or {}).items()}
    ids: Sequence[int | None] = range(len(class_names)) if class_names else [None]
    kept = {c: [f.of_class(c, max_detections) for f in items] for c in ids}
    curves = {
        name: [_curve(kept[c], low_high, thresholds) for c in ids]
        for name, low_high in ranges.items()
    }
    once = np.ones(len(items), np.int64)
    found = {name: _summary(each, once) for name, each in curves.items()}
    scores = CocoScores(
        tuple(float(t) for t in thresholds),
        tuple(class_names),
        max_detections,
        found.pop(""),
        found,
        len(items),
    )
    if not bootstrap:
        return scores

    def resampled(weights: NDArray[np.int64]) -> dict[str, float]:
        all_areas = _summary(curves[""], weights)
        drawn = {"AP": all_areas.ap, "AR": all_areas.ar}
        for name, t in (("AP50", 0.5), ("AP75", 0.75)):
            near = np.flatnonzero(np.isclose(thresholds, t))
            drawn[name] = all_areas.by_threshold[near[0]] if len(near) else math.nan
        parts = {f"AP {n}": _summary(c, weights).ap for n, c in curves.items() if n}
        return drawn | parts

    intervals = bootstrap_intervals(resampled, len(items), times=bootstrap, seed=seed)
    return replace(scores, intervals=intervals)


def _summary(curves: Sequence[_Curve], weights: NDArray[np.int64]) -> AveragePrecision:
    ap, ar = np.moveaxis(np.array([curve.read(weights) for curve in curves]), 1, 0)
    return AveragePrecision(
        ap=mean_of_known(ap.ravel()),
        ar=mean_of_known(ar.ravel()),
        by_threshold=tuple(mean_of_known(column) for column in ap.T),
        class_ap=tuple(mean_of_known(row) for row in ap),
        n_truth=int(sum((curve.n_truth * weights).sum() for curve in curves)),
    )


def _curve(
    items: Sequence[ScoredObjects], areas: tuple[float, float], thresholds: Sequence[float]
) -> _Curve:
    right, wrong, n_truth = [], [], []
    for item in items:
        ignored = item.ignored | _outside(item.truth_area, areas)
        taken, excused = item.greedy(thresholds, ignored)
        silent = excused | (~taken & _outside(item.found_area, areas))
        right.append(taken & ~silent)
        wrong.append(~taken & ~silent)
        n_truth.append(int((~ignored).sum()))
    scores = np.concatenate([item.scores for item in items])
    order = np.argsort(-scores, kind="stable")
    number = np.repeat(np.arange(len(items)), [len(item.scores) for item in items])
    return _Curve(
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(wrong, axis=1)[:, order],
        number[order],
        np.array(n_truth, np.int64),
    )


def _outside(area: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (area < limits[0]) | (area > limits[1])


def _checked(
    items: list[ScoredObjects],
    class_names: Sequence[str],
    thresholds: Sequence[float],
    max_detections: int,
    mpp: float | None,
) -> list[ScoredObjects]:
    good = len(thresholds) > 0 and all(0 < t <= 1 for t in thresholds)
    good = good and max_detections >= 1 and (mpp is None or (math.isfinite(mpp) and mpp > 0))
    if not items or not good:
        raise DataError(
            "Average precision cannot be computed.",
            expected="fields, thresholds in 0..1 above 0, at least 1 detection, µm/px above 0",
            found=f"{len(items)} fields, {tuple(thresholds)}, {max_detections}, {mpp}",
            remedy="correct the settings",
        )
    for item in items if class_names else ():
        ids = np.concatenate([item.truth_ids, item.found_ids])
        refuse_unnamed(ids, class_names, item.name)
    return items
