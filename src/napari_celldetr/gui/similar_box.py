"""*Selection*: pictures of what is selected, cells that look like it, and a class for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_celldetr.core.annotations import SAID
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.edits import confirm, relabel
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job
from napari_celldetr.core.space.similar import measuring, rows_within
from napari_celldetr.gui.gallery import AROUND, MOST, Gallery, sample_of
from napari_celldetr.gui.overlay import NO_ROWS
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import wrapped_label
from napari_celldetr.gui.plot_cells import Embedded
from napari_celldetr.gui.plot_colors import GREY
from napari_celldetr.gui.review_parts import ClassList
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import source_of_layer

STEPS = 1000
MOST_PROBES = 50
"""So many selected cells tell well enough what they have in common."""
FARTHEST = 0.3
"""Share of the cells that the slider's end takes in."""
MOST_NAMED = 20_000
"""More at once are not one person's word any more; a lesson names them all."""
NONE_TEXT = "Draw round cells in the plot, or click one there or on the slide."


class SimilarBox(QWidget):
    """`told` has something to say; `likely` frames cells that would be selected."""

    told = Signal(str)
    likely = Signal(object)

    def __init__(self, cells: Callable[[], Embedded | None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: SlideSession | None = None
        self._cells = cells
        self._around: Rows | None = None
        self._apart: NDArray[np.float32] | None = None
        self._of: Embedded | None = None
        self._found: Rows = NO_ROWS
        self._build()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_measured)
        self.runner.failed.connect(self._on_failed)

    def _build(self) -> None:
        self.heading = wrapped_label(NONE_TEXT)
        self.gallery = Gallery()
        self.find_button = QPushButton("Find similar")
        self.find_button.setToolTip("Cells of the whole slide that look like the selected ones")
        self.right_button = QPushButton("Right as they are")
        self.right_button.setToolTip("Confirm the class of the selected cells")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setToolTip("How much they may differ; the pictures show the least alike ones")
        self.take_button = QPushButton("Select them")
        self.leave_button = QPushButton("Leave")
        self.leave_button.setToolTip("Keep the selection as it was")
        self.similar = QWidget()
        self.classes = ClassList()
        row = QHBoxLayout()
        row.addWidget(self.find_button)
        row.addWidget(self.right_button)
        inner = QVBoxLayout(self.similar)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.slider)
        choice = QHBoxLayout()
        choice.addWidget(self.take_button)
        choice.addWidget(self.leave_button)
        inner.addLayout(choice)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 6, 4, 4)
        column.addWidget(self.heading)
        column.addWidget(self.gallery)
        column.addLayout(row)
        column.addWidget(self.similar)
        column.addWidget(self.classes)
        column.addStretch(1)
        self.similar.setVisible(False)
        self.gallery.picked.connect(self._on_picked)
        self.find_button.clicked.connect(self.find_similar)
        self.right_button.clicked.connect(self._on_right)
        self.slider.valueChanged.connect(self._on_slider)
        self.take_button.clicked.connect(self.take)
        self.leave_button.clicked.connect(self.leave)
        self.classes.chosen.connect(self.give_class)
        self.classes.added.connect(self._on_new_class)

    # A slide comes and goes -------------------------------------------------------------

    def meet(self, session: SlideSession) -> None:
        """Work on a slide from now on."""
        self.session = session
        for signal, call in self._signals(session):
            signal.connect(call)
        self._show()

    def part(self) -> None:
        """Work on nothing any more."""
        if self.session is not None:
            for signal, call in self._signals(self.session):
                signal.disconnect(call)
        self.leave()
        self.session = None
        self.runner.abandon()
        self.gallery.let_go()

    def _signals(self, session: SlideSession) -> list[tuple[Any, Any]]:
        return [
            (session.selection_changed, self._on_selection),
            (session.cells_changed, self._show),
            (session.claims_changed, self.leave),
        ]

    def _on_selection(self) -> None:
        if self._apart is not None:
            self.leave()
        self._show()

    # Pictures ---------------------------------------------------------------------------

    def show_around(self, rows: Rows | None) -> None:
        """Show cells near the pointer instead, until it is gone (None)."""
        self._around = rows if rows is not None and len(rows) else None
        self._show()

    def _show(self) -> None:
        session = self.session
        if session is None:
            return
        chosen = session.selected[session.cells.kept[session.selected]]
        finding = self._apart is not None
        if finding:
            rows, words = self._found[-MOST:], self._found_words()
        elif self._around is not None:
            rows, words = self._around, "Around the pointer:"
        else:
            rows, words = sample_of(chosen), _words(len(chosen))
        self.heading.setText(words)
        self._show_pictures(session, rows)
        there = bool(len(chosen)) and not finding
        self.find_button.setEnabled(there and self._cells() is not None)
        self.right_button.setEnabled(there)
        self.find_button.setVisible(not finding)
        self.right_button.setVisible(not finding)
        names = {session.cells.class_names[i] if i >= 0 else None
                 for i in np.unique(session.cells.class_ids[chosen]).tolist()}  # fmt: skip
        heading = "Give the selected cells a class:" if len(chosen) else "Classes:"
        self.classes.show_classes(session.color_names, names, heading)
        self.classes.setEnabled(there)

    def _show_pictures(self, session: SlideSession, rows: Rows) -> None:
        cells, colors = session.cells, [*session.colors, GREY]
        frames = {r: colors[cells.class_ids[r]] for r in rows.tolist()}
        usual = session.overlay.nucleus_px if session.overlay is not None else 16.0
        source = source_of_layer(session.layer, mpp=session.frame.mpp)
        self.gallery.show_rows(source, rows, cells.centres[rows], AROUND * usual, frames)

    def _on_picked(self, row: int) -> None:
        if self.session is not None:
            self.session.show_box(self.session.cells.boxes[row].tolist())

    # Similar cells ----------------------------------------------------------------------

    def find_similar(self) -> None:
        """Measure how much every cell differs from the selected ones."""
        session, cells = self.session, self._cells()
        if session is None or cells is None:
            return
        at = np.searchsorted(cells.rows, session.selected)
        at = at[at < len(cells)]
        places = at[np.isin(cells.rows[at], session.selected)]
        if not len(places):
            self.told.emit("The selected cells have no embedding: they were added by hand.")
            return
        probe = cells.vectors[sample_of(places, MOST_PROBES)].astype(np.float32)
        probe /= np.maximum(np.linalg.norm(probe, axis=1, keepdims=True), 1e-12)
        self.find_button.setEnabled(False)
        self.runner.start(lambda: _apart_job(cells, probe.mean(axis=0)))

    def _on_measured(self, found: tuple[Embedded, NDArray[np.float32], float]) -> None:
        session = self.session
        if session is None or found[0] is not self._cells():
            return
        self._of, self._apart, self._far = found
        self.similar.setVisible(True)
        self.slider.blockSignals(True)
        self.slider.setValue(STEPS // 5)
        self.slider.blockSignals(False)
        self._on_slider()

    def _on_failed(self, error: CellDETRError) -> None:
        self.told.emit(str(error))
        self._show()

    @property
    def distance(self) -> float:
        """What the slider allows: 1 − cosine; finer at its lower end."""
        return self._far * (self.slider.value() / STEPS) ** 2

    def _on_slider(self) -> None:
        session = self.session
        if session is None or self._apart is None or self._of is None:
            return
        rows = self._of.rows[rows_within(self._apart, self.distance)]
        self._found = rows[session.cells.kept[rows]]
        self.likely.emit(self._found)
        self._show()

    def _found_words(self) -> str:
        many = len(self._found)
        cells = "1 cell is" if many == 1 else f"{many:,} cells are"
        return f"{cells} within {self.distance:.3f}. The least alike of them:"

    def take(self) -> None:
        """Select what was found."""
        found, session = np.sort(self._found), self.session
        self.leave()
        if session is not None:
            session.select(found)

    def leave(self) -> None:
        """Forget what was found."""
        self._apart = self._of = None
        self._found = NO_ROWS
        self.similar.setVisible(False)
        self.likely.emit(NO_ROWS)
        self._show()

    # Classes ----------------------------------------------------------------------------

    def give_class(self, name: str | None) -> None:
        """Give the selected cells a class; a correction like any other."""
        self._edit(lambda session, rows: relabel(session.cells, rows, name))

    def _on_right(self) -> None:
        self._edit(lambda session, rows: confirm(session.cells, rows))

    def _edit(self, make: Callable[[SlideSession, Rows], Any]) -> None:
        session = self.session
        if session is None:
            return
        rows = session.selected[session.cells.kept[session.selected]]
        if len(rows) > MOST_NAMED:
            self.told.emit(
                f"{len(rows):,} cells are too many to vouch for at once (at most "
                f"{MOST_NAMED:,}). Name some of them, then let the model learn from these."
            )
            return
        try:
            edit = make(session, rows)
            session.edit(edit)
        except CellDETRError as error:
            self.told.emit(str(error))
            return
        said = int(SAID[session.cells.status[rows]].sum())
        self.told.emit(f"{edit.what[:1].upper()}{edit.what[1:]}: {said:,} vouched for.")

    def _on_new_class(self, name: str) -> None:
        if self.session is not None:
            self.session.add_class(name)
            self._show()


def _words(many: int) -> str:
    if not many:
        return NONE_TEXT
    if many == 1:
        return "1 cell is selected:"
    more = f" ({MOST} of them shown)" if many > MOST else ""
    return f"{many:,} cells are selected{more}:"


def _apart_job(
    cells: Embedded, probe: NDArray[np.float32]
) -> Job[tuple[Embedded, NDArray[np.float32], float]]:
    apart = yield from measuring(cells.vectors, probe)
    return cells, apart, float(np.quantile(apart[:: max(len(apart) // 100_000, 1)], FARTHEST))
