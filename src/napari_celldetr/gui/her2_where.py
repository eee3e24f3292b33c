"""Choosing and drawing the tumour in the viewer; `her2_tumour` says what each choice means.

What was drawn on one slide is never another slide's tumour unless a person says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QMessageBox, QPushButton, QWidget

from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_drawing import (
    CONTROL_LAYER,
    CUT_OUT_LAYER,
    TUMOUR_LAYER,
    Drawing,
    belongs,
    claim,
    looks,
    owner_of,
    owners,
)
from napari_celldetr.gui.her2_tumour import (
    ALL_KEY,
    LAYER_KEY,
    NOTHING_KEY,
    Choice,
    choices,
    is_control,
    is_shapes,
    tumour_of,
)
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import view_of
from napari_celldetr.gui.parts import single_shot
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import is_slide_layer
from napari_celldetr.pipeline.her2.tumour import Tumour

DRAWN_MS = 50
CONFIRM_TEXT = (
    "Is all that is measured on this slide invasive tumour? Carcinoma in situ, normal glands and "
    "other cells would be counted as tumour."
)
OTHERS_TEXT = "“{layer}” was drawn on another slide ({slide}). Is it the tumour of this slide, too?"


class TumourChooser(QObject):
    """What a person says of where the tumour is; `changed` is sent when that is another.

    `ask` puts a question to the person and says whether they agree; `guided` is sent with what to
    do on the slide now, '' for nothing.
    """

    changed = Signal()
    guided = Signal(str)

    def __init__(self, viewer: Any, box: QComboBox, button: QPushButton, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer, self.box, self._parent = viewer, box, parent
        self.session: SlideSession | None = None
        self.ask: Callable[[str], bool] = self._ask_person
        self.drawing = Drawing(viewer, self)
        self.drawing.guided.connect(self.guided)
        self._drawn = single_shot(self, DRAWN_MS, self._on_drawn)
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
        self.drawing.end()
        events = self._viewer.layers.events
        events.inserted.disconnect(self._on_inserted)
        events.removed.disconnect(self._on_removed)
        for layer in self._shapes():
            layer.events.data.disconnect(self._on_shapes)

    def follow(self, session: SlideSession | None, key: str = NOTHING_KEY) -> None:
        """Ask about another slide from now on, of which `key` was chosen; nobody hears of it."""
        self._drawn.stop()
        self.drawing.end()
        self.session = session
        self._claim_all()
        self._list(key)
        self.restyle()

    def move(self, before: Frame, after: Frame) -> None:
        """The slide has another pixel size: what was drawn on it stays where it is on it."""
        for layer in self.own_layers():
            if Frame.of_layer(layer) == before:
                layer.scale, layer.translate = after.scale, after.translate
                layer.units = after.units

    def tumour(self) -> Tumour:
        """What is said to be the tumour at this moment."""
        return self.meant(self.key)

    @property
    def key(self) -> str:
        """What is chosen."""
        return str(self.box.currentData() or NOTHING_KEY)

    def meant(self, key: str) -> Tumour:
        """What one of the choices would mean."""
        if self.session is None:
            return Tumour()
        areas = self.session.cells.annotations.areas
        return tumour_of(key, areas, self.own_layers(key), self.session.frame)

    def own_layers(self, key: str = "") -> list[Any]:
        """Shapes that were not drawn on another slide, and those of `key` wherever drawn."""
        owner = owner_of(self.session)
        return [s for s in self._shapes() if belongs(s, owner) or LAYER_KEY + s.name == key]

    def controls(self) -> list[tuple[str, str]]:
        """Key and name of each layer that is drawn round a control of this slide."""
        return [(LAYER_KEY + s.name, s.name) for s in self.own_layers() if is_control(s.name)]

    def outlines(self) -> list[str]:
        """Keys of this slide's layers that hold an outline of tumour."""
        found = [LAYER_KEY + layer.name for layer in self.own_layers()]
        offered = [c.key for c in self._choices()]
        return [key for key in found if key in offered and self.meant(key).zones]

    def offer(self) -> None:
        """List what can be chosen now."""
        before = self.key
        self._list(before)
        if self.key != before:
            self.changed.emit()

    def _list(self, key: str) -> None:
        wanted = [(c.key, c.words) for c in self._choices()]
        box = self.box
        have = [(box.itemData(i), box.itemText(i)) for i in range(box.count())]
        box.blockSignals(True)
        if have != wanted:
            box.clear()
            for entry, words in wanted:
                box.addItem(words, entry)
        box.setCurrentIndex(max(box.findData(key), 0))
        box.blockSignals(False)

    def _choices(self) -> list[Choice]:
        session = self.session
        areas = {} if session is None else session.cells.annotations.areas
        found = choices(areas, self._viewer.layers)
        own = {LAYER_KEY + layer.name for layer in self.own_layers()}
        return [
            Choice(c.key, f"{c.words} (of another slide)")
            if c.key.startswith(LAYER_KEY) and c.key not in own
            else c
            for c in found
        ]

    def choose(self, key: str) -> None:
        """Choose ``nothing``, ``all``, ``areas`` or a layer; some ask the person first."""
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
                claim(layer, self.session)
                self._viewer.add_layer(layer)
        self._list(key)
        self.restyle()
        self.changed.emit()

    def draw(self) -> None:
        """Put a layer for the tumour on top, choose it, and let the person draw."""
        layer = self.drawing.begin(self.session, TUMOUR_LAYER)
        if layer is not None:
            self.choose(LAYER_KEY + layer.name)

    def cut_out(self) -> None:
        """Let the person draw what is no invasive tumour although it lies in it."""
        self.drawing.begin(self.session, CUT_OUT_LAYER)

    def draw_control(self) -> None:
        """Let the person draw round the control tissue of this slide."""
        self.drawing.begin(self.session, CONTROL_LAYER)

    def restyle(self) -> None:
        """The chosen tumour is bright; other outlines of this dock are thin and grey."""
        session = self.session
        view = None if session is None else view_of(self._viewer, session.frame)
        if session is None or view is None:
            return
        for layer in self._shapes():
            looks(layer, is_chosen=LAYER_KEY + layer.name == self.key, zoom=view.zoom)

    def _shapes(self) -> list[Any]:
        return [layer for layer in self._viewer.layers if is_shapes(layer)]

    def _layer(self, key: str) -> Any | None:
        return next((s for s in self._shapes() if LAYER_KEY + s.name == key), None)

    def _claim_all(self) -> None:
        """With one slide alone there is no doubt on which one was drawn."""
        if len([s for s in self._viewer.layers if is_slide_layer(s)]) == 1:
            for layer in self._shapes():
                if not owners(layer):
                    claim(layer, self.session)

    def _on_chosen(self, _index: int = 0) -> None:
        if not self._agreed(self.key):
            self.box.setCurrentIndex(self.box.findData(NOTHING_KEY))
        layer = self._layer(self.key)
        if layer is not None:
            claim(layer, self.session)
        self._list(self.key)
        self.restyle()
        self.changed.emit()

    def _agreed(self, key: str) -> bool:
        """Whether a person agrees to what needs an answer."""
        if key == ALL_KEY:
            return self.ask(CONFIRM_TEXT)
        layer = self._layer(key)
        if layer is None or belongs(layer, owner_of(self.session)):
            return True
        slide = Path(owners(layer)[0]).name
        return self.ask(OTHERS_TEXT.format(layer=layer.name, slide=slide))

    def _on_inserted(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.connect(self._on_shapes)
            self._claim_all()
            self._drawn.start()
        self.offer()

    def _on_removed(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.disconnect(self._on_shapes)
            self._drawn.start()
        self.offer()

    def _on_shapes(self, event: Any = None) -> None:
        """Something is drawn, or being drawn."""
        self.drawing.heard(event)
        self._drawn.start()

    def _on_drawn(self) -> None:
        self.restyle()
        self.changed.emit()

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
