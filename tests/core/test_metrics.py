import json
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import (
    PointField,
    Rate,
    assign,
    detection_f1,
    hovernet_scores,
    match_points,
    match_points_greedy,
    match_points_hovernet,
    point_scores,
)

NAMES = ("lymphocyte", "tumour", "stromal")


def distances(truth, found):
    return np.hypot(*np.moveaxis(truth[:, None] - found[None], 2, 0))


def reference(truth, found, radius):
    """Most pairs within the radius, then least total distance, by scipy on the full matrix."""
    matrix = distances(truth, found)
    rows, columns = linear_sum_assignment(np.where(matrix <= radius, matrix, 1e5))
    picked = matrix[rows, columns]
    return int((picked <= radius).sum()), float(picked[picked <= radius].sum())


# --- assignment


@pytest.mark.parametrize("seed", range(40))
def test_assign_costs_what_scipy_finds(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 40, 2)
    # Small whole numbers make many ties, where a wrong dual variable shows.
    cost = rng.random((n, m)) if seed % 2 else rng.integers(0, 4, (n, m)).astype(float)
    rows, columns = assign(cost)
    assert len(rows) == len(set(columns.tolist())) == min(n, m)
    assert (np.diff(rows) > 0).all()
    expected = cost[linear_sum_assignment(cost)].sum()
    assert cost[rows, columns].sum() == pytest.approx(expected, abs=1e-9)


def test_assign_takes_negative_costs():
    cost = np.array([[-5.0, -1.0], [-4.0, 3.0]])
    rows, columns = assign(cost)
    assert cost[rows, columns].sum() == -5.0


# --- gated one-to-one


@pytest.mark.parametrize("seed", range(60))
def test_match_points_is_exact(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 60, 2)
    truth, found = rng.uniform(0, 40, (n, 2)), rng.uniform(-10, 50, (m, 2))
    if seed % 3 == 0:
        truth, found = np.rint(truth), np.rint(found)
    radius = rng.uniform(0.5, 15)
    a, b, distance = match_points(truth, found, radius)
    count, total = reference(truth, found, radius)
    assert len(a) == count
    assert distance.sum() == pytest.approx(total, abs=1e-6)
    assert len(set(a.tolist())) == len(set(b.tolist())) == len(a)
    np.testing.assert_allclose(distance, np.hypot(*(truth[a] - found[b]).T))
    assert (np.diff(a) > 0).all()


def test_more_pairs_come_before_shorter_ones():
    # Taking the closest pair (0.5) would leave the second true cell alone.
    truth, found = [[0, 0], [1.5, 0]], [[1, 0], [-1.8, 0]]
    a, b, _ = match_points(truth, found, 2)
    assert list(zip(a, b, strict=True)) == [(0, 1), (1, 0)]


def test_the_radius_is_inclusive():
    assert len(match_points([[0, 0]], [[3, 4]], 5)[0]) == 1
    assert len(match_points([[0, 0]], [[3, 4]], 4.999)[0]) == 0


def test_matching_does_not_depend_on_order_or_place():
    rng = np.random.default_rng(3)
    truth, found = rng.uniform(0, 300, (400, 2)), rng.uniform(0, 300, (380, 2))
    a, b, _ = match_points(truth, found, 6)
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    p, q = rng.permutation(400), rng.permutation(380)
    c, d, _ = match_points(truth[p] - 1e5, found[q] - 1e5, 6)
    assert set(zip(p[c].tolist(), q[d].tolist(), strict=True)) == pairs


def test_a_tiny_radius_over_a_huge_field():
    truth = np.array([[0.0, 0.0], [1e9, 1e9], [5e8, 1.0]])
    a, b, _ = match_points(truth, truth[::-1] + 1e-7, 1e-3)
    np.testing.assert_array_equal(a, [0, 1, 2])
    np.testing.assert_array_equal(b, [2, 1, 0])


def test_many_points_match_themselves_shifted():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(300), np.arange(300)), axis=-1).reshape(-1, 2) * 12.0
    a, b, distance = match_points(grid, grid + rng.uniform(-2, 2, grid.shape), 6)
    np.testing.assert_array_equal(a, b)
    assert len(a) == 90_000
    assert distance.max() < 3


@pytest.mark.parametrize("matcher", [match_points, match_points_greedy, match_points_hovernet])
def test_nothing_on_a_side_gives_no_pairs(matcher):
    some = [[1.0, 2.0]]
    for truth, found in (([], []), (some, []), ([], some)):
        a, b, distance = matcher(truth, found, 3)
        assert len(a) == len(b) == len(distance) == 0


