"""One slide as it lies on another: a pyramid that is made chunk by chunk, where one looks.

What a chunk shows is fetched from the source's own levels, along a mesh of exact places with
straight lines in between. Chunks are kept; what of them is shown (all, one side of a seam, the
fields of a chequerboard) is decided when they are handed out, so that moving a seam costs no
more than copying what is on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_celldetr.core.progress import Progress
from napari_celldetr.gui.warp_masks import WHOLE, Mask
from napari_celldetr.gui.warped_level import CHUNK_PX, Later, WarpedLevel
from napari_celldetr.pipeline.warp import Mover
from napari_celldetr.slides.pixels import to_rgb
from napari_celldetr.slides.tile_cache import TileCache

MESH_PX = 32
CACHE_BYTES = 256 * 2**20
SMALL_ENOUGH_PX = 64
"""napari keeps the coarsest level as it was first handed out, whatever the mask is later: it must
be one that nobody looks at."""
BASE_PX = 2 * CHUNK_PX
"""Levels up to this width and height are kept whole, to stand in for what is not there yet."""
LEVEL_SLACK = 1.01
SPARE_PX = 2
RIM_POINTS = 65
LARGEST = 3.0
"""What the levels cover at most, of the target's width and height."""

Key = tuple[int, int, int]
"""Level, column and row of a chunk."""
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


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
    later : Later or None
        Who makes the chunks that the window's thread asks for; something coarser stands in for
        them until then. None: they are made at once.
    """

    def __init__(self, levels: Sequence[Any], mover: Mover) -> None:
        t = mover.transform
        source, target = (t.ihc, t.he) if mover.inverse else (t.he, t.ihc)
        self._sources = list(levels)
        self._back = Mover(t, not mover.inverse)
        self._source, self._target = source, target
        self._cache = TileCache(CACHE_BYTES)
        self._base: dict[Key, Bytes] = {}
        self.mask: Mask = WHOLE
        self.later: Later | None = None
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

    def prepare(self) -> Generator[Progress, None, None]:
        """Make what stands in for everything else: the coarse levels, which are kept."""
        keys = [key for key in self._keys() if self.is_base(key[0])]
        for done, key in enumerate(keys):
            yield Progress(done, len(keys), "preparing the view")
            self._base[key] = self._make(*key)

    def _keys(self) -> Iterator[Key]:
        for level, of in enumerate(self.levels):
            columns, rows = (-(-n // CHUNK_PX) for n in of.size_px)
            yield from product([level], range(columns), range(rows))

    def is_base(self, level: int) -> bool:
        """Whether a level is so coarse that it is kept whole."""
        return max(self.levels[level].size_px) <= BASE_PX

    def forget(self) -> None:
        """Let go of all chunks but those that `prepare` made."""
        self._cache.clear()

    def chunk(self, level: int, column: int, row: int) -> Bytes:
        """Pixels (h, w, 4) of a chunk, without any mask. Read-only."""
        key = (level, column, row)
        if key in self._base:
            return self._base[key]
        return self._cache.get(key, lambda: self._make(level, column, row))

    def known(self, level: int, column: int, row: int) -> Bytes | None:
        """The pixels of a chunk that was made already; None for another."""
        key = (level, column, row)
        return self._base[key] if key in self._base else self._cache.held(key)

    def stand_in(self, level: int, column: int, row: int) -> Bytes:
        """Pixels (h, w, 4) for a chunk, of the finest coarser one that was made already."""
        size = self.levels[level].size_px
        x, y = column * CHUNK_PX, row * CHUNK_PX
        width, height = min(CHUNK_PX, size[0] - x), min(CHUNK_PX, size[1] - y)
        for coarser in range(level + 1, len(self.levels)):
            by = coarser - level
            left, top = column >> by, row >> by
            found = self.known(coarser, left, top)
            if found is None and coarser == len(self.levels) - 1:
                found = self.chunk(coarser, left, top)
            if found is not None:
                less = np.array(self.levels[coarser].size_px) / size
                low = np.array([x, y]) * less - np.array([left, top]) * CHUNK_PX
                high = low + np.array([width, height]) * less
                most = np.array(found.shape[1::-1], np.float64)
                box = (*np.clip(low, 0, most - 1e-3).tolist(), *np.clip(high, 0, most).tolist())
                picture = Image.fromarray(found)
                return _pixels(picture.resize((width, height), Image.Resampling.BILINEAR, box))
        return self.chunk(level, column, row)

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
        return _pixels(bent)

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


def _pixels(picture: Image.Image) -> Bytes:
    out = np.array(picture)
    # Graphics cards mix in the colour of clear pixels at the rim.
    out[out[..., 3] == 0, :3] = 255
    return out


def _edges(length: int) -> NDArray[np.int64]:
    """0, MESH_PX, … and `length`."""
    return np.append(np.arange(0, length, MESH_PX), length)


def _corners(places: Floats, i: int, j: int) -> list[Floats]:
    """Upper left, lower left, lower right, upper right, as Pillow wants them."""
    return [places[j, i], places[j + 1, i], places[j + 1, i + 1], places[j, i + 1]]
