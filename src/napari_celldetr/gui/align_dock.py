"""*Align slides*: lay an H&E slide onto its IHC slide, look how well they fit, carry regions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.gui import collector
from napari_celldetr.gui.align_job import (
    Aligned,
    AlignRequest,
    align_job,
    load_job,
    refuse_same,
    says_lengths,
)
from napari_celldetr.gui.align_parts import (
    LandmarkBox,
    LookBox,
    Loupe,
    PhysicalDialog,
    RegionBox,
    cell_share,
    cell_um,
)
from napari_celldetr.gui.align_view import AlignView, Here, Look
from napari_celldetr.gui.align_words import (
    LANDMARK_HELP,
    error_words,
    failure_words,
    result_words,
    share_words,
    step_words,
)
from napari_celldetr.gui.carry import KEPT_COLOR, LINE_PX, Reading, carry_regions
from napari_celldetr.gui.form import ConfigForm
from napari_celldetr.gui.landmarks import Landmarks, read_landmarks, write_landmarks
from napari_celldetr.gui.layers import AXES, Frame
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.panel import Dock, JobRunner, RunBar
from napari_celldetr.gui.parts import (
    Fold,
    SlideBox,
    keep_lines,
    narrow_form,
    single_shot,
    stem_of,
    wrapped_label,
)
from napari_celldetr.gui.sources import is_slide_layer, levels_of, source_of_layer
from napari_celldetr.gui.tumour_find import forget_map, show_maps
from napari_celldetr.pipeline.register import RegisterConfig, RegistrationError
from napari_celldetr.pipeline.transform_file import write_transform

CURSOR_MS, CAMERA_MS, SLIDER_MS = 15, 25, 15
"""The newest position is shown at most this often."""
CLICK_PX = 4.0
SMALLEST_MPP = 0.1
IHC_WORDS = ("ihc", "her2", "her-2", "dab", "ki67", "ki-67", "er_", "pr_", "p53")
EMPTY_TEXT = (
    "Two slides are needed: an H&E and an IHC of the same block. Drag their files into the window, "
    "or try File › Open Sample › CellDETR › H&E and IHC sections to align."
)
DRAWN_ELSEWHERE = (
    "Where these regions lie cannot be told in this view.",
    "the view in which they were drawn: Side by side, or H&E as scanned",
)
FILE_FILTER = (
    "Alignments (*.json *.txt *.tfm *.csv);;CellDETR (*.json);;elastix, ITK (*.txt *.tfm);;"
    "Point pairs (*.csv);;All files (*)"
)
CSV_FILTER = "Landmarks (*.csv)"
JSON_FILTER = "CellDETR alignment (*.json)"


class AlignDock(Dock):
    """The dock widget."""

    def __init__(self, napari_viewer: Any, *, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.view: AlignView | None = None
        self._views: list[AlignView] = []
        self._running: AlignView | None = None
        self._marked: tuple[Any, ...] = ()
        self._ended = self._result = ""
        self._pointer: tuple[float, ...] = ()
        self._build()
        self._connect()
        # A window may go without a word: the collector must not wait for it.
        self._open_slides = object()
        collector.begin(self._open_slides)
        self.destroyed.connect(partial(_end_collecting, self._open_slides))
        self.he_box.list_slides()
        self.ihc_box.list_slides()
        self._suggest()

    # What it is made of -----------------------------------------------------------------

    def _build(self) -> None:
        column = self.start_column("Align slides")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        column.addWidget(self.empty_label)
        column.addWidget(self._build_choices())
        self.form = ConfigForm(RegisterConfig, skip=("limit_um",))
        column.addWidget(Fold("Options", self.form))
        self.run_bar = RunBar("Align", words=step_words)
        self.run_bar.run_button.setToolTip("Find where the H&E's tissue lies on the IHC slide")
        self.run_bar.cancel_button.setToolTip("Stop. An earlier alignment stays as it was")
        self.run_bar.bar.setToolTip("How far the alignment is")
        column.addWidget(self.run_bar)
        column.addWidget(self._build_result())
        self.landmark_box = LandmarkBox()
        self.landmark_fold = Fold("Landmarks", self.landmark_box)
        column.addWidget(self.landmark_fold)
        self.region_box = RegionBox()
        column.addWidget(Fold("Carry regions over", self.region_box))
        column.addWidget(Fold("Alignment file", self._build_files()))
        self.finish_column(column)

    def _build_choices(self) -> QWidget:
        box = QWidget()
        form = narrow_form(box)
        self.he_box = SlideBox(self.viewer, "The H&E slide")
        self.ihc_box = SlideBox(self.viewer, "The IHC slide of the same block")
        self.swap_button = QToolButton()
        self.swap_button.setText("⇅")
        self.swap_button.setToolTip("Exchange the two slides")
        row = QHBoxLayout()
        row.addWidget(self.ihc_box, 1)
        row.addWidget(self.swap_button)
        form.addRow("H&&E", self.he_box)
        self._mpp = {"he": _mpp_row(form, "H&&E pixels")}
        form.addRow("IHC", row)
        self._mpp["ihc"] = _mpp_row(form, "IHC pixels")
        return box

    def _build_result(self) -> QWidget:
        box = QWidget()
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.result_label = wrapped_label("", tooltip="What the alignment is like")
        self.look_box = LookBox()
        self.here_label = wrapped_label("", tooltip="The place under the mouse")
        keep_lines(self.here_label, 1)
        self.limit_row = QWidget()
        row = QHBoxLayout(self.limit_row)
        row.setContentsMargins(0, 0, 0, 0)
        self.limit_spin = QDoubleSpinBox()
        self.limit_spin.setRange(1.0, 2000.0)
        self.limit_spin.setDecimals(0)
        self.limit_spin.setSingleStep(5.0)
        self.limit_spin.setSuffix(" µm")
        self.limit_spin.setValue(RegisterConfig().limit_um)
        self.limit_spin.setToolTip(
            "Tissue whose expected error is larger, or not known, is grey and never carried over"
        )
        row.addWidget(QLabel("Leave out if worse than"), 1)
        row.addWidget(self.limit_spin)
        self.share_label = wrapped_label("", tooltip="Of the H&E's tissue")
        for widget in (self.result_label, self.limit_row, self.share_label):
            column.addWidget(widget)
        column.addWidget(self.look_box)
        column.addWidget(self.here_label)
        self.loupe = Loupe()
        self.loupe_fold = Fold("Other slide under the mouse", self.loupe)
        column.addWidget(self.loupe_fold)
        self.results = box
        return box

    def _build_files(self) -> QWidget:
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip("Save this alignment, to use it again here or with celldetr")
        self.load_button = QPushButton("Load…")
        self.load_button.setToolTip(
            "An alignment saved here, or of another program: elastix, ITK, VALIS (matrix or point "
            "pairs). One without a known error is measured on the slides"
        )
        row.addWidget(self.save_button)
        row.addWidget(self.load_button)
        return box

    def _connect(self) -> None:
        self.runner = JobRunner(self)
        self.runner.progressed.connect(self._on_progress)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self._on_failed)
        self.runner.stopped.connect(self._on_stopped)
        self._point = single_shot(self, CURSOR_MS, self._show_here)
        self._follow = single_shot(self, CAMERA_MS, self._follow_camera)
        self._slide = single_shot(self, SLIDER_MS, self._compare)
        self.run_bar.run_clicked.connect(self.run)
        self.run_bar.cancel_clicked.connect(self.cancel)
        self.he_box.chosen.connect(self._on_slides)
        self.ihc_box.chosen.connect(self._on_slides)
        self.swap_button.clicked.connect(self.swap)
        for _, spin in self._mpp.values():
            spin.valueChanged.connect(self._check_ready)
        self.look_box.chosen.connect(self.show_look)
        self.look_box.slid.connect(lambda *_: self._slide.isActive() or self._slide.start())
        self.limit_spin.valueChanged.connect(self._on_limit)
        marks = self.landmark_box
        marks.setting.connect(self.set_landmarks)
        marks.deleted.connect(self._delete_landmarks)
        marks.visited.connect(self._visit)
        marks.align_button.clicked.connect(lambda: self.run(with_landmarks=True))
        marks.save_button.clicked.connect(self._ask_save_landmarks)
        marks.load_button.clicked.connect(self._ask_load_landmarks)
        self.region_box.wanted.connect(self.draw_regions)
        self.region_box.to_ihc.connect(lambda: self.carry(inverse=False))
        self.region_box.to_he.connect(lambda: self.carry(inverse=True))
        self.region_box.tumour.run_clicked.connect(self.find_tumour)
        self.region_box.tumour.finder.added.connect(self._show_on_ihc)
        self.save_button.clicked.connect(self._ask_save)
        self.load_button.clicked.connect(self._ask_load)
        layers = self.viewer.layers.events
        layers.inserted.connect(self._on_layers)
        layers.removed.connect(self._on_removed)
        camera = camera_of(self.viewer).events
        camera.center.connect(self._on_camera)
        camera.zoom.connect(self._on_camera)
        self.viewer.mouse_move_callbacks.append(self._on_move)
        self.viewer.mouse_drag_callbacks.append(self._on_press)

    def let_go(self) -> None:
        """Stop what runs; a finished alignment stays in the viewer, laid on the IHC."""
        self.runner.abandon()
        self.region_box.tumour.stop()
        for timer in (self._point, self._follow, self._slide):
            timer.stop()
        layers = self.viewer.layers.events
        layers.inserted.disconnect(self._on_layers)
        layers.removed.disconnect(self._on_removed)
        camera = camera_of(self.viewer).events
        camera.center.disconnect(self._on_camera)
        camera.zoom.disconnect(self._on_camera)
        for calls, call in (
            (self.viewer.mouse_move_callbacks, self._on_move),
            (self.viewer.mouse_drag_callbacks, self._on_press),
        ):
            if call in calls:
                calls.remove(call)
        view, self.view, self._running = self.view, None, None
        self._views = []
        self.he_box.let_go()
        self.ihc_box.let_go()
        if view is not None:
            view.leave()
        collector.end(self._open_slides)

    # Slides -----------------------------------------------------------------------------

    def _suggest(self) -> None:
        """Two different slides, the IHC told by its name where that says so."""
        slides = [layer for layer in self.viewer.layers if is_slide_layer(layer)]
        he, ihc = self.he_box.layer, self.ihc_box.layer
        if len(slides) < 2 or he is None or he != ihc:
            return
        stained = [la for la in slides if any(w in la.name.lower() for w in IHC_WORDS)]
        new_ihc = stained[-1] if stained else slides[-1]
        new_he = next(la for la in slides if la != new_ihc)
        self.he_box.setCurrentIndex(slides.index(new_he))
        self.ihc_box.setCurrentIndex(slides.index(new_ihc))

    def swap(self) -> None:
        """Exchange the two slides."""
        he, ihc = self.he_box.currentIndex(), self.ihc_box.currentIndex()
        self.he_box.setCurrentIndex(ihc)
        self.ihc_box.setCurrentIndex(he)

    def _on_slides(self, _layer: Any = None) -> None:
        he, ihc = self.he_box.layer, self.ihc_box.layer
        self.empty_label.setVisible(he is None or (he == ihc and self.he_box.count() < 2))
        for layer, (label, spin) in zip((he, ihc), self._mpp.values(), strict=True):
            missing = layer is not None and Frame.of_layer(layer).mpp is None
            label.setVisible(missing)
            spin.setVisible(missing)
        self._open(None if he is None or ihc is None or he == ihc else (he, ihc))
        self._check_ready()

    def _open(self, pair: tuple[Any, Any] | None) -> None:
        """Show what is known of a pair of layers; an earlier pair's is kept for later."""
        old = self.view
        if pair is not None and old is not None and (old.he, old.ihc) == pair:
            return
        if old is not None:
            self.landmark_box.set_button.setChecked(False)
            old.hide()
        self.view = None
        if pair is not None:
            known = [v for v in self._views if (v.he, v.ihc) == pair]
            self.view = known[0] if known else AlignView(self.viewer, *pair)
            if not known:
                self._views.append(self.view)
        self._ended = self._result = ""
        self._show_state()

    def _on_layers(self, _event: Any = None) -> None:
        self._suggest()
        self._show_regions()

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        for view in [v for v in self._views if gone in (v.he, v.ihc)]:
            self._views.remove(view)
            if view is self._running:
                self._running = None
                self.cancel()
            if view is self.view:
                self.view = None
                self.landmark_box.set_button.setChecked(False)
                view.hide()
                self._show_state()
        self._show_regions()

    def _check_ready(self, _value: float = 0.0) -> None:
        if not self.runner.running:
            missing = self._missing()
            self.run_bar.show_idle(
                " ".join(t for t in (self._ended, missing) if t), can_run=not missing
            )
            self._show_marks()
            self.load_button.setEnabled(not missing)
            self._offer_tumour()

    def _missing(self) -> str:
        he, ihc = self.he_box.layer, self.ihc_box.layer
        if he is None or ihc is None or self.he_box.count() < 2:
            return "Open both slides to start."
        if he == ihc:
            return "Choose two different slides."
        for layer, (_, spin) in zip((he, ihc), self._mpp.values(), strict=True):
            if Frame.of_layer(layer).mpp is None and spin.value() < SMALLEST_MPP:
                return "Enter the pixel size to start."
        return ""

    # Aligning ---------------------------------------------------------------------------

    def run(self, *, with_landmarks: bool = False) -> None:
        """Align what is chosen; what cannot be started is said in a notification."""
        if self.runner.running or self._missing() or self.view is None:
            return
        try:
            request = self._request(with_landmarks)
        except CellDETRError as error:
            self._on_failed(error)
            return
        self._begin("Opening the slides…")
        self.runner.start(lambda: align_job(request))

    def _request(self, with_landmarks: bool) -> AlignRequest:
        view = self.view
        assert view is not None
        refuse_same(view.he, view.ihc)
        sources = []
        for layer, (_, spin) in zip((view.he, view.ihc), self._mpp.values(), strict=True):
            frame = Frame.of_layer(layer)
            if frame.mpp is None:
                frame = _with_mpp(layer, frame, spin.value())
            sources.append(source_of_layer(layer, mpp=frame.mpp))
        values = {**self.form.values(), "limit_um": self.limit_spin.value()}
        config = from_mapping(RegisterConfig, values)
        marks = view.marks.pairs if with_landmarks else ()
        return AlignRequest(sources[0], sources[1], config, marks)

    def _begin(self, text: str) -> None:
        self._running = self.view
        self._ended = ""
        self.landmark_box.set_button.setChecked(False)
        self.region_box.tumour.stop()
        self.region_box.tumour.offer(aligned=False)
        self.run_bar.show_busy(text)
        self.load_button.setEnabled(False)
        self._show_marks()

    def cancel(self) -> None:
        """Stop; an earlier alignment stays."""
        if self.runner.running:
            self.run_bar.show_stopping()
            self.runner.stop()

    def _on_progress(self, step: Any) -> None:
        if self.run_bar.cancel_button.isEnabled():
            self.run_bar.show_progress(step)

    def _on_finished(self, aligned: Aligned) -> None:
        view, self._running = self._running, None
        if view is None:
            self._on_stopped()
            return
        view.take(aligned)
        forget_map(view)
        self._ended = "Aligned."
        if view is self.view:
            first = view.look is not Look.BLEND
            view.show(Look.BLEND)
            if first:
                view.fit()
            show_maps(view)
        self._show_state()
        self._check_ready()

    def _on_failed(self, error: CellDETRError) -> None:
        self._running = None
        show_error(str(error))
        self._ended = failure_words(error)
        if isinstance(error, RegistrationError):
            self._ended += f"\n{LANDMARK_HELP}"
            self.landmark_fold.button.setChecked(True)
        elif error.remedy:
            self._ended += f" What to do: {error.remedy}."
        self._check_ready()

    def _on_stopped(self) -> None:
        self._running = None
        self._ended = "Cancelled. Nothing was changed."
        self._check_ready()

    # What is shown ----------------------------------------------------------------------

    def _show_state(self) -> None:
        """All that depends on the pair and its alignment."""
        view = self.view
        transform = None if view is None else view.transform
        self.results.setVisible(view is not None)
        self.result_label.setVisible(transform is not None)
        self.result_label.setText("" if transform is None else result_words(transform))
        measured = transform is not None and transform.error_map is not None
        self.limit_row.setVisible(measured)
        self.share_label.setVisible(transform is not None)
        if transform is not None and view is not None:
            self.limit_spin.blockSignals(True)
            self.limit_spin.setValue(transform.limit_um)
            self.limit_spin.blockSignals(False)
            self.share_label.setText(share_words(transform))
            width = transform.ihc.extent_um[0]
            self.look_box.set_share(Look.CHECKER, cell_share(width / 12))
        self.look_box.show_ready(transform is not None)
        self.loupe_fold.setVisible(transform is not None)
        self.look_box.choose(Look.PLAIN if view is None else view.look)
        self.save_button.setEnabled(transform is not None)
        self._show_marks()
        self._show_regions()
        if not self.runner.running:
            self._offer_tumour()
        self._show_here()

    def show_look(self, look: Look) -> None:
        """Show the slides another way."""
        view = self.view
        if view is None:
            return
        before = view.look
        if look is Look.HE or look is Look.PLAIN:
            self.landmark_box.set_button.setChecked(False)
        self._set_shares()
        view.show(look)
        show_maps(view)
        self.look_box.choose(view.look)
        if view.look is not Look.PLAIN and _place(before) != _place(view.look):
            view.fit()
        self._show_here()

    def _set_shares(self) -> None:
        view = self.view
        if view is not None:
            view.compare(
                opacity=self.look_box.share(Look.BLEND),
                seam=self.look_box.share(Look.SWIPE),
                cell_um=cell_um(self.look_box.share(Look.CHECKER)),
            )

    def _compare(self) -> None:
        self._set_shares()

    def _on_camera(self, _event: Any = None) -> None:
        if not self._follow.isActive():
            self._follow.start()

    def _follow_camera(self) -> None:
        if self.view is not None:
            self.view.follow_camera()

    def _on_limit(self, limit_um: float) -> None:
        view = self.view
        if view is not None and view.transform is not None:
            view.set_limit(limit_um)
            self.share_label.setText(share_words(view.transform))
            self._show_here()

    def _on_move(self, _viewer: Any, event: Any) -> None:
        self._pointer = tuple(event.position)
        if not self._point.isActive():
            self._point.start()

    def _show_here(self) -> None:
        view = self.view
        if view is None or not view.is_shown or len(self._pointer) < 2:
            self.here_label.setText("")
            self.loupe.show_nothing()
            return
        here = view.here(np.array(self._pointer[-2:]))
        view.show_cursor(here)
        self.here_label.setText(error_words(here.error_um, trusted=here.trusted))
        if self.loupe.isVisible():
            self._show_loupe(view, here)

    def _show_loupe(self, view: AlignView, here: Here) -> None:
        picture = view.other_slide(here, self.loupe.room)
        if picture is None:
            self.loupe.show_nothing()
        else:
            # µm are world units here: a slide without a pixel size cannot be aligned.
            zoom = camera_of(self.viewer).zoom
            self.loupe.show_picture(picture, (here.error_um or 0.0) * zoom)

    # Landmarks --------------------------------------------------------------------------

    def set_landmarks(self, on: bool) -> None:
        """Begin or end to take clicks as landmarks."""
        view = self.view
        if view is None:
            self.landmark_box.set_button.setChecked(False)
            return
        if on and view.look is not Look.BESIDE:
            self.show_look(Look.BESIDE)
        if on and view.picture is not None:
            # A layer that draws with the mouse must not draw too.
            self.viewer.layers.selection.active = view.picture
        if not on and view.marks.wanted is not None:
            view.show_marks(view.marks.without([len(view.marks.items) - 1]))
        self._show_marks()

    def _on_press(self, _viewer: Any, event: Any) -> Any:
        """A click sets a landmark; a drag moves the slides as always."""
        if not self.landmark_box.set_button.isChecked() or event.button != 1:
            return
        start, world = np.array(event.pos, float), tuple(event.position)
        yield
        while event.type == "mouse_move":
            yield
        if np.hypot(*(np.array(event.pos, float) - start)) <= CLICK_PX:
            self.click(world[-2:])

    def click(self, world: tuple[float, ...]) -> None:
        """Set half a landmark at a place, world (y, x)."""
        view = self.view
        if view is None or view.look is not Look.BESIDE:
            return
        here = view.here(np.array(world))
        side = here.sides[0]
        at = here.he if side == "he" else here.ihc
        layer = view.he if side == "he" else view.ihc
        if at is None or not _inside(at, layer):
            show_info("Click on one of the two slides.")
            return
        view.show_marks(view.marks.clicked(side, at))
        self._show_marks()

    def use_landmarks(self, marks: Landmarks) -> None:
        """Take these landmarks in place of those set so far."""
        if self.view is not None:
            self.view.show_marks(marks)
            self._show_marks()

    def _delete_landmarks(self, rows: list[int]) -> None:
        if self.view is not None:
            self.use_landmarks(self.view.marks.without(rows))

    def _visit(self, row: int) -> None:
        if self.view is not None and self.view.is_shown:
            self.view.look_at(row)

    def _show_marks(self) -> None:
        view = self.view
        marks = Landmarks() if view is None else view.marks
        misses = marks.misses_um(None if view is None else view.transform)
        can = not self.runner.running and not self._missing()
        self.landmark_box.setEnabled(view is not None)
        self.landmark_box.show_landmarks(marks, misses, can_align=can)

    def _ask_save_landmarks(self) -> None:
        view = self.view
        if view is None:
            return
        offered = f"{stem_of(view.he.name)}-landmarks.csv"
        path, _ = QFileDialog.getSaveFileName(self, "Save landmarks", offered, CSV_FILTER)
        if path:
            self.save_landmarks(path)

    def save_landmarks(self, path: str | Path) -> None:
        """Write the landmarks as CSV; says where, or why not, in a notification."""
        if self.view is not None:
            target = _suffixed(path, ".csv")
            with _told():
                count = write_landmarks(self.view.marks, target)
                show_info(f"{target.name}: {count} landmarks. Folder: {target.absolute().parent}")

    def _ask_load_landmarks(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load landmarks", "", CSV_FILTER)
        if path:
            self.load_landmarks(path)

    def load_landmarks(self, path: str | Path) -> None:
        """Take the landmarks of a CSV file; why not is said in a notification."""
        with _told():
            self.use_landmarks(read_landmarks(path))
            if self.view is not None and self.view.look is Look.PLAIN:
                self.show_look(Look.BESIDE)

    # Regions ----------------------------------------------------------------------------

    def _show_regions(self) -> None:
        shapes = [layer for layer in self.viewer.layers if isinstance(layer, Shapes)]
        aligned = self.view is not None and self.view.transform is not None
        self.region_box.show_layers(shapes, aligned=aligned)

    def _offer_tumour(self) -> None:
        aligned = self.view is not None and self.view.transform is not None
        self.region_box.tumour.offer(aligned=aligned)

    def find_tumour(self) -> None:
        """Let the network look for tumour in the H&E, and carry it to the IHC."""
        view = self.view
        if view is not None and view.transform is not None and not self.runner.running:
            self.region_box.tumour.press(view)

    def _show_on_ihc(self, view: AlignView) -> None:
        """A view in which what lies on the IHC is in its place."""
        if view is self.view and view.look in (Look.PLAIN, Look.HE):
            self.show_look(Look.BLEND)

    def draw_regions(self) -> None:
        """A new layer in which the mouse draws regions."""
        view = self.view
        if view is None:
            return
        self.landmark_box.set_button.setChecked(False)
        layer = Shapes(
            ndim=2,
            name="Regions",
            edge_color=KEPT_COLOR,
            face_color="transparent",
            edge_width=LINE_PX / camera_of(self.viewer).zoom,
            units=Frame.of_layer(view.ihc).units,
            axis_labels=AXES,
        )
        self.viewer.add_layer(layer)
        self.viewer.layers.selection.active = layer
        layer.mode = "add_polygon"

    def carry(self, *, inverse: bool) -> None:
        """Carry the chosen layer's regions to the other slide, as a new layer."""
        view, source = self.view, self.region_box.layer
        if view is None or view.transform is None or source is None:
            return
        try:
            reading = self._reading(view, inverse=inverse)
            frame = Frame.of_layer(view.he if inverse else view.ihc)
            zoom = camera_of(self.viewer).zoom
            carried = carry_regions(
                source, reading, view.transform, frame=frame, inverse=inverse, zoom=zoom
            )
        except CellDETRError as error:
            show_error(str(error))
            self.region_box.say(error.message)
            return
        was_beside = view.look is Look.BESIDE
        look = Look.HE if inverse else Look.BESIDE if was_beside else Look.BLEND
        if look is not view.look:
            self.show_look(look)
            # It would lie in the wrong place on what is shown now.
            source.visible = False
        self.viewer.add_layer(carried.layer)
        self.region_box.say(carried.sentence())

    def _reading(self, view: AlignView, *, inverse: bool) -> Reading:
        """How to read places in the view, on the slide they are to be carried from."""
        side = "ihc" if inverse else "he"
        fits = view.look in ((Look.PLAIN, Look.HE) if not inverse else (Look.PLAIN, Look.BLEND))
        overlaid = inverse and view.look in (Look.SWIPE, Look.CHECKER)

        def read(world: Any) -> Any:
            if view.look is Look.BESIDE:
                if any(side not in view.sides(place) for place in world):
                    raise _elsewhere("some lie on the other slide")
            elif not (fits or overlaid):
                raise _elsewhere("another view")
            return view.ihc_at(world) if inverse else view.he_at(world)

        return read

    # Files ------------------------------------------------------------------------------

    def _ask_save(self) -> None:
        view = self.view
        if view is None:
            return
        offered = f"{stem_of(view.he.name)}-on-{stem_of(view.ihc.name)}.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save alignment", offered, JSON_FILTER)
        if path:
            self.save(path)

    def save(self, path: str | Path) -> None:
        """Write the alignment; says where, or why not, in a notification."""
        if self.view is not None and self.view.transform is not None:
            target = _suffixed(path, ".json")
            with _told():
                write_transform(self.view.transform, target)
                show_info(f"{target.name} is saved. Folder: {target.absolute().parent}")

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load alignment", "", FILE_FILTER)
        if not path:
            return
        physical = None
        if not says_lengths(Path(path)):
            dialog = PhysicalDialog(Path(path).name, self)
            if not dialog.exec():
                return
            physical = dialog.physical()
        self.load(path, physical)

    def load(self, path: str | Path, physical: Any = None) -> None:
        """Take the alignment of a file; `physical` says what another program's lengths mean."""
        if self.runner.running or self._missing() or self.view is None:
            return
        try:
            request = self._request(with_landmarks=False)
        except CellDETRError as error:
            self._on_failed(error)
            return
        self._begin(f"Reading {Path(path).name}…")
        source = Path(path)
        self.runner.start(lambda: load_job(request, source, physical))


