"""What the HER2 dock says of measured cells: score, figures of a place, the tree, one cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from qtpy.QtWidgets import QWidget

from napari_celldetr.core.her2 import Assessment
from napari_celldetr.gui.her2_body import SCREEN, TUMOUR, Her2Body
from napari_celldetr.gui.her2_judging import Judging
from napari_celldetr.gui.her2_layers import Her2Layers, Show
from napari_celldetr.gui.her2_pointer import CellPointer
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.her2_words import (
    NO_CELL,
    cell_words,
    excluded_words,
    pinned_words,
    scope_words,
    source_words,
    unmeasured_words,
)
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import camera_of, view_of
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.pipeline.her2.tumour import Tumour

MOST_ZONES = 50
HIDE_KEY = "H"
BUSY_TEXT = "Counting anew; until then these are the figures from before."


class Readout:
    """Shows the cells of one slide after another in the parts of `body` and on the slide."""

    def __init__(self, viewer: Any, body: Her2Body, parent: QWidget) -> None:
        self._viewer, self._body = viewer, body
        self.session: SlideSession | None = None
        self.state: Her2State | None = None
        self.layers: Her2Layers | None = None
        self.judging = Judging(parent)
        self.pointer = CellPointer(viewer, parent)
        self.judging.judged.connect(self.refigure)
        self.judging.drawn.connect(self._on_drawn)
        self.pointer.pointed.connect(self.show_cell)
        body.scope.currentIndexChanged.connect(self.show_scope)
        body.show_box.currentIndexChanged.connect(self._on_show)
        body.tree.chosen.connect(self.light)
        body.all_button.clicked.connect(lambda: self.light(""))
        body.tree_fold.button.toggled.connect(self._on_tree)
        viewer.bind_key(HIDE_KEY, self._hold, overwrite=True)

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        self.judging.abandon()
        self.pointer.let_go()
        self._viewer.bind_key(HIDE_KEY, None, overwrite=True)

    def _hold(self, _viewer: Any) -> Iterator[None]:
        """Nothing of the cells is drawn while the key is held."""
        layers = self.layers
        if layers is not None:
            layers.hold(True)
            yield
            layers.hold(False)

    def follow(
        self, session: SlideSession | None, state: Her2State | None, layers: Her2Layers | None
    ) -> None:
        """Show this slide's cells from now on."""
        self.session, self.state, self.layers = session, state, layers
        self.judging.follow(state)
        self.pointer.follow(state, Frame() if session is None else session.frame)

    def show(self) -> None:
        """All there is to show."""
        state, body = self.state, self._body
        body.results.setVisible(state is not None)
        body.reporter.offer(state)
        if state is None:
            body.pinned.say("")
            body.show_lit(None)
            return
        body.show_cells(True)
        body.control.show_notes(state.stain.notes, evened_out=state.control is not None)
        self.judging.ask()
        if self.judging.busy:
            self.refigure()

    def refigure(self) -> None:
        """Another verdict stands."""
        self._show_score()
        self.show_scope()
        self.redraw()
        self.show_cell(self.pointer.pinned)

    def redraw(self) -> None:
        """Colours on the slide."""
        if self.layers is not None and self.session is not None:
            self.layers.recolor()
            self.layers.refresh(view_of(self._viewer, self.session.frame))

    def view_moved(self) -> None:
        """The view has come to rest."""
        if self.state is None or self.session is None:
            return
        if self._body.scope.currentData() == SCREEN:
            self.show_scope()
        if self.layers is not None:
            self.layers.refresh(view_of(self._viewer, self.session.frame))

    def _on_drawn(self) -> None:
        self._show_score()
        if self._body.scope.currentData() == TUMOUR:
            self.show_scope()

    def _show_score(self) -> None:
        state, body = self.state, self._body
        if state is None:
            return
        found = state.of_slide(draws=0)
        remarks = state.remarks()
        body.score_box.show_score(found, state.refusal, remarks=remarks, notes=state.notes)
        body.pinned.say(" · ".join([pinned_words(found, state.refusal), *remarks]))
        body.show_lit(len(state.rows_of_branch(state.branch)) if state.branch else None)
        body.reporter.offer(state)
        body.tree.show_tree(found.score.tree, found.score.branch, lit=state.branch)

    def show_scope(self, _index: int = 0) -> None:
        """Figures of the place that is chosen, and what to know of them."""
        state = self.state
        if state is None:
            return
        where = self._body.scope.currentData()
        found, note = self._counted(state, where)
        self._body.bars.show_shares(found)
        said = [
            BUSY_TEXT if self.judging.busy else "",
            scope_words(found, score=where != TUMOUR),
            excluded_words(found),
            note,
            unmeasured_words(state.unmeasured),
            source_words(state.tumour),
        ]
        self._body.scope_label.setText("\n".join(text for text in said if text))

    def _counted(self, state: Her2State, where: str) -> tuple[Assessment, str]:
        # While the cells are counted anew, the list may be of another tumour already.
        if where not in (SCREEN, TUMOUR) and int(where) < len(state.tumour.zones):
            return state.of_zone(state.tumour.zones[int(where)]), ""
        if where != SCREEN:
            return state.of_slide(draws=0), ""
        view = None if self.session is None else self.session.view()
        if view is None:
            return state.of_rows(np.zeros(0, np.int64)), "Nothing of the slide is in view."
        return state.of_view(view), ""

    # Branches and cells -----------------------------------------------------------------

    def light(self, branch: str) -> None:
        """Light up the cells of a branch; bring them into view if none is."""
        state, session = self.state, self.session
        if state is None or session is None:
            return
        state.light(branch)
        self.redraw()
        self._show_score()
        rows = state.rows_of_branch(branch) if branch else np.zeros(0, np.int64)
        view = session.view()
        if len(rows) and (view is None or not np.isin(rows, state.rows_in(view)).any()):
            self._go_to(rows, state, session)

    def _on_tree(self, is_open: bool) -> None:
        # What is lit would stay lit without a sign.
        if not is_open:
            self.light("")

    def _go_to(self, rows: Any, state: Her2State, session: SlideSession) -> None:
        """Show all of these cells, no nearer than now."""
        world = session.frame.to_world(state.centres[rows].astype(np.float64))
        low, high = world.min(axis=0), world.max(axis=0)
        camera = camera_of(self._viewer)
        camera.center = (*camera.center[:-2], *((low + high) / 2))
        view = view_of(self._viewer, session.frame)
        if view is not None:
            shown = np.array([view.region.height, view.region.width]) * session.frame.scale
            camera.zoom *= min(1.0, float(np.min(shown / np.maximum(1.1 * (high - low), 1e-6))))

    def cell_selected(self) -> None:
        """A cell was chosen in another dock."""
        session, state = self.session, self.state
        if session is not None and state is not None and len(session.selected) == 1:
            box = session.cells.boxes[session.selected[0]]
            self.pointer.pin(state.row_of_box(box))

    def show_cell(self, row: int | None) -> None:
        """What is known of a cell."""
        if self.state is not None:
            words = NO_CELL if row is None else cell_words(self.state.facts(row))
            self._body.cell_label.setText(words)

    def _on_show(self, _index: int = 0) -> None:
        if self.layers is not None:
            self.layers.choose(Show(self._body.show_box.currentData()))


def scopes_of(tumour: Tumour) -> list[tuple[str, str]]:
    """What figures can be asked for; each of several areas can be counted by itself."""
    whole = "All of the tumour" if tumour.confirmed else "All that is measured"
    known = [zone for zone in tumour.zones if zone not in tumour.untrusted][:MOST_ZONES]
    if len(known) < 2:
        known = []
    parts = [(str(i), f"Area {i + 1} · {zone.name}") for i, zone in enumerate(known)]
    return [(SCREEN, "What is on the screen"), (TUMOUR, whole), *parts]
