"""Asks what a file of another program cannot say itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.parts import narrow_form

if TYPE_CHECKING:
    from napari_celldetr.pipeline.import_transform import Physical


class PhysicalDialog(QDialog):
    """Its unit, and which slide it maps from."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Alignment of another program")
        column = QVBoxLayout(self)
        column.addWidget(QLabel(f"{name} does not say what its lengths mean."))
        box = QWidget()
        form = narrow_form(box)
        self.unit = QComboBox()
        for text, key in (
            ("pixels of the slides", "px"),
            ("pixels of smaller pictures", "small"),
            ("µm", "um"),
            ("mm", "mm"),
        ):
            self.unit.addItem(text, key)
        self.mpp = QDoubleSpinBox()
        self.mpp.setRange(0.05, 1000.0)
        self.mpp.setDecimals(3)
        self.mpp.setValue(4.0)
        self.mpp.setSuffix(" µm/px")
        self.fixed = QComboBox()
        self.fixed.addItem("H&E (it was the fixed image)", "he")
        self.fixed.addItem("IHC (it was the fixed image)", "ihc")
        form.addRow("Lengths are in", self.unit)
        form.addRow("Their pixel size", self.mpp)
        form.addRow("It maps from the", self.fixed)
        column.addWidget(box)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)
        self.unit.currentIndexChanged.connect(self._fit)
        self._fit()

    def _fit(self, _index: int = 0) -> None:
        self.mpp.setEnabled(self.unit.currentData() == "small")

    def physical(self) -> Physical:
        """What was chosen."""
        from napari_celldetr.pipeline.import_transform import Physical

        unit = self.unit.currentData()
        if unit == "small":
            return Physical("px", self.fixed.currentData(), self.mpp.value())
        return Physical(unit, self.fixed.currentData())
