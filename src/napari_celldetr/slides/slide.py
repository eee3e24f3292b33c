"""Slide: one file behind one frame, level-0 pixels, with exact reads at any µm per pixel."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.backend import Backend
from napari_celldetr.slides.identity import fingerprint
from napari_celldetr.slides.pixel_size import ASK, judge
from napari_celldetr.slides.pixels import Rgb, filled
from napari_celldetr.slides.pyramid import Pyramid
from napari_celldetr.slides.resample import Axis, resample

BLOCK_PX = 24 * 2**20
"""Source pixels held at once while a large region is shrunk."""
LEVEL_SLACK = 1.01
"""A level up to 1 % too coarse still serves: real downsamples are rarely round."""


class Slide:
    """An open slide. Made by `open_slide`; safe to share between threads; pickles as its path.

    Attributes
    ----------
    path, name : the file, and its name without folders
    mpp : (x, y) or None
        µm per level-0 px.
    mpp_source : str
        ``openslide``, ``ome-xml``, ``ome-zarr``, ``tiff tag``, ``user``, ``missing``, or the
        reason a claim was refused.
    warnings : tuple of str
        What a user should know about this slide.
    """

    def __init__(self, path: Path, backend: Backend, *, mpp: float | None = None) -> None:
        facts = backend.facts
        judged = judge(facts, mpp)
        self.path = path
        self.name = path.name
        self.mpp = judged.mpp
        self.mpp_source = judged.source
        self.objective = facts.objective
        self.background: Rgb = facts.background
        self.warnings: tuple[str, ...] = facts.warnings + judged.warnings
        self._given_mpp = mpp
        self._backend = backend
        self._pyramid = Pyramid(backend)
        self._arrays: list[da.Array] | None = None
        self._identity: str | None = None

    # -- what it is ----------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 px."""
        return self._pyramid.levels[0].size

    @property
    def region(self) -> Region:
        """The whole frame."""
        return Region(0, 0, *self.size)

    @property
    def bounds(self) -> Region:
        """The scanned part; the whole frame when the file does not say."""
        said = self._backend.facts.bounds
        return (said.intersect(self.region) if said else None) or self.region

    @property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(width, height) of every level, those made lazily included."""
        return [level.size for level in self._pyramid.levels]

    @property
    def downsamples(self) -> list[float]:
        """Real downsample of every level: the mean of both axes."""
        return [sum(level.scale) / 2 for level in self._pyramid.levels]

    @property
    def real_levels(self) -> list[int]:
        """Which of the levels are stored in the file."""
        return [i for i, level in enumerate(self._pyramid.levels) if level.real is not None]

    @property
    def levels(self) -> list[da.Array]:
        """Every level as a lazy dask array (H, W, 3) uint8, for display.

        Unreadable chunks come hatched here; `read` raises for them.
        """
        if self._arrays is None:
            self._arrays = self._pyramid.arrays()
        return self._arrays

    def identity(self) -> str:
        """sha256 (hex) that knows this slide again under any name. `SlideError` if unreadable."""
        if self._identity is None:
            self._identity = fingerprint(self.path, self._backend.facts.identity)
        return self._identity

    def known_mpp(self) -> tuple[float, float]:
        """µm per level-0 px (x, y). `SlideError` that asks for it where it is unknown."""
        if self.mpp is None:
            raise SlideError(
                f"The slide {self.name!r} has no known pixel size.",
                expected="µm per pixel in the file, or given",
                found=self.mpp_source,
                remedy=ASK,
            )
        return self.mpp

    # -- pixels --------------------------------------------------------------------------

    def output_size(self, region: Region, mpp: float | None = None) -> tuple[int, int]:
        """(width, height) of what `read` returns for the same arguments."""
        if mpp is None:
            return region.width, region.height
        native = self.known_mpp()
        if not mpp > 0:
            raise SlideError(
                "The asked pixel size is impossible.",
                expected="a positive µm/px",
                found=str(mpp),
                remedy="ask for 0.1 to 100 µm/px",
            )
        return (
            max(1, round(region.width * native[0] / mpp)),
            max(1, round(region.height * native[1] / mpp)),
        )

    def read(self, region: Region, mpp: float | None = None) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) uint8 of `region`, at `mpp` µm/px or as stored (None).

        Size ``round(side · native mpp / mpp)``, at least 1. Output pixel column i covers exactly
        level-0 ``region.x + i · region.width / w`` and on. What lies outside the slide has the
        background colour. Raises `SlideError` for unreadable parts, and stays usable.
        """
        return self.render(region, *self.output_size(region, mpp))

    def render(self, region: Region, width: int, height: int) -> NDArray[np.uint8]:
        """`region` as a picture (height, width, 3), from the best level. `SlideError`."""
        level = self._best_level(region.width / width, region.height / height)
        scale_x, scale_y = self._pyramid.scale(level)
        x = Axis(region.x / scale_x, region.width / width / scale_x, width)
        y = Axis(region.y / scale_y, region.height / height / scale_y, height)
        rows = int(max(1, BLOCK_PX / (x.step * width * max(y.step, 1e-9))))
        if rows >= height:
            return self._block(level, x, y)
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            part = y.part(top, min(rows, height - top))
            out[top : top + part.count] = self._block(level, x, part)
        return out

    def _best_level(self, step_x: float, step_y: float) -> int:
        fitting = [
            index
            for index, level in enumerate(self._pyramid.levels)
            if level.scale[0] <= step_x * LEVEL_SLACK and level.scale[1] <= step_y * LEVEL_SLACK
        ]
        return fitting[-1] if fitting else 0

    def _block(self, level: int, x: Axis, y: Axis) -> NDArray[np.uint8]:
        (x0, x1), (y0, y1) = x.source_range, y.source_range
        pixels = self.read_level(level, x0, y0, x1 - x0, y1 - y0)
        return resample(self._completed(pixels, level, x0, y0), x, y)

    def _completed(
        self, pixels: NDArray[np.uint8], level: int, x: int, y: int
    ) -> NDArray[np.uint8]:
        """`pixels` read at (x, y) of a level, completed where the level ends before the slide does.

        Writers drop the remainder of an odd side, so a coarse level may lack its last row and
        column. These are averaged from the level above.
        """
        height, width = pixels.shape[:2]
        whole = self._whole_size(level)
        stored = self._pyramid.levels[level].size
        columns = (max(x, stored[0]), min(x + width, whole[0]))
        rows = (max(y, stored[1]), min(y + height, whole[1]))
        if columns[0] >= columns[1] and rows[0] >= rows[1]:
            return pixels
        pixels = pixels.copy()
        if columns[0] < columns[1]:
            strip = self._from_above(level, columns, (y, y + height))
            pixels[:, columns[0] - x : columns[1] - x] = strip
        if rows[0] < rows[1]:
            strip = self._from_above(level, (x, x + width), rows)
            pixels[rows[0] - y : rows[1] - y] = strip
        return pixels

    def _whole_size(self, level: int) -> tuple[int, int]:
        """(width, height) a level needs to hold all of the slide."""
        scale = self._pyramid.scale(level)
        return math.ceil(self.size[0] / scale[0] - 1e-6), math.ceil(self.size[1] / scale[1] - 1e-6)

    def _from_above(
        self, level: int, columns: tuple[int, int], rows: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Pixels of a level in the given ranges, averaged from the level above it."""
        scale, above = self._pyramid.scale(level), self._pyramid.scale(level - 1)
        x, y = (
            Axis(start * scale[i] / above[i], scale[i] / above[i], stop - start)
            for i, (start, stop) in enumerate((columns, rows))
        )
        return self._block(level - 1, x, y)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box of one level, in that level's own pixels.

        Background colour outside the level. Raises `SlideError` for unreadable parts.
        """
        full_w, full_h = self._pyramid.levels[level].size
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, full_w), min(y + height, full_h)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            return self._pyramid.read(level, x, y, width, height)
        out = filled(height, width, self.background)
        if x1 > x0 and y1 > y0:
            inside = self._pyramid.read(level, x0, y0, x1 - x0, y1 - y0)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return out

    def thumbnail(self, max_side: int) -> NDArray[np.uint8]:
        """The whole slide (h, w, 3) with its longer side at most `max_side` px, never enlarged."""
        width, height = self.size
        shrink = max(width / max_side, height / max_side, 1.0)
        return self.render(
            self.region, max(1, round(width / shrink)), max(1, round(height / shrink))
        )

    # -- lifetime ------------------------------------------------------------------------

    def close(self) -> None:
        """Give descriptors back. Reading afterwards raises `SlideError`."""
        self._backend.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({self.name!r}, {self.size[0]} × {self.size[1]} px, mpp={self.mpp})"

    def __reduce__(self) -> tuple[object, ...]:
        # Handles do not travel between processes: the other side opens its own.
        return _reopen, (str(self.path), self._given_mpp)


def _reopen(path: str, mpp: float | None) -> Slide:
    from napari_celldetr.slides.readers import open_slide

    # The sender has probed this very file.
    return open_slide(path, mpp=mpp, probe=False)
