"""Panoptic quality and its relatives on instance maps (Kirillov et al., CVPR 2019).

``PQ = Σ IoU / (TP + ½ FP + ½ FN)``, the product of detection quality (DQ, an F1) and segmentation
quality (SQ, the mean IoU of pairs). A pair is a true and a found object with IoU *above* 0.5, not
at it; no object can be in two such pairs, so nothing is assigned. Per class, only objects of that
class are compared. A true object of unknown class counts for detection alone, and a found object
that pairs with one speaks neither for nor against its class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.bootstrap import bootstrap_intervals
from napari_celldetr.core.metrics.overlaps import Overlaps, as_instances, overlaps
from napari_celldetr.core.metrics.points import listed, mean_of_known, or_none, refuse_unnamed

MATCH_IOU = 0.5


@dataclass(frozen=True, eq=False)
class MaskField:
    """True and found instance maps of one field.

    Attributes
    ----------
    truth, found : (H, W) whole numbers, 0 for background
    truth_ids, found_ids : (N,), (M,) int
        Class of the object with id i + 1, -1 for unknown; left out, all are of unknown class.
    name, tissue : str
    """

    truth: NDArray[np.integer]
    found: NDArray[np.integer]
    truth_ids: NDArray[np.integer] | None = None
    found_ids: NDArray[np.integer] | None = None
    name: str = ""
    tissue: str = ""

    def __post_init__(self) -> None:
        for instances, ids, what in (
            ("truth", "truth_ids", "true"),
            ("found", "found_ids", "found"),
        ):
            array = as_instances(getattr(self, instances), what)
            highest = int(array.max(initial=0))
            given = getattr(self, ids)
            classes = np.full(highest, UNKNOWN) if given is None else np.asarray(given).reshape(-1)
            if len(classes) < highest:
                raise DataError(
                    f"Field {self.name!r}: {what} objects lack a class.",
                    expected=f"{highest} class ids, one for each id of the map",
                    found=str(len(classes)),
                    remedy="give one class id per object, -1 for unknown",
                )
            object.__setattr__(self, instances, array)
            object.__setattr__(self, ids, classes.astype(np.int64))

    def classes(self, shared: Overlaps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class ids of the objects that occur in the maps, in the order of `shared`."""
        truth, found = np.asarray(self.truth_ids), np.asarray(self.found_ids)
        return truth[shared.truth_ids - 1], found[shared.found_ids - 1]


@dataclass(frozen=True, slots=True)
class Quality:
    """Counts of one comparison and the qualities they give; NaN without any object."""

    tp: int
    fp: int
    fn: int
    iou: float

    @property
    def dq(self) -> float:
        """Detection quality TP / (TP + ½ FP + ½ FN)."""
        below = self.tp + (self.fp + self.fn) / 2
        return self.tp / below if below else math.nan

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the pairs, 0 where objects exist but none pairs."""
        if not self.tp:
            return 0.0 if self.fp + self.fn else math.nan
        return self.iou / self.tp

    @property
    def pq(self) -> float:
        """Panoptic quality DQ · SQ."""
        return self.dq * self.sq


def panoptic_quality(truth: Any, found: Any) -> Quality:
    """PQ of one field whatever the classes.

    Parameters
    ----------
    truth, found : (H, W) instance maps
    """
    return Quality(*_tally(MaskField(truth, found), 0)[0])


def _tally(item: MaskField, n_classes: int) -> list[tuple[int, int, int, float]]:
    """(TP, FP, FN, Σ IoU) of all objects, then of each class."""
    shared = overlaps(item.truth, item.found)
    true_class, found_class = item.classes(shared)
    iou = shared.iou
    match = iou > MATCH_IOU
    a, b, iou = shared.truth[match], shared.found[match], iou[match]
    rows = [(len(a), len(found_class) - len(a), len(true_class) - len(a), float(iou.sum()))]
    for c in range(n_classes):
        both = (true_class[a] == c) & (found_class[b] == c)
        excused = int(((true_class[a] == UNKNOWN) & (found_class[b] == c)).sum())
        tp = int(both.sum())
        fp = int((found_class == c).sum()) - excused - tp
        rows.append((tp, fp, int((true_class == c).sum()) - tp, float(iou[both].sum())))
    return rows


@dataclass(frozen=True, slots=True)
class PanopticScores:
    """Panoptic figures of a set of fields, by the published ways of averaging them.

    Attributes
    ----------
    rule : str
    class_names : tuple of str
    bpq : float
        PanNuke's bPQ: PQ whatever the class per image, mean per tissue, mean of tissues.
    mpq : float
        PanNuke's mPQ: PQ per class and image, mean of the image's classes, then as bPQ.
    mpq_plus : float
        CoNIC's mPQ+: counts pooled over all images per class, mean of the classes.
    class_pq : tuple of float
        PanNuke's mean over images of each class's PQ.
    class_pq_plus : tuple of Quality
        Each class pooled over images.
    tissues : dict of str to (mPQ, bPQ)
    n_fields : int
    intervals : dict of str to (low, high)
        95 % bootstrap over fields of ``bPQ``, ``mPQ`` and ``mPQ+``, where asked for.

    NaN marks what is absent: PanNuke leaves an image out of a class that it has no true object
    of, so that false objects there cost nothing; mPQ+ counts them.
    """

    rule: str
    class_names: tuple[str, ...]
    bpq: float
    mpq: float
    mpq_plus: float
    class_pq: tuple[float, ...]
    class_pq_plus: tuple[Quality, ...]
    tissues: dict[str, tuple[float, float]]
    n_fields: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report; NaN becomes None."""
        names = self.class_names
        return {
            "rule": self.rule,
            "fields": self.n_fields,
            "bPQ": or_none(self.bpq),
            "mPQ": or_none(self.mpq),
            "mPQ+": or_none(self.mpq_plus),
            "class_pq": {n: or_none(v) for n, v in zip(names, self.class_pq, strict=True)},
            "class_pq_plus": {
                n: {"pq": or_none(q.pq), "dq": or_none(q.dq), "sq": or_none(q.sq)}
                for n, q in zip(names, self.class_pq_plus, strict=True)
            },
            "tissues": {t: [or_none(v) for v in pair] for t, pair in self.tissues.items()},
            "intervals": {k: [or_none(v) for v in p] for k, p in self.intervals.items()},
        }


