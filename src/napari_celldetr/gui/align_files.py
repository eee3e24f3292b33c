"""The file of an alignment: saved to be used again, or loaded, ours or another program's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QGridLayout, QPushButton, QWidget

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui.align_dialog import PhysicalDialog
from napari_celldetr.gui.align_job import says_lengths
from napari_celldetr.gui.align_pairs import Pairs
from napari_celldetr.gui.parts import stem_of, wrapped_label
from napari_celldetr.pipeline.transform_file import write_transform

FILE_FILTER = (
    "Alignments (*.json *.txt *.tfm *.csv);;CellDETR (*.json);;elastix, ITK (*.txt *.tfm);;"
    "Point pairs (*.csv);;All files (*)"
)
JSON_FILTER = "CellDETR alignment (*.json)"


class FileBox(QWidget):
    """Save and Load; `loading` is sent with the file and what its lengths mean."""

    loading = Signal(object, object)

    def __init__(self, pairs: Pairs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pairs = pairs
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip("Save this alignment, to use it again here or with celldetr")
        self.load_button = QPushButton("Load…")
        self.load_button.setToolTip(
            "An alignment saved here, or of another program: elastix, ITK, VALIS (matrix or point "
            "pairs). One without a known error is measured on the slides"
        )
        self.said = wrapped_label("", tooltip="Where the alignment was saved")
        self.said.setVisible(False)
        grid.addWidget(self.save_button, 0, 0)
        grid.addWidget(self.load_button, 0, 1)
        grid.addWidget(self.said, 1, 0, 1, 2)
        self.save_button.clicked.connect(self._ask_save)
        self.load_button.clicked.connect(self._ask_load)

    def _ask_save(self) -> None:
        view = self._pairs.view
        if view is None:
            return
        offered = f"{stem_of(view.he.name)}-on-{stem_of(view.ihc.name)}.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save alignment", offered, JSON_FILTER)
        if path:
            self.save(path)

    def save(self, path: str | Path) -> None:
        """Write the alignment; says where, or why not, in a notification."""
        view = self._pairs.view
        if view is not None and view.transform is not None:
            target = suffixed(path, ".json")
            with told():
                write_transform(view.transform, target)
                text = f"{target.name} is saved. Folder: {target.absolute().parent}"
                show_info(text)
                self._say(text)

    def show_state(self, *, aligned: bool) -> None:
        """Whether there is something to save; what was said of an earlier one no longer holds."""
        self.save_button.setEnabled(aligned)
        self._say("")

    def _say(self, text: str) -> None:
        self.said.setText(text)
        self.said.setVisible(bool(text))

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load alignment", "", FILE_FILTER)
        if not path:
            return
        physical: Any = None
        if not says_lengths(Path(path)):
            dialog = PhysicalDialog(Path(path).name, self)
            if not dialog.exec():
                return
            physical = dialog.physical()
        self.loading.emit(Path(path), physical)


@contextmanager
def told() -> Iterator[None]:
    """An error the user can read becomes a notification."""
    try:
        yield
    except CellDETRError as error:
        show_error(str(error))


def suffixed(path: str | Path, suffix: str) -> Path:
    """A path that ends so."""
    given = Path(path)
    return given if given.suffix.lower() == suffix else given.with_name(given.name + suffix)
