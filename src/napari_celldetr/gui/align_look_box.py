"""How both slides are shown: a list of ways, and a slider for what can be set."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSlider, QWidget

from napari_celldetr.gui.align_places import NEEDS_TRANSFORM, Look
from napari_celldetr.gui.parts import narrow_form, short_combo

STEPS = 100
SMALLEST_CELL_UM, LARGEST_CELL_UM = 20.0, 10_000.0
LOOKS = {
    Look.PLAIN: ("As opened", "Both slides where they are without any alignment"),
    Look.BESIDE: ("Side by side", "The H&E left of the IHC; once aligned, turned like it"),
    Look.BLEND: ("Laid over each other", "The H&E on the IHC, as transparent as you like"),
    Look.SWIPE: ("Swipe", "The H&E left of a line, the IHC right of it; the slider moves the line"),
    Look.CHECKER: ("Chequerboard", "H&E and IHC in turn; the slider sets how large the fields are"),
    Look.HE: ("H&E as scanned", "The H&E slide alone, not turned"),
}
SLIDERS = {
    Look.BLEND: ("IHC", "H&E"),
    Look.SWIPE: ("H&E", "IHC"),
    Look.CHECKER: ("Fields", ""),
}


class LookBox(QWidget):
    """The list and its slider.

    `chosen` sends the `Look`, `slid` the look and the slider's share of its way, 0..1.
    """

    chosen = Signal(object)
    slid = Signal(object, float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = short_combo("How the two slides are shown")
        for look, (text, tip) in LOOKS.items():
            self.box.addItem(text, look)
            self.box.setItemData(self.box.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.left, self.right = QLabel(), QLabel()
        self._shares = {Look.BLEND: 0.5, Look.SWIPE: 0.5, Look.CHECKER: 0.5}
        row = QHBoxLayout()
        row.addWidget(self.left)
        row.addWidget(self.slider, 1)
        row.addWidget(self.right)
        form = narrow_form(self)
        form.addRow("Show", self.box)
        form.addRow(row)
        self.box.currentIndexChanged.connect(self._on_box)
        self.slider.valueChanged.connect(self._on_slider)
        self.show_ready(False)

    @property
    def look(self) -> Look:
        """What is chosen."""
        return Look(self.box.currentData())

    def choose(self, look: Look) -> None:
        """Choose without telling."""
        self.box.blockSignals(True)
        self.box.setCurrentIndex(self.box.findData(look))
        self.box.blockSignals(False)
        self._fit()

    def show_ready(self, aligned: bool) -> None:
        """Whether there is an alignment, which some looks need."""
        model: Any = self.box.model()
        for i in range(self.box.count()):
            needs = Look(self.box.itemData(i)) in NEEDS_TRANSFORM
            model.item(i).setEnabled(aligned or not needs)
        self._fit()

    def share(self, look: Look) -> float:
        """Where the slider of a look stands, 0..1."""
        return self._shares.get(look, 0.5)

    def set_share(self, look: Look, share: float) -> None:
        """Put the slider of a look somewhere, without telling."""
        self._shares[look] = min(max(share, 0.0), 1.0)
        self._fit()

    def _on_box(self, _index: int) -> None:
        self._fit()
        self.chosen.emit(self.look)

    def _on_slider(self, value: int) -> None:
        self._shares[self.look] = value / STEPS
        self._fit()
        self.slid.emit(self.look, value / STEPS)

    def _fit(self) -> None:
        left, right = SLIDERS.get(self.look, ("", ""))
        has_slider = self.look in SLIDERS
        for widget in (self.slider, self.left, self.right):
            widget.setVisible(has_slider)
        self.left.setText(left)
        if self.look is Look.CHECKER:
            right = f"{cell_um(self.share(self.look)):,.0f} µm"
        self.right.setText(right)
        self.right.setVisible(bool(right))
        self.slider.blockSignals(True)
        self.slider.setValue(round(STEPS * self.share(self.look)))
        self.slider.blockSignals(False)
        self.slider.setToolTip(LOOKS[self.look][1])
        self.box.setToolTip(LOOKS[self.look][1])


def cell_um(share: float) -> float:
    """Side of a chequerboard's field in µm; each step of the slider the same factor."""
    exact: float = SMALLEST_CELL_UM * (LARGEST_CELL_UM / SMALLEST_CELL_UM) ** share
    digits = 1 - math.floor(math.log10(exact))
    return float(round(exact, digits))


def cell_share(side_um: float) -> float:
    """Where the slider stands for a side of a field."""
    side = min(max(side_um, SMALLEST_CELL_UM), LARGEST_CELL_UM)
    return math.log(side / SMALLEST_CELL_UM) / math.log(LARGEST_CELL_UM / SMALLEST_CELL_UM)
