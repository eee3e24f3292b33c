"""The plot with its choices: projection, colours, mouse; linked with the slide's selection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_celldetr.core.claims import Rows
from napari_celldetr.core.errors import CellDETRError, EmbeddingError
from napari_celldetr.core.space.density import histogram
from napari_celldetr.core.space.lasso import inside_polygon
from napari_celldetr.gui.overlay import NO_ROWS
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import narrow, short_combo, single_shot, wrapped_label
from napari_celldetr.gui.plot_canvas import BOX, LASSO, MOVE, PlotCanvas
from napari_celldetr.gui.plot_cells import PCA, UMAP, Beside, Placed, place_job
from napari_celldetr.gui.plot_colors import CLASS, SLIDE, by_slide, choices, colouring
from napari_celldetr.gui.plot_picture import MOST_DOTS, Picture, picture
from napari_celldetr.gui.session import SlideSession, known_session

DRAW_MS, PLACE_MS, HOVER_MS = 30, 400, 150
AROUND = 12
"""Cells shown around the pointer."""
REACH_PX = 14.0
MODES = (
    (LASSO, "Lasso", "Draw round cells to select them; with Shift they are added"),
    (BOX, "Box", "Draw a box round cells to select them; with Shift they are added"),
    (MOVE, "Move", "Drag the plot. Wheel: zoom. Double click: everything"),
)
EMPTY_TEXT = (
    "No cells yet. Find them with Detect cells: what looks alike lies near each other here."
)


class PlotBox(QWidget):
    """The plot and its choices.

    Signals
    -------
    told(text)
        Something to say to the person.
    around(rows)
        Cells near the pointer, None when it is not on the plot.
    """

    told = Signal(str)
    around = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: SlideSession | None = None
        self.placed: Placed | None = None
        self._likely: Rows = NO_ROWS
        self._pointer: tuple[float, float] | None = None
        self._build()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_placed)
        self.runner.failed.connect(self._on_failed)
        self.runner.progressed.connect(lambda step: self._say_busy(step))
        self.runner.stopped.connect(lambda: self._show_state("Stopped."))
        self._draw = single_shot(self, DRAW_MS, self.draw)
        self._place = single_shot(self, PLACE_MS, self.renew)
        self._hover = single_shot(self, HOVER_MS, self._on_hover)

    def _build(self) -> None:
        self.method = short_combo("How cells are laid out")
        self.method.addItem("Main axes (PCA)", PCA)
        self.method.addItem("Neighbours (UMAP)", UMAP)
        self.by = short_combo("By what cells are coloured")
        self.by.addItem("Class", CLASS)
        for box in (self.method, self.by):
            narrow(box, box.toolTip())
            box.setMinimumContentsLength(10)
        self.canvas = PlotCanvas()
        self.legend = wrapped_label("", tooltip="What the colours mean")
        self.state = wrapped_label(EMPTY_TEXT)
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop laying out")
        self.cancel.setVisible(False)
        top = QHBoxLayout()
        top.addWidget(self.method, 1)
        top.addWidget(self.by, 1)
        self._modes = QButtonGroup(self)
        tools = QHBoxLayout()
        for mode, words, hint in MODES:
            button = QPushButton(words)
            button.setCheckable(True)
            button.setChecked(mode == LASSO)
            button.setToolTip(hint)
            button.clicked.connect(lambda _=False, m=mode: self.use(m))
            self._modes.addButton(button)
            tools.addWidget(button)
        tools.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.canvas, 1)
        column.addWidget(self.legend)
        column.addLayout(tools)
        column.addWidget(self.state)
        self.method.activated.connect(lambda _: self.renew())
        self.by.activated.connect(lambda _: self.draw())
        self.cancel.clicked.connect(lambda: self.runner.stop())
        self.canvas.enclosed.connect(self._on_enclosed)
        self.canvas.clicked.connect(self._on_clicked)
        self.canvas.hovered.connect(self._on_pointer)
        self.canvas.bounds_changed.connect(lambda: self._draw.start())

    # A slide comes and goes -------------------------------------------------------------

    def meet(self, session: SlideSession) -> None:
        """Show the cells of a slide from now on."""
        self.session = session
        for signal, call in self._signals(session):
            signal.connect(call)
        self._on_claims()

    def part(self) -> None:
        """Show nothing any more."""
        if self.session is not None:
            for signal, call in self._signals(self.session):
                signal.disconnect(call)
        self.session = None
        self.runner.abandon()
        for timer in (self._draw, self._place, self._hover):
            timer.stop()
        self.placed = None
        self._clear()

    def let_go(self) -> None:
        """The dock is closed."""
        self.part()
        self.canvas.let_go()

    def _signals(self, session: SlideSession) -> list[tuple[Any, Any]]:
        return [
            (session.claims_changed, self._on_claims),
            (session.cells_changed, self._on_cells),
            (session.selection_changed, self._on_selection),
        ]

    def _on_claims(self) -> None:
        # Rows mean other cells now: what is drawn must not be chosen from any more.
        self.placed = None
        self._likely = NO_ROWS
        self._clear()
        self._place.start()

    def _on_cells(self) -> None:
        if self.placed is None and not self.runner.running:
            self._place.start()
        self._draw.start()

    def _clear(self) -> None:
        nothing = Picture(None, np.zeros(0, np.int64), np.zeros((0, 3), np.uint8))
        points = np.zeros((0, 2), np.float32)
        self.canvas.show_cells(nothing, points)
        self.canvas.show_chosen(None, points)
        self.canvas.show_likely(None, points)
        self.legend.setText("")
        self.legend.setVisible(False)

    # Laying out -------------------------------------------------------------------------

    def renew(self) -> None:
        """Lay the cells out anew, in the background."""
        session = self.session
        if session is None:
            return
        if not len(session.cells):
            self._show_state(EMPTY_TEXT)
            return
        table, method = session.cells.copy(), str(self.method.currentData())
        name, beside = session.layer.name, self._beside(session)
        self._show_state("Laying out the cells…", busy=True)
        self.runner.start(lambda: place_job(table, method, name=name, beside=beside))

    def _beside(self, session: SlideSession) -> list[Beside]:
        """The cells of the other slides in the window."""
        others = [layer for layer in session.viewer.layers if layer is not session.layer]
        known = [known_session(layer) for layer in others]
        return [
            Beside(one.layer.name, one.cells.copy())
            for one in known
            if one is not None and one is not session and len(one.cells)
        ]

    def _say_busy(self, step: Any) -> None:
        share = f" {100 * step.done / step.total:.0f} %" if step.total else ""
        self._show_state(f"{step.message or 'Laying out the cells…'}{share}", busy=True)

    def _show_state(self, text: str, *, busy: bool = False) -> None:
        self.state.setText(text)
        self.state.setVisible(bool(text))
        self.cancel.setVisible(busy)

    def _on_placed(self, placed: Placed) -> None:
        session = self.session
        if session is None or len(session.cells) <= int(placed.cells.rows.max()):
            return
        self.placed = placed
        self._show_state(placed.axes)
        self._offer_colours(session)
        self.canvas.show_bounds(placed.bounds, home=True)
        self.draw()
        self._on_selection()

    def _on_failed(self, error: CellDETRError) -> None:
        if not isinstance(error, EmbeddingError) and self.method.currentData() == UMAP:
            self.method.setCurrentIndex(self.method.findData(PCA))
            self._place.start()
        self._show_state(str(error))
        if not isinstance(error, EmbeddingError):
            self.told.emit(str(error))

    def _offer_colours(self, session: SlideSession) -> None:
        wanted, now = choices(session.cells), self.by.currentData()
        if self.placed is not None and self.placed.beside:
            wanted.append((SLIDE, "Slide"))
        self.by.blockSignals(True)
        self.by.clear()
        for key, words in wanted:
            self.by.addItem(words, key)
        self.by.setCurrentIndex(max(self.by.findData(now), 0))
        self.by.blockSignals(False)

    def colour_by(self, key: str) -> None:
        """Colour by something else that is on offer."""
        self.by.setCurrentIndex(max(self.by.findData(key), 0))
        self.draw()

    # Drawing ----------------------------------------------------------------------------

    def _shown(self) -> NDArray[np.bool_]:
        assert self.session is not None
        assert self.placed is not None
        return self.session.cells.kept[self.placed.cells.rows]

    def draw(self) -> None:
        """Draw what is in view, as it is now."""
        session, placed = self.session, self.placed
        if session is None or placed is None:
            return
        by = str(self.by.currentData() or CLASS)
        points, shown = placed.points, self._shown()
        if by == SLIDE:
            others = [where for _, where in placed.beside]
            names = [session.layer.name, *(name for name, _ in placed.beside)]
            how = by_slide(names, [len(points), *(len(where) for where in others)])
            points = np.concatenate([points, *others])
            shown = np.concatenate([shown, np.ones(len(points) - len(shown), bool)])
        else:
            how = colouring(session.cells, placed.cells.rows, by, session.color_names)
        canvas = self.canvas
        drawn = picture(points, shown, how, canvas.bounds, canvas.shape)
        canvas.show_cells(drawn, points)
        marks = "  ".join(
            f'<span style="color:rgb{color}">■</span>&nbsp;{name.replace(" ", "&nbsp;")}'
            for name, color in how.legend()
        )
        self.legend.setText(marks)
        self.legend.setVisible(bool(marks))
        self._draw_marks()

    def _draw_marks(self) -> None:
        session, placed = self.session, self.placed
        if session is None or placed is None:
            return
        chosen = self._marks(session.selected, (255, 255, 255))
        self.canvas.show_chosen(chosen, placed.points)
        self.canvas.show_likely(self._marks(self._likely, (255, 217, 25)), placed.points)

    def _marks(self, rows: Rows, color: tuple[int, int, int]) -> Picture | None:
        assert self.placed is not None
        places = self.placed.places(rows)
        if not len(places):
            return None
        if len(places) <= MOST_DOTS // 4:
            return Picture(None, places, np.zeros((len(places), 3), np.uint8))
        # Thousands of rings hide what they frame: so many are a veil.
        total = histogram(self.placed.points[places], self.canvas.bounds, self.canvas.shape)
        image = np.zeros((*total.shape, 4), np.uint8)
        image[total > 0] = (*color, 160)
        return Picture(image, np.zeros(0, np.int64), np.zeros((0, 3), np.uint8))

    def show_likely(self, rows: Rows) -> None:
        """Frame cells that would be selected; none takes the frames away."""
        self._likely = rows
        self._draw_marks()

    def _on_selection(self) -> None:
        self._draw_marks()

    # What the mouse chose ---------------------------------------------------------------

    def use(self, mode: str) -> None:
        """What the left button does: ``lasso``, ``box`` or ``move``."""
        self.canvas.mode = mode

    def _on_enclosed(self, polygon: NDArray[np.float64], more: bool) -> None:
        session, placed = self.session, self.placed
        if session is None or placed is None:
            return
        inside = inside_polygon(placed.points, polygon)
        inside &= self._shown()
        self._select(placed.cells.rows[inside], more)

    def _on_clicked(self, xy: tuple[float, float], more: bool) -> None:
        session, near = self.session, self._nearest(xy, 1, REACH_PX)
        if session is None:
            return
        self._select(near, more)
        if len(near):
            session.show_box(session.cells.boxes[near[0]].tolist())

    def _select(self, rows: Rows, more: bool) -> None:
        session = self.session
        if session is None:
            return
        session.select(np.union1d(session.selected, rows) if more else np.sort(rows))

    def _nearest(self, xy: tuple[float, float], count: int, reach_px: float) -> Rows:
        """Rows of the kept cells nearest on the screen, at most `count` within a reach."""
        placed = self.placed
        if placed is None:
            return NO_ROWS
        x0, y0, x1, y1 = self.canvas.bounds
        rows, columns = self.canvas.shape
        per = np.array([columns / (x1 - x0), rows / (y1 - y0)], np.float32)
        apart = ((placed.points - np.array(xy, np.float32)) * per) ** 2
        far = apart[:, 0] + apart[:, 1]
        near = np.flatnonzero((far <= reach_px**2) & self._shown())
        return placed.cells.rows[near[np.argsort(far[near], kind="stable")[:count]]]

    def _on_pointer(self, xy: tuple[float, float] | None) -> None:
        self._pointer = xy
        if xy is None:
            self._hover.stop()
            self.around.emit(None)
        else:
            self._hover.start()

    def _on_hover(self) -> None:
        if self._pointer is not None and self.placed is not None:
            self.around.emit(self._nearest(self._pointer, AROUND, 4 * REACH_PX))
