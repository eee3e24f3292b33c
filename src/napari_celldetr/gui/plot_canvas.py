"""The plot of cells as a VisPy canvas: it shows pictures, and tells what the mouse does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy import API_NAME
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_celldetr.core.space.density import Bounds
from napari_celldetr.gui.plot_picture import Picture

LASSO, BOX, MOVE = "lasso", "box", "move"
ZOOM_STEP = 1.25
CLICK_PX = 4.0
"""A mouse that moved less was meant as a click."""
NEAR_PX = 3.0
"""Between two corners of a lasso."""
DOT_PX = 4.0
CHOSEN_PX = 6.0
HEIGHT = 300
"""px; what can be done with the cells must still fit under it in a low window."""
SMALLEST = 1e-9
WHITE, YELLOW = (1.0, 1.0, 1.0, 1.0), (1.0, 0.85, 0.1, 1.0)
BACKGROUND = "#111417"
NOWHERE = np.zeros((1, 2), np.float32)


class PlotCanvas(QWidget):
    """What is drawn, and the mouse.

    Signals
    -------
    enclosed(polygon, more)
        A line was drawn: (M, 2) in the plot's coordinates; `more` with Shift, to add to what is
        selected.
    clicked(xy, more), hovered(xy)
        Of the mouse; `hovered` gets None when it leaves.
    bounds_changed
        Another part is in view.
    """

    enclosed = Signal(object, bool)
    clicked = Signal(object, bool)
    hovered = Signal(object)
    bounds_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.mode = LASSO
        self.bounds: Bounds = (0.0, 0.0, 1.0, 1.0)
        self._home: Bounds = self.bounds
        self._path: list[tuple[float, float]] = []
        self._from: tuple[float, float] | None = None
        self._button = 0
        self._build()

    def _build(self) -> None:
        from vispy import app
        from vispy.scene import PanZoomCamera, SceneCanvas, visuals
        from vispy.visuals.transforms import STTransform

        app.use_app(API_NAME.lower())
        self.canvas = SceneCanvas(keys=None, bgcolor=BACKGROUND, parent=self)
        self.canvas.native.setParent(self)
        view = self.canvas.central_widget.add_view()
        view.camera = self._camera = PanZoomCamera(aspect=None)
        self._camera.interactive = False
        self._transform = STTransform
        self._images = {
            name: visuals.Image(
                np.zeros((1, 1, 4), np.uint8), parent=view.scene, interpolation="nearest"
            )
            for name in ("cells", "chosen", "likely")
        }
        self._dots = {name: visuals.Markers(parent=view.scene) for name in self._images}
        self._line = visuals.Line(NOWHERE, color=WHITE, width=1.5, parent=view.scene)
        for order, name in enumerate(self._images):
            self._images[name].order, self._dots[name].order = 2 * order, 2 * order + 1
            self._images[name].set_gl_state("translucent", depth_test=False)
            self._images[name].visible = self._dots[name].visible = False
        self._line.order, self._line.visible = 10, False
        self._line.set_gl_state("translucent", depth_test=False)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.canvas.native)
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        events = self.canvas.events
        events.mouse_press.connect(self._on_press)
        events.mouse_move.connect(self._on_move)
        events.mouse_release.connect(self._on_release)
        events.mouse_wheel.connect(self._on_wheel)
        events.mouse_double_click.connect(self._on_double_click)
        events.resize.connect(self._on_resize)

    def let_go(self) -> None:
        """Give the graphics memory back; nothing is drawn any more."""
        self.canvas.close()

    # What is shown ----------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in screen px."""
        width, height = self.canvas.size
        return max(int(height), 1), max(int(width), 1)

    def show_bounds(self, bounds: Bounds, *, home: bool = False) -> None:
        """Show another part of the plane; `home` is where a double click leads back to."""
        x0, y0, x1, y1 = bounds
        if not (x1 - x0 > SMALLEST and y1 - y0 > SMALLEST):
            return
        self.bounds = bounds
        if home:
            self._home = bounds
        self._camera.rect = (x0, y0, x1 - x0, y1 - y0)
        self.bounds_changed.emit()

    def show_cells(self, drawn: Picture, points: NDArray[np.float32]) -> None:
        """The cells."""
        self._show("cells", drawn, points, size=DOT_PX, filled=True)

    def show_chosen(self, drawn: Picture | None, points: NDArray[np.float32]) -> None:
        """What is selected, on top."""
        self._show("chosen", drawn, points, size=CHOSEN_PX, rim=WHITE)

    def show_likely(self, drawn: Picture | None, points: NDArray[np.float32]) -> None:
        """What would be selected, on top."""
        self._show("likely", drawn, points, size=CHOSEN_PX, rim=YELLOW)

    def _show(
        self,
        name: str,
        drawn: Picture | None,
        points: NDArray[np.float32],
        *,
        size: float,
        filled: bool = False,
        rim: tuple[float, ...] = WHITE,
    ) -> None:
        image, dots = self._images[name], self._dots[name]
        image.visible = drawn is not None and drawn.image is not None
        dots.visible = drawn is not None and len(drawn.dots) > 0
        if drawn is not None and drawn.image is not None:
            rows, columns = drawn.image.shape[:2]
            x0, y0, x1, y1 = self.bounds
            image.set_data(drawn.image)
            image.transform = self._transform(
                scale=((x1 - x0) / columns, (y1 - y0) / rows), translate=(x0, y0)
            )
        if drawn is not None and len(drawn.dots):
            color = np.concatenate(
                (drawn.colors / np.float32(255), np.ones((len(drawn.dots), 1), np.float32)), axis=1
            ).astype(np.float32)
            dots.set_data(
                np.ascontiguousarray(points[drawn.dots], np.float32),
                face_color=color if filled else (0, 0, 0, 0),
                edge_color=rim,
                edge_width=0 if filled else 1.0,
                size=size,
            )
            dots.set_gl_state("translucent", depth_test=False)
        self.canvas.update()

    # What the mouse does ----------------------------------------------------------------

    def to_plot(self, position: Any) -> tuple[float, float]:
        """A place on the canvas (px from its upper left) in the plot's coordinates."""
        rows, columns = self.shape
        x0, y0, x1, y1 = self.bounds
        x, y = float(position[0]) / columns, 1 - float(position[1]) / rows
        return x0 + x * (x1 - x0), y0 + y * (y1 - y0)

    def to_canvas(self, xy: tuple[float, float]) -> tuple[float, float]:
        """The opposite of `to_plot`."""
        rows, columns = self.shape
        x0, y0, x1, y1 = self.bounds
        return (xy[0] - x0) / (x1 - x0) * columns, (1 - (xy[1] - y0) / (y1 - y0)) * rows

    def _on_press(self, event: Any) -> None:
        self._from, self._button = (float(event.pos[0]), float(event.pos[1])), event.button
        self._path = [self._from]

    def _on_move(self, event: Any) -> None:
        here = (float(event.pos[0]), float(event.pos[1]))
        if self._from is None or not event.is_dragging:
            self.hovered.emit(self.to_plot(here))
            return
        if self.mode == MOVE or self._button != 1:
            self._pan(here)
        elif self.mode == BOX:
            (ax, ay), (bx, by) = self._from, here
            self._path = [(ax, ay), (bx, ay), (bx, by), (ax, by)]
            self._draw_path()
        elif np.hypot(here[0] - self._path[-1][0], here[1] - self._path[-1][1]) >= NEAR_PX:
            self._path.append(here)
            self._draw_path()

    def _on_release(self, event: Any) -> None:
        start, path, button = self._from, self._path, self._button
        self._from, self._path = None, []
        self._line.visible = False
        self.canvas.update()
        if start is None or button != 1 or self.mode == MOVE:
            return
        more = any(key.name == "Shift" for key in event.modifiers)
        extent = np.ptp(np.array([*path, event.pos]), axis=0).max()
        if extent < CLICK_PX:
            self.clicked.emit(self.to_plot(start), more)
        elif len(path) >= 3:
            self.enclosed.emit(np.array([self.to_plot(p) for p in path]), more)

    def _on_wheel(self, event: Any) -> None:
        turn = float(event.delta[1])
        if turn:
            self.zoom(ZOOM_STEP**-turn, at=self.to_plot(event.pos))
        event.handled = True

    def _on_double_click(self, event: Any) -> None:
        self._from, self._path = None, []
        self.show_bounds(self._home)

    def _on_resize(self, event: Any) -> None:
        self.bounds_changed.emit()

    def leaveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The mouse is elsewhere."""
        self.hovered.emit(None)
        super().leaveEvent(event)

    def zoom(self, factor: float, *, at: tuple[float, float]) -> None:
        """Show `factor` times as much of the plane, with the point `at` where it is."""
        x0, y0, x1, y1 = self.bounds
        x, y = at
        self.show_bounds(
            (x + (x0 - x) * factor, y + (y0 - y) * factor,
             x + (x1 - x) * factor, y + (y1 - y) * factor)
        )  # fmt: skip

    def _pan(self, here: tuple[float, float]) -> None:
        assert self._from is not None
        (ax, ay), (bx, by) = self.to_plot(self._from), self.to_plot(here)
        x0, y0, x1, y1 = self.bounds
        self._from = here
        self.show_bounds((x0 + ax - bx, y0 + ay - by, x1 + ax - bx, y1 + ay - by))

    def _draw_path(self) -> None:
        corners = np.array([self.to_plot(p) for p in (*self._path, self._path[0])], np.float32)
        self._line.set_data(corners)
        self._line.visible = True
        self.canvas.update()
