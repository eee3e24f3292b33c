"""Shares of cells with their uncertainty: Wilson's interval, and tiles drawn again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_celldetr.core.her2.patterns import SCORES, Pattern, cell_scores, check_patterns
from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval

Z95 = 1.959963984540054


def wilson_interval(cells: int, total: int) -> tuple[float, float]:
    """95 % interval of the share ``cells / total``, 0 to 1 (Wilson, JASA 1927).

    (NaN, NaN) of nothing.
    """
    if total <= 0:
        return math.nan, math.nan
    share, spread = cells / total, Z95**2 / total
    middle = share + spread / 2
    half = Z95 * math.sqrt((share * (1 - share) + spread / 4) / total)
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def count_patterns(patterns: ArrayLike) -> dict[Pattern, int]:
    """Cells with each pattern."""
    counts = np.bincount(check_patterns(patterns), minlength=len(Pattern))
    return {p: int(counts[p]) for p in Pattern}


def h_score(counts: dict[Pattern, int]) -> float:
    """1 · % 1+ + 2 · % 2+ + 3 · % 3+, 0 to 300; NaN of no cells."""
    total = sum(counts.values())
    weight = sum(int(cell_scores([p])[0]) * n for p, n in counts.items())
    return 100 * weight / total if total else math.nan


def score_shares(counts: dict[Pattern, int]) -> dict[str, float]:
    """Per cent of cells that are 0, 1+, 2+ and 3+; NaN of no cells."""
    total = sum(counts.values())
    cells = dict.fromkeys(SCORES, 0)
    for pattern, n in counts.items():
        cells[SCORES[int(cell_scores([pattern])[0])]] += n
    return {score: 100 * n / total if total else math.nan for score, n in cells.items()}


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Cells by tile and pattern (T, 5): what is drawn again to see how a figure moves."""

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, patterns: ArrayLike, centres: ArrayLike, side: float) -> TileCounts:
        """Count patterns (N,) of cells at `centres` (N, 2) in squares of `side`, same unit."""
        codes = check_patterns(patterns)
        squares = np.floor(np.asarray(centres, np.float64).reshape(-1, 2) / side).astype(np.int64)
        squares -= squares.min(axis=0, initial=0)
        # One number per square, in the order of x, then y: far faster than unique rows.
        number = squares[:, 0] * (squares[:, 1].max(initial=0) + 1) + squares[:, 1]
        known, tile = np.unique(number, return_inverse=True)
        tiles = len(known)
        flat = tile.ravel() * len(Pattern) + codes
        counts = np.bincount(flat, minlength=tiles * len(Pattern))
        return cls(counts.reshape(tiles, len(Pattern)))

    def drawn(self, times: int = 1000, *, seed: int = 0) -> NDArray[np.int64]:
        """Cells with each pattern (times, 5) when as many tiles are drawn with replacement.

        Neighbouring cells are alike, so drawing cells one by one would give intervals that are
        too narrow wherever staining is patchy.
        """
        if not len(self.counts):
            return np.zeros((times, len(Pattern)), np.int64)
        return field_draws(len(self.counts), times, seed=seed) @ self.counts

    def share_interval(
        self, pattern: Pattern, times: int = 1000, *, seed: int = 0
    ) -> tuple[float, float]:
        """95 % interval of a pattern's share, 0 to 1, over tiles."""
        drawn = self.drawn(times, seed=seed)
        total = drawn.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return percentile_interval(drawn[:, pattern] / np.where(total, total, np.nan))
