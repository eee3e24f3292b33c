"""By what the cells of the plot are coloured. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import STATUS_WORDS, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.taught import OF_CLASS

CLASS, SCORE, DOUBT, STATUS, CHANGE = "class", "score", "doubt", "status", "change"
SLIDE = "slide"
MEASURED = "measured:"
"""Before the name of a measurement."""
Color = tuple[int, int, int]
GREY: Color = (150, 150, 150)
STATUS_COLORS: dict[Status, Color] = {
    Status.CLAIMED: (120, 120, 120),
    Status.CONFIRMED: (0, 158, 115),
    Status.RECLASSED: (230, 159, 0),
    Status.MOVED: (86, 180, 233),
    Status.ADDED: (204, 121, 167),
}
SLIDE_COLORS: tuple[Color, ...] = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0),
)  # fmt: skip
UNCHANGED, CHANGED = (95, 95, 95), (255, 200, 0)
_RAMP = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64
)
"""Viridis (van der Walt & Smith, 2015) at five places."""


@dataclass(frozen=True, eq=False)
class Colouring:
    """How M cells are coloured: by `kinds` (M,) with a palette, or by `values` (M,).

    Attributes
    ----------
    kinds : (M,) int16 or None
        -1 for the last entry of the palette.
    palette : (K + 1, 3) uint8
    names : sequence of K + 1 str
        Of the palette's entries; empty ones are left out of the legend.
    values : (M,) float32 or None
        NaN where a cell has none.
    low, high : float
        Values at the ends of the ramp.
    title : str
    """

    kinds: NDArray[np.int16] | None
    palette: NDArray[np.uint8]
    names: tuple[str, ...]
    values: NDArray[np.float32] | None
    low: float
    high: float
    title: str

    def of(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Colours (m, 3) of some cells."""
        if self.kinds is not None:
            return self.palette[self.kinds[places]]
        assert self.values is not None
        return ramp(self.values[places], self.low, self.high)

    def legend(self) -> list[tuple[str, Color]]:
        """What colour means what."""
        if self.kinds is None:
            ends = ramp(np.array([self.low, self.high], np.float32), self.low, self.high).tolist()
            return [(f"{v:.3g}", _rgb(c)) for v, c in zip((self.low, self.high), ends, strict=True)]
        pairs = zip(self.names, self.palette.tolist(), strict=True)
        return [(name, _rgb(color)) for name, color in pairs if name]


def _rgb(values: Sequence[int]) -> Color:
    return (int(values[0]), int(values[1]), int(values[2]))


def ramp(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Values (…) as colours (…, 3) from dark to bright; grey where they are not numbers."""
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
    at = share * (len(_RAMP) - 1)
    first = np.minimum(at.astype(int), len(_RAMP) - 2)
    part = (at - first)[..., None]
    color = _RAMP[first] * (1 - part) + _RAMP[first + 1] * part
    return np.where(known[..., None], color, GREY).astype(np.uint8)


def choices(table: CellTable) -> list[tuple[str, str]]:
    """What there is to colour by: key and words for people."""
    found = [
        (CLASS, "Class"),
        (DOUBT, "Doubt about the class"),
        (SCORE, "Score of the cell"),
        (STATUS, "Corrections"),
        (CHANGE, "Lesson's changes"),
    ]
    words = {"diameter_um": "Diameter (µm)", "area_um2": "Area (µm²)", "dab_share": "DAB share"}
    for name in table.measured():
        if name != OF_CLASS:
            found.append((MEASURED + name, words.get(name, name.replace("_", " "))))
    return found


def colouring(table: CellTable, rows: Rows, by: str, colors: Mapping[str, Color]) -> Colouring:
    """Colours of `rows` (M,) of a table; `colors` are those of its classes."""
    if by == CLASS:
        unknown = "unknown" if (table.class_ids[rows] < 0).any() else ""
        names = (*table.class_names, unknown)
        palette = [colors.get(n, GREY) for n in table.class_names]
        return _kinds(table.class_ids[rows], [*palette, GREY], names, "Class")
    if by == STATUS:
        kinds = np.where(table.status[rows] <= Status.ADDED, table.status[rows], -1)
        states = sorted(STATUS_COLORS)
        words = [STATUS_WORDS[s].replace("claimed", "not reviewed") for s in states]
        palette = [STATUS_COLORS[s] for s in states]
        return _kinds(kinds.astype(np.int16), [*palette, GREY], (*words, ""), "Corrections")
    if by == CHANGE:
        other = (table.class_ids[rows] != table.model_classes(rows)).astype(np.int16)
        names = ("as the model said", "another class now", "")
        return _kinds(other, [UNCHANGED, CHANGED, GREY], names, "Beside the model")
    if by == SCORE:
        return _values(table.scores[rows], "Score", 0.0, 1.0)
    if by == DOUBT:
        sure = table.measured_column(OF_CLASS, rows) if OF_CLASS in table.measured() else None
        doubt = np.full(len(rows), np.nan) if sure is None else 1 - sure
        return _values(doubt, "Doubt about the class", 0.0, 0.6)
    values = np.asarray(table.measured_column(by.removeprefix(MEASURED), rows), np.float32)
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (1, 99)).tolist() if len(known) else (0.0, 1.0)
    return _values(values, by.removeprefix(MEASURED).replace("_", " "), low, high)


def by_slide(names: Sequence[str], counts: Sequence[int]) -> Colouring:
    """Colours of cells of several slides, one slide's after the other's."""
    kinds = np.repeat(np.arange(len(names), dtype=np.int16), counts)
    palette = [SLIDE_COLORS[i % len(SLIDE_COLORS)] for i in range(len(names))]
    return _kinds(kinds, [*palette, GREY], (*names, ""), "Slide")


def _kinds(
    kinds: NDArray[np.int16], palette: list[Color], names: tuple[str, ...], title: str
) -> Colouring:
    return Colouring(kinds, np.array(palette, np.uint8), names, None, 0.0, 1.0, title)


def _values(values: NDArray[np.floating], title: str, low: float, high: float) -> Colouring:
    none = np.zeros((0, 3), np.uint8)
    return Colouring(None, none, (), np.asarray(values, np.float32), low, high, title)
