"""Cells at three distances: a raster far out, points in the middle, box edges near.

The table is the truth and these layers are views of it; no figure depends on what is drawn.
Marks of corrected and selected cells lie on top, and a veil over what nobody has looked at.
Nothing here needs Qt: the session decides when to call `refresh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels, Points, Vectors
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area, Key, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims, Rows
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.regions import Region, Tile
from napari_celldetr.gui.coverage import SEEN_COLORS, Coverage
from napari_celldetr.gui.layers import (
    CELLS_KEY,
    Frame,
    class_rgba,
    edge_data,
    hatch_data,
    line_data,
    point_data,
    raster_colors,
    typical_size,
)
from napari_celldetr.gui.marks import MAX_MARKS, SELECTED, marks_of
from napari_celldetr.gui.raster import CellRaster

MAX_POINTS = 15_000
"""More points than this take longer than 50 ms to hand over."""
MAX_BOXES = 2_500
FAR_BELOW_PX = 4.0
NEAR_FROM_PX = 14.0
"""Width of a typical nucleus on the screen at which the level changes."""
MARGIN = 0.25
DOT = 0.55
LINE_PX = 2.2
USUAL_NUCLEUS_UM = 8.0
"""Before cells are known; what is drawn never follows a median more than twice off."""
HATCH_COLORS = {"failed": (0.85, 0.1, 0.7, 0.9), "saturated": (0.95, 0.55, 0.0, 0.9)}
AREA_COLORS = {"complete": (0.1, 0.75, 0.25, 1.0), "region": (1.0, 0.83, 0.0, 1.0)}
AREA_LINE_PX = 3.0
SKETCH_COLOR = (0.0, 0.95, 0.95, 1.0)
HATCH_WORDS = {"failed": "Could not be analysed", "saturated": "Too many cells"}
DISTANCES = ("far", "mid", "near")
NO_ROWS: Rows = np.zeros(0, np.int64)


class Level(StrEnum):
    """What is drawn."""

    FAR = "far"
    MID = "mid"
    NEAR = "near"


@dataclass(frozen=True)
class View:
    """What the viewer shows: `region` in level-0 px, `zoom` screen px per level-0 px."""

    region: Region
    zoom: float

    def grown(self) -> Region:
        """The region with a margin, so that a short pan does not run out of cells."""
        return self.region.grow(int(max(self.region.width, self.region.height) * MARGIN))


def camera_of(viewer: Any) -> Any:
    """The viewer's camera: it moved in napari 0.9."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def text_overlay_of(viewer: Any) -> Any:
    """The viewer's text on the canvas: it moved in napari 0.9."""
    canvas = getattr(viewer, "canvas", None)
    overlays = getattr(canvas, "overlays", None)
    return viewer.text_overlay if overlays is None else overlays.text


def canvas_size_of(viewer: Any) -> tuple[int, int]:
    """Canvas (height, width) in screen px; a full screen where napari does not tell."""
    canvas = getattr(viewer, "canvas", None)
    return (1080, 1920) if canvas is None else tuple(canvas.size)


def view_of(viewer: Any, frame: Frame) -> View | None:
    """What is on the screen: camera centre ± canvas / zoom / 2 (`corner_pixels` snap to chunks)."""
    camera = camera_of(viewer)
    size = np.asarray(canvas_size_of(viewer), np.float64)
    if camera.zoom <= 0 or not np.isfinite(camera.zoom):
        return None
    centre = np.asarray(camera.center, np.float64)[-2:]
    half = size / camera.zoom / 2
    region = frame.region_of(np.array([centre - half, centre + half]))
    return None if region is None else View(region, camera.zoom * float(np.mean(frame.scale)))


def choose_level(nucleus_px: float, points: int, boxes: int) -> Level:
    """What to draw for nuclei `nucleus_px` wide on screen and the counts each level would need."""
    if nucleus_px < FAR_BELOW_PX or points > MAX_POINTS:
        return Level.FAR
    if nucleus_px >= NEAR_FROM_PX and boxes <= MAX_BOXES:
        return Level.NEAR
    return Level.MID


