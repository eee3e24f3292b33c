"""Average precision: by hand, against a slow reading of the rules, and pycocotools' figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import (
    COCO_AREAS_PX2,
    box_objects,
    coco_scores,
    mask_objects,
)
from napari_celldetr.core.metrics.coco import IOU_THRESHOLDS

NAMES = ("a", "b", "c")
AREAS = {"small": (0.0, 300.0), "medium": (300.0, 700.0), "large": (700.0, 1e10)}


def scene(seed, size=128):
    """True and found boxes of one field with classes, scores, crowds and ignored objects."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    corner, side = rng.integers(0, size - 40, (n, 2)), rng.integers(8, 40, (n, 2))
    truth = np.concatenate([corner, corner + side], axis=1)
    moved = np.repeat(truth, 2, axis=0) + rng.integers(-5, 6, (2 * n, 4))
    free = rng.integers(0, size - 40, (20, 2))
    found = np.concatenate([moved, np.concatenate([free, free + rng.integers(6, 40, (20, 2))], 1)])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    m = len(found)
    truth_ids = rng.integers(0, 3, n)
    found_ids = np.concatenate([np.repeat(truth_ids, 2), rng.integers(0, 3, 20)])
    swapped = rng.random(m) < 0.2
    found_ids[swapped] = rng.integers(0, 3, int(swapped.sum()))
    # Few different scores make ties within and between fields.
    scores = rng.integers(1, 21, m) / 20
    return truth, found, truth_ids, found_ids, scores, rng.random(n) < 0.1


def fields(seeds, *, crowds=False):
    for seed in seeds:
        truth, found, truth_ids, found_ids, scores, crowd = scene(seed)
        yield box_objects(
            truth,
            found,
            scores,
            truth_ids=truth_ids,
            found_ids=found_ids,
            crowd=crowd if crowds else None,
            name=str(seed),
        )


