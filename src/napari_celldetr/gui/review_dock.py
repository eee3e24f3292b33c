"""*Review cells*: look, correct, ask the model, count, and export what was corrected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.annotations import SAID, Status
from napari_celldetr.core.edits import AREA_WORDS
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import shared_models
from napari_celldetr.gui.files import Exporter, Importer, ask_picture_path, save_picture
from napari_celldetr.gui.overlay import text_overlay_of
from napari_celldetr.gui.panel import Dock, JobRunner
from napari_celldetr.gui.parts import (
    SlideBox,
    keep_lines,
    single_shot,
    wrapped_label,
)
from napari_celldetr.gui.review_jobs import SlideAsker
from napari_celldetr.gui.review_parts import SCREEN, SLIDE, ClassList, Readout, ToolBox
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.gui.summary import area_mm2, area_words, class_rows
from napari_celldetr.gui.tool_kinds import Proposal, Tool, key_sheet
from napari_celldetr.gui.tools import Tools

RECOUNT_MS = 60
SAVED_MS = 500
EMPTY_TEXT = (
    "No slide is open. Drag a slide file into the window, or use File › Open Sample › CellDETR, "
    "then find cells with Detect cells."
)
NO_CELLS_TEXT = (
    "No cells yet. Find them with Detect cells (Plugins › CellDETR), or press Add and click where "
    "cells are."
)
NO_CELL = 0.05
"""A lower score is as good as none."""
HEAT_LAYER = "Where the model looks"


class ReviewDock(Dock):
    """The dock widget. `models` is for tests and scripts."""

    def __init__(
        self, napari_viewer: Any, *, models: Any = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.models = models or shared_models()
        self.session: SlideSession | None = None
        self.tools: Tools | None = None
        self._asker: SlideAsker | None = None
        self._next_conflict = 0
        self._build()
        self._connect()
        self.slide_box.list_slides()

    # What it is made of -----------------------------------------------------------------

    def _build(self) -> None:
        column = self.start_column("Review cells")
        self.slide_box = SlideBox(self.viewer, "The slide whose cells are reviewed")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        self.state_label = wrapped_label("", tooltip="Whether your corrections are on disk")
        self.problem_label = wrapped_label("", tooltip="What to know about saved work")
        self.body = QWidget()
        column.addWidget(self.slide_box)
        column.addWidget(self.empty_label)
        column.addWidget(self.state_label)
        column.addWidget(self.problem_label)
        column.addWidget(self.body)
        self._build_body(QVBoxLayout(self.body))
        self.finish_column(column)

    def _build_body(self, column: QVBoxLayout) -> None:
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.no_cells_label = wrapped_label(NO_CELLS_TEXT)
        self.tool_box = ToolBox()
        self.classes = ClassList()
        self.readout = Readout()
        column.addWidget(self.no_cells_label)
        column.addWidget(self.tool_box)
        self.message = wrapped_label("", tooltip="What happened last")
        keep_lines(self.message, 2)
        column.addWidget(self.message)
        column.addWidget(self.classes)
        column.addWidget(self._build_selection())
        column.addLayout(self._build_history())
        column.addWidget(self.readout)
        column.addWidget(self._build_conflicts())
        column.addLayout(self._build_files())

    def _build_selection(self) -> QWidget:
        box = QWidget()
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        self.selection_label = wrapped_label("", tooltip="The selected cells")
        keep_lines(self.selection_label, 3)
        self.right_button = QPushButton("Right (Enter)")
        self.right_button.setToolTip("The selected cells are right as they are")
        self.delete_button = QPushButton("Delete (Del)")
        self.delete_button.setToolTip("There is no cell there")
        row = QHBoxLayout()
        self.reject_button = QPushButton("Reject (Esc)")
        self.reject_button.setToolTip("What the model sees there is no cell, or not a good one")
        row.addWidget(self.right_button)
        row.addWidget(self.delete_button)
        row.addWidget(self.reject_button)
        column.addWidget(self.selection_label)
        column.addLayout(row)
        return box

    def _build_history(self) -> QHBoxLayout:
        self.undo_button = QPushButton("Undo (Ctrl-Z)")
        self.redo_button = QPushButton("Redo")
        self.keys_button = QPushButton("Keys (F1)")
        self.keys_button.setCheckable(True)
        self.keys_button.setToolTip("Show all keys on the slide")
        row = QHBoxLayout()
        for button in (self.undo_button, self.redo_button, self.keys_button):
            row.addWidget(button)
        return row

    def _build_conflicts(self) -> QWidget:
        self.conflicts = QWidget()
        row = QHBoxLayout(self.conflicts)
        row.setContentsMargins(0, 0, 0, 0)
        self.conflict_label = wrapped_label(
            "", tooltip="Where a newer run and your corrections differ. Yours hold"
        )
        self.conflict_button = QPushButton("Next (N)")
        self.conflict_button.setToolTip("Go to the next disagreement")
        row.addWidget(self.conflict_label, 1)
        row.addWidget(self.conflict_button)
        return self.conflicts

    def _build_files(self) -> QGridLayout:
        self.table_button = QPushButton("Table…")
        self.table_button.setToolTip("All cells as a table; a row shows its cell")
        self.importer = Importer(self)
        self.import_button = self.importer.button
        tooltip = "Save cells with your corrections, or the history of these"
        self.exporter = Exporter(self, tooltip=tooltip, history=True)
        self.export_button = self.exporter.button
        self.picture_button = QPushButton("Picture…")
        self.picture_button.setToolTip("The view with scale bar and legend as a PNG")
        self.heat_button = QPushButton("Show where the model looks")
        self.heat_button.setCheckable(True)
        self.heat_button.setToolTip("How sure the model is of a nucleus at each place in view")
        grid = QGridLayout()
        buttons = (
            self.table_button,
            self.picture_button,
            self.import_button,
            self.export_button,
        )
        for i, button in enumerate(buttons):
            grid.addWidget(button, 0, i)
        grid.addWidget(self.heat_button, 1, 0, 1, len(buttons))
        return grid

    def _connect(self) -> None:
        self.runner, self.heater = JobRunner(self), JobRunner(self)
        self.runner.finished.connect(self._on_answer)
        self.runner.failed.connect(self._on_failed)
        for files in (self.exporter, self.importer):
            files.told.connect(self.tell)
            files.failed.connect(self._tell_failed)
        self.exporter.over.connect(self._on_cells)
        self.heater.finished.connect(self._on_heat)
        self.heater.failed.connect(self._on_failed)
        self._recount = single_shot(self, RECOUNT_MS, self._show_counts)
        self._watch = QTimer(self)
        self._watch.setInterval(SAVED_MS)
        self._watch.timeout.connect(self._show_saved)
        self.slide_box.chosen.connect(self._on_slide)
        self.tool_box.chosen.connect(self.use_tool)
        self.classes.chosen.connect(self._on_class)
        self.classes.added.connect(self._on_new_class)
        self.readout.changed.connect(self._recount.start)
        self.readout.removed.connect(self._on_remove_area)
        self.right_button.clicked.connect(lambda: self._with_tools("accept"))
        self.delete_button.clicked.connect(lambda: self._with_tools("delete"))
        self.reject_button.clicked.connect(lambda: self._with_tools("reject"))
        self.undo_button.clicked.connect(lambda: self._with_tools("undo"))
        self.redo_button.clicked.connect(lambda: self._with_tools("redo"))
        self.keys_button.toggled.connect(self.show_keys)
        self.conflict_button.clicked.connect(self.next_conflict)
        self.table_button.clicked.connect(self.show_table)
        self.import_button.clicked.connect(lambda: self._with_session(self.importer.ask))
        self.export_button.clicked.connect(lambda: self._with_session(self.exporter.ask))
        self.picture_button.clicked.connect(self._on_picture)
        self.heat_button.toggled.connect(self.show_heat)

    def let_go(self) -> None:
        """Stop everything this dock started; corrections are on disk, finished tiles too."""
        for runner in (self.runner, self.exporter, self.importer, self.heater):
            runner.abandon()
        self._recount.stop()
        self._watch.stop()
        self.slide_box.let_go()
        self._join(None)

    # Slides -----------------------------------------------------------------------------

    def _on_slide(self, layer: Any | None) -> None:
        self.slide_box.setVisible(self.slide_box.count() > 1)
        self._join(layer)

    def _join(self, layer: Any | None) -> None:
        now = None if layer is None else session_of(self.viewer, layer, self)
        old = self.session
        if old is not now:
            if old is not None:
                self._part(old)
            self.session = now
            if now is not None:
                self._meet(now)
        self.empty_label.setVisible(now is None)
        self.body.setVisible(now is not None)
        self._show_all()

    def _meet(self, session: SlideSession) -> None:
        for signal, call in self._signals(session):
            signal.connect(call)
        self.tools = Tools(session, tell=self.tell, ask=self.ask_at, changed=self._show_tools)
        self.tools.marked = self.readout.count_in
        self.tools.extra_keys = {
            "N": self.next_conflict,
            "H": self.hide_cells,
            "F1": self.keys_button.toggle,
        }
        self.viewer.layers.selection.events.active.connect(self._on_active)
        self._watch.start()
        self._take_hold()

    def _on_active(self, event: Any = None) -> None:
        self._show_tools()

    def _take_hold(self) -> None:
        """Mouse and keys go to the chosen tool at once, where there are cells to work on."""
        session = self.session
        if session is not None and session.overlay is not None and len(session.cells):
            self.use_tool(Tool.SELECT)

    def _part(self, session: SlideSession) -> None:
        # Their answers are about this slide, and must not reach the next one.
        for runner in (self.runner, self.importer, self.heater):
            runner.abandon()
        for signal, call in self._signals(session):
            signal.disconnect(call)
        self.viewer.layers.selection.events.active.disconnect(self._on_active)
        if self.tools is not None:
            self.tools.detach()
            self.tools = None
        self._drop_asker()
        self._watch.stop()
        self.keys_button.setChecked(False)
        session.leave(self)

    def _signals(self, session: SlideSession) -> tuple[tuple[Any, Any], ...]:
        return (
            (session.cells_changed, self._on_cells),
            (session.selection_changed, self._show_selection),
            (session.journal_changed, self._show_history),
            (session.claims_changed, self._on_claims),
            (session.view_changed, self._recount.start),
            (session.opened, self._on_opened),
        )

    # Showing ----------------------------------------------------------------------------

    def _on_opened(self) -> None:
        fresh = self.tools is not None and not self.tools.attached
        if fresh:
            self._take_hold()
        self._show_all()
        if fresh and self.session is not None and len(self.session.cells):
            self.tell(_back_words(self.session))

    def _on_claims(self) -> None:
        if self.tools is not None and not self.tools.attached:
            self._take_hold()
        self._show_conflicts()

    def _show_all(self) -> None:
        self._on_cells()
        self._show_tools()
        self._show_selection()
        self._show_history()
        self._show_conflicts()
        self._show_saved()
        self._show_counts()

    def _on_cells(self) -> None:
        session = self.session
        if session is None:
            return
        some = bool(session.cells.kept.any())
        self.no_cells_label.setVisible(not some)
        for button in (self.table_button, self.picture_button):
            button.setEnabled(some)
        said = bool(session.can_undo or session.can_redo or session.cells.annotations.areas)
        self.export_button.setEnabled((some or said) and not self.exporter.running)
        self.heat_button.setEnabled(bool(session.model))
        if self.tools is not None and self.tools.attached and not self.tools.holds:
            # A run has begun anew, with other layers.
            self.tools.attach()
        if self.tools is not None and not self.tools.class_chosen:
            self.tools.class_name = next(iter(session.cells.class_names), None)
        areas = session.cells.annotations.areas
        words = [AREA_WORDS[a.kind].capitalize() for a in areas.values()]
        names = [a.name or f"{words[i]} {i + 1}" for i, a in enumerate(areas.values())]
        self.readout.offer_areas(list(zip(areas, names, strict=True)))
        self._show_classes()
        self._recount.start()

    def _show_classes(self) -> None:
        session, tools = self.session, self.tools
        if session is None or tools is None:
            return
        rows = session.selected
        if tools.proposal is not None:
            whose, chosen = "the answer", {tools.proposal.class_name}
        elif len(rows):
            names = [*session.cells.class_names, None]
            chosen = {names[i] for i in np.unique(session.cells.class_ids[rows]).tolist()}
            whose = "the selected cell" if len(rows) == 1 else f"{len(rows):,} cells"
        else:
            whose, chosen = "the next cells", {tools.class_name}
        self.classes.show_classes(session.color_names, chosen, f"Class of {whose}:")

    def _show_tools(self) -> None:
        if self.tools is None:
            return
        active = self.viewer.layers.selection.active
        # The viewer may be a proxy, whose layers are equal to ours but not the same.
        if not self.tools.attached:
            self.tool_box.show_none("Press a tool to begin.")
        elif self.tools.layer is None:
            self.tool_box.show_none("The layer “Corrections” is gone. Press a tool to get it back.")
        elif active != self.tools.layer:
            other = "no layer" if active is None else f"the layer “{active.name}”"
            self.tool_box.show_none(f"The mouse works on {other} now. Press a tool to go on here.")
        else:
            self.tool_box.show_tool(self.tools.tool, self.tools.class_name)
        self._show_selection()

    def _show_selection(self) -> None:
        session, tools = self.session, self.tools
        if session is None or tools is None:
            return
        proposal, rows = tools.proposal, session.selected
        self._show_classes()
        self.right_button.setEnabled(proposal is not None or len(rows) > 0)
        self.delete_button.setEnabled(proposal is None and len(rows) > 0)
        self.delete_button.setVisible(proposal is None)
        self.reject_button.setVisible(proposal is not None)
        self.right_button.setText("Accept (Enter)" if proposal is not None else "Right (Enter)")
        self.selection_label.setText(
            _selection_words(session)
            if proposal is None
            else _proposal_words(proposal, session.cells.threshold)
        )

    def _show_history(self) -> None:
        session = self.session
        if session is None:
            return
        for button, what, word, key in (
            (self.undo_button, session.can_undo, "Undo", "Ctrl-Z"),
            (self.redo_button, session.can_redo, "Redo", "Ctrl-Shift-Z"),
        ):
            button.setEnabled(what is not None and not session.read_only)
            nothing = f"There is nothing to {word.lower()}"
            button.setToolTip(f"{word} ({key}): {what}" if what else f"{nothing} ({key})")
        # A selected cell may have another class, box or author now.
        self._show_selection()

    def _show_saved(self) -> None:
        session = self.session
        if session is None:
            self.state_label.setVisible(False)
            self.problem_label.setVisible(False)
            return
        self.state_label.setVisible(True)
        self.state_label.setText(_saved_words(session))
        self.problem_label.setText("\n".join(session.problems))
        self.problem_label.setVisible(bool(session.problems))

    def _show_conflicts(self) -> None:
        found = () if self.session is None else self.session.conflicts
        self.conflicts.setVisible(bool(found))
        many = "1 disagreement" if len(found) == 1 else f"{len(found):,} disagreements"
        self.conflict_label.setText(f"{many} between the latest run and your corrections")
        self._next_conflict = 0

    def _show_counts(self) -> None:
        session = self.session
        if session is None:
            return
        rows, px, note = self._counted(session, self.readout.combo().currentData())
        area = area_mm2(px, session.frame.mpp)
        counts = session.cells.counts(rows)
        looked = "analysed, glass included" if session.coverage else "drawn; no model has looked"
        where = [] if area is None else [f"On {area_words(area)} {looked}."]
        note = " ".join([*where, note]).strip()
        self.readout.show_rows(class_rows(counts, area_mm2=area), session.color_names, note)

    def _counted(self, session: SlideSession, where: str) -> tuple[Any, float, str]:
        """Rows, level-0 px² that were looked at, and what to know."""
        cells, coverage = session.cells, session.coverage
        if where == SLIDE:
            px = coverage.area_px() if coverage is not None else 0.0
            whole = Region(0, 0, *session.size)
            missing = coverage is not None and coverage.missing(whole) > 0
            note = "Part of the slide was not analysed. " if missing else ""
            return np.flatnonzero(cells.kept), px, note + _corrected_words(session)
        area = cells.annotations.areas.get(where)
        if where != SCREEN and area is not None:
            missed = 0.0 if coverage is None else coverage.missing_in(area)
            note = "Part of this area was not analysed." if missed else ""
            return cells.rows_within(area), area.area_px * (1 - missed), note
        view = session.view()
        if view is None:
            return np.zeros(0, np.int64), 0.0, "Nothing of the slide is in view."
        px = coverage.area_px(view) if coverage is not None else 0.0
        missing = coverage is not None and coverage.missing(view) > 0.01
        note = "Part of the view was not analysed." if missing else ""
        return cells.rows_in(view), px, note

    def tell(self, text: str) -> None:
        """Say what happened, in the dock and in the viewer's status line."""
        self.message.setText(text)
        self.viewer.status = text

    # Tools ------------------------------------------------------------------------------

    def use_tool(self, tool: Any) -> None:
        """Choose a tool and give it the mouse and the keys."""
        if self.session is None or self.tools is None:
            return
        if self.session.overlay is None or self.session.overlay.layer("marks") is None:
            self.session.show_layers()
            self.session.refresh()
        self.tools.attach()
        self.tools.choose(tool)

    def _on_remove_area(self, area_id: str) -> None:
        if self.tools is not None:
            self.tools.remove_area(area_id)

    def _with_tools(self, what: str) -> None:
        if self.tools is not None:
            getattr(self.tools, what)()

    def _on_class(self, name: str | None) -> None:
        if self.tools is not None:
            self.tools.use_class(name)

    def _on_new_class(self, name: str) -> None:
        if self.session is None or self.tools is None:
            return
        self.session.add_class(name)
        self.tools.use_class(name)

    def show_keys(self, shown: bool) -> None:
        """All keys on the slide, or none."""
        overlay = text_overlay_of(self.viewer)
        overlay.visible = shown
        if shown:
            overlay.text = key_sheet()
            overlay.font_size = 10
            overlay.position = "top_left"
            overlay.box = True

    def hide_cells(self) -> None:
        """Hide the cells to see the tissue, or show them again."""
        if self.session is not None and self.session.overlay is not None:
            hidden = not self.session.overlay.hidden
            self.session.overlay.hide(hidden)
            self.tell("The cells are hidden; H shows them again." if hidden else "")

    def next_conflict(self) -> None:
        """Go to the next place where a newer run and a correction differ."""
        session = self.session
        if session is None or not session.conflicts:
            self.tell("There are no disagreements.")
            return
        conflict = session.conflicts[self._next_conflict % len(session.conflicts)]
        self._next_conflict += 1
        session.show_box(conflict.box)
        row = session.cells.rows_of([conflict.key])
        session.select(row[row >= 0])
        self.tell(f"{self._next_conflict} of {len(session.conflicts)}: {conflict.text}")

    # The model --------------------------------------------------------------------------

    def _ask_model(self) -> SlideAsker | None:
        session = self.session
        if session is None:
            return None
        if not session.model:
            self.tell("Find cells with Detect cells first: the same model is asked.")
            return None
        wanted = (session.model, session.frame.mpp)
        if self._asker is None or (self._asker.model, self._asker.mpp) != wanted:
            self._drop_asker()
            source = source_of_layer(session.layer, mpp=session.frame.mpp)
            self._asker = SlideAsker(source, self.models, session.model, session.frame.mpp)
        return self._asker

    def _drop_asker(self) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            # It may be loading its model just now, for which the window must not wait.
            threading.Thread(target=asker.close, name="celldetr-job", daemon=True).start()

    def ask_at(self, xy: tuple[float, float]) -> None:
        """Ask the model what it sees at a point (x, y) in level-0 px."""
        asker = self._ask_model()
        if asker is not None:
            self.tell("Asking the model…")
            self.runner.start(lambda: asker.ask(xy))

    def _on_answer(self, proposal: Proposal) -> None:
        if self.tools is not None:
            self.tools.answer(proposal)

    def show_heat(self, shown: bool) -> None:
        """How sure the model is of a nucleus at each place in view, as a layer."""
        old = [x for x in self.viewer.layers if x.name == HEAT_LAYER]
        for layer in old:
            self.viewer.layers.remove(layer)
        if old and not shown:
            self.tell("")
        asker = self._ask_model() if shown else None
        session = self.session
        view = None if session is None else session.view()
        if asker is None or view is None:
            self.heat_button.setChecked(False)
            return
        self.tell("Asking the model…")
        self._heat_region = view
        self.heater.start(lambda: asker.heatmap(view))

    def _on_heat(self, found: tuple[Any, float]) -> None:
        heat, side = found
        session = self.session
        if session is None or not self.heat_button.isChecked():
            return
        placed = session.frame.raster_options(side)
        corner = np.array([[self._heat_region.x, self._heat_region.y]], np.float64)
        shift = session.frame.to_world(corner)[0] - session.frame.to_world(np.zeros((1, 2)))[0]
        translate = tuple(np.asarray(placed["translate"]) + shift)
        layer = Image(
            heat,
            name=HEAT_LAYER,
            colormap="magma",
            contrast_limits=(0, 1),
            opacity=0.6,
            **{**placed, "translate": translate},
        )
        self.viewer.add_layer(layer)
        if self.tools is not None and self.tools.layer is not None:
            self.viewer.layers.selection.active = self.tools.layer
        self.tell("Bright: the model expects a nucleus there. Only what was in view.")

    # Files ------------------------------------------------------------------------------

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._tell_failed(error)

    def _tell_failed(self, error: CellDETRError) -> None:
        self.tell(error.message)

    def export_to(self, path: str | Path) -> None:
        """Write cells and corrections, and say what reading the file back showed."""
        if self.session is not None:
            self.exporter.write(self.session, path)

    def import_from(self, path: str | Path) -> None:
        """Take annotations from a GeoJSON file; one undo takes them all back."""
        if self.session is not None:
            self.importer.read(self.session, path)

    def save_picture(self, path: str | Path) -> None:
        """The view as it is on the screen, with scale bar, legend and counts, as a PNG."""
        if self.session is None:
            return
        try:
            target = save_picture(self.viewer, self.session, path)
        except CellDETRError as error:
            self._on_failed(error)
            return
        self.tell(f"{target.name} written.")

    def _with_session(self, call: Callable[[SlideSession], Any]) -> None:
        if self.session is not None:
            call(self.session)

    def _on_picture(self) -> None:
        path = ask_picture_path(self, self.session.layer.name if self.session else "")
        if path:
            self.save_picture(path)

    def show_table(self) -> None:
        """All cells as a table in a dock of its own."""
        from napari_celldetr.gui.table_dock import TableDock

        if self.session is None:
            return
        for name, dock in dict(self.viewer.window.dock_widgets).items():
            if isinstance(dock, TableDock):
                self.viewer.window.dock_widgets[name].raise_()
                return
        dock = TableDock(self.viewer, layer=self.session.layer)
        self.viewer.window.add_dock_widget(dock, name="Cell table", area="bottom")


