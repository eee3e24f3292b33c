"""Small widgets that several docks use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.sources import is_slide_layer


class Fold(QWidget):
    """A heading that shows and hides what is under it; closed at first."""

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setToolTip(f"Show or hide: {title}")
        self.content = content
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self.button.toggled.connect(self._toggle)
        self._toggle(False)

    def _toggle(self, is_open: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        self.content.setVisible(is_open)


def keep_lines(label: QLabel, lines: int) -> None:
    """Room for that many lines, so that what lies below does not jump."""
    label.setMinimumHeight(label.fontMetrics().lineSpacing() * lines)
    label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)


def narrow_form(widget: QWidget) -> QFormLayout:
    """A form layout that still fits a dock 330 px wide."""
    form = QFormLayout(widget)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    return form


def wrapped_label(text: str, *, tooltip: str = "") -> QLabel:
    """A label that breaks its lines instead of widening the dock."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setToolTip(tooltip)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
    return label


class SlideBox(QComboBox):
    """The slide layers of a viewer, one of which is chosen.

    `chosen` is sent with the chosen layer, or None, whenever that or the list is another.
    """

    chosen = Signal(object)

    def __init__(self, viewer: Any, tooltip: str) -> None:
        super().__init__()
        narrow(self, tooltip)
        self._layers = viewer.layers
        self._listed: list[Any] | None = None
        self._layers.events.inserted.connect(self.list_slides)
        self._layers.events.removed.connect(self.list_slides)
        self.currentIndexChanged.connect(lambda _: self.chosen.emit(self.layer))

    @property
    def layer(self) -> Any | None:
        """The chosen slide layer."""
        index, listed = self.currentIndex(), self._listed or []
        return listed[index] if 0 <= index < len(listed) else None

    def list_slides(self, event: Any = None) -> None:
        """List the slides as they are now; the newest is chosen when the chosen one is gone."""
        slides = [layer for layer in self._layers if is_slide_layer(layer)]
        if slides == self._listed:
            return
        now = self.layer
        same = [i for i, layer in enumerate(slides) if now is not None and layer == now]
        self._listed = slides
        self.blockSignals(True)
        self.clear()
        self.addItems([layer.name for layer in slides])
        self.setCurrentIndex(same[0] if same else len(slides) - 1)
        self.blockSignals(False)
        self.chosen.emit(self.layer)

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        self._layers.events.inserted.disconnect(self.list_slides)
        self._layers.events.removed.disconnect(self.list_slides)
        self._listed = []


def narrow(box: QComboBox, tooltip: str) -> None:
    """Let a combo box be narrower than its longest entry."""
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)


def short_combo(tooltip: str) -> QComboBox:
    """A combo box that may be narrower than its longest entry."""
    box = QComboBox()
    narrow(box, tooltip)
    return box


def stem_of(name: str) -> str:
    """A slide's name without suffixes, fit for the name of a file."""
    stem = Path(name).name.split(".")[0]
    kept = "".join(c if c.isalnum() or c in "-_ " else "-" for c in stem).strip()
    return kept or "slide"


def single_shot(parent: QObject, interval_ms: int, call: Any) -> QTimer:
    """A timer that calls once after it was last started."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval_ms)
    timer.timeout.connect(call)
    return timer


COLUMNS = ("Class", "Cells", "Share", "per mm²")


def counts_table() -> QTableWidget:
    """The empty table of counts."""
    table = QTableWidget(0, len(COLUMNS))
    table.setHorizontalHeaderLabels(COLUMNS)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(round(1.5 * table.fontMetrics().height()))
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
    table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    table.setShowGrid(False)
    table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    header = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    table.setToolTip(
        "Cells above the score. per mm²: of the area that was analysed, glass in it included"
    )
    return table


def fill_counts(table: QTableWidget, rows: list[Any], colors: Mapping[str, Any]) -> None:
    """Show `rows` of `class_rows` with a colour swatch each."""
    table.setRowCount(len(rows))
    for i, row in enumerate(rows):
        density = "–" if row.per_mm2 is None else f"{row.per_mm2:,.0f}"
        texts = (row.name, f"{row.count:,}", f"{100 * row.share:.1f} %", density)
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            if column:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            elif row.name in colors:
                item.setIcon(swatch(colors[row.name]))
            table.setItem(i, column, item)
    height = table.horizontalHeader().height() + sum(table.rowHeight(i) for i in range(len(rows)))
    table.setFixedHeight(height + 4)


def swatch(color: tuple[int, int, int]) -> QIcon:
    """A square of one colour."""
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(*color))
    return QIcon(pixmap)
