"""Levels as the viewer wants them: real ones, missing ones made lazily, all as dask arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.alignment import Stored, relative_scale
from napari_celldetr.slides.backend import Backend
from napari_celldetr.slides.tile_cache import TileCache

CACHE_BYTES = 256 * 2**20
CHUNK_PX = 1024
VIRTUAL_TILE_PX = 512
SMALL_ENOUGH_PX = 2048
"""The last level's longer side; graphics cards stop at 16,384 and viewers want less."""
WIDEST_GAP = 4.6
"""Level steps up to 4 are usual and stay; wider ones are filled."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level: `size` (w, h), `scale` (x, y) in level-0 px per pixel.

    `real` is the backend's level number, None for a level made from the one before it.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    real: int | None


class Pyramid:
    """A backend's levels, completed by halving where steps are missing."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._cache = TileCache(CACHE_BYTES)
        self.levels = plan_levels(backend.facts.level_sizes)
        self._scales: dict[int, tuple[float, float]] = {0: (1.0, 1.0)}

    def scale(self, level: int) -> tuple[float, float]:
        """Level-0 px (x, y) that one pixel of a level is. Measured on first use, see `alignment`.

        `Level.scale` is the plain ratio of sizes, which other programs go by.
        """
        if level not in self._scales:
            above = self.scale(level - 1)
            if self.levels[level].real is None:
                step = (2.0, 2.0)
            else:
                step = relative_scale(self._stored(level - 1), self._stored(level))
            self._scales[level] = (above[0] * step[0], above[1] * step[1])
        return self._scales[level]

    def _stored(self, level: int) -> Stored:
        return Stored(self.levels[level].size, partial(self.read, level))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        real = self.levels[level].real
        if real is not None:
            return self._backend.read(real, x, y, width, height)
        out = np.empty((height, width, 3), np.uint8)
        step = VIRTUAL_TILE_PX
        for row in range(y // step, -(-(y + height) // step)):
            for column in range(x // step, -(-(x + width) // step)):
                tile = self._virtual_tile(level, column, row)
                left, top = column * step, row * step
                x0, x1 = max(x, left), min(x + width, left + step)
                y0, y1 = max(y, top), min(y + height, top + step)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out

    def _virtual_tile(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        def make() -> NDArray[np.uint8]:
            side = 2 * VIRTUAL_TILE_PX
            x, y = column * side, row * side
            width, height = self.levels[level - 1].size
            box = (x, y, min(side, width - x), min(side, height - y))
            return np.array(Image.fromarray(self.read(level - 1, *box)).reduce(2))

        return self._cache.get(("virtual", level, column, row), make)

    def chunk(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """A display chunk, cached; hatched where the file cannot be read.

        The viewer's slicing must not fail for one bad tile; `read` is what says so loudly.
        """
        x, y = column * CHUNK_PX, row * CHUNK_PX
        width, height = self.levels[level].size
        box = (x, y, min(CHUNK_PX, width - x), min(CHUNK_PX, height - y))

        def make() -> NDArray[np.uint8]:
            try:
                return self.read(level, *box)
            except SlideError:
                return hatched(box[3], box[2])

        return self._cache.get(("chunk", level, column, row), make)

    def arrays(self) -> list[da.Array]:
        """Every level as a lazy dask array (H, W, 3) uint8."""
        return [
            da.from_array(  # type: ignore[no-untyped-call]
                LevelArray(self, index),
                chunks=(CHUNK_PX, CHUNK_PX, 3),
                name=False,
                asarray=False,
                fancy=False,
                lock=False,
                meta=np.empty((0, 0, 0), np.uint8),
            )
            for index in range(len(self.levels))
        ]


def plan_levels(sizes: tuple[tuple[int, int], ...]) -> list[Level]:
    """Real levels with halved ones between and below them where steps are missing."""
    levels: list[Level] = []
    for index, size in enumerate(sizes):
        while levels and levels[-1].size[0] / size[0] > WIDEST_GAP:
            levels.append(_half(levels[-1]))
        levels.append(Level(size, _scale(sizes[0], size), index))
    while max(levels[-1].size) > SMALL_ENOUGH_PX:
        levels.append(_half(levels[-1]))
    return levels


def _half(level: Level) -> Level:
    size = (-(-level.size[0] // 2), -(-level.size[1] // 2))
    return Level(size, (level.scale[0] * 2, level.scale[1] * 2), None)


def _scale(full: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    return full[0] / size[0], full[1] / size[1]


def hatched(height: int, width: int) -> NDArray[np.uint8]:
    """Grey diagonal stripes (height, width, 3): "this could not be read"."""
    stripes = (np.arange(height)[:, None] + np.arange(width)[None, :]) // 16 % 2
    grey = np.where(stripes, 170, 210).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


class LevelArray:
    """What dask sees of a level: shape, dtype, and slices of (y, x, channel)."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, pyramid: Pyramid, level: int) -> None:
        self._pyramid = pyramid
        self._level = level
        width, height = pyramid.levels[level].size
        self.shape = (height, width, 3)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        ys, xs, channels = key
        (y0, y1, _), (x0, x1, _) = ys.indices(self.shape[0]), xs.indices(self.shape[1])
        out = np.empty((max(y1 - y0, 0), max(x1 - x0, 0), 3), np.uint8)
        for row in range(y0 // CHUNK_PX, -(-y1 // CHUNK_PX)):
            top = row * CHUNK_PX
            ya, yb = max(y0, top), min(y1, top + CHUNK_PX)
            for column in range(x0 // CHUNK_PX, -(-x1 // CHUNK_PX)):
                left = column * CHUNK_PX
                xa, xb = max(x0, left), min(x1, left + CHUNK_PX)
                chunk = self._pyramid.chunk(self._level, column, row)
                out[ya - y0 : yb - y0, xa - x0 : xb - x0] = chunk[
                    ya - top : yb - top, xa - left : xb - left
                ]
        return out[:, :, channels]