def panoptic_scores(
    fields: Iterable[MaskField],
    *,
    class_names: Sequence[str] = (),
    bootstrap: int = 0,
    seed: int = 0,
) -> PanopticScores:
    """bPQ and mPQ as PanNuke averages them (Gamper et al. 2020), mPQ+ as CoNIC does (2021).

    PanNuke: an image without a true object of a class is NaN for that class, also when objects
    were found; the image's mPQ is the mean of its other classes; tissues are averaged, then
    their mean is taken. An image without any true object is left out altogether. CoNIC's own
    code gives 0 to a class that no image has; here it is left out.

    Parameters
    ----------
    fields : iterable of MaskField
    class_names : sequence of str
        Without them only bPQ is a number.
    bootstrap : int
        Number of resamplings of the fields for 95 % intervals; 0 for none.

    Raises
    ------
    DataError
        No fields, or a class id without a name.
    """
    items = checked_maps(fields, class_names)
    tallies = np.array([_tally(f, len(class_names)) for f in items], dtype=np.float64)
    pq = _per_image(tallies)
    tissues = [f.tissue for f in items]
    once = np.ones(len(items), np.int64)
    pooled = _pooled(once, tallies)

    def resampled(weights: NDArray[np.int64]) -> dict[str, float]:
        mpq, bpq = _overall(_by_tissue(pq, tissues, weights))
        plus = mean_of_known([q.pq for q in _pooled(weights, tallies)])
        return {"bPQ": bpq, "mPQ": mpq, "mPQ+": plus}

    by_tissue = _by_tissue(pq, tissues, once)
    mpq, bpq = _overall(by_tissue)
    return PanopticScores(
        rule="PQ, pairs above IoU 0.5; PanNuke bPQ and mPQ, CoNIC mPQ+",
        class_names=tuple(class_names),
        bpq=bpq,
        mpq=mpq,
        mpq_plus=mean_of_known([q.pq for q in pooled]),
        class_pq=tuple(mean_of_known(pq[:, 1 + c]) for c in range(len(class_names))),
        class_pq_plus=tuple(pooled),
        tissues=by_tissue,
        n_fields=len(items),
        intervals=bootstrap_intervals(resampled, len(items), times=bootstrap, seed=seed)
        if bootstrap
        else {},
    )


def checked_maps(fields: Iterable[MaskField], class_names: Sequence[str]) -> list[MaskField]:
    """The fields as a list; `DataError` for none, or for a class id without a name."""
    items = listed(fields)
    for item in items if class_names else ():
        ids = np.concatenate([np.asarray(item.truth_ids), np.asarray(item.found_ids)])
        refuse_unnamed(ids, class_names, item.name)
    return items


def _per_image(tallies: NDArray[np.float64]) -> NDArray[np.float64]:
    """PQ (images, 1 + K) of every image and class, NaN where the truth holds no such object."""
    tp, fp, fn, iou = np.moveaxis(tallies, 2, 0)
    below = tp + (fp + fn) / 2
    return np.divide(iou, below, out=np.full_like(below, np.nan), where=tp + fn > 0)


def _pooled(weights: NDArray[np.int64], tallies: NDArray[np.float64]) -> list[Quality]:
    total = np.tensordot(weights, tallies[:, 1:], 1)
    return [Quality(int(tp), int(fp), int(fn), float(iou)) for tp, fp, fn, iou in total]


def _by_tissue(
    pq: NDArray[np.float64], tissues: Sequence[str], weights: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    """(mPQ, bPQ) of each tissue; image i counts weights[i] times."""
    known = np.isfinite(pq[:, 1:])
    count = known.sum(axis=1)
    mean = np.divide(
        np.where(known, pq[:, 1:], 0).sum(axis=1),
        count,
        out=np.full(len(pq), np.nan),
        where=count > 0,
    )
    table = {}
    for tissue in dict.fromkeys(tissues):
        here = np.array([t == tissue for t in tissues])
        table[tissue] = (
            _weighted(mean[here], weights[here]),
            _weighted(pq[here, 0], weights[here]),
        )
    return table


def _weighted(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    known = np.isfinite(values) & (weights > 0)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total else math.nan


def _overall(tissues: dict[str, tuple[float, float]]) -> tuple[float, float]:
    return (
        mean_of_known([m for m, _ in tissues.values()]),
        mean_of_known([b for _, b in tissues.values()]),
    )
