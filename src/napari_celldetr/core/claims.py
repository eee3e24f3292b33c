"""A model's claims as they came, quick to find by place and by key; and the table's columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.grid_index import GridIndex
from napari_celldetr.core.regions import Region
from napari_celldetr.core.taught import Taught, Teacher

MakeKeys = Callable[[Detections], NDArray[np.uint64]]
Rows = NDArray[np.int64]

FEW = 2_000
"""Fewer claims than this are compared one by one: an index would not pay."""


LESSONS = 3
"""One that holds, and what it is compared with."""


@dataclass(eq=False)
class Columns:
    """Growing columns; the first `size` rows count."""

    size: int = 0
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    centres: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    class_ids: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    status: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def of(cls, table: Detections) -> Columns:
        """Columns that hold claims as they came, nobody having touched them."""
        n = len(table)
        return cls(
            n,
            table.boxes.copy(),
            table.centres,
            table.scores.copy(),
            table.class_ids.copy(),
            np.full(n, Status.CLAIMED, np.uint8),
            np.zeros(n, bool),
        )

    def copy(self) -> Columns:
        """The rows that count, in arrays of their own."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "size"}
        return Columns(self.size, **{name: c[: self.size].copy() for name, c in columns.items()})

    def append(self, n: int) -> slice:
        """Room for `n` more rows; returns where."""
        start, self.size = self.size, self.size + n
        if self.size > len(self.status):
            room = max(self.size, 2 * len(self.status))
            for name in ("boxes", "centres", "scores", "class_ids", "status", "kept"):
                old = getattr(self, name)
                new = np.zeros((room, *old.shape[1:]), old.dtype)
                new[:start] = old[:start]
                setattr(self, name, new)
        return slice(start, self.size)


@dataclass(eq=False)
class Claims:
    """Claims that came together, with what makes them quick to find.

    Building one takes a third of a second for a million cells; do it outside the GUI thread.
    """

    table: Detections
    keys: NDArray[np.uint64] | None = None
    index: GridIndex | None = None
    by_key: NDArray[np.int64] | None = None
    first_halves: NDArray[np.uint64] | None = None
    columns: Columns | None = None
    span: tuple[tuple[float, float], tuple[float, float]] | None = None
    lessons: tuple[tuple[Teacher, Taught], ...] = ()

    @classmethod
    def prepared(cls, table: Detections, make_keys: MakeKeys) -> Claims:
        """With index, keys, and columns that a table may take over."""
        claims = cls(table, index=GridIndex(table.centres) if len(table) > FEW else None)
        claims.find_by_key(make_keys)
        claims.columns = Columns.of(table)
        claims.reach()
        return claims

    def reach(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Lowest and highest x, y of any centre; there must be one."""
        if self.span is None and len(self.table):
            centres = self.table.centres
            (x0, y0), (x1, y1) = centres.min(axis=0).tolist(), centres.max(axis=0).tolist()
            self.span = (x0, y0), (x1, y1)
        assert self.span is not None or not len(self.table)
        return self.span or ((0.0, 0.0), (0.0, 0.0))

    def taught_by(self, teacher: Teacher | None) -> Taught | None:
        """What a lesson makes of these claims; None without one.

        The last few asked for are kept: of a million cells it takes half a second, which is for
        a job's thread. Raises `DataError` for a lesson of another model.
        """
        if teacher is None:
            return None
        lessons = self.lessons  # Another thread may put others there meanwhile.
        known = next((pair for pair in lessons if pair[0] is teacher), None)
        if known is None:
            known = (teacher, teacher.teach(self.table))
            self.lessons = (known, *lessons[: LESSONS - 1])
        return known[1]

    def find_by_key(self, make_keys: MakeKeys) -> None:
        """Make the keys if they are not there yet."""
        if self.by_key is None:
            keys = make_keys(self.table)
            order = np.argsort(keys[:, 0], kind="stable")
            self.keys, self.first_halves = keys, keys[order, 0]
            # Last: another thread that sees it set goes on with all of them.
            self.by_key = order

    def rows_of(self, keys: NDArray[np.uint64]) -> Rows:
        """Row (N,) of each key, -1 where it is not here."""
        assert self.keys is not None
        assert self.by_key is not None
        assert self.first_halves is not None
        found = np.full(len(keys), -1, np.int64)
        if not len(self.keys):
            return found
        first = self.first_halves
        place = np.searchsorted(first, keys[:, 0])
        # Equal first halves are next to never; but then the second half decides.
        open_ = place < len(first)
        while open_.any():
            at = self.by_key[np.minimum(place, len(first) - 1)]
            open_ &= (place < len(first)) & (self.keys[at, 0] == keys[:, 0])
            hit = open_ & (self.keys[at, 1] == keys[:, 1])
            found[hit] = at[hit]
            open_ &= ~hit
            place = place + 1
        return found


@dataclass(frozen=True, eq=False)
class Block:
    """Rows ``start`` to ``stop`` are `claims`; their centres lie between `low` and `high`."""

    start: int
    claims: Claims
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def stop(self) -> int:
        """One after the last row."""
        return self.start + len(self.claims.table)

    @classmethod
    def of(cls, start: int, claims: Claims) -> Block:
        """Claims, of which there must be one at least, as the rows from `start` on."""
        return cls(start, claims, *claims.reach())

    def meets(self, region: Region) -> bool:
        """Whether a centre may lie in `region`."""
        return (
            self.low[0] < region.x1
            and self.high[0] >= region.x
            and self.low[1] < region.y1
            and self.high[1] >= region.y
        )

    def near(self, region: Region) -> Rows:
        """Rows of the table whose centre may lie in `region`."""
        if self.claims.index is None:
            return np.arange(self.start, self.stop)
        return self.claims.index.near(region) + self.start
