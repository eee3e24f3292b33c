"""The far view: class ids painted small, so that any number of cells costs the same to show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import SAID, SHOWN
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.regions import Region

MAX_SIDE = 4096
"""px of the finest level: under what graphics cards take, and 16 MB at most."""
PIXEL_UM = 2.0
"""A nucleus should still be some pixels wide on the finest level."""
STEP = 4
COARSEST = 512
SCORE_STEPS = 200
SAID_SCORE = 250
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

    def paint(
        self,
        boxes: NDArray[np.float32],
        keys: NDArray[np.uint16],
        *,
        only: NDArray[np.bool_] | None = None,
    ) -> tuple[slice, slice] | None:
        """Put cells in; returns the touched rows and columns, None when there are none.

        `boxes` (N, 4) level-0 px, `keys` (N,) of `raster_keys`; `only` (H · W,) spares the other
        pixels.
        """
        if not len(boxes):
            return None
        flat = self.keys.reshape(-1)
        for on, index in self._pixels(boxes):
            values = keys[on]
            if only is not None:
                open_ = only[index]
                index, values = index[open_], values[open_]
            np.maximum.at(flat, index, values)
        low, high = self._spans(boxes)
        (x0, y0), (x1, y1) = low.min(axis=0), high.max(axis=0)
        return slice(int(y0), int(y1)), slice(int(x0), int(x1))

    def wipe(self, boxes: NDArray[np.float32]) -> NDArray[np.int64]:
        """Empty all pixels that cells with these boxes (N, 4) lie on; returns their flat index."""
        index = np.unique(np.concatenate([i for _, i in self._pixels(boxes)]))
        self.keys.reshape(-1)[index] = 0
        return index

    def _pixels(
        self, boxes: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
        # Nuclei are a few raster pixels wide: a loop over the offsets inside the box is a loop
        # of a few whole-array steps, where a loop over cells would be thousands.
        low, high = self._spans(boxes)
        width, span = self.keys.shape[1], high - low
        for dy in range(int(span[:, 1].max())):
            for dx in range(int(span[:, 0].max())):
                on = (span[:, 0] > dx) & (span[:, 1] > dy)
                yield on, (low[on, 1] + dy) * width + low[on, 0] + dx

    def _spans(self, boxes: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = self.keys.shape
        centres = (boxes[:, :2] + boxes[:, 2:]) / (2 * self.factor)
        half = np.minimum((boxes[:, 2:] - boxes[:, :2]) / self.factor * 0.4, MAX_HALF)
        low = np.floor(centres - half).astype(np.int64)
        high = np.ceil(centres + half).astype(np.int64)
        np.maximum(high, low + 1, out=high)
        np.clip(low, 0, (width - 1, height - 1), out=low)
        np.clip(high, low + 1, (width, height), out=high)
        return low, high

    def gather(self, fine: RasterLevel, where: tuple[slice, slice]) -> tuple[slice, slice]:
        """Take the best of every `STEP` × `STEP` pixels of a part of the next finer level.

        Returns the part of this level that was renewed.
        """
        rows, columns = (slice(w.start // STEP, -(-w.stop // STEP)) for w in where)
        part = fine.keys[
            rows.start * STEP : rows.stop * STEP, columns.start * STEP : columns.stop * STEP
        ]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        whole = np.zeros((height * STEP, width * STEP), np.uint16)
        whole[: part.shape[0], : part.shape[1]] = part
        blocks = whole.reshape(height, STEP, width, STEP)
        self.keys[rows, columns] = blocks.max(axis=3).max(axis=1)
        return rows, columns

    def gather_at(self, fine: RasterLevel, dirty: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same for single pixels of the finer level, by flat index; returns ours."""
        rows, columns = np.divmod(dirty, fine.keys.shape[1])
        index = np.unique(rows // STEP * self.keys.shape[1] + columns // STEP)
        top, left = (v * STEP for v in np.divmod(index, self.keys.shape[1]))
        best = np.zeros(len(index), np.uint16)
        height, width = fine.keys.shape
        for i in range(STEP):
            for j in range(STEP):
                # Beyond the edge the last pixel counts again, which changes no maximum.
                row, column = np.minimum(top + i, height - 1), np.minimum(left + j, width - 1)
                np.maximum(best, fine.keys[row, column], out=best)
        self.keys.reshape(-1)[index] = best
        return index

    def show(self, threshold: float, where: tuple[slice, slice] | None = None) -> None:
        """Renew `shown` for a score threshold, everywhere or in a part."""
        part = where or (slice(None), slice(None))
        keys = self.keys[part]
        np.multiply((keys & 0xFF).astype(np.uint8), keys >= _limit(threshold), out=self.shown[part])

    def show_at(self, threshold: float, index: NDArray[np.int64]) -> None:
        """Renew `shown` for single pixels, by flat index."""
        keys = self.keys.reshape(-1)[index]
        self.shown.reshape(-1)[index] = (keys & 0xFF) * (keys >= _limit(threshold))


def _limit(threshold: float) -> np.uint16:
    # The class sits in the low byte, so one comparison of whole keys tests the score.
    return np.uint16(int(np.floor(threshold * SCORE_STEPS + 1e-6)) << 8)


def raster_keys(
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int16],
    said: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint16]:
    """What a pixel holds of each cell (N,): its score in the high byte, class id + 2 in the low.

    A cell that a person vouches for (`said`) beats every claim and every threshold.
    """
    score = np.floor(scores * SCORE_STEPS + 1e-4).astype(np.uint16)
    if said is not None:
        score[said] = SAID_SCORE
    value = (class_ids.astype(np.int32) + 2).astype(np.uint16)
    return np.asarray((score << 8) | value)


