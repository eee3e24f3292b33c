"""The stain a slide was read with, and evening it out to a control on the slide."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celldetr.gui.parts import short_combo, wrapped_label

USUAL_OD = 0.6
LOWEST_OD, HIGHEST_OD = 0.1, 2.0
NO_CONTROL = "none drawn"


class ControlBox(QWidget):
    """What is known of the stain, and which drawn area is the control.

    `calibrated` is sent with the key of the area and the optical density expected of it.
    """

    calibrated = Signal(str, float)

    def __init__(self) -> None:
        super().__init__()
        self.notes = wrapped_label("", tooltip="How colours were turned into amounts of stain")
        self.where = short_combo("A layer whose shapes are drawn round the on-slide control")
        self.expected = QDoubleSpinBox()
        self.expected.setRange(LOWEST_OD, HIGHEST_OD)
        self.expected.setSingleStep(0.01)
        self.expected.setValue(USUAL_OD)
        self.expected.setSuffix(" OD")
        self.expected.setToolTip(
            "How dark the same control is on the slide that the cut-offs were chosen for"
        )
        self.button = QPushButton("Even out and measure again")
        self.button.setToolTip("Measures all cells with the stain as strong as the control's")
        row = QHBoxLayout()
        row.addWidget(QLabel("Control"))
        row.addWidget(self.where, 1)
        row.addWidget(self.expected)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.notes)
        column.addLayout(row)
        column.addWidget(self.button)
        self.button.clicked.connect(
            lambda: self.calibrated.emit(self.where.currentData(), self.expected.value())
        )
        self.offer([])

    def show_notes(self, notes: Sequence[str]) -> None:
        """Where white, stains and gain came from."""
        self.notes.setText("\n".join(notes))

    def offer(self, controls: Sequence[tuple[str, str]]) -> None:
        """Areas that can be the control: key and name of each."""
        wanted = list(controls) or [("", NO_CONTROL)]
        have = [(self.where.itemData(i), self.where.itemText(i)) for i in range(self.where.count())]
        if have != wanted:
            now = self.where.currentData()
            self.where.clear()
            for key, name in wanted:
                self.where.addItem(name, key)
            self.where.setCurrentIndex(max(self.where.findData(now), 0))
        self.button.setEnabled(bool(controls))
