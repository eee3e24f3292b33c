"""One slide as it lies on another: a pyramid that is made chunk by chunk, where one looks.

What a chunk shows is fetched from the source's own levels, along a mesh of exact places with
straight lines in between. Chunks are kept; what of them is shown (all, one side of a seam, the
fields of a chequerboard) is decided when they are handed out, so that moving a seam costs no
more than copying what is on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_celldetr.pipeline.warp import Mover
from napari_celldetr.slides.pixels import to_rgb
from napari_celldetr.slides.tile_cache import TileCache

CHUNK_PX = 512
MESH_PX = 32
CACHE_BYTES = 256 * 2**20
SMALL_ENOUGH_PX = 64
"""napari keeps the coarsest level as it was first handed out, whatever the mask is later: it must
be one that nobody looks at."""
LEVEL_SLACK = 1.01
SPARE_PX = 2
RIM_POINTS = 65
LARGEST = 3.0
"""What the levels cover at most, of the target's width and height."""
SEAM_COLOR = (255, 212, 0, 255)
THREADS = 2
"""Reading a slide's tiles and unfolding them goes on beside each other."""

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class Mask(Protocol):
    """What of the picture is left out when it is handed out."""

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear pixels (h, w, 4) in place; `x` (w,) and `y` (h,) are level-0 px of the target."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything is shown."""

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Nothing is cleared."""


@dataclass(frozen=True, slots=True)
class Swipe:
    """Shown left of a seam at `at` level-0 px, which is drawn `width` px wide."""

    at: float
    width: float = 1.0

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear what is right of the seam."""
        rgba[:, x > self.at, 3] = 0
        rgba[:, np.abs(x - self.at) <= self.width / 2] = SEAM_COLOR


