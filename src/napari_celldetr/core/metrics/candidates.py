"""Scored objects of a field with the true ones they overlap: what average precision needs.

Only pairs that share something are kept, so thousands of objects a field cost little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics.matching import as_scores
from napari_celldetr.core.metrics.overlaps import overlaps

_STRIPE = 128
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredObjects:
    """True and found objects of one field; make them with `box_objects` or `mask_objects`.

    Attributes
    ----------
    truth, found : (P,)
        Rows of each pair that overlaps, by found, then truth.
    iou : (P,)
        Where the true object is a crowd: the shared part of the found object.
    truth_area, found_area : (N,), (M,)
        px².
    truth_ids, found_ids : (N,), (M,) int
        Class ids, -1 for unknown.
    scores : (M,)
    ignored, crowd : (N,) bool
        True objects that do not count; regions of many objects (ignored as well).
    name : str
    """

    truth: NDArray[np.int64]
    found: NDArray[np.int64]
    iou: Floats
    truth_area: Floats
    found_area: Floats
    truth_ids: NDArray[np.int64]
    found_ids: NDArray[np.int64]
    scores: Floats
    ignored: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    name: str = ""

    def of_class(self, class_id: int | None, most: int) -> ScoredObjects:
        """The best scored `most` found objects of a class, surest first, and what they may take.

        None takes all classes. True objects of unknown class stay, ignored.
        """
        mine = np.ones(len(self.scores), bool)
        stays = np.ones(len(self.truth_area), bool)
        ignored = self.ignored
        if class_id is not None:
            mine = self.found_ids == class_id
            unknown = self.truth_ids == UNKNOWN
            stays, ignored = (self.truth_ids == class_id) | unknown, ignored | unknown
        order = np.flatnonzero(mine)
        order = order[np.argsort(-self.scores[order], kind="stable")][:most]
        place = np.full(len(self.scores), -1)
        place[order] = np.arange(len(order))
        row = np.cumsum(stays) - 1
        pair = (place[self.found] >= 0) & stays[self.truth]
        sort = np.lexsort((self.truth[pair], place[self.found[pair]]))
        return ScoredObjects(
            row[self.truth[pair]][sort],
            place[self.found[pair]][sort],
            self.iou[pair][sort],
            self.truth_area[stays],
            self.found_area[order],
            self.truth_ids[stays],
            self.found_ids[order],
            self.scores[order],
            ignored[stays],
            self.crowd[stays],
            self.name,
        )

    def greedy(
        self, thresholds: Sequence[float], ignored: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which found objects take a true one, and which of these take an ignored one.

        The rows must be in the order in which they choose.

        Parameters
        ----------
        thresholds : sequence of float
        ignored : (N,) bool

        Returns
        -------
        taken, excused : (len(thresholds), M) bool each
        """
        taken = np.zeros((len(thresholds), len(self.scores)), bool)
        excused = np.zeros_like(taken)
        edges = np.searchsorted(self.found, np.arange(len(self.scores) + 1)).tolist()
        truth, iou = self.truth.tolist(), self.iou.tolist()
        silent, many = ignored.tolist(), self.crowd.tolist()
        for row, threshold in enumerate(thresholds):
            free = [True] * len(silent)
            # As in the reference, so that an IoU of exactly 1 passes a threshold of 1.
            least = min(threshold, 1 - 1e-10)
            for j in np.unique(self.found[self.iou >= least]).tolist():
                best, best_iou = -1, least
                for p in range(edges[j], edges[j + 1]):
                    i, value = truth[p], iou[p]
                    if value < least or not (free[i] or many[i]):
                        continue
                    # One that counts always comes before one that is ignored.
                    better = value >= best_iou if best < 0 or silent[i] == silent[best] else None
                    if better or (better is None and silent[best]):
                        best, best_iou = i, value
                if best >= 0:
                    free[best] = False
                    taken[row, j], excused[row, j] = True, silent[best]
        return taken, excused


def box_objects(
    truth_boxes: Any,
    found_boxes: Any,
    scores: Any,
    *,
    truth_ids: Any = None,
    found_ids: Any = None,
    truth_areas: Any = None,
    ignored: Any = None,
    crowd: Any = None,
    name: str = "",
) -> ScoredObjects:
    """Objects given as boxes (N, 4), (M, 4), xyxy in px.

    Parameters
    ----------
    scores : (M,)
    truth_ids, found_ids : (N,), (M,) int, optional
        Class ids, -1 for unknown.
    truth_areas : (N,), optional
        px² that decide the range of areas: the box's, unless the object's own are known.
    ignored, crowd : (N,) bool, optional
        True objects that do not count; regions of many objects.

    Raises
    ------
    DataError
        Arrays that do not fit each other.
    """
    a, b = _boxes(truth_boxes, "true", name), _boxes(found_boxes, "found", name)
    truth_area, found_area = _area(a), _area(b)
    many = _flags(crowd, len(a), name)
    truth, found, inter = _overlapping(a, b)
    return ScoredObjects(
        truth,
        found,
        _iou(inter, truth_area[truth], found_area[found], many[truth]),
        truth_area if truth_areas is None else _numbers(truth_areas, len(a), name),
        found_area,
        _ids(truth_ids, len(a), name),
        _ids(found_ids, len(b), name),
        as_scores(scores, len(b)),
        _flags(ignored, len(a), name) | many,
        many,
        name,
    )


