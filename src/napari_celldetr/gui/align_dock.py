"""*Align slides*: lay an H&E slide onto its IHC slide, look how well they fit, carry regions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui import collector
from napari_celldetr.gui.align_choice import PairBox
from napari_celldetr.gui.align_files import FileBox
from napari_celldetr.gui.align_job import Aligned, AlignRequest
from napari_celldetr.gui.align_mark_box import LandmarkBox
from napari_celldetr.gui.align_marks import Marks
from napari_celldetr.gui.align_pairs import Pairs
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_region_box import RegionBox
from napari_celldetr.gui.align_regions import Regions
from napari_celldetr.gui.align_result import ResultBox
from napari_celldetr.gui.align_runs import AlignRuns
from napari_celldetr.gui.align_sides import show_sides
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.align_words import EMPTY_TEXT, left_out_words, step_words
from napari_celldetr.gui.form import ConfigForm
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.panel import Dock, RunBar
from napari_celldetr.gui.parts import Fold, single_shot, wrapped_label
from napari_celldetr.gui.sources import levels_of, source_of_layer
from napari_celldetr.gui.tumour_find import forget_map, show_maps
from napari_celldetr.pipeline.register import RegisterConfig

CURSOR_MS, CAMERA_MS, SLIDER_MS = 15, 25, 15
"""The newest position is shown at most this often."""


class AlignDock(Dock):
    """The dock widget."""

    def __init__(self, napari_viewer: Any, *, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self._pointer: tuple[float, ...] = ()
        self.pairs = Pairs(napari_viewer, self)
        self._build()
        self._connect()
        # A window may go without a word: the collector must not wait for it.
        self._open_slides = object()
        collector.begin(self._open_slides)
        self.destroyed.connect(partial(_end_collecting, self._open_slides))
        self.choice.list_slides()

    @property
    def view(self) -> AlignView | None:
        """What is shown of the chosen pair."""
        return self.pairs.view

    # What it is made of -----------------------------------------------------------------

    def _build(self) -> None:
        column = self.start_column("Align slides")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        column.addWidget(self.empty_label)
        self.choice = PairBox(self.viewer)
        column.addWidget(self.choice)
        self.form = ConfigForm(RegisterConfig, skip=("limit_um",))
        column.addWidget(Fold("Options", self.form))
        self.run_bar = RunBar("Align", words=step_words)
        self.run_bar.run_button.setToolTip("Find where the H&E's tissue lies on the IHC slide")
        self.run_bar.cancel_button.setToolTip("Stop. An earlier alignment stays as it was")
        self.run_bar.bar.setToolTip("How far the alignment is")
        column.addWidget(self.run_bar)
        self.result = ResultBox()
        column.addWidget(self.result)
        self.landmark_box = LandmarkBox()
        self.landmark_fold = Fold("Landmarks", self.landmark_box)
        column.addWidget(self.landmark_fold)
        self.region_box = RegionBox()
        column.addWidget(Fold("Carry regions over", self.region_box))
        self.files = FileBox(self.pairs)
        column.addWidget(Fold("Alignment file", self.files))
        self.finish_column(column)
        self.runs = AlignRuns(self.run_bar, self)
        self.marks = Marks(self.pairs, self.landmark_box, self)
        self.regions = Regions(self.pairs, self.region_box, self)

    def _connect(self) -> None:
        self._point = single_shot(self, CURSOR_MS, self._show_here)
        self._follow = single_shot(self, CAMERA_MS, self._follow_camera)
        self._slide = single_shot(self, SLIDER_MS, self._compare)
        self.run_bar.run_clicked.connect(self.run)
        self.run_bar.cancel_clicked.connect(self.runs.cancel)
        self.choice.chosen.connect(self._on_slides)
        self.choice.entered.connect(self._check_ready)
        self.result.look_box.chosen.connect(self.show_look)
        self.result.look_box.slid.connect(lambda *_: self._slide.isActive() or self._slide.start())
        self.result.limit_spin.valueChanged.connect(self._on_limit)
        self.landmark_box.align_button.clicked.connect(lambda: self.run(with_landmarks=True))
        self.region_box.wanted.connect(self.draw_regions)
        self.files.loading.connect(self.load)
        self._connect_parts()
        self._connect_viewer()

    def _connect_parts(self) -> None:
        self.runs.began.connect(self._on_began)
        self.runs.aligned.connect(self.take)
        self.runs.refused.connect(lambda: self.landmark_fold.button.setChecked(True))
        self.runs.ended.connect(self._check_ready)
        self.marks.changed.connect(self._show_marks)
        self.marks.came_back.connect(lambda: self.landmark_fold.button.setChecked(True))
        self.pairs.leaving.connect(self.marks.end)
        self.pairs.opened.connect(self._on_opened)
        self.pairs.gone.connect(self.runs.forget)
        self.pairs.looked.connect(self._on_looked)
        self.pairs.drawn.connect(self._show_here)

    def _connect_viewer(self) -> None:
        layers = self.viewer.layers.events
        layers.inserted.connect(self._on_layers)
        layers.removed.connect(self._on_removed)
        camera = camera_of(self.viewer).events
        camera.center.connect(self._on_camera)
        camera.zoom.connect(self._on_camera)
        self.viewer.mouse_move_callbacks.append(self._on_move)
        self.viewer.mouse_drag_callbacks.append(self.marks.on_press)

    def let_go(self) -> None:
        """Stop what runs; a finished alignment stays in the viewer, laid on the IHC."""
        self.runs.let_go()
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
            (self.viewer.mouse_drag_callbacks, self.marks.on_press),
        ):
            if call in calls:
                calls.remove(call)
        self.choice.let_go()
        self.pairs.let_go()
        collector.end(self._open_slides)

    # Slides -----------------------------------------------------------------------------

    def _on_slides(self) -> None:
        self.empty_label.setVisible(self.choice.lacks_slides)
        self.pairs.open(self.choice.pair)
        self._check_ready()

    def _on_opened(self) -> None:
        self.runs.said = ""
        self._show_state()

    def _on_layers(self, _event: Any = None) -> None:
        self.choice.suggest()
        self.regions.show()

    def _on_removed(self, event: Any) -> None:
        self.pairs.forget(event.value)
        self.regions.show()

    def _check_ready(self) -> None:
        if self.runs.running:
            return
        missing = self.choice.missing()
        text = " ".join(t for t in (self.runs.said, missing) if t)
        self.run_bar.show_idle(text, can_run=not missing)
        self._show_marks()
        self.files.load_button.setEnabled(not missing)
        self.regions.offer_tumour()

    # Aligning ---------------------------------------------------------------------------

    def run(self, *, with_landmarks: bool = False) -> None:
        """Align what is chosen; what cannot be started is said in a notification."""
        request = self._request(with_landmarks)
        if request is not None and self.view is not None:
            self.runs.align(self.view, request)

    def load(self, path: str | Path, physical: Any = None) -> None:
        """Take the alignment of a file; `physical` says what another program's lengths mean."""
        request = self._request(with_landmarks=False)
        if request is not None and self.view is not None:
            self.runs.load(self.view, request, Path(path), physical)

    def _request(self, with_landmarks: bool) -> AlignRequest | None:
        """What is asked for now; None while there is nothing to begin with."""
        view = self.view
        if self.runs.running or self.choice.missing() or view is None:
            return None
        try:
            if self.choice.give_sizes((view.he, view.ihc)):
                # What was known was measured with another pixel size.
                view.take(None)
                self._show_state()
            he, ihc = (
                source_of_layer(layer, mpp=Frame.of_layer(layer).mpp)
                for layer in (view.he, view.ihc)
            )
            values = {**self.form.values(), "limit_um": self.result.limit_spin.value()}
            config = from_mapping(RegisterConfig, values)
        except CellDETRError as error:
            self.runs.fail(error)
            return None
        marks = view.marks.pairs if with_landmarks else ()
        return AlignRequest(he, ihc, config, marks, levels_of(view.he))

    def _on_began(self) -> None:
        self.marks.end()
        self.region_box.tumour.stop()
        self.region_box.tumour.offer(aligned=False)
        self.files.load_button.setEnabled(False)
        self.marks.show(can_align=False)

    def take(self, view: AlignView, aligned: Aligned) -> None:
        """Show a finished alignment of a pair."""
        view.take(aligned)
        forget_map(view)
        if view is self.view:
            first = view.look is not Look.BLEND
            view.show(Look.BLEND)
            if first:
                view.fit()
            show_maps(view)
            show_sides(view, self.viewer.layers)
        self._show_state()
        self.regions.note_older()

    # What is shown ----------------------------------------------------------------------

    def _show_state(self) -> None:
        """All that depends on the pair and its alignment."""
        view = self.view
        self.result.show_view(view)
        self.files.show_state(aligned=view is not None and view.transform is not None)
        self._show_marks()
        self.regions.show()
        if not self.runs.running:
            self.regions.offer_tumour()
        self._show_here()

    def _show_marks(self) -> None:
        self.marks.show(can_align=not self.runs.running and not self.choice.missing())

    def show_look(self, look: Look) -> None:
        """Show the slides another way."""
        if look is not Look.BESIDE:
            self.marks.end()
        self._compare()
        self.pairs.show_look(look)

    def _on_looked(self, look: Look) -> None:
        self.result.look_box.choose(look)
        self._show_here()

    def _compare(self) -> None:
        if self.view is not None:
            self.result.compare(self.view)

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
            self.result.share_label.setText(left_out_words(view.transform))
            self.regions.note_older()
            self._show_here()

    def _on_move(self, _viewer: Any, event: Any) -> None:
        self._pointer = tuple(event.position)
        if not self._point.isActive():
            self._point.start()

    def _show_here(self) -> None:
        view = self.view
        if view is None or not view.is_shown or len(self._pointer) < 2:
            self.result.show_nowhere()
        else:
            self.result.show_here(view, self._pointer)

    def draw_regions(self) -> None:
        """A new layer in which the mouse draws regions."""
        self.marks.end()
        self.regions.draw()


def _end_collecting(owner: object, *_: object) -> None:
    collector.end(owner)
