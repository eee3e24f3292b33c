"""Slides with known cells: tissue islands on glass, nuclei of known place, size and kind.

For demonstrations and tests. Colours are mixed in optical density from the stains' own vectors.
Everything is a function of slide coordinates and the seed, so a slide is rendered block by
block, without seams, and one of 20,000² px needs no more memory than one of 2,000².
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.slides.stain import DAB, EOSIN, HAEMATOXYLIN

HE_CLASSES = ("lymphocyte", "tumour", "stromal")
IHC_CLASSES = ("negative", "positive")
LYMPHOCYTE, TUMOUR, STROMAL = range(3)

SPACING_UM = 10.0
JITTER_UM = 2.2
TILE_PX = 256
BLOCK_PX = 1024
SMALLEST_LEVEL_PX = 512
NOISE_PX = 1024
GLASS_LEVEL = 244.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Cells:
    """Nuclei as columns; centres and half axes in px, angles in radians."""

    x: Floats
    y: Floats
    major: Floats
    minor: Floats
    angle: Floats
    kind: NDArray[np.int16]
    haematoxylin: Floats
    dab: Floats

    def boxes(self) -> Floats:
        """Tight xyxy boxes (N, 4) of the ellipses."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        half_x = np.hypot(self.major * cos, self.minor * sin)
        half_y = np.hypot(self.major * sin, self.minor * cos)
        sides = (self.x - half_x, self.y - half_y, self.x + half_x, self.y + half_y)
        return np.stack(sides, axis=1)

    def select(self, which: NDArray[Any]) -> _Cells:
        """The rows a mask or index array picks."""
        return _Cells(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


class _Scene:
    """The slide as functions of place: how much tissue, how much nest, which texture."""

    def __init__(self, size: tuple[int, int], mpp: float, seed: int) -> None:
        self.size = size
        self.mpp = mpp
        self.chance = np.random.default_rng(seed)
        self.fine = _tiling_noise(self.chance, 1.2 / mpp, 1.2 / mpp)
        self.coarse = _tiling_noise(self.chance, 12 / mpp, 12 / mpp)
        self.fibres = _tiling_noise(self.chance, 16 / mpp, 1.4 / mpp)
        self._islands = self._draw_islands()
        self._waves = self.chance.uniform(-1, 1, (6, 2)) / 60.0
        self._phases = self.chance.uniform(0, 2 * np.pi, 6)

    def _draw_islands(self) -> NDArray[np.float64]:
        """Rows x, y, radius_x, radius_y as shares of the slide's sides."""
        count = int(self.chance.integers(3, 6))
        centres = self.chance.uniform(0.25, 0.75, (count, 2))
        radii = self.chance.uniform(0.16, 0.32, (count, 2))
        middle = np.array([[0.5, 0.5, 0.34, 0.3]])
        return np.vstack([middle, np.hstack([centres, radii])])

    def tissue(self, x: Floats, y: Floats) -> Floats:
        """Positive inside tissue, about 1 well inside, negative on glass."""
        u, v = x / self.size[0], y / self.size[1]
        wobble = 0.12 * np.sin(9 * u + 5 * v) * np.sin(11 * v - 4 * u + 1)
        best = np.full(np.broadcast_shapes(x.shape, y.shape), -9.0)
        for cx, cy, rx, ry in self._islands:
            best = np.maximum(best, 1 - np.hypot((u - cx) / rx, (v - cy) / ry) + wobble)
        return np.asarray(best, np.float32)

    def nest(self, x: Floats, y: Floats) -> Floats:
        """About -1..1: positive in tumour nests, strongly negative where lymphocytes gather."""
        u, v = x * self.mpp, y * self.mpp
        waves = [
            np.sin((kx * u + ky * v) + phase)
            for (kx, ky), phase in zip(self._waves, self._phases, strict=True)
        ]
        return np.asarray(sum(waves) / 2.2, np.float32)


def _tiling_noise(chance: np.random.Generator, length_x: float, length_y: float) -> Floats:
    """Smooth noise (NOISE_PX, NOISE_PX), mean 0, deviation 1, that repeats without a seam."""
    spectrum = np.fft.rfft2(chance.standard_normal((NOISE_PX, NOISE_PX)))
    ky = np.fft.fftfreq(NOISE_PX)[:, None] * length_y
    kx = np.fft.rfftfreq(NOISE_PX)[None, :] * length_x
    noise = np.fft.irfft2(spectrum * np.exp(-2 * np.pi**2 * (kx**2 + ky**2)), s=(NOISE_PX,) * 2)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _window(noise: Floats, x: int, y: int, width: int, height: int) -> Floats:
    """The part of an endlessly repeated noise that starts at (x, y)."""
    rows = np.arange(y, y + height) % NOISE_PX
    columns = np.arange(x, x + width) % NOISE_PX
    return noise[rows[:, None], columns[None, :]]


def _waved(noise: Floats, bend: Floats, x: int, y: int, width: int, height: int) -> Floats:
    """`noise` shifted up and down by another, so that its streaks run in waves."""
    shift = (9 * _window(bend, x, y, width, height)).astype(np.int64)
    rows = (np.arange(y, y + height)[:, None] + shift) % NOISE_PX
    columns = np.arange(x, x + width) % NOISE_PX
    return noise[rows, columns[None, :]]


def _smooth(
    field: Callable[[Floats, Floats], Floats], x: int, y: int, width: int, height: int
) -> Floats:
    """A slowly varying field (height, width), worked out every 8 px and interpolated between.

    The nodes are multiples of 8 of the slide, so blocks meet without a seam.
    """
    step = np.float32(8)

    def nodes(start: int, count: int) -> tuple[Floats, NDArray[np.intp], Floats]:
        first = start // 8
        at = np.arange(first, (start + count) // 8 + 2, dtype=np.float32) * step
        place = (np.arange(start, start + count, dtype=np.float32) + 0.5) / step - first
        index = place.astype(np.intp)
        return at, index, (place - index).astype(np.float32)

    (xs, column, right), (ys, row, down) = nodes(x, width), nodes(y, height)
    values = field(xs[None, :], ys[:, None])
    across = values[:, column] * (1 - right) + values[:, column + 1] * right
    between = across[row] * (1 - down)[:, None] + across[row + 1] * down[:, None]
    return np.asarray(between, np.float32)


def _draw_cells(scene: _Scene, cells: int | None, *, ihc: bool) -> _Cells:
    x, y, nest = _draw_places(scene)
    chance, n = scene.chance, len(x)
    odds = np.stack([np.clip(-nest, 0.08, 1), np.clip(0.35 + nest, 0.03, 1), np.full(n, 0.3)])
    draw = chance.uniform(0, 1, n) * odds.sum(axis=0)
    kind = (draw[None, :] > np.cumsum(odds, axis=0)).sum(axis=0).clip(0, 2)
    low = np.array([[2.8, 2.6], [4.6, 3.7], [5.6, 1.5]])[kind]
    high = np.array([[3.5, 3.1], [6.2, 4.6], [7.6, 2.1]])[kind]
    axes = chance.uniform(low, high) / scene.mpp
    stain = chance.uniform(np.array([0.9, 0.38, 0.5])[kind], np.array([1.2, 0.62, 0.8])[kind])
    dab = np.zeros(n)
    if ihc:
        kind = (chance.uniform(0, 1, n) < 0.3).astype(np.int64)
        stain = chance.uniform(0.25, 0.5, n)
        dab = np.where(kind == 1, chance.uniform(0.5, 1.1, n), 0)
    drawn = _Cells(
        x,
        y,
        np.asarray(axes.max(axis=1), np.float32),
        np.asarray(axes.min(axis=1), np.float32),
        np.asarray(chance.uniform(0, np.pi, n), np.float32),
        np.asarray(kind, np.int16),
        np.asarray(stain, np.float32),
        np.asarray(dab, np.float32),
    )
    if cells is not None and cells < n:
        drawn = drawn.select(np.sort(chance.permutation(n)[:cells]))
    return drawn


def _draw_places(scene: _Scene) -> tuple[Floats, Floats, Floats]:
    """Centres x, y on a jittered grid inside tissue, off the slide's edge; and the nest field."""
    step = SPACING_UM / scene.mpp
    margin = 10 / scene.mpp
    width, height = scene.size
    columns = np.arange(margin, width - margin, step)
    rows = np.arange(margin, height - margin, step)
    grid_x, grid_y = np.meshgrid(columns, rows)
    grid_x[1::2] += step / 2
    jitter = JITTER_UM / scene.mpp
    x = (grid_x + scene.chance.uniform(-jitter, jitter, grid_x.shape)).ravel().astype(np.float32)
    y = (grid_y + scene.chance.uniform(-jitter, jitter, grid_y.shape)).ravel().astype(np.float32)
    nest = scene.nest(x, y)
    occupied = scene.chance.uniform(0, 1, len(x)) < np.where(np.abs(nest) > 0.35, 0.72, 0.33)
    inside = (scene.tissue(x, y) > 0.06) & (x < width - margin) & (y < height - margin)
    keep = occupied & inside
    return x[keep], y[keep], nest[keep]


class _Painter:
    """Renders blocks of a scene. `ihc` swaps eosin for a pale background and DAB nuclei."""

    def __init__(self, scene: _Scene, cells: _Cells, *, ihc: bool) -> None:
        self.scene = scene
        self.ihc = ihc
        order = np.argsort(cells.y, kind="stable")
        self.cells = cells.select(order)
        self.reach = int(np.ceil(cells.major.max())) + 3 if len(cells.x) else 0

    def block(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box of the slide."""
        inside, eosin, blue = self._ground(x, y, width, height)
        brown = np.zeros_like(blue)
        grain = _window(self.scene.fine, x, y, width, height)
        for cell in self._near(x, y, width, height):
            self._nucleus(int(cell), (x, y), grain, (eosin, blue, brown))
        density = (
            blue[..., None] * np.array(HAEMATOXYLIN, np.float32)
            + eosin[..., None] * np.array(EOSIN, np.float32)
            + brown[..., None] * np.array(DAB, np.float32)
        )
        light = np.float32(GLASS_LEVEL) * np.power(np.float32(10), -density)
        light += (1.2 * grain * (0.4 + inside))[..., None]
        return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)

    def _ground(self, x: int, y: int, width: int, height: int) -> tuple[Floats, Floats, Floats]:
        """Tissue share, eosin and diffuse haematoxylin (height, width) before any nucleus."""
        scene = self.scene
        edge = _smooth(scene.tissue, x, y, width, height) * (min(scene.size) * scene.mpp / 40)
        inside = np.clip(edge + 0.3 * _window(scene.coarse, x, y, width, height), 0, 1)
        fibres = _waved(scene.fibres, scene.coarse, x, y, width, height)
        grain = _window(scene.fine, x, y, width, height)
        nest = 1 / (1 + np.exp(-6 * _smooth(scene.nest, x, y, width, height)))
        pink = 0.30 + 0.11 * fibres * (1 - nest) + 0.03 * grain
        eosin = inside * np.clip(pink - 0.08 * nest, 0.04, 1)
        blue = inside * np.clip(0.04 + 0.07 * nest + 0.015 * grain, 0, 1)
        if self.ihc:
            eosin, blue = 0.12 * eosin, 0.6 * blue + 0.05 * eosin
        return tuple(np.asarray(a, np.float32) for a in (inside, eosin, blue))  # type: ignore[return-value]

    def _near(self, x: int, y: int, width: int, height: int) -> NDArray[np.intp]:
        cells, reach = self.cells, self.reach
        low, high = np.searchsorted(cells.y, [y - reach, y + height + reach])
        across = cells.x[low:high]
        return low + np.nonzero((across > x - reach) & (across < x + width + reach))[0]

    def _nucleus(
        self, cell: int, origin: tuple[int, int], grain: Floats, stains: tuple[Floats, ...]
    ) -> None:
        c = self.cells
        cx, cy = float(c.x[cell]) - origin[0], float(c.y[cell]) - origin[1]
        reach = float(c.major[cell]) + 2
        height, width = grain.shape
        x0, x1 = max(int(cx - reach), 0), min(int(cx + reach) + 2, width)
        y0, y1 = max(int(cy - reach), 0), min(int(cy + reach) + 2, height)
        if x0 >= x1 or y0 >= y1:
            return
        cos, sin = np.cos(c.angle[cell]), np.sin(c.angle[cell])
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - cx
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - cy
        major, minor = c.major[cell], c.minor[cell]
        radius = np.hypot((dx * cos + dy * sin) / major, (dy * cos - dx * sin) / minor)
        # A soft edge one pixel wide, wherever on the ellipse.
        cover = np.clip((1 - radius) * minor + 0.5, 0, 1)
        eosin, blue, brown = (s[y0:y1, x0:x1] for s in stains)
        texture = 1 + 0.16 * grain[y0:y1, x0:x1]
        rim = 0.85 + 0.3 * np.clip(radius, 0, 1) ** 4
        if c.kind[cell] == TUMOUR and not self.ihc:
            nucleolus = np.hypot(dx - 0.2 * minor, dy + 0.15 * minor) < 0.2 * minor
            texture = texture + 0.55 * nucleolus
        eosin += cover * ((0.02 if self.ihc else 0.34) - eosin)
        blue += cover * (c.haematoxylin[cell] * texture * rim - blue * 0.5)
        brown += cover * c.dab[cell] * texture * rim


def _bands(painter: _Painter) -> Iterator[NDArray[np.uint8]]:
    """The slide from top to bottom, BLOCK_PX rows at a time."""
    width, height = painter.scene.size
    for y in range(0, height, BLOCK_PX):
        rows = min(BLOCK_PX, height - y)
        blocks = [
            painter.block(x, y, min(BLOCK_PX, width - x), rows) for x in range(0, width, BLOCK_PX)
        ]
        yield np.concatenate(blocks, axis=1)


def _tiles(bands: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Bands cut into whole tiles in file order, edges repeated to fill the last ones."""
    for band in bands:
        for y in range(0, band.shape[0], TILE_PX):
            for x in range(0, band.shape[1], TILE_PX):
                tile = band[y : y + TILE_PX, x : x + TILE_PX]
                missing = (TILE_PX - tile.shape[0], TILE_PX - tile.shape[1])
                pads = ((0, missing[0]), (0, missing[1]), (0, 0))
                yield np.pad(tile, pads, mode="edge") if any(missing) else tile


class _Level:
    """A lower level on disk while the one above it streams past. Halved by averaging."""

    def __init__(self, size: tuple[int, int], folder: str) -> None:
        self.size = size
        path = os.path.join(folder, f"{size[0]}x{size[1]}")
        self.pixels = np.memmap(path, np.uint8, "w+", shape=(size[1], size[0], 3))
        self._row = 0

    def watch(self, bands: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Pass bands through, keeping each at half size."""
        for band in bands:
            half = np.asarray(Image.fromarray(band).reduce(2))
            self.pixels[self._row : self._row + half.shape[0]] = half
            self._row += half.shape[0]
            yield band

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """The level from top to bottom."""
        for y in range(0, self.size[1], BLOCK_PX):
            yield np.array(self.pixels[y : y + BLOCK_PX])


def _level_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    sizes = [size]
    while max(sizes[-1]) > SMALLEST_LEVEL_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def write_pyramid(
    path: str | os.PathLike[str],
    bands: Callable[[], Iterator[NDArray[np.uint8]]],
    *,
    size: tuple[int, int],
    mpp: float,
    compression: str = "jpeg",
) -> None:
    """Write a tiled, pyramidal OME-TIFF from bands of BLOCK_PX rows (rows, width, 3).

    `compression` is ``jpeg`` (quality 90) or ``deflate`` (lossless).
    """
    sizes = _level_sizes(size)
    options: dict[str, Any] = {
        "tile": (TILE_PX, TILE_PX),
        "photometric": "rgb",
        "compression": compression,
        "dtype": np.uint8,
    }
    if compression == "jpeg":
        options["compressionargs"] = {"level": 90}
    axes = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    # A random one would make another file of the same slide.
    units["UUID"] = str(uuid5(NAMESPACE_URL, f"napari-celldetr:generated:{size}:{mpp}"))
    with (
        tempfile.TemporaryDirectory() as folder,
        tifffile.TiffWriter(path, ome=True, bigtiff=size[0] * size[1] > 2**29) as writer,
    ):
        source = bands()
        for index, level in enumerate(sizes):
            below = _Level(sizes[index + 1], folder) if index + 1 < len(sizes) else None
            data = _tiles(below.watch(source) if below else source)
            extra: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if index == 0:
                extra = {"subifds": len(sizes) - 1, "metadata": axes | units}
            writer.write(data, shape=(level[1], level[0], 3), **options, **extra)
            if below:
                source = below.bands()


def make_he_slide(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (2048, 2048),
    mpp: float = 0.5,
    seed: int = 0,
    cells: int | None = None,
    compression: str = "jpeg",
) -> Detections:
    """Write an H&E-like slide of `size` (w, h) px and return its cells.

    Classes lymphocyte, tumour, stromal; scores 1; boxes tight around each nucleus. `cells` is
    the most there may be; None fills the tissue. The same arguments give the same pixels.
    """
    return _make(Path(path), size, mpp, seed, cells, compression, HE_CLASSES)


def make_ihc_slide(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (2048, 2048),
    mpp: float = 0.5,
    seed: int = 0,
    cells: int | None = None,
    compression: str = "jpeg",
) -> Detections:
    """Write an H-DAB-like slide with nuclear staining and return its cells.

    Classes negative, positive; otherwise as `make_he_slide`.
    """
    return _make(Path(path), size, mpp, seed, cells, compression, IHC_CLASSES)


def _make(
    path: Path,
    size: tuple[int, int],
    mpp: float,
    seed: int,
    cells: int | None,
    compression: str,
    classes: tuple[str, ...],
) -> Detections:
    ihc = classes == IHC_CLASSES
    scene = _Scene(size, mpp, seed)
    drawn = _draw_cells(scene, cells, ihc=ihc)
    painter = _Painter(scene, drawn, ihc=ihc)
    write_pyramid(path, lambda: _bands(painter), size=size, mpp=mpp, compression=compression)
    source = Source(slide=path.name, mpp=(mpp, mpp))
    ones = np.ones(len(drawn.x), np.float32)
    return Detections(drawn.boxes(), ones, drawn.kind, classes, source=source).ordered()
