"""Outlines of cells as a map of pixels: the rule-based counterpart of a network's pixel classes.

A pixel belongs to the cell whose outline holds its centre; where outlines overlap, to the one in
which it lies deepest. That depends on the cells alone, so a tile is the cut of the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.outline import ANGLES, RAYS, Outlines

CELLS_AT_ONCE = 20_000
"""So many outlines are held as polygons; a slide may have a million cells."""
NOBODYS = 0
"""Value of a pixel that no cell holds."""
Ints = NDArray[np.int64]


def render_cells(
    outlines: Outlines, values: NDArray[np.uint8], region: Region, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Filled outlines of a region, at any resolution.

    Parameters
    ----------
    outlines : Outlines
        N cells, level-0 px; those far from the region cost little.
    values : (N,) uint8
        What is written where a cell is, e.g. 1 + index into `SCORES`.
    region : Region
        Level-0 px.
    shape : (height, width)
        Pixels of the map.

    Returns
    -------
    (height, width) uint8
        `NOBODYS` where there is no cell.
    """
    table = np.concatenate([[NOBODYS], np.asarray(values, np.uint8)]).astype(np.uint8)
    return table[render_owners(outlines, region, shape)]


def render_owners(outlines: Outlines, region: Region, shape: tuple[int, int]) -> NDArray[np.int32]:
    """1 + row of the cell that holds each pixel (height, width), 0 where there is none.

    Parameters as in `render_cells`.
    """
    height, width = shape
    near = _near(outlines, region)
    parts = [
        _runs(outlines, near[i : i + CELLS_AT_ONCE], region, shape)
        for i in range(0, max(len(near), 1), CELLS_AT_ONCE)
    ]
    cell, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    owner = _filled(cell + 1, start, end, height * (width + 1))
    _settle_overlaps(owner, outlines, cell, start, end, region, (height, width))
    return owner.reshape(height, width + 1)[:, :width]


def _runs(
    outlines: Outlines, rows: Ints, region: Region, shape: tuple[int, int]
) -> tuple[Ints, Ints, Ints]:
    """Row of the cell, start and end of each run of pixels inside an outline."""
    height, width = shape
    rays = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    corners = outlines.centres[rows, None] + outlines.radii[rows, :, None] * rays
    step = np.array([region.width / width, region.height / height])
    # Pixel centres lie at whole numbers.
    cell, start, end = _spans((corners - (region.x, region.y)) / step - 0.5, height, width)
    return rows[cell], start, end


def _near(outlines: Outlines, region: Region) -> Ints:
    """Rows of the cells that may reach into the region."""
    reach = float(outlines.radii.max(initial=0))
    low = np.array([region.x, region.y]) - reach
    high = low + (region.width, region.height) + 2 * np.float64(reach)
    inside = ((outlines.centres >= low) & (outlines.centres <= high)).all(axis=1)
    return np.flatnonzero(inside)


def _spans(corners: NDArray[Any], height: int, width: int) -> tuple[Ints, Ints, Ints]:
    """Runs of pixels inside polygons (N, RAYS, 2): polygon, start and end in rows of width + 1."""
    x, y = corners[..., 0].ravel(), corners[..., 1].ravel()
    after = np.roll(corners, -1, axis=1)
    x2, y2 = after[..., 0].ravel(), after[..., 1].ravel()
    # Half-open in y, so that a line through a corner is crossed once.
    first = np.clip(np.ceil(np.minimum(y, y2)), 0, height).astype(np.int64)
    past = np.clip(np.ceil(np.maximum(y, y2)), 0, height).astype(np.int64)
    rows = past - first
    edge = np.repeat(np.arange(len(rows)), rows)
    row = first[edge] + _counted(rows)
    slope = (x2[edge] - x[edge]) / (y2[edge] - y[edge])
    crossing = np.ceil(x[edge] + (row - y[edge]) * slope)
    column = np.clip(crossing, 0, width).astype(np.int64)
    # One number per crossing sorts them by polygon, row and column at once.
    key = np.sort(((edge // RAYS) * height + row) * (width + 1) + column)
    start, end = key[0::2], key[1::2]
    filled = end > start
    polygon, place = np.divmod(start[filled], height * (width + 1))
    return polygon, place, place + (end - start)[filled]


def _counted(lengths: Ints) -> Ints:
    """0, 1, … for each of the lengths, one after another."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _filled(owner: Ints, start: Ints, end: Ints, size: int) -> NDArray[np.int32]:
    """Owner of each pixel with one owner, 0 without, -1 where runs overlap."""

    def total(weights: Any) -> NDArray[Any]:
        begun = np.bincount(start, weights, size + 1)
        return np.cumsum(begun - np.bincount(end, weights, size + 1))[:size]

    found = total(owner.astype(np.float64)).astype(np.int32)
    found[total(None) > 1] = -1
    return found


def _settle_overlaps(
    owner: NDArray[np.int32],
    outlines: Outlines,
    cell: Ints,
    start: Ints,
    end: Ints,
    region: Region,
    shape: tuple[int, int],
) -> None:
    """Give each overlapped pixel to the cell in which it lies deepest, the first of equals."""
    height, width = shape
    contested = np.flatnonzero(owner == -1)
    if not len(contested):
        return
    first, past = np.searchsorted(contested, start), np.searchsorted(contested, end)
    which = np.repeat(first, past - first) + _counted(past - first)
    claimant = np.repeat(cell, past - first)
    row, column = np.divmod(contested[which], width + 1)
    x = region.x + (column + 0.5) * (region.width / width)
    y = region.y + (row + 0.5) * (region.height / height)
    depth = _depth(outlines, claimant, x, y)
    deepest = np.full(len(contested), -np.inf)
    np.maximum.at(deepest, which, depth)
    best = np.flatnonzero(depth == deepest[which])[::-1]
    # What is written last stays: of equals, the first.
    owner[contested[which[best]]] = claimant[best] + 1


def _depth(outlines: Outlines, cell: Ints, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """How far inside the outline each point lies, along its ray from the nucleus' centre."""
    dx, dy = x - outlines.centres[cell, 0], y - outlines.centres[cell, 1]
    turn = np.arctan2(dy, dx) * (RAYS / (2 * np.pi)) % RAYS
    before = np.floor(turn).astype(np.int64)
    part = turn - before
    here, there = before % RAYS, (before + 1) % RAYS
    radius = outlines.radii[cell, here] * (1 - part) + outlines.radii[cell, there] * part
    return np.asarray(radius - np.hypot(dx, dy))
