"""The stain a slide was read with, and evening it out to a control that a person draws for it."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celldetr.gui.parts import short_combo, wrapped_label

USUAL_OD = 0.6
LOWEST_OD, HIGHEST_OD = 0.1, 2.0
NO_CONTROL, CHOOSE_CONTROL = "none drawn", "choose the control…"
CONFIRM_CONTROL = (
    "Measure all cells again, with the stain of the whole slide scaled until “{name}” has "
    "{od:.2f} OD? Membranes become darker or paler, and the score may be another. It can be undone."
)


class ControlBox(QWidget):
    """What is known of the stain, and which drawn area is the control.

    `calibrated` is sent with the key of the area and the optical density expected of it, `undone`
    when the stain is to be as it is again, `drawn` when a control is to be drawn.
    """

    calibrated = Signal(str, float)
    undone = Signal()
    drawn = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.notes = wrapped_label("", tooltip="How colours were turned into amounts of stain")
        self.draw_button = QPushButton("Draw control…")
        self.draw_button.setToolTip(
            "Then click round control tissue on this slide, not round the tumour; a double click "
            "ends the outline"
        )
        self.where = short_combo("The layer that is drawn round the on-slide control")
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
        self.undo_button = QPushButton("Measure again without the control")
        self.undo_button.setToolTip("With the stain as it is on the slide")
        row = QHBoxLayout()
        row.addWidget(QLabel("Control"))
        row.addWidget(self.where, 1)
        row.addWidget(self.expected)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.notes)
        column.addWidget(self.draw_button)
        column.addLayout(row)
        column.addWidget(self.button)
        column.addWidget(self.undo_button)
        self.draw_button.clicked.connect(lambda: self.drawn.emit())
        self.undo_button.clicked.connect(lambda: self.undone.emit())
        self.where.currentIndexChanged.connect(self._on_chosen)
        self.button.clicked.connect(
            lambda: self.calibrated.emit(self.where.currentData(), self.expected.value())
        )
        self.offer([])
        self.show_notes([], evened_out=False)

    def show_notes(self, notes: Sequence[str], *, evened_out: bool) -> None:
        """Where white, stains and gain came from, and whether a control has evened them out."""
        self.notes.setText("\n".join(notes))
        self.undo_button.setVisible(evened_out)

    def offer(self, controls: Sequence[tuple[str, str]]) -> None:
        """Areas that can be the control: key and name of each; a person has to choose one."""
        wanted = [("", CHOOSE_CONTROL if controls else NO_CONTROL), *controls]
        have = [(self.where.itemData(i), self.where.itemText(i)) for i in range(self.where.count())]
        if have != wanted:
            now = self.where.currentData()
            self.where.clear()
            for key, name in wanted:
                self.where.addItem(name, key)
            self.where.setCurrentIndex(max(self.where.findData(now), 0))
        self._on_chosen()

    def _on_chosen(self, _index: int = 0) -> None:
        self.button.setEnabled(bool(self.where.currentData()))
