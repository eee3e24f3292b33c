"""Calibration: a fit undoes what was distorted, order is kept, and the inverse is exact."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit, softmax

from napari_celldetr.core.calibration import (
    Calibration,
    cross_fitted,
    cross_fitted_shares,
    fit_class_temperature,
    fit_scores,
)
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import calibration_error

POSITIVE = st.floats(0.2, 5)
SHIFT = st.floats(-3, 3)


def distorted(seed=0, n=4000, scale=2.5, shift=0.8):
    """Scores that are too sure of themselves, and what came true."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.5, 1.5, n)
    return expit(scale * z + shift), rng.random(n) < expit(z)


def test_the_fit_undoes_the_distortion():
    scores, right = distorted()
    found = fit_scores(scores, right)
    # z = (logit s - .8) / 2.5
    assert found.scale == pytest.approx(1 / 2.5, rel=0.1)
    assert found.shift == pytest.approx(-0.8 / 2.5, abs=0.1)
    before = calibration_error(scores, right).ece
    after = calibration_error(found.score(scores), right).ece
    assert before > 0.1
    assert after < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_the_minimum_that_scipy_finds(seed):
    scores, right = distorted(seed, n=200, scale=1.7 - seed, shift=seed - 1.0)
    if seed >= 2:
        scores = 1 - scores
    x = logit(np.clip(scores, 1e-7, 1 - 1e-7))

    def loss(w):
        z = w[0] * x + w[1]
        prior = 0.01 * ((w - [1, 0]) ** 2).sum() / 2
        return np.logaddexp(0, z).sum() - z[right].sum() + prior

    expected = minimize(loss, [1.0, 0.0], tol=1e-12).x
    found = fit_scores(scores, right)
    assert (found.scale, found.shift) == pytest.approx(tuple(expected), abs=1e-4)


def test_calibrated_scores_stay_as_they_are():
    scores, right = distorted(scale=1.0, shift=0.0, n=20_000)
    found = fit_scores(scores, right)
    assert (found.scale, found.shift) == pytest.approx((1, 0), abs=0.05)


def test_a_perfect_detector_gives_finite_numbers():
    right = np.arange(40) < 20
    found = fit_scores(np.where(right, 1.0, 0.0), right)
    assert 0 < found.scale < 10
    found = fit_scores(np.where(right, 0.6, 0.4), right)
    assert np.isfinite([found.scale, found.shift]).all()
    assert found.score(0.6) > 0.95


@settings(max_examples=60, deadline=None)
@given(POSITIVE, SHIFT, st.lists(st.floats(1e-5, 1 - 1e-5), min_size=1, max_size=20))
def test_the_inverse_is_exact_and_order_is_kept(scale, shift, values):
    one = Calibration(scale, shift)
    raw = np.sort(values)
    score = one.score(raw)
    assert ((score >= 0) & (score <= 1)).all()
    assert (np.diff(score) >= 0).all()
    inside = (score > 1e-9) & (score < 1 - 1e-9)
    np.testing.assert_allclose(one.raw(score)[inside], raw[inside], rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(POSITIVE, SHIFT, POSITIVE, SHIFT, st.floats(0.01, 0.99))
def test_one_after_the_other_is_one(a, b, c, d, value):
    first, second = Calibration(a, b, 2.0, "old"), Calibration(c, d, 1.5, "new")
    both = second.after(first)
    once = first.score(value)
    if 1e-6 < once < 1 - 1e-6:
        assert both.score(value) == pytest.approx(float(second.score(once)), rel=1e-6)
    assert both.class_temperature == 3.0
    assert both.fitted_on == "new"
    p = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(both.shares(p), second.shares(first.shares(p)), atol=1e-9)


def test_scores_of_0_and_1_are_no_trouble():
    score = Calibration(3.0, -1.0).score([0.0, 1.0])
    assert np.isfinite(score).all()
    assert 0 < score[0] < 1e-9 < score[1] <= 1
    assert Calibration(2.0, 0.5).raw([0.0, 1.0]).tolist() == [0.0, 1.0]


# --- classes -----------------------------------------------------------------------------------


def test_the_class_temperature_undoes_a_temperature():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, (6000, 3))
    truth = np.array([rng.choice(3, p=p) for p in softmax(z, axis=1)])
    truth[:100] = -1
    p = softmax(z * 2.2, axis=1)
    temperature = fit_class_temperature(p, truth)
    assert temperature == pytest.approx(2.2, rel=0.06)
    one = Calibration(class_temperature=temperature)
    np.testing.assert_allclose(one.shares(p).sum(axis=1), 1)
    np.testing.assert_array_equal(one.shares(p).argmax(axis=1), p.argmax(axis=1))

    def ece(q):
        known = truth >= 0
        return calibration_error(q.max(1)[known], (q.argmax(1) == truth)[known]).ece

    assert ece(p) > 0.1
    assert ece(one.shares(p)) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_the_class_fit_is_the_minimum_that_scipy_finds(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5, 0.5, 0.5, 0.5], 80)
    truth = np.where(rng.random(80) < 0.6, p.argmax(1), rng.integers(0, 4, 80))
    logits = np.log(np.maximum(p, 1e-12))

    def loss(b):
        share = np.log(softmax(b * logits, axis=1))
        return -share[np.arange(80), truth].sum() + 0.01 * (b - 1) ** 2 / 2

    expected = minimize_scalar(loss, bounds=(0.01, 20), method="bounded", options={"xatol": 1e-9}).x
    assert 1 / fit_class_temperature(p, truth) == pytest.approx(expected, abs=1e-5)


