"""*HER2*: measure membranes, read coverage where one looks, see how the score comes about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QWidget

from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.core.her2 import Assessment
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import shared_models
from napari_celldetr.gui.her2_body import (
    SCREEN,
    TUMOUR,
    TUMOUR_AREAS,
    WHOLE,
    Her2Body,
)
from napari_celldetr.gui.her2_job import Measured
from napari_celldetr.gui.her2_layers import Her2Layers, Show
from napari_celldetr.gui.her2_pointer import CellPointer
from napari_celldetr.gui.her2_runs import Her2Runs
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.her2_where import TumourChooser, bounds_of
from napari_celldetr.gui.her2_words import (
    NO_CELL,
    cell_words,
    excluded_words,
    scope_words,
    source_words,
    unmeasured_words,
)
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import camera_of, view_of
from napari_celldetr.gui.panel import Dock
from napari_celldetr.gui.parts import SlideBox, single_shot, wrapped_label
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.settings import CELLS_UP_TO_MPP
from napari_celldetr.pipeline.her2.tumour import Tumour

JUDGE_MS, SETTLE_MS = 50, 400
MIN_MPP = 0.1
MOST_ZONES = 50
EMPTY_TEXT = (
    "No slide is open. Drag a HER2 IHC slide into the window, or use File › Open Sample › CellDETR."
)
BEGIN_TEXT = (
    "Measure HER2 finds the nuclei, outlines the cells and reads their membranes. "
    "Then say where the invasive tumour is."
)


class Her2Dock(Dock):
    """The dock widget. `models` and `workspace` are for tests and scripts."""

    def __init__(
        self,
        napari_viewer: Any,
        *,
        models: Any = None,
        workspace: Path | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.session: SlideSession | None = None
        self.state: Her2State | None = None
        self.layers: Her2Layers | None = None
        self._kept: dict[int, tuple[SlideSession, Her2Layers, Her2State]] = {}
        self._ended = ""
        self._unmeasured = 0
        self._build()
        body = self.body
        self.runs = Her2Runs(
            body.run_bar, models=models or shared_models(), workspace=workspace, parent=self
        )
        self.where = TumourChooser(self.viewer, body.tumour_box, body.draw_button, self)
        self.pointer = CellPointer(self.viewer, self)
        self._connect()
        self.slide_box.list_slides()

    def _build(self) -> None:
        column = self.start_column("HER2", width=365)
        self.slide_box = SlideBox(self.viewer, "The HER2 IHC slide that is measured")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        self.body = Her2Body()
        for widget in (self.slide_box, self.empty_label, self.body):
            column.addWidget(widget)
        self.finish_column(column)

    def _connect(self) -> None:
        body = self.body
        self._rejudge = single_shot(self, JUDGE_MS, self._judge)
        self._settle = single_shot(self, SETTLE_MS, self._show_score)
        self._renew = single_shot(self, SETTLE_MS, self._on_cells)
        self.slide_box.chosen.connect(self._on_slide)
        self.runs.measured.connect(self._on_measured)
        self.runs.ended.connect(self._on_ended)
        self.where.changed.connect(self._use_tumour)
        self.pointer.pointed.connect(self._show_cell)
        body.run_bar.run_clicked.connect(self.run)
        body.run_bar.cancel_clicked.connect(self.runs.stop)
        body.mpp_spin.valueChanged.connect(self._check_ready)
        body.where.currentIndexChanged.connect(self._check_ready)
        body.scope.currentIndexChanged.connect(self._show_scope)
        body.show_box.currentIndexChanged.connect(self._on_show)
        body.nuclei_tick.toggled.connect(self._show_nuclei)
        body.tree.chosen.connect(self.light)
        body.cutoffs.changed.connect(self._rejudge.start)
        body.control.calibrated.connect(self.calibrate)
        body.report_button.clicked.connect(self._on_report)
        body.reporter.told.connect(self._on_ended)
        body.network.button.clicked.connect(self.ask_network)
        self.viewer.layers.events.removed.connect(self._on_removed)

    def let_go(self) -> None:
        """Stop everything this dock started; cells and finished tiles are kept."""
        self._abandon()
        for timer in (self._rejudge, self._settle, self._renew):
            timer.stop()
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.pointer.let_go()
        self.where.let_go()
        self.slide_box.let_go()
        self._join(None)

    def _abandon(self) -> None:
        for running in (self.runs, self.body.reporter, self.body.network.runs):
            running.abandon()

    # Slides -----------------------------------------------------------------------------

    def _on_slide(self, layer: Any | None) -> None:
        self.slide_box.setVisible(self.slide_box.count() > 1)
        self._join(layer)
        self.empty_label.setVisible(layer is None)
        self.body.setVisible(layer is not None)
        self.body.show_slide(missing_mpp=layer is not None and Frame.of_layer(layer).mpp is None)
        self._ended = ""
        self._check_ready()

    def _join(self, layer: Any | None) -> None:
        now = None if layer is None else session_of(self.viewer, layer, self)
        old = self.session
        if old is now:
            return
        if old is not None:
            self._abandon()
            for signal, call in self._signals(old):
                signal.disconnect(call)
            old.leave(self)
        self.session = self.where.session = now
        kept = self._kept.get(id(now))
        self.layers, self.state = (None, None) if kept is None else kept[1:]
        if now is not None:
            for signal, call in self._signals(now):
                signal.connect(call)
        self._show_all()

    def _signals(self, session: SlideSession) -> tuple[tuple[Any, Any], ...]:
        return (
            (session.cells_changed, self._renew.start),
            (session.claims_changed, self._renew.start),
            (session.selection_changed, self._on_selected),
            (session.view_changed, self._on_view),
            (session.opened, self._check_ready),
        )

    def _on_removed(self, event: Any) -> None:
        for key, (session, layers, _) in list(self._kept.items()):
            if session.layer == event.value:
                del self._kept[key]
                layers.remove()

    # Measuring --------------------------------------------------------------------------

    def _check_ready(self, _value: Any = None) -> None:
        if not self.runs.running:
            missing = self._missing()
            said = " ".join(text for text in (self._ended, missing) if text)
            begin = "" if self.state is not None else BEGIN_TEXT
            self.body.run_bar.show_idle(said or begin, can_run=not missing)

    def _missing(self) -> str:
        session = self.session
        if session is None:
            return "Open a slide to start."
        if session.state == "opening":
            return "Opening what is known of this slide…"
        drawn = self.body.where.currentData() == TUMOUR_AREAS
        return "Draw the tumour first." if drawn and not self.where.tumour().zones else ""

    def run(self) -> None:
        """Find nuclei where there are none yet, then measure; errors are told."""
        if self.runs.running or self._missing() or self.session is None:
            return
        self._ended = ""
        try:
            self._begin(self.session)
        except CellDETRError as error:
            show_error(str(error))
            self._on_ended(error.message)

    def _begin(self, session: SlideSession) -> None:
        if session.frame.mpp is None and self.body.mpp_spin.value() >= MIN_MPP:
            session.use_mpp(self.body.mpp_spin.value())
        if session.frame.mpp is None or max(session.frame.mpp) > CELLS_UP_TO_MPP:
            self.runs.cover(session, self.where.tumour(), self.body.cutoffs.cutoffs)
        else:
            self.runs.start(session, self._region(session))

    def _region(self, session: SlideSession) -> Region:
        whole = Region(0, 0, *session.size)
        where = self.body.where.currentData()
        if where == WHOLE:
            return whole
        drawn = where == TUMOUR_AREAS
        asked = bounds_of(self.where.tumour()) if drawn else session.view()
        found = None if asked is None else asked.intersect(whole)
        if found is None:
            raise ConfigError(
                "Nothing of the slide is there.",
                expected="a part of the slide",
                found="none",
                remedy="move the slide into view, or draw the tumour on it",
            )
        return found

    def calibrate(self, key: str, expected_od: float) -> None:
        """Measure again, with the stain as strong as it should be in the control `key`."""
        region = bounds_of(self.where.meant(key))
        if self.session is not None and region is not None and not self.runs.running:
            self._ended = ""
            self.runs.measure(self.session, control=Control(region, expected_od))

    def _on_ended(self, text: str) -> None:
        self._ended = text
        self._check_ready()

    def _on_measured(self, found: Measured) -> None:
        if found.state is not None:
            self.take(found.state)
        elif found.coverage is not None and found.refused is not None:
            body = self.body
            body.results.setVisible(True)
            body.show_cells(False)
            body.score_box.show_refusal(found.refused)
            body.bars.show_area(found.coverage.percent)
            pixels = f"Of {found.coverage.pixels:,} pixels of stained tissue, by DAB alone."
            body.scope_label.setText(pixels)

    # Results ----------------------------------------------------------------------------

    def take(self, state: Her2State) -> None:
        """Show these measurements, with the cut-offs and the tumour that are chosen."""
        session = self.session
        if session is None:
            return
        first, self.state = self.state is None, state
        state.use_cutoffs(self.body.cutoffs.cutoffs)
        state.use_tumour(self.where.tumour())
        if self.layers is None:
            name = Path(session.layer.name).stem
            self.layers = Her2Layers(self.viewer, session.frame, session.size, name=name)
        self.layers.frame = session.frame
        self.layers.take(state)
        self._kept[id(session)] = (session, self.layers, state)
        self._unmeasured = 0
        if first:
            self._show_nuclei(self.body.nuclei_tick.isChecked())
        self._show_all()

    def _show_all(self) -> None:
        state, body = self.state, self.body
        body.results.setVisible(state is not None)
        self.where.offer()
        body.control.offer(self.where.layers())
        body.reporter.offer(state)
        self.pointer.follow(state, Frame() if self.session is None else self.session.frame)
        if state is None:
            return
        body.show_cells(True)
        body.cutoffs.blockSignals(True)
        body.cutoffs.use(state.cutoffs)
        body.cutoffs.blockSignals(False)
        body.control.show_notes(state.stain.notes)
        self._redraw()
        self._show_score()
        self._show_scope()

    def _redraw(self) -> None:
        if self.layers is not None and self.session is not None:
            self.layers.recolor()
            self.layers.refresh(view_of(self.viewer, self.session.frame))

    def _judge(self) -> None:
        """Other cut-offs: figures and colours follow at once, slow intervals once they rest."""
        if self.state is not None:
            self.state.use_cutoffs(self.body.cutoffs.cutoffs)
            self._refigure()

    def _refigure(self) -> None:
        self._show_score(draws=0)
        self._show_scope()
        self._redraw()
        self._show_cell(self.pointer.pinned)
        self._settle.start()

    def _show_score(self, *, draws: int | None = None) -> None:
        state, body = self.state, self.body
        if state is None:
            return
        found = state.of_slide() if draws is None else state.of_slide(draws=draws)
        body.score_box.show_score(found, state.refusal)
        body.reporter.offer(state)
        body.tree.show_tree(found.score.tree, found.score.branch, lit=state.branch)
        if draws is None and body.scope.currentData() == TUMOUR:
            self._show_scope()

    def _show_scope(self, _index: int = 0) -> None:
        if self.state is None:
            return
        where = self.body.scope.currentData()
        found, note = self._counted(self.state, where)
        self.body.bars.show_shares(found)
        words = scope_words(found, score=where != TUMOUR)
        doubts = [note, unmeasured_words(self._unmeasured), source_words(self.state.tumour)]
        said = [words, excluded_words(found), *doubts]
        self.body.scope_label.setText("\n".join(text for text in said if text))

    def _counted(self, state: Her2State, where: str) -> tuple[Assessment, str]:
        """Figures of what is chosen, and what to know of them."""
        if where == TUMOUR:
            return state.of_slide(draws=0 if self._settle.isActive() else 1000), ""
        if where != SCREEN:
            return state.of_zone(state.tumour.zones[int(where)]), ""
        view = None if self.session is None else self.session.view()
        if view is None:
            return state.of_rows(np.zeros(0, np.int64)), "Nothing of the slide is in view."
        return state.of_view(view), ""

    def _on_cells(self) -> None:
        """Cells were corrected, or found: those that are gone leave the count at once."""
        session, state = self.session, self.state
        self.where.offer()
        self._check_ready()
        if session is not None and state is not None and not self.runs.running:
            self._unmeasured = state.keep(session.cells.boxes[session.cells.kept])
            self._refigure()

    def _on_view(self) -> None:
        """The view has come to rest."""
        if self.state is None or self.session is None:
            return
        if self.body.scope.currentData() == SCREEN:
            self._show_scope()
        if self.layers is not None:
            self.layers.refresh(view_of(self.viewer, self.session.frame))

    def _use_tumour(self) -> None:
        tumour = self.where.tumour()
        self.body.offer_scopes(_scopes(tumour))
        self.body.control.offer(self.where.layers())
        self._check_ready()
        if self.state is not None:
            self.state.use_tumour(tumour)
            self._refigure()

    # Branches and cells -----------------------------------------------------------------

    def light(self, branch: str) -> None:
        """Light up the cells of a branch; bring them into view if none is."""
        state, session = self.state, self.session
        if state is None or session is None:
            return
        state.light(branch)
        self._redraw()
        self._show_score()
        rows = state.rows_of_branch(branch) if branch else np.zeros(0, np.int64)
        view = session.view()
        if len(rows) and (view is None or not np.isin(rows, state.rows_in(view)).any()):
            self._go_to(rows, state, session)

    def _go_to(self, rows: Any, state: Her2State, session: SlideSession) -> None:
        """Show all of these cells, no nearer than now."""
        world = session.frame.to_world(state.centres[rows].astype(np.float64))
        low, high = world.min(axis=0), world.max(axis=0)
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *((low + high) / 2))
        view = view_of(self.viewer, session.frame)
        if view is not None:
            shown = np.array([view.region.height, view.region.width]) * session.frame.scale
            camera.zoom *= min(1.0, float(np.min(shown / np.maximum(1.1 * (high - low), 1e-6))))

    def _on_selected(self) -> None:
        """A cell chosen in another dock."""
        session, state = self.session, self.state
        if session is not None and state is not None and len(session.selected) == 1:
            box = session.cells.boxes[session.selected[0]]
            self.pointer.pin(state.row_of_box(box))

    def _show_cell(self, row: int | None) -> None:
        if self.state is not None:
            words = NO_CELL if row is None else cell_words(self.state.facts(row))
            self.body.cell_label.setText(words)

    def _on_show(self, _index: int = 0) -> None:
        if self.layers is not None:
            self.layers.choose(Show(self.body.show_box.currentData()))

    def _show_nuclei(self, shown: bool) -> None:
        overlay = None if self.session is None else self.session.overlay
        if overlay is not None:
            overlay.hide(not shown)

    def ask_network(self) -> None:
        """Ask the pixel network about the cells that count, or stop asking."""
        if self.session is not None and self.state is not None:
            self.body.network.press(self.session, self.state)

    # Report -----------------------------------------------------------------------------

    def _on_report(self) -> None:
        if self.session is not None and self.state is not None:
            self.body.reporter.ask(self.session, self.state)

    def write_report(self, path: str | Path) -> None:
        """Write what is shown as ``.html`` or ``.json``."""
        if self.session is not None and self.state is not None:
            self.body.reporter.write(self.session, self.state, path)


def _scopes(tumour: Tumour) -> list[tuple[str, str]]:
    """What figures can be asked for; each of several areas can be counted by itself."""
    whole = "All of the tumour" if tumour.confirmed else "All that is measured"
    zones = tumour.zones[:MOST_ZONES] if len(tumour.zones) > 1 else ()
    parts = [(str(i), f"Area {i + 1} · {zone.name}") for i, zone in enumerate(zones)]
    return [(SCREEN, "What is on the screen"), (TUMOUR, whole), *parts]
