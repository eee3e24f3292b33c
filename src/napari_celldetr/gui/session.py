"""One slide in the viewer: its cells, what people say of them, and what is drawn of both.

The docks share one session per slide layer. It lives in the GUI thread; whatever takes long is
done by jobs, whose results it takes over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.annotations import Annotations, CorrectedCells, Edit
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.core.head import Head
from napari_celldetr.core.progress import Job, TileEvent, drain
from napari_celldetr.core.regions import Region
from napari_celldetr.gui import collector
from napari_celldetr.gui.coverage import Coverage
from napari_celldetr.gui.detect_job import Earlier, SlideFrame
from napari_celldetr.gui.file_jobs import record_job, write_job
from napari_celldetr.gui.keeping import Kept, Result, close_kept, open_job, save_job
from napari_celldetr.gui.keeping import close as shut
from napari_celldetr.gui.layers import BOUNDS_KEY, Frame
from napari_celldetr.gui.overlay import NO_ROWS, Overlay, camera_of, view_of
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import single_shot
from napari_celldetr.gui.prepared import Prepared
from napari_celldetr.gui.raster import CellRaster
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.export_check import ExportCheck
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.lessons import LessonStore
from napari_celldetr.pipeline.project import user_name
from napari_celldetr.pipeline.project_record import SlideRecord
from napari_celldetr.pipeline.reapply import Conflict, seen_in_areas
from napari_celldetr.pipeline.reviewed import with_sizes
from napari_celldetr.pipeline.self_check import Finding, check_cells

LOOK_MS = 3_000
"""Where one looks is written down this long after the camera has come to rest."""
REST_MS = 150
"""The camera has come to rest after this."""
NEARBY, FEW_NEARBY = 8, 5
"""How many nuclei far cells are like their neighbours, and how many of these it takes."""
CHECKED = 2_000
"""So many nuclei tell well enough how large they are."""
SESSION_KEY = "celldetr_session"
Color = tuple[int, int, int]
SPARE_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (148, 103, 189),
    (140, 86, 75),
    (23, 190, 207),
)
"""For classes that people add; told apart by colour-blind eyes as well as eight can be."""


class SlideSession(QObject):
    """Cells, corrections, selection and layers of one slide layer.

    Signals
    -------
    cells_changed
        What is drawn or counted is another.
    selection_changed
    journal_changed
        An edit was made, taken back, or saved.
    claims_changed
        The model's claims are others: conflicts may be.
    opened
        The record was opened, or something about saving is to be told (`problems`).
    view_changed
        The camera has come to rest somewhere else.
    lesson_changed
        Another lesson gives the claims their classes.

    `state` is ``opening``, ``open``, ``unsaved`` (the project cannot be used) or empty.
    """

    cells_changed = Signal()
    selection_changed = Signal()
    journal_changed = Signal()
    claims_changed = Signal()
    opened = Signal()
    view_changed = Signal()
    lesson_changed = Signal()

    def __init__(self, viewer: Any, layer: Any, *, author: str = "") -> None:
        super().__init__()
        self.viewer = viewer
        self.layer = layer
        self.author = author or user_name()
        self.frame = Frame.of_layer(layer)
        self.size: tuple[int, int] = source_of_layer(layer, mpp=self.frame.mpp).size
        self.bounds: Region | None = layer.metadata.get(BOUNDS_KEY)
        self._now = _CellsNow(CellTable((), cell_ids))
        self.overlay: Overlay | None = None
        self.selected: Rows = NO_ROWS
        self.conflicts: tuple[Conflict, ...] = ()
        self.model = ""
        self.weights = ""
        self.lesson: Lesson | None = None
        self.read_only = ""
        self.users: set[int] = set()
        self.state = ""
        self.problems: tuple[str, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self._of_cells: tuple[Finding, ...] = ()
        self._record: SlideRecord | None = None
        self._moved = self._begun = False
        self._opener, self._saver = JobRunner(self), JobRunner(self)
        self._opener.finished.connect(self._on_opened)
        self._opener.failed.connect(self._on_open_failed)
        self._saver.failed.connect(self._on_save_failed)
        self._merged: Detections | None = None
        self._identity: tuple[Any, ...] = ()
        self._colors: dict[str, Color] = {}
        self._journal: Any = None
        self._done: list[Edit] = []
        self._undone: list[Edit] = []
        self._rest = single_shot(self, REST_MS, self._on_rest)
        self._look = single_shot(self, LOOK_MS, self._keep_view)

    @property
    def cells(self) -> CellTable:
        """All cells, with what people said of them."""
        return self._now.cells

    @cells.setter
    def cells(self, table: CellTable) -> None:
        self._now.cells = table

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run that found these cells; empty where there is none."""
        if len(self._identity) < 2:
            return {}
        try:
            found = json.loads(self._identity[1])
        except (TypeError, ValueError):
            # Written by another version, or by hand: then the dock keeps what it shows.
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def record(self) -> SlideRecord | None:
        """What the project keeps of the slide; None until it is open, and without a project."""
        return self._record

    def join(self, user: object) -> None:
        """A dock works with it from now on; the first one opens the slide's record."""
        first = not self.users
        self.users.add(id(user))
        if first:
            collector.begin(self)
            self._listen(True)
            self._open()

    def leave(self, user: object) -> None:
        """A dock is done with it; after the last one it rests, and its layers stay."""
        if id(user) in self.users:
            self.users.discard(id(user))
            if not self.users:
                self._listen(False)
                self._keep_view()
                self._shut()

    def close(self) -> None:
        """The slide's layer is gone."""
        self.layer.metadata.pop(SESSION_KEY, None)
        self._keep_view()
        if self.users:
            self.users.clear()
            self._listen(False)
        self._shut()

    def _listen(self, follow: bool) -> None:
        events = self.viewer.layers.events.removed
        camera = camera_of(self.viewer).events
        signals = [
            (events, self._on_removed),
            (camera.center, self._on_camera),
            (camera.zoom, self._on_camera),
        ]
        canvas = getattr(self.viewer, "canvas", None)
        if canvas is not None:
            # A larger window shows more of the slide.
            signals.append((canvas.events.size, self._on_canvas))
        for signal, call in signals:
            signal.connect(call) if follow else signal.disconnect(call)
        self._rest.stop()
        self._look.stop()
        if self.overlay is not None:
            self.overlay.listen(follow)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer or event.value == self.layer:
            self.close()

    # The slide's record -----------------------------------------------------------------

    def _open(self) -> None:
        source, author = source_of_layer(self.layer, mpp=self.frame.mpp), self.author
        self.state = "opening"
        self._opener.start(
            lambda: open_job(source, author=author),
            discard=close_kept,
        )

    def _on_opened(self, kept: Kept) -> None:
        self.state, self.problems = "open", kept.problems
        self.findings = kept.findings
        self._record = kept.record
        pending, self._done, self._undone = self._done, [], []
        hindrance = kept.record.hindrance if kept.record.read_only else ""
        # What people said first: a result is laid under it, and nothing said may be lost should
        # the result be none that can be shown.
        self.use_journal(kept.writer, kept.annotations, read_only=hindrance)
        if kept.result is not None and not self._begun:
            self._show_result(kept.result)
        for edit in [] if hindrance else pending:
            self.edit(edit)
        if hindrance and pending:
            lost = "; ".join(edit.what for edit in pending)
            self.problems = (*self.problems, f"Not kept, as the slide is read-only: {lost}.")
        if kept.view and not self._begun:
            self._restore(kept.view, look=not self._moved)
        self.opened.emit()

    def _show_result(self, result: Result) -> None:
        self._colors |= result.colors
        self.lesson = result.lesson
        self.model, self.weights = result.model, result.weights
        table = result.cells.claims.table
        mpp = table.source.mpp
        if mpp is not None and mpp != self.frame.mpp:
            # A person had given another pixel size than the layer's.
            self._place(mpp)
        names = table.class_names
        colors = [self._colors.get(name, SPARE_COLORS[0]) for name in names]
        self.start_over(names, colors, result.threshold)
        self._identity = result.identity
        if result.coverage is not None and self.overlay is not None:
            self.overlay.show_coverage(result.coverage)
        self.take(result.cells, keep=False)

    def _on_open_failed(self, error: CellDETRError) -> None:
        self.state, self.problems = "unsaved", (str(error),)
        self.opened.emit()

    def _keep(self) -> None:
        """Save the claims as they are now, in the background."""
        record, table = self._record, self._merged
        if record is None or record.read_only or table is None:
            return
        coverage = self.coverage.to_json() if self.coverage is not None else None
        threshold, identity = self.cells.threshold, self._identity
        colors = dict(self.color_names)
        self._saver.start(
            lambda: save_job(
                record,
                table,
                threshold=threshold,
                identity=identity,
                colors=colors,
                coverage=coverage,
            )
        )

    def _on_save_failed(self, error: CellDETRError) -> None:
        self.problems = (*self.problems, str(error))
        self.opened.emit()

    def _keep_view(self) -> None:
        if self._record is None or self._record.read_only:
            return
        camera = camera_of(self.viewer)
        view = {
            "center": [float(v) for v in camera.center[-2:]],
            "zoom": float(camera.zoom),
        }
        if self._merged is not None:
            view["threshold"] = float(self.cells.threshold)
        try:
            self._record.save_view(view)
        except CellDETRError as error:
            # Where one looked last is no loss; a disk that fails is told with the corrections.
            self.problems = (*self.problems, str(error))

    def _restore(self, view: Mapping[str, Any], *, look: bool) -> None:
        try:
            y, x = (float(v) for v in view["center"])
            zoom, threshold = float(view["zoom"]), float(view.get("threshold", 0))
        except (KeyError, TypeError, ValueError):
            return
        if not np.isfinite([y, x, zoom, threshold]).all() or zoom <= 0:
            return
        camera = camera_of(self.viewer)
        if look:
            camera.center, camera.zoom = (*camera.center[:-2], y, x), zoom
        if 0 < threshold < 1:
            self.set_threshold(threshold)

    def _shut(self) -> None:
        """Let go of the record: what is not on disk yet is written first."""
        collector.end(self)
        self._opener.abandon()
        writer, record = self._journal, self._record
        self._journal = self._record = None
        self.state = ""
        trouble = shut(record, writer)
        if trouble:
            self.problems = (*self.problems, trouble)
            show_error(trouble)

    # Claims -----------------------------------------------------------------------------

    def begin(self, card: Any, identity: tuple[Any, ...], threshold: float) -> None:
        """A run begins. Claims of the same `identity` (model and settings) stay, others go.

        Corrections stay in any case.
        """
        self._begun = True
        self.frame = Frame.of_layer(self.layer)
        self.model, self.weights = card.name, card.weights_sha256
        if identity != self._identity or self.overlay is None or not self.overlay.layers:
            self.start_over(card.class_names, card.class_colors, threshold)
        self._identity = identity
        self.cells_changed.emit()

    def start_over(
        self, class_names: Sequence[str], colors: Sequence[Color], threshold: float
    ) -> None:
        """No claims any more; what people said stays."""
        said = self.cells.annotations
        self.cells = CellTable(class_names, cell_ids, threshold=threshold)
        self.cells.load(said)
        self.cells.teach(self._head())
        self._colors |= dict(zip(class_names, colors, strict=True))
        self.conflicts, self._merged = (), None
        self._select(NO_ROWS)
        self.show_layers()
        self.claims_changed.emit()

    def show_layers(self) -> Overlay:
        """Layers for the present table, in place of any there were."""
        if self.overlay is not None:
            old = self.overlay.layers
            self.overlay.listen(False)
            for layer in old:
                if layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
        self.overlay = Overlay(
            self.viewer,
            cells=self.cells,
            frame=self.frame,
            size=self.size,
            colors=self.colors,
            name=Path(self.layer.name).stem,
            owner=self,
        )
        if self.users:
            self.overlay.listen(True)
        self.overlay.show_areas(self.cells.annotations.areas)
        if len(self.cells):
            self.overlay.reloaded()
        return self.overlay

    def seen(self) -> NDArray[np.float32]:
        """Centres (N, 2) of the cells a person has seen in complete areas; ask before `begin`."""
        return seen_in_areas(self.cells)

    def earlier(self, seen: NDArray[np.float32] | None = None) -> Earlier:
        """What a run's result is joined with; `seen` as it was before the run began."""
        return Earlier(
            claims=self._merged,
            # Without the session: a job's thread must not be the last to let go of it.
            annotations=self._now.annotations,
            seen=seen,
            threshold=self.cells.threshold,
            teacher=self.cells.teacher,
        )

    def annotations_now(self) -> Annotations:
        """A copy of all that people said."""
        return self._now.annotations()

    def add_tile(self, event: TileEvent, *, within: Region | None = None) -> None:
        """A finished tile of the run that goes on in the region `within`."""
        if self.overlay is None:
            return
        self.overlay.add_tile(event.tile, event.detections, event.state, within=within)
        self._drop_gone()

    def take(self, cells: Prepared, *, keep: bool = True) -> None:
        """The merged result of a run, which is kept in the project, or what came from there."""
        if self.overlay is None:
            return
        self._merged = cells.claims.table
        self.overlay.replace(cells.claims, cells.raster, covered=cells.covered)
        self.conflicts = cells.conflicts
        self._select(NO_ROWS)
        self.refresh()
        self.claims_changed.emit()
        self.cells_changed.emit()
        if keep:
            self._look.start()
            self._keep()

    def check_cells(self, card: Any) -> None:
        """See whether the nuclei found so far go with the pixel size (`findings`)."""
        mpp = self.cells.source.mpp or self.frame.mpp
        rows = np.flatnonzero(self.cells.kept)[:CHECKED]
        if mpp is not None:
            found = check_cells(self.cells.select(rows), mpp, card=card)
            mine = [f for f in self.findings if f not in self._of_cells]
            self._of_cells = tuple(found)
            self.findings = (*mine, *found)
            self.opened.emit()

    def use_mpp(self, mpp: float) -> None:
        """Take another pixel size (µm) for the slide; cells found with the old one go.

        The same part of the slide stays on the screen.
        """
        before = self.frame
        self._place((mpp, mpp))
        self._look_where(before)
        self.findings, self._of_cells, self._identity = (), (), ()
        if self.overlay is not None:
            self.start_over(self.cells.class_names, self.colors, self.cells.threshold)
        self.opened.emit()
        self.cells_changed.emit()

    def _look_where(self, before: Frame) -> None:
        """See in the present frame what was seen in the one before."""
        camera = camera_of(self.viewer)
        place = before.from_world(np.array([camera.center[-2:]], np.float64))
        y, x = self.frame.to_world(place)[0]
        camera.center = (*camera.center[:-2], float(y), float(x))
        camera.zoom *= float(np.mean(before.scale) / np.mean(self.frame.scale))

    def _place(self, mpp: tuple[float, float]) -> None:
        self.layer.scale = (*self.layer.scale[:-2], mpp[1], mpp[0])
        self.layer.units = ("um", "um")
        self.frame = Frame.of_layer(self.layer)

    # Lessons ----------------------------------------------------------------------------

    @property
    def lessons(self) -> LessonStore | None:
        """Where lessons of this slide are kept; None where its record cannot be used."""
        return None if self._record is None else self._record.lessons

    def _head(self) -> Head | None:
        fits = self.lesson is not None and self.lesson.fits(self.weights)
        return self.lesson.head if fits and self.lesson is not None else None

    def use_lesson(self, lesson: Lesson | None, raster: CellRaster) -> Rows:
        """Let a lesson hold, or none; the rows whose class changed.

        `raster` was painted with it in a job's thread. Raises `DataError` where it does not fit.
        """
        before = self.lesson
        self.lesson = lesson
        try:
            rows = self.cells.teach(self._head())
        except CellDETRError:
            self.lesson = before
            raise
        if lesson is not None:
            self._colors = {**lesson.class_colors, **self._colors}
        if self.overlay is not None:
            self.overlay.set_colors(self.colors)
            self.overlay.retaught(raster)
        self.refresh()
        self.cells_changed.emit()
        self.lesson_changed.emit()
        return rows

    # Colours and figures ----------------------------------------------------------------

    @property
    def colors(self) -> list[Color]:
        """A colour for every class, in the table's order."""
        spare = iter(c for c in SPARE_COLORS * 4 if c not in self._colors.values())
        for name in self.cells.class_names:
            if name not in self._colors:
                self._colors[name] = next(spare, SPARE_COLORS[0])
        return [self._colors[name] for name in self.cells.class_names]

    @property
    def color_names(self) -> Mapping[str, Color]:
        """Class name to colour."""
        return dict(zip(self.cells.class_names, self.colors, strict=True))

    def add_class(self, name: str) -> None:
        """A class of people's own."""
        self.cells.annotations.translate([name])
        if self.overlay is not None:
            self.overlay.set_colors(self.colors)
        self.cells_changed.emit()

    @property
    def coverage(self) -> Coverage | None:
        """What was looked at."""
        return None if self.overlay is None else self.overlay.coverage

    def view(self) -> Region | None:
        """The part of the slide that is on the screen."""
        view = view_of(self.viewer, self.frame)
        return None if view is None else view.region.intersect(Region(0, 0, *self.size))

    def set_threshold(self, threshold: float) -> None:
        """Score from which claims count."""
        if self.overlay is not None:
            self.overlay.set_threshold(threshold)
            self.refresh()
        self._look.start()
        self.cells_changed.emit()

    # Corrections ------------------------------------------------------------------------

    def use_journal(self, writer: Any, annotations: Annotations, *, read_only: str = "") -> None:
        """Write down everything from now on; `annotations` are what the journal says so far.

        `read_only` says in words why nothing can be edited, empty when it can.
        """
        self._journal = writer
        self.read_only = read_only
        self.cells.load(annotations)
        if self.overlay is not None:
            self.overlay.set_colors(self.colors)
            self.overlay.show_areas(self.cells.annotations.areas)
            self.overlay.reloaded()
        elif len(self.cells) or self.cells.annotations.areas:
            self.show_layers()
        self._after_edit()

    def edit(self, edit: Edit) -> Rows:
        """Let an edit hold, draw it, and have it written down; the rows it changed.

        Raises `AnnotationError` when this slide's corrections are read-only here.
        """
        self._refuse_if_read_only()
        if not len(edit) and not edit.areas:
            return NO_ROWS
        if self._journal is not None:
            self._journal.append(edit, model=self.model, weights=self.weights)
        else:
            self._done.append(edit)
            self._undone.clear()
        return self._apply(edit)

    def undo(self) -> str | None:
        """Take the last edit back; what it was, or None when there is none."""
        return self._turn("undo", self._done, self._undone)

    def redo(self) -> str | None:
        """Bring the last undone edit back."""
        return self._turn("redo", self._undone, self._done)

    def _turn(self, kind: str, source: list[Edit], other: list[Edit]) -> str | None:
        self._refuse_if_read_only()
        author = self.author
        if self._journal is not None:
            author = (kind == "redo" and self._journal.redo_author) or author
            edit = getattr(self._journal, kind)()
        elif source:
            last = source.pop()
            other.append(last)
            edit = last.reversed() if kind == "undo" else last
        else:
            edit = None
        if edit is None:
            return None
        self._apply(edit, author=author, back=kind == "undo")
        what: str = edit.what
        return what

    @property
    def can_undo(self) -> str | None:
        """What `undo` would take back."""
        if self._journal is not None:
            words: str | None = self._journal.can_undo
            return words
        return self._done[-1].what if self._done else None

    @property
    def can_redo(self) -> str | None:
        """What `redo` would bring back."""
        if self._journal is not None:
            words: str | None = self._journal.can_redo
            return words
        return self._undone[-1].what if self._undone else None

    @property
    def saved(self) -> Any | None:
        """State of the journal, see `JournalWriter.state`; None without one."""
        return None if self._journal is None else self._journal.state

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise AnnotationError(
                "These corrections can be looked at only.",
                expected="a slide that nobody else is correcting",
                found=self.read_only,
                remedy="ask them to close it, then open it again",
            )

    def _apply(self, edit: Edit, *, author: str = "", back: bool = False) -> Rows:
        before = edit.before.boxes[edit.before.boxes[:, 2] > edit.before.boxes[:, 0]]
        rows = self.cells.apply(edit, author=author or self.author, back=back)
        overlay = self.overlay or self.show_layers()
        overlay.set_colors(self.colors)
        if edit.areas:
            overlay.show_areas(self.cells.annotations.areas)
        overlay.restated(rows, before)
        self._drop_gone()
        self._after_edit()
        return rows

    def _after_edit(self) -> None:
        self.refresh()
        self.journal_changed.emit()
        self.cells_changed.emit()

    # Selection --------------------------------------------------------------------------

    def select(self, rows: Rows) -> None:
        """Select cells by row of the table."""
        self._select(np.asarray(rows, np.int64))
        self.refresh()

    def _select(self, rows: NDArray[np.int64]) -> None:
        self.selected = rows
        if self.overlay is not None:
            self.overlay.select(rows)
        self.selection_changed.emit()

    def _drop_gone(self) -> None:
        """Select no cell that is not there any more."""
        kept = self.cells.kept[self.selected]
        if not kept.all():
            self._select(self.selected[kept])

    def show_box(self, box: Sequence[float], *, px_on_screen: float = 60.0) -> None:
        """Bring a place of the slide (xyxy, level-0 px) into the middle of the screen."""
        x0, y0, x1, y1 = box
        centre = self.frame.to_world(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *centre)
        side = max(x1 - x0, y1 - y0) * float(np.mean(self.frame.scale))
        camera.zoom = max(camera.zoom, px_on_screen / side)

    def usual_size(self, xy: tuple[float, float]) -> float:
        """Side of a usual nucleus near a place, in level-0 px: the median of those around."""
        usual = self.overlay.nucleus_px if self.overlay is not None else 16.0
        reach = round(NEARBY * usual)
        x, y = round(xy[0]), round(xy[1])
        rows = self.cells.rows_in(Region(x - reach, y - reach, 2 * reach, 2 * reach))
        if len(rows) < FEW_NEARBY:
            return usual
        boxes = self.cells.boxes[rows]
        return float(np.median(boxes[:, 2:] - boxes[:, :2]))

    # Drawing and files ------------------------------------------------------------------

    def _on_camera(self, event: Any = None) -> None:
        self._moved = True
        self._rest.start()

    def _on_canvas(self, event: Any = None) -> None:
        self._rest.start()

    def _on_rest(self) -> None:
        self.refresh()
        self.view_changed.emit()
        self._look.start()

    def refresh(self) -> None:
        """Draw what is in view now."""
        if self.overlay is not None:
            self.overlay.refresh(view_of(self.viewer, self.frame))

    def corrected(self) -> CorrectedCells:
        """The cells as they stand, with sizes in µm where the pixel size is known."""
        return with_sizes(self.cells.corrected(), self.cells.source.mpp or self.frame.mpp)

    def snapshot(self) -> Callable[[], CorrectedCells]:
        """What makes `corrected` as of now in any thread: of many cells it takes seconds."""
        cells = self.cells.copy()
        mpp = cells.source.mpp or self.frame.mpp
        return lambda: with_sizes(cells.corrected(), mpp)

    def writing(self, path: str | Path) -> Job[ExportCheck]:
        """The job that exports the cells as they stand now, and reads the file back."""
        frame = SlideFrame(self.size, self.bounds)
        return write_job(self.snapshot(), path, frame, dict(self.color_names))

    def recording(self, path: str | Path) -> Job[int]:
        """The job that writes the history of the corrections.

        Raises `AnnotationError` where there is none, because the project cannot be used.
        """
        if self._record is None:
            raise AnnotationError(
                "The history of these corrections is not kept.",
                expected="a slide whose record in the project is open",
                found="a project that cannot be used, or is still being opened",
                remedy="see what the dock says about saving; export the cells themselves",
            )
        return record_job(self._record.journal_path, self._journal, Path(path))

    @contextmanager
    def unmarked(self) -> Iterator[None]:
        """Draw no selection meanwhile."""
        chosen = self.selected
        if self.overlay is not None:
            self.overlay.select(NO_ROWS)
            self.refresh()
        try:
            yield
        finally:
            if self.overlay is not None:
                self.overlay.select(chosen)
                self.refresh()

    def write(self, path: str | Path) -> int:
        """Export the cells as they stand; how many. `ExportError` when it cannot be done."""
        return drain(self.writing(path)).cells


class _CellsNow:
    """The table that a session has at the moment; jobs may ask it from their threads."""

    def __init__(self, cells: CellTable) -> None:
        self.cells = cells

    def annotations(self) -> Annotations:
        """A copy of all that people said."""
        said, copy = self.cells.annotations, Annotations(self.cells.class_names)
        copy.cells = said.cells.copy()
        copy.areas = said.areas.copy()
        return copy


class _Held:
    """A session in its layer's metadata; a copy of the layer gets an empty one."""

    def __init__(self, session: SlideSession | None = None) -> None:
        self.session = session

    def __deepcopy__(self, memo: Any) -> _Held:
        return _Held()


def known_session(layer: Any) -> SlideSession | None:
    """The session of a slide layer, if a dock has begun one."""
    held = layer.metadata.get(SESSION_KEY)
    return held.session if isinstance(held, _Held) else None


def session_of(viewer: Any, layer: Any, user: object) -> SlideSession:
    """The session of a slide layer that all docks share; `user` must `leave` it some day."""
    session = known_session(layer)
    if session is None:
        session = SlideSession(viewer, layer)
        layer.metadata[SESSION_KEY] = _Held(session)
    session.join(user)
    return session
