"""Landmarks as rows with what each misses by, and what can be done with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.parts import keep_lines, wrapped_label
from napari_celldetr.pipeline.transform_words import um_words

ROWS_SHOWN = 4
FEWEST_LANDMARKS = 3
PENDING = QColor(255, 122, 0)


class LandmarkBox(QWidget):
    """The list, and its buttons."""

    setting = Signal(bool)
    deleted = Signal(list)
    visited = Signal(int)
    shown = Signal(bool)

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
        self.show_box = QCheckBox("Show on the slides")
        self.show_box.setChecked(True)
        self.show_box.setToolTip("Off: the landmarks stay in the list, and count, but hide nothing")
        self.show_box.toggled.connect(self.shown)
        for widget in (self.set_button, self.hint, self.table, self.show_box):
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
        self.show_box.setVisible(bool(marks.items))
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
