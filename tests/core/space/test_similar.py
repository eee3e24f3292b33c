"""Likeness agrees with the cosine in float64, and landmarks stand for rare cells too."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space import blocks as in_blocks
from napari_celldetr.core.space.similar import (
    cosine_distances,
    landmarks,
    measuring,
    nearest,
    nearest_rows,
    within,
)


def vectors(rows: int = 500, size: int = 16) -> NDArray[np.float16]:
    return np.random.default_rng(rows).standard_normal((rows, size)).astype(np.float16)


def reference(data: NDArray, probe: NDArray) -> NDArray:
    a, b = data.astype(np.float64), probe.astype(np.float64)
    return 1 - a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


def test_distances_are_those_of_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_blocks, "BLOCK_VALUES", 16 * 33)
    data = vectors()
    one = cosine_distances(data, data[7])
    assert one.shape == (500,)
    np.testing.assert_allclose(one, reference(data, data[7]), atol=1e-5)
    several = cosine_distances(data, data[:3])
    assert several.shape == (500, 3)
    for i in range(3):
        np.testing.assert_allclose(several[:, i], reference(data, data[i]), atol=1e-5)


def test_length_does_not_matter_and_none_is_at_a_right_angle() -> None:
    data = np.array([(2, 0), (0, 0.01), (-500, 0), (0, 0)], np.float16)
    assert cosine_distances(data, np.array([7.0, 0])).tolist() == [0, 1, 2, 1]
    assert cosine_distances(data, np.zeros(2)).tolist() == [1, 1, 1, 1]


def test_the_nearest_come_first() -> None:
    data = vectors()
    apart = reference(data, data[11])
    rows = nearest(data, data[11], 20)
    assert rows[0] == 11
    np.testing.assert_array_equal(rows, np.argsort(apart)[:20])
    near = within(data, data[11], 0.6)
    assert set(near.tolist()) == set(np.flatnonzero(apart <= 0.6).tolist())
    assert (np.diff(apart[near]) >= -1e-5).all()


def test_equal_distances_keep_the_order_of_rows() -> None:
    apart = np.array([0.5, 0.2, 0.5, 0.2, 0.5], np.float32)
    assert nearest_rows(apart, 3).tolist() == [1, 3, 0]
    assert nearest_rows(apart, 99).tolist() == [1, 3, 0, 2, 4]
    assert nearest_rows(apart, 0).tolist() == []
    assert nearest_rows(apart[:0], 5).tolist() == []


@pytest.mark.parametrize("probe", [np.zeros(4), np.full(16, np.nan), np.array(["a"] * 16)])
def test_what_cannot_be_compared_is_refused(probe: NDArray) -> None:
    with pytest.raises(EmbeddingError, match="embedding of 16"):
        cosine_distances(vectors(), probe)


def test_embeddings_that_are_not_numbers_are_refused() -> None:
    data = vectors().copy()
    data[3, 3] = np.inf
    with pytest.raises(EmbeddingError, match="not numbers"):
        cosine_distances(data, data[0])


def test_the_job_says_how_far_it_is() -> None:
    steps = list(measuring(np.ones((300_000, 2), np.float16), np.ones(2)))
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert len(steps) == 2


def test_landmarks_are_different_cells_in_order_and_always_the_same() -> None:
    data = vectors(5000)
    rows = landmarks(data, 300)
    assert len(rows) == 300
    assert (np.diff(rows) > 0).all()
    assert (rows == landmarks(data, 300)).all()
    assert (rows != landmarks(data, 300, seed=1)).any()
    assert landmarks(data[:40], 300).tolist() == list(range(40))
    with pytest.raises(EmbeddingError, match="landmarks"):
        landmarks(data, 0)


def test_a_rare_kind_of_cell_keeps_its_landmarks() -> None:
    data = vectors(20_000).copy()
    data[:100] += np.float16(12)
    rows = landmarks(data, 400)
    # In proportion they would be two.

    assert (rows < 100).sum() >= 6
    assert len(landmarks(np.ones((500, 3), np.float16), 20)) == 20
