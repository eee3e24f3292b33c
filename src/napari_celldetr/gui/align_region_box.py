"""A layer of drawn regions, and two buttons that carry them to the other slide."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QPushButton, QWidget

from napari_celldetr.gui.carry import CARRIED_KEY
from napari_celldetr.gui.parts import short_combo, wrapped_label
from napari_celldetr.gui.tumour_find import TumourBox


class RegionBox(QWidget):
    """The list of layers, the buttons, and *Find tumour*."""

    to_ihc = Signal()
    to_he = Signal()
    wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = short_combo("The layer with the drawn regions")
        self._layers: list[Any] = []
        self.ihc_button = QPushButton("H&&E → IHC")
        self.ihc_button.setToolTip(
            "They were drawn on the H&E: show them on the IHC, as a new layer"
        )
        self.he_button = QPushButton("IHC → H&&E")
        self.he_button.setToolTip(
            "They were drawn on the IHC: show them on the H&E, as a new layer"
        )
        self.said = wrapped_label("")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self.draw_button = QPushButton("Draw")
        self.draw_button.setToolTip("A new layer, in which the mouse draws a region")
        row = QHBoxLayout()
        row.addWidget(self.box, 1)
        row.addWidget(self.draw_button)
        grid.addLayout(row, 0, 0, 1, 2)
        grid.addWidget(self.ihc_button, 1, 0)
        grid.addWidget(self.he_button, 1, 1)
        grid.addWidget(self.said, 2, 0, 1, 2)
        self.tumour = TumourBox()
        grid.addWidget(self.tumour, 3, 0, 1, 2)
        self.draw_button.clicked.connect(self.wanted)
        self.ihc_button.clicked.connect(self.to_ihc)
        self.he_button.clicked.connect(self.to_he)
        self.show_layers([], aligned=False)

    @property
    def layer(self) -> Any | None:
        """The chosen layer."""
        index = self.box.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def show_layers(self, layers: list[Any], *, aligned: bool) -> None:
        """The layers there are to choose from: a newly drawn one is chosen, else it stays."""
        now, before = self.layer, self._layers
        same = [i for i, layer in enumerate(layers) if now is not None and layer == now]
        fresh = [
            i
            for i, layer in enumerate(layers)
            if layer not in before and CARRIED_KEY not in layer.metadata
        ]
        self._layers = layers
        self.box.clear()
        self.box.addItems([layer.name for layer in layers])
        self.box.setCurrentIndex([len(layers) - 1, *same, *fresh][-1])
        for button in (self.ihc_button, self.he_button):
            button.setEnabled(aligned and bool(layers))
        if not aligned:
            self.say("Align the slides first.")
        elif not layers:
            self.say("Press Draw and click around a region on either slide.")
        elif now is None:
            self.say("")

    def say(self, text: str) -> None:
        """A line below the buttons."""
        self.said.setText(text)
        self.said.setVisible(bool(text))
