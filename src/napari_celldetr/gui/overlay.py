"""Cells at three distances: a raster far out, points in the middle, box edges near.

The store is the truth and these layers are views of it; no figure depends on what is drawn.
Nothing here needs Qt: the dock decides when to call `refresh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels, Points, Vectors
from napari.utils.colormaps import DirectLabelColormap

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.regions import Region, Tile
from napari_celldetr.gui.layers import (
    CELLS_KEY,
    Frame,
    class_rgba,
    edge_data,
    hatch_data,
    point_data,
    raster_colors,
    typical_size,
)
from napari_celldetr.gui.raster import CellRaster
from napari_celldetr.gui.store import CellStore

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
FAILED_COLOR = (0.85, 0.1, 0.7, 0.9)


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
    """The layers of one run.

    `viewer` needs ``add_layer`` and ``layers``; `size` is the slide's (width, height). The
    layers are added at once and updated in place. A layer the user removes is let go and never
    comes back; hiding one hides them all until one is shown again.
    """

    def __init__(
        self,
        viewer: Any,
        *,
        store: CellStore,
        frame: Frame,
        size: tuple[int, int],
        colors: Sequence[tuple[int, int, int]],
        name: str,
    ) -> None:
        self.store = store
        self.frame = frame
        self.colors = tuple(colors)
        self.name = name
        self.raster = CellRaster(size, mpp=frame.mpp[0] if frame.mpp else None)
        self.level = Level.FAR
        self.hidden = False
        self._ours = False
        self._drawn: tuple[Any, ...] = ()
        self._version = 0
        self._usual_px = USUAL_NUCLEUS_UM / (frame.mpp[0] if frame.mpp else 0.5)
        self._nucleus_px = self._usual_px
        self._failed: list[Tile] = []
        self._layers: dict[str, Any] = {}
        self._add(viewer)

    def _add(self, viewer: Any) -> None:
        placed = self.frame.layer_options()
        self._layers = {
            "far": Labels(
                self.raster.arrays,
                multiscale=True,
                name=f"{self.name} overview",
                colormap=DirectLabelColormap(color_dict=raster_colors(self.colors)),
                opacity=0.8,
                **self.frame.raster_options(self.raster.factor),
            ),
            "mid": Points(
                np.zeros((0, 2), np.float32),
                ndim=2,
                name=self.name,
                size=self._nucleus_px * DOT,
                border_width=0,
                opacity=0.9,
                canvas_size_limits=(3, 10_000),
                visible=False,
                metadata={CELLS_KEY: self.store},
                **placed,
            ),
            "near": Vectors(
                np.zeros((0, 2, 2), np.float32),
                ndim=2,
                name=f"{self.name} outlines",
                vector_style="line",
                edge_width=1.0,
                opacity=1.0,
                visible=False,
                **placed,
            ),
        }
        viewer.layers.events.removed.connect(self._on_removed)
        with _same_selection(viewer):
            for layer in self._layers.values():
                viewer.add_layer(layer)
                layer.editable = False
                layer.events.visible.connect(self._on_eye)
        self._viewer = viewer

    def close(self) -> None:
        """Stop listening; the layers stay where they are."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in self._layers.values():
            layer.events.visible.disconnect(self._on_eye)
        self._layers = {}

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

    def add_tile(self, table: Detections) -> None:
        """Cells of one finished tile: kept and painted into the raster."""
        self.store.add(table)
        self.raster.paint(table, self.store.threshold)
        self._changed(table)

    def replace(self, table: Detections, raster: CellRaster) -> None:
        """The merged result and its raster, both prepared outside the GUI thread."""
        self.store.replace(table)
        self.raster.take_over(raster)
        self.raster.show(self.store.threshold)
        self._changed(table)

    def set_threshold(self, threshold: float) -> None:
        """Keep cells from another score on."""
        self.store.threshold = threshold
        self.raster.show(threshold)
        self._version += 1

    def fail_tile(self, tile: Tile) -> None:
        """Hatch a tile that could not be analysed."""
        self._failed.append(tile)
        layer = self._layers.get("failed")
        if layer is not None:
            layer.data = hatch_data(self._failed)
            return
        layer = Vectors(
            hatch_data(self._failed),
            name=f"{self.name} not analysed",
            vector_style="line",
            edge_width=max(tile.core.width / 150, 1.0),
            edge_color=np.array([FAILED_COLOR]),
            **self.frame.layer_options(),
        )
        with _same_selection(self._viewer):
            self._viewer.add_layer(layer)
        self._layers["failed"] = layer

    def _changed(self, table: Detections) -> None:
        self._version += 1
        if not len(table):
            return
        size = typical_size(table)
        self._nucleus_px = float(np.clip(size, self._usual_px / 2, self._usual_px * 2))

    def refresh(self, view: View | None) -> None:
        """Draw what `view` needs; cheap when nothing changed."""
        if view is None or not self._layers:
            return
        grown = view.grown()
        points, boxes = self.store.count_in(grown), self.store.count_in(view.region)
        level = choose_level(self._nucleus_px * view.zoom, points, boxes)
        state = (level, self._version, None if level is Level.FAR else view)
        if state != self._drawn:
            self._drawn = state
            with self._quietly():
                self._draw(level, view, grown)
        self._show(level)

    def _draw(self, level: Level, view: View, grown: Region) -> None:
        if level is Level.FAR:
            self._draw_raster()
        elif level is Level.MID:
            self._draw_points(self.store.in_view(grown))
        else:
            near = grown if self.store.count_in(grown) <= MAX_BOXES else view.region
            self._draw_boxes(self.store.in_view(near), view.zoom)

    def _draw_raster(self) -> None:
        if (layer := self._layers.get("far")) is not None:
            layer.refresh()

    def _draw_points(self, table: Detections) -> None:
        layer = self._layers.get("mid")
        if layer is None:
            return
        layer.current_size = self._nucleus_px * DOT
        layer.data = point_data(table)
        if not len(table):
            return
        layer.face_color = class_rgba(table.class_ids, self.colors)
        layer.size = self._nucleus_px * DOT
        layer.features = pd.DataFrame(
            {
                "class": pd.Categorical(table.class_labels),
                "score": np.round(table.scores, 3),
            }
        )

    def _draw_boxes(self, table: Detections, zoom: float) -> None:
        layer = self._layers.get("near")
        if layer is None:
            return
        # In powers of two, or every zoom step would build the mesh of all edges once more.
        width = 2.0 ** np.round(np.log2(LINE_PX / zoom))
        if layer.edge_width != width:
            layer.edge_width = width
        layer.data = edge_data(table)
        if len(table):
            layer.edge_color = np.repeat(class_rgba(table.class_ids, self.colors), 4, axis=0)

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


@contextmanager
def _same_selection(viewer: Any) -> Iterator[None]:
    """Adding our layers must not take the selection away from the user's."""
    before = list(viewer.layers.selection)
    yield
    if before:
        viewer.layers.selection = before
