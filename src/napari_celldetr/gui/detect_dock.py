"""*Detect cells*: choose a slide and a model, say where, watch cells appear, export them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QRadioButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.config import DetectConfig, from_mapping, to_json
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.core.progress import Progress
from napari_celldetr.core.regions import Region, Tile
from napari_celldetr.gui.detect_job import (
    DetectRequest,
    DetectResult,
    detect_job,
    merge_job,
    shared_models,
)
from napari_celldetr.gui.files import Exporter
from napari_celldetr.gui.form import ConfigForm
from napari_celldetr.gui.layers import Frame, rectangle_world
from napari_celldetr.gui.overlay import camera_of, view_of
from napari_celldetr.gui.panel import Dock, JobRunner, RunBar
from napari_celldetr.gui.parts import (
    SlideBox,
    counts_table,
    fill_counts,
    narrow_form,
    short_combo,
    single_shot,
    wrapped_label,
)
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.gui.summary import area_mm2, area_words, class_rows, gaps

REPAINT_MS = 300
"""While tiles stream in, points and boxes are renewed this often."""
RECOUNT_MS = 40
SLIDER_STEPS = 100
SMALLEST_MPP = 0.1
ENOUGH_TO_CHECK = 50
"""Nuclei that say whether the pixel size can be right."""

VIEWPORT, DRAWN, WHOLE = "viewport", "drawn", "whole"
REGION_LAYER = "Region to analyse"
EMPTY_TEXT = (
    "No slide is open. Drag a slide file into the window, or use File › Open Sample › CellDETR."
)


class DetectDock(Dock):
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
        self._running: SlideSession | None = None
        self._card: Any = None
        self._request: DetectRequest | None = None
        self._within: Region | None = None
        self._tiles: list[tuple[Tile, Detections]] = []
        self._report: Any = None
        self._suggested: float | None = None
        self._checked = 0
        self._ended = ""
        self._build()
        self._connect()
        self._list_models()
        self.slide_box.list_slides()

    # What it is made of -----------------------------------------------------------------

    def _build(self) -> None:
        column = self.start_column("Detect cells")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        column.addWidget(self.empty_label)
        column.addWidget(self._build_choices())
        column.addWidget(self._build_where())
        self.form = ConfigForm(DetectConfig, skip=("model", "threshold", "mpp"))
        column.addWidget(self.form)
        self.run_bar = RunBar("Detect cells")
        column.addWidget(self.run_bar)
        column.addWidget(self._build_results())
        self.finish_column(column)

    def _build_choices(self) -> QWidget:
        box = QWidget()
        form = narrow_form(box)
        self.slide_box = SlideBox(self.viewer, "The image in which cells are looked for")
        self.model_box = short_combo("The trained network; it must fit the stain")
        self.model_info = wrapped_label("", tooltip="What the chosen model was made for")
        self.mpp_spin = QDoubleSpinBox()
        self.mpp_spin.setDecimals(4)
        self.mpp_spin.setSingleStep(0.01)
        self.mpp_spin.setRange(0.0, 2.0)
        self.mpp_spin.setSpecialValueText("please enter")
        self.mpp_spin.setSuffix(" µm/px")
        self.mpp_spin.setToolTip(
            "How wide one pixel is. 0.25 is usual for a 40× scan, 0.5 for a 20× scan"
        )
        self.mpp_label = QLabel("Pixel size")
        self.mpp_note = wrapped_label("")
        form.addRow("Slide", self.slide_box)
        form.addRow("Model", self.model_box)
        form.addRow(self.model_info)
        form.addRow(self.mpp_label, self.mpp_spin)
        form.addRow(self.mpp_note)
        self.check_label = wrapped_label("", tooltip="Whether the pixel size can be right")
        self.mpp_button = QPushButton("")
        self.mpp_button.setToolTip("Take this pixel size; then detect again")
        form.addRow(self.check_label)
        form.addRow(self.mpp_button)
        return box

    def _build_where(self) -> QWidget:
        box = QWidget()
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(QLabel("Where"))
        self.where = QButtonGroup(self)
        self._where_buttons: dict[str, QRadioButton] = {}
        for key, text, tip in (
            (VIEWPORT, "What is on the screen", "Only the part of the slide now in view"),
            (DRAWN, "Drawn region", "The rectangle drawn on the slide"),
            (WHOLE, "Whole slide", "All of the scanned tissue; can be stopped and continued"),
        ):
            button = QRadioButton(text)
            button.setToolTip(tip)
            self.where.addButton(button)
            self._where_buttons[key] = button
            if key == DRAWN:
                row = QHBoxLayout()
                self.draw_button = QPushButton("Draw region")
                self.draw_button.setToolTip("Then drag a rectangle on the slide")
                row.addWidget(button, 1)
                row.addWidget(self.draw_button)
                column.addLayout(row)
            else:
                column.addWidget(button)
        self._where_buttons[VIEWPORT].setChecked(True)
        return box

    def _build_results(self) -> QWidget:
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 4, 0, 0)
        row = QHBoxLayout()
        row.addWidget(QLabel("Score from"))
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, SLIDER_STEPS - 1)
        self.slider.setToolTip(
            "Cells the model is less sure of are left out. Acts at once; nothing is lost"
        )
        self.slider_value = QLabel("0.50")
        row.addWidget(self.slider, 1)
        row.addWidget(self.slider_value)
        column.addLayout(row)
        self.table = counts_table()
        column.addWidget(self.table)
        self.gap_label = wrapped_label("", tooltip="What was looked at, and what is missing")
        column.addWidget(self.gap_label)
        tooltip = "Save the cells above the score: CSV, Parquet, QuPath GeoJSON or AnnData"
        self.exporter = Exporter(self, tooltip=tooltip)
        self.export_button = self.exporter.button
        column.addWidget(self.export_button)
        self.results.setVisible(False)
        return self.results

    def _connect(self) -> None:
        self.runner = JobRunner(self)
        self.runner.progressed.connect(self._on_progress)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.stopped.connect(self._on_stopped)
        self.joiner = JobRunner(self)
        self.joiner.finished.connect(self._on_joined)
        self.joiner.failed.connect(self._on_join_failed)
        self.exporter.over.connect(self._show_counts)
        self._repaint = single_shot(self, REPAINT_MS, self._refresh)
        self._recount = single_shot(self, RECOUNT_MS, self._show_counts)
        self.run_bar.run_clicked.connect(self.run)
        self.run_bar.cancel_clicked.connect(self.cancel)
        self.slide_box.chosen.connect(self._on_slide)
        self.model_box.currentIndexChanged.connect(self._on_model)
        self.mpp_spin.valueChanged.connect(self._check_ready)
        self.draw_button.clicked.connect(self.draw_region)
        self.mpp_button.clicked.connect(self._use_suggested)
        self.slider.valueChanged.connect(self._on_slider)
        self.export_button.clicked.connect(self._on_export)
        self.viewer.layers.events.removed.connect(self._on_removed)

    def let_go(self) -> None:
        """Stop everything this dock started; corrections are on disk, finished tiles too."""
        for runner in (self.runner, self.joiner, self.exporter):
            runner.abandon()
        for timer in (self._repaint, self._recount):
            timer.stop()
        self.slide_box.let_go()
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self._join(None)
        self._let_go()
        self._tiles = []

    # The slide's session ----------------------------------------------------------------

    def _join(self, layer: Any | None) -> None:
        """Show the cells of this slide layer, which all docks share."""
        now = None if layer is None else session_of(self.viewer, layer, self)
        old = self.session
        if old is now:
            return
        if old is not None:
            old.cells_changed.disconnect(self._recount.start)
            old.opened.disconnect(self._on_opened)
            if old is not self._running:
                old.leave(self)
        self.session = now
        if now is not None:
            now.cells_changed.connect(self._recount.start)
            now.opened.connect(self._on_opened)
        self._show_findings()
        self._show_settings()
        self._show_results()

    def _let_go(self) -> None:
        running, self._running = self._running, None
        if running is not None and running is not self.session:
            running.leave(self)

    # Slides and models ------------------------------------------------------------------

    def _on_removed(self, event: Any) -> None:
        running = self._running
        if running is not None and running.layer == event.value:
            self._running = None
            if self.runner.running:
                self.cancel()

    def slide_layer(self) -> Any | None:
        """The chosen slide layer."""
        return self.slide_box.layer

    def _on_slide(self, layer: Any | None) -> None:
        self._join(layer)
        has_slide = layer is not None
        self.empty_label.setVisible(not has_slide)
        missing = has_slide and Frame.of_layer(layer).mpp is None
        for widget in (self.mpp_label, self.mpp_spin, self.mpp_note):
            widget.setVisible(missing)
        self.mpp_note.setText(
            "This slide does not say how large its pixels are. Enter it, or nuclei will be "
            "looked for at the wrong size."
        )
        self._check_ready()

    def _list_models(self) -> None:
        try:
            cards = self.models.cards()
        except CellDETRError as error:
            show_error(str(error))
            cards = []
        listed = [self.model_box.itemData(i) for i in range(self.model_box.count())]
        if cards and cards == listed:
            return
        now = self.model_box.currentText()
        self.model_box.blockSignals(True)
        self.model_box.clear()
        for card in cards:
            self.model_box.addItem(card.title, card)
        self.model_box.setCurrentIndex(max(self.model_box.findText(now), 0))
        self.model_box.blockSignals(False)
        self._on_model()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """A model may have been made since it was last seen."""
        super().showEvent(event)
        if not self.runner.running:
            self._list_models()

    def _on_model(self, _index: int = 0) -> None:
        card = self.model_box.currentData()
        if card is None:
            self.model_info.setText("No model is installed.")
        else:
            classes = ", ".join(card.class_names)
            self.model_info.setText(f"{card.stain} · {card.mpp:g} µm/px · {classes}")
            self.model_box.setToolTip(card.description or card.title)
        self._check_ready()

    def _check_ready(self, _value: float = 0.0) -> None:
        if not self.runner.running:
            missing = self._missing()
            said = " ".join(text for text in (self._ended, missing) if text)
            # The next run is laid over what this one leaves: its seams come first.
            self.run_bar.show_idle(said, can_run=not missing and not self.joiner.running)

    def _missing(self) -> str:
        layer = self.slide_layer()
        if layer is None:
            return "Open a slide to start."
        if self.model_box.currentData() is None:
            return "Without a model nothing can be detected."
        if Frame.of_layer(layer).mpp is None and self.mpp_spin.value() < SMALLEST_MPP:
            return "Enter the pixel size to start."
        return ""

    # Where ------------------------------------------------------------------------------

    def choose_where(self, key: str) -> None:
        """Choose ``viewport``, ``drawn`` or ``whole``."""
        self._where_buttons[key].setChecked(True)

    def chosen_where(self) -> str:
        """What is chosen."""
        return next(k for k, b in self._where_buttons.items() if b.isChecked())

    def draw_region(self) -> None:
        """Put a layer for the rectangle on top and let the user drag one."""
        layer = self.slide_layer()
        if layer is None:
            show_info(EMPTY_TEXT)
            return
        self.choose_where(DRAWN)
        shapes = self._region_layer()
        if shapes is None:
            shapes = Shapes(
                ndim=2,
                name=REGION_LAYER,
                edge_color="#ffd400",
                face_color=[0, 0, 0, 0],
                edge_width=_line_width(self.viewer, layer),
                **Frame.of_layer(layer).layer_options(),
            )
            self.viewer.add_layer(shapes)
        self.viewer.layers.selection.active = shapes
        shapes.mode = "add_rectangle"

    def _region_layer(self) -> Any | None:
        """The Shapes layer that holds the region: the selected one, else ours, else any."""
        shapes = [la for la in self.viewer.layers if la.as_layer_data_tuple()[2] == "shapes"]
        active = self.viewer.layers.selection.active
        for layer in shapes:
            if active is not None and layer == active:
                return layer
        ours = [la for la in shapes if la.name == REGION_LAYER]
        return (ours or shapes or [None])[-1]

    def _region(self, frame: Frame, bounds: Region) -> Region:
        where = self.chosen_where()
        if where == WHOLE:
            return bounds
        if where == VIEWPORT:
            view = view_of(self.viewer, frame)
            asked, trouble = (view.region if view else None), "Nothing of the slide is in view."
        else:
            asked, trouble = self._drawn(frame), "No region is drawn."
        region = asked.intersect(bounds) if asked is not None else None
        if region is None:
            raise ConfigError(
                trouble,
                expected="a part of the slide",
                found="none",
                remedy="move the slide into view, or press Draw region and drag a rectangle on it",
            )
        return region

    def _drawn(self, frame: Frame) -> Region | None:
        layer = self._region_layer()
        if layer is None or not len(layer.data):
            return None
        chosen = sorted(layer.selected_data) or [len(layer.data) - 1]
        return frame.region_of(rectangle_world(layer, chosen[-1]))

    # Running ----------------------------------------------------------------------------

    def run(self) -> None:
        """Start with what is chosen; what cannot be started is said in a notification."""
        if self.runner.running or self.joiner.running or self._missing():
            return
        try:
            self._start(self.slide_layer())
        except CellDETRError as error:
            show_error(str(error))
            self._end(error.message)

    def _start(self, layer: Any) -> None:
        frame = self._frame(layer)
        config = self._config()
        source = source_of_layer(layer, mpp=frame.mpp)
        width, height = source.size
        bounds = Region(0, 0, width, height)
        region = self._region(frame, bounds)
        view = view_of(self.viewer, frame)
        self._request = DetectRequest(
            source=source,
            config=config,
            region=None if self.chosen_where() == WHOLE else region,
            first=view.region.centre if view is not None else region.centre,
            workspace=self.workspace,
        )
        self._within, self._tiles, self._report, self._checked = region, [], None, 0
        self._card = card = self.model_box.currentData()
        self._let_go()
        session = self._running = session_of(self.viewer, layer, self)
        seen = session.seen()
        # What makes claims comparable: who made them, and at what scale.
        session.begin(card, (card.weights_sha256, to_json(config), frame.mpp), card.threshold)
        self._show_results()
        self._ended = ""
        self.run_bar.show_busy("Loading the model and reading the first tile…")
        request, models, earlier = self._request, self.models, session.earlier(seen)
        self.runner.start(lambda: detect_job(request, models, earlier))

    def _frame(self, layer: Any) -> Frame:
        """The slide's frame; a pixel size entered by the user is given to its layer as well."""
        frame = Frame.of_layer(layer)
        if frame.mpp is not None or self.mpp_spin.value() < SMALLEST_MPP:
            return frame
        size = self.mpp_spin.value()
        layer.scale = tuple(size * s for s in frame.scale)
        layer.units = ("um", "um")
        self.viewer.reset_view()
        return Frame.of_layer(layer)

    def _config(self) -> DetectConfig:
        values = {**self.form.values(), "model": self.model_box.currentData().name}
        return from_mapping(DetectConfig, values)

    def _on_opened(self) -> None:
        self._show_findings()
        self._show_settings()
        self._show_results()

    def _show_settings(self) -> None:
        """Model and settings of the cells that came back, until another run is begun here."""
        session = self.session
        if session is None or self.runner.run or not session.settings:
            return
        for i in range(self.model_box.count()):
            card = self.model_box.itemData(i)
            if card.weights_sha256 == session.weights:
                self.model_box.setCurrentIndex(i)
                self._card = card
        self.form.show_values(session.settings)

    def _show_findings(self) -> None:
        """What is doubtful about the pixel size, and one button where there is a remedy."""
        findings = self.session.findings if self.session is not None else ()
        told = [f for f in findings if f.level != "ok"]
        self.check_label.setText("\n".join(f.text for f in told))
        self.check_label.setVisible(bool(told))
        self._suggested = next((f.suggested_mpp for f in told if f.suggested_mpp), None)
        self.mpp_button.setText(f"Use {self._suggested or 0:g} µm per pixel")
        self.mpp_button.setVisible(self._suggested is not None and not self.runner.running)

    def _use_suggested(self) -> None:
        if self.session is not None and self._suggested is not None:
            self.session.use_mpp(self._suggested)
            self._ended = ""
            self._check_ready()

    def _show_results(self) -> None:
        """The figures of the slide, once there are any."""
        session = self.session
        shown = session is not None and session.overlay is not None
        self.results.setVisible(shown)
        if session is None or not shown:
            return
        threshold = session.cells.threshold
        floor = self._card.score_floor if self._card is not None else 1 / SLIDER_STEPS
        self.slider.blockSignals(True)
        self.slider.setRange(max(round(floor * SLIDER_STEPS), 1), SLIDER_STEPS - 1)
        self.slider.setValue(round(threshold * SLIDER_STEPS))
        self.slider.blockSignals(False)
        self.slider_value.setText(f"{threshold:.2f}")
        self._show_counts()

    def cancel(self) -> None:
        """Stop the run. Finished tiles stay on the screen and in the ledger."""
        if self.runner.running:
            self.run_bar.show_stopping()
            self.runner.stop()

    def _on_progress(self, step: Progress) -> None:
        self._report = getattr(step, "report", self._report)
        for event in step.events:
            if event.detections is not None:
                self._tiles.append((event.tile, event.detections))
            if self._running is not None:
                self._running.add_tile(event, within=self._within)
        kept = self._kept()
        if self._running is not None and kept >= ENOUGH_TO_CHECK > self._checked:
            self._running.check_cells(self._card)
        self._checked = kept
        if self.run_bar.cancel_button.isEnabled():
            self.run_bar.show_progress(replace(step, cells=kept))
        if step.events and not self._repaint.isActive():
            self._repaint.start()
            self._recount.start()

    def _kept(self) -> int:
        """Cells above the score: the job itself counts all above the model's floor."""
        return 0 if self._running is None else int(self._running.cells.kept.sum())

    def _on_finished(self, result: DetectResult) -> None:
        self._report = result.report or self._report
        if self._running is not None:
            self._running.take(result.cells)
            self._running.check_cells(self._card)
            self._end(f"Done: {self._kept():,} cells.")
        if getattr(self._report, "failed", False):
            show_warning(gaps(self._report)[0])

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._end_early(f"Stopped: {error.message}")

    def _on_stopped(self) -> None:
        self._end_early("Cancelled. Finished tiles are kept; run again to go on.")

    def _end(self, text: str) -> None:
        self._ended = text
        self._refresh()
        self._show_counts()
        self._check_ready()

    def _end_early(self, text: str) -> None:
        """Show what there is, and join its seams in the background."""
        self._end(text)
        session = self._running
        if session is None or not self._tiles:
            return
        tiles, card, earlier = list(self._tiles), self._card, session.earlier()
        frame, size, within = session.frame, session.size, self._within
        self.joiner.start(lambda: merge_job(tiles, frame, size, card, earlier, within=within))
        self._check_ready()

    def _on_joined(self, result: DetectResult) -> None:
        if self._running is not None and not self.runner.running:
            self._running.take(result.cells)
            self._show_counts()
        self._check_ready()

    def _on_join_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._check_ready()

    # Results ----------------------------------------------------------------------------

    def _refresh(self) -> None:
        if self._running is not None:
            self._running.refresh()

    def _on_slider(self, value: int) -> None:
        threshold = value / SLIDER_STEPS
        self.slider_value.setText(f"{threshold:.2f}")
        if self.session is not None:
            self.session.set_threshold(threshold)

    def _show_counts(self) -> None:
        session = self.session
        if session is None or session.overlay is None:
            return
        if not self.results.isVisibleTo(self):
            self.results.setVisible(True)
        area, coverage = None, session.coverage
        if coverage is not None:
            area = area_mm2(coverage.area_px(), session.frame.mpp)
        rows = class_rows(session.cells.counts(), area_mm2=area)
        fill_counts(self.table, rows, session.color_names)
        told = {finding.text for finding in session.findings}
        said = [] if self._report is None else [t for t in gaps(self._report) if t not in told]
        if area is not None:
            said.insert(0, f"On {area_words(area)} analysed, glass included.")
        self.gap_label.setText("\n".join(said))
        self.gap_label.setVisible(bool(said))
        busy = self.runner.running or self.exporter.running
        self.export_button.setEnabled(not busy and bool(session.cells.kept.any()))

    def _on_export(self) -> None:
        if self.session is not None:
            self.exporter.ask(self.session)

    def export_to(self, path: str | Path) -> None:
        """Write the cells above the threshold; says where, or why not, in a notification."""
        if self.session is not None:
            self.exporter.write(self.session, path)


def _line_width(viewer: Any, layer: Any) -> float:
    """About three screen pixels, in level-0 px."""
    frame = Frame.of_layer(layer)
    zoom = camera_of(viewer).zoom * float(np.mean(frame.scale))
    return max(3.0 / zoom, 1.0) if zoom > 0 else 1.0
