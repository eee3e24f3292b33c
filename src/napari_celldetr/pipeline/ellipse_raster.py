"""Cells as ellipses of pixels that carry their number: any block, at any level of a pyramid.

A pixel of level k stands for one pixel of level 0, the one in the middle of the 2ᵏ × 2ᵏ that it
covers, so a level is drawn from the cells themselves and equals level 0 sampled there. A pixel
belongs to a cell when its centre lies in the ellipse; the pixel under a cell's centre always does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int, int, int]
"""x0 y0 x1 y1 of a block in px of its level."""
_PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Grid:
    """A level of a label image in blocks.

    `size` is (width, height) at this level, `step` how many pixels of level 0 one is wide,
    `block` the side of a block.
    """

    size: tuple[int, int]
    step: int
    block: int

    @classmethod
    def levels(cls, size: tuple[int, int], block: int, *, smallest: int) -> list[Grid]:
        """Level 0 of `size` (width, height), then halves until both sides are `smallest`."""
        grids = [cls(size, 1, block)]
        while max(grids[-1].size) > smallest:
            step = grids[-1].step * 2
            # As many samples as lie inside level 0.
            width, height = ((side - 1 - step // 2) // step + 1 for side in size)
            if min(width, height) < 1:
                break
            grids.append(cls((width, height), step, block))
        return grids

    @property
    def columns(self) -> int:
        """Blocks in a row."""
        return -(-self.size[0] // self.block)

    def place(self, number: int) -> Place:
        """Where a block is."""
        y, x = divmod(number, self.columns)
        x0, y0 = x * self.block, y * self.block
        width, height = self.size
        return x0, y0, min(x0 + self.block, width), min(y0 + self.block, height)


@dataclass(frozen=True)
class Spans:
    """Which pixels of a grid cells may cover: first and last (N, 2) x, y, inside the grid."""

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: NDArray[np.float64], grid: Grid) -> Spans:
        """Of the boxes (M, 4), px of level 0, that have a sampled pixel in the grid."""
        centre = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2) + 0.5
        middle = 0.5 + grid.step // 2
        first = np.ceil((np.minimum(boxes[:, :2], centre) - middle) / grid.step)
        last = np.floor((np.maximum(boxes[:, 2:], centre) - middle) / grid.step)
        first = np.maximum(first, 0).astype(np.int64)
        last = np.minimum(last, np.array(grid.size) - 1).astype(np.int64)
        rows = np.flatnonzero((first <= last).all(axis=1))
        return cls(rows, first[rows], last[rows])

    def by_block(self, grid: Grid) -> list[tuple[int, NDArray[np.int64]]]:
        """Every block that cells touch, with places in `rows` of those cells in their order."""
        low, high = self.first // grid.block, self.last // grid.block
        wide = high - low + 1
        many = wide.prod(axis=1)
        place = np.repeat(np.arange(len(self.rows)), many)
        nth = np.arange(len(place)) - np.repeat(np.cumsum(many) - many, many)
        x = low[place, 0] + nth % wide[place, 0]
        y = low[place, 1] + nth // wide[place, 0]
        number = y * grid.columns + x
        order = np.argsort(number, kind="stable")
        blocks, starts = np.unique(number[order], return_index=True)
        if not len(blocks):
            return []
        return list(zip(blocks.tolist(), np.split(place[order], starts[1:]), strict=True))


def draw_block(
    boxes: NDArray[np.float64],
    numbers: NDArray[np.uint32],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    place: Place,
    step: int,
) -> NDArray[np.uint32]:
    """Pixels (height, width) of a block: the number of the cell there, 0 for none.

    Where cells overlap, the highest number is seen.

    Parameters
    ----------
    boxes : (M, 4)
        Cells that touch the block, xyxy in px of level 0.
    numbers : (M,)
        In rising order.
    first, last : (M, 2)
        Their `Spans`.
    place : x0, y0, x1, y1
        The block, px of its level.
    step : int
        The level's, see `Grid`.
    """
    x0, y0, x1, y1 = place
    out = np.zeros((y1 - y0, x1 - x0), np.uint32)
    flat = out.reshape(-1)
    for members, index in _pixels(boxes, first, last, place, step):
        values = numbers[members]
        # Numbers rise, so of two pixels at one place the later is the higher.
        flat[index] = np.maximum(flat[index], values)
    return out


def count_pixels(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """How many pixels of an image of `size` each cell (N, 4) covers where no other lies over it.

    -1 for a cell whose box has over a million pixels, which nobody counts.
    """
    spans = Spans.of(boxes, Grid(size, 1, max(size)))
    pixels = (spans.last - spans.first + 1).prod(axis=1)
    usual = pixels <= _PIXELS_AT_ONCE
    counts = np.zeros(len(boxes), np.int64)
    counts[spans.rows[~usual]] = -1
    rows, place = spans.rows[usual], (0, 0, *size)
    for members, _ in _pixels(boxes[rows], spans.first[usual], spans.last[usual], place, 1):
        counts[rows] += np.bincount(members, minlength=len(rows))
    return counts


def _pixels(
    boxes: NDArray[np.float64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    place: Place,
    step: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cells in groups of like size: for every pixel its cell and its place in the flat block."""
    corner = np.array(place[:2])
    low = np.maximum(first, corner)
    high = np.minimum(last, np.array(place[2:]) - 1)
    side = -(-(high - low + 1).max(axis=1, initial=1) // 4) * 4
    for k in np.unique(side):
        same = np.flatnonzero(side == k)
        parts = max(1, -(-len(same) * int(k) ** 2 // _PIXELS_AT_ONCE))
        for members in np.array_split(same, parts):
            window = low[members], high[members]
            which, y, x = _covered(boxes[members], *window, int(k), step)
            flat = (y - corner[1]) * (place[2] - place[0]) + (x - corner[0])
            yield members[which], flat


def _covered(
    boxes: NDArray[np.float64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    k: int,
    step: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of windows of k × k that lie in the ellipses: which cell, y and x at the level."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, 1e-6)
    at = low[:, None, :] + np.arange(k)[None, :, None]
    sampled = at * step + step // 2
    apart = ((sampled + 0.5 - centre[:, None]) / half[:, None]) ** 2
    apart[at > high[:, None]] = np.inf
    inside = apart[:, :, None, 1] + apart[:, None, :, 0] <= 1
    under = (sampled == np.floor(centre)[:, None]) & (at <= high[:, None])
    inside |= under[:, :, None, 1] & under[:, None, :, 0]
    which, row, column = np.nonzero(inside)
    return which, at[which, row, 1], at[which, column, 0]
