"""A transform goes there and back, survives its file to the bit, and refuses to fold."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from napari_celldetr.core.transform import (
    ErrorMap,
    SlideFrame,
    SlideTransform,
    SplineWarp,
    Stage,
    TransformError,
    identity_affine,
)

HE = SlideFrame("he.svs", "a" * 64, (8000, 6000), (0.5, 0.5))
IHC = SlideFrame("ihc.svs", "b" * 64, (9000, 9000), (0.25, 0.26))


def bent(seed: int = 0, amount: float = 60.0, *, flip: bool = False) -> SlideTransform:
    chance = np.random.default_rng(seed)
    angle = chance.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if flip else 1.0, 1.0]) * chance.uniform(0.9, 1.1)
    affine = np.column_stack([turn, chance.uniform(-500, 500, 2)])
    corners = np.array([[0, 0], [4000, 0], [0, 3000], [4000, 3000]]) @ turn.T + affine[:, 2]
    origin = corners.min(axis=0) - 800
    field = chance.uniform(-amount, amount, (14, 14, 2))
    warp = SplineWarp((float(origin[0]), float(origin[1])), (500.0, 500.0), field)
    return SlideTransform(HE, IHC, affine, warp)


def points(count: int = 500, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, (8000, 6000), (count, 2))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_there_and_back_is_within_a_twentieth_of_a_pixel(seed, flip):
    transform = bent(seed, flip=flip)
    at = points()
    assert np.abs(transform.inverse(transform.forward(at)) - at).max() < 0.01
    back = transform.inverse(at)
    assert np.abs(transform.forward(back) - at).max() < 0.01


def test_no_points_are_no_error():
    assert bent().forward(np.zeros((0, 2))).shape == (0, 2)
    assert bent().inverse(np.zeros((0, 2))).shape == (0, 2)


def test_pixel_sizes_of_both_slides_count():
    transform = SlideTransform(HE, IHC, identity_affine())
    assert np.allclose(transform.forward(np.array([[100, 52]])), [[200, 100]])


def test_displacement_is_a_cubic_b_spline():
    # A B-spline reproduces a straight line: coefficients that grow evenly give even growth.
    x, y = np.meshgrid(np.arange(8.0), np.arange(8.0))
    warp = SplineWarp((0, 0), (10, 10), np.stack([0.1 * x, -0.2 * y], -1))
    at = np.random.default_rng(0).uniform(10, 60, (50, 2))
    assert np.allclose(warp.displacement(at), at * [0.01, -0.02])
    assert np.allclose(warp.jacobian(at), np.diag([1.01, 0.98]))


def test_displacement_of_one_node_is_the_basis_function():
    field = np.zeros((9, 9, 2))
    field[4, 4, 0] = 1
    warp = SplineWarp((0, 0), (1, 1), field)
    at = np.array([[4, 4], [5, 4], [4.5, 4], [6, 4]])
    assert np.allclose(warp.displacement(at)[:, 0], [4 / 9, 1 / 9, 23 / 72, 0])


def test_jacobian_is_the_derivative():
    warp, step = bent().warp, 1e-4
    at = np.random.default_rng(3).uniform(-200, 2000, (40, 2))
    for axis in (0, 1):
        move = np.eye(2)[axis] * step
        slope = (warp.displacement(at + move) - warp.displacement(at - move)) / (2 * step)
        assert np.allclose(warp.jacobian(at)[:, :, axis] - np.eye(2)[:, axis], slope, atol=1e-6)


def test_beyond_the_grid_the_displacement_stays():
    warp = bent().warp
    edge = warp.displacement(np.array([[warp.origin[0] + 500, 0.0]]))
    assert np.allclose(warp.displacement(np.array([[warp.origin[0] - 9e4, 0.0]])), edge)


def test_folding_is_refused():
    with pytest.raises(TransformError, match="folds") as caught:
        bent(amount=2000)
    assert "Jacobian" in caught.value.expected


@pytest.mark.parametrize(
    "affine",
    [np.zeros((2, 3)), np.full((2, 3), np.nan), np.eye(3), np.array([[1.0, 2, 0], [2, 4, 0]])],
)
def test_affines_that_cannot_be_inverted_are_refused(affine):
    with pytest.raises(TransformError):
        SlideTransform(HE, IHC, affine)


def full() -> SlideTransform:
    chance = np.random.default_rng(5)
    error = chance.uniform(1, 100, (6, 8))
    error[0, 0] = np.nan
    tissue = chance.uniform(0, 1, (6, 8)).round(3)
    tissue[3] = 0
    errors = ErrorMap((500.0, 500.0), error, tissue)
    stages = (Stage("start", "likeness", 0.1, 0.2, True, 16.0, 1.5, "ten starts"),)
    return replace(bent(), error_map=errors, stages=stages, notes=("µ",), limit_um=40.0)


def test_json_gives_the_very_same_transform():
    one = full()
    other = SlideTransform.from_json(one.to_json())
    assert other.to_json() == one.to_json()
    assert (other.affine == one.affine).all()
    assert (other.warp.coefficients == one.warp.coefficients).all()
    assert np.array_equal(other.error_map.error_um, one.error_map.error_um, equal_nan=True)
    assert (other.he, other.ihc, other.stages) == (one.he, one.ihc, one.stages)
    assert (other.forward(points()) == one.forward(points())).all()


def test_error_map_says_what_is_excluded():
    one = full()
    errors = one.error_map
    wanted = errors.tissue[(errors.tissue > 0) & ~(errors.error_um <= 40)].sum()
    assert one.excluded_share == pytest.approx(wanted / errors.tissue.sum())
    inside = np.array([[250.0, 250.0], [750, 250], [-1, 0], [1e6, 0]])
    assert np.isnan(errors.at(inside)[[0, 2, 3]]).all()
    assert errors.at(inside)[1] == errors.error_um[0, 1]
    trusted = one.trusted(inside / one.he.mpp)
    assert trusted.tolist() == [False, bool(errors.error_um[0, 1] <= 40), False, False]


def broken(**changes: object) -> str:
    return json.dumps(json.loads(full().to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        full().to_json()[:-40],
        broken(schema=99),
        broken(kind="other"),
        broken(affine=[[1, 0, 0]]),
        broken(affine=[[1, 0, "x"], [0, 1, 0]]),
        broken(affine=[[1, 0, 0], [1, 0, 0]]),
        broken(warp={"origin": [0, 0], "spacing": [1, 1], "x": [[1]], "y": [[1]]}),
        broken(warp={"origin": [0, 0], "spacing": [-1, 1], "x": [[0] * 4] * 4, "y": [[0] * 4] * 4}),
        broken(limit_um=-1),
        broken(he={"name": "x"}),
        broken(he={"name": "x", "identity": "", "size": [0, 1], "mpp": [1, 1]}),
        broken(stages=[{"unknown": 1}]),
    ],
)
def test_broken_files_are_refused_with_a_reason(text):
    with pytest.raises(TransformError) as caught:
        SlideTransform.from_json(text)
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.remedy


def test_a_transform_of_another_slide_is_refused():
    bent().check_slides("a" * 64, "b" * 64)
    bent().check_slides(None, None)
    with pytest.raises(TransformError, match="another slide") as caught:
        bent().check_slides("a" * 64, "c" * 64)
    assert "ihc.svs" in caught.value.expected
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), TransformError)
