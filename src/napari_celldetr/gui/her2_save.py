"""Saving the tumour's outlines, so that they can be used without the viewer."""

from __future__ import annotations

from pathlib import Path

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui.her2_where import TumourChooser
from napari_celldetr.gui.her2_words import error_words
from napari_celldetr.gui.parts import stem_of
from napari_celldetr.pipeline.her2.zones_file import write_zones

SUFFIX = ".geojson"
FILTER = f"GeoJSON (*{SUFFIX})"


class OutlineSaver(QObject):
    """Writes what is chosen as tumour; `told` is what came of it."""

    told = Signal(str)

    def __init__(self, button: QPushButton, where: TumourChooser, parent: QWidget) -> None:
        super().__init__(parent)
        self._button, self._where, self._parent = button, where, parent
        button.clicked.connect(self.ask)

    def offer(self) -> None:
        """Whether there is something to save now."""
        self._button.setEnabled(bool(self._where.tumour().zones))

    def ask(self) -> None:
        """Ask where to, and write."""
        session = self._where.session
        if session is None:
            return
        name = f"{stem_of(session.layer.name)}-tumour{SUFFIX}"
        path, _ = QFileDialog.getSaveFileName(self._parent, "Save outlines", name, FILTER)
        if path:
            self.write(path)

    def write(self, path: str | Path) -> None:
        """Write GeoJSON in the pixels of the slide as QuPath shows it."""
        session = self._where.session
        if session is None:
            return
        target, bounds = Path(path), session.bounds
        target = target.with_name(target.name + ("" if target.suffix else SUFFIX))
        offset = (0.0, 0.0) if bounds is None else (float(bounds.x), float(bounds.y))
        try:
            write_zones(self._where.tumour(), target, offset=offset)
        except CellDETRError as error:
            show_error(str(error))
            self.told.emit(error_words(error))
        else:
            self.told.emit(f"{target.name} is written. Folder: {target.absolute().parent}")