def _end_collecting(owner: object, *_: object) -> None:
    collector.end(owner)


@contextmanager
def _told() -> Iterator[None]:
    """An error the user can read becomes a notification."""
    try:
        yield
    except CellDETRError as error:
        show_error(str(error))


def _mpp_row(form: Any, text: str) -> tuple[QLabel, QDoubleSpinBox]:
    label, spin = QLabel(text), QDoubleSpinBox()
    spin.setDecimals(4)
    spin.setSingleStep(0.01)
    spin.setRange(0.0, 2.0)
    spin.setSpecialValueText("please enter")
    spin.setSuffix(" µm/px")
    spin.setToolTip(
        "How wide one pixel is; this slide does not say. 0.25 is usual for a 40× scan, 0.5 for 20×"
    )
    form.addRow(label, spin)
    return label, spin


def _with_mpp(layer: Any, frame: Frame, mpp: float) -> Frame:
    """Give a layer in pixels the pixel size that the user entered."""
    layer.scale = tuple(mpp * s for s in frame.scale)
    layer.units = ("um", "um")
    return Frame.of_layer(layer)


def _place(look: Look) -> str:
    """Looks that show the same part of the world."""
    return str(look) if look in (Look.BESIDE, Look.HE) else "ihc"


def _inside(at: tuple[float, float], layer: Any) -> bool:
    height, width = levels_of(layer)[0].shape[:2]
    return 0 <= at[0] <= int(width) and 0 <= at[1] <= int(height)


def _suffixed(path: str | Path, suffix: str) -> Path:
    given = Path(path)
    return given if given.suffix.lower() == suffix else given.with_name(given.name + suffix)


def _elsewhere(found: str) -> ConfigError:
    return ConfigError(
        DRAWN_ELSEWHERE[0],
        expected=DRAWN_ELSEWHERE[1],
        found=found,
        remedy="choose that view under Show, then press again",
    )
