"""Stand-ins that make the whole pipeline testable exactly: no torch, no files, no chance."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.predictor import TilePrediction
from napari_celldetr.core.regions import Region
from napari_celldetr.nets.card import ModelCard

WHITE = 255


def fake_card(**changes) -> ModelCard:
    """A complete card of a model that works at 0.5 µm/px with two classes."""
    card = ModelCard(
        name="fake",
        title="Fake",
        description="Threshold and connected components.",
        architecture="fake",
        arguments={},
        class_names=("dark", "red"),
        class_colors=((0, 0, 200), (200, 0, 0)),
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        stain="H&E",
        threshold=0.5,
        score_floor=0.1,
        weights_sha256="f" * 64,
        licence="BSD-3-Clause",
        data=[],
        metrics={},
        intended_use="tests",
        limits="none",
    )
    return replace(card, **changes)


@dataclass
class Faults:
    """What goes wrong, and when. `marker` is a pixel value (r, g, b) that triggers per tile.

    `memory_at` holds batch sizes that do not fit; `cpu_fits` says whether the CPU has room.
    """

    memory_at: frozenset[int] = frozenset()
    cpu_fits: bool = True
    numerical: tuple[int, int, int] | None = None
    saturated: tuple[int, int, int] | None = None
    raising: tuple[int, int, int] | None = None
    degenerate: bool = False
    seconds: float = 0.0
    jitter_px: float = 0.0


@dataclass
class FakePredictor:
    """Dark pixels, connected components, exact boxes; the score is the darkness of the cell.

    A cell that is more red than blue has class 1. Ids and scores do not depend on the batch, so
    every rule of the pipeline can be tested for equality, not for likeness.
    """

    card: ModelCard = field(default_factory=fake_card)
    device: str = "cpu"
    faults: Faults = field(default_factory=Faults)
    embedding_size: int | None = None
    calls: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def to(self, device: str) -> FakePredictor:
        return replace(self, device=device)

    def predict(self, tiles: np.ndarray) -> list[TilePrediction]:
        assert tiles.dtype == np.uint8
        assert tiles.ndim == 4
        assert tiles.shape[3] == 3
        self.calls.append(len(tiles))
        self.threads.add(threading.current_thread().name)
        if self.faults.seconds:
            time.sleep(self.faults.seconds)
        fits_here = self.device == "cpu" and self.faults.cpu_fits
        if len(tiles) in self.faults.memory_at and not fits_here:
            raise MemoryError(f"no room for {len(tiles)}")
        return [self._one(tile) for tile in tiles]

    def _one(self, tile: np.ndarray) -> TilePrediction:
        if _has(tile, self.faults.raising):
            raise RuntimeError("injected failure")
        if _has(tile, self.faults.numerical):
            empty = Detections.empty(self.card.class_names, embedding_size=self.embedding_size)
            return TilePrediction(empty, frozenset({"numerical"}))
        flags = {"saturated"} if _has(tile, self.faults.saturated) else set()
        return TilePrediction(self._components(tile), frozenset(flags))

    def _components(self, tile: np.ndarray) -> Detections:
        grey = np.minimum(np.minimum(tile[..., 0], tile[..., 1]), tile[..., 2])
        labels, count = ndimage.label(grey < 200)
        found = ndimage.find_objects(labels)
        boxes = np.array(
            [(x.start, y.start, x.stop, y.stop) for y, x in found], np.float32
        ).reshape(-1, 4)
        dark = np.nonzero(labels)
        ids = labels[dark] - 1
        darkest = np.full(count, WHITE)
        np.minimum.at(darkest, ids, grey[dark])
        excess = tile[..., 0][dark].astype(float) - tile[..., 2][dark]
        red = np.bincount(ids, excess, count) / np.maximum(np.bincount(ids, minlength=count), 1)
        scores = np.clip(1 - darkest / WHITE, 0, 1).astype(np.float32)
        boxes += self._jitter(tile, len(boxes))
        if self.faults.degenerate:
            boxes[:, 2:] = boxes[:, :2]
        vectors = None
        if self.embedding_size is not None:
            size = boxes[:, 2:] - boxes[:, :2]
            vectors = np.tile(size, (1, self.embedding_size))[:, : self.embedding_size]
        keep = scores >= self.card.score_floor
        table = Detections(
            boxes, scores, (red > 20).astype(np.int16), self.card.class_names, vectors
        )
        return table.select(keep)

    def _jitter(self, tile: np.ndarray, count: int) -> np.ndarray:
        """Whole-box shifts that depend on the tile's pixels: neighbouring tiles disagree."""
        if not self.faults.jitter_px:
            return np.zeros((count, 4), np.float32)
        seed = int.from_bytes(hashlib.sha256(tile.tobytes()).digest()[:8], "little")
        limit = self.faults.jitter_px
        shift = np.random.default_rng(seed).uniform(-limit, limit, (count, 2))
        return np.tile(shift, (1, 2)).astype(np.float32)


