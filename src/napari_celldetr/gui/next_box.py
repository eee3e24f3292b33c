"""*Next*: the cells most worth a look, one after the other, by keys alone."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.edits import confirm, delete, relabel
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui.gallery import AROUND, Gallery
from napari_celldetr.gui.overlay import NO_ROWS
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import keep_lines, wrapped_label
from napari_celldetr.gui.plot_colors import GREY
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.gui.teach_jobs import Asked, next_job

ZOOM_PX = 90.0
EMPTY_TEXT = (
    "The twenty cells from which the model would learn most, spread over the slide, and among them "
    "some drawn at random: these tell how much is still wrong."
)
KEYS_TEXT = "Enter: right · 1–9: its class · Delete: no cell · Space: do not know · Backspace: back"


class NextBox(QWidget):
    """`told` has something to say; `finished` when all of a queue were answered."""

    told = Signal(str)
    finished = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: SlideSession | None = None
        self.rows: Rows = NO_ROWS
        self.number = 0
        self._seed = 0
        self._build()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_queue)
        self.runner.failed.connect(self._on_failed)
        self.runner.progressed.connect(lambda step: self.state.setText(step.message))

    def _build(self) -> None:
        self.state = wrapped_label(EMPTY_TEXT)
        keep_lines(self.state, 3)
        self.start_button = QPushButton("Ask me about 20 cells")
        self.start_button.setToolTip("Looks for them, then shows one after the other")
        self.cell = QLabel("")
        self.keys = wrapped_label(KEYS_TEXT)
        self.classes = wrapped_label("")
        self.gallery = Gallery(least_rows=1)
        self.remaining = wrapped_label("", tooltip="From cells that were drawn at random")
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 6, 4, 4)
        for widget in (
            self.state, self.start_button, self.cell, self.gallery, self.classes, self.keys,
            self.remaining,
        ):  # fmt: skip
            column.addWidget(widget)
        column.addStretch(1)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.start_button.clicked.connect(self.start)
        self._show()

    # A slide comes and goes -------------------------------------------------------------

    def meet(self, session: SlideSession) -> None:
        """Ask about a slide from now on."""
        self.session = session
        session.claims_changed.connect(self._on_claims)
        self._show()

    def part(self) -> None:
        """Ask no more."""
        if self.session is not None:
            self.session.claims_changed.disconnect(self._on_claims)
        self.session, self.rows = None, NO_ROWS
        self.runner.abandon()
        self.gallery.let_go()
        self._show()

    def _on_claims(self) -> None:
        self.rows = NO_ROWS
        self.runner.abandon()
        self._show()

    # Asking -----------------------------------------------------------------------------

    def start(self) -> None:
        """Look for the next cells."""
        session = self.session
        if session is None or self.runner.running:
            return
        table, store = session.cells.copy(), session.lessons if not session.read_only else None
        mpp = session.cells.source.mpp or session.frame.mpp
        self._seed += 1
        seed = self._seed + len(session.cells.annotations)
        self.start_button.setEnabled(False)
        self.runner.start(lambda: next_job(table, store, mpp=mpp, seed=seed))

    def _on_queue(self, asked: Asked) -> None:
        self.rows, self.number = asked.rows, 0
        self.remaining.setText(asked.sentence)
        if not len(asked.rows):
            self.told.emit("No cell is left to ask about.")
        self._show()
        self._look()
        self.setFocus()

    def _on_failed(self, error: CellDETRError) -> None:
        self.told.emit(str(error))
        self._show()

    @property
    def row(self) -> int | None:
        """The cell that is asked about."""
        return int(self.rows[self.number]) if self.number < len(self.rows) else None

    def _look(self) -> None:
        session, row = self.session, self.row
        if session is not None and row is not None:
            session.select(self.rows[self.number : self.number + 1])
            session.show_box(session.cells.boxes[row].tolist(), px_on_screen=ZOOM_PX)

    def _show(self) -> None:
        session, row = self.session, self.row
        asking = session is not None and row is not None
        for widget in (self.cell, self.gallery, self.classes, self.keys):
            widget.setVisible(asking)
        self.start_button.setVisible(not asking)
        self.start_button.setEnabled(session is not None and bool(len(session.cells)))
        self.remaining.setVisible(bool(self.remaining.text()))
        if session is None or row is None:
            done = len(self.rows) > 0
            self.state.setText("All answered. Learn from them under Teach." if done else EMPTY_TEXT)
            return
        cells = session.cells
        class_id = int(cells.class_ids[row])
        name = cells.class_names[class_id] if class_id >= 0 else "unknown"
        self.state.setText(f"Cell {self.number + 1} of {len(self.rows)}. Is this right?")
        self.cell.setText(f"<b>{name}</b>")
        self.classes.setText(" · ".join(f"{i} {n}" for i, n in enumerate(cells.class_names[:9], 1)))
        usual = session.overlay.nucleus_px if session.overlay is not None else 16.0
        shown = self.rows[self.number : self.number + 1]
        color = [*session.colors, GREY][class_id]
        source = source_of_layer(session.layer, mpp=session.frame.mpp)
        self.gallery.show_rows(source, shown, cells.centres[shown], AROUND * usual, {row: color})

    # Answers ----------------------------------------------------------------------------

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Every answer is a key."""
        if self.row is None or not self.answer(event.key()):
            super().keyPressEvent(event)

    def answer(self, key: int) -> bool:
        """Take a key as an answer; whether it is one."""
        session, row = self.session, self.row
        if session is None or row is None:
            return False
        names = session.cells.class_names
        rows = self.rows[self.number : self.number + 1]
        number = key - Qt.Key.Key_1
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            done = self._say(lambda: confirm(session.cells, rows))
        elif 0 <= number < min(len(names), 9):
            done = self._say(lambda: relabel(session.cells, rows, names[number]))
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_X):
            done = self._say(lambda: delete(session.cells, rows))
        elif key == Qt.Key.Key_Space:
            done = True
        elif key == Qt.Key.Key_Backspace and self.number:
            return self._back(session)
        else:
            return False
        if done:
            self._step()
        return True

    def _say(self, make: Any) -> bool:
        assert self.session is not None
        try:
            self.session.edit(make())
        except CellDETRError as error:
            self.told.emit(str(error))
            return False
        return True

    def _back(self, session: SlideSession) -> bool:
        """Ask once more about the one before; what was said of it is taken back."""
        before = int(self.rows[self.number - 1])
        if session.cells.status[before] != Status.CLAIMED:
            session.undo()
        self.number -= 1
        self._show()
        self._look()
        return True

    def _step(self) -> None:
        self.number += 1
        self._show()
        self._look()
        if self.row is None:
            self.finished.emit()
