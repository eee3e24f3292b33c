"""Principal components agree with a decomposition in float64, whatever the precision and size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space import blocks as in_blocks
from napari_celldetr.core.space.blocks import blocks, widen
from napari_celldetr.core.space.pca import fit_pca, fitting_pca


def cloud(rows: int, size: int = 12, *, kind: type = np.float16, far: float = 0.0) -> NDArray:
    rng = np.random.default_rng(rows)
    spread = np.diag(1 / np.arange(1, size + 1)) @ rng.standard_normal((size, size))
    return (rng.standard_normal((rows, size)) @ spread + far).astype(kind)


def reference(vectors: NDArray, components: int) -> tuple[NDArray, NDArray, NDArray]:
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    _, singular, axes = np.linalg.svd(exact - mean, full_matrices=False)
    return mean, axes[:components], (singular**2 / (len(exact) - 1))[:components]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("far", [0.0, 30.0])
def test_axes_and_variance_are_those_of_a_full_decomposition(
    kind: type, far: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_blocks, "BLOCK_VALUES", 12 * 100)
    vectors = cloud(1234, kind=kind, far=far)
    found = fit_pca(vectors, components=4)
    mean, axes, variance = reference(vectors, 4)
    np.testing.assert_allclose(found.mean, mean, atol=1e-5 * max(far, 1))
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    # The same axes, up to the sign.
    np.testing.assert_allclose(np.abs((found.axes * axes).sum(axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(4), atol=1e-5)
    assert found.total == pytest.approx(vectors.astype(float).var(axis=0, ddof=1).sum(), rel=1e-3)
    assert 0 < found.explained.sum() < 1


def test_positions_are_along_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_blocks, "BLOCK_VALUES", 12 * 64)
    vectors = cloud(500, far=3)
    pca = fit_pca(vectors, components=3)
    places = pca.project(vectors)
    wanted = (vectors.astype(np.float64) - pca.mean) @ pca.axes.T.astype(np.float64)
    assert places.dtype == np.float32
    np.testing.assert_allclose(places, wanted, atol=1e-4)
    np.testing.assert_allclose(places.var(axis=0, ddof=1), pca.variance, rtol=1e-3)
    white = pca.project(vectors, whiten=True)
    np.testing.assert_allclose(white.std(axis=0, ddof=1), 1, rtol=1e-3)


def test_the_sign_does_not_depend_on_the_order_of_cells() -> None:
    vectors = cloud(300, kind=np.float32)
    one, other = fit_pca(vectors), fit_pca(vectors[::-1].copy())
    np.testing.assert_allclose(one.axes, other.axes, atol=1e-4)


def test_a_sample_finds_nearly_the_same_axes() -> None:
    vectors = cloud(20_000)
    all_of_them, some = fit_pca(vectors), fit_pca(vectors, sample=2000)
    assert (np.abs((all_of_them.axes * some.axes).sum(axis=1)) > 0.99).all()


def test_cells_that_all_agree_have_no_extent() -> None:
    pca = fit_pca(np.ones((5, 3), np.float16))
    assert pca.total == 0
    assert pca.explained.tolist() == [0, 0]
    assert np.isfinite(pca.project(np.ones((5, 3), np.float16), whiten=True)).all()


def test_projecting_nothing_gives_nothing() -> None:
    assert fit_pca(cloud(9)).project(np.zeros((0, 12), np.float16)).shape == (0, 2)


def test_the_job_says_how_far_it_is() -> None:
    steps = list(fitting_pca(np.zeros((150_000, 2), np.float16)))
    assert steps
    assert all(0 < s.done <= s.total == 150_000 for s in steps)


@pytest.mark.parametrize(
    ("vectors", "components", "words"),
    [
        (np.zeros((1, 4)), 2, "several cells"),
        (np.zeros((5, 4)), 5, "components"),
        (np.zeros((5, 4)), 0, "components"),
        (np.zeros(4), 1, "not embeddings"),
        (np.zeros((5, 0)), 1, "not embeddings"),
        (np.zeros((5, 4), int), 1, "not embeddings"),
        (np.full((5, 4), np.nan), 1, "not numbers"),
        (np.full((5, 4), np.inf, np.float16), 1, "not numbers"),
    ],
)
def test_what_cannot_be_projected_is_refused(vectors: NDArray, components: int, words: str) -> None:
    with pytest.raises(EmbeddingError, match=words):
        fit_pca(vectors, components=components)


def test_embeddings_of_another_size_are_refused() -> None:
    with pytest.raises(EmbeddingError, match="12 numbers a cell"):
        fit_pca(cloud(9)).project(np.zeros((3, 4)))


def test_every_half_is_widened_to_its_value() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    finite = np.isfinite(halves)
    wide = widen(halves, np.empty(halves.shape, np.float32))
    assert (wide[finite] == halves[finite].astype(np.float32)).all()
    assert (np.abs(wide[~finite]) >= 65536).all()


def test_large_numbers_in_single_precision_are_numbers() -> None:
    ((_, block),) = blocks(np.full((2, 2), 1e6, np.float32))
    assert (block == 1e6).all()
