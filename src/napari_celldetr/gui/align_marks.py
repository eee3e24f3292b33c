"""Landmarks by hand: clicks on both slides, the list of them, and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui import mark_keeping
from napari_celldetr.gui.align_files import suffixed, told
from napari_celldetr.gui.align_mark_box import LandmarkBox
from napari_celldetr.gui.align_pairs import Pairs
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.landmarks import Landmarks, read_landmarks, write_landmarks
from napari_celldetr.gui.parts import stem_of
from napari_celldetr.gui.sources import levels_of

CLICK_PX = 4.0
CSV_FILTER = "Landmarks (*.csv)"
NOT_KEPT = "Landmarks are lost when the window is closed; save them as a file."


class Marks(QObject):
    """Sets, deletes, saves and loads the landmarks of the chosen pair.

    They are kept in the project with each change. `changed` is sent when the list has to be shown
    anew, `came_back` when landmarks are there that were set in an earlier window.
    """

    changed = Signal()
    came_back = Signal()

    def __init__(self, pairs: Pairs, box: LandmarkBox, parent: QWidget) -> None:
        super().__init__(parent)
        self._pairs, self._box, self._window = pairs, box, parent
        self._places: WeakKeyDictionary[AlignView, Path] = WeakKeyDictionary()
        pairs.opened.connect(self._bring_back)
        box.setting.connect(self.set)
        box.deleted.connect(self.delete)
        box.visited.connect(self._visit)
        box.shown.connect(self._show_or_hide)
        pairs.looked.connect(lambda _look: self._show_or_hide(box.show_box.isChecked()))
        box.save_button.clicked.connect(self._ask_save)
        box.load_button.clicked.connect(self._ask_load)

    def set(self, on: bool) -> None:
        """Begin or end to take clicks as landmarks."""
        view = self._pairs.view
        if view is None:
            self.end()
            return
        if on:
            self._box.show_box.setChecked(True)
        if on and view.look is not Look.BESIDE:
            self._pairs.show_look(Look.BESIDE)
        if on and view.picture is not None:
            # A layer that draws with the mouse must not draw too.
            view.viewer.layers.selection.active = view.picture
        if not on and view.marks.wanted is not None:
            view.show_marks(view.marks.without([len(view.marks.items) - 1]))
        self.changed.emit()

    def end(self) -> None:
        """Take no more clicks."""
        self._box.set_button.setChecked(False)

    def on_press(self, _viewer: Any, event: Any) -> Any:
        """A click sets a landmark; a drag moves the slides as always."""
        if not self._box.set_button.isChecked() or event.button != 1:
            return
        start, world = np.array(event.pos, float), tuple(event.position)
        yield
        while event.type == "mouse_move":
            yield
        if np.hypot(*(np.array(event.pos, float) - start)) <= CLICK_PX:
            self.click(world[-2:])

    def click(self, world: tuple[float, ...]) -> None:
        """Set half a landmark at a place, world (y, x)."""
        view = self._pairs.view
        if view is None or view.look is not Look.BESIDE:
            return
        here = view.here(np.array(world))
        side = here.sides[0]
        at = here.he if side == "he" else here.ihc
        layer = view.he if side == "he" else view.ihc
        if at is None or not _inside(at, layer):
            show_info("Click on one of the two slides.")
            return
        self.use(view.marks.clicked(side, at))

    def use(self, marks: Landmarks) -> None:
        """Take these landmarks in place of those set so far."""
        view = self._pairs.view
        if view is not None:
            view.show_marks(marks)
            self._keep(view)
            self.changed.emit()

    def _keep(self, view: AlignView) -> None:
        place = self._places.get(view)
        if place is None:
            return
        try:
            mark_keeping.keep(view.marks, place)
        except (CellDETRError, OSError) as error:
            # Once: every further click would say it again.
            del self._places[view]
            show_warning(f"{NOT_KEPT} {error}")

    def _bring_back(self) -> None:
        """Landmarks of this pair that were kept when it was last looked at."""
        view = self._pairs.view
        if view is None or view in self._places:
            return
        try:
            self._places[view] = mark_keeping.place_of(view.he, view.ihc)
            marks = mark_keeping.kept(self._places[view])
        except (CellDETRError, OSError) as error:
            show_warning(f"{NOT_KEPT} {error}")
            return
        if marks.items:
            view.show_marks(marks)
            count = len(marks.items)
            said = "1 landmark" if count == 1 else f"{count} landmarks"
            show_info(f"Set earlier on these two slides, and back: {said}.")
            self.came_back.emit()

    def delete(self, rows: list[int]) -> None:
        """Delete landmarks, by their places in the list."""
        if self._pairs.view is not None:
            self.use(self._pairs.view.marks.without(rows))

    def show(self, *, can_align: bool) -> None:
        """Show the list, and how far the alignment misses each."""
        view = self._pairs.view
        marks = Landmarks() if view is None else view.marks
        misses = marks.misses_um(None if view is None else view.transform)
        self._box.setEnabled(view is not None)
        self._box.show_landmarks(marks, misses, can_align=can_align)

    def _show_or_hide(self, shown: bool) -> None:
        if self._pairs.view is not None:
            self._pairs.view.show_marks(self._pairs.view.marks, shown=shown)

    def _visit(self, row: int) -> None:
        view = self._pairs.view
        if view is not None and view.is_shown:
            view.look_at(row)

    def _ask_save(self) -> None:
        view = self._pairs.view
        if view is None:
            return
        offered = f"{stem_of(view.he.name)}-landmarks.csv"
        path, _ = QFileDialog.getSaveFileName(self._window, "Save landmarks", offered, CSV_FILTER)
        if path:
            self.save(path)

    def save(self, path: str | Path) -> None:
        """Write the landmarks as CSV; says where, or why not, in a notification."""
        if self._pairs.view is not None:
            target = suffixed(path, ".csv")
            with told():
                count = write_landmarks(self._pairs.view.marks, target)
                show_info(f"{target.name}: {count} landmarks. Folder: {target.absolute().parent}")

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self._window, "Load landmarks", "", CSV_FILTER)
        if path:
            self.load(path)

    def load(self, path: str | Path) -> None:
        """Take the landmarks of a CSV file; why not is said in a notification."""
        with told():
            self.use(read_landmarks(path))
            if self._pairs.view is not None and self._pairs.view.look is Look.PLAIN:
                self._pairs.show_look(Look.BESIDE)


def _inside(at: tuple[float, float], layer: Any) -> bool:
    height, width = levels_of(layer)[0].shape[:2]
    return 0 <= at[0] <= int(width) and 0 <= at[1] <= int(height)
