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
) -> Marks:
    """Marks for the rows in view; with `boxed` cells are drawn as boxes, which bear them outside.

    A white diamond with a rim of the class for cells that a person vouches for, a yellow frame
    for selected ones, a cross where a person deleted a claim.
    """
    said = rows[SAID[cells.status[rows]]]
    size = nucleus_px * (CORNER_SIZE if boxed else MARK_SIZE)
    parts = [
        _part(cells, deleted, "x", nucleus_px * MARK_SIZE, GONE, WHITE),
        _part(cells, said, "diamond", size, WHITE, None, colors, at_corner=boxed),
        _part(cells, selected, "square", None, CLEAR, SELECTED),
    ]
    return Marks(
        np.concatenate([p.data for p in parts])[:MAX_MARKS],
        np.concatenate([p.size for p in parts])[:MAX_MARKS],
        np.concatenate([p.symbol for p in parts])[:MAX_MARKS],
        np.concatenate([p.face for p in parts])[:MAX_MARKS],
        np.concatenate([p.border for p in parts])[:MAX_MARKS],
        np.concatenate([p.rim for p in parts])[:MAX_MARKS],
    )


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
