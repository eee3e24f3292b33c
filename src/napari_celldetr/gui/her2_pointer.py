"""The cell under the mouse, and the clicked one, whose figures stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.parts import single_shot

HOVER_MS = 60


class CellPointer(QObject):
    """Follows the mouse over measured cells; `pointed` is sent with a row, or None.

    A click keeps a cell, so that the mouse can leave it; a click beside all cells lets it go.
    """

    pointed = Signal(object)

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._state: Her2State | None = None
        self._frame = Frame()
        self._at: tuple[float, ...] | None = None
        self.pinned: int | None = None
        self._hover = single_shot(self, HOVER_MS, self._on_rest)
        viewer.mouse_move_callbacks.append(self._on_move)
        viewer.mouse_drag_callbacks.append(self._on_press)

    def let_go(self) -> None:
        """Follow the mouse no longer."""
        self._hover.stop()
        self._state = None
        self._viewer.mouse_move_callbacks.remove(self._on_move)
        self._viewer.mouse_drag_callbacks.remove(self._on_press)

    def follow(self, state: Her2State | None, frame: Frame) -> None:
        """Point at these cells from now on."""
        self._state, self._frame = state, frame
        self.pin(None)

    def pin(self, row: int | None) -> None:
        """Keep a cell, or let it go."""
        self.pinned = row
        self.pointed.emit(row)

    def point(self, position: tuple[float, ...]) -> None:
        """The mouse rests at a place (world, y and x last)."""
        if self.pinned is None:
            self.pointed.emit(self._cell_at(position))

    def _on_move(self, _viewer: Any, event: Any) -> None:
        self._at = tuple(event.position)
        if self._state is not None and not self._hover.isActive():
            self._hover.start()

    def _on_rest(self) -> None:
        if self._at is not None:
            self.point(self._at)

    def _on_press(self, _viewer: Any, event: Any) -> Iterator[None]:
        yield
        # A drag moves the slide.
        if event.type != "mouse_move" and self._state is not None:
            self.pin(self._cell_at(tuple(event.position)))

    def _cell_at(self, position: tuple[float, ...]) -> int | None:
        if self._state is None:
            return None
        x, y = self._frame.from_world(np.array([position[-2:]], np.float64))[0]
        return self._state.cell_at((float(x), float(y)))
