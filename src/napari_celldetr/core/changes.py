"""What a lesson changed: cells that each class gained and lost, from what to what, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN


@dataclass(frozen=True, eq=False)
class Changes:
    """Classes of N cells before and after.

    Attributes
    ----------
    class_names : tuple of K str
    table : (K + 1, K + 1) int64
        Cells by class before (rows) and after (columns); the last ones are of unknown class.
    changed : (N,) bool
        Which cells have another class.
    squares : (S,) int64
        Numbers of the squares that hold cells (`napari_celldetr.core.guard.squares_of`).
    in_square, changed_in_square : (S,) int64
        Cells there, and those of another class.
    """

    class_names: tuple[str, ...]
    table: NDArray[np.int64]
    changed: NDArray[np.bool_]
    squares: NDArray[np.int64]
    in_square: NDArray[np.int64]
    changed_in_square: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Cells that were compared."""
        return int(self.table.sum())

    @property
    def flipped(self) -> int:
        """Cells of another class than before."""
        return self.total - int(np.trace(self.table))

    def gained(self) -> dict[str, int]:
        """By class: cells that are of it now and were not before."""
        return self._named(self.table.sum(axis=0) - np.diag(self.table))

    def lost(self) -> dict[str, int]:
        """By class: cells that were of it and are not any more."""
        return self._named(self.table.sum(axis=1) - np.diag(self.table))

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """By class: cells before, and after."""
        return self._named(self.table.sum(axis=1)), self._named(self.table.sum(axis=0))

    def moves(self) -> list[tuple[str, str, int]]:
        """(class before, class after, cells) of those that changed, the most frequent first."""
        names = (*self.class_names, "unknown")
        off = self.table * ~np.eye(len(names), dtype=bool)
        found = [(names[i], names[j], int(off[i, j])) for i, j in np.argwhere(off)]
        return sorted(found, key=lambda move: (-move[2], move[:2]))

    def sentence(self) -> str:
        """What changed, in words for people."""
        if not self.flipped:
            return f"No class of {self.total:,} cells changed."
        share = 100 * self.flipped / self.total
        moves = "; ".join(f"{n:,} from {a} to {b}" for a, b, n in self.moves()[:4])
        return f"{self.flipped:,} of {self.total:,} cells ({share:.1f} %) changed class: {moves}."

    def _named(self, values: NDArray[np.int64]) -> dict[str, int]:
        named = dict(zip((*self.class_names, "unknown"), values.tolist(), strict=True))
        if not self.table[-1].any() and not self.table[:, -1].any():
            del named["unknown"]
        return named


def changes(
    before: NDArray[np.integer],
    after: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    squares: NDArray[np.int64] | None = None,
) -> Changes:
    """Compare class ids (N,) of `class_names`, -1 for unknown; `squares` (N,): where cells lie."""
    k = len(class_names)
    old, new = np.asarray(before, np.int64), np.asarray(after, np.int64)
    old, new = np.where(old == UNKNOWN, k, old), np.where(new == UNKNOWN, k, new)
    table = np.bincount(old * (k + 1) + new, minlength=(k + 1) ** 2).reshape(k + 1, k + 1)
    where = np.zeros(len(old), np.int64) if squares is None else squares
    places, place = np.unique(where, return_inverse=True)
    changed = old != new
    return Changes(
        tuple(class_names),
        table.astype(np.int64),
        changed,
        places,
        np.bincount(place, minlength=len(places)).astype(np.int64),
        np.bincount(place, changed, len(places)).astype(np.int64),
    )
