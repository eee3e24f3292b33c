"""A table of few columns of which each row fills some: bits say which, values follow each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """N rows of `columns` places, some of them filled.

    Attributes
    ----------
    bits : (N, columns / 8) uint8
        Which places are filled, packed.
    values : (M,)
        What they hold, row after row.
    starts : (N + 1,) int64
        Where each row's values begin.
    columns : int
    """

    bits: NDArray[np.uint8]
    values: NDArray[Any]
    starts: NDArray[np.int64]
    columns: int

    @classmethod
    def of(cls, dense: NDArray[Any], filled: Bools) -> Self:
        """The places (N, columns) of `dense` that are `filled`."""
        return cls(np.packbits(filled, axis=1), dense[filled], _starts(filled), dense.shape[1])

    @classmethod
    def of_runs(cls, dense: NDArray[Any]) -> Self:
        """Rows (N, columns) as the places where they change; a row's first place counts as one."""
        change = dense != np.roll(dense, 1, axis=1)
        change[:, 0] = True
        return cls.of(dense, change)

    @classmethod
    def assembled(cls, parts: Iterable[tuple[NDArray[np.int64], SparseRows]], rows: int) -> Self:
        """`rows` rows out of parts, each with the numbers of its rows; there is at least one."""
        known = list(parts)
        first = known[0][1]
        bits = np.zeros((rows, first.bits.shape[1]), np.uint8)
        counts = np.zeros(rows, np.int64)
        for at, part in known:
            bits[at], counts[at] = part.bits, np.diff(part.starts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        values = np.empty(starts[-1], first.values.dtype)
        for at, part in known:
            shift = np.repeat(starts[at] - part.starts[:-1], counts[at])
            values[shift + np.arange(len(shift))] = part.values
        return cls(bits, values, starts, first.columns)

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.bits.nbytes + self.values.nbytes + self.starts.nbytes

    def filled(self, rows: slice) -> Bools:
        """Which places (n, columns) of some rows are filled."""
        return np.unpackbits(self.bits[rows], axis=1, count=self.columns).view(np.bool_)

    def of_rows(self, rows: slice) -> NDArray[Any]:
        """All values of some rows."""
        start, stop, _ = rows.indices(len(self))
        return self.values[self.starts[start] : self.starts[stop]]

    def dense(self, rows: slice, fill: Any) -> NDArray[Any]:
        """Some rows (n, columns), `fill` where nothing is."""
        filled = self.filled(rows)
        found = np.full(filled.shape, fill, self.values.dtype)
        found[filled] = self.of_rows(rows)
        return found

    def held(self, values: NDArray[Any], rows: slice) -> NDArray[Any]:
        """Values of some rows (n, columns), each up to the next; a row's first place is filled.

        `values` are what to write in place of `of_rows`, one for each.
        """
        filled = self.filled(rows)
        places = np.flatnonzero(filled)
        return np.repeat(values, np.diff(places, append=filled.size)).reshape(filled.shape)

    def select(self, which: NDArray[Any]) -> Self:
        """Some rows, by mask or number."""
        numbers = np.arange(len(self))[which]
        counts = np.diff(self.starts)[numbers]
        starts = np.concatenate([[0], np.cumsum(counts)])
        shift = np.repeat(self.starts[numbers] - starts[:-1], counts)
        values = self.values[shift + np.arange(len(shift))]
        return type(self)(self.bits[numbers], values, starts, self.columns)


def _starts(filled: Bools) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