@dataclass(frozen=True, slots=True)
class Checker:
    """Shown in every other field of a chequerboard; `side` (x, y) is a field's in level-0 px."""

    side: tuple[float, float]

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear every other field."""
        column = np.floor(x / self.side[0]).astype(np.int64)
        row = np.floor(y / self.side[1]).astype(np.int64)
        rgba[..., 3][(row[:, None] + column[None, :]) % 2 == 1] = 0


WHOLE = Whole()


class WarpedPyramid:
    """The levels of one slide, laid onto the frame of the other.

    Parameters
    ----------
    levels : arrays (H, W, 3 or 4)
        Of the source, finest first.
    mover : Mover
        From the source to the target.

    Attributes
    ----------
    levels, unmasked : list of WarpedLevel
        RGBA uint8, finest first; nothing (alpha 0) where the source does not reach. The latter
        without the mask.
    origin, extent : (x, y)
        What the levels cover, level-0 px of the target: its frame and all of the source.
    factor : float
        Level-0 px of the target per pixel of the first level; below 1 where the source is finer.
    mask : Mask
        What is left out. After a change the layer has to be refreshed.
    """

    def __init__(self, levels: Sequence[Any], mover: Mover) -> None:
        t = mover.transform
        source, target = (t.ihc, t.he) if mover.inverse else (t.he, t.ihc)
        self._sources = list(levels)
        self._back = Mover(t, not mover.inverse)
        self._source, self._target = source, target
        self._cache = TileCache(CACHE_BYTES)
        self.mask: Mask = WHOLE
        finer = max(1, math.floor(sum(target.mpp) / sum(source.mpp) + 0.4))
        self.factor = 1 / finer
        low, high = self._covered(mover)
        self.origin = int(low[0]), int(low[1])
        self.extent = int(high[0] - low[0]), int(high[1] - low[1])
        sizes = [(self.extent[0] * finer, self.extent[1] * finer)]
        while max(sizes[-1]) > SMALL_ENOUGH_PX:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        self.levels = [WarpedLevel(self, i, size) for i, size in enumerate(sizes)]
        self.unmasked = [WarpedLevel(self, i, s, masked=False) for i, s in enumerate(sizes)]

    def _covered(self, mover: Mover) -> tuple[Floats, Floats]:
        """The target's frame, and where the source's rim lies, but no further than LARGEST."""
        size, share = np.array(self._target.size, np.float64), np.linspace(0, 1, RIM_POINTS)
        none, whole = np.zeros(RIM_POINTS), np.ones(RIM_POINTS)
        rim = np.concatenate(
            [
                np.stack(side, axis=1)
                for side in ((share, none), (share, whole), (none, share), (whole, share))
            ]
        )
        moved = mover.move(rim * self._source.size)
        spare = (LARGEST - 1) / 2 * size
        low = np.floor(np.clip(moved.min(axis=0), -spare, 0))
        high = np.ceil(np.clip(moved.max(axis=0), size, size + spare))
        return low, high

    def step(self, level: int) -> Floats:
        """Level-0 px (x, y) of the target per pixel of a level."""
        return np.array(self.extent) / self.levels[level].size_px

    def chunk(self, level: int, column: int, row: int) -> Bytes:
        """Pixels (h, w, 4) of a chunk, without any mask. Read-only."""
        return self._cache.get((level, column, row), lambda: self._make(level, column, row))

    def _make(self, level: int, column: int, row: int) -> Bytes:
        x, y = column * CHUNK_PX, row * CHUNK_PX
        size = self.levels[level].size_px
        width, height = min(CHUNK_PX, size[0] - x), min(CHUNK_PX, size[1] - y)
        xs, ys = _edges(width), _edges(height)
        grid = np.stack(np.meshgrid(xs + x, ys + y), axis=-1).reshape(-1, 2)
        nodes = self._back.move(grid * self.step(level) + self.origin).reshape(len(ys), len(xs), 2)
        found = self._read(nodes, self._shrink(level))
        if found is None:
            return np.zeros((height, width, 4), np.uint8)
        picture, places = found
        mesh = [
            ((x0, y0, x1, y1), tuple(np.concatenate(_corners(places, i, j)).tolist()))
            for j, (y0, y1) in enumerate(pairwise(ys.tolist()))
            for i, (x0, x1) in enumerate(pairwise(xs.tolist()))
        ]
        bent = picture.transform(
            (width, height), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
        )
        out = np.array(bent)
        # Graphics cards mix in the colour of clear pixels at the rim.
        out[out[..., 3] == 0, :3] = 255
        return out

    def _shrink(self, level: int) -> float:
        """Level-0 px of the source that a pixel of a level is wide."""
        return float(np.mean(self.step(level) * self._target.mpp) / np.mean(self._source.mpp))

    def _read(self, nodes: Floats, shrink: float) -> tuple[Image.Image, Floats] | None:
        """The source around `nodes` (level-0 px), not finer than needed, and where they lie on it.

        None where they all lie beyond the source.
        """
        full = np.array(self._source.size, np.float64)
        scales = [full / (a.shape[1], a.shape[0]) for a in self._sources]
        fit = [i for i, s in enumerate(scales) if s.max() <= shrink * LEVEL_SLACK] or [0]
        array, scale = self._sources[fit[-1]], scales[fit[-1]]
        less = max(1, int(shrink * LEVEL_SLACK / scale.max()))
        places = nodes / scale
        flat = places.reshape(-1, 2)
        low = np.floor(flat.min(axis=0) / less).astype(int) * less - SPARE_PX * less
        high = np.ceil(flat.max(axis=0)).astype(int) + SPARE_PX * less
        low, high = np.maximum(low, 0), np.minimum(high, (array.shape[1], array.shape[0]))
        if (high <= low).any():
            return None
        rgb = to_rgb(np.asarray(array[low[1] : high[1], low[0] : high[0]]))
        rgba = np.full((*rgb.shape[:2], 4), 255, np.uint8)
        rgba[..., :3] = rgb
        picture = Image.fromarray(rgba)
        return picture if less == 1 else picture.reduce(less), (places - low) / less


def _edges(length: int) -> NDArray[np.int64]:
    """0, MESH_PX, … and `length`."""
    return np.append(np.arange(0, length, MESH_PX), length)


def _corners(places: Floats, i: int, j: int) -> list[Floats]:
    """Upper left, lower left, lower right, upper right, as Pillow wants them."""
    return [places[j, i], places[j + 1, i], places[j + 1, i + 1], places[j, i + 1]]


class WarpedLevel:
    """What napari sees of a level: shape, dtype, and slices of (y, x, channel)."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self, pyramid: WarpedPyramid, level: int, size: tuple[int, int], *, masked: bool = True
    ) -> None:
        self._pyramid, self._level, self._masked = pyramid, level, masked
        self.size_px = size
        self.shape = (size[1], size[0], 4)
        self.size = size[0] * size[1] * 4

    def __getitem__(self, key: Any) -> Bytes:
        keys = list(key) if isinstance(key, tuple) else [key]
        ys, xs, channels = keys + [slice(None)] * (3 - len(keys))
        (y0, y1, _), (x0, x1, _) = ys.indices(self.shape[0]), xs.indices(self.shape[1])
        out = np.zeros((max(y1 - y0, 0), max(x1 - x0, 0), 4), np.uint8)
        places = [
            (column, row)
            for row in range(y0 // CHUNK_PX, -(-y1 // CHUNK_PX))
            for column in range(x0 // CHUNK_PX, -(-x1 // CHUNK_PX))
        ]
        for (column, row), chunk in zip(places, self._chunks(places), strict=True):
            left, top = column * CHUNK_PX, row * CHUNK_PX
            ya, yb = max(y0, top), min(y1, top + chunk.shape[0])
            xa, xb = max(x0, left), min(x1, left + chunk.shape[1])
            out[ya - y0 : yb - y0, xa - x0 : xb - x0] = chunk[
                ya - top : yb - top, xa - left : xb - left
            ]
        step, origin = self._pyramid.step(self._level), self._pyramid.origin
        x = (np.arange(x0, x1) + 0.5) * step[0] + origin[0]
        y = (np.arange(y0, y1) + 0.5) * step[1] + origin[1]
        if self._masked:
            self._pyramid.mask.cut(out, x, y)
        return out[:, :, channels]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype)

    def _chunks(self, places: list[tuple[int, int]]) -> list[Bytes]:
        make = self._pyramid.chunk
        if len(places) < 2:
            return [make(self._level, *p) for p in places]
        with ThreadPoolExecutor(THREADS, "celldetr-warped") as pool:
            return list(pool.map(lambda p: make(self._level, *p), places))


def around(
    levels: Sequence[Any],
    centre: tuple[float, float],
    step: float,
    size: tuple[int, int],
    *,
    width: float | None = None,
) -> Bytes:
    """A picture (h, w, 3) of `size` (w, h) around a place, glass-coloured beyond the slide.

    `centre` (x, y) and `step`, what a pixel of the picture is wide, are in level-0 px, of which
    the levels (finest first) span `width`; None means as many as the first one has.
    """
    full = width or levels[0].shape[1]
    scales = [full / level.shape[1] for level in levels]
    fit = [i for i, scale in enumerate(scales) if scale <= step * LEVEL_SLACK] or [0]
    level, scale = levels[fit[-1]], scales[fit[-1]]
    half = np.array(size) * step / scale / 2
    middle = np.array(centre) / scale
    low, high = np.floor(middle - half).astype(int), np.ceil(middle + half).astype(int)
    high = np.maximum(high, low + 1)
    out = np.full((high[1] - low[1], high[0] - low[0], 3), 244, np.uint8)
    ends = np.array([level.shape[1], level.shape[0]])
    start, stop = np.clip(low, 0, ends), np.clip(high, 0, ends)
    if (stop > start).all():
        part = to_rgb(np.asarray(level[start[1] : stop[1], start[0] : stop[0]]))
        (x, y), (h, w) = start - low, part.shape[:2]
        out[y : y + h, x : x + w] = part
    box = (*(middle - half - low).tolist(), *(middle + half - low).tolist())
    found = Image.fromarray(out).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.array(found)
