"""Ask the detector about points of a slide: a click goes in, the cell that it sees there comes out.

A point is answered from a small window of the very tile that a detection run reads there, so that
a click on a cell which that run found gives this cell. The last windows are kept: a second click
nearby costs only the decoder. They lie on a fixed grid, so that an answer does not depend on what
was asked before.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import __version__
from napari_celldetr.core.config import DetectConfig, check
from napari_celldetr.core.detections import Detections, Source, concatenate
from napari_celldetr.core.errors import ConfigError, JobError, SlideError
from napari_celldetr.core.predictor import AskablePredictor, Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region, Tile, TileGrid
from napari_celldetr.pipeline.measure import apply_class_rule, size_columns, stain_columns
from napari_celldetr.pipeline.tiles import (
    SMALLEST_MODEL_PX,
    Geometry,
    SlideLike,
    clip,
    plan_geometry,
    read_tile,
    to_level0,
)

K = TypeVar("K")
V = TypeVar("V")

WINDOW_PX, WINDOW_STEP_PX = 320, 128
"""Side of a window and the distance to the next, in px of the model's scale.

A point has at least 96 px of tile around it, as far as the tile goes. Boxes asked on a real H&E
slide then differ from those of the whole tile by 0.02 px in the median and 0.3 px in one of a
hundred; in windows of 256 px it was 0.07 and 0.7 px.
"""
KEPT_WINDOWS, KEPT_TILES = 8, 4
HEAT_TILE_PX, HEAT_HALO_PX = 1024, 256
"""Halo as wide as the shipped networks see, so that no seam shows: with 128 px it did (0.007)."""
LARGEST_HEATMAP_PX = 4096
"""Side of the largest square that `Asker.heatmap` takes, in px of the model's scale."""
_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class _TilePixels:
    """A tile as it was read, and the (width, height) that its read region became."""

    tile: Tile
    pixels: NDArray[np.uint8]
    out_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a tile from `corner` (x, y) in tile px on, and its encoding."""

    source: _TilePixels
    corner: tuple[int, int]
    encoded: Any

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The window's own pixels (h, w, 3)."""
        x, y = self.corner
        return self.source.pixels[y : y + WINDOW_PX, x : x + WINDOW_PX]


