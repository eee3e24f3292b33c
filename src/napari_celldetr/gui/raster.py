"""The far view: class ids painted small, so that any number of cells costs the same to show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections

MAX_SIDE = 4096
"""px of the finest level: under what graphics cards take, and 16 MB at most."""
PIXEL_UM = 2.0
"""A nucleus should still be some pixels wide on the finest level."""
STEP = 4
COARSEST = 512
SCORE_STEPS = 200
MAX_HALF = 6.0
"""Raster px: one absurd box must not cost a loop over a whole field."""


@dataclass(frozen=True)
class RasterLevel:
    """One level: `keys` hold score and class of the best cell on a pixel, `shown` class + 1.

    `factor` is level-0 px per raster pixel; raster pixel 0 spans level-0 px 0..factor.
    """

    factor: int
    keys: NDArray[np.uint16]
    shown: NDArray[np.uint8]

    def paint(self, table: Detections) -> tuple[slice, slice] | None:
        """Put cells in; returns the touched rows and columns, None when there are none."""
        if not len(table):
            return None
        height, width = self.keys.shape
        centres = table.centres / self.factor
        half = np.minimum((table.boxes[:, 2:] - table.boxes[:, :2]) / self.factor * 0.4, MAX_HALF)
        low = np.floor(centres - half).astype(np.int64)
        high = np.ceil(centres + half).astype(np.int64)
        np.maximum(high, low + 1, out=high)
        np.clip(low, 0, (width - 1, height - 1), out=low)
        np.clip(high, low + 1, (width, height), out=high)
        keys = _keys(table)
        flat = self.keys.reshape(-1)
        span = high - low
        # Nuclei are a few raster pixels wide: a loop over the offsets inside the box is a loop
        # of a few whole-array steps, where a loop over cells would be thousands.
        for dy in range(int(span[:, 1].max())):
            for dx in range(int(span[:, 0].max())):
                on = (span[:, 0] > dx) & (span[:, 1] > dy)
                index = (low[on, 1] + dy) * width + low[on, 0] + dx
                np.maximum.at(flat, index, keys[on])
        (x0, y0), (x1, y1) = low.min(axis=0), high.max(axis=0)
        return slice(int(y0), int(y1)), slice(int(x0), int(x1))

    def show(self, threshold: float, where: tuple[slice, slice] | None = None) -> None:
        """Renew `shown` for a score threshold, everywhere or in a part."""
        part = where or (slice(None), slice(None))
        keys = self.keys[part]
        # The class sits in the low byte, so one comparison of whole keys tests the score.
        limit = np.uint16(int(np.floor(threshold * SCORE_STEPS + 1e-6)) << 8)
        np.multiply((keys & 0xFF).astype(np.uint8), keys >= limit, out=self.shown[part])


def _keys(table: Detections) -> NDArray[np.uint16]:
    score = np.floor(table.scores * SCORE_STEPS + 1e-4).astype(np.uint16)
    value = (table.class_ids.astype(np.int32) + 2).astype(np.uint16)
    return np.asarray((score << 8) | value)


class CellRaster:
    """A small pyramid of class ids over a slide of `size` (width, height) level-0 px.

    Values shown are 0 for nothing, 1 for unknown, 2 + class_id otherwise.
    """

    def __init__(self, size: tuple[int, int], *, mpp: float | None = None) -> None:
        self.size = size
        factor = max(1, round(PIXEL_UM / (mpp or 0.5)))
        while max(size) / factor > MAX_SIDE:
            factor *= 2
        # Two levels at least: napari takes a list of one for a single array.
        self.levels = [_level(size, factor), _level(size, factor * STEP)]
        while max(self.levels[-1].keys.shape) > COARSEST:
            self.levels.append(_level(size, self.levels[-1].factor * STEP))

    @property
    def factor(self) -> int:
        """Level-0 px per pixel of the finest level."""
        return self.levels[0].factor

    @property
    def arrays(self) -> list[NDArray[np.uint8]]:
        """What a Labels layer shows, finest first; painted in place."""
        return [level.shown for level in self.levels]

    def paint(self, table: Detections, threshold: float) -> None:
        """Add the cells of a tile."""
        for level in self.levels:
            where = level.paint(table)
            if where is not None:
                level.show(threshold, where)

    def show(self, threshold: float) -> None:
        """Apply another threshold."""
        for level in self.levels:
            level.show(threshold)

    def take_over(self, other: CellRaster) -> None:
        """Become a copy of a raster of the same slide that was painted elsewhere."""
        for mine, new in zip(self.levels, other.levels, strict=True):
            np.copyto(mine.keys, new.keys)
            np.copyto(mine.shown, new.shown)


def _level(size: tuple[int, int], factor: int) -> RasterLevel:
    shape = (-(-size[1] // factor), -(-size[0] // factor))
    return RasterLevel(factor, np.zeros(shape, np.uint16), np.zeros(shape, np.uint8))
