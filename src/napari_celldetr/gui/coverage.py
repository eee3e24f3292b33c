"""What was looked at: tiles not analysed, failed or overfull must not pass for "no cells"."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.regions import Region


class Seen(IntEnum):
    """What became of a place; the numbers are those of the layer's labels."""

    LOOKED_AT = 0
    NOT_YET = 1
    FAILED = 2
    SATURATED = 3
    NO_TISSUE = 4


SEEN_BY_STATE = {
    "done": Seen.LOOKED_AT,
    "reused": Seen.LOOKED_AT,
    "skipped": Seen.NO_TISSUE,
    "saturated": Seen.SATURATED,
    "failed": Seen.FAILED,
}
KNOWN = (Seen.LOOKED_AT, Seen.SATURATED)
"""Where cells are counted."""
MISSING = (Seen.NOT_YET, Seen.FAILED)
"""Where cells may be that nobody has counted."""
CLEAR = (0.0, 0.0, 0.0, 0.0)
SEEN_COLORS: dict[int | None, Any] = {
    None: CLEAR,
    Seen.LOOKED_AT: CLEAR,
    Seen.NOT_YET: (0.32, 0.35, 0.42, 0.42),
    Seen.FAILED: (0.85, 0.1, 0.7, 0.5),
    Seen.SATURATED: (0.95, 0.6, 0.05, 0.4),
    Seen.NO_TISSUE: CLEAR,
}
PARTS = 32
"""Pixels per side of a tile: a run on a drawn region ends inside tiles."""

Index = tuple[int, int]


class Coverage:
    """What became of the tiles, of `core` level-0 px, over a slide of `size` (width, height).

    `seen` (H, W) holds `Seen` at `step` level-0 px per pixel, for the eye; areas are exact.
    """

    def __init__(self, size: tuple[int, int], core: int) -> None:
        self.size = size
        self.core = core
        self.step = core / PARTS
        tiles = (-(-size[1] // core), -(-size[0] // core))
        shape = (math.ceil(size[1] / self.step), math.ceil(size[0] / self.step))
        self.seen: NDArray[np.uint8] = np.full(shape, Seen.NOT_YET, np.uint8)
        self._whole = np.zeros(tiles, bool)
        self._parts: dict[Index, tuple[Region, ...]] = {}

    def tell(self, index: Index, state: str, within: Region | None = None) -> None:
        """What became of the tile at (row, column), of which only what lies `within` counts.

        Tiles beyond the slide are ignored.
        """
        row, column = index
        if not (0 <= row < self._whole.shape[0] and 0 <= column < self._whole.shape[1]):
            return
        slide = Region(0, 0, *self.size)
        core = Region(column * self.core, row * self.core, self.core, self.core).intersect(slide)
        if core is None:
            return
        part = core if within is None else core.intersect(within)
        if part is None:
            return
        seen = SEEN_BY_STATE[state]
        self.seen[self._pixels(part)] = seen
        if part == core:
            self._whole[index] = seen in KNOWN
            self._parts.pop(index, None)
        elif seen in KNOWN and not self._whole[index]:
            self._parts[index] = (*self._parts.get(index, ()), part)

    def _pixels(self, part: Region) -> tuple[slice, slice]:
        def along(start: int, stop: int, end: int) -> slice:
            last = math.ceil(stop / self.step) if stop >= end else round(stop / self.step)
            return slice(round(start / self.step), last)

        return along(part.y, part.y1, self.size[1]), along(part.x, part.x1, self.size[0])

    def area_px(self, region: Region | None = None) -> float:
        """Level-0 px² of the slide, or of the part of it in `region`, whose cells are known."""
        within = Region(0, 0, *self.size)
        if region is not None:
            inner = region.intersect(within)
            if inner is None:
                return 0.0
            within = inner
        rows = _overlap(self._whole.shape[0], self.core, within.y, within.y1)
        columns = _overlap(self._whole.shape[1], self.core, within.x, within.x1)
        area = float(rows @ self._whole @ columns)
        for parts in self._parts.values():
            inside = [p for p in (part.intersect(within) for part in parts) if p is not None]
            area += _union_area(inside)
        return area

    def missing(self, region: Region) -> float:
        """Share of the slide in `region` that was not looked at, or could not be analysed."""
        part = region.intersect(Region(0, 0, *self.size))
        if part is None:
            return 0.0
        seen = self.seen[self._pixels(part)]
        return float(np.isin(seen, MISSING).mean()) if seen.size else 0.0

    def missing_in(self, area: Area) -> float:
        """The same of a drawn area."""
        low = np.floor(area.corners.min(axis=0) / self.step).astype(int)
        high = np.ceil(area.corners.max(axis=0) / self.step).astype(int)
        rows = np.arange(max(low[1], 0), min(high[1], self.seen.shape[0]))
        columns = np.arange(max(low[0], 0), min(high[0], self.seen.shape[1]))
        y, x = (v.ravel() for v in np.meshgrid(rows, columns, indexing="ij"))
        inner = area.contains(np.column_stack((x + 0.5, y + 0.5)) * self.step)
        return float(np.isin(self.seen[y[inner], x[inner]], MISSING).mean()) if inner.any() else 0.0

    def counted(self) -> dict[Seen, int]:
        """Number of pixels of each kind."""
        return {kind: int((self.seen == kind).sum()) for kind in Seen}

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be kept with the cells."""
        parts = [
            [*index, *((p.x, p.y, p.width, p.height) for p in ps)]
            for index, ps in self._parts.items()
        ]
        return {
            "core": self.core,
            "size": list(self.size),
            "seen": base64.b64encode(zlib.compress(self.seen.tobytes())).decode(),
            "whole": np.argwhere(self._whole).tolist(),
            "parts": parts,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Coverage:
        """What `to_json` gave; raises ValueError, KeyError or TypeError for anything else."""
        width, height = (int(v) for v in kept["size"])
        coverage = cls((width, height), int(kept["core"]))
        try:
            packed = zlib.decompressobj().decompress(
                base64.b64decode(kept["seen"]), coverage.seen.size + 1
            )
        except zlib.error as error:
            raise ValueError(str(error)) from error
        seen = np.frombuffer(packed, np.uint8)
        if seen.size != coverage.seen.size or seen.max(initial=0) > max(Seen):
            raise ValueError(f"coverage of {seen.size} pixels")
        coverage.seen[:] = seen.reshape(coverage.seen.shape)
        for row, column in kept["whole"]:
            coverage._whole[row, column] = True
        for row, column, *parts in kept["parts"]:
            coverage._parts[row, column] = tuple(Region(*map(int, p)) for p in parts)
        return coverage


def _overlap(tiles: int, core: int, start: float, stop: float) -> NDArray[np.float64]:
    """How much of each tile along one axis lies between two px."""
    edges = np.arange(tiles) * core
    inner = np.minimum(edges + core, stop) - np.maximum(edges, start)
    return np.asarray(np.maximum(inner, 0), np.float64)


def _union_area(regions: Sequence[Region]) -> float:
    """Area that a few rectangles cover together."""
    xs = np.unique([v for r in regions for v in (r.x, r.x1)])
    ys = np.unique([v for r in regions for v in (r.y, r.y1)])
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    for r in regions:
        rows = slice(*np.searchsorted(ys, (r.y, r.y1)))
        columns = slice(*np.searchsorted(xs, (r.x, r.x1)))
        covered[rows, columns] = True
    return float(np.diff(ys) @ covered @ np.diff(xs)) if covered.size else 0.0