def test_sure_and_always_right_classes_stay_finite():
    temperature = fit_class_temperature(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3)
    assert 0.01 < temperature <= 1.5


# --- honest figures, and what is refused -------------------------------------------------------


def test_cross_fitting_never_uses_a_cell_s_own_group():
    scores, right = distorted(n=400)
    groups = np.arange(400) // 100
    found = cross_fitted(scores, right, list(groups))
    own = groups == 2
    np.testing.assert_allclose(found[own], fit_scores(scores[~own], right[~own]).score(scores[own]))
    # Turning a group's truth around moves all scores but its own.
    turned = cross_fitted(scores, np.where(own, ~right, right), list(groups))
    np.testing.assert_allclose(turned[own], found[own])
    assert not np.allclose(turned[~own], found[~own])
    assert cross_fitted(scores, right, ["one"] * 400) is None
    assert cross_fitted(scores[:30], right[:30], [i % 2 for i in range(30)]) is None


def test_class_probabilities_are_cross_fitted_too():
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.5] * 3, 300)
    truth = np.where(rng.random(300) < 0.6, p.argmax(1), rng.integers(0, 3, 300))
    groups = np.arange(300) // 60
    found = cross_fitted_shares(p, truth, list(groups))
    own = groups == 4
    one = Calibration(class_temperature=fit_class_temperature(p[~own], truth[~own]))
    np.testing.assert_allclose(found[own], one.shares(p[own]))
    assert cross_fitted_shares(p, truth, [1] * 300) is None
    assert cross_fitted_shares(p[:12], truth[:12], [0, 1] * 6) is None


def test_as_a_dictionary():
    one = Calibration(0.5, -0.2, 1.4, "a set")
    assert Calibration.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert Calibration.from_dict(None) == Calibration()
    assert Calibration().score(0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Calibration(0.0),
        lambda: Calibration(float("nan")),
        lambda: Calibration("1"),
        lambda: Calibration(True),
        lambda: Calibration(shift=float("inf")),
        lambda: Calibration(class_temperature=-1),
        lambda: Calibration(fitted_on=3),
        lambda: Calibration.from_dict({"temperature": 2}),
        lambda: fit_scores([0.5] * 30, [1] * 30),
        lambda: fit_scores([0.5] * 30, [1] * 29),
        lambda: fit_scores([np.nan] * 30, [1] * 15 + [0] * 15),
        lambda: fit_scores([0.1] * 300 + [0.9] * 300, [1] * 300 + [0] * 300),
        lambda: fit_class_temperature([[0.5, 0.5]] * 20, [-1] * 20),
        lambda: fit_class_temperature([[1.0]] * 20, [0] * 20),
        lambda: fit_class_temperature([[0.5, 0.5]] * 20, [2] * 20),
        lambda: fit_class_temperature([[0.5, 0.5]] * 20, [0] * 19),
        lambda: fit_class_temperature([[0.99, 0.01]] * 200, [1] * 200),
    ],
)
def test_what_cannot_be_calibrated_is_refused(bad):
    with pytest.raises(DataError, match="What to do"):
        bad()