def _proposal_words(proposal: Proposal, threshold: float) -> str:
    name, score = proposal.class_name or "unknown type", proposal.score
    if score < NO_CELL:
        return f"The model sees no cell here (score {score:.2f}). Its best guess would be {name}."
    said = f"The model sees a cell here: {name}, score {score:.2f}."
    if score < threshold:
        below = f"{score:.2f} is below the {threshold:.2f} that you show"
        said = f"The model is unsure: {name}, score {score:.2f}; {below}."
    return f"{said} Press a class's number to change it before accepting."


def _selection_words(session: SlideSession) -> str:
    rows = session.selected
    if not len(rows):
        return "Nothing is selected."
    if len(rows) > 1:
        counts = [f"{n:,} {name}" for name, n in session.cells.counts(rows).items() if n]
        return f"{len(rows):,} cells selected: {', '.join(counts)}."
    row = int(rows[0])
    names = [*session.cells.class_names, "unknown"]
    words = [names[int(session.cells.class_ids[row])]]
    status = Status(int(session.cells.status[row]))
    if SAID[status]:
        (key,) = session.cells.keys_of(rows).tolist()
        said = session.cells.annotations.cells.get((key[0], key[1]))
        words.append(f"{STATUS_TEXT[status]} by {said.author}" if said else STATUS_TEXT[status])
        if said is not None and said.claim is not None and said.claim[1] != said.class_id:
            words.append(f"the model said {names[said.claim[1]]}")
    else:
        words.append(f"the model's claim, score {session.cells.scores[row]:.2f}")
    mpp = session.frame.mpp
    if mpp is not None:
        x0, y0, x1, y1 = session.cells.boxes[row].tolist()
        words.append(f"{(x1 - x0) * mpp[0]:.1f} × {(y1 - y0) * mpp[1]:.1f} µm")
    return "; ".join(words) + "."


STATUS_TEXT: Mapping[Status, str] = {
    Status.CONFIRMED: "confirmed",
    Status.RECLASSED: "class changed",
    Status.MOVED: "moved",
    Status.ADDED: "added",
}


def _corrected_words(session: SlideSession) -> str:
    cells = session.cells
    said = int(SAID[cells.status[cells.kept]].sum())
    gone = int((cells.status == Status.DELETED).sum())
    if not said and not gone:
        return "No corrections yet."
    return f"People added, changed or confirmed {said:,} of these, and deleted {gone:,}."


def _back_words(session: SlideSession) -> str:
    cells = session.cells
    kept = int(cells.kept.sum())
    said = len(cells.annotations.cells)
    corrected = f", {said:,} of them touched by people," if said else ""
    return f"{kept:,} cells of earlier work{corrected} are back, and the view."


def _saved_words(session: SlideSession) -> str:
    if session.state == "opening":
        return "Looking for earlier work on this slide…"
    if session.read_only:
        return f"Read only. {session.read_only}"
    saved = session.saved
    if saved is None:
        return "Corrections are kept until the slide is closed: export them."
    return str(saved.words)