def discs(seed, size=96, count=14):
    """True and found instance maps with scores: discs, some of them moved."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size]
    truth, found = np.zeros((size, size), int), np.zeros((size, size), int)
    for i in range(count):
        x, y, r = rng.integers(5, size - 5), rng.integers(5, size - 5), rng.integers(4, 12)
        truth[(row - y) ** 2 + (column - x) ** 2 <= r * r] = i + 1
        dx, dy, dr = rng.integers(-2, 3, 3)
        found[(row - y - dy) ** 2 + (column - x - dx) ** 2 <= (r + dr) ** 2] = i + 1
    return truth, found, rng.integers(1, 11, count) / 10


# --- a slow reading of the rules, with dense tables and no shortcuts ---------------------------


def iou_table(found, truth, crowd):
    table = np.zeros((len(found), len(truth)))
    for j, (x0, y0, x1, y1) in enumerate(found):
        for i, (u0, v0, u1, v1) in enumerate(truth):
            inter = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            area, other = (x1 - x0) * (y1 - y0), (u1 - u0) * (v1 - v0)
            table[j, i] = inter / (area if crowd[i] else area + other - inter)
    return table


def slow_image(truth, found, scores, crowd, threshold, limits, most):
    """Scores, taken and ignored of the found objects of one image, and the number of true ones."""
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in truth]
    silent = [c or not limits[0] <= a <= limits[1] for a, c in zip(area, crowd, strict=True)]
    order = sorted(range(len(found)), key=lambda j: -scores[j])[:most]
    table = iou_table(found, truth, crowd)
    by_turn = sorted(range(len(truth)), key=lambda i: silent[i])
    used, rows = set(), []
    for j in order:
        best, reached = None, threshold
        for i in by_turn:
            if i in used and not crowd[i]:
                continue
            if best is not None and not silent[best] and silent[i]:
                break
            if table[j, i] >= reached:
                best, reached = i, table[j, i]
        own = (found[j][2] - found[j][0]) * (found[j][3] - found[j][1])
        outside = not limits[0] <= own <= limits[1]
        used.add(best)
        rows.append((scores[j], best is not None, silent[best] if best is not None else outside))
    return rows, silent.count(False)


def slow_ap(images, threshold, limits, most):
    """AP and final recall of one class."""
    rows, total = [], 0
    for image in images:
        more, n = slow_image(*image, threshold, limits, most)
        rows, total = rows + more, total + n
    if not total:
        return math.nan, math.nan
    tp = fp = 0
    curve = []
    for _, taken, silent in sorted(rows, key=lambda r: -r[0]):
        tp, fp = tp + (taken and not silent), fp + (not taken and not silent)
        curve.append((tp / total, tp / (tp + fp) if tp + fp else 0.0))
    # As floats: 0.29 and the 29th step of linspace differ, and the reference takes the latter.
    steps = np.linspace(0, 1, 101)
    reached = [max((p for r, p in curve if r >= step), default=0.0) for step in steps]
    return sum(reached) / 101, tp / total


def slow_coco(seeds, limits, most, *, crowds):
    aps, ars = [], []
    for c in range(3):
        images = []
        for seed in seeds:
            truth, found, truth_ids, found_ids, scores, crowd = scene(seed)
            t, f = truth_ids == c, found_ids == c
            images.append((truth[t], found[f], scores[f], crowd[t] & crowds))
        for threshold in IOU_THRESHOLDS:
            ap, ar = slow_ap(images, threshold, limits, most)
            aps.append(ap)
            ars.append(ar)
    return np.nanmean(aps), np.nanmean(ars)


@pytest.mark.parametrize(("crowds", "most"), [(False, 2000), (True, 2000), (True, 7)])
def test_the_fast_form_equals_the_slow_one(crowds, most):
    seeds = range(10, 14)
    scores = coco_scores(
        fields(seeds, crowds=crowds), class_names=NAMES, areas=AREAS, max_detections=most
    )
    for part, limits in ((scores.overall, (0, 1e10)), (scores.areas["medium"], (300, 700))):
        expected = slow_coco(seeds, limits, most, crowds=crowds)
        assert (part.ap, part.ar) == pytest.approx(expected, abs=1e-12)


# What pycocotools 2.0 gives for these very scenes (bbox and segm), AREAS and limits.
PYCOCOTOOLS = {
    "plain": [
        0.12739601275272822,
        0.4109509744149517,
        0.027165107233638425,
        0.343516392472482,
        0.017533126062998918,
        0.11965428276573786,
        0.16672452324915157,
        0.3509920634920635,
        0.2835119144408991,
        0.5336744639376219,
    ],
    "crowds": [
        0.13231174022040137,
        0.4317401283596564,
        0.029417125443311386,
        0.3515813724407129,
        0.019011497524245063,
        0.12464869281045751,
        0.17240861600450252,
        0.35841269841269846,
        0.27412859985262195,
        0.5375420875420875,
    ],
    "one class": [
        0.13599218280351758,
        0.4439459076337239,
        0.032300629549839664,
        0.36238938053097347,
        0.017532201550239823,
        0.13392857142857142,
        0.17363175358444874,
        0.3678571428571429,
        0.30573399215407426,
        0.5590163934426229,
    ],
    "ten": [
        0.08157131313644829,
        0.26500435010578577,
        0.018357573559342776,
        0.1774667613524283,
        0.0055466052243377025,
        0.03623839009287925,
        0.11057029861725318,
        0.1876653439153439,
        0.19128360201994402,
        0.29539473684210527,
    ],
    "masks": [
        0.20901464419021848,
        0.6570080528987642,
        0.03910768552102735,
        0.3212962962962963,
        0.16837869653127122,
        0.2636363636363636,
        0.4899550048172519,
        0.575,
        math.nan,
        math.nan,
    ],
}


def figures(scores):
    by_area = [v for a in scores.areas.values() for v in (a.ap, a.ar)]
    return [scores.overall.ap, scores.at(0.5), scores.at(0.75), scores.overall.ar, *by_area]


@pytest.mark.parametrize("name", PYCOCOTOOLS)
def test_figures_are_those_of_pycocotools(name):
    names = () if name in ("one class", "masks") else NAMES
    most = 10 if name == "ten" else 2000
    items = list(fields(range(8), crowds=name == "crowds"))
    if name == "masks":
        items = [mask_objects(*discs(seed)) for seed in range(8)]
    scores = coco_scores(items, class_names=names, areas=AREAS, max_detections=most)
    np.testing.assert_allclose(figures(scores), PYCOCOTOOLS[name], rtol=0, atol=1e-12)


# --- by hand ---------------------------------------------------------------------------------


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def test_an_iou_of_exactly_the_threshold_counts():
    # 10 × 10 in 20 × 10: IoU 0.5, as exactly as a float can say it.
    item = box_objects([square(0)], [[0, 0, 20, 10]], [0.9])
    assert item.iou.tolist() == [0.5]
    assert coco_scores([item]).at(0.5) == 1.0
    assert coco_scores([item]).at(0.55) == 0.0
    just_below = box_objects([square(0)], [[0, 0, 20.001, 10]], [0.9])
    assert coco_scores([just_below]).at(0.5) == 0.0


def test_a_perfect_set_has_1_at_every_threshold():
    item = box_objects([square(0), square(50)], [square(50), square(0)], [0.2, 0.9])
    scores = coco_scores([item], thresholds=(0.5, 1.0))
    assert scores.overall.by_threshold == (1.0, 1.0)
    assert scores.overall.ar == 1.0
    assert math.isnan(scores.at(0.75))


def test_precision_is_read_at_101_recalls():
    # Right, wrong, right of 2 true ones: precision 1 to recall .5, then 2/3.
    item = box_objects(
        [square(0), square(50)], [square(0), square(200), square(50)], [0.9, 0.8, 0.7]
    )
    assert coco_scores([item]).overall.ap == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    # Half found: the recalls beyond .5 count as 0.
    half = box_objects([square(0), square(50)], [square(0)], [0.9])
    assert coco_scores([half]).overall.ap == pytest.approx(51 / 101)
    assert coco_scores([half]).overall.ar == 0.5


def test_doubles_are_false_positives_and_the_surest_chooses_first():
    item = box_objects([square(0)], [square(0), square(1)], [0.8, 0.9])
    # The surer one takes the cell (IoU 9/11), the better placed one comes too late.
    taken, excused = item.of_class(None, 100).greedy((0.5,), np.zeros(1, bool))
    assert taken.tolist() == [[True, False]]
    assert not excused.any()
    assert coco_scores([item]).at(0.5) == 1.0
    assert coco_scores([item], thresholds=(0.9,)).overall.ap == 0.5


def test_the_hundred_best_of_the_reference_cut_a_field_of_cells():
    cells = [square(20 * i) for i in range(300)]
    item = box_objects(cells, cells, np.linspace(0.9, 0.1, 300))
    assert coco_scores([item]).overall.ar == 1.0
    cut = coco_scores([item], max_detections=100)
    assert cut.overall.ar == pytest.approx(1 / 3)
    assert cut.overall.ap == pytest.approx(34 / 101)


def test_the_limit_is_per_class_and_field():
    cells = [square(20 * i) for i in range(4)]
    items = [
        box_objects(cells, cells, [0.9] * 4, truth_ids=[0, 0, 1, 1], found_ids=[0, 0, 1, 1])
        for _ in range(2)
    ]
    assert coco_scores(items, class_names=("a", "b"), max_detections=2).overall.ar == 1.0
    assert coco_scores(items, max_detections=2).overall.ar == 0.5


def test_objects_outside_the_range_of_areas_say_nothing():
    # A small true one, a large true one; each found, and one large invention.
    truth = [square(0), square(100, side=50)]
    found = [square(0), square(100, side=50), square(300, side=50)]
    item = box_objects(truth, found, [0.5, 0.9, 0.95])
    areas = {"small": (0, 100), "large": (101, 1e10), "none": (200, 300)}
    scores = coco_scores([item], areas=areas)
    assert scores.areas["small"].ap == 1.0
    assert scores.areas["small"].n_truth == 1
    assert scores.areas["large"].ap == pytest.approx(0.5)
    assert math.isnan(scores.areas["none"].ap)
    # A found object that took an ignored one is ignored, whatever its own area.
    close = box_objects([square(0)], [[0, 0, 10, 10.5]], [0.9])
    upper = coco_scores([close], areas={"upper": (101, 1e10)}).areas["upper"]
    assert (math.isnan(upper.ap), upper.n_truth) == (True, 0)


def test_both_ends_of_a_range_belong_to_it():
    item = box_objects([square(0)], [square(0)], [0.9])
    for limits in ((100, 200), (0, 100)):
        assert coco_scores([item], areas={"x": limits}).areas["x"].n_truth == 1
    assert coco_scores([item], areas={"x": (0, 99.9)}).areas["x"].n_truth == 0


def test_areas_in_µm2_follow_the_pixel_size():
    item = box_objects([square(0)], [square(0)], [0.9])
    # 100 px² are 25 µm² at 0.5 µm/px.
    areas = {"below": (0, 24.9), "around": (24.9, 25.1)}
    at_half = coco_scores([item], areas=areas, mpp=0.5).areas
    assert (at_half["below"].n_truth, at_half["around"].n_truth) == (0, 1)
    assert coco_scores([item], areas=areas).areas["around"].n_truth == 0
    # An object's own area decides, where it is known.
    own = box_objects([square(0)], [square(0)], [0.9], truth_areas=[80])
    assert coco_scores([own], areas={"x": (75, 85)}).areas["x"].n_truth == 1
    assert COCO_AREAS_PX2["small"] == (0, 1024)


def test_what_is_ignored_is_taken_last_and_costs_nothing():
    # The found one overlaps the ignored one more, and still takes the one that counts.
    item = box_objects([square(0), square(3)], [square(2)], [0.9], ignored=[False, True])
    scores = coco_scores([item], thresholds=(0.5,))
    assert (scores.overall.ap, scores.overall.n_truth) == (1.0, 1)
    twice = box_objects([square(0), square(3)], [square(0), square(3)], [0.9, 0.95], ignored=[0, 1])
    assert coco_scores([twice], thresholds=(0.5,)).overall.ap == 1.0


def test_a_crowd_is_taken_by_many():
    crowd = [0, 0, 100, 100]
    cells = [square(10), square(40), square(70), square(200)]
    item = box_objects([square(200), crowd], cells, [0.9, 0.8, 0.7, 0.1], crowd=[False, True])
    assert coco_scores([item]).overall.ap == 1.0
    ignored = box_objects([square(200), crowd], cells, [0.9, 0.8, 0.7, 0.1], ignored=[0, 1])
    assert coco_scores([ignored]).overall.ap == pytest.approx(0.25)


def test_classes():
    cells = [square(20 * i) for i in range(3)]
    item = box_objects(cells, cells, [0.9, 0.8, 0.7], truth_ids=[0, 1, -1], found_ids=[0, 0, 1])
    scores = coco_scores([item], class_names=NAMES)
    # The second is a false one of class a behind a right one: no matter for AP. Class b: its only
    # true cell is missed; what was found on the nucleus of unknown type costs nothing.
    assert scores.overall.class_ap[:2] == (1.0, 0.0)
    assert math.isnan(scores.overall.class_ap[2])
    assert scores.overall.ap == 0.5
    assert scores.overall.n_truth == 2


def test_nothing_found_and_nothing_true():
    assert coco_scores([box_objects([square(0)], [], [])]).overall.ap == 0.0
    nothing = coco_scores([box_objects([], [square(0)], [0.9])], bootstrap=5)
    assert math.isnan(nothing.overall.ap)
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["AP"] is None
    assert coco_scores([box_objects([], [], []), box_objects([square(0)], [], [])]).overall.ap == 0


def test_a_field_drawn_twice_is_a_field_twice():
    items = list(fields(range(3)))
    scores = coco_scores(items, class_names=NAMES, bootstrap=200, seed=1)
    assert (
        scores.intervals == coco_scores(items, class_names=NAMES, bootstrap=200, seed=1).intervals
    )
    low, high = scores.intervals["AP"]
    assert low < scores.overall.ap < high
    alone = coco_scores(items[:1] * 3, class_names=NAMES, bootstrap=30)
    assert alone.intervals["AR"] == pytest.approx((alone.overall.ar,) * 2)


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_maps_and_stacks_of_the_same_masks_are_the_same(seed):
    truth, found, scores = discs(seed)
    stacks = [np.array([m == i + 1 for i in range(14)]) for m in (truth, found)]
    a, b = mask_objects(truth, found, scores), mask_objects(*stacks, scores)
    for name in ("truth", "found", "iou", "truth_area", "found_area", "ignored"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_masks_by_hand():
    truth, found = np.zeros((4, 8), int), np.zeros((4, 8), int)
    truth[0, :4], found[0, :3], found[2, :2] = 3, 1, 2
    item = mask_objects(truth, found, [0.9, 0.95])
    # Ids 1 and 2 are gaps in the true map, no objects.
    assert item.ignored.tolist() == [True, True, False]
    assert item.iou.tolist() == [0.75]
    scores = coco_scores([item])
    assert scores.overall.n_truth == 1
    assert (scores.at(0.75), scores.at(0.8)) == (0.5, 0.0)
    # A stack may hold masks that overlap.
    both = mask_objects(truth[None] == 3, np.array([truth == 3, truth == 3]), [0.5, 0.6])
    assert both.iou.tolist() == [1.0, 1.0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_box_pairs_are_those_of_the_full_table(seed, count):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 12, (count, 2))], axis=1)
    a, b = boxes[: count // 2], boxes[count // 2 :]
    item = box_objects(a, b, np.ones(len(b)))
    low_, high = (
        np.maximum(b[:, None, :2], a[None, :, :2]),
        np.minimum(b[:, None, 2:], a[None, :, 2:]),
    )
    inter = np.maximum(high - low_, 0).prod(axis=2)
    found, truth = np.nonzero(inter)
    np.testing.assert_array_equal(item.truth, truth)
    np.testing.assert_array_equal(item.found, found)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: coco_scores([]),
        lambda: coco_scores([box_objects([], [], [])], thresholds=(0.0,)),
        lambda: coco_scores([box_objects([], [], [])], thresholds=()),
        lambda: coco_scores([box_objects([], [], [])], max_detections=0),
        lambda: coco_scores([box_objects([], [], [])], mpp=0.0),
        lambda: coco_scores([box_objects([square(0)], [], [], truth_ids=[3])], class_names=NAMES),
        lambda: box_objects([[5, 5, 1, 1]], [], []),
        lambda: box_objects([[0, 0, 1, np.nan]], [], []),
        lambda: box_objects([[0, 0, 1]], [], []),
        lambda: box_objects([], [square(0)], []),
        lambda: box_objects([], [square(0)], [np.nan]),
        lambda: box_objects([square(0)], [], [], truth_ids=[1, 2]),
        lambda: box_objects([square(0)], [], [], crowd=[1, 0]),
        lambda: box_objects([square(0)], [], [], truth_areas=[np.inf]),
        lambda: mask_objects(np.zeros((2, 2)), np.zeros((2, 2), int), []),
        lambda: mask_objects(np.zeros((2, 2), int), np.zeros((3, 2), int), []),
        lambda: mask_objects(np.zeros((1, 2, 2), int), np.zeros((2, 2), int), []),
        lambda: mask_objects(np.zeros((2, 2), int), np.ones((2, 2), int), []),
    ],
)
def test_what_cannot_be_scored_is_refused(bad):
    with pytest.raises(DataError, match="What to do"):
        bad()
