"""Panoptic quality, AJI and Dice: by hand, against slow references, and each trap of averaging."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import (
    MaskField,
    aggregated_jaccard,
    dice,
    mask_scores,
    panoptic_quality,
    panoptic_scores,
)
from napari_celldetr.core.metrics.overlaps import overlaps

NAMES = ("a", "b", "c")


def row(*ids):
    """An instance map of one row."""
    return np.array([ids])


def blobs(seed, size=60, count=25):
    """A random map and a disturbed copy with other ids; gaps and vanished objects included."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth, found = np.zeros((2, size, size), int)
    for i in rng.permutation(count) + 1:
        cx, cy, r = [*rng.uniform(0, size, 2).tolist(), rng.uniform(2, 8)]
        truth[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = i
        if rng.random() < 0.8:
            dx, dy, dr = rng.normal(0, 1.2, 3)
            found[(x - cx - dx) ** 2 + (y - cy - dy) ** 2 < (r + dr) ** 2] = count + 1 - i
    return truth, found


def slow_table(truth, found):
    """Ids and the full IoU, intersection and union tables, mask by mask."""
    a, b = ([i for i in np.unique(m) if i] for m in (truth, found))
    inter = np.array([[((truth == i) & (found == j)).sum() for j in b] for i in a])
    union = np.array([[((truth == i) | (found == j)).sum() for j in b] for i in a])
    shape = (len(a), len(b))
    return a, b, inter.reshape(shape), union.reshape(shape)


def slow_quality(truth, found):
    a, b, inter, union = slow_table(truth, found)
    iou = inter / union
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if iou[i, j] > 0.5]
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    tp = len(pairs)
    return tp, len(b) - tp, len(a) - tp, sum(iou[p] for p in pairs)


def slow_aji(truth, found, one_to_one):
    a, b, inter, union = slow_table(truth, found)
    above = below = 0
    used = set()
    chosen = {}
    iou = inter / np.maximum(union, 1)
    if one_to_one:
        chosen = dict(zip(*linear_sum_assignment(-iou), strict=True))
    for i, name in enumerate(a):
        j = chosen.get(i) if one_to_one else (int(iou[i].argmax()) if len(b) else None)
        if j is None or iou[i, j] == 0:
            below += (truth == name).sum()
            continue
        above, below = above + inter[i, j], below + union[i, j]
        used.add(j)
    below += sum((found == name).sum() for j, name in enumerate(b) if j not in used)
    return above / below


@pytest.mark.parametrize("seed", range(12))
def test_fast_forms_equal_slow_ones(seed):
    truth, found = blobs(seed)
    a, b, inter, _ = slow_table(truth, found)
    shared = overlaps(truth, found)
    assert (shared.truth_ids.tolist(), shared.found_ids.tolist()) == (a, b)
    full = np.zeros_like(inter)
    full[shared.truth, shared.found] = shared.shared
    np.testing.assert_array_equal(full, inter)
    np.testing.assert_array_equal(shared.truth_area, [(truth == i).sum() for i in a])
    quality = panoptic_quality(truth, found)
    tp, fp, fn, iou = slow_quality(truth, found)
    assert (quality.tp, quality.fp, quality.fn) == (tp, fp, fn)
    assert quality.iou == pytest.approx(iou)
    assert quality.pq == pytest.approx(iou / (tp + fp / 2 + fn / 2))
    assert quality.pq == pytest.approx(quality.dq * quality.sq)
    for plus in (False, True):
        expected = slow_aji(truth, found, plus)
        assert aggregated_jaccard(truth, found, one_to_one=plus) == pytest.approx(expected)
    both = ((truth > 0) & (found > 0)).sum()
    assert dice(truth, found) == pytest.approx(2 * both / ((truth > 0).sum() + (found > 0).sum()))


def test_an_iou_of_exactly_half_is_no_pair():
    # 2 of 4 px; one more pixel right makes 3 of 4.
    assert panoptic_quality(row(1, 1, 1, 1), row(1, 1, 0, 0)).tp == 0
    quality = panoptic_quality(row(1, 1, 1, 1), row(1, 1, 1, 0))
    assert (quality.tp, quality.sq, quality.dq, quality.pq) == (1, 0.75, 1.0, 0.75)


