"""Parts of the *Review cells* dock: tools, classes, figures. Each shows; none of them decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.parts import (
    counts_table,
    fill_counts,
    keep_lines,
    short_combo,
    swatch,
    wrapped_label,
)
from napari_celldetr.gui.tool_kinds import TOOLS, Tool

Color = tuple[int, int, int]
PER_ROW = 3
HINT_LINES = 3
MOST_KEYS = 9
UNKNOWN_TEXT = "unknown"
GREY: Color = (160, 160, 160)


class ToolBox(QWidget):
    """The tools as buttons, and a line that says what the mouse does."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        grid = QGridLayout()
        grid.setSpacing(3)
        self._group = QButtonGroup(self)
        self._buttons: dict[Tool, QPushButton] = {}
        for i, (tool, info) in enumerate(TOOLS.items()):
            button = QPushButton(f"{info.name}  ({info.key.upper()})")
            button.setCheckable(True)
            button.setToolTip(info.hint)
            button.clicked.connect(lambda _=False, t=tool: self.chosen.emit(t))
            self._group.addButton(button)
            self._buttons[tool] = button
            # The last one says most, and has a row of its own.
            width = PER_ROW if tool is Tool.AREA else 1
            grid.addWidget(button, i // PER_ROW, i % PER_ROW, 1, width)
        self.hint = wrapped_label("")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)
        column.addWidget(self.hint)
        keep_lines(self.hint, HINT_LINES)

    def show_none(self, why: str) -> None:
        """None of them has the mouse just now."""
        self._group.setExclusive(False)
        for button in self._buttons.values():
            button.setChecked(False)
        self._group.setExclusive(True)
        self.hint.setText(why)

    def show_tool(self, tool: Tool, class_name: str | None = None) -> None:
        """Which one is in use, and the class of what it makes."""
        self._buttons[tool].setChecked(True)
        hint = TOOLS[tool].hint
        if tool in (Tool.ADD, Tool.PAINT):
            hint += f" Class: {class_name or UNKNOWN_TEXT}."
        self.hint.setText(hint)

    def button(self, tool: Tool) -> QPushButton:
        """The button of a tool."""
        return self._buttons[tool]


class ClassList(QWidget):
    """A button per class with its colour and key, and one to add a class."""

    chosen = Signal(object)
    added = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self._buttons: dict[str | None, QToolButton] = {}
        self._shown: tuple[Any, ...] = ()
        self.heading = wrapped_label("")
        self.new_button = QToolButton()
        self.new_button.setText("+ class…")
        self.new_button.setAutoRaise(True)
        self.new_button.setToolTip("Add a class of your own; cells can then be given it")
        self.new_button.clicked.connect(self._ask)
        row = QHBoxLayout()
        row.addWidget(self.heading, 1)
        row.addWidget(self.new_button)
        self._column.addLayout(row)

    def show_classes(
        self, colors: Mapping[str, Color], now: Collection[str | None], heading: str
    ) -> None:
        """These classes, of which those in `now` are marked where they are one (None: unknown)."""
        self.heading.setText(heading)
        state = (tuple(colors.items()),)
        if state != self._shown:
            self._shown = state
            for button in self._buttons.values():
                self._column.removeWidget(button)
                button.deleteLater()
            self._buttons = {}
            rows: list[tuple[str | None, str, Color]] = [
                (name, str(i) if i <= MOST_KEYS else "", color)
                for i, (name, color) in enumerate(colors.items(), 1)
            ]
            for place, (name, key, color) in enumerate([*rows, (None, "0", GREY)]):
                button = self._button(name, key, color)
                self._column.insertWidget(1 + place, button)
                self._buttons[name] = button
        for name, button in self._buttons.items():
            button.setChecked(len(now) == 1 and name in now)

    def _button(self, name: str | None, key: str, color: Color) -> QToolButton:
        button = QToolButton()
        words = name if name is not None else UNKNOWN_TEXT
        # The style sets the swatch close to the name.
        button.setText(f" {words}   ({key})" if key else f" {words}")
        button.setIcon(swatch(color))
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setCheckable(True)
        button.setAutoRaise(True)
        button.setStyleSheet(
            "QToolButton:checked { border: 1px solid #5a8fd6; font-weight: bold; }"
        )
        button.setToolTip(f"Selected and next cells are {words}" + (f"; key {key}" if key else ""))
        button.clicked.connect(lambda _=False, n=name: self.chosen.emit(n))
        return button

    def button(self, name: str | None) -> QToolButton:
        """The button of a class."""
        return self._buttons[name]

    def _ask(self) -> None:
        name, given = QInputDialog.getText(self, "New class", "Name of the class")
        if given and name.strip():
            self.added.emit(name.strip())


SCREEN, SLIDE = "screen", "slide"


class Readout(QWidget):
    """Counts and densities of the screen, a drawn area or the slide."""

    changed = Signal()
    removed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.where = short_combo("Where cells are counted")
        self.where.addItem("What is on the screen", SCREEN)
        self.where.addItem("Whole slide", SLIDE)
        self.where.currentIndexChanged.connect(self._on_where)
        # Keys are meant for the slide again.
        self.where.activated.connect(lambda _: self.where.clearFocus())
        self.remove_button = QToolButton()
        self.remove_button.setText("✕")
        self.remove_button.setToolTip("Take this area away; the cells in it stay as they are")
        self.remove_button.setVisible(False)
        self.remove_button.clicked.connect(lambda: self.removed.emit(self.where.currentData()))
        self.table = counts_table()
        self.note = wrapped_label("")
        row = QHBoxLayout()
        row.addWidget(QLabel("Count in"))
        row.addWidget(self.where, 1)
        row.addWidget(self.remove_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.table)
        column.addWidget(self.note)

    def _on_where(self) -> None:
        self.remove_button.setVisible(self.where.currentData() not in (SCREEN, SLIDE))
        self.changed.emit()

    def count_in(self, area_id: str) -> None:
        """Count in a drawn area that is on offer."""
        self.where.setCurrentIndex(max(self.where.findData(area_id), 0))

    def offer_areas(self, areas: Sequence[tuple[str, str]]) -> None:
        """Drawn areas to count in: id and name of each."""
        wanted = [(SCREEN, "What is on the screen"), (SLIDE, "Whole slide"), *areas]
        have = [(self.where.itemData(i), self.where.itemText(i)) for i in range(self.where.count())]
        if have == wanted:
            return
        now = self.where.currentData()
        self.where.blockSignals(True)
        self.where.clear()
        for key, name in wanted:
            self.where.addItem(name, key)
        self.where.setCurrentIndex(max(self.where.findData(now), 0))
        self.where.blockSignals(False)
        self._on_where()

    def show_rows(self, rows: list[Any], colors: Mapping[str, Color], note: str) -> None:
        """Rows of `class_rows`, and what to know of them."""
        fill_counts(self.table, rows, colors)
        self.note.setText(note)
        self.note.setVisible(bool(note))

    def combo(self) -> QComboBox:
        """The choice of where."""
        return self.where