def mask_objects(
    truth: Any,
    found: Any,
    scores: Any,
    *,
    truth_ids: Any = None,
    found_ids: Any = None,
    ignored: Any = None,
    crowd: Any = None,
    name: str = "",
) -> ScoredObjects:
    """Objects given as instance maps (H, W), or as stacks of masks (N, H, W) that may overlap.

    The object with id i + 1, or mask i, is row i of the other arrays; see `box_objects`. A true
    object without a pixel does not count; a found one is a false positive.
    """
    a, b = np.asarray(truth), np.asarray(found)
    if a.ndim == 2 and b.ndim == 2:
        n = _count(a, truth_ids)
        truth_row, found_row, inter, truth_area, found_area = _of_maps(a, b, n, np.size(scores))
    else:
        truth_row, found_row, inter, truth_area, found_area = _of_stacks(a, b, name)
        n = len(a)
    many = _flags(crowd, n, name)
    if len(found_area) != np.size(scores):
        as_scores(scores, len(found_area))
    return ScoredObjects(
        truth_row,
        found_row,
        _iou(inter, truth_area[truth_row], found_area[found_row], many[truth_row]),
        truth_area,
        found_area,
        _ids(truth_ids, n, name),
        _ids(found_ids, len(found_area), name),
        as_scores(scores, len(found_area)),
        _flags(ignored, n, name) | many | (truth_area == 0),
        many,
        name,
    )


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats, Floats]


def _count(instances: NDArray[Any], ids: Any) -> int:
    return int(instances.max(initial=0)) if ids is None else int(np.size(ids))


def _of_maps(a: NDArray[Any], b: NDArray[Any], n: int, m: int) -> _Pairs:
    shared = overlaps(a, b)
    n, m = max(n, *shared.truth_ids.tolist(), 0), max(m, *shared.found_ids.tolist(), 0)
    truth_area, found_area = np.zeros(n), np.zeros(m)
    truth_area[shared.truth_ids - 1] = shared.truth_area
    found_area[shared.found_ids - 1] = shared.found_area
    truth, found = shared.truth_ids[shared.truth] - 1, shared.found_ids[shared.found] - 1
    order = np.lexsort((truth, found))
    return truth[order], found[order], shared.shared[order].astype(float), truth_area, found_area


def _of_stacks(a: NDArray[Any], b: NDArray[Any], name: str) -> _Pairs:
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise _refused(name, "two maps (H, W) or two stacks (N, H, W)", f"{a.shape}, {b.shape}")
    flat_a = (a > 0).reshape(len(a), -1).astype(np.float32)
    flat_b = (b > 0).reshape(len(b), -1).astype(np.float32)
    inter = np.rint((flat_b @ flat_a.T).astype(np.float64))
    found, truth = np.nonzero(inter)
    return (
        truth.astype(np.int64),
        found.astype(np.int64),
        inter[found, truth],
        flat_a.sum(axis=1).astype(np.float64),
        flat_b.sum(axis=1).astype(np.float64),
    )


def _overlapping(a: Floats, b: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Pairs of boxes that share an area, by row of `b`, then of `a`, and that area."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    by_left = np.argsort(b[:, 0], kind="stable")
    for start in range(0, len(b), _STRIPE):
        rows = by_left[start : start + _STRIPE]
        # Boxes sorted by their left edge make a stripe; only what reaches into it is compared.
        near = np.flatnonzero((a[:, 2] > b[rows, 0].min()) & (a[:, 0] < b[rows, 2].max()))
        low = np.maximum(b[rows, None, :2], a[None, near, :2])
        side = np.maximum(np.minimum(b[rows, None, 2:], a[None, near, 2:]) - low, 0)
        inter = side[..., 0] * side[..., 1]
        found, truth = np.nonzero(inter)
        parts.append((near[truth], rows[found], inter[found, truth]))
    truth = np.concatenate([t for t, _, _ in parts])
    found = np.concatenate([f for _, f, _ in parts])
    order = np.lexsort((truth, found))
    return truth[order], found[order], np.concatenate([i for _, _, i in parts])[order]


def _iou(inter: Floats, truth: Floats, found: Floats, crowd: NDArray[np.bool_]) -> Floats:
    return inter / np.where(crowd, found, truth + found - inter)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _boxes(boxes: Any, what: str, name: str) -> Floats:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    good = array.ndim == 2 and array.shape[1] == 4 and bool(np.isfinite(array).all())
    if not good or (array[:, 2:] < array[:, :2]).any():
        raise _refused(name, f"finite {what} boxes (N, 4), x0 ≤ x1, y0 ≤ y1", str(array.shape))
    return array


def _ids(ids: Any, count: int, name: str) -> NDArray[np.int64]:
    array = np.full(count, UNKNOWN) if ids is None else np.asarray(ids).reshape(-1)
    if len(array) != count:
        raise _refused(name, f"{count} class ids", str(len(array)))
    return array.astype(np.int64)


def _numbers(values: Any, count: int, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(array) != count or not np.isfinite(array).all():
        raise _refused(name, f"{count} finite areas", f"{len(array)}")
    return array


def _flags(flags: Any, count: int, name: str) -> NDArray[np.bool_]:
    array = np.zeros(count, bool) if flags is None else np.asarray(flags, bool).reshape(-1)
    if len(array) != count:
        raise _refused(name, f"{count} marks of what is ignored", str(len(array)))
    return array


def _refused(name: str, expected: str, found: str) -> DataError:
    return DataError(
        f"The objects of field {name!r} cannot be scored.",
        expected=expected,
        found=found,
        remedy="give one row per object",
    )
