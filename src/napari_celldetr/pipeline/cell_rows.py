"""What a file of cells holds: the cells, their ids, and what people said of them if they did."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import STATUS_WORDS, Area, CorrectedCells, Status
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import cell_ids, come_twice
from napari_celldetr.pipeline.measure import DIAMETER, size_columns

ID, STATUS, AUTHOR = SAID_COLUMNS = ("id", "status", "author")
"""Columns that corrected cells have besides their measurements."""
STATUS_OF = {word: status for status, word in STATUS_WORDS.items()}
_COLUMN_NAMES = frozenset(SAID_COLUMNS)
WORDS = np.array([STATUS_WORDS.get(s, "") for s in Status])
"""By status; empty for one that no file can hold."""

T = TypeVar("T")
Steps: TypeAlias = Generator[int, None, T]
"""Work that says from time to time how many cells are done, and returns a T."""


def finish(steps: Steps[T]) -> T:
    """Run `steps` to their end."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


@dataclass(frozen=True, eq=False)
class CellRows:
    """Cells on their way to a file or from one.

    Attributes
    ----------
    cells : Detections
        N cells, level-0 px.
    ids : (N, 2) uint64
        Halves of UUIDs.
    status : (N,) uint8 or None
        `Status`; None for a plain result, which nobody corrected.
    authors : (N,) str or None
    areas : mapping of str to Area
    """

    cells: Detections
    ids: NDArray[np.uint64]
    status: NDArray[np.uint8] | None = None
    authors: NDArray[np.str_] | None = None
    areas: Mapping[str, Area] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Detections | CorrectedCells) -> CellRows:
        """The rows of a plain or a corrected result, with sizes in µm where they can be known.

        Raises `ExportError` when columns of corrected cells do not fit together.
        """
        if isinstance(cells, Detections):
            return cls(_with_sizes(cells), cell_ids(cells))
        rows = cls(
            _with_sizes(cells.cells),
            np.asarray(cells.ids, np.uint64).reshape(-1, 2),
            np.asarray(cells.status, np.uint8),
            np.asarray(cells.authors, np.str_),
            dict(cells.areas),
        )
        rows.check()
        return rows

    def check(self) -> None:
        """Refuse columns that do not fit together with an `ExportError`."""
        n = len(self)
        if self.status is None or self.authors is None:
            return
        if len(self.ids) != n or self.status.shape != (n,) or self.authors.shape != (n,):
            lengths = f"{len(self.ids)} ids, {len(self.status)} status, {len(self.authors)} authors"
            raise _refused(f"{n} of each", lengths)
        if n and not WORDS[np.minimum(self.status, len(WORDS) - 1)].all():
            raise _refused("one of " + ", ".join(STATUS_WORDS.values()), "another status")
        if come_twice(self.ids):
            raise _refused("an id of its own for each cell", "an id that comes twice")
        taken = _COLUMN_NAMES & set(self.cells.columns)
        if taken:
            raise _refused("measurements of other names", "one called " + ", ".join(sorted(taken)))

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def is_corrected(self) -> bool:
        """Whether status and authors are known."""
        return self.status is not None

    @property
    def status_words(self) -> NDArray[np.str_]:
        """(N,) as `STATUS_WORDS` has it."""
        if self.status is None:
            return np.full(len(self), WORDS[Status.CLAIMED])
        return WORDS[self.status]

    def select(self, which: NDArray[Any] | slice) -> CellRows:
        """Some rows, and all areas."""
        return CellRows(
            self.cells.select(which),
            self.ids[which],
            None if self.status is None else self.status[which],
            None if self.authors is None else self.authors[which],
            self.areas,
        )

    def blocks(self, size: int) -> Iterator[CellRows]:
        """The rows in blocks of `size`."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def corrected(self) -> CorrectedCells:
        """As corrected cells; where nobody corrected anything, all are claims."""
        n = len(self)
        return CorrectedCells(
            self.cells,
            self.ids,
            np.full(n, Status.CLAIMED, np.uint8) if self.status is None else self.status,
            np.full(n, "") if self.authors is None else self.authors,
            dict(self.areas),
        )


def status_numbers(words: NDArray[np.str_]) -> NDArray[np.uint8]:
    """`Status` (N,) of words from a file; ``KeyError`` for a word that is none."""
    known, which = np.unique(words, return_inverse=True)
    return np.array([STATUS_OF[str(w)] for w in known], np.uint8)[which]


def areas_to_json(areas: Mapping[str, Area]) -> dict[str, Any]:
    """Areas as JSON holds them; every coordinate comes back exactly."""
    return {
        key: {"kind": area.kind, "name": area.name, "polygon": [list(p) for p in area.polygon]}
        for key, area in areas.items()
    }


def areas_from_json(found: Any) -> dict[str, Area]:
    """What `areas_to_json` wrote; raises ``KeyError``, ``TypeError`` or `AnnotationError`."""
    return {
        str(key): Area(
            tuple((float(x), float(y)) for x, y in area["polygon"]),
            known_kind(area["kind"]),
            str(area["name"]),
        )
        for key, area in dict(found or {}).items()
    }


def known_kind(found: Any) -> Any:
    """A kind of area; ``ValueError`` for anything else."""
    if found not in ("complete", "region"):
        raise ValueError(f"an area of the kind {str(found)[:30]!r}")
    return found


def _with_sizes(cells: Detections) -> Detections:
    """Diameter and area in µm, made anew for cells whose box a person drew."""
    if cells.source.mpp is None:
        return cells
    made = size_columns(cells.boxes, cells.source.mpp)
    if DIAMETER in cells.columns:
        old = {name: cells.columns[name] for name in made if name in cells.columns}
        made = {name: np.where(np.isnan(v), made[name], v) for name, v in old.items()}
    return cells.with_columns(**made)


def _refused(expected: str, found: str) -> ExportError:
    return ExportError(
        "These cells cannot be written.",
        expected=expected,
        found=found,
        remedy="export them from the table of cells as it is",
    )
