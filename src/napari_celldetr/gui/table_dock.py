"""*Cell table*: every cell as a row, however many; a row shows its cell on the slide."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.annotations import SAID, STATUS_WORDS, Status
from napari_celldetr.core.claims import Rows
from napari_celldetr.gui.panel import Dock
from napari_celldetr.gui.parts import short_combo, single_shot
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.sources import is_slide_layer

RENEW_MS = 150
ALL, VIEW, SELECTED, CORRECTED = "all", "view", "selected", "corrected"
CHOICES = (
    (ALL, "All cells"),
    (VIEW, "On the screen"),
    (SELECTED, "Selected"),
    (CORRECTED, "Corrected"),
)
MOST_SELECTED = 20_000
"""A longer selection is made with the lasso, not row by row."""
EMPTY_TEXT = "No cells. Find them with Detect cells."
NONE_TEXT = {
    VIEW: "No cells are on the screen.",
    SELECTED: "No cell is selected.",
    CORRECTED: "Nothing was corrected.",
}
STATUS_TEXT = STATUS_WORDS | {Status.CLAIMED: "not reviewed"}
HEADINGS = {"class_probability": "Class certainty", "dab_share": "DAB share"}
"""Measured columns as people say them; others are shown by their names."""


class CellModel(QAbstractTableModel):
    """Rows of a session's table; values are made when they are seen."""

    def __init__(self, session: SlideSession) -> None:
        super().__init__()
        self.session = session
        self.rows: Rows = np.zeros(0, np.int64)
        self._sorted: tuple[int, bool] = (-1, True)
        self._measured: tuple[str, ...] = ()

    # What Qt asks -----------------------------------------------------------------------

    def rowCount(self, parent: Any = None) -> int:  # noqa: N802 - Qt's name
        """Number of cells."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: Any = None) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.names)

    def headerData(  # noqa: N802
        self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Names of columns, numbers of rows."""
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation == Qt.Orientation.Horizontal:
            return self.names[section]
        return f"{section + 1:,}"

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """The text of a cell of the table."""
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(index.column(), self.rows[index.row() : index.row() + 1])
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() not in (0, 2):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        """Order by a column; a second of it for a million cells at most."""
        self._sorted = (column, order == Qt.SortOrder.AscendingOrder)
        self.beginResetModel()
        self._order()
        self.endResetModel()

    # What it shows ----------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Headers of the columns."""
        unit = "µm" if self.session.frame.mpp is not None else "px"
        place = [f"x {unit}", f"y {unit}", f"width {unit}", f"height {unit}"]
        return ["Class", "Score", "Status", *place, *(HEADINGS.get(n, n) for n in self._measured)]

    def show(self, rows: Rows) -> None:
        """Show other cells, in the order that was chosen."""
        self.beginResetModel()
        self.rows = rows
        measured = self.session.cells.measured()
        self._measured = tuple(n for n in measured if n not in ("diameter_um", "area_um2"))
        self._order()
        self.endResetModel()

    def _order(self) -> None:
        column, ascending = self._sorted
        if 0 <= column < len(self.names) and len(self.rows):
            order = np.argsort(self._values(column, self.rows), kind="stable")
            self.rows = self.rows[order if ascending else order[::-1]]

    def _values(self, column: int, rows: Rows) -> NDArray[Any]:
        """What a column holds, as numbers that sort well."""
        cells = self.session.cells
        if column == 0:
            rank = np.argsort(np.argsort([*cells.class_names, "unknown"]))
            return np.asarray(rank[cells.class_ids[rows]])
        if column == 1:
            return cells.scores[rows]
        if column == 2:
            return cells.status[rows]
        scale = np.array(self.session.frame.mpp or (1.0, 1.0), np.float32)
        boxes = cells.boxes[rows]
        if column in (3, 4):
            return np.asarray(cells.centres[rows, column - 3] * scale[column - 3])
        if column in (5, 6):
            side = column - 5
            return np.asarray((boxes[:, side + 2] - boxes[:, side]) * scale[side])
        name = self._measured[column - 7]
        return np.asarray(cells.measured_column(name, rows))

    def _text(self, column: int, rows: Rows) -> str:
        cells = self.session.cells
        if column == 0:
            return str([*cells.class_names, "unknown"][int(cells.class_ids[rows[0]])])
        if column == 2:
            return STATUS_TEXT.get(Status(int(cells.status[rows[0]])), "gone")
        value = self._values(column, rows)[0]
        if isinstance(value, str):
            return value
        if np.isnan(value):
            return "–"
        return f"{value:.3f}" if column == 1 or column > 6 else f"{value:,.1f}"


