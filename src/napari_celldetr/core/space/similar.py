"""Cells that look alike: cosine distances of a million embeddings to a few, and who is nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.core.space.blocks import blocks, checked
from napari_celldetr.core.space.pca import fit_pca

_STEP = 1 << 17
LANDMARK_AXES = 3
_MOST_SAMPLED = 100_000


def cosine_distances(vectors: NDArray[Any], probes: NDArray[Any]) -> NDArray[np.float32]:
    """1 − cosine of the angle between embeddings (N, D) and probes (D,) or (P, D).

    Returns (N,) for one probe, (N, P) for several; 0 is the same direction, 1 a right angle, 2
    the opposite. An embedding of length zero is at 1 from everything. Raises `EmbeddingError`
    for probes of another size, and where something is not a finite number.
    """
    return drain(measuring(vectors, probes))


def measuring(vectors: NDArray[Any], probes: NDArray[Any]) -> Job[NDArray[np.float32]]:
    """`cosine_distances` as a job; `Progress` counts cells."""
    data = checked(vectors)
    towards = _directions(np.asarray(probes), data.shape[1])
    one = towards.ndim == 1
    found = np.empty(len(data) if one else (len(data), len(towards)), np.float32)
    for where, block in blocks(data):
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        length[length == 0] = np.inf
        # One product of a few numbers is not worth waking the threads of a matrix product.
        cosine = np.einsum("nd,d->n", block, towards) if one else block @ towards.T
        cosine /= length if one else length[:, None]
        np.subtract(1, np.clip(cosine, -1, 1, out=cosine), out=found[where])
        if where.start // _STEP != where.stop // _STEP:
            yield Progress(where.stop, len(data), "comparing")
    return found


def within(vectors: NDArray[Any], probe: NDArray[Any], distance: float) -> NDArray[np.int64]:
    """Rows of embeddings (N, D) at most so far from a probe (D,), the nearest first."""
    apart = cosine_distances(vectors, probe)
    return rows_within(apart, distance)


def nearest(vectors: NDArray[Any], probe: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Rows of the `k` embeddings (N, D) nearest to a probe (D,), the nearest first.

    The probe's own cell, if it is among them, comes with the rest.
    """
    return nearest_rows(cosine_distances(vectors, probe), k)


def rows_within(distances: NDArray[np.float32], distance: float) -> NDArray[np.int64]:
    """Rows of distances (N,) that are at most `distance`, the nearest first."""
    rows = np.flatnonzero(distances <= np.float32(distance))
    return rows[np.argsort(distances[rows], kind="stable")]


def nearest_rows(distances: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` smallest distances (N,), the nearest first, equal ones in row order."""
    k = min(max(k, 0), len(distances))
    if not k:
        return np.zeros(0, np.int64)
    farthest = np.partition(distances, k - 1)[k - 1]
    return rows_within(distances, float(farthest))[:k]


def landmarks(vectors: NDArray[Any], count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of at most `count` embeddings (N, D) that stand for all, in order.

    The space along the first axes is cut into boxes, and each box gives landmarks in proportion
    to the square root of the cells in it: rare kinds of cells keep theirs, common ones do not
    take all. The same seed gives the same rows.
    """
    data = checked(vectors)
    if count < 1:
        raise EmbeddingError(
            "There must be landmarks.",
            expected="at least 1",
            found=str(count),
            remedy="ask for more landmarks",
        )
    if len(data) <= count:
        return np.arange(len(data))
    axes = min(LANDMARK_AXES, data.shape[1])
    place = fit_pca(data, components=axes, sample=_MOST_SAMPLED).project(data)
    box = _boxes(place, max(round((count / 4) ** (1 / axes)), 1))
    return _drawn(box, count, np.random.default_rng(seed))


def _boxes(place: NDArray[np.float32], cuts: int) -> NDArray[np.int64]:
    """Number (N,) of the box that each position (N, K) lies in, of `cuts` + 2 along each axis.

    Boxes are even between the 1st and 99th percentile, as quantiles would undo the square root;
    what lies beyond has boxes of its own, as it is what is rare.
    """
    number = np.zeros(len(place), np.int64)
    for axis in place.T:
        low, high = np.percentile(axis, (1, 99))
        at = np.floor((axis - low) * (cuts / max(high - low, 1e-12)))
        number = number * (cuts + 2) + np.clip(at, -1, cuts).astype(np.int64) + 1
    return number


def _drawn(box: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows, from each box in proportion to the square root of what it holds."""
    _, which, held = np.unique(box, return_inverse=True, return_counts=True)
    share = np.sqrt(held)
    rank = _ranks(which, held, rng)
    # A box that holds fewer than its share leaves the rest to the others: rows are taken in the
    # order in which a growing number of landmarks would reach them.
    turn = (rank + rng.random(len(held))[which]) / share[which]
    return np.sort(np.argpartition(turn, count - 1)[:count])


def _ranks(
    which: NDArray[np.int64], held: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """A random rank (N,) of each row within its box, from 0."""
    order = rng.permutation(len(which))
    order = order[np.argsort(which[order], kind="stable")]
    rank = np.empty(len(which), np.int64)
    rank[order] = np.arange(len(which)) - np.repeat(np.cumsum(held) - held, held)
    return rank


def _directions(probes: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Probes of length one; of length zero where there is no direction."""
    good = probes.ndim in (1, 2) and probes.shape[-1] == size
    if not (good and probes.dtype.kind in "fiu" and np.isfinite(probes).all()):
        raise EmbeddingError(
            "Nothing can be compared with this.",
            expected=f"an embedding of {size} finite numbers",
            found=f"{probes.dtype} of shape {probes.shape}",
            remedy="choose a cell of this table",
        )
    exact = probes.astype(np.float64)
    length = np.linalg.norm(exact, axis=-1, keepdims=True)
    return np.divide(exact, length, out=np.zeros_like(exact), where=length > 0).astype(np.float32)
