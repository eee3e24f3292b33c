"""Choosing and drawing the tumour in the viewer; `her2_tumour` says what each choice means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QMessageBox, QPushButton, QWidget

from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_tumour import (
    ALL_KEY,
    LAYER_KEY,
    NOTHING_KEY,
    choices,
    is_shapes,
    tumour_of,
)
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.parts import single_shot
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.pipeline.her2.tumour import Tumour

TUMOUR_LAYER = "Tumour"
TUMOUR_COLOR = "#00e5ff"
CUT_OUT_LAYER = "Cut out"
CUT_OUT_COLOR = "#ff4081"
DRAWN_MS = 50
CONFIRM_TEXT = (
    "Is all that is measured on this slide invasive tumour? Carcinoma in situ, normal glands and "
    "other cells would be counted as tumour."
)


class TumourChooser(QObject):
    """What a person says of where the tumour is; `changed` is sent when that is another.

    `ask` puts a question to the person and says whether they agree.
    """

    changed = Signal()

    def __init__(self, viewer: Any, box: QComboBox, button: QPushButton, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer, self.box, self._parent = viewer, box, parent
        self.session: SlideSession | None = None
        self.ask: Callable[[str], bool] = self._ask_person
        self._drawn = single_shot(self, DRAWN_MS, self.changed.emit)
        box.activated.connect(self._on_chosen)
        button.clicked.connect(self.draw)
        events = viewer.layers.events
        events.inserted.connect(self._on_inserted)
        events.removed.connect(self._on_removed)
        for layer in self._shapes():
            layer.events.data.connect(self._on_shapes)

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        self._drawn.stop()
        events = self._viewer.layers.events
        events.inserted.disconnect(self._on_inserted)
        events.removed.disconnect(self._on_removed)
        for layer in self._shapes():
            layer.events.data.disconnect(self._on_shapes)

    def tumour(self) -> Tumour:
        """What is said to be the tumour at this moment."""
        return self.meant(self.box.currentData() or NOTHING_KEY)

    def meant(self, key: str) -> Tumour:
        """What one of the choices would mean."""
        if self.session is None:
            return Tumour()
        areas = self.session.cells.annotations.areas
        return tumour_of(key, areas, self._viewer.layers, self.session.frame)

    def layers(self) -> list[tuple[str, str]]:
        """Key and name of each layer of drawn shapes."""
        return [(LAYER_KEY + layer.name, layer.name) for layer in self._shapes()]

    def offer(self) -> None:
        """List what can be chosen now."""
        areas = {} if self.session is None else self.session.cells.annotations.areas
        wanted = [(c.key, c.words) for c in choices(areas, self._viewer.layers)]
        box = self.box
        if [(box.itemData(i), box.itemText(i)) for i in range(box.count())] == wanted:
            return
        now = box.currentData()
        box.blockSignals(True)
        box.clear()
        for key, words in wanted:
            box.addItem(words, key)
        box.setCurrentIndex(max(box.findData(now), 0))
        box.blockSignals(False)
        if box.currentData() != now:
            self.changed.emit()

    def choose(self, key: str) -> None:
        """Choose ``nothing``, ``all``, ``areas`` or a layer; `all` asks the person first."""
        self.offer()
        place = self.box.findData(key)
        if place >= 0:
            self.box.setCurrentIndex(place)
            self._on_chosen()

    def restore(self, key: str, layers: Sequence[Any]) -> None:
        """Choose what was chosen before, with the layers that it was made of; nobody is asked.

        A layer that is there already stays as it is.
        """
        for layer in layers:
            if layer.name not in self._viewer.layers:
                self._viewer.add_layer(layer)
        self.offer()
        place = self.box.findData(key)
        if place >= 0:
            self.box.setCurrentIndex(place)
        self.changed.emit()

    def draw(self) -> None:
        """Put a layer for the tumour on top, choose it, and let the person draw."""
        name = self._draw_on(TUMOUR_LAYER, TUMOUR_COLOR)
        if name:
            self.choose(LAYER_KEY + name)

    def cut_out(self) -> None:
        """Let the person draw what is no invasive tumour although it lies in it."""
        self._draw_on(CUT_OUT_LAYER, CUT_OUT_COLOR)

    def _draw_on(self, what: str, color: str) -> str:
        """Make a layer if there is none yet, put a pen into the person's hand; its name."""
        session = self.session
        if session is None:
            return ""
        name = f"{what} · {Path(session.layer.name).stem}"
        if name not in self._viewer.layers:
            zoom = camera_of(self._viewer).zoom * float(np.mean(session.frame.scale))
            layer = Shapes(
                ndim=2,
                name=name,
                edge_color=color,
                face_color=[0, 0, 0, 0],
                edge_width=max(3.0 / zoom, 1.0) if zoom > 0 else 1.0,
                **session.frame.layer_options(),
            )
            self._viewer.add_layer(layer)
        drawn = self._viewer.layers[name]
        self._viewer.layers.selection.active = drawn
        drawn.mode = "add_polygon"
        return name

    def _shapes(self) -> list[Any]:
        return [layer for layer in self._viewer.layers if is_shapes(layer)]

    def _on_chosen(self, _index: int = 0) -> None:
        if self.box.currentData() == ALL_KEY and not self.ask(CONFIRM_TEXT):
            self.box.setCurrentIndex(self.box.findData(NOTHING_KEY))
        self.changed.emit()

    def _on_inserted(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.connect(self._on_shapes)
            self._drawn.start()
        self.offer()

    def _on_removed(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.disconnect(self._on_shapes)
            self._drawn.start()
        self.offer()

    def _on_shapes(self, event: Any = None) -> None:
        """Something is drawn, or being drawn."""
        self._drawn.start()

    def _ask_person(self, text: str) -> bool:
        answer = QMessageBox.question(self._parent, "HER2", text)
        return bool(answer == QMessageBox.StandardButton.Yes)


def bounds_of(tumour: Tumour) -> Region | None:
    """The rectangle around all zones, None without any."""
    if not tumour.zones:
        return None
    corners = np.concatenate([zone.outline.corners for zone in tumour.zones])
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    return Region.from_edges(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
