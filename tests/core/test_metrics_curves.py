"""Hits, FROC, reliability and bootstrap: by hand and against slow references."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import (
    PointField,
    bootstrap_interval,
    bootstrap_intervals,
    calibration_error,
    field_draws,
    froc,
    hits_by_score,
    hovernet_scores,
    match_points,
    percentile_interval,
    point_scores,
    point_scores_at,
    threshold_curve,
)

# --- hits at every threshold -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 60), st.floats(1, 25))
def test_hits_above_every_threshold_are_the_pairs_of_the_exact_matching(seed, n, m, radius):
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, 60, (n, 2)), rng.integers(0, 60, (m, 2))
    scores = rng.integers(0, 6, m) / 5
    hits = hits_by_score(truth, found, scores, radius)
    for t in np.unique(scores):
        above = scores >= t
        assert hits[above].sum() == len(match_points(truth, found[above], radius)[0])


def test_the_surest_of_two_on_one_cell_is_the_hit():
    assert hits_by_score([[0, 0]], [[0, 0], [2, 0]], [0.3, 0.9], 3).tolist() == [False, True]
    # A later one may push the first to another cell: both are hits.
    truth, found = [[0, 0], [5, 0]], [[2, 0], [-1, 0]]
    assert hits_by_score(truth, found, [0.9, 0.3], 3.5).all()


def scored(truth, found, scores, area=None):
    return PointField(truth, found, scores=scores, area_mm2=area)


def random_fields(count=6, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = rng.uniform(0, 150, (40, 2))
        found = np.concatenate(
            [truth[:30] + rng.normal(0, 2, (30, 2)), rng.uniform(0, 150, (25, 2))]
        )
        scores = np.clip(rng.normal(np.repeat([0.7, 0.4], [30, 25]), 0.2), 0.05, 0.95).round(2)
        yield scored(truth, found, scores, area=rng.uniform(0.01, 0.05))


def test_the_curve_gives_the_f1_of_the_table_at_every_threshold():
    fields = list(random_fields())
    curve = threshold_curve(fields, 6)
    assert (np.diff(curve.thresholds) < 0).all()
    for t, f1, found in zip(curve.thresholds, curve.f1, curve.found, strict=True):
        above = [PointField(f.truth_xy, f.found_xy[f.scores >= t]) for f in fields]
        expected = point_scores(above, 6)
        assert f1 == pytest.approx(expected.f1)
        assert found == expected.detection.n_found
    threshold, best = curve.best()
    assert best == curve.f1.max()
    assert threshold in curve.thresholds


def test_froc_by_hand():
    # Hit .9, false .8, hit .7, two false at .6; 3 true cells in 2 fields.
    first = scored([[0, 0], [50, 0]], [[0, 0], [99, 0], [50, 0]], [0.9, 0.8, 0.7], area=0.5)
    second = scored([[0, 0]], [[80, 0], [90, 0]], [0.6, 0.6], area=1.5)
    found = froc([first, second], 5, rates=(0.1, 0.5, 1, 1.5))
    np.testing.assert_array_equal(found.thresholds, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(found.false_positives, [0, 0.5, 0.5, 1.5])
    np.testing.assert_allclose(found.sensitivity, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert found.at == {0.1: 1 / 3, 0.5: 2 / 3, 1.0: 2 / 3, 1.5: 2 / 3}
    assert found.mean == pytest.approx((1 / 3 + 3 * 2 / 3) / 4)
    per_area = froc([first, second], 5, per="mm2", rates=(0.4, 0.5))
    np.testing.assert_allclose(per_area.false_positives, [0, 0.5, 0.5, 1.5])
    assert per_area.at == {0.4: 1 / 3, 0.5: 2 / 3}
    assert per_area.unit == "mm²"
    assert json.loads(json.dumps(per_area.to_dict(), allow_nan=False))["sensitivity_at"]


def test_cells_of_one_score_are_taken_together():
    # Hit and false at one score: no point of the curve has the hit alone.
    found = froc([scored([[0, 0]], [[0, 0], [50, 0]], [0.5, 0.5])], 5, rates=(0.5, 1))
    assert found.false_positives.tolist() == [1.0]
    assert found.at == {0.5: 0.0, 1.0: 1.0}


def test_nothing_true_or_nothing_found():
    nothing = froc([scored([], [[0, 0]], [0.9])], 5, bootstrap=5)
    assert math.isnan(nothing.mean)
    json.dumps(nothing.to_dict(), allow_nan=False)
    none_found = froc([scored([[0, 0]], [], [])], 5)
    assert none_found.mean == 0.0
    assert all(math.isnan(v) for v in threshold_curve([scored([], [], [])], 5).best())


def test_a_froc_interval_holds_its_figure():
    fields = list(random_fields(10))
    found = froc(fields, 6, per="mm2", rates=(200, 400), bootstrap=300)
    for name, value in (("mean", found.mean), ("200", found.at[200.0])):
        low, high = found.intervals[name]
        assert low < value < high
    repeated = froc([fields[0]] * 3, 6, bootstrap=20)
    assert repeated.intervals["mean"] == pytest.approx((repeated.mean,) * 2)


# --- several radii -----------------------------------------------------------------------------


def test_several_radii_are_each_scored_on_their_own():
    fields = list(random_fields(4))
    table = point_scores_at(fields, (4, 6, 10), bootstrap=20)
    assert list(table) == [4.0, 6.0, 10.0]
    assert table[4.0].f1 < table[6.0].f1 <= table[10.0].f1
    assert table[6.0] == point_scores(fields, 6, bootstrap=20)


def test_hovernet_intervals_hold_their_figures():
    rng = np.random.default_rng(0)
    fields = []
    for f in random_fields(10):
        ids = rng.integers(0, 2, 40)
        fields.append(
            PointField(f.truth_xy, f.found_xy, ids, np.r_[ids[:30], rng.integers(0, 2, 25)])
        )
    for gated in (False, True):
        scores = hovernet_scores(fields, 6, class_names=("a", "b"), gated=gated, bootstrap=200)
        pairs = {"detection": scores.f_d, "a": scores.class_f1[0], "class mean": scores.class_mean}
        for name, value in pairs.items():
            low, high = scores.intervals[name]
            assert low < value < high
        plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
        assert plain["class_f1"]["b"] == scores.class_f1[1]


# --- calibration error -------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # Bins of width .5: (0, .5] holds .2 and .5, one right; (.5, 1] holds .9 twice, one right.
    found = calibration_error([0.2, 0.5, 0.9, 0.9], [0, 1, 1, 0], bins=2)
    assert [(b.count, b.right) for b in found.bins] == [(2, 0.5), (2, 0.5)]
    assert found.bins[0].confidence == pytest.approx(0.35)
    assert found.ece == pytest.approx((0.15 * 2 + 0.4 * 2) / 4)
    assert found.worst == pytest.approx(0.4)


def test_edges_belong_to_the_bin_below_and_0_to_the_first():
    found = calibration_error([0.0, 0.1, 0.1 + 1e-9, 1.0], [0, 0, 0, 1], bins=10)
    assert [(b.low, b.count) for b in found.bins] == [(0.0, 2), (0.1, 1), (0.9, 1)]


def test_bins_of_equal_mass_share_the_values_and_never_part_equal_ones():
    values = np.linspace(0.01, 0.2, 20)
    found = calibration_error(values, np.zeros(20), bins=4, binning="mass")
    assert [b.count for b in found.bins] == [5, 5, 5, 5]
    assert len(calibration_error(values, np.zeros(20), bins=4).bins) == 1
    ties = calibration_error([0.3] * 7 + [0.8], np.ones(8), bins=4, binning="mass")
    assert [b.count for b in ties.bins] == [7, 1]
    assert calibration_error([0.0, 0.0], [0, 1], bins=3, binning="mass").ece == 0.5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 12),
    st.sampled_from(["width", "mass"]),
)
def test_calibration_error_equals_the_slow_one(pairs, bins, binning):
    value, right = (np.array(column, float) for column in zip(*pairs, strict=True))
    found = calibration_error(value, right, bins=bins, binning=binning)
    total = 0.0
    for b in found.bins:
        inside = (value > b.low) & (value <= b.high) | ((b.low == 0) & (value == 0))
        assert inside.sum() == b.count
        total += abs(value[inside].mean() - right[inside].mean()) * inside.sum()
    assert sum(b.count for b in found.bins) == len(value)
    assert found.ece == pytest.approx(total / len(value), abs=1e-12)


def test_probabilities_that_come_true_have_no_error_in_the_long_run():
    rng = np.random.default_rng(0)
    value = rng.uniform(0, 1, 50_000)
    field = np.arange(50_000) // 500
    good = calibration_error(value, rng.random(50_000) < value, fields=field, bootstrap=100)
    assert good.ece < 0.01
    low, high = good.interval
    assert 0 < low < high < 0.02
    bad = calibration_error(value, rng.random(50_000) < value**2)
    assert bad.ece == pytest.approx(1 / 6, abs=0.01)


def test_no_values_have_no_error():
    for binning in ("width", "mass"):
        nothing = calibration_error([], [], binning=binning, bootstrap=10)
        assert math.isnan(nothing.ece)
        assert nothing.bins == ()
        json.dumps(nothing.to_dict(), allow_nan=False)


# --- bootstrap ---------------------------------------------------------------------------------


def test_as_many_fields_are_drawn_as_there_are():
    draws = field_draws(7, 300, seed=1)
    assert draws.shape == (300, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert draws.mean() == pytest.approx(1.0)
    np.testing.assert_array_equal(draws, field_draws(7, 300, seed=1))


def test_fields_of_one_group_are_drawn_together():
    draws = field_draws(5, 200, groups=["p", "q", "p", "r", "q"])
    np.testing.assert_array_equal(draws[:, 0], draws[:, 2])
    np.testing.assert_array_equal(draws[:, 1], draws[:, 4])
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_an_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(0, 1, 400)
    low, high = bootstrap_interval(lambda w: float(w @ values) / 400, 400, times=2000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    both = bootstrap_intervals(
        lambda w: {"mean": float(w @ values) / 400, "none": math.nan}, 400, times=2000
    )
    assert both["mean"] == (low, high)
    assert all(math.isnan(v) for v in both["none"])
    assert percentile_interval([1.0, math.nan, 3.0], level=1.0) == (1.0, 3.0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: field_draws(0, 10),
        lambda: field_draws(3, 0),
        lambda: field_draws(3, 10, groups=["a"]),
        lambda: hits_by_score([[0, 0]], [[0, 0]], [], 3),
        lambda: hits_by_score([[0, 0]], [[0, 0]], [math.nan], 3),
        lambda: PointField([], [[0, 0]], scores=[0.5, 0.5]),
        lambda: threshold_curve([PointField([], [])], 3),
        lambda: threshold_curve([], 3),
        lambda: froc([scored([], [], [])], 3, per="mm2"),
        lambda: froc([scored([], [], [], area=0.0)], 3, per="mm2"),
        lambda: calibration_error([0.5, 1.2], [0, 1]),
        lambda: calibration_error([0.5], [0, 1]),
        lambda: calibration_error([math.nan], [0]),
        lambda: calibration_error([0.5], [0.5]),
        lambda: calibration_error([0.5], [1], bins=0),
    ],
)
def test_what_cannot_be_scored_is_refused(bad):
    with pytest.raises(DataError, match="What to do"):
        bad()
