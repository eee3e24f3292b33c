"""The cells of one run as the dock sees them: what is kept, what is in view, what is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections, concatenate
from napari_celldetr.core.regions import Region


@dataclass(frozen=True)
class _Part:
    """Cells that lie together, with the rectangle that holds their centres."""

    table: Detections
    centres: NDArray[np.float32]
    low: tuple[float, float]
    high: tuple[float, float]

    @classmethod
    def of(cls, table: Detections) -> _Part:
        centres = table.centres
        low, high = centres.min(axis=0), centres.max(axis=0)
        return cls(table, centres, (float(low[0]), float(low[1])), (float(high[0]), float(high[1])))

    def meets(self, view: Region) -> bool:
        return (
            self.low[0] < view.x1
            and self.high[0] >= view.x
            and self.low[1] < view.y1
            and self.high[1] >= view.y
        )

    def inside(self, view: Region, threshold: np.float32) -> NDArray[np.bool_]:
        x, y = self.centres.T
        inside: NDArray[np.bool_] = (
            (self.table.scores >= threshold)
            & (x >= view.x)
            & (x < view.x1)
            & (y >= view.y)
            & (y < view.y1)
        )
        return inside


PART_CELLS = 4096


@dataclass
class CellStore:
    """Every cell above the model's floor; layers and figures are views of it.

    `threshold` decides which cells are kept; moving it never loses a cell. Tiles are added as
    they are finished (`add`), the merged table takes their place at the end (`replace`).
    `colors` of the classes and the slide's scanned `bounds` are what a file needs besides.
    """

    class_names: tuple[str, ...]
    threshold: float = 0.5
    colors: tuple[tuple[int, int, int], ...] = ()
    bounds: Region | None = None
    parts: list[_Part] = field(default_factory=list)
    merged: Detections | None = None

    def add(self, table: Detections) -> None:
        """Cells of one more tile, level-0 px."""
        if len(table):
            self.parts.append(_Part.of(table))

    def replace(self, table: Detections) -> None:
        """The merged cells of the run, in canonical order, instead of what was added."""
        self.merged = table
        self.parts = [_Part.of(chunk) for chunk in _chunks(table)]

    def __len__(self) -> int:
        return sum(len(part.table) for part in self.parts)

    def counts(self) -> dict[str, int]:
        """Kept cells per class name, in class order (``unknown`` last when present)."""
        tally = np.zeros(len(self.class_names) + 1, np.int64)
        limit = np.float32(self.threshold)
        for part in self.parts:
            ids = part.table.class_ids[part.table.scores >= limit].astype(np.int64)
            tally += np.bincount(ids + 1, minlength=len(tally))
        found = {name: int(tally[i + 1]) for i, name in enumerate(self.class_names)}
        return {**found, "unknown": int(tally[0])} if tally[0] else found

    def count_in(self, view: Region) -> int:
        """How many kept cells have their centre in `view`."""
        limit = np.float32(self.threshold)
        return sum(int(p.inside(view, limit).sum()) for p in self.parts if p.meets(view))

    def in_view(self, view: Region) -> Detections:
        """The kept cells whose centre lies in `view`."""
        limit = np.float32(self.threshold)
        found = [p.table.select(p.inside(view, limit)) for p in self.parts if p.meets(view)]
        return concatenate(found) if found else Detections.empty(self.class_names)

    def kept(self) -> Detections:
        """All kept cells, in canonical order."""
        if self.merged is not None:
            return self.merged.above(self.threshold)
        tables = [part.table for part in self.parts]
        if not tables:
            return Detections.empty(self.class_names)
        return concatenate(tables).above(self.threshold).ordered()

    def write(self, path: str | Path) -> int:
        """Export all kept cells; how many. `ExportError` when the file cannot be written."""
        from napari_celldetr.pipeline.export import export

        cells = self.kept()
        colors = dict(zip(self.class_names, self.colors, strict=False))
        export(cells, path, slide=self if self.bounds else None, colors=colors)
        return len(cells)


def _chunks(table: Detections) -> Iterable[Detections]:
    """Rows sorted by y in bands, so that a view touches few parts."""
    for start in range(0, len(table), PART_CELLS):
        yield table.select(slice(start, start + PART_CELLS))
