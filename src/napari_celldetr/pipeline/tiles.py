"""The tile rule: how a slide is cut for a model, and how tile pixels become level-0 cells."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ConfigError, SlideError
from napari_celldetr.core.regions import Region, Tile, TileGrid, reading_scale

SLACK_MODEL_PX = 4.0
"""How far two tiles may disagree on one cell's centre, in px of the model's scale."""

SMALLEST_MODEL_PX = 0.5
"""Boxes thinner than this are numerical accidents, not cells."""


class SlideLike(Protocol):
    """What the pipeline needs of a slide; `napari_celldetr.slides.slide.Slide` has it."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Level-0 (width, height)."""
        ...

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Level-0 µm/px (x, y), or None when not known."""
        ...

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour (r, g, b) of what was not scanned."""
        ...

    def read(self, region: Region, mpp: float | None = None) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of any region, at `mpp` or as they are; raises `SlideError`."""
        ...

    def identity(self) -> str:
        """sha256 hex of what the file is."""
        ...


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one slide is cut for one model.

    `scale` is level-0 px per model px, `mpp` the slide's µm per level-0 px (x, y) as used,
    `read_mpp` what to ask the slide for so that a tile comes out `tile_px` long.
    """

    grid: TileGrid
    tile_px: int
    scale: float
    mpp: tuple[float, float]
    read_mpp: float
    size: tuple[int, int]

    @property
    def slack_px(self) -> float:
        """The merge's slack in level-0 px."""
        return SLACK_MODEL_PX * self.scale


def plan_geometry(slide: SlideLike, config: DetectConfig, model_mpp: float) -> Geometry:
    """The tile grid in level-0 px; `SlideError` when the pixel size is unknown."""
    mpp = _pixel_size(slide, config)
    scale = reading_scale(model_mpp / math.sqrt(mpp[0] * mpp[1]))
    halo = max(1, round(config.halo_px * scale))
    core = round(config.tile_px * scale) - 2 * halo
    if core < max(1, 2 * halo):
        raise ConfigError(
            "The tiles are too small for their halo.",
            expected="a tile at least four times as long as the halo",
            found=f"tile {config.tile_px} px, halo {config.halo_px} px",
            remedy="choose a larger tile or a smaller halo",
        )
    native = slide.mpp or mpp
    # Slightly off the model's own mpp, so that rounding cannot make a tile a pixel too long.
    read_mpp = (core + 2 * halo) * max(native) / config.tile_px
    return Geometry(
        TileGrid(core, halo, model_mpp), config.tile_px, scale, mpp, read_mpp, slide.size
    )


def read_tile(
    slide: SlideLike, tile: Tile, geometry: Geometry
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Pixels (tile_px, tile_px, 3) of a tile and the (width, height) that is really slide.

    Anisotropic pixels make one side a little short; it is filled with the background.
    """
    pixels = slide.read(tile.read, mpp=geometry.read_mpp)
    height, width = pixels.shape[:2]
    side = geometry.tile_px
    if (height, width) == (side, side):
        return pixels, (width, height)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = np.asarray(slide.background, np.uint8)
    canvas[: min(height, side), : min(width, side)] = pixels[:side, :side]
    return canvas, (width, height)


def own(
    found: Detections, tile: Tile, geometry: Geometry, out_size: tuple[int, int]
) -> tuple[Detections, int]:
    """The cells a tile owns (core plus slack), still in tile px, and how many boxes were unusable.

    `out_size` is the (width, height) in tile px that the tile's read region became. Boxes
    without width or height and boxes longer than the tile are no cells.
    """
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    usable = (sides > SMALLEST_MODEL_PX).all(axis=1) & (sides <= geometry.tile_px).all(axis=1)
    x, y = to_level0(found, tile, out_size).centres.T
    core, slack = tile.core, geometry.slack_px
    owned = (x >= core.x - slack) & (x < core.x1 + slack)
    owned &= (y >= core.y - slack) & (y < core.y1 + slack)
    # Beyond the slide's edges there is only filling.
    owned &= (x >= 0) & (x < geometry.size[0]) & (y >= 0) & (y < geometry.size[1])
    return found.select(usable & owned), len(found) - int(np.count_nonzero(usable))


def to_level0(cells: Detections, tile: Tile, out_size: tuple[int, int]) -> Detections:
    """Tile px to level-0 px; the real ratio of sides, not the nominal one."""
    scale = (tile.read.width / out_size[0], tile.read.height / out_size[1])
    return cells.moved(scale, (tile.read.x, tile.read.y))


def clip(cells: Detections, size: tuple[int, int]) -> Detections:
    """Boxes cut at the slide's edges, and nowhere else."""
    limits = np.array([*size, *size], np.float32)
    return replace(cells, boxes=np.clip(cells.boxes, 0, limits))


def inside(cells: Detections, region: Region) -> Detections:
    """The cells whose centre lies in `region`."""
    x, y = cells.centres.T
    return cells.select((x >= region.x) & (x < region.x1) & (y >= region.y) & (y < region.y1))


def _pixel_size(slide: SlideLike, config: DetectConfig) -> tuple[float, float]:
    if config.mpp is not None:
        return config.mpp, config.mpp
    if slide.mpp is None:
        raise SlideError(
            f"The pixel size of {slide.name!r} is not known.",
            expected="µm per pixel in the file, between 0.1 and 2.0",
            found="none that can be trusted",
            remedy="give it with --mpp (command line) or in the Pixel size field",
        )
    return slide.mpp
