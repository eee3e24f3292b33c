"""Files that docks write and read: export, history, import, picture. Each says how it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QMessageBox, QPushButton, QWidget

from napari_celldetr.core.annotations import SAID, Edit, Key, Said
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.file_jobs import import_job
from napari_celldetr.gui.overlay import Level, canvas_size_of, view_of
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import stem_of
from napari_celldetr.gui.review_parts import GREY
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.pipeline.csv_file import areas_path
from napari_celldetr.pipeline.export_check import ExportCheck
from napari_celldetr.pipeline.history import is_history, rows_written
from napari_celldetr.pipeline.legend import LegendEntry
from napari_celldetr.pipeline.picture import view_picture, write_picture

EXPORT_TEXT = "Export…"
EXPORT_FILTERS = (
    "CSV (*.csv)",
    "QuPath GeoJSON (*.geojson *.geojson.gz)",
    "Parquet (*.parquet)",
    "AnnData (*.h5ad)",
    "COCO (*.coco.json)",
    "Label image, OME-Zarr (*.ome.zarr)",
)
HISTORY_FILTER = "History of all corrections (*.history.csv)"
IMPORT_FILTER = "GeoJSON (*.geojson *.json *.geojson.gz *.json.gz)"


class Exporter(QObject):
    """The button that exports a session's cells, in the background.

    `told` says in words what was written. `failed` gets the error of what could not be, after
    the person has seen it. `over` follows both.
    """

    told = Signal(str)
    failed = Signal(object)
    over = Signal()

    def __init__(self, parent: QWidget, *, tooltip: str, history: bool = False) -> None:
        super().__init__(parent)
        self.button = QPushButton(EXPORT_TEXT)
        self.button.setToolTip(tooltip)
        self._parent, self._history = parent, history
        self._target = Path()
        self._runner = JobRunner(self)
        self._runner.finished.connect(self._on_written)
        self._runner.failed.connect(self._on_failed)

    @property
    def running(self) -> bool:
        """Whether a file is being written."""
        return self._runner.running

    def ask(self, session: SlideSession) -> None:
        """Ask where to, then write."""
        path = ask_export_path(self._parent, session.layer.name, history=self._history)
        if path:
            self.write(session, path)

    def write(self, session: SlideSession, path: str | Path) -> None:
        """Write cells and corrections, or their history, as the suffix says."""
        if self.running:
            return
        self._target = Path(path)
        job = session.recording if is_history(path) else session.writing
        try:
            made = job(self._target)
        except CellDETRError as error:
            self._on_failed(error)
            return
        self.button.setEnabled(False)
        self.button.setText("Writing…")
        self._runner.start(lambda: made)

    def abandon(self) -> None:
        """Stop writing; the old file stays."""
        self._runner.abandon()
        self._end()

    def _on_written(self, found: ExportCheck | int) -> None:
        self._end()
        said = rows_written(found) if isinstance(found, int) else found.sentence()
        text = f"{self._target.name}: {said}."
        if isinstance(found, ExportCheck) and found.areas and self._target.suffix == ".csv":
            text += f" The areas are in {areas_path(self._target).name}."
        text += f" Folder: {self._target.absolute().parent}"
        show_info(text)
        self.told.emit(text)
        self.over.emit()

    def _on_failed(self, error: CellDETRError) -> None:
        self._end()
        show_error(str(error))
        self.failed.emit(error)
        self.over.emit()

    def _end(self) -> None:
        self.button.setEnabled(True)
        self.button.setText(EXPORT_TEXT)


class Importer(QObject):
    """The button that takes other people's annotations into a session, in the background.

    Signals as those of `Exporter`.
    """

    told = Signal(str)
    failed = Signal(object)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.button = QPushButton("Import…")
        self.button.setToolTip("Take annotations from a GeoJSON file, e.g. of QuPath")
        self._parent = parent
        self._session: SlideSession | None = None
        self._before: dict[Key, Said] = {}
        self._runner = JobRunner(self)
        self._runner.finished.connect(self._on_read)
        self._runner.failed.connect(self._on_failed)

    @property
    def running(self) -> bool:
        """Whether a file is being read."""
        return self._runner.running

    def ask(self, session: SlideSession) -> None:
        """Ask which file, then read it."""
        path, _ = QFileDialog.getOpenFileName(self._parent, "Import annotations", "", IMPORT_FILTER)
        if path:
            self.read(session, path)

    def read(self, session: SlideSession, path: str | Path) -> None:
        """Take annotations from a GeoJSON file; one undo takes them all back."""
        if self.running:
            return
        if session.overlay is None:
            session.show_layers()
        self._session, self._before = session, session.cells.annotations.cells.copy()
        self.button.setEnabled(False)
        target, present = Path(path), session.snapshot()
        bounds, names = session.bounds, session.cells.class_names
        usual = session.usual_size((session.size[0] / 2, session.size[1] / 2))
        self._runner.start(
            lambda: import_job(target, present, class_names=names, nucleus_px=usual, bounds=bounds)
        )

    def abandon(self) -> None:
        """Stop reading; nothing was taken over."""
        self._session = None
        self._runner.abandon()
        self.button.setEnabled(True)

    def _on_read(self, found: tuple[Any, Any]) -> None:
        session, self._session = self._session, None
        self.button.setEnabled(True)
        edit, report = found
        if session is None:
            return
        try:
            self._refuse_if_late(session, edit)
            session.edit(edit)
        except CellDETRError as error:
            self._on_failed(error)
            return
        show_info(report.sentence())
        self.told.emit(report.sentence())

    def _refuse_if_late(self, session: SlideSession, edit: Edit) -> None:
        """What a person said while the file was read must not be lost under it."""
        now, before = session.cells.annotations.cells, self._before
        keys = [(a, b) for a, b in edit.keys.tolist()]
        changed = sum(now.get(key) != before.get(key) for key in keys)
        if changed:
            raise AnnotationError(
                "The annotations were not imported.",
                expected="cells that stay as they are while the file is read",
                found=f"{changed:,} cells that were changed meanwhile",
                remedy="import the file again",
            )

    def _on_failed(self, error: CellDETRError) -> None:
        self.button.setEnabled(True)
        show_error(str(error))
        self.failed.emit(error)


def ask_export_path(parent: QWidget, slide: str = "", *, history: bool = False) -> str:
    """Where cells are to be written, with a suffix; empty when the person thought better of it.

    The name that is offered is made of the `slide`'s. A suffix that a person typed decides, else
    the kind of file that they chose.
    """
    offered = f"{stem_of(slide)}-cells.csv"
    filters = (*EXPORT_FILTERS, HISTORY_FILTER) if history else EXPORT_FILTERS
    path, chosen = QFileDialog.getSaveFileName(parent, "Export cells", offered, ";;".join(filters))
    suffix = chosen.partition("*")[2].split(" ")[0].rstrip(")") or ".csv"
    wanted = path
    if path and Path(path).name == offered:
        # Dialogs leave the name as it is when another kind is chosen.
        wanted = path.removesuffix(".csv") + suffix
    elif path and not Path(path).suffix:
        wanted += suffix
    return wanted if wanted == path or _may_replace(parent, wanted) else ""


def _may_replace(parent: QWidget, path: str) -> bool:
    """Ask before a file is replaced that the dialog itself did not ask about."""
    if not Path(path).exists():
        return True
    text = f"{Path(path).name} is there already. Replace it?"
    answer = QMessageBox.question(parent, "Replace the file?", text)
    return bool(answer == QMessageBox.StandardButton.Yes)


def ask_picture_path(parent: QWidget, slide: str) -> str:
    """Where a picture is to be written; empty when the person thought better of it."""
    path, _ = QFileDialog.getSaveFileName(
        parent, "Save picture", f"{stem_of(slide)}-view.png", "PNG (*.png)"
    )
    wanted = str(_png(path)) if path else ""
    return wanted if wanted == path or _may_replace(parent, wanted) else ""


def _png(path: str | Path) -> Path:
    given = Path(path)
    return given if given.suffix.lower() == ".png" else given.with_name(given.name + ".png")


def save_picture(viewer: Any, session: SlideSession, path: str | Path) -> Path:
    """The view as it is on the screen, with slide name, scale bar, legend and counts, as a PNG.

    What happens to be selected is not in it. Returns where it was written; `ExportError` when
    it cannot be.
    """
    view = view_of(viewer, session.frame)
    with session.unmarked():
        shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    mpp = session.frame.mpp
    # Screens may have more pixels than the window counts.
    fine = shot.shape[1] / canvas_size_of(viewer)[1]
    um = None if mpp is None or view is None else float(np.mean(mpp)) / (view.zoom * fine)
    region = session.view()
    counts = session.cells.counts(session.cells.rows_in(region)) if region else {}
    colors = session.color_names
    legend = [LegendEntry(k, colors.get(k, GREY), n) for k, n in counts.items()]
    target = _png(path)
    picture = view_picture(
        np.ascontiguousarray(shot), um_per_px=um, legend=legend, title=_title(session, region)
    )
    write_picture(picture, target)
    return target


def _title(session: SlideSession, region: Region | None) -> str:
    name = str(session.layer.name)
    cells, overlay = session.cells, session.overlay
    marks = None if overlay is None else overlay.layer("marks")
    drawn = overlay is not None and overlay.level is not Level.FAR and not overlay.hidden
    if region is None or not drawn or marks is None or not marks.visible:
        return name
    if not SAID[cells.status[cells.rows_in(region)]].any():
        return name
    return f"{name}. White diamonds: cells that a person changed, added or confirmed"
