"""The cut-offs of the *HER2* dock: a slider for each; they cannot pass one another."""

from __future__ import annotations

import math
from dataclasses import replace

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSlider, QWidget

from napari_celldetr.core.config import Setting, describe
from napari_celldetr.core.her2 import Cutoffs

STEPS = 100
HIGHEST_OD = 1.5
SHOWN = ("weak", "moderate", "intense", "complete")
GAP = 0.01


class CutoffBox(QWidget):
    """A slider for each cut-off; they cannot pass one another."""

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        self.cutoffs = Cutoffs()
        self._sliders: dict[str, QSlider] = {}
        self._values: dict[str, QLabel] = {}
        settings = {s.name: s for s in describe(Cutoffs)}
        for place, name in enumerate(SHOWN):
            self._add(grid, place, settings[name])
        self.reset_button = QPushButton("Back to the usual cut-offs")
        self.reset_button.setToolTip("Those that every score is given with unless said otherwise")
        self.reset_button.clicked.connect(lambda: self.use(Cutoffs()))
        grid.addWidget(self.reset_button, len(SHOWN), 0, 1, 3)
        self._show()

    def _add(self, grid: QGridLayout, row: int, setting: Setting) -> None:
        slider, value = QSlider(Qt.Orientation.Horizontal), QLabel()
        highest = min(setting.info.le or 1.0, HIGHEST_OD)
        slider.setRange(round(STEPS * (setting.info.ge or 0)), round(STEPS * highest))
        label = QLabel(setting.info.label)
        tip = f"{setting.info.help}. Acts at once on all measured cells"
        slider.setToolTip(tip)
        label.setToolTip(tip)
        value.setMinimumWidth(value.fontMetrics().horizontalAdvance("0.00 OD"))
        slider.valueChanged.connect(lambda v, n=setting.name: self._on_slider(n, v / STEPS))
        grid.addWidget(label, row, 0)
        grid.addWidget(slider, row, 1)
        grid.addWidget(value, row, 2)
        self._sliders[setting.name], self._values[setting.name] = slider, value

    def slider(self, name: str) -> QSlider:
        """The slider of a cut-off."""
        return self._sliders[name]

    def use(self, cutoffs: Cutoffs) -> None:
        """Take other cut-offs."""
        if cutoffs != self.cutoffs:
            self.cutoffs = cutoffs
            self._show()
            self.changed.emit(cutoffs)

    def show_cutoffs(self, cutoffs: Cutoffs) -> None:
        """Show other cut-offs; nobody hears of it."""
        self.cutoffs = cutoffs
        self._show()

    def _on_slider(self, name: str, value: float) -> None:
        self.use(in_order(self.cutoffs, name, value))
        self._show()

    def _show(self) -> None:
        for name, slider in self._sliders.items():
            value = getattr(self.cutoffs, name)
            slider.blockSignals(True)
            slider.setValue(round(STEPS * value))
            slider.blockSignals(False)
            unit = f"{100 * value:.0f} %" if name == "complete" else f"{value:.2f} OD"
            self._values[name].setText(unit)
        self.reset_button.setEnabled(self.cutoffs != Cutoffs())


def in_order(cutoffs: Cutoffs, name: str, value: float) -> Cutoffs:
    """Cut-offs with one of them changed, no farther than the next one lets it."""
    low, high = {
        "weak": (0.0, cutoffs.moderate - GAP),
        "moderate": (cutoffs.weak + GAP, cutoffs.intense - GAP),
        "intense": (cutoffs.moderate + GAP, math.inf),
        "complete": (cutoffs.trace + GAP, 1.0),
    }[name]
    return replace(cutoffs, **{name: round(min(max(value, low), high), 4)})