def test_panoptic_quality_by_hand():
    # A pair of IoU 3/4, a miss, an invention: 0.75 / (1 + ½ + ½).
    truth = row(1, 1, 1, 1, 0, 2, 2, 0, 0, 0)
    found = row(7, 7, 7, 0, 0, 0, 0, 0, 9, 9)
    quality = panoptic_quality(truth, found)
    assert (quality.dq, quality.sq, quality.pq) == (0.5, 0.75, 0.375)
    assert math.isnan(panoptic_quality(row(0, 0), row(0, 0)).pq)
    assert panoptic_quality(row(0, 1), row(0, 0)).pq == 0.0
    assert panoptic_quality(row(0, 0), row(0, 1)).pq == 0.0


# --- averages ---------------------------------------------------------------------------------


def one(truth, found, truth_ids, found_ids, tissue=""):
    return MaskField(row(*truth), row(*found), truth_ids, found_ids, tissue=tissue)


def test_a_class_that_an_image_lacks_is_nan_there_even_when_it_was_found():
    perfect = one((1, 1, 0, 0), (1, 1, 0, 0), [0], [0])
    invented = one((1, 1, 0, 0), (1, 1, 0, 2), [0], [0, 1])
    scores = panoptic_scores([perfect, invented], class_names=NAMES)
    # PanNuke: the invented b costs b nothing, there is no true b.
    assert scores.class_pq[0] == 1.0
    assert math.isnan(scores.class_pq[1])
    assert scores.mpq == 1.0
    # In bPQ it is a false positive of the second image: PQ 1 / 1.5.
    assert scores.bpq == pytest.approx((1 + 2 / 3) / 2)
    # CoNIC counts it: b has one false positive and nothing else, c is nowhere.
    assert scores.class_pq_plus[1].pq == 0.0
    assert math.isnan(scores.class_pq_plus[2].pq)
    assert scores.mpq_plus == 0.5


def test_an_image_without_true_objects_is_left_out_of_pannuke_s_means():
    empty = one((0, 0, 0), (1, 0, 2), [], [0, 1])
    perfect = one((1, 1, 0), (1, 1, 0), [0], [0])
    scores = panoptic_scores([empty, perfect], class_names=NAMES)
    assert (scores.bpq, scores.mpq) == (1.0, 1.0)
    # Pooled: a has TP 1 and FP 1, b only FP 1.
    assert scores.mpq_plus == pytest.approx((2 / 3 + 0) / 2)


def test_means_go_over_images_then_tissues():
    good = ((1, 1, 1, 1), (1, 1, 1, 1), [0], [0])
    bad = ((1, 1, 1, 1), (0, 0, 0, 0), [0], [])
    fields = [one(*good, "x"), one(*good, "x"), one(*good, "x"), one(*bad, "y")]
    scores = panoptic_scores(fields, class_names=NAMES)
    assert scores.tissues == {"x": (1.0, 1.0), "y": (0.0, 0.0)}
    # Mean of tissues, not of images (.75).
    assert (scores.mpq, scores.bpq) == (0.5, 0.5)
    assert scores.class_pq[0] == 0.75
    # Pooled: 3 TP, 1 FN.
    assert scores.mpq_plus == pytest.approx(3 / 3.5)


def test_the_mean_of_an_image_goes_over_its_own_classes():
    # Image 1: a perfect, b missed -> .5; image 2: a perfect -> 1. Mean .75, not (1 + 0) / 2.
    first = one((1, 1, 0, 2), (1, 1, 0, 0), [0, 1], [0])
    second = one((1, 1, 0, 0), (1, 1, 0, 0), [0], [0])
    scores = panoptic_scores([first, second], class_names=NAMES)
    assert scores.mpq == 0.75
    assert scores.mpq_plus == 0.5


def test_a_wrong_class_is_a_miss_and_an_invention_but_no_error_of_bpq():
    scores = panoptic_scores([one((1, 1), (1, 1), [0], [1])], class_names=NAMES)
    assert (scores.bpq, scores.mpq, scores.mpq_plus) == (1.0, 0.0, 0.0)
    assert [(q.tp, q.fp, q.fn) for q in scores.class_pq_plus[:2]] == [(0, 0, 1), (0, 1, 0)]


def test_what_is_found_on_an_object_of_unknown_class_speaks_for_no_class():
    scores = panoptic_scores([one((1, 1, 0, 2), (1, 1, 0, 2), [-1, 0], [0, 0])], class_names=NAMES)
    assert (scores.bpq, scores.mpq, scores.mpq_plus) == (1.0, 1.0, 1.0)
    assert scores.class_pq_plus[0].fp == 0