class Overlay:
    """The layers of one slide's cells.

    `viewer` needs ``add_layer`` and ``layers``; `size` is the slide's (width, height); `owner`
    is what a writer finds behind the points. The layers are added at once and updated in place.
    A layer the user removes is let go and never comes back; hiding one of the three distances
    hides them all until one is shown again.
    """

    def __init__(
        self,
        viewer: Any,
        *,
        cells: CellTable,
        frame: Frame,
        size: tuple[int, int],
        colors: Sequence[tuple[int, int, int]],
        name: str,
        owner: Any = None,
    ) -> None:
        self.cells = cells
        self.frame = frame
        self.colors = tuple(colors)
        self.name = name
        self.raster = CellRaster(size, mpp=frame.mpp[0] if frame.mpp else None)
        self.coverage: Coverage | None = None
        self.level = Level.FAR
        self.hidden = False
        self.selected: Rows = np.zeros(0, np.int64)
        self._ours = False
        self._listening = False
        self._sketched = self._outlined = False
        self._drawn: tuple[Any, ...] = ()
        self._view: View | None = None
        self._version = 0
        self._usual_px = USUAL_NUCLEUS_UM / (frame.mpp[0] if frame.mpp else 0.5)
        self._nucleus_px = self._usual_px
        self._hatched: dict[str, list[Tile]] = {"failed": [], "saturated": []}
        self._layers: dict[str, Any] = {}
        self._add(viewer, owner)

    def _add(self, viewer: Any, owner: Any) -> None:
        placed = self.frame.layer_options()
        self._layers = {
            "far": Labels(
                self.raster.arrays,
                multiscale=True,
                name=self._named("Overview"),
                colormap=self._raster_colors(),
                opacity=0.8,
                **self.frame.raster_options(self.raster.factor),
            ),
            "mid": Points(
                np.zeros((0, 2), np.float32),
                ndim=2,
                name=self._named("Cells"),
                size=self._nucleus_px * DOT,
                border_width=0,
                opacity=0.9,
                canvas_size_limits=(3, 10_000),
                visible=False,
                metadata={CELLS_KEY: owner},
                **placed,
            ),
            "near": Vectors(
                np.zeros((0, 2, 2), np.float32),
                ndim=2,
                name=self._named("Outlines"),
                vector_style="line",
                edge_width=1.0,
                opacity=1.0,
                visible=False,
                **placed,
            ),
            "marks": Points(
                np.zeros((0, 2), np.float32),
                ndim=2,
                name=self._named("Corrections"),
                opacity=1.0,
                canvas_size_limits=(5, 10_000),
                **placed,
            ),
        }
        self._viewer = viewer
        with _same_selection(viewer):
            for layer in self._layers.values():
                viewer.add_layer(layer)
                layer.editable = False

    def _named(self, what: str) -> str:
        # What it shows comes first: the layer list cuts long names at their end.
        return f"{what} · {self.name}"

    def _raster_colors(self) -> DirectLabelColormap:
        return DirectLabelColormap(color_dict=raster_colors(self.colors))

    def listen(self, follow: bool) -> None:
        """Begin or end to notice what the user does to the layers; they stay where they are."""
        if follow == self._listening:
            return
        self._listening = follow
        removed = self._viewer.layers.events.removed
        removed.connect(self._on_removed) if follow else removed.disconnect(self._on_removed)
        if follow:
            there = self._viewer.layers
            self._layers = {k: v for k, v in self._layers.items() if v in there}
        for kind in DISTANCES:
            if (layer := self._layers.get(kind)) is not None:
                seen = layer.events.visible
                seen.connect(self._on_eye) if follow else seen.disconnect(self._on_eye)
        if (layer := self._layers.get("marks")) is not None:
            seen = layer.events.visible
            seen.connect(self._on_marks_eye) if follow else seen.disconnect(self._on_marks_eye)

    @property
    def layers(self) -> list[Any]:
        """The layers that still exist."""
        return list(self._layers.values())

    def layer(self, kind: str) -> Any | None:
        """The layer ``far``, ``mid``, ``near`` or ``failed``, or None when it is gone."""
        return self._layers.get(kind)

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        self._layers = {k: v for k, v in self._layers.items() if v is not gone and v != gone}

    def _on_eye(self, event: Any) -> None:
        if self._ours:
            return
        self.hidden = not event.source.visible
        self._show(self.level)
        self.refresh(self._view)

    def _on_marks_eye(self, event: Any) -> None:
        if not self._ours:
            self.refresh(self._view)

    def hide(self, hidden: bool) -> None:
        """Hide all cells, or show them again."""
        self.hidden = hidden
        self._show(self.level)
        with self._quietly():
            for kind in ("marks", "coverage"):
                if (layer := self._layers.get(kind)) is not None:
                    layer.visible = not hidden
        self.refresh(self._view)

    def add_tile(
        self, tile: Tile, table: Detections | None, state: str, *, within: Region | None = None
    ) -> None:
        """A finished tile: its cells are kept and painted, and what became of it is shown.

        `within` is the run's region.
        """
        self.see(tile, state, within=within)
        room = tile.core if within is None else tile.core.intersect(within)
        if table is None or room is None:
            return
        # What lies in the margin belongs to the tile beside it: it would be counted twice.
        table = table.select(inside(table.centres, tile.core))
        boxes = self.cells.boxes[self.cells.rows_in(room)]
        self.cells.add(table, within=room)
        if len(boxes) or len(self.cells.annotations) or self.cells.teacher is not None:
            self.raster.repaint(self.cells, np.concatenate((boxes, table.boxes)))
        else:
            self.raster.paint_table(table, self.cells.threshold)
        self._changed(table)

    def replace(
        self, claims: Claims, raster: CellRaster, *, covered: Mapping[Key, int] | None = None
    ) -> None:
        """The merged result and its raster, both prepared outside the GUI thread."""
        self.cells.replace(claims, covered=covered)
        if raster.factor != self.raster.factor:
            # Made for another pixel size: better slow than wrong.
            raster = CellRaster(raster.size, mpp=self.frame.mpp[0] if self.frame.mpp else None)
            raster.paint_table(claims.table, self.cells.threshold)
        self.raster.take_over(raster)
        if raster.threshold != self.cells.threshold:
            self.raster.show(self.cells.threshold)
        self._paint_said()
        self._changed(claims.table)

    def retaught(self, raster: CellRaster) -> None:
        """Claims have other classes; `raster` was painted with them outside the GUI thread."""
        self.raster.take_over(raster)
        if raster.threshold != self.cells.threshold:
            self.raster.show(self.cells.threshold)
        # What was corrected while it was painted.
        self._paint_said()
        self._version += 1

    def restated(self, rows: Rows, before: NDArray[np.float32]) -> None:
        """Cells were edited: `rows` of the table, which had the boxes `before` (N, 4)."""
        self.raster.repaint(self.cells, np.concatenate((before, self.cells.boxes[rows])))
        self._version += 1

    def reloaded(self) -> None:
        """Everything people said was loaded anew."""
        self._paint_said()
        self._version += 1

    def _paint_said(self) -> None:
        touched = np.flatnonzero(self.cells.status != Status.CLAIMED)
        self.raster.repaint(self.cells, self.cells.boxes[touched])

    def select(self, rows: Rows) -> None:
        """Frame some cells as selected."""
        self.selected = rows
        self._version += 1

    def set_colors(self, colors: Sequence[tuple[int, int, int]]) -> None:
        """Other colours, or those of new classes."""
        if tuple(colors) == self.colors:
            return
        self.colors = tuple(colors)
        if (layer := self._layers.get("far")) is not None:
            layer.colormap = self._raster_colors()
        self._version += 1

    def set_threshold(self, threshold: float) -> None:
        """Keep cells from another score on."""
        self.cells.threshold = threshold
        self.raster.show(threshold)
        self._version += 1

    def see(self, tile: Tile, state: str, *, within: Region | None = None) -> None:
        """Show what became of a tile, or of what of it lies `within`."""
        if self.coverage is None:
            self.show_coverage(Coverage(self.raster.size, tile.core.width))
        assert self.coverage is not None
        self.coverage.tell(tile.index, state, within)
        if state in self._hatched:
            self._hatch(tile, state)
        self._version += 1

    def show_coverage(self, coverage: Coverage) -> None:
        """A veil over all that was not looked at."""
        self.coverage = coverage
        if not self._layers:
            return
        old = self._layers.pop("coverage", None)
        if old is not None and old in self._viewer.layers:
            self._viewer.layers.remove(old)
        layer = Labels(
            coverage.seen,
            name=self._named("Not analysed"),
            colormap=DirectLabelColormap(color_dict=SEEN_COLORS),
            opacity=1.0,
            **self.frame.raster_options(coverage.step),
        )
        layer.editable = False
        with _same_selection(self._viewer):
            self._viewer.add_layer(layer)
            # Under the cells.
            lowest = min(self._viewer.layers.index(x) for x in self._layers.values())
            self._viewer.layers.move(self._viewer.layers.index(layer), lowest)
        self._layers["coverage"] = layer

    def sketch(self, corners: NDArray[np.floating] | None, *, zoom: float) -> None:
        """A closed line while it is drawn, (M, 2) x, y in level-0 px; None takes it away."""
        layer = self._layers.get("sketch")
        if corners is None or len(corners) < 2:
            if layer is not None and len(layer.data):
                layer.data = np.zeros((0, 2, 2), np.float32)
            return
        if layer is None:
            if self._sketched:
                return
            layer = Vectors(
                np.zeros((0, 2, 2), np.float32),
                ndim=2,
                name=self._named("Drawing"),
                vector_style="line",
                edge_color=np.array([SKETCH_COLOR]),
                **self.frame.layer_options(),
            )
            layer.editable = False
            self._sketched = True
            with _same_selection(self._viewer):
                self._viewer.add_layer(layer)
            self._layers["sketch"] = layer
        layer.edge_width = _line_width(LINE_PX, zoom)
        layer.data = line_data(np.asarray(corners, np.float64))
        layer.edge_color = np.array([SKETCH_COLOR])

    def show_areas(self, areas: Mapping[str, Area]) -> None:
        """Outlines of drawn areas; those marked as complete are green."""
        layer = self._layers.get("areas")
        if layer is None:
            if not areas or self._outlined:
                return
            layer = Vectors(
                np.zeros((0, 2, 2), np.float32),
                ndim=2,
                name=self._named("Areas"),
                vector_style="line",
                edge_width=1.0,
                **self.frame.layer_options(),
            )
            layer.editable = False
            self._outlined = True
            with _same_selection(self._viewer):
                self._viewer.add_layer(layer)
            self._layers["areas"] = layer
        lines = [line_data(area.corners) for area in areas.values()]
        colors = [AREA_COLORS[area.kind] for area in areas.values()]
        layer.data = np.concatenate(lines) if lines else np.zeros((0, 2, 2), np.float32)
        if lines:
            layer.edge_color = np.repeat(np.array(colors), [len(x) for x in lines], axis=0)
        if self._view is not None:
            self._fit_areas(self._view.zoom)

    def _fit_areas(self, zoom: float) -> None:
        layer = self._layers.get("areas")
        width = _line_width(AREA_LINE_PX, zoom)
        if layer is not None and layer.edge_width != width:
            layer.edge_width = width

    def _hatch(self, tile: Tile, state: str) -> None:
        tiles = self._hatched[state]
        tiles.append(tile)
        layer = self._layers.get(state)
        if layer is not None:
            layer.data = hatch_data(tiles)
            return
        if len(tiles) > 1:
            # The user has removed it.
            return
        layer = Vectors(
            hatch_data(tiles),
            name=self._named(HATCH_WORDS[state]),
            vector_style="line",
            edge_width=max(tile.core.width / 150, 1.0),
            edge_color=np.array([HATCH_COLORS[state]]),
            **self.frame.layer_options(),
        )
        with _same_selection(self._viewer):
            self._viewer.add_layer(layer)
        self._layers[state] = layer

    def _changed(self, table: Detections) -> None:
        self._version += 1
        if not len(table):
            return
        size = typical_size(table)
        self._nucleus_px = float(np.clip(size, self._usual_px / 2, self._usual_px * 2))

    @property
    def nucleus_px(self) -> float:
        """Width of a typical nucleus in level-0 px."""
        return self._nucleus_px

    def refresh(self, view: View | None) -> None:
        """Draw what `view` needs; cheap when nothing changed."""
        if view is None or not self._layers:
            return
        self._view = view
        self._fit_areas(view.zoom)
        near, shown = self.cells.rows_in(view.grown()), self.cells.rows_in(view.region)
        level = choose_level(self._nucleus_px * view.zoom, len(near), len(shown))
        # napari slices what is visible alone: data given to a hidden layer would not fit the
        # slice of its old data. So a layer is shown first, and drawn in the same turn.
        self._show(level)
        seen = tuple(kind for kind, layer in self._layers.items() if layer.visible)
        state = (level, self._version, seen, None if level is Level.FAR else view)
        if state == self._drawn:
            return
        veil = self._layers.get("coverage")
        if veil is not None and self._drawn[1:2] != (self._version,):
            veil.refresh()
        with self._quietly():
            self._draw(level, view, near, shown)
            self._draw_marks(level, view, near)
        self._drawn = state

    def _draw(self, level: Level, view: View, near: Rows, shown: Rows) -> None:
        if self.hidden:
            return
        if level is Level.FAR:
            self._draw_raster()
        elif level is Level.MID:
            self._draw_points(near)
        else:
            self._draw_boxes(near if len(near) <= MAX_BOXES else shown, view.zoom)

    def _draw_raster(self) -> None:
        if (layer := self._layers.get("far")) is not None:
            layer.refresh()

    def _draw_points(self, rows: Rows) -> None:
        layer = self._layers.get("mid")
        if layer is None:
            return
        cells = self.cells
        with _at_once(layer):
            layer.current_size = self._nucleus_px * DOT
            layer.data = point_data(cells.centres[rows])
            if len(rows):
                ids = cells.class_ids[rows]
                layer.face_color = class_rgba(ids, self.colors)
                layer.size = self._nucleus_px * DOT
                names = pd.Categorical.from_codes(ids, categories=list(cells.class_names))
                scores = np.round(cells.scores[rows], 3)
                layer.features = pd.DataFrame({"class": names, "score": scores})

    def _draw_boxes(self, rows: Rows, zoom: float) -> None:
        layer = self._layers.get("near")
        if layer is None:
            return
        width = _line_width(LINE_PX, zoom)
        with _at_once(layer):
            if layer.edge_width != width:
                layer.edge_width = width
            layer.data = edge_data(self.cells.boxes[rows])
            if len(rows):
                colors = class_rgba(self.cells.class_ids[rows], self.colors)
                colors[np.isin(rows, self.selected)] = SELECTED
                layer.edge_color = np.repeat(colors, 4, axis=0)

    def _draw_marks(self, level: Level, view: View, near: Rows) -> None:
        layer = self._layers.get("marks")
        if layer is None or not layer.visible:
            return
        chosen = self.selected[self.cells.kept[self.selected]]
        chosen = chosen[inside(self.cells.centres[chosen], view.grown())]
        far = level is Level.FAR
        gone = self.cells.deleted_in(view.grown()) if level is Level.NEAR else NO_ROWS
        marks = marks_of(
            self.cells,
            NO_ROWS if far else near,
            NO_ROWS if far and len(chosen) > MAX_MARKS else chosen,
            gone,
            self.colors,
            nucleus_px=self._nucleus_px,
            boxed=level is Level.NEAR,
            zoom=view.zoom,
        )
        if not len(marks) and not len(layer.data):
            return
        with _at_once(layer):
            layer.data = marks.data
            if len(marks):
                layer.symbol = marks.symbol
                layer.size = marks.size
                layer.face_color = marks.face
                layer.border_color = marks.border
                layer.border_width = marks.rim

    def _show(self, level: Level) -> None:
        self.level = level
        with self._quietly():
            for kind, wanted in (("far", Level.FAR), ("mid", Level.MID), ("near", Level.NEAR)):
                layer = self._layers.get(kind)
                visible = level is wanted and not self.hidden
                if layer is not None and layer.visible != visible:
                    layer.visible = visible

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self._ours = True
        try:
            yield
        finally:
            self._ours = False


def _line_width(screen_px: float, zoom: float) -> float:
    """Level-0 px of a line so wide on the screen.

    In powers of two, or every zoom step would build the mesh of all lines once more.
    """
    return float(2.0 ** np.round(np.log2(screen_px / zoom)))


@contextmanager
def _at_once(layer: Any) -> Iterator[None]:
    """Several properties of a layer change, which is sliced and drawn once, at the end.

    Each would do it by itself; so would the layer list's thumbnails, which say nothing here.
    """
    with ExitStack() as stack:
        stack.enter_context(layer._block_refresh())
        # Colours have events of their own, which would draw what is not sliced yet.
        colors = (getattr(layer, name, None) for name in ("_face", "_border", "_edge"))
        for part in (layer, *(c for c in colors if c is not None)):
            stack.enter_context(part.events.blocker_all())
        yield
    layer.refresh(thumbnail=False)
    if isinstance(layer, Points):
        # For napari's own table of them.
        layer.events.features()


@contextmanager
def _same_selection(viewer: Any) -> Iterator[None]:
    """Adding our layers must not take the selection away from the user's."""
    before = list(viewer.layers.selection)
    yield
    if before:
        viewer.layers.selection = before
