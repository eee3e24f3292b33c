"""Measured cells on the slide: outlines in the colour of their class near, a filled map far out."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from napari.layers import Labels, Vectors
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.gui.her2_map import CellMap
from napari_celldetr.gui.her2_state import NOT_COUNTED, NOT_DRAWN, Her2State
from napari_celldetr.gui.layers import HALF, Frame
from napari_celldetr.gui.overlay import View, _at_once, _line_width, _same_selection
from napari_celldetr.pipeline.her2.palette import NOT_COUNTED as GREY
from napari_celldetr.pipeline.her2.palette import SCORE_COLORS

MAX_OUTLINES = 1_200
NEAR_FROM_PX = 18.0
"""Width of a cell on the screen from which its outline says more than a filled area."""
USUAL_CELL_UM = 14.0
LINE_PX = 3.0
EVERY, EVERY_OF_MANY, MANY = 4, 6, 400
"""One corner of so many rays; from `MANY` outlines on they are so small that fewer corners do."""
MAP_OPACITY = 0.65


class Show(StrEnum):
    """What a person wants to see of the measured cells."""

    AUTO = "auto"
    OUTLINES = "outlines"
    MAP = "map"
    NOTHING = "nothing"


class Her2Layers:
    """The layers of one slide's measured cells; `refresh` draws what a view needs.

    A layer the user removes is let go until the next measurement.
    """

    def __init__(self, viewer: Any, frame: Frame, size: tuple[int, int], *, name: str) -> None:
        self._viewer, self.frame, self._size, self._name = viewer, frame, size, name
        self.show = Show.AUTO
        self._held = False
        self.state: Her2State | None = None
        self.map: CellMap | None = None
        self._values: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._layers: dict[str, Any] = {}
        self._view: View | None = None
        self._drawn: tuple[Any, ...] = ()
        self._version = 0

    def layer(self, kind: str) -> Any | None:
        """The layer ``map`` or ``outlines``, None when there is none."""
        found = self._layers.get(kind)
        return found if found is not None and found in self._viewer.layers else None

    def take(self, state: Her2State) -> None:
        """Show other measurements."""
        self.remove()
        self.state = state
        mpp = float(np.mean(self.frame.mpp or (1.0, 1.0)))
        self.map = CellMap(state.reading.measured.outlines, self._size, mpp=mpp)
        self._values = self.map.values = state.values()
        self._add()

    def recolor(self) -> None:
        """Cut-offs, tumour or the lit branch are others; nothing is rendered anew."""
        if self.state is None or self.map is None:
            return
        values = self.state.values()
        if not np.array_equal(values, self._values):
            self._values = self.map.values = values
            self._version += 1
        self.refresh(self._view)

    def choose(self, show: Show) -> None:
        """Show outlines, the map, what fits the distance, or nothing."""
        self.show = show
        self.refresh(self._view)

    def hold(self, hidden: bool) -> None:
        """Show nothing of the cells for as long as it is wanted."""
        self._held = hidden
        self.refresh(self._view)

    def remove(self) -> None:
        """Take the layers away."""
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers, self._drawn = {}, ()

    def _add(self) -> None:
        assert self.map is not None
        levels = self.map.levels()
        several = len(levels) > 1
        self._layers = {
            "map": Labels(
                levels if several else np.asarray(levels[0]),
                multiscale=several,
                name=f"HER2 map · {self._name}",
                colormap=DirectLabelColormap(color_dict=map_colors()),
                opacity=MAP_OPACITY,
                **self.frame.layer_options(),
            ),
            "outlines": Vectors(
                np.zeros((0, 2, 2), np.float32),
                ndim=2,
                name=f"HER2 outlines · {self._name}",
                vector_style="line",
                edge_width=1.0,
                opacity=1.0,
                visible=False,
                **self.frame.layer_options(),
            ),
        }
        with _same_selection(self._viewer):
            for layer in self._layers.values():
                self._viewer.add_layer(layer)
                layer.editable = False

    # Drawing ----------------------------------------------------------------------------

    def refresh(self, view: View | None) -> None:
        """Draw what is in view; cheap when nothing is another."""
        self._view = view
        if view is None or self.state is None:
            return
        rows = self.state.rows_in(view.region.grow(round(USUAL_CELL_UM / self._um)))
        near = self._is_near(view, len(rows)) and not self._held
        has_map = not near and self.show is not Show.NOTHING and not self._held
        wanted = {"outlines": near, "map": has_map}
        state = (self._version, wanted["map"], view if near else None)
        if state == self._drawn:
            return
        # A hidden layer keeps the slice of its old data, so it is shown before it is drawn.
        for kind, visible in wanted.items():
            layer = self.layer(kind)
            if layer is not None and layer.visible != visible:
                layer.visible = visible
        if near:
            self._draw_outlines(rows, view)
        elif wanted["map"]:
            self._draw_map()
        self._drawn = state

    @property
    def _um(self) -> float:
        return float(np.mean(self.frame.mpp or (1.0, 1.0)))

    def _is_near(self, view: View, cells: int) -> bool:
        if self.show is not Show.AUTO:
            return self.show is Show.OUTLINES
        wide = USUAL_CELL_UM / self._um * view.zoom
        return wide >= NEAR_FROM_PX and cells <= MAX_OUTLINES

    def _draw_map(self) -> None:
        layer, source = self.layer("map"), self.map
        if layer is None or source is None:
            return
        if not layer.multiscale:
            layer.data = np.asarray(source.levels()[0])
        layer.refresh(thumbnail=False)

    def _draw_outlines(self, rows: NDArray[np.int64], view: View) -> None:
        layer, state = self.layer("outlines"), self.state
        if layer is None or state is None:
            return
        rows = rows[self._values[rows] != NOT_DRAWN][: 4 * MAX_OUTLINES]
        # Cells that do not count lie below those that do.
        rows = rows[np.argsort(self._values[rows] != NOT_COUNTED, kind="stable")]
        lines = outline_data(state, rows)
        with _at_once(layer):
            width = _line_width(LINE_PX, view.zoom)
            if layer.edge_width != width:
                layer.edge_width = width
            layer.data = lines
            if len(rows):
                layer.edge_color = np.repeat(
                    _rgba()[self._values[rows]], len(lines) // len(rows), 0
                )


def outline_data(state: Her2State, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Outlines of cells as napari Vectors data (M, 2, 2): start and direction, each y, x."""
    if not len(rows):
        return np.zeros((0, 2, 2), np.float32)
    every = EVERY if len(rows) < MANY else EVERY_OF_MANY
    corners = state.polygons(rows)[:, ::every, ::-1] - np.float32(HALF)
    edges = np.stack([corners, np.roll(corners, -1, axis=1) - corners], axis=2)
    return np.ascontiguousarray(edges.reshape(-1, 2, 2), np.float32)


def _rgba() -> NDArray[np.float32]:
    """Colours (6, 4) of `Her2State.values`."""
    colors = [(0, 0, 0), *(SCORE_COLORS[s] for s in SCORES), GREY]
    rgba = np.ones((len(colors), 4), np.float32)
    rgba[:, :3] = np.array(colors, np.float32) / 255
    rgba[NOT_DRAWN] = 0
    rgba[NOT_COUNTED, 3] = 0.6
    return rgba


def map_colors() -> dict[int | None, Any]:
    """Colours of the values of a map."""
    rgba = [tuple(float(v) for v in color) for color in _rgba()]
    return {None: rgba[0], **dict(enumerate(rgba))}
