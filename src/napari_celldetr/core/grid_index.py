"""Which points lie in a rectangle: points in order of the grid square they are in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.regions import Region

SQUARE_PX = 512
"""Side of a grid square in level-0 px: some tens of cells in dense tissue."""


class GridIndex:
    """Points (N, 2) x, y in grid squares of `side`; a row of squares is one run of rows.

    Made once for points that do not move. A rectangle needs one slice of `order` per row of
    squares it touches, whatever N is.
    """

    def __init__(self, points: NDArray[np.floating], *, side: float = SQUARE_PX) -> None:
        self.side = side
        self.size = len(points)
        if not self.size:
            self._first, self._shape = np.zeros(2, np.int64), (0, 0)
            self.order = np.zeros(0, np.int64)
            self._starts = np.zeros(1, np.int64)
            return
        squares = np.floor(np.asarray(points, np.float64) / side).astype(np.int64)
        self._first = squares.min(axis=0)
        squares -= self._first
        columns, rows = (squares.max(axis=0) + 1).tolist()
        self._shape = (rows, columns)
        number = squares[:, 1] * columns + squares[:, 0]
        self.order = np.argsort(number, kind="stable")
        ranked = number[self.order]
        # Of squares that hold something alone: a slide may be large and nearly empty.
        self._used, first = np.unique(ranked, return_index=True)
        self._starts = np.append(first, len(ranked))

    def near(self, region: Region) -> NDArray[np.int64]:
        """Rows of all points in squares that touch `region`: those inside, and a few around."""
        runs = list(self._runs(region))
        if not runs:
            return np.zeros(0, np.int64)
        return np.concatenate(runs) if len(runs) > 1 else runs[0]

    def _runs(self, region: Region) -> Iterator[NDArray[np.int64]]:
        rows, columns = self._shape
        x0, y0 = (int(np.floor(v / self.side)) for v in (region.x, region.y))
        x1, y1 = (int(np.ceil(v / self.side)) for v in (region.x1, region.y1))
        left, right = max(x0 - self._first[0], 0), min(x1 - self._first[0], columns)
        top, bottom = max(y0 - self._first[1], 0), min(y1 - self._first[1], rows)
        if left >= right or top >= bottom:
            return
        if (left, top, right, bottom) == (0, 0, columns, rows):
            yield self.order
            return
        lines = np.arange(top, bottom) * columns
        starts = self._starts[np.searchsorted(self._used, lines + left)]
        ends = self._starts[np.searchsorted(self._used, lines + right)]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if end > start:
                yield self.order[start:end]


def inside(points: NDArray[np.floating], region: Region) -> NDArray[np.bool_]:
    """Which points (N, 2) lie in a half-open rectangle."""
    x, y = points[:, 0], points[:, 1]
    found: NDArray[np.bool_] = (x >= region.x) & (x < region.x1) & (y >= region.y) & (y < region.y1)
    return found