class FakeSlide:
    """A slide that is an array in memory: reads at its own mpp or by area-averaging.

    `unreadable` regions raise `SlideError` whenever a read touches them.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        *,
        mpp: tuple[float, float] | None = (0.5, 0.5),
        name: str = "fake.tif",
        unreadable: tuple[Region, ...] = (),
        background: tuple[int, int, int] = (WHITE, WHITE, WHITE),
        read_seconds: float = 0.0,
    ) -> None:
        self.pixels = pixels
        self.mpp = mpp
        self.mpp_source = "fake" if mpp else "missing"
        self.name = name
        self.path = Path(name)
        self.size = (pixels.shape[1], pixels.shape[0])
        self.bounds = Region(0, 0, *self.size)
        self.background = background
        self.objective = None
        self.unreadable = unreadable
        self.read_seconds = read_seconds
        self.level_sizes = [self.size]
        self.downsamples = [1.0]
        self.warnings: tuple[str, ...] = ()
        self.reads = 0

    def read(self, region: Region, mpp: float | None = None) -> np.ndarray:
        self.reads += 1
        if self.read_seconds:
            time.sleep(self.read_seconds)
        for bad in self.unreadable:
            if region.intersect(bad) is not None:
                raise SlideError("The tile cannot be decoded.", found="injected damage")
        full = np.empty((region.height, region.width, 3), np.uint8)
        full[:] = self.background
        part = region.intersect(self.bounds)
        if part is not None:
            full[part.y - region.y : part.y1 - region.y, part.x - region.x : part.x1 - region.x] = (
                self.pixels[part.y : part.y1, part.x : part.x1]
            )
        if mpp is None:
            return full
        if self.mpp is None:
            raise SlideError("The pixel size is not known.")
        width = max(1, round(region.width * self.mpp[0] / mpp))
        height = max(1, round(region.height * self.mpp[1] / mpp))
        return _resized(full, width, height)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        assert level == 0
        return self.read(Region(x, y, w, h))

    def thumbnail(self, max_side: int) -> np.ndarray:
        step = max(1, -(-max(self.size) // max_side))
        return self.pixels[::step, ::step]

    def identity(self) -> str:
        return hashlib.sha256(self.pixels.tobytes() + repr(self.mpp).encode()).hexdigest()

    def close(self) -> None:
        pass

    def __enter__(self) -> FakeSlide:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def draw_cells(
    size: tuple[int, int], centres: np.ndarray, radius: float = 6.0, *, seed: int = 0
) -> np.ndarray:
    """A white field (h, w, 3) with a disc at each centre (x, y); every third one is reddish.

    Discs that would touch an earlier one are not thinned out: the caller spaces them.
    """
    width, height = size
    field_ = np.full((height, width, 3), WHITE, np.uint8)
    shades = np.random.default_rng(seed).integers(20, 110, len(centres))
    for i, (x, y) in enumerate(centres):
        x0, x1 = max(int(x - radius) - 1, 0), min(int(x + radius) + 2, width)
        y0, y1 = max(int(y - radius) - 1, 0), min(int(y + radius) + 2, height)
        yy, xx = np.mgrid[y0:y1, x0:x1] + 0.5
        disc = (xx - x) ** 2 + (yy - y) ** 2 <= radius**2
        color = (200, shades[i], 60) if i % 3 == 0 else (shades[i], shades[i], 180)
        color = tuple(min(c, 190) if c == shades[i] else c for c in color)
        field_[y0:y1, x0:x1][disc] = color
    return field_


def spaced_centres(
    size: tuple[int, int], pitch: int = 24, *, seed: int = 0, jitter: float = 3.0
) -> np.ndarray:
    """Centres (N, 2) on a jittered grid, so that discs of radius ≤ pitch/2 - jitter stay apart."""
    xs = np.arange(pitch, size[0] - pitch + 1, pitch)
    ys = np.arange(pitch, size[1] - pitch + 1, pitch)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(float)
    return grid + np.random.default_rng(seed).uniform(-jitter, jitter, grid.shape)


def cell_field(size: tuple[int, int] = (1500, 1100), *, seed: int = 0) -> np.ndarray:
    """A drawn field with a cell about every 24 px."""
    return draw_cells(size, spaced_centres(size, seed=seed), seed=seed)


def _has(tile: np.ndarray, marker: tuple[int, int, int] | None) -> bool:
    return marker is not None and bool((tile == np.array(marker, np.uint8)).all(axis=2).any())


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Area averaging along each axis, exact for any ratio."""
    if image.shape[:2] == (height, width):
        return image
    out = _averaged(image.astype(np.float32), width, axis=1)
    return np.rint(_averaged(out, height, axis=0)).astype(np.uint8)


def _averaged(image: np.ndarray, count: int, *, axis: int) -> np.ndarray:
    sums = np.cumsum(image, axis=axis, dtype=np.float64)
    sums = np.insert(sums, 0, 0.0, axis=axis)
    edges = np.linspace(0, image.shape[axis], count + 1)
    low = np.floor(edges).astype(int)
    shape = [1, 1, 1]
    shape[axis] = len(edges)
    part = (edges - low).reshape(shape)
    upper = np.minimum(low + 1, image.shape[axis])
    at = np.take(sums, low, axis) * (1 - part) + np.take(sums, upper, axis) * part
    return np.diff(at, axis=axis) / (image.shape[axis] / count)
