"""Parts of the *Align slides* dock: comparing, landmarks, regions. Each shows; none decides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.align_view import NEEDS_TRANSFORM, Look
from napari_celldetr.gui.align_words import um_words
from napari_celldetr.gui.carry import CARRIED_KEY
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.parts import keep_lines, narrow_form, short_combo, wrapped_label
from napari_celldetr.gui.tumour_find import TumourBox

if TYPE_CHECKING:
    from napari_celldetr.pipeline.import_transform import Physical

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
    Look.SWIPE: ("Line", ""),
    Look.CHECKER: ("Fields", ""),
}
ROWS_SHOWN = 4
FEWEST_LANDMARKS = 3
PENDING, CURSOR = QColor(255, 122, 0), QColor(255, 212, 0)
LOUPE_HEIGHT = 150
RGB = QImage.Format.Format_RGB888


class LookBox(QWidget):
    """How both slides are shown: a list, and a slider for what can be set.

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


class Loupe(QLabel):
    """The other slide at the place under the mouse, with its expected error as a ring."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(LOUPE_HEIGHT)
        self.setMinimumWidth(120)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setWordWrap(True)
        self.setToolTip("The other slide at the place under the mouse, as large as on the screen")
        self.show_nothing()

    @property
    def room(self) -> tuple[int, int]:
        """Width and height there is for a picture."""
        return max(self.width(), 1), LOUPE_HEIGHT

    def show_nothing(self) -> None:
        """There is nothing under the mouse."""
        self.setText("Move the mouse over the tissue.")

    def show_picture(self, rgb: NDArray[np.uint8], ring_px: float) -> None:
        """A picture (h, w, 3), its middle in a ring of that radius in px; none below 3."""
        height, width = rgb.shape[:2]
        image = QImage(np.ascontiguousarray(rgb).data, width, height, 3 * width, RGB)
        pixmap = QPixmap.fromImage(image)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        x, y = width // 2, height // 2
        for color, thick in ((QColor(0, 0, 0), 4), (CURSOR, 2)):
            painter.setPen(QPen(color, thick))
            painter.drawPoint(x, y)
            if np.isfinite(ring_px) and ring_px >= 3:
                painter.drawEllipse(
                    x - round(ring_px), y - round(ring_px), *[round(2 * ring_px)] * 2
                )
        painter.end()
        self.setPixmap(pixmap)


class LandmarkBox(QWidget):
    """Landmarks as rows with what each misses by, and what can be done with them."""

    setting = Signal(bool)
    deleted = Signal(list)
    visited = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.set_button = QPushButton("Set landmarks")
        self.set_button.setCheckable(True)
        self.set_button.setToolTip(
            "Then click a place on the H&E and the same place on the IHC, as often as you like"
        )
        self.hint = wrapped_label("")
        keep_lines(self.hint, 2)
        self.table = _landmark_table()
        self.delete_button = QPushButton("Delete")
        self.delete_button.setToolTip("Delete the chosen landmarks")
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip("Save the landmarks as a CSV file")
        self.load_button = QPushButton("Load…")
        self.load_button.setToolTip("Load landmarks from a CSV file with he_x, he_y, ihc_x, ihc_y")
        self.align_button = QPushButton("Align with landmarks")
        self.align_button.setToolTip(
            "Align again; three landmarks or more say where to begin, and all of them pull"
        )
        row = QHBoxLayout()
        for button in (self.delete_button, self.save_button, self.load_button):
            row.addWidget(button)
        for widget in (self.set_button, self.hint, self.table):
            column.addWidget(widget)
        column.addLayout(row)
        column.addWidget(self.align_button)
        self.set_button.toggled.connect(self.setting)
        self.delete_button.clicked.connect(self._delete)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.show_landmarks(Landmarks(), np.zeros(0), can_align=False)

    def show_landmarks(
        self, marks: Landmarks, misses_um: NDArray[np.float64], *, can_align: bool
    ) -> None:
        """The list; `misses_um` is NaN where there is nothing to say."""
        self.table.blockSignals(True)
        self.table.setRowCount(len(marks.items))
        for i, mark in enumerate(marks.items):
            miss = "–" if np.isnan(misses_um[i]) else um_words(misses_um[i])
            wanted = "IHC" if mark.ihc is None else "H&E"
            texts = (str(i + 1), "on both slides" if mark.whole else f"click the {wanted}", miss)
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if not mark.whole:
                    item.setForeground(PENDING)
                if column == 2:
                    right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    item.setTextAlignment(right)
                self.table.setItem(i, column, item)
        self.table.blockSignals(False)
        self.table.setVisible(bool(marks.items))
        rows = min(len(marks.items), ROWS_SHOWN)
        height = self.table.horizontalHeader().height()
        self.table.setFixedHeight(height + rows * self.table.rowHeight(0) + 4 if rows else height)
        self.table.scrollToBottom()
        self.save_button.setEnabled(bool(marks.pairs))
        self.align_button.setEnabled(can_align and bool(marks.pairs))
        self._on_selected()
        self.hint.setText(_hint(marks, setting=self.set_button.isChecked()))

    def _on_selected(self) -> None:
        rows = self._rows()
        self.delete_button.setEnabled(bool(rows))
        if len(rows) == 1 and not self.table.signalsBlocked() and self.table.hasFocus():
            self.visited.emit(rows[0])

    def _rows(self) -> list[int]:
        return sorted({index.row() for index in self.table.selectedIndexes()})

    def _delete(self) -> None:
        rows = self._rows()
        self.table.clearSelection()
        self.deleted.emit(rows)


def _hint(marks: Landmarks, *, setting: bool) -> str:
    wanted, whole = marks.wanted, len(marks.pairs)
    if setting and wanted is not None:
        slide, side = ("IHC", "right") if wanted == "ihc" else ("H&E", "left")
        return f"Now click the same place on the {slide} ({side})."
    if setting:
        return "Click a place on the H&E (left) that you know again on the IHC. Drag moves."
    if whole < FEWEST_LANDMARKS:
        few = f"{whole} of at least {FEWEST_LANDMARKS} set. " if whole else ""
        return f"{few}They help where the slides cannot be aligned by themselves."
    return f"{whole} landmarks. Off by: how far the alignment misses each."


def _landmark_table() -> QTableWidget:
    table = QTableWidget(0, 3)
    table.setHorizontalHeaderLabels(("No.", "Set", "Off by"))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(round(1.5 * table.fontMetrics().height()))
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
    table.setShowGrid(False)
    table.setToolTip("Choose a row to go there. Off by: how far the alignment misses the place")
    header = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
    return table


class RegionBox(QWidget):
    """A layer of drawn regions, and two buttons that carry them to the other slide."""

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


class PhysicalDialog(QDialog):
    """What a file of another program cannot say itself: its unit, and which slide it maps from."""

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
