"""Which cells to look at next: doubtful ones unlike any that were taught, spread over the slide.

Uncertainty is one less the margin between the two likeliest classes; novelty is the distance of
a cell's embedding to the nearest that was taught. Their weighted product says how much a label
would tell; of each square of the slide only the best is asked. Each cell that is taken counts as
taught for the next, so that twenty cells are not twenty times the same (greedy k-centres). A
share of the queue is drawn at random instead: of these one learns how much is still wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

COUNT = 20
ONE_RANDOM_IN = 4
NOVELTY = 0.5
"""Exponent of novelty against 1 of uncertainty."""
POOL = 8_000
"""So many of the most doubtful cells are looked at; distances for all would take seconds."""
MOST_TAUGHT = 2_000
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
        Exponent of novelty; 0 takes the most doubtful.
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
    if len(rows) > POOL:
        # A tenth whatever they look like: cells may be sure, and new all the same.
        best = np.argpartition(-doubt, POOL * 9 // 10)[: POOL * 9 // 10]
        pool = np.union1d(best, rng.choice(len(rows), POOL // 10, replace=False))
        rows, doubt = rows[pool], doubt[pool]
    z = np.asarray(vectors[rows], np.float32)
    seen = np.isfinite(z).all(axis=1)
    rows, doubt, z = rows[seen], doubt[seen] + np.float32(1e-3), z[seen]
    if not len(rows):
        return np.zeros(0, np.int64)
    # One scale for all directions: what varies much in the pool must not hide the rest.
    z = (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-6)
    apart = _nearest(z, _scaled(taught, np.asarray(vectors[rows], np.float32), rng))
    place = squares[rows]
    chosen: list[int] = []
    free = np.ones(len(rows), bool)
    while len(chosen) < min(count, len(rows)):
        if not free.any():
            # More cells than squares: the next round.
            free[:] = True
            free[chosen] = False
        worth = np.where(free, doubt * np.maximum(apart, 1e-6) ** novelty, -1)
        best_ = int(worth.argmax())
        chosen.append(best_)
        free[place == place[best_]] = False
        apart = np.minimum(apart, np.sqrt(((z - z[best_]) ** 2).sum(axis=1)))
    return rows[chosen]


def _scaled(
    taught: NDArray[np.floating] | None, pool: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Some of the taught vectors, on the scale of the pool."""
    if taught is None or not len(taught):
        return np.zeros((0, pool.shape[1]), np.float32)
    known = np.asarray(taught, np.float32)
    known = known[np.isfinite(known).all(axis=1)]
    if len(known) > MOST_TAUGHT:
        known = known[rng.choice(len(known), MOST_TAUGHT, replace=False)]
    return np.asarray((known - pool.mean(axis=0)) / np.maximum(pool.std(axis=0), 1e-6), np.float32)


def _nearest(z: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance (M,) to the nearest known vector; 1 for all where there is none."""
    if not len(known):
        return np.ones(len(z), np.float32)
    apart = np.empty(len(z), np.float32)
    norm = (known**2).sum(axis=1)
    for start in range(0, len(z), _BLOCK):
        part = z[start : start + _BLOCK]
        squared = (part**2).sum(axis=1)[:, None] + norm - 2 * part @ known.T
        apart[start : start + _BLOCK] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return apart
