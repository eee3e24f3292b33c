"""*HER2*: measure membranes, read coverage where one looks, see how the score comes about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from napari.utils.notifications import show_error
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.core.her2 import GUIDELINE, Assessment, Cutoffs
from napari_celldetr.core.progress import Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import (
    DetectRequest,
    DetectResult,
    shared_models,
)
from napari_celldetr.gui.her2_control import ControlBox
from napari_celldetr.gui.her2_job import (
    Measured,
    MeasureRequest,
    MeasureStep,
    coverage_job,
    find_job,
    measure_job,
)
from napari_celldetr.gui.her2_layers import Her2Layers, Show
from napari_celldetr.gui.her2_nuclei import search_for
from napari_celldetr.gui.her2_parts import CutoffBox, ScoreBox, ShareBars, TreeBox
from napari_celldetr.gui.her2_report import Reporter
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.her2_tumour import (
    ALL_KEY,
    LAYER_KEY,
    NOTHING_KEY,
    choices,
    is_shapes,
    tumour_of,
)
from napari_celldetr.gui.her2_words import cell_words, excluded_words, scope_words
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import camera_of, view_of
from napari_celldetr.gui.panel import Dock, JobRunner, RunBar
from napari_celldetr.gui.parts import (
    Fold,
    SlideBox,
    keep_lines,
    narrow_form,
    short_combo,
    single_shot,
    wrapped_label,
)
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.her2.coverage import StainCoverage
from napari_celldetr.pipeline.her2.settings import CELLS_UP_TO_MPP
from napari_celldetr.pipeline.her2.tumour import Refusal, Tumour

VIEWPORT, TUMOUR_AREAS, WHOLE = "viewport", "tumour", "whole"
SCREEN, TUMOUR = "screen", "tumour"
TUMOUR_LAYER = "Tumour"
MOST_ZONES = 50
JUDGE_MS, SETTLE_MS, HOVER_MS = 50, 400, 60
MIN_MPP, MAX_MPP = 0.1, 2.0
EMPTY_TEXT = (
    "No slide is open. Drag a HER2 IHC slide into the window, or use File › Open Sample › CellDETR."
)
BEGIN_TEXT = (
    "Measure HER2 finds the nuclei, outlines the cells and reads their membranes. "
    "Then say where the invasive tumour is."
)
CONFIRM_TEXT = (
    "Is all that is measured on this slide invasive tumour? Carcinoma in situ, normal glands and "
    "other cells would be counted as tumour."
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
        self.models = models or shared_models()
        self.workspace = workspace
        self.session: SlideSession | None = None
        self.state: Her2State | None = None
        self.layers: Her2Layers | None = None
        self.ask: Callable[[str], bool] = self._ask_person
        self._kept: dict[int, tuple[SlideSession, Her2Layers, Her2State]] = {}
        self._working: SlideSession | None = None
        self._within: Region | None = None
        self._ended = ""
        self._pinned: int | None = None
        self._mouse_at: Any = None
        self._build()
        self._connect()
        self.slide_box.list_slides()

    # What it is made of -----------------------------------------------------------------

    def _build(self) -> None:
        self.setMinimumWidth(350)
        self.setWindowTitle("HER2")
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(6)
        self.slide_box = SlideBox(self.viewer, "The HER2 IHC slide that is measured")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        self.body = QWidget()
        column.addWidget(self.slide_box)
        column.addWidget(self.empty_label)
        column.addWidget(self.body)
        column.addStretch(1)
        column.addWidget(wrapped_label(f"Breast only: {GUIDELINE.split(';')[0]}. {RESEARCH_USE}"))
        body = QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        body.setSpacing(6)
        body.addWidget(self._build_run())
        body.addWidget(self._build_results())
        self.fill(inner)

    def _build_run(self) -> QWidget:
        box = QWidget()
        form = narrow_form(box)
        self.mpp_spin = QDoubleSpinBox()
        self.mpp_spin.setDecimals(4)
        self.mpp_spin.setSingleStep(0.01)
        self.mpp_spin.setRange(0.0, MAX_MPP)
        self.mpp_spin.setSpecialValueText("please enter")
        self.mpp_spin.setSuffix(" µm/px")
        self.mpp_spin.setToolTip("How wide one pixel is. 0.25 is usual for a 40× scan")
        self.mpp_label = QLabel("Pixel size")
        self.where = short_combo("Which part of the slide is measured; cells found are used again")
        for key, words in (
            (VIEWPORT, "What is on the screen"),
            (TUMOUR_AREAS, "The drawn tumour"),
            (WHOLE, "Whole slide"),
        ):
            self.where.addItem(words, key)
        form.addRow(self.mpp_label, self.mpp_spin)
        form.addRow("Measure", self.where)
        self.run_bar = RunBar("Measure HER2")
        form.addRow(self.run_bar)
        return box

    def _build_results(self) -> QWidget:
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.score_box = ScoreBox()
        column.addWidget(self.score_box)
        column.addLayout(self._build_tumour())
        column.addLayout(self._build_scope())
        self.bars = ShareBars()
        column.addWidget(self.bars)
        self.scope_label = wrapped_label("", tooltip="What is counted here, and what is left out")
        column.addWidget(self.scope_label)
        self.cell_label = wrapped_label("", tooltip="The cell under the mouse, or the clicked one")
        keep_lines(self.cell_label, 3)
        column.addWidget(self.cell_label)
        self.show_row = self._build_show()
        column.addWidget(self.show_row)
        self.tree = TreeBox()
        self.tree_fold = Fold("How the score comes about", self.tree)
        column.addWidget(self.tree_fold)
        self.cutoffs = CutoffBox()
        self.cutoff_fold = Fold("Cut-offs", self.cutoffs)
        column.addWidget(self.cutoff_fold)
        self.control = ControlBox()
        self.control_fold = Fold("Stain and control", self.control)
        column.addWidget(self.control_fold)
        self.reporter = Reporter(self)
        self.report_button = self.reporter.button
        column.addWidget(self.report_button)
        self._of_cells = (
            self.cell_label,
            self.show_row,
            self.tree_fold,
            self.cutoff_fold,
            self.control_fold,
            self.report_button,
        )
        self.results.setVisible(False)
        return self.results

    def _build_tumour(self) -> QHBoxLayout:
        self.tumour_box = short_combo(
            "Where the invasive tumour is: the score counts these cells alone"
        )
        self.draw_button = QPushButton("Draw…")
        self.draw_button.setToolTip("Then click round the tumour; double click or Esc ends it")
        row = QHBoxLayout()
        row.addWidget(QLabel("Tumour"))
        row.addWidget(self.tumour_box, 1)
        row.addWidget(self.draw_button)
        return row

    def _build_scope(self) -> QHBoxLayout:
        self.scope = short_combo("What the figures below are of")
        self.scope.addItem("What is on the screen", SCREEN)
        self.scope.addItem("All of the tumour", TUMOUR)
        row = QHBoxLayout()
        row.addWidget(QLabel("Count in"))
        row.addWidget(self.scope, 1)
        return row

    def _build_show(self) -> QWidget:
        self.show_box = short_combo("How measured cells are drawn on the slide")
        for show, words in (
            (Show.AUTO, "Outlines near, map far out"),
            (Show.OUTLINES, "Outlines"),
            (Show.MAP, "Map"),
            (Show.NOTHING, "Nothing"),
        ):
            self.show_box.addItem(words, show)
        self.nuclei_tick = QCheckBox("Nuclei")
        self.nuclei_tick.setToolTip("Show the nuclei that were found, too")
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Show"))
        row.addWidget(self.show_box, 1)
        row.addWidget(self.nuclei_tick)
        return box

    def _connect(self) -> None:
        self.detector, self.runner = JobRunner(self), JobRunner(self)
        self.detector.progressed.connect(self._on_detecting)
        self.detector.finished.connect(self._on_detected)
        self.runner.progressed.connect(self._on_measuring)
        self.runner.finished.connect(self._on_measured)
        for runner in (self.detector, self.runner):
            runner.failed.connect(self._on_failed)
            runner.stopped.connect(self._on_stopped)
        self._rejudge = single_shot(self, JUDGE_MS, self._judge)
        self._settle = single_shot(self, SETTLE_MS, self._show_score)
        self._renew = single_shot(self, SETTLE_MS, self._on_cells)
        self._areas = single_shot(self, JUDGE_MS, self._use_tumour)
        self._hover = single_shot(self, HOVER_MS, self._show_hovered)
        self.run_bar.run_clicked.connect(self.run)
        self.run_bar.cancel_clicked.connect(self.cancel)
        self.slide_box.chosen.connect(self._on_slide)
        self.mpp_spin.valueChanged.connect(self._check_ready)
        self.where.currentIndexChanged.connect(self._check_ready)
        self.tumour_box.activated.connect(self._on_tumour)
        self.draw_button.clicked.connect(self.draw_tumour)
        self.scope.currentIndexChanged.connect(self._show_scope)
        self.show_box.currentIndexChanged.connect(self._on_show)
        self.nuclei_tick.toggled.connect(self._show_nuclei)
        self.tree.chosen.connect(self.light)
        self.cutoffs.changed.connect(self._rejudge.start)
        self.control.calibrated.connect(self.calibrate)
        self.report_button.clicked.connect(self._on_report)
        self.reporter.told.connect(self._tell)
        layers = self.viewer.layers.events
        layers.inserted.connect(self._on_layers)
        layers.removed.connect(self._on_removed)
        for layer in [la for la in self.viewer.layers if is_shapes(la)]:
            layer.events.data.connect(self._on_shapes)
        self.viewer.mouse_move_callbacks.append(self._on_mouse)
        self.viewer.mouse_drag_callbacks.append(self._on_press)

    def let_go(self) -> None:
        """Stop everything this dock started; cells and finished tiles are kept."""
        for runner in (self.detector, self.runner, self.reporter):
            runner.abandon()
        for timer in (self._rejudge, self._settle, self._renew, self._areas, self._hover):
            timer.stop()
        layers = self.viewer.layers.events
        layers.inserted.disconnect(self._on_layers)
        layers.removed.disconnect(self._on_removed)
        self.viewer.mouse_move_callbacks.remove(self._on_mouse)
        self.viewer.mouse_drag_callbacks.remove(self._on_press)
        for layer in [la for la in self.viewer.layers if is_shapes(la)]:
            layer.events.data.disconnect(self._on_shapes)
        self.slide_box.let_go()
        self._join(None)

    # Slides -----------------------------------------------------------------------------

    def _on_slide(self, layer: Any | None) -> None:
        self.slide_box.setVisible(self.slide_box.count() > 1)
        self._join(layer)
        self.empty_label.setVisible(layer is None)
        self.body.setVisible(layer is not None)
        missing = layer is not None and Frame.of_layer(layer).mpp is None
        for widget in (self.mpp_label, self.mpp_spin):
            widget.setVisible(missing)
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
        self.session = now
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

    def _abandon(self) -> None:
        for runner in (self.detector, self.runner, self.reporter):
            runner.abandon()
        self._working = None

    def _on_removed(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.disconnect(self._on_shapes)
        for key, (session, layers, _) in list(self._kept.items()):
            if session.layer == event.value:
                del self._kept[key]
                layers.remove()
        self._offer_tumour()

    def _on_layers(self, event: Any) -> None:
        if is_shapes(event.value):
            event.value.events.data.connect(self._on_shapes)
        self._offer_tumour()

    def _on_shapes(self, event: Any = None) -> None:
        """Something is drawn, or being drawn."""
        self._areas.start()

    # Running ----------------------------------------------------------------------------

    def _busy(self) -> bool:
        return self.detector.running or self.runner.running

    def _check_ready(self, _value: Any = None) -> None:
        if not self._busy():
            missing = self._missing()
            text = " ".join(t for t in (self._ended, missing) if t)
            begin = "" if self.state is not None else BEGIN_TEXT
            self.run_bar.show_idle(text or begin, can_run=not missing)

    def _missing(self) -> str:
        session = self.session
        if session is None:
            return "Open a slide to start."
        if session.state == "opening":
            return "Opening what is known of this slide…"
        drawn = self.where.currentData() == TUMOUR_AREAS
        if drawn and self._tumour_region() is None:
            return "Draw the tumour first."
        return ""

    def run(self) -> None:
        """Find nuclei where there are none yet, then measure; errors are told."""
        if self._busy() or self._missing() or self.session is None:
            return
        try:
            self._begin(self.session)
        except CellDETRError as error:
            show_error(str(error))
            self._end(error.message)

    def _begin(self, session: SlideSession) -> None:
        if session.frame.mpp is None and self.mpp_spin.value() >= MIN_MPP:
            session.use_mpp(self.mpp_spin.value())
        self._working, self._ended = session, ""
        if session.frame.mpp is None or max(session.frame.mpp) > CELLS_UP_TO_MPP:
            self._cover(session)
            return
        region = self._region(session)
        search = search_for(session, region, self.models)
        if search is None:
            self._measure(session)
            return
        whole = self.where.currentData() == WHOLE
        view = view_of(self.viewer, session.frame)
        request = DetectRequest(
            source=source_of_layer(session.layer, mpp=session.frame.mpp),
            config=search.config,
            region=None if whole else region,
            first=region.centre if view is None else view.region.centre,
            workspace=self.workspace,
        )
        seen, self._within = session.seen(), region
        session.begin(search.card, search.identity(session), search.card.threshold)
        models, earlier = self.models, session.earlier(seen)
        self.run_bar.show_busy("Loading the model that finds nuclei…")
        self.detector.start(lambda: find_job(request, models, earlier))

    def _region(self, session: SlideSession) -> Region:
        whole = Region(0, 0, *session.size)
        where = self.where.currentData()
        if where == WHOLE:
            return whole
        asked = self._tumour_region() if where == TUMOUR_AREAS else session.view()
        found = None if asked is None else asked.intersect(whole)
        if found is None:
            raise ConfigError(
                "Nothing of the slide is in view.",
                expected="a part of the slide",
                found="none",
                remedy="move the slide into view",
            )
        return found

    def _tumour_region(self) -> Region | None:
        return self._bounds(self.tumour())

    def _bounds(self, tumour: Tumour) -> Region | None:
        """The rectangle around all zones."""
        corners = [zone.outline.corners for zone in tumour.zones]
        if not corners:
            return None
        low = np.floor(np.concatenate(corners).min(axis=0)).astype(int)
        high = np.ceil(np.concatenate(corners).max(axis=0)).astype(int)
        return Region.from_edges(int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def cancel(self) -> None:
        """Stop. Nuclei found so far and finished tiles stay."""
        if self._busy():
            self.run_bar.show_stopping()
            for runner in (self.detector, self.runner):
                runner.stop()

    def _on_detecting(self, step: Progress) -> None:
        session = self._working
        if session is None:
            return
        for event in step.events:
            session.add_tile(event, within=self._within)
        if step.events:
            session.refresh()
        if self.run_bar.cancel_button.isEnabled():
            kept = int(session.cells.kept.sum())
            self.run_bar.show_progress(replace(step, cells=kept))

    def _on_detected(self, result: DetectResult) -> None:
        session = self._working
        if session is not None:
            session.take(result.cells)
            self._measure(session)

    def calibrate(self, key: str, expected_od: float) -> None:
        """Measure again, with the stain as strong as it should be in the control `key`."""
        session = self.session
        if session is None or self._busy():
            return
        control = self._bounds(tumour_of(key, {}, self.viewer.layers, session.frame))
        if control is not None:
            self._working, self._ended = session, ""
            self._measure(session, control=(control, expected_od))

    def _measure(
        self, session: SlideSession, *, control: tuple[Region, float] | None = None
    ) -> None:
        if not session.cells.kept.any():
            self._end("No cells were found there. Measure another part of the slide.")
            return
        request = MeasureRequest(
            source_of_layer(session.layer, mpp=session.frame.mpp),
            session.snapshot(),
            first=session.view(),
            control=control,
        )
        self.run_bar.show_busy("Reading the membranes…")
        self.runner.start(lambda: measure_job(request))

    def _cover(self, session: SlideSession) -> None:
        """Coverage by pixels, where cells cannot be measured."""
        source = source_of_layer(session.layer, mpp=session.frame.mpp)
        tumour, cutoffs = self.tumour(), self.cutoffs.cutoffs
        self.run_bar.show_busy("Measuring how much is stained…")
        self.runner.start(lambda: coverage_job(source, tumour, cutoffs))

    def _on_measuring(self, step: Progress) -> None:
        if isinstance(step, MeasureStep) and step.early is not None:
            self._take(step.early)
        if self.run_bar.cancel_button.isEnabled():
            self.run_bar.show_progress(step)

    def _on_measured(self, result: Measured) -> None:
        if result.state is not None:
            self._take(result.state)
            self._end(f"{len(result.state):,} cells are measured.")
        elif result.coverage is not None and result.refused is not None:
            self._show_coverage(result.coverage, result.refused)
            self._end("Coverage is measured by pixels, without cells.")

    def _show_coverage(self, coverage: StainCoverage, refused: Refusal) -> None:
        self.results.setVisible(True)
        for widget in self._of_cells:
            widget.setVisible(False)
        self.score_box.show_refusal(refused)
        self.bars.show_area(coverage.percent)
        self.scope_label.setText(f"Of {coverage.pixels:,} pixels of stained tissue, by DAB.")

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._end(error.message)

    def _on_stopped(self) -> None:
        self._end("Stopped. What was found is kept and used again.")

    def _end(self, text: str) -> None:
        self._ended, self._working = text, None
        self._check_ready()

    # Results ----------------------------------------------------------------------------

    def _take(self, state: Her2State) -> None:
        """Show these measurements, with the cut-offs and the tumour that are chosen."""
        session = self.session
        if session is None:
            return
        first = self.state is None
        state.use_cutoffs(self.cutoffs.cutoffs)
        self.state = state
        state.use_tumour(self.tumour())
        if self.layers is None:
            name = Path(session.layer.name).stem
            self.layers = Her2Layers(self.viewer, session.frame, session.size, name=name)
        self.layers.frame = session.frame
        self.layers.take(state)
        self._kept[id(session)] = (session, self.layers, state)
        if first:
            self._show_nuclei(self.nuclei_tick.isChecked())
        self._show_all()

    def _show_all(self) -> None:
        self.results.setVisible(self.state is not None)
        self._offer_tumour()
        if self.state is None:
            return
        for widget in self._of_cells:
            widget.setVisible(True)
        self.cutoffs.blockSignals(True)
        self.cutoffs.use(self.state.cutoffs)
        self.cutoffs.blockSignals(False)
        self._pinned = None
        self.control.show_notes(self.state.stain.notes)
        self._redraw()
        self._show_score()
        self._show_scope()
        self._show_cell(None)

    def _redraw(self) -> None:
        if self.layers is not None and self.session is not None:
            self.layers.recolor()
            self.layers.refresh(view_of(self.viewer, self.session.frame))

    def _judge(self) -> None:
        """Other cut-offs: figures and colours follow at once, slow intervals once they rest."""
        if self.state is None:
            return
        self.state.use_cutoffs(self.cutoffs.cutoffs)
        self._refigure()

    def _refigure(self) -> None:
        self._show_score(draws=0)
        self._show_scope()
        self._redraw()
        self._show_cell(self._pinned)
        self._settle.start()

    def _show_score(self, *, draws: int | None = None) -> None:
        state = self.state
        if state is None:
            return
        found = state.of_slide() if draws is None else state.of_slide(draws=draws)
        self.score_box.show_score(found, state.refusal)
        self.reporter.offer(state)
        self.tree.show_tree(found.score.tree, found.score.branch, lit=state.branch)
        if self.scope.currentData() == TUMOUR:
            self._show_scope()

    def _show_scope(self, _index: int = 0) -> None:
        if self.state is not None:
            found, notes = self._counted(self.state)
            self.bars.show_shares(found)
            words = scope_words(found, score=self.scope.currentData() != TUMOUR)
            said = [words, excluded_words(found), *notes]
            self.scope_label.setText("\n".join(t for t in said if t))

    def _counted(self, state: Her2State) -> tuple[Assessment, list[str]]:
        """Figures of what is chosen, and what to know of them."""
        where = self.scope.currentData()
        if where == TUMOUR:
            return state.of_slide(), self._unmeasured()
        session = self.session
        view = None if session is None else session.view()
        if where == SCREEN:
            notes = [] if view is not None else ["Nothing of the slide is in view."]
            return state.of_view(view or Region(-1, -1, 1, 1)), [*notes, *self._unmeasured()]
        return state.of_zone(state.tumour.zones[int(where)]), self._unmeasured()

    def _unmeasured(self) -> list[str]:
        if not self._left:
            return []
        cells = "1 cell is" if self._left == 1 else f"{self._left:,} cells are"
        return [f"{cells} new or changed and not measured: press Measure HER2 again."]

    _left = 0

    def _on_cells(self) -> None:
        """Cells were corrected, or found: those that are gone leave the count at once."""
        session, state = self.session, self.state
        self._offer_tumour()
        self._check_ready()
        if session is None or state is None or self._busy():
            return
        self._left = state.keep(session.cells.boxes[session.cells.kept])
        self._refigure()

    def _on_view(self) -> None:
        """The view has come to rest."""
        if self.state is None or self.session is None:
            return
        if self.scope.currentData() == SCREEN:
            self._show_scope()
        if self.layers is not None:
            self.layers.refresh(view_of(self.viewer, self.session.frame))

    # Tumour -----------------------------------------------------------------------------

    def tumour(self) -> Tumour:
        """What is said to be the tumour at this moment."""
        session = self.session
        if session is None:
            return Tumour()
        areas = session.cells.annotations.areas
        key = self.tumour_box.currentData() or NOTHING_KEY
        return tumour_of(key, areas, self.viewer.layers, session.frame)

    def _offer_tumour(self) -> None:
        session = self.session
        areas = {} if session is None else session.cells.annotations.areas
        wanted = [(c.key, c.words) for c in choices(areas, self.viewer.layers)]
        self.control.offer([(k, w) for k, w in wanted if k.startswith(LAYER_KEY)])
        box = self.tumour_box
        if [(box.itemData(i), box.itemText(i)) for i in range(box.count())] == wanted:
            return
        now = box.currentData()
        box.blockSignals(True)
        box.clear()
        for key, words in wanted:
            box.addItem(words, key)
        box.setCurrentIndex(max(box.findData(now), 0))
        box.blockSignals(False)
        if box.currentData() != now:
            self._use_tumour()

    def choose_tumour(self, key: str) -> None:
        """Choose ``nothing``, ``all``, ``areas`` or a layer; `all` asks the person first."""
        place = self.tumour_box.findData(key)
        if place >= 0:
            self.tumour_box.setCurrentIndex(place)
            self._on_tumour()

    def _on_tumour(self, _index: int = 0) -> None:
        if self.tumour_box.currentData() == ALL_KEY and not self.ask(CONFIRM_TEXT):
            self.tumour_box.setCurrentIndex(self.tumour_box.findData(NOTHING_KEY))
        self._use_tumour()

    def _use_tumour(self) -> None:
        tumour = self.tumour()
        self._offer_scopes(tumour)
        self._check_ready()
        if self.state is not None:
            self.state.use_tumour(tumour)
            self._refigure()

    def _offer_scopes(self, tumour: Tumour) -> None:
        """Each area of the tumour can be counted by itself."""
        zones = tumour.zones[:MOST_ZONES] if len(tumour.zones) > 1 else ()
        wanted = [(SCREEN, "What is on the screen"), (TUMOUR, self._whole_words(tumour))]
        wanted += [(str(i), f"Area {i + 1} · {zone.name}") for i, zone in enumerate(zones)]
        now = self.scope.currentData()
        self.scope.blockSignals(True)
        self.scope.clear()
        for key, words in wanted:
            self.scope.addItem(words, key)
        self.scope.setCurrentIndex(max(self.scope.findData(now), 0))
        self.scope.blockSignals(False)

    def _whole_words(self, tumour: Tumour) -> str:
        return "All of the tumour" if tumour.confirmed else "All that is measured"

    def _ask_person(self, text: str) -> bool:
        answer = QMessageBox.question(self, "HER2", text)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def draw_tumour(self) -> None:
        """Put a layer for the tumour on top, choose it, and let the person draw."""
        session = self.session
        if session is None:
            return
        name = f"{TUMOUR_LAYER} · {Path(session.layer.name).stem}"
        found = [la for la in self.viewer.layers if is_shapes(la) and la.name == name]
        if not found:
            zoom = camera_of(self.viewer).zoom * float(np.mean(session.frame.scale))
            layer = Shapes(
                ndim=2,
                name=name,
                edge_color="#00e5ff",
                face_color=[0, 0, 0, 0],
                edge_width=max(3.0 / zoom, 1.0) if zoom > 0 else 1.0,
                **session.frame.layer_options(),
            )
            self.viewer.add_layer(layer)
            found = [la for la in self.viewer.layers if is_shapes(la) and la.name == name]
        self.viewer.layers.selection.active = found[-1]
        found[-1].mode = "add_polygon"
        self.choose_tumour(LAYER_KEY + name)

    # Report -----------------------------------------------------------------------------

    def _on_report(self) -> None:
        if self.session is not None and self.state is not None:
            self.reporter.ask(self.session, self.state)

    def write_report(self, path: str | Path) -> None:
        """Write what is shown as ``.html`` or ``.json``."""
        if self.session is not None and self.state is not None:
            self.reporter.write(self.session, self.state, path)

    def _tell(self, text: str) -> None:
        if not self._busy():
            self.run_bar.show_idle(text, can_run=not self._missing())

    # Cells ------------------------------------------------------------------------------

    def light(self, branch: str) -> None:
        """Light up the cells of a branch; bring one into view if none is."""
        state, session = self.state, self.session
        if state is None or session is None:
            return
        state.light(branch)
        self._redraw()
        self._show_score(draws=0)
        rows = state.rows_of_branch(branch) if branch else np.zeros(0, np.int64)
        view = session.view()
        if not len(rows) or (view is not None and len(np.intersect1d(rows, state.rows_in(view)))):
            return
        self._go_to(rows)

    def _go_to(self, rows: Any) -> None:
        """Show all of these cells: as near as the farthest two of them allow."""
        session, state = self.session, self.state
        if session is None or state is None:
            return
        world = session.frame.to_world(state.centres[rows].astype(np.float64))
        low, high = world.min(axis=0), world.max(axis=0)
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *((low + high) / 2))
        view = view_of(self.viewer, session.frame)
        if view is None:
            return
        shown = np.array([view.region.height, view.region.width]) * session.frame.scale
        fit = float(np.min(shown / np.maximum(1.1 * (high - low), 1e-6)))
        camera.zoom = min(camera.zoom, camera.zoom * fit)

    def _on_mouse(self, _viewer: Any, event: Any) -> None:
        if self.state is not None and self._pinned is None:
            self._mouse_at = tuple(event.position)
            if not self._hover.isActive():
                self._hover.start()

    def _on_press(self, _viewer: Any, event: Any) -> Any:
        """A click keeps a cell's figures; a click beside all cells lets go of it."""
        if self.state is None:
            return
        yield
        if event.type == "mouse_move":
            return
        self._pinned = self._cell_at(tuple(event.position))
        self._show_cell(self._pinned)

    def _cell_at(self, position: tuple[float, ...]) -> int | None:
        if self.session is None or self.state is None:
            return None
        x, y = self.session.frame.from_world(np.array([position[-2:]], np.float64))[0]
        return self.state.cell_at((float(x), float(y)))

    def _show_hovered(self) -> None:
        if self._mouse_at is not None and self._pinned is None:
            self._show_cell(self._cell_at(self._mouse_at))

    def _on_selected(self) -> None:
        """A cell chosen in another dock."""
        session, state = self.session, self.state
        if session is None or state is None or len(session.selected) != 1:
            return
        self._pinned = state.row_of_box(session.cells.boxes[session.selected[0]])
        self._show_cell(self._pinned)

    def _show_cell(self, row: int | None) -> None:
        if self.state is None:
            return
        if row is None:
            self.cell_label.setText("Point at a cell to see what was measured of it.")
            return
        self.cell_label.setText(cell_words(self.state.facts(row)))

    # Drawing ----------------------------------------------------------------------------

    def _on_show(self, _index: int = 0) -> None:
        if self.layers is not None:
            self.layers.choose(Show(self.show_box.currentData()))

    def _show_nuclei(self, shown: bool) -> None:
        overlay = None if self.session is None else self.session.overlay
        if overlay is not None:
            overlay.hide(not shown)

    def use_cutoffs(self, cutoffs: Cutoffs) -> None:
        """Judge with other cut-offs, as the sliders do."""
        self.cutoffs.use(cutoffs)
