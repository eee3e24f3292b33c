"""Which cells to look at next: doubtful ones unlike any that were taught, spread over the slide.

Uncertainty is one less the margin between the two likeliest classes; novelty is the squared
distance of a cell's embedding, on its main directions, to the nearest that was taught. Cells are
drawn with a chance that is the product of the two; each that is drawn counts as taught for the
next (k-means++, Arthur and Vassilvitskii 2007), and of each square of the slide one is drawn. To
take the largest product instead of drawing asks about odd cells, of which little can be learned.
While nothing was taught doubt says nothing of what the model does not know, and novelty decides.
A share of the queue is drawn evenly from all cells: of these one learns how much is still wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

COUNT = 20
ONE_RANDOM_IN = 4
NOVELTY = 1.0
"""Exponent of novelty against 1 of uncertainty."""
SETTLED = 25
"""Labels from which doubt counts in full."""
POOL = 8_000
"""So many cells, drawn by doubt, are compared with the taught ones; all would take seconds."""
MOST_TAUGHT = 2_000
DIRECTIONS = 16
"""Of the embeddings; the others are mostly noise, in which all cells are alike far apart."""
_LEAST_DOUBT = 1e-3
_BLOCK = 1 << 11

Rows = NDArray[np.int64]


class Vectors(Protocol):
    """Embeddings that are fetched row by row: an array, or what looks like one."""

    def __len__(self) -> int:
        """Number of cells."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Embeddings (M, D) of rows (M,)."""
        ...


@dataclass(frozen=True, eq=False)
class Queue:
    """Cells to look at, in the order of asking.

    Attributes
    ----------
    rows : (M,) int64
        Of the arrays that were given.
    random : (M,) bool
        Whether a cell was drawn at random; only these tell how much is still wrong.
    """

    rows: Rows
    random: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


def next_cells(
    vectors: Vectors,
    probability: NDArray[np.floating],
    squares: NDArray[np.int64],
    *,
    taught: NDArray[np.floating] | None = None,
    open_: NDArray[np.bool_] | None = None,
    count: int = COUNT,
    one_random_in: int = ONE_RANDOM_IN,
    novelty: float = NOVELTY,
    seed: int = 0,
) -> Queue:
    """The next cells to ask a person about.

    Parameters
    ----------
    vectors : (N, D)
        Embeddings of all cells; those that are not finite are never doubtful.
    probability : (N, K)
        Of all classes, as things stand now.
    squares : (N,)
        See `napari_celldetr.core.guard.squares_of`; of each at most one doubtful cell is asked,
        as long as there are squares.
    taught : (M, D), optional
        Embeddings of cells with a label.
    open_ : (N,) bool, optional
        Which cells may be asked about; all unless given.
    count, one_random_in : int
        Length of the queue; one in so many is drawn at random, 0 for none.
    novelty : float
        Exponent of novelty; with 0 doubt alone decides.
    seed : int
    """
    rng = np.random.default_rng(seed)
    usable = np.ones(len(vectors), bool) if open_ is None else open_.copy()
    rows = np.flatnonzero(usable)
    drawn = count // one_random_in if one_random_in else 0
    random = rng.choice(rows, min(drawn, len(rows)), replace=False)
    usable[random] = False
    rows = np.flatnonzero(usable)
    chosen = _doubtful(
        vectors, _uncertainty(probability, rows), rows, squares, taught, count - drawn, novelty, rng
    )
    both = np.concatenate((chosen, random)).astype(np.int64)
    is_random = np.arange(len(both)) >= len(chosen)
    # Mixed, so that nobody can tell one kind from the other while answering.
    order = rng.permutation(len(both))
    return Queue(both[order], is_random[order])


def _uncertainty(probability: NDArray[np.floating], rows: Rows) -> NDArray[np.float32]:
    """One less the margin (M,) of rows; 0 where it is not known."""
    if probability.shape[1] < 2:
        return np.zeros(len(rows), np.float32)
    best = np.partition(probability[rows], -2, axis=1)[:, -2:]
    margin = best.max(axis=1) - best.min(axis=1)
    return np.nan_to_num(1 - margin, nan=0.0).astype(np.float32)


def _doubtful(
    vectors: Vectors,
    doubt: NDArray[np.float32],
    rows: Rows,
    squares: NDArray[np.int64],
    taught: NDArray[np.floating] | None,
    count: int,
    novelty: float,
    rng: np.random.Generator,
) -> Rows:
    known = np.zeros((0, 1), np.float32) if taught is None else np.asarray(taught, np.float32)
    known = known[np.isfinite(known).all(axis=1)]
    weight = (doubt.astype(np.float64) + _LEAST_DOUBT) ** min(1.0, len(known) / SETTLED)
    if len(rows) > POOL:
        pool = np.sort(rng.choice(len(rows), POOL, replace=False, p=weight / weight.sum()))
        # That they are here is what doubt had to say.
        rows, weight = rows[pool], np.ones(POOL)
    z = np.asarray(vectors[rows], np.float32)
    seen = np.isfinite(z).all(axis=1)
    rows, weight, z = rows[seen], weight[seen], z[seen]
    if not len(rows):
        return np.zeros(0, np.int64)
    if len(known) > MOST_TAUGHT:
        known = known[rng.choice(len(known), MOST_TAUGHT, replace=False)]
    z, known = _main_directions(z, known)
    apart = _nearest(z, known)
    place, free = squares[rows], np.ones(len(rows), bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)):
        if not free.any():
            # More cells than squares: the next round.
            free[:] = True
            free[chosen] = False
        worth = np.where(free, weight * np.maximum(apart, 1e-6) ** novelty, 0)
        one = int(rng.choice(len(rows), p=worth / worth.sum()))
        chosen.append(one)
        free[place == place[one]] = False
        apart = np.minimum(apart, ((z - z[one]) ** 2).sum(axis=1))
    return rows[chosen]


def _main_directions(
    z: NDArray[np.float32], known: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both on the pool's scale and main directions: what varies much must not hide the rest."""
    mean, std = z.mean(axis=0), np.maximum(z.std(axis=0), 1e-6)
    z = (z - mean) / std
    _, axes = np.linalg.eigh(z.T @ z)
    axes = axes[:, -DIRECTIONS:].astype(np.float32)
    if not len(known):
        return z @ axes, np.zeros((0, axes.shape[1]), np.float32)
    return z @ axes, ((known - mean) / std) @ axes


def _nearest(z: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distance (M,) to the nearest known vector; a usual one where there is none."""
    if not len(known):
        return np.full(len(z), 2 * z.var(axis=0).sum(), np.float32)
    apart = np.empty(len(z), np.float32)
    norm = (known**2).sum(axis=1)
    for start in range(0, len(z), _BLOCK):
        part = z[start : start + _BLOCK]
        squared = (part**2).sum(axis=1)[:, None] + norm - 2 * part @ known.T
        apart[start : start + _BLOCK] = np.maximum(squared.min(axis=1), 0)
    return apart
