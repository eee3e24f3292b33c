"""The pairs of slides of a viewer: which is looked at, and how; what is known of each is kept."""

from __future__ import annotations

from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_sides import show_sides
from napari_celldetr.gui.align_view import LEFT_KEY, AlignView
from napari_celldetr.gui.parts import single_shot
from napari_celldetr.gui.tumour_find import show_maps
from napari_celldetr.gui.warped_later import ChunkMaker

REDRAW_MS = 40
"""What was made in the meantime is shown at most this often."""


class Pairs(QObject):
    """Holds a view of each pair; `view` is that of the chosen one.

    `leaving` is sent before an earlier view is hidden, `opened` afterwards, `looked` with the look
    whenever the slides are shown another way, `drawn` when more of the H&E's picture is there, and
    `gone` with a view whose slide was removed.
    """

    leaving = Signal()
    opened = Signal()
    looked = Signal(object)
    gone = Signal(object)
    drawn = Signal()

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.view: AlignView | None = None
        self._views: list[AlignView] = []
        self._redraw = single_shot(self, REDRAW_MS, self._show_made)
        self._maker = ChunkMaker(self)
        self._maker.failed.connect(lambda error: show_error(str(error)))
        self._maker.made.connect(lambda: self._redraw.isActive() or self._redraw.start())

    def open(self, pair: tuple[Any, Any] | None) -> None:
        """Show what is known of a pair of layers; an earlier pair's is kept for later."""
        old = self.view
        if pair is not None and old is not None and (old.he, old.ihc) == pair:
            return
        if old is not None:
            self.leaving.emit()
            self._maker.stop()
            old.hide()
            show_sides(old, self.viewer.layers)
        self.view = None
        if pair is not None:
            known = [v for v in self._views if (v.he, v.ihc) == pair]
            self.view = known[0] if known else self._new(pair)
        self.opened.emit()

    def _new(self, pair: tuple[Any, Any]) -> AlignView:
        """The view of a pair: that which an earlier dock has left in the viewer, or a new one."""
        left = pair[0].metadata.get(LEFT_KEY)
        if left is not None and (left.he, left.ihc) == pair:
            del pair[0].metadata[LEFT_KEY]
            left.use(self._maker)
            view: AlignView = left
        else:
            view = AlignView(self.viewer, *pair, later=self._maker)
        self._views.append(view)
        return view

    def forget(self, layer: Any) -> None:
        """A layer was removed: its pairs are no more."""
        for view in [v for v in self._views if layer in (v.he, v.ihc)]:
            self._views.remove(view)
            self.gone.emit(view)
            if view is self.view:
                self.view = None
                self.leaving.emit()
                view.hide()
                show_sides(view, self.viewer.layers)
                self.opened.emit()

    def show_look(self, look: Look) -> None:
        """Show the slides another way."""
        view = self.view
        if view is None:
            return
        before = view.look
        view.show(look)
        show_maps(view)
        show_sides(view, self.viewer.layers)
        if view.look is not Look.PLAIN and _place(before) != _place(view.look):
            view.fit()
        self.looked.emit(view.look)

    def _show_made(self) -> None:
        if self.view is not None and self.view.is_shown:
            self.view.redraw()
            self.drawn.emit()

    def let_go(self) -> None:
        """Leave a finished alignment in the viewer, laid on the IHC."""
        self._maker.stop()
        self._redraw.stop()
        view, self.view = self.view, None
        self._views = []
        if view is not None:
            view.leave()
            show_sides(view, self.viewer.layers)


def _place(look: Look) -> str:
    """Looks that show the same part of the world."""
    return str(look) if look in (Look.BESIDE, Look.HE) else "ihc"