@pytest.mark.parametrize(
    "bad",
    [
        lambda: match_points([[0, np.nan]], [[0, 0]], 1),
        lambda: match_points([[0, 0, 0]], [[0, 0]], 1),
        lambda: match_points([[0, 0]], [[0, 0]], 0),
        lambda: match_points([[0, 0]], [[0, 0]], np.inf),
        lambda: PointField([[0, 0]], [[0, 0]], [0, 1], [0]),
        lambda: point_scores([], 6),
        lambda: point_scores([PointField([[0, 0]], [], [3])], 6, class_names=NAMES),
        lambda: hovernet_scores([PointField([], [[0, 0]], [], [-2])], 6, class_names=NAMES),
    ],
)
def test_what_cannot_be_scored_is_refused(bad):
    with pytest.raises(DataError, match="What to do"):
        bad()


# --- published rules


def test_greedy_lets_the_first_true_cell_take_its_nearest():
    # Row by row: the upper true cell takes the only point that the lower one could reach.
    truth, found = [[0, 0], [0, 4]], [[0, 2.5], [0, -2.6]]
    assert len(match_points(truth, found, 3)[0]) == 2
    a, b, _ = match_points_greedy(truth, found, 3)
    assert list(zip(a, b, strict=True)) == [(0, 0)]


def test_greedy_radius_is_exclusive():
    assert len(match_points_greedy([[0, 0]], [[0, 6]], 6)[0]) == 0
    assert len(match_points_greedy([[0, 0]], [[0, 5.99]], 6)[0]) == 1


