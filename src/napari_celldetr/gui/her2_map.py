"""The map of measured cells at any zoom: rendered where one looks, kept as who owns each pixel.

Other cut-offs change colours alone, so that tiles once rendered stay good. The coarsest level is
one array that is repainted: napari (0.9) takes it once and keeps it. No Qt here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.grid_index import GridIndex
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.outline import Outlines
from napari_celldetr.pipeline.her2.pixel_map import render_owners

Owners = NDArray[np.int32]
TILE = 512
"""Side of a tile, in pixels of its level."""
MAX_BYTES = 96 * 2**20
FINE_UM = 0.75
"""On coarser levels a cell is a disc of its area, which looks the same there and is cheap."""
COARSEST = 1024
"""The last level is no larger than this."""


class CellMap:
    """Who owns each pixel of a slide of `size` (width, height), and what that looks like.

    `values` (N,) uint8 is what is shown of each cell; give another array to recolour the map, and
    refresh its layer.
    """

    def __init__(self, outlines: Outlines, size: tuple[int, int], *, mpp: float) -> None:
        self.outlines = outlines
        self.size = size
        self.mpp = mpp
        self._values: NDArray[np.uint8] = np.zeros(len(outlines), np.uint8)
        self._whole: NDArray[np.uint8] | None = None
        self._index = GridIndex(outlines.centres)
        # Of discs as large as the cells.
        self._radii = np.sqrt((outlines.radii**2).mean(axis=1))
        self._reach = math.ceil(float(outlines.radii.max(initial=0))) + 1
        self._tiles: OrderedDict[tuple[int, int, int], Owners] = OrderedDict()
        self._bytes = 0

    @property
    def values(self) -> NDArray[np.uint8]:
        """What is shown of each cell (N,)."""
        return self._values

    @values.setter
    def values(self, values: NDArray[np.uint8]) -> None:
        self._values = values
        if self._whole is not None:
            self._whole[:] = self.levels()[-1][:, :]

    def levels(self) -> list[MapLevel]:
        """The map at every factor of two, finest first."""
        count = max(1, math.ceil(math.log2(max(self.size) / COARSEST)) + 1)
        return [MapLevel(self, 2**k) for k in range(count)]

    def whole(self) -> NDArray[np.uint8]:
        """The coarsest level, in an array that follows `values`."""
        if self._whole is None:
            self._whole = self.levels()[-1][:, :]
        return self._whole

    def owners(self, factor: int, row: int, column: int) -> Owners:
        """1 + row of the cell on each pixel (TILE, TILE) of a tile, 0 where there is none."""
        key = (factor, row, column)
        found = self._tiles.get(key)
        if found is None:
            found = self._render(factor, row, column)
            self._tiles[key] = found
            self._bytes += found.nbytes
            while self._bytes > MAX_BYTES and len(self._tiles) > 1:
                _, old = self._tiles.popitem(last=False)
                self._bytes -= old.nbytes
        self._tiles.move_to_end(key)
        return found

    def _render(self, factor: int, row: int, column: int) -> Owners:
        side = TILE * factor
        region = Region(column * side, row * side, side, side)
        rows = self._index.near(region.grow(self._reach))
        if not len(rows):
            return np.zeros((TILE, TILE), np.int32)
        rows = np.sort(rows)
        if factor * self.mpp <= FINE_UM:
            owners = render_owners(self._some(rows), region, (TILE, TILE))
        else:
            owners = _discs(self.outlines.centres[rows], self._radii[rows], region, factor)
        table = np.concatenate([[0], rows + 1]).astype(np.int32)
        return table[owners]

    def _some(self, rows: NDArray[np.int64]) -> Outlines:
        return Outlines(self.outlines.centres[rows], self.outlines.radii[rows])


class MapLevel:
    """One level of a map as napari reads arrays: what is asked for is rendered then."""

    ndim = 2
    dtype = np.dtype(np.uint8)

    def __init__(self, source: CellMap, factor: int) -> None:
        self.source = source
        self.factor = factor
        width, height = source.size
        self.shape = (-(-height // factor), -(-width // factor))

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        is_last = max(self.shape) <= COARSEST
        found = self.source.whole() if is_last else self[:, :]
        return np.array(found, dtype) if copy else np.asarray(found, dtype)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = key if isinstance(key, tuple) else (key, slice(None))
        (y0, y1, dy), (x0, x1, dx) = (
            _span(k, n) for k, n in zip((*keys, slice(None))[:2], self.shape, strict=True)
        )
        owners = self._owners(y0, y1, x0, x1)[::dy, ::dx]
        table = np.concatenate([[0], self.source.values]).astype(np.uint8)
        found = table[owners]
        drop = tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in keys[:2])
        return np.asarray(found[drop], np.uint8)

    def _owners(self, y0: int, y1: int, x0: int, x1: int) -> Owners:
        out = np.zeros((max(y1 - y0, 0), max(x1 - x0, 0)), np.int32)
        for row in range(y0 // TILE, -(-y1 // TILE)):
            for column in range(x0 // TILE, -(-x1 // TILE)):
                top, left = row * TILE, column * TILE
                a, b = max(y0, top), min(y1, top + TILE)
                c, d = max(x0, left), min(x1, left + TILE)
                if a < b and c < d:
                    tile = self.source.owners(self.factor, row, column)
                    out[a - y0 : b - y0, c - x0 : d - x0] = tile[
                        a - top : b - top, c - left : d - left
                    ]
        return out


def _span(key: Any, length: int) -> tuple[int, int, int]:
    if isinstance(key, int | np.integer):
        start = int(key) % length
        return start, start + 1, 1
    start, stop, step = key.indices(length)
    return start, max(start, stop), step


def _discs(
    centres: NDArray[np.float32], radii: NDArray[np.float32], region: Region, factor: int
) -> Owners:
    """Discs of `radii` (N,), at least a pixel; where two meet, one of them has it."""
    corner = np.array([region.x, region.y], np.float32)
    centres = (centres - corner) / np.float32(factor) - np.float32(0.5)
    radii = np.maximum(radii / np.float32(factor), np.float32(0.71))
    reach = math.ceil(float(radii.max(initial=0)))
    around = np.rint(centres).astype(np.int32)
    # With a border as wide as a disc no pixel has to be asked whether it is inside.
    usable = ((around >= -reach) & (around < TILE + reach)).all(axis=1)
    around, part, radii = around[usable], (around - centres)[usable], radii[usable]
    numbers = np.flatnonzero(usable).astype(np.int32) + 1
    wide = TILE + 4 * reach
    owners = np.zeros(wide * wide, np.int32)
    at = (around[:, 1] + 2 * reach) * wide + around[:, 0] + 2 * reach
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            held = (part[:, 0] + dx) ** 2 + (part[:, 1] + dy) ** 2 <= radii**2
            owners[at[held] + dy * wide + dx] = numbers[held]
    return owners.reshape(wide, wide)[2 * reach : -2 * reach, 2 * reach : -2 * reach]
