"""Marks on cells: what a person corrected, and what is selected now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import SAID
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.gui.layers import HALF, class_rgba

SELECTED = (1.0, 0.92, 0.0, 1.0)
GONE = (0.1, 0.1, 0.1, 0.9)
WHITE = (1.0, 1.0, 1.0, 1.0)
CLEAR = (0.0, 0.0, 0.0, 0.0)
MARK_SIZE, CORNER_SIZE = 0.62, 0.5
"""Of a usual nucleus: marks on dots, and at the corners of boxes, which leave the nucleus free."""
RING_SIZE = 1.3
HANDLE_PX = 7.0
"""Width of the squares at the corners of the selected box, on the screen."""
MARK_RIM, RING_RIM = 0.16, 0.07
MAX_MARKS = 8_000
"""More marks than this would block the window while they are handed over."""


@dataclass(frozen=True)
class Marks:
    """Points data of napari: `data` (M, 2) y, x, and how each point looks.

    `rim` is the width of the border as a share of the size.
    """

    data: NDArray[np.float32]
    size: NDArray[np.float32]
    symbol: NDArray[Any]
    face: NDArray[np.float32]
    border: NDArray[np.float32]
    rim: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.data)


def marks_of(
    cells: CellTable,
    rows: Rows,
    selected: Rows,
    deleted: Rows,
    colors: Sequence[tuple[int, int, int]],
    *,
    nucleus_px: float,
    boxed: bool = False,
    zoom: float = 1.0,
) -> Marks:
    """Marks for the rows in view; with `boxed` cells are drawn as boxes, which bear them outside.

    A white diamond with a rim of the class for cells that a person vouches for, a cross where a
    person deleted a claim, a yellow frame for selected ones. Boxes are themselves yellow then,
    and a single one has squares at its corners, by which it can be dragged. `zoom` is screen px
    per level-0 px.
    """
    said = rows[SAID[cells.status[rows]]]
    # What is selected must be seen, however many cells bear a diamond.
    selected = selected[:MAX_MARKS]
    said = said[: MAX_MARKS - len(selected)]
    deleted = deleted[: MAX_MARKS - len(selected) - len(said)]
    size = nucleus_px * (CORNER_SIZE if boxed else MARK_SIZE)
    parts = [
        _part(cells, deleted, "x", nucleus_px * MARK_SIZE, GONE, WHITE),
        _part(cells, said, "diamond", size, WHITE, None, colors, at_corner=boxed),
        _part(cells, selected[: 0 if boxed else None], "square", None, CLEAR, SELECTED),
        _handles(cells, selected, HANDLE_PX / zoom) if boxed else _none(),
    ]
    return Marks(
        np.concatenate([p.data for p in parts]),
        np.concatenate([p.size for p in parts]),
        np.concatenate([p.symbol for p in parts]),
        np.concatenate([p.face for p in parts]),
        np.concatenate([p.border for p in parts]),
        np.concatenate([p.rim for p in parts]),
    )


def _handles(cells: CellTable, selected: Rows, size: float) -> Marks:
    if len(selected) != 1:
        return _none()
    x0, y0, x1, y1 = cells.boxes[selected[0]].tolist()
    at = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)], np.float32) - np.float32(HALF)
    full = np.full(4, size, np.float32)
    rim = np.full(4, MARK_RIM, np.float32)
    return Marks(at, full, np.full(4, "square", "U8"), _all(SELECTED, 4), _all(GONE, 4), rim)


def _none() -> Marks:
    empty = np.zeros(0, np.float32)
    colors = np.zeros((0, 4), np.float32)
    return Marks(np.zeros((0, 2), np.float32), empty, np.zeros(0, "U8"), colors, colors, empty)


def _part(
    cells: CellTable,
    rows: Rows,
    symbol: str,
    size: float | None,
    face: tuple[float, ...],
    border: tuple[float, ...] | None,
    colors: Sequence[tuple[int, int, int]] = (),
    *,
    at_corner: bool = False,
) -> Marks:
    n, boxes = len(rows), cells.boxes[rows]
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) * RING_SIZE
    rim = class_rgba(cells.class_ids[rows], colors) if border is None else _all(border, n)
    at = boxes[:, :2] if at_corner else cells.centres[rows]
    return Marks(
        np.ascontiguousarray(at[:, ::-1] - np.float32(HALF)),
        sides.astype(np.float32) if size is None else np.full(n, size, np.float32),
        np.full(n, symbol, "U8"),
        _all(face, n),
        rim,
        np.full(n, MARK_RIM if size is not None else RING_RIM, np.float32),
    )


def _all(color: tuple[float, ...], n: int) -> NDArray[np.float32]:
    return np.tile(np.array(color, np.float32), (n, 1))