@pytest.mark.parametrize("seed", range(10))
def test_greedy_follows_the_published_loop(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.uniform(0, 60, (80, 2)), rng.uniform(0, 60, (90, 2))
    free, expected = set(range(90)), []
    for i in np.lexsort((truth[:, 0], truth[:, 1])):
        for j in np.argsort(distances(truth[i : i + 1], found)[0]):
            if np.hypot(*(truth[i] - found[j])) < 6 and j in free:
                free.remove(j)
                expected.append((i, j))
                break
    a, b, _ = match_points_greedy(truth, found, 6)
    assert list(zip(a, b, strict=True)) == sorted(expected)
    assert len(a) <= len(match_points(truth, found, 6)[0])


def test_assign_then_threshold_loses_pairs_that_gating_keeps():
    # Straight across 30.52 + 29.5 is less than 59.5 + 1.12, and each of its pairs is too far.
    truth, found = np.array([[0.0, 0.0], [30.0, 0.0]]), np.array([[30.5, 1.0], [59.5, 0.0]])
    matrix = distances(truth, found)
    assert matrix[[0, 1], [0, 1]].sum() < matrix[[0, 1], [1, 0]].sum()
    assert len(match_points_hovernet(truth, found, 12)[0]) == 0
    a, b, _ = match_points(truth, found, 12)
    assert (a.tolist(), b.tolist()) == ([1], [0])


@pytest.mark.parametrize("seed", range(10))
def test_hovernet_matching_is_scipys_on_the_full_matrix(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.uniform(0, 250, (50, 2)), rng.uniform(0, 250, (60, 2))
    rows, columns = linear_sum_assignment(distances(truth, found))
    near = distances(truth, found)[rows, columns] <= 12
    a, b, _ = match_points_hovernet(truth, found, 12)
    np.testing.assert_array_equal(a, rows[near])
    np.testing.assert_array_equal(b, columns[near])


# --- plain point scores, by hand


def test_rates_by_hand():
    rate = Rate("x", matched=3, n_truth=4, n_found=5)
    assert (rate.precision, rate.recall, rate.f1) == (0.6, 0.75, pytest.approx(2 / 3))
    nothing = Rate("x", 0, 0, 0)
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.precision)
    assert Rate("x", 0, 0, 2).f1 == 0.0
    assert math.isnan(detection_f1([], [], 6))
    assert detection_f1([[0, 0]], [], 6) == 0.0
    assert detection_f1([[0, 0], [50, 0]], [[1, 0]], 6) == pytest.approx(2 / 3)


def test_point_scores_by_hand():
    # A lymphocyte found as tumour, a tumour found right, a stromal cell missed, one invented.
    truth, classes = [[10, 10], [30, 10], [50, 10]], [0, 1, 2]
    found, claimed = [[11, 10], [30, 12], [90, 90]], [1, 1, 0]
    scores = point_scores([PointField(truth, found, classes, claimed)], 6, class_names=NAMES)
    assert (scores.precision, scores.recall) == (2 / 3, 2 / 3)
    lymphocyte, tumour, stromal = scores.classes
    assert (lymphocyte.matched, lymphocyte.n_truth, lymphocyte.n_found) == (0, 1, 1)
    assert (tumour.precision, tumour.recall) == (0.5, 1.0)
    assert stromal.f1 == 0.0
    assert scores.class_mean == pytest.approx((0 + 2 / 3 + 0) / 3)


def test_classes_are_matched_apart_from_each_other():
    # Both found cells sit at the lymphocyte; by class each still reaches its own true cell.
    truth, classes = [[0, 0], [5, 0]], [0, 1]
    found, claimed = [[1, 0], [0, 0]], [0, 1]
    scores = point_scores([PointField(truth, found, classes, claimed)], 6, class_names=NAMES)
    assert scores.f1 == 1.0
    assert [c.f1 for c in scores.classes[:2]] == [1.0, 1.0]
    assert math.isnan(scores.classes[2].f1)
    assert scores.class_mean == 1.0


def test_counts_are_pooled_not_averaged():
    good = PointField([[0, 0]], [[0, 0]], [0], [0])
    bad = PointField(np.arange(6).reshape(3, 2) * 100, [], [0, 0, 0])
    assert point_scores([good, bad], 6, class_names=NAMES).f1 == pytest.approx(2 / 5)


def test_an_empty_field_adds_nothing():
    some = PointField([[0, 0]], [[0, 0]], [0], [0])
    alone, with_empty = (point_scores(f, 6) for f in ([some], [some, PointField([], [])]))
    assert alone.detection == with_empty.detection
    assert math.isnan(point_scores([PointField([], [])], 6).f1)


def test_unknown_truth_counts_for_detection_alone():
    truth, classes = [[0, 0], [50, 0]], [-1, 1]
    found, claimed = [[1, 0], [50, 1], [100, 0]], [0, 1, 0]
    scores = point_scores([PointField(truth, found, classes, claimed)], 6, class_names=NAMES)
    assert (scores.detection.matched, scores.detection.n_truth) == (2, 2)
    lymphocyte, tumour, _ = scores.classes
    # The lymphocyte on the untyped nucleus is excused, the one in nowhere is not.
    assert (lymphocyte.n_found, lymphocyte.n_truth) == (1, 0)
    assert tumour.f1 == 1.0


def test_points_without_class_ids_are_of_unknown_type():
    scores = point_scores([PointField([[0, 0]], [[0, 0]])], 6, class_names=NAMES)
    assert scores.f1 == 1.0
    assert math.isnan(scores.class_mean)


def test_greedy_scores_never_exceed_exact_ones():
    rng = np.random.default_rng(1)
    fields = [
        PointField(
            rng.uniform(0, 80, (100, 2)),
            rng.uniform(0, 80, (100, 2)),
            rng.integers(0, 3, 100),
            rng.integers(0, 3, 100),
        )
        for _ in range(5)
    ]
    exact = point_scores(fields, 6, class_names=NAMES)
    greedy = point_scores(fields, 6, class_names=NAMES, greedy=True)
    assert greedy.f1 < exact.f1
    assert "MCSpatNet" in greedy.rule
    assert "gated" in exact.rule


def noisy_fields(rng, n):
    for _ in range(n):
        truth = rng.uniform(0, 200, (60, 2))
        keep = rng.random(60) < rng.uniform(0.5, 1)
        classes = rng.integers(0, 2, 60)
        yield PointField(
            truth, truth[keep] + rng.normal(0, 2, (keep.sum(), 2)), classes, classes[keep]
        )


def test_intervals_hold_the_figure_and_repeat_with_the_seed():
    fields = list(noisy_fields(np.random.default_rng(0), 12))
    first, again = (
        point_scores(fields, 6, class_names=NAMES, bootstrap=400, seed=5) for _ in range(2)
    )
    assert first.intervals == again.intervals
    assert list(first.intervals) == ["detection", *NAMES, "class mean"]
    low, high = first.intervals["detection"]
    assert low < first.f1 < high
    low, high = first.intervals["class mean"]
    assert low < first.class_mean < high
    assert all(math.isnan(v) for v in first.intervals["stromal"])


def test_equal_fields_leave_no_doubt():
    field = next(noisy_fields(np.random.default_rng(0), 1))
    scores = point_scores([field] * 4, 6, bootstrap=50)
    assert scores.intervals["detection"] == pytest.approx((scores.f1, scores.f1))


def test_scores_as_numbers_and_as_text():
    field = PointField([[0, 0]], [[1, 0]], [0], [0])
    scores = point_scores([field], 6, class_names=NAMES, bootstrap=20)
    table = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert table["detection"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "truth": 1, "found": 1, "matched": 1,
    }  # fmt: skip
    assert table["tumour"]["f1"] is None
    assert table["intervals"]["tumour"] == [None, None]
    lines = scores.to_text().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["detection", *NAMES, "class"]
    assert "1.000" in lines[2]


# --- HoVer-Net / PanNuke, by hand


def test_hovernet_formula_by_hand():
    # Pairs: 0->0, 0->1, 1->1 (far from each other); class-2 truth missed; class-1 invented.
    truth, classes = [[0, 0], [100, 0], [200, 0], [300, 0]], [0, 0, 1, 2]
    found, claimed = [[0, 1], [100, 1], [200, 1], [300, 200]], [0, 1, 1, 1]
    scores = hovernet_scores(
        [PointField(truth, found, classes, claimed)], 12, class_names=(*NAMES, "dead")
    )
    assert scores.f_d == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores.accuracy == pytest.approx(2 / 3)
    # Class 0: TP 1, FN 1. TN_c is 0 although the pair 1->1 is right: it does not involve class 0.
    assert scores.class_f1[0] == pytest.approx(2 / (2 + 2))
    # Class 1: TP 1, FP 1 and one invented cell.
    assert scores.class_f1[1] == pytest.approx(2 / (2 + 2 + 1))
    assert scores.class_f1[2] == 0.0
    assert math.isnan(scores.class_f1[3])
    assert scores.class_mean == pytest.approx((0.5 + 0.4 + 0.0) / 3)


def test_an_empty_image_holds_a_fake_cell_in_the_published_rule():
    empty, real = PointField([], []), PointField([[50, 50]], [[50, 50]], [0], [0])
    # Two fake cells at (0, 0) make a true positive of no class.
    published = hovernet_scores([empty, real], 12, class_names=NAMES)
    assert published.f_d == 1.0
    missed = PointField([[50, 50]], [], [0], [])
    # (2 fake-fake + 0) / (... + spare fake + missed cell)
    published = hovernet_scores([empty, missed], 12, class_names=NAMES)
    assert published.f_d == pytest.approx(2 / (2 + 1 + 1))
    gated = hovernet_scores([empty, missed], 12, class_names=NAMES, gated=True)
    assert gated.f_d == 0.0


def test_a_cell_found_near_the_corner_of_an_empty_image_matches_the_fake():
    field = PointField([], [[5, 5]], [], [1])
    published = hovernet_scores([field], 12, class_names=NAMES)
    gated = hovernet_scores([field], 12, class_names=NAMES, gated=True)
    assert published.f_d == 1.0
    assert published.class_f1[1] == 0.0  # a pair with the wrong class: 2 FP_c
    assert gated.f_d == 0.0
    assert gated.class_f1[1] == 0.0
    assert math.isnan(gated.accuracy)


def test_gating_scores_noisy_fields_higher():
    rng = np.random.default_rng(2)
    fields = []
    for _ in range(5):
        truth = rng.uniform(0, 250, (120, 2))
        found = np.concatenate(
            [truth[:80] + rng.normal(0, 3, (80, 2)), rng.uniform(0, 250, (40, 2))]
        )
        fields.append(PointField(truth, found, np.zeros(120, int), np.zeros(120, int)))
    published = hovernet_scores(fields, 12, class_names=NAMES)
    gated = hovernet_scores(fields, 12, class_names=NAMES, gated=True)
    assert gated.f_d > published.f_d + 0.02
    assert published.rule != gated.rule


def test_hovernet_ignores_the_class_of_a_cell_whose_truth_is_unknown():
    scores = hovernet_scores(
        [PointField([[0, 0], [50, 0]], [[0, 0], [50, 0]], [-1, 0], [1, 0])], 12, class_names=NAMES
    )
    assert scores.f_d == 1.0
    assert scores.class_f1[0] == 1.0
    assert math.isnan(scores.class_f1[1])
    assert scores.accuracy == 1.0


def test_an_unknown_neighbour_excuses_no_wrong_class():
    # Found as class 0 right on a cell of class 1; a cell of unknown type lies 4 px beside it.
    truth = np.array([[0.0, 0.0], [4.0, 0.0]])
    field = PointField(truth, np.array([[0.0, 0.0]]), np.array([1, -1]), np.array([0]))
    scores = point_scores([field], 6.0, class_names=("a", "b"))
    assert [(c.matched, c.n_found) for c in scores.classes] == [(0, 1), (0, 0)]
    # On the unknown one it is excused, once: the second of the two is not.
    two = np.array([[4.0, 0.0], [4.5, 0.0]])
    field = PointField(truth[1:], two, np.array([-1]), np.array([0, 1]))
    scores = point_scores([field], 6.0, class_names=("a", "b"))
    assert sorted(c.n_found for c in scores.classes) == [0, 1]
