"""Detections and slides as napari layers: the only place where axis order and half pixel flip.

Level-0 px here: x, y, and pixel 0 spans 0..1. napari: y, x, and the *centre* of pixel 0 is at 0.
So a napari data coordinate is a level-0 px coordinate minus one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.regions import Region, Tile

HALF = 0.5
AXES = ("y", "x")
SLIDE_KEY = "celldetr_slide"
BOUNDS_KEY = "celldetr_bounds"
MPP_KEY = "celldetr_mpp"
CELLS_KEY = "celldetr_cells"

_MICROMETRES = {"um", "µm", "μm", "micrometer", "micrometre", "micron", "microns"}


@dataclass(frozen=True)
class Frame:
    """Where level-0 px lie in the viewer's world: the slide layer's own transform.

    `scale` and `translate` are (y, x); `units` one name per axis.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    units: tuple[str, str] = ("pixel", "pixel")

    @classmethod
    def of_mpp(cls, mpp: tuple[float, float] | None) -> Frame:
        """The frame of a slide with `mpp` (x, y) µm/px, or in pixels when it is not known."""
        if mpp is None:
            return cls()
        return cls(scale=(mpp[1], mpp[0]), units=("um", "um"))

    @classmethod
    def of_layer(cls, layer: Any) -> Frame:
        """The frame of a layer that is already in a viewer (its last two axes)."""
        scale, translate = np.asarray(layer.scale), np.asarray(layer.translate)
        return cls(
            (float(scale[-2]), float(scale[-1])),
            (float(translate[-2]), float(translate[-1])),
            (_unit_name(layer.units[-2]), _unit_name(layer.units[-1])),
        )

    @property
    def mpp(self) -> tuple[float, float] | None:
        """(x, y) µm per level-0 px when the units are µm, else None."""
        if self.units == ("um", "um"):
            return self.scale[1], self.scale[0]
        return None

    def layer_options(self) -> dict[str, Any]:
        """Keyword arguments that place a layer of level-0 coordinates on the slide."""
        return {
            "scale": self.scale,
            "translate": self.translate,
            "units": self.units,
            "axis_labels": AXES,
        }

    def raster_options(self, factor: float) -> dict[str, Any]:
        """The same for an image whose pixels are `factor` level-0 px wide.

        Its pixel 0 spans level-0 px 0..factor, so its centre lies at factor/2 level-0 px.
        """
        offset = factor / 2 - HALF
        return {
            **self.layer_options(),
            "scale": (self.scale[0] * factor, self.scale[1] * factor),
            "translate": (
                self.translate[0] + offset * self.scale[0],
                self.translate[1] + offset * self.scale[1],
            ),
        }

    def to_world(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Level-0 px (N, 2) as x, y to world (N, 2) as y, x."""
        return np.asarray((points[:, ::-1] - HALF) * self.scale + np.asarray(self.translate))

    def from_world(self, world: NDArray[np.floating]) -> NDArray[np.floating]:
        """World (N, 2) as y, x to level-0 px (N, 2) as x, y."""
        data = (np.asarray(world) - np.asarray(self.translate)) / self.scale
        return np.asarray(data[:, ::-1] + HALF)

    def region_of(self, world: NDArray[np.floating]) -> Region | None:
        """The smallest region that holds world points (N, 2) as y, x; None without area."""
        points = self.from_world(world)
        if not len(points) or not np.isfinite(points).all():
            return None
        x0, y0 = (math.floor(v + 1e-6) for v in points.min(axis=0))
        x1, y1 = (math.ceil(v - 1e-6) for v in points.max(axis=0))
        return Region.from_edges(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _unit_name(unit: Any) -> str:
    name = str(unit)
    return "um" if name in _MICROMETRES else name


def slide_layer(slide: Any) -> tuple[Any, dict[str, Any], str]:
    """A slide as napari layer data: lazy pyramid, scale, units; RGB said, never guessed."""
    frame = Frame.of_mpp(slide.mpp)
    levels = list(slide.levels)
    # napari takes a list of one array for a single image.
    is_pyramid = len(levels) > 1
    options = {
        **frame.layer_options(),
        "name": slide.name,
        "rgb": True,
        "multiscale": is_pyramid,
        "interpolation2d": "linear",
        "metadata": {
            SLIDE_KEY: str(slide.path),
            BOUNDS_KEY: slide.bounds,
            MPP_KEY: slide.mpp,
        },
    }
    return levels if is_pyramid else levels[0], options, "image"


def point_data(centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres (N, 2) x, y as napari Points data (N, 2): y, x."""
    return np.ascontiguousarray(centres[:, ::-1] - np.float32(HALF))


def edge_data(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edges of boxes (N, 4) xyxy as napari Vectors data (4 N, 2, 2): start, direction, each y, x.

    A cell's four edges follow one another.
    """
    x0, y0, x1, y1 = (boxes - np.float32(HALF)).T
    width, height, none = x1 - x0, y1 - y0, np.zeros_like(x0)
    edges = np.array(
        [
            [[y0, x0], [none, width]],
            [[y0, x1], [height, none]],
            [[y1, x1], [none, -width]],
            [[y1, x0], [-height, none]],
        ]
    )
    return np.ascontiguousarray(edges.transpose(3, 0, 1, 2).reshape(-1, 2, 2))


def line_data(corners: NDArray[np.floating]) -> NDArray[np.float32]:
    """A closed line through corners (M, 2) x, y as napari Vectors data (M, 2, 2)."""
    start = corners[:, ::-1] - HALF
    return np.stack((start, np.roll(start, -1, axis=0) - start), axis=1).astype(np.float32)


HATCHES = 8


def hatch_data(tiles: Sequence[Tile]) -> NDArray[np.float32]:
    """Diagonal lines over the cores of tiles that could not be analysed, as Vectors data."""
    lines = [line for tile in tiles for line in _hatch(tile.core)]
    return np.array(lines, np.float32).reshape(-1, 2, 2)


def _hatch(core: Region) -> list[list[list[float]]]:
    lines = []
    for i in range(1, 2 * HATCHES):
        share = i / HATCHES
        start = (min(share, 1.0), max(share - 1.0, 0.0))
        end = start[::-1]
        y, x = core.y + start[0] * core.height - HALF, core.x + start[1] * core.width - HALF
        lines.append(
            [[y, x], [(end[0] - start[0]) * core.height, (end[1] - start[1]) * core.width]]
        )
    return lines


def class_rgba(
    class_ids: NDArray[np.int16], colors: Sequence[tuple[int, int, int]], *, alpha: float = 1.0
) -> NDArray[np.float32]:
    """RGBA (N, 4) in 0..1 of class ids; -1 (unknown) is grey."""
    palette = np.array([*colors, UNKNOWN_COLOR], np.float32) / 255
    rgba = np.full((len(class_ids), 4), alpha, np.float32)
    rgba[:, :3] = palette[class_ids]
    return rgba


UNKNOWN_COLOR = (160, 160, 160)


def raster_colors(colors: Sequence[tuple[int, int, int]]) -> dict[int | None, Any]:
    """Colours of raster values: 0 nothing, 1 unknown, 2 + class_id."""
    clear = (0.0, 0.0, 0.0, 0.0)
    shown = [UNKNOWN_COLOR, *colors]
    return {
        None: clear,
        0: clear,
        **{i + 1: (*(v / 255 for v in color), 1.0) for i, color in enumerate(shown)},
    }


def typical_size(table: Detections) -> float:
    """Median side of the boxes in level-0 px; 0 without cells."""
    if not len(table):
        return 0.0
    return float(np.median(table.boxes[:, 2:] - table.boxes[:, :2]))


def rectangle_world(layer: Any, index: int) -> NDArray[np.floating]:
    """Corners of one shape of a Shapes layer in world coordinates (N, 2): y, x."""
    corners = np.asarray(layer.data[index], np.float64)
    world = [layer.data_to_world(corner) for corner in corners]
    return np.asarray(world, np.float64)[:, -2:]