class Asker:
    """Answers clicks on one slide; threads may share it.

    Parameters
    ----------
    slide
        An open `Slide`; it must stay open.
    predictor
        A loaded model, or a lazy one, which is loaded by the first question.
    mpp : float, optional
        Replaces the slide's own µm per level-0 px.

    Raises
    ------
    SlideError
        The pixel size is not known.
    ConfigError
        `mpp` is out of range.
    """

    def __init__(self, slide: SlideLike, predictor: Predictor, *, mpp: float | None = None) -> None:
        config = check(DetectConfig(mpp=mpp))
        self._slide, self._given, self._mpp = slide, predictor, mpp
        self._card = predictor.card
        self._tiles = plan_geometry(slide, config, self._card.mpp)
        self._heat_tiles = _cut(slide, self._tiles, HEAT_TILE_PX, HEAT_HALO_PX)
        self._kept_tiles: OrderedDict[tuple[int, int], _TilePixels] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int, int, int], _Window] = OrderedDict()
        self._lock = Lock()

    def ask(self, xy: NDArray[Any]) -> Detections:
        """The cell that the model sees at each point.

        Parameters
        ----------
        xy : (N, 2)
            Level-0 px.

        Returns
        -------
        Detections
            One row per point, in the order asked, whatever its score; boxes in level-0 px, with
            the columns that `detect` gives.

        Raises
        ------
        ConfigError
            A point lies outside the slide, or the model cannot be asked.
        SlideError
            The slide cannot be read there.
        ModelError
            The model cannot be loaded.
        JobError
            The model's answer is not finite or no box, or memory is out.
        """
        points = self._checked(xy)
        tables = [Detections.empty(self._card.class_names, source=self._source)]
        order = [np.zeros(0, np.int64)]
        failed = np.zeros(len(points), bool)
        with self._lock:
            for place, members in _grouped(self._places(points)):
                table, failed[members] = self._answers(self._window(place), points[members])
                tables.append(table)
                order.append(members)
        _refuse_failed(points, failed)
        cells = concatenate(tables).select(np.argsort(np.concatenate(order)))
        sizes = size_columns(cells.boxes, self._tiles.mpp)
        return cells.with_columns(**sizes).with_source(self._source)

    def heatmap(self, region: Region) -> Job[tuple[NDArray[np.float32], float]]:
        """The model's probability that a nucleus' centre is there, for every place of a region.

        Parameters
        ----------
        region
            Level-0 px.

        Returns
        -------
        job
            Yields a `Progress` per tile and at least every 250 ms. Returns the map (h, w), whose
            first pixel begins at the region's corner, and the side of its pixels in level-0 px.
            NaN where the slide could not be read or the model gave no number, 0 beyond the
            slide.

        Raises
        ------
        ConfigError
            The region lies outside the slide or is too large, or the model cannot be asked.
        JobError
            No part of the region could be computed, or memory is out.
        """
        self._refuse_region(region)
        return self._heat_job(region)

    # -- one window ----------------------------------------------------------------------

    @cached_property
    def _model(self) -> AskablePredictor:
        loaded = getattr(self._given, "loaded", self._given)
        if not isinstance(loaded, AskablePredictor):
            raise ConfigError(
                "This model cannot be asked about points.",
                expected="a model with encode_tile, ask and heat",
                found=type(loaded).__name__,
                remedy="choose another model, e.g. celldetr-he",
            )
        return loaded

    @cached_property
    def _source(self) -> Source:
        return Source(
            slide=self._slide.name,
            slide_id=self._slide.identity(),
            mpp=self._tiles.mpp,
            model=self._card.name,
            weights_sha256=self._card.weights_sha256,
            config=json.dumps({"asked": True, "mpp": self._mpp}, sort_keys=True),
            version=__version__,
        )

    def _checked(self, xy: NDArray[Any]) -> NDArray[np.float64]:
        points = np.asarray(xy, np.float64)
        if points.size == 0:
            return points.reshape(0, 2)
        shaped = points.ndim == 2 and points.shape[1] == 2
        if not shaped or not ((points >= 0) & (points < self._slide.size)).all():
            raise ConfigError(
                "There is nothing to ask about outside the slide.",
                expected=f"x, y (N, 2) within {self._slide.size[0]} × {self._slide.size[1]} px",
                found=f"{points[:5].tolist()}" if shaped else f"shape {points.shape}",
                remedy="click on the slide",
            )
        return points

    def _places(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which window answers each point: (N, 4) row and column of its tile, and within it."""
        core = self._tiles.grid.core
        tile = np.floor(points / core)
        at = (points - tile * core) / self._tiles.scale
        last = -(-(self._tiles.tile_px - WINDOW_PX) // WINDOW_STEP_PX)
        within = np.clip(np.floor(at / WINDOW_STEP_PX), 0, last)
        return np.concatenate((tile[:, ::-1], within[:, ::-1]), axis=1).astype(np.int64)

    def _window(self, place: tuple[int, int, int, int]) -> _Window:
        def make() -> _Window:
            source = _kept(self._kept_tiles, place[:2], lambda: self._read(place[:2]), KEPT_TILES)
            furthest = self._tiles.tile_px - WINDOW_PX
            y, x = (min(i * WINDOW_STEP_PX, furthest) for i in place[2:])
            pixels = source.pixels[y : y + WINDOW_PX, x : x + WINDOW_PX]
            return _Window(source, (x, y), self._encode(pixels))

        return _kept(self._kept, place, make, KEPT_WINDOWS)

    def _read(self, index: tuple[int, int]) -> _TilePixels:
        tile = self._tiles.grid.tile(*index)
        return _TilePixels(tile, *read_tile(self._slide, tile, self._tiles))

    def _encode(self, pixels: NDArray[np.uint8]) -> Any:
        with _memory_or_say():
            return self._model.encode_tile(pixels)

    def _answers(
        self, window: _Window, points: NDArray[np.float64]
    ) -> tuple[Detections, NDArray[np.bool_]]:
        """Level-0 cells of points (N, 2) that the window answers, and which are none."""
        source, read = window.source, window.source.tile.read
        scale = np.array(source.out_size) / (read.width, read.height)
        asked = (points - (read.x, read.y)) * scale - window.corner
        with _memory_or_say():
            answers = self._model.ask(window.encoded, asked)
        cells = answers.detections
        sides = cells.boxes[:, 2:] - cells.boxes[:, :2]
        usable = ((sides > SMALLEST_MODEL_PX) & (sides <= WINDOW_PX)).all(axis=1)
        rule = self._card.class_rule
        if rule is not None:
            stained = cells.with_columns(**stain_columns(window.pixels, cells.boxes))
            cells = apply_class_rule(stained, rule)
        in_tile = cells.moved((1, 1), window.corner)
        on_slide = clip(to_level0(in_tile, source.tile, source.out_size), self._tiles.size)
        # What lies wholly beyond the slide has no extent left.
        usable &= (on_slide.boxes[:, 2:] > on_slide.boxes[:, :2]).all(axis=1)
        return on_slide, answers.failed | ~usable

    # -- the heatmap ---------------------------------------------------------------------

    def _refuse_region(self, region: Region) -> None:
        limit = LARGEST_HEATMAP_PX**2
        width, height = (round(s / self._tiles.scale) for s in (region.width, region.height))
        if width * height > limit:
            raise ConfigError(
                "The region is too large for a heatmap.",
                expected=f"at most {LARGEST_HEATMAP_PX}² px of the model's {self._card.mpp:g} µm",
                found=f"{width} × {height} px",
                remedy="zoom in, or choose a smaller region",
            )
        if region.intersect(Region(0, 0, *self._slide.size)) is None:
            raise ConfigError(
                "The region lies outside the slide.",
                expected=f"a region within {self._slide.size[0]} × {self._slide.size[1]} px",
                found=f"x {region.x}, y {region.y}, {region.width} × {region.height} px",
                remedy="give X Y WIDTH HEIGHT in level-0 pixels of this slide",
            )

    def _heat_job(self, region: Region) -> Job[tuple[NDArray[np.float32], float]]:
        tiles = list(_tiles_of(region, self._heat_tiles.grid))
        canvas: NDArray[np.float32] | None = None
        side, lost = 0.0, 0
        with ThreadPoolExecutor(1, thread_name_prefix="celldetr-heat") as pool:
            yield Progress(0, len(tiles), "computing the heatmap")
            for done, tile in enumerate(tiles):
                future = pool.submit(self._heat_of, tile)
                while not wait([future], timeout=_WAIT_S).done:
                    yield Progress(done, len(tiles), "computing the heatmap")
                heat, note = _result(future)
                lost += bool(note)
                if heat is not None:
                    values, side = heat
                    if canvas is None:
                        shape = [math.ceil(s / side) for s in (region.height, region.width)]
                        canvas = np.full(shape, np.nan, np.float32)
                    _paste(canvas, values, tile, region)
                yield Progress(done + 1, len(tiles), "computing the heatmap", note=note)
        if canvas is None:
            raise JobError(
                "No part of the heatmap could be computed.",
                expected="tiles that can be read",
                found=f"{lost} of {len(tiles)} unreadable",
                remedy="check the slide, or choose another region",
            )
        self._blank_outside(canvas, region, side)
        return canvas, side

    def _heat_of(self, tile: Tile) -> tuple[tuple[NDArray[np.float32], float] | None, str]:
        """Heat of a tile's core with the side of its px in level-0 px, and what went wrong."""
        geometry = self._heat_tiles
        try:
            pixels, out_size = read_tile(self._slide, tile, geometry)
        except SlideError as error:
            return None, f"A part of the heatmap is missing: {error.message}"
        heat, stride = self._model.heat(self._encode(pixels))
        side = stride * tile.read.width / geometry.tile_px
        count = round(tile.core.width / side)
        # Centres of the core's map px, in the tile's own map px.
        at = (np.arange(count) + 0.5) * side + geometry.grid.halo
        column, row = (
            np.floor(at * out / tile.read.width / stride).astype(int) for out in out_size
        )
        core = heat[row[:, None], column]
        note = "" if np.isfinite(core).all() else "A part of the heatmap is not finite."
        return (core, side), note

    def _blank_outside(self, canvas: NDArray[np.float32], region: Region, side: float) -> None:
        for axis, (start, limit) in enumerate(
            ((region.y, self._slide.size[1]), (region.x, self._slide.size[0]))
        ):
            centre = start + (np.arange(canvas.shape[axis]) + 0.5) * side
            outside = (centre < 0) | (centre >= limit)
            np.moveaxis(canvas, axis, 0)[outside] = 0


@contextmanager
def _memory_or_say() -> Iterator[None]:
    """Lack of memory becomes an error with a remedy."""
    try:
        yield
    except MemoryError as error:
        raise JobError(
            "There is not enough memory to ask the model.",
            expected="room for one window",
            found=str(error)[:200],
            remedy="wait until the running detection has ended, or choose the CPU",
        ) from error


def _kept(store: OrderedDict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    """What `store` holds under `key`, made now if it is not there; the `most` last used stay."""
    if key not in store:
        store[key] = make()
        while len(store) > most:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]


def _grouped(
    places: NDArray[np.int64],
) -> Iterator[tuple[tuple[int, int, int, int], NDArray[np.int64]]]:
    """Every place once, with the rows (M,) that are there."""
    for place in np.unique(places, axis=0):
        row, column, y, x = (int(v) for v in place)
        yield (row, column, y, x), np.flatnonzero((places == place).all(axis=1))


def _cut(slide: SlideLike, geometry: Geometry, side: int, halo: int) -> Geometry:
    """Tiles of `side` model px with `halo` model px around their cores, both whole in level-0 px.

    So neighbouring tiles lie on one grid of model px, and see the very same pixels.
    """
    unit = side // math.gcd(side, halo)
    length = unit * max(1, round(side * geometry.scale / unit))
    margin = length * halo // side
    native = slide.mpp or geometry.mpp
    return replace(
        geometry,
        grid=TileGrid(length - 2 * margin, margin, geometry.grid.mpp),
        tile_px=side,
        read_mpp=length * max(native) / side,
    )


def _tiles_of(region: Region, grid: TileGrid) -> Iterator[Tile]:
    """Tiles that cover a region from its corner on, so that their maps join without a rest."""
    for tile in grid.plan(Region(0, 0, region.width, region.height)):
        core = Region(
            tile.core.x + region.x, tile.core.y + region.y, tile.core.width, tile.core.height
        )
        yield Tile(tile.index, core, core.grow(grid.halo), tile.mpp)


def _result(future: Future[Any]) -> tuple[tuple[NDArray[np.float32], float] | None, str]:
    return cast(tuple[tuple[NDArray[np.float32], float] | None, str], future.result())


def _paste(
    canvas: NDArray[np.float32], values: NDArray[np.float32], tile: Tile, region: Region
) -> None:
    count = len(values)
    top, left = tile.index[0] * count, tile.index[1] * count
    part = canvas[top : top + count, left : left + count]
    part[:] = values[: part.shape[0], : part.shape[1]]


def _refuse_failed(points: NDArray[np.float64], failed: NDArray[np.bool_]) -> None:
    if failed.any():
        raise JobError(
            f"The model gave no usable answer at {int(failed.sum())} of {len(failed)} points.",
            expected="a box of finite numbers",
            found=f"none at {points[failed][:5].round(1).tolist()}",
            remedy="draw the cell by hand, or choose another model",
        )
