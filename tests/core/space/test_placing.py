"""Cells come to lie where their nearest landmarks do."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space import placing as module
from napari_celldetr.core.space.placing import place, placing


def slow(points: NDArray, marks: NDArray, laid: NDArray, k: int) -> NDArray:
    """Every point with every landmark, in float64."""
    apart = np.square(points[:, None] - marks[None]).sum(axis=2, dtype=np.float64)
    near = np.argsort(apart, axis=1)[:, :k]
    weight = 1 / np.take_along_axis(apart, near, axis=1)
    return np.einsum("nk,nkp->np", weight / weight.sum(axis=1, keepdims=True), laid[near])


def test_as_every_landmark_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS", 5000)
    rng = np.random.default_rng(0)
    points, marks = rng.standard_normal((400, 4)), rng.standard_normal((3000, 4))
    laid = rng.standard_normal((3000, 2))
    found, wanted = place(points, marks, laid), slow(points, marks, laid, 5)
    # Not all landmarks are looked at: nearly all cells get the same ones.
    assert (np.abs(found - wanted).max(axis=1) < 1e-3).mean() > 0.9


def test_few_landmarks_are_all_looked_at() -> None:
    rng = np.random.default_rng(1)
    points, marks = rng.standard_normal((50, 3)), rng.standard_normal((8, 3))
    laid = rng.standard_normal((8, 2))
    np.testing.assert_allclose(place(points, marks, laid), slow(points, marks, laid, 5), atol=1e-4)
    one = place(points, marks[:1], laid[:1])
    np.testing.assert_allclose(one, np.repeat(laid[:1], 50, axis=0), atol=1e-6)


def test_landmarks_lie_where_they_were_laid() -> None:
    rng = np.random.default_rng(2)
    marks, laid = rng.standard_normal((3000, 30)), rng.standard_normal((3000, 2))
    np.testing.assert_allclose(place(marks, marks, laid), laid, atol=1e-4)


def test_positions_stay_among_those_of_the_landmarks() -> None:
    rng = np.random.default_rng(3)
    found = place(
        100 * rng.standard_normal((200, 2)), rng.standard_normal((40, 2)), np.ones((40, 2))
    )
    np.testing.assert_allclose(found, 1, atol=1e-5)


def test_equal_landmarks_share_the_say() -> None:
    laid = np.array([(0, 0), (2, 2)], np.float32)
    assert place(np.zeros((1, 3)), np.zeros((2, 3)), laid).tolist() == [[1, 1]]


def test_the_job_counts_every_point_once() -> None:
    steps = list(placing(np.zeros((9, 2)), np.eye(2), np.eye(2)))
    assert [steps[-1].done, steps[-1].total] == [9, 9]
    assert place(np.zeros((0, 2)), np.eye(2), np.eye(2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("marks", "laid"),
    [(np.zeros((0, 2)), np.zeros((0, 2))), (np.eye(3), np.eye(3)), (np.eye(2), np.zeros((3, 2)))],
)
def test_landmarks_that_do_not_fit_are_refused(marks: NDArray, laid: NDArray) -> None:
    with pytest.raises(EmbeddingError, match="landmarks do not fit"):
        place(np.zeros((4, 2)), marks, laid)