class CellRaster:
    """A small pyramid of class ids over a slide of `size` (width, height) level-0 px.

    Values shown are 0 for nothing, 1 for unknown, 2 + class_id otherwise.
    """

    def __init__(self, size: tuple[int, int], *, mpp: float | None = None) -> None:
        self.size = size
        self.threshold = 0.0
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

    def paint(self, boxes: NDArray[np.float32], keys: NDArray[np.uint16], threshold: float) -> None:
        """Add cells: boxes (N, 4) in level-0 px and what `raster_keys` says of them."""
        where = self.levels[0].paint(boxes, keys)
        if where is not None:
            self._renew(where, threshold)

    def paint_table(self, table: Detections, threshold: float = 0.0) -> None:
        """Add claims."""
        self.paint(table.boxes, raster_keys(table.scores, table.class_ids), threshold)

    def repaint(self, cells: CellTable, boxes: NDArray[np.float32]) -> None:
        """Paint anew where `boxes` (N, 4) lie: what cells were and are there has changed."""
        if not len(boxes):
            return
        finest = self.levels[0]
        dirty = finest.wipe(boxes)
        only = np.zeros(finest.keys.size, bool)
        only[dirty] = True
        rows = self._rows_around(cells, boxes, dirty)
        keys = raster_keys(cells.scores[rows], cells.class_ids[rows], SAID[cells.status[rows]])
        finest.paint(cells.boxes[rows], keys, only=only)
        self.threshold = cells.threshold
        finest.show_at(self.threshold, dirty)
        for fine, coarse in pairwise(self.levels):
            dirty = coarse.gather_at(fine, dirty)
            coarse.show_at(self.threshold, dirty)

    def show(self, threshold: float) -> None:
        """Apply another threshold."""
        self.threshold = threshold
        for level in self.levels:
            level.show(threshold)

    def take_over(self, other: CellRaster) -> None:
        """Become a raster of the same slide that was painted elsewhere, which is used up."""
        for mine, new in zip(self.levels, other.levels, strict=True):
            np.copyto(mine.keys, new.keys)
            np.copyto(mine.shown, new.shown)
        self.threshold = other.threshold

    def _renew(self, where: tuple[slice, slice], threshold: float) -> None:
        """What is shown in a part of the finest level, and the coarser levels over it."""
        self.threshold = threshold
        self.levels[0].show(threshold, where)
        for fine, coarse in pairwise(self.levels):
            where = coarse.gather(fine, where)
            coarse.show(threshold, where)

    def _rows_around(
        self, cells: CellTable, boxes: NDArray[np.float32], dirty: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Every cell that may be painted on a dirty pixel of the finest level, and some others."""
        squares = np.unique(
            np.floor((boxes[:, :2] + boxes[:, 2:]) / (2 * SQUARE)).astype(int), axis=0
        )
        margin = math.ceil((2 * MAX_HALF + 1) * self.factor)
        if len(squares) <= MANY_SQUARES:
            found = [
                cells.rows_near(Region(x * SQUARE, y * SQUARE, SQUARE, SQUARE).grow(margin))
                for x, y in squares.tolist()
            ]
            return np.unique(np.concatenate(found))
        # All over the slide: one look-up per cell whether anything near it is dirty.
        rows = np.flatnonzero(SHOWN[cells.status])
        near = self._near(dirty)
        place = np.floor(cells.centres[rows] / (self.factor * BLOCK)).astype(np.int64)
        np.clip(place, 0, (near.shape[1] - 1, near.shape[0] - 1), out=place)
        return rows[near[place[:, 1], place[:, 0]]]

    def _near(self, dirty: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Blocks of pixels that hold a dirty pixel, or lie beside one that does."""
        height, width = self.levels[0].keys.shape
        near = np.zeros((-(-height // BLOCK) + 2, -(-width // BLOCK) + 2), bool)
        rows, columns = np.divmod(dirty, width)
        for dy in range(3):
            for dx in range(3):
                near[rows // BLOCK + dy, columns // BLOCK + dx] = True
        return near[1:-1, 1:-1]


SQUARE = 1024
"""Level-0 px: cells are looked up by squares of this size around what has changed."""
MANY_SQUARES = 200
BLOCK = 8
"""Pixels; more than a cell reaches from its centre (`MAX_HALF`)."""


def _level(size: tuple[int, int], factor: int) -> RasterLevel:
    shape = (-(-size[1] // factor), -(-size[0] // factor))
    return RasterLevel(factor, np.zeros(shape, np.uint16), np.zeros(shape, np.uint8))