class TableDock(Dock):
    """The dock widget: which cells, the table, and how many."""

    is_wide = True

    def __init__(
        self, napari_viewer: Any, *, layer: Any = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.session: SlideSession | None = None
        self.model: CellModel | None = None
        self.setWindowTitle("Cell table")
        self.setMinimumHeight(160)
        self.which = short_combo("Which cells are listed")
        for key, text in CHOICES:
            self.which.addItem(text, key)
        self.count_label = QLabel("")
        self.view = QTableView()
        self.view.setToolTip("Click a row to see its cell; click a heading to sort")
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSortingEnabled(False)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.verticalHeader().setDefaultSectionSize(20)
        # Measuring the width of a million row numbers would take seconds.
        self.view.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = self.view.horizontalHeader()
        header.setSectionsClickable(True)
        header.setStretchLastSection(True)
        header.sectionClicked.connect(self._on_heading)
        row = QHBoxLayout()
        row.addWidget(self.which)
        row.addWidget(self.count_label, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 6)
        column.addLayout(row)
        column.addWidget(self.view)
        self._ours = False
        self._sort: tuple[int, bool] = (-1, False)
        self._renew = single_shot(self, RENEW_MS, self.renew)
        self.which.currentIndexChanged.connect(lambda _: self.renew())
        self.viewer.layers.events.inserted.connect(self._on_layers)
        self.viewer.layers.events.removed.connect(self._on_layers)
        if layer is not None:
            self._join(layer)
        self._on_layers()

    def let_go(self) -> None:
        """Stop everything this dock started; corrections are on disk, finished tiles too."""
        self._renew.stop()
        self.viewer.layers.events.inserted.disconnect(self._on_layers)
        self.viewer.layers.events.removed.disconnect(self._on_layers)
        self._join(None)

    def _on_layers(self, event: Any = None) -> None:
        slides = [layer for layer in self.viewer.layers if is_slide_layer(layer)]
        now = None if self.session is None else self.session.layer
        if now is None or now not in slides:
            self._join(slides[-1] if slides else None)

    def _join(self, layer: Any | None) -> None:
        old = self.session
        if old is not None:
            old.cells_changed.disconnect(self._renew.start)
            old.claims_changed.disconnect(self.renew)
            old.selection_changed.disconnect(self._on_selection)
            old.view_changed.disconnect(self._on_view)
            old.leave(self)
        self.session = None if layer is None else session_of(self.viewer, layer, self)
        # Both live until the view has others: Qt does not own them, and would look at them.
        old_model, old_choice = self.model, self.view.selectionModel()
        self.model = None
        now = self.session
        if now is not None:
            now.cells_changed.connect(self._renew.start)
            # At once: rows of other claims mean other cells, or none.
            now.claims_changed.connect(self.renew)
            now.selection_changed.connect(self._on_selection)
            now.view_changed.connect(self._on_view)
            self.model = CellModel(now)
        self.view.setModel(self.model)
        for gone in (old_choice, old_model):
            if gone is not None:
                gone.deleteLater()
        if self.model is not None:
            self.view.selectionModel().selectionChanged.connect(self._on_rows)
        self.renew()

    def _rows(self, session: SlideSession) -> Rows:
        cells, which = session.cells, self.which.currentData()
        if which == VIEW:
            view = session.view()
            return np.zeros(0, np.int64) if view is None else np.sort(cells.rows_in(view))
        if which == SELECTED:
            return session.selected[cells.kept[session.selected]]
        if which == CORRECTED:
            return np.flatnonzero(
                (cells.kept & SAID[cells.status]) | (cells.status == Status.DELETED)
            )
        return np.flatnonzero(cells.kept)

    def renew(self) -> None:
        """List the cells as they are now."""
        session, model = self.session, self.model
        if session is None or model is None:
            self.count_label.setText(EMPTY_TEXT)
            return
        self._ours = True
        try:
            model.show(self._rows(session))
        finally:
            self._ours = False
        many = len(model.rows)
        none = (
            NONE_TEXT.get(self.which.currentData(), EMPTY_TEXT)
            if len(session.cells)
            else EMPTY_TEXT
        )
        words = "1 cell" if many == 1 else f"{many:,} cells"
        self.count_label.setText(words if many else none)

    def _on_heading(self, column: int) -> None:
        if self.model is None:
            return
        ascending = not self._sort[1] if self._sort[0] == column else True
        self._sort = (column, ascending)
        order = Qt.SortOrder.AscendingOrder if ascending else Qt.SortOrder.DescendingOrder
        self.view.horizontalHeader().setSortIndicatorShown(True)
        self.view.horizontalHeader().setSortIndicator(column, order)
        self._ours = True
        self.model.sort(column, order)
        self._ours = False

    def _on_rows(self, *_: Any) -> None:
        session, model = self.session, self.model
        if self._ours or session is None or model is None:
            return
        chosen = self.view.selectionModel().selection()
        ranges = [chosen.at(i) for i in range(chosen.count())]
        picked = [np.arange(r.top(), r.bottom() + 1) for r in ranges]
        places = np.concatenate(picked)[:MOST_SELECTED] if picked else np.zeros(0, np.int64)
        rows = model.rows[places.astype(np.int64)]
        self._ours = True
        session.select(rows[session.cells.kept[rows]])
        self._ours = False
        if len(rows) == 1:
            session.show_box(session.cells.boxes[rows[0]].tolist())

    def _on_selection(self) -> None:
        if not self._ours and self.which.currentData() == SELECTED:
            self._renew.start()

    def _on_view(self) -> None:
        if not self._ours and self.which.currentData() == VIEW:
            self._renew.start()