def test_pooling_and_averaging_equal_the_slow_way():
    rng = np.random.default_rng(0)
    fields = []
    for seed in range(8):
        truth, found = blobs(seed)
        ids = [rng.integers(0, 3, 25), rng.integers(0, 3, 25)]
        fields.append(MaskField(truth, found, *ids, tissue="xyz"[seed % 3]))
    scores = panoptic_scores(fields, class_names=NAMES, bootstrap=100)
    per_class, by_tissue = [], {}
    for f in fields:
        values = []
        for c in range(3):
            maps = [
                np.where(np.isin(m, np.flatnonzero(ids == c) + 1), m, 0)
                for m, ids in ((f.truth, f.truth_ids), (f.found, f.found_ids))
            ]
            tally = slow_quality(*maps)
            tp, fp, fn, iou = tally
            values.append((tally, iou / (tp + fp / 2 + fn / 2) if tp + fn else math.nan))
        per_class.append([t for t, _ in values])
        by_tissue.setdefault(f.tissue, []).append(np.nanmean([v for _, v in values]))
    assert scores.mpq == pytest.approx(np.mean([np.mean(v) for v in by_tissue.values()]))
    tp, fp, fn, iou = np.moveaxis(np.sum(per_class, axis=0), 1, 0)
    assert scores.mpq_plus == pytest.approx((iou / (tp + fp / 2 + fn / 2)).mean())
    for name, value in (("bPQ", scores.bpq), ("mPQ", scores.mpq), ("mPQ+", scores.mpq_plus)):
        low, high = scores.intervals[name]
        assert low < value < high
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["mPQ"] == scores.mpq


# --- AJI and Dice -------------------------------------------------------------------------------


def test_aji_by_hand():
    # Two true objects and one found over both: both take it, the union is counted twice.
    truth, found = row(1, 1, 2, 2), row(1, 1, 1, 1)
    assert aggregated_jaccard(truth, found) == pytest.approx((2 + 2) / (4 + 4))
    # One to one: the second is left alone with its own area.
    assert aggregated_jaccard(truth, found, one_to_one=True) == pytest.approx(2 / (4 + 2))
    # An invention adds its area below.
    assert aggregated_jaccard(row(1, 1, 0, 0), row(1, 1, 0, 2)) == pytest.approx(2 / 3)
    assert aggregated_jaccard(row(1, 1, 0, 0), row(0, 0, 0, 2)) == 0.0
    assert math.isnan(aggregated_jaccard(row(0, 0), row(0, 0)))


def test_dice_by_hand():
    assert dice(row(1, 1, 0, 0), row(0, 3, 3, 3)) == pytest.approx(2 * 1 / 5)
    assert dice(row(1, 2, 0, 0), row(3, 3, 0, 0)) == 1.0
    assert dice(row(1, 0), row(0, 0)) == 0.0
    assert math.isnan(dice(row(0, 0), row(0, 0)))


def test_masks_are_averaged_over_fields():
    fields = [
        MaskField(row(1, 1, 0, 0), row(0, 3, 3, 3)),
        MaskField(row(1, 1), row(1, 1)),
        MaskField(row(0, 0), row(0, 0)),
    ]
    scores = mask_scores(fields, bootstrap=50)
    assert scores.dice == pytest.approx((0.4 + 1) / 2)
    assert scores.aji == scores.aji_plus == pytest.approx((1 / 4 + 1) / 2)
    assert math.isnan(scores.values["Dice"][2])
    assert scores.intervals["Dice"] == pytest.approx((0.4, 1.0))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: panoptic_quality(np.zeros((2, 2)), row(0, 0)),
        lambda: panoptic_quality(row(0, 0), row(0, 0, 0)),
        lambda: panoptic_quality(row(0, -1), row(0, 0)),
        lambda: MaskField(row(0, 2), row(0, 0), [0]),
        lambda: panoptic_scores([]),
        lambda: mask_scores([]),
        lambda: panoptic_scores([one((0, 1), (0, 1), [3], [0])], class_names=NAMES),
    ],
)
def test_what_cannot_be_scored_is_refused(bad):
    with pytest.raises(DataError, match="What to do"):
        bad()
