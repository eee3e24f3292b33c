"""Two sections of the same tissue in different stains, with the true map between them.

One architecture (outline, nests, lumens, fibres) is drawn in µm of the H&E slide. The IHC section
is the next one: its architecture has drifted a little, its cells are others for the most part,
DAB follows a pattern of its own, and the whole is turned, perhaps flipped, scaled, shifted,
warped, torn open along a crack and lacks a piece.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.transform import SlideFrame, SlideTransform, SplineWarp
from napari_celldetr.slides.stain import DAB, EOSIN, HAEMATOXYLIN

RASTER_UM = 8.0
CELL_UM = 9.0
GLASS = 244.0
CELL_JITTER_UM = 2.0
KERNELS_UM = (3.0, 4.6, 3.6)
"""Radii of the three kinds of nuclei: lymphocytes, tumour, stroma."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tear:
    """A crack in the IHC section: its sides are pushed apart, most in the middle.

    In IHC µm before tearing: middle of the crack, direction of opening (unit vector), half its
    length, how wide it opens, and over what distance the push dies down.
    """

    centre: tuple[float, float]
    normal: tuple[float, float]
    half_length: float
    opening: float
    reach: float

    def push(self, points: Floats) -> Floats:
        """Points (N, 2) after the tear opened."""
        across, amount = self._frame(points)
        moved = np.sign(across) * amount * np.exp(-np.abs(across) / self.reach)
        return points + moved[:, None] * self.normal

    def pull(self, points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Points (N, 2) before the tear opened, and which of them lie in the gap."""
        across, amount = self._frame(points)
        gap = np.abs(across) < amount
        near = np.flatnonzero(amount)
        start, push, place = across[near], np.sign(across[near]) * amount[near], across[near]
        for _ in range(30):
            place = start - push * np.exp(-np.abs(place) / self.reach)
        before = points.copy()
        before[near] += (place - start)[:, None] * self.normal
        return before, gap

    def _frame(self, points: Floats) -> tuple[Floats, Floats]:
        offset = points - self.centre
        across = offset @ np.array(self.normal)
        along = offset @ np.array([-self.normal[1], self.normal[0]])
        amount = self.opening / 2 * np.maximum(0, 1 - (along / self.half_length) ** 2)
        return across, amount


@dataclass(frozen=True, eq=False)
class PairTruth:
    """The true map of a pair: `smooth`, then `tear`; discs (x, y, radius) in IHC µm are missing."""

    smooth: SlideTransform
    tear: Tear | None
    missing: Floats

    def forward(self, points: NDArray[Any]) -> Floats:
        """IHC level-0 px (N, 2) of H&E level-0 px (N, 2)."""
        moved = self.smooth.forward_um(np.asarray(points, np.float64) * self.smooth.he.mpp)
        moved = moved if self.tear is None else self.tear.push(moved)
        return moved / self.smooth.ihc.mpp

    def has_partner(self, points: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the tissue at H&E level-0 px (N, 2) is there on the IHC slide."""
        place = self.forward(points)
        inside = ((place >= 0) & (place < self.smooth.ihc.size)).all(axis=1)
        return inside & ~_in_discs(place * self.smooth.ihc.mpp, self.missing)


@dataclass(frozen=True, eq=False)
class SectionPair:
    """Pictures (h, w, 3) uint8 of both sections, their µm per px, and the truth.

    `tissue` (h, w) says where the H&E has tissue.
    """

    he: NDArray[np.uint8]
    ihc: NDArray[np.uint8]
    mpp: tuple[float, float]
    truth: PairTruth
    tissue: NDArray[np.bool_]

    def landmarks(self, count: int, seed: int = 0) -> Floats:
        """H&E level-0 px (≤ count, 2) on tissue that both sections have, at random."""
        rows, columns = np.nonzero(self.tissue)
        chance = np.random.default_rng(seed)
        chosen = chance.integers(0, len(rows), count)
        points = np.stack([columns[chosen], rows[chosen]], axis=1) + chance.uniform(
            0, 1, (count, 2)
        )
        return np.asarray(points[self.truth.has_partner(points)], np.float64)


@dataclass(frozen=True, slots=True)
class PairSettings:
    """What a pair is like; lengths in µm, the warp as a share of the diagonal.

    `angle_deg`, `flip` and `scale` None are drawn at random. `stain` is ``nuclear`` or
    ``membrane``. `unrelated` draws the IHC from other tissue altogether. `drift` is how much of
    the architecture is new in the next section, as a share of its standard deviation;
    `same_cells` is the share of cells that both sections cut.
    """

    size_um: tuple[float, float] = (5200.0, 4400.0)
    mpp: tuple[float, float] = (2.0, 1.84)
    angle_deg: float | None = None
    flip: bool | None = None
    scale: float | None = None
    shift_um: float = 300.0
    warp: float = 0.012
    tears: bool = True
    stain: str | None = None
    unrelated: bool = False
    fills_frame: bool = False
    drift: float = 0.25
    same_cells: float = 0.35


def make_pair(seed: int, settings: PairSettings | None = None) -> SectionPair:
    """A pair of sections; the same arguments give the same pixels."""
    s = settings or PairSettings()
    chance = np.random.default_rng(seed)
    tissue = _Architecture(s.size_um, np.random.default_rng((seed, 1)), s.fills_frame)
    truth = _draw_truth(s, chance, tissue)
    cells = _draw_cells(tissue, np.random.default_rng((seed, 2)))
    other_seed = (seed, 77) if s.unrelated else (seed, 1)
    other = _Architecture(s.size_um, np.random.default_rng(other_seed), s.fills_frame)
    other = other.drifted(np.random.default_rng((seed, 3)), s.drift)
    same = 0.0 if s.unrelated else s.same_cells
    next_cells = _next_cells(other, cells, same, np.random.default_rng((seed, 4)))
    he, mask = _paint_he(tissue, cells, s, np.random.default_rng((seed, 5)))
    stain = s.stain or ("nuclear", "membrane")[seed % 2]
    ihc = _paint_ihc(other, next_cells, truth, stain, np.random.default_rng((seed, 6)))
    return SectionPair(he, ihc, s.mpp, truth, mask)


# -- the tissue ------------------------------------------------------------------------------


class _Architecture:
    """Fields over the H&E's µm, on a raster of RASTER_UM with a margin around the slide."""

    def __init__(
        self, size_um: tuple[float, float], chance: np.random.Generator, fills_frame: bool
    ) -> None:
        self.size_um = size_um
        self.margin = 0.25 * max(size_um)
        shape = tuple(int((side + 2 * self.margin) / RASTER_UM) for side in size_um[::-1])
        self.shape = shape
        self.inside = np.ones(shape) if fills_frame else self._outline(chance)
        nests = _noise(shape, 150, chance) + 0.8 * _noise(shape, 420, chance)
        self.nest = nests / nests.std()
        self.lumen = _noise(shape, 45, chance)
        self.fibre = _noise(shape, 70, chance)
        self.crowd = _noise(shape, 260, chance)

    def _outline(self, chance: np.random.Generator) -> Floats:
        """About 1 inside tissue, about 0 outside: a rough ellipse with bays."""
        rows, columns = np.indices(self.shape) * RASTER_UM - self.margin
        u = (columns / self.size_um[0] - 0.5) / chance.uniform(0.32, 0.4)
        v = (rows / self.size_um[1] - 0.5) / chance.uniform(0.3, 0.38)
        edge = 1 - np.hypot(u, v) + 0.22 * _noise(self.shape, 700, chance)
        edge = edge + 0.08 * _noise(self.shape, 200, chance)
        return np.asarray(1 / (1 + np.exp(-60 * edge)), np.float64)

    def drifted(self, chance: np.random.Generator, drift: float) -> _Architecture:
        """The next section's architecture."""
        next_one = object.__new__(_Architecture)
        next_one.__dict__.update(self.__dict__)
        keep = np.sqrt(1 - drift**2)
        for name, length in (("nest", 150), ("lumen", 45), ("fibre", 70), ("crowd", 260)):
            fresh = _noise(self.shape, length, chance)
            setattr(next_one, name, keep * getattr(self, name) + drift * fresh)
        return next_one

    def at(self, name: str, points: Floats) -> Floats:
        """A field's values at points (N, 2) in H&E µm; 0 beyond the raster."""
        place = (points[:, ::-1] + self.margin) / RASTER_UM
        found = ndimage.map_coordinates(getattr(self, name), place.T, order=1, cval=0.0)
        return np.asarray(found, np.float64)

    def open(self, points: Floats) -> NDArray[np.bool_]:
        """Whether a lumen is at points (N, 2)."""
        return (self.at("lumen", points) > 1.25) & (self.at("nest", points) > -0.3)


def _noise(shape: tuple[int, ...], length_um: float, chance: np.random.Generator) -> Floats:
    sigma = length_um / RASTER_UM / 2
    noise = ndimage.gaussian_filter(chance.standard_normal(shape), sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std(), np.float64)


def _draw_cells(tissue: _Architecture, chance: np.random.Generator) -> Floats:
    """Centres (N, 2) in H&E µm: crowded in nests and where lymphocytes gather."""
    low, high = -tissue.margin, np.array(tissue.size_um) + tissue.margin
    x, y = np.arange(low, high[0], CELL_UM), np.arange(low, high[1], CELL_UM)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[1::2, :, 0] += CELL_UM / 2
    points = grid.reshape(-1, 2) + chance.uniform(-0.38, 0.38, (grid.size // 2, 2)) * CELL_UM
    return np.asarray(points[chance.uniform(0, 1, len(points)) < _odds(tissue, points)])


def _odds(tissue: _Architecture, points: Floats) -> Floats:
    nest, crowd = tissue.at("nest", points), tissue.at("crowd", points)
    odds = 0.16 + 0.55 / (1 + np.exp(-5 * nest)) + 0.5 * np.clip(crowd - 0.9, 0, 0.9)
    odds = np.where(tissue.open(points), 0, odds)
    return np.asarray(odds * (tissue.at("inside", points) > 0.5), np.float64)


def _next_cells(
    tissue: _Architecture, cells: Floats, share: float, chance: np.random.Generator
) -> Floats:
    """Cells of the next section: some of the same, moved a little, the rest new."""
    same = cells[chance.uniform(0, 1, len(cells)) < share]
    same = same + chance.normal(0, CELL_JITTER_UM, same.shape)
    new = _draw_cells(tissue, chance)
    return np.concatenate([same, new[chance.uniform(0, 1, len(new)) < 1 - share]])


# -- the map -----------------------------------------------------------------------------------


def _draw_truth(s: PairSettings, chance: np.random.Generator, tissue: _Architecture) -> PairTruth:
    angle = np.radians(chance.uniform(0, 360) if s.angle_deg is None else s.angle_deg)
    flip = bool(chance.integers(2)) if s.flip is None else s.flip
    scale = chance.uniform(0.9, 1.1) if s.scale is None else s.scale
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    matrix = matrix @ (np.eye(2) + chance.uniform(-0.01, 0.01, (2, 2)))
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * s.size_um
    turned = corners @ matrix.T
    size_um = np.array(s.size_um) * 1.05 if s.fills_frame else np.ptp(turned, axis=0)
    middle = size_um / 2 + chance.uniform(-0.5, 0.5, 2) * s.shift_um
    affine = np.column_stack([matrix, middle - matrix @ (np.array(s.size_um) / 2)])
    size = (round(size_um[0] / s.mpp[1]), round(size_um[1] / s.mpp[1]))
    he_size = (round(s.size_um[0] / s.mpp[0]), round(s.size_um[1] / s.mpp[0]))
    smooth = SlideTransform(
        SlideFrame("he", "", he_size, (s.mpp[0],) * 2),
        SlideFrame("ihc", "", size, (s.mpp[1],) * 2),
        affine,
        _draw_warp(s, chance, (float(size_um[0]), float(size_um[1]))),
        method="generated",
    )
    tear, missing = _draw_damage(s, chance, smooth)
    return PairTruth(smooth, tear, missing)


def _draw_warp(
    s: PairSettings, chance: np.random.Generator, size_um: tuple[float, float]
) -> SplineWarp | None:
    """A smooth displacement whose largest step is `warp` of the diagonal."""
    if s.warp <= 0:
        return None
    spacing = max(size_um) / 7
    nodes = tuple(int(np.ceil(side / spacing)) + 5 for side in size_um[::-1])
    field = ndimage.gaussian_filter(chance.standard_normal((*nodes, 2)), (0.8, 0.8, 0))
    warp = SplineWarp((-2 * spacing,) * 2, (spacing,) * 2, field)
    inside = np.stack(np.meshgrid(*(np.linspace(0, side, 30) for side in size_um)), -1)
    largest = np.hypot(*warp.displacement(inside.reshape(-1, 2)).T).max()
    wanted = s.warp * np.hypot(*s.size_um)
    return replace(warp, coefficients=field * (wanted / largest))


def _draw_damage(
    s: PairSettings, chance: np.random.Generator, smooth: SlideTransform
) -> tuple[Tear | None, Floats]:
    if not s.tears:
        return None, np.zeros((0, 3))
    size = np.array(s.size_um)
    angle = chance.uniform(0, 2 * np.pi)
    centre = smooth.forward_um((size * chance.uniform(0.38, 0.62, 2))[None])[0]
    tear = Tear(
        (float(centre[0]), float(centre[1])),
        (float(np.cos(angle)), float(np.sin(angle))),
        float(0.14 * size.min()),
        float(chance.uniform(50, 110)),
        float(0.06 * size.min()),
    )
    places = smooth.forward_um(size * chance.uniform(0.25, 0.75, (2, 2)))
    return tear, np.column_stack([places, chance.uniform(0.04, 0.09, 2) * size.min()])


def _in_discs(points: Floats, discs: Floats) -> NDArray[np.bool_]:
    inside = np.zeros(len(points), bool)
    for x, y, radius in discs:
        inside |= np.hypot(points[:, 0] - x, points[:, 1] - y) < radius
    return inside


# -- the pictures ------------------------------------------------------------------------------


def _paint_he(
    tissue: _Architecture, cells: Floats, s: PairSettings, chance: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    shape = tuple(round(side / s.mpp[0]) for side in s.size_um[::-1])
    places = _pixel_centres(shape, s.mpp[0])
    inside, open_, nest, fibre = _fields(tissue, places, shape)
    solid = inside * (1 - 0.9 * open_)
    eosin = solid * (0.30 + 0.07 * fibre * (nest < 0) - 0.08 * (nest > 0))
    blue = solid * (0.05 + 0.05 * (nest > 0))
    nuclei = _nuclei(cells, tissue, shape, s.mpp[0], chance, cells)
    blue = blue + 0.75 * nuclei
    eosin = eosin * (1 - 0.4 * np.clip(nuclei, 0, 1)) + 0.1 * nuclei
    return _mixed(blue, eosin, np.zeros_like(blue), chance), solid > 0.5


def _paint_ihc(
    tissue: _Architecture,
    cells: Floats,
    truth: PairTruth,
    stain: str,
    chance: np.random.Generator,
) -> NDArray[np.uint8]:
    frame = truth.smooth.ihc
    shape, mpp = frame.size[::-1], frame.mpp[0]
    places, whole = _back(truth, _pixel_centres(shape, mpp), shape)
    inside, open_, nest, fibre = _fields(tissue, places, shape)
    solid = inside * (1 - 0.9 * open_) * whole
    moved = truth.smooth.forward_um(cells)
    moved = moved if truth.tear is None else truth.tear.push(moved)
    there = ~_in_discs(moved, truth.missing)
    nuclei = _nuclei(moved[there], tissue, shape, mpp, chance, cells[there])
    hot = _noise(tissue.shape, 500, chance)
    brown = np.zeros(shape)
    if stain == "nuclear":
        heat = _sampled(tissue, hot, cells)
        odds = np.clip(0.3 + 0.25 * heat, 0, 0.9) * (tissue.at("nest", cells) > -0.2)
        positive = there & (chance.uniform(0, 1, len(cells)) < odds)
        brown = _nuclei(moved[positive], tissue, shape, mpp, chance, cells[positive])
    else:
        heat = _sampled(tissue, hot, places).reshape(shape)
        brown = 0.45 * solid * (nest > 0.1) * np.clip(0.4 + heat, 0, 1.5)
    blue = solid * (0.05 + 0.02 * (nest > 0)) + 0.4 * nuclei * (1 - 0.5 * np.clip(brown, 0, 1))
    eosin = solid * (0.03 + 0.01 * fibre)
    return _mixed(blue, eosin, 0.8 * brown, chance)


def _pixel_centres(shape: tuple[int, ...], mpp: float) -> Floats:
    rows, columns = np.indices(shape).reshape(2, -1)
    return np.stack([columns + 0.5, rows + 0.5], axis=1) * mpp


def _back(truth: PairTruth, places: Floats, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Where the IHC's pixels are from, in H&E µm, and 0 where tissue is torn or missing.

    Solved on every fourth pixel and interpolated, but for the gap of the tear.
    """
    missing = _in_discs(places, truth.missing)
    gap = np.zeros(len(places), bool)
    if truth.tear is not None:
        places, gap = truth.tear.pull(places)
    step = 32
    mpp = truth.smooth.ihc.mpp[0]
    nodes = tuple(side // step + 12 for side in shape)
    rows, columns = (np.indices(nodes) - 4).reshape(2, -1) * float(step) * mpp
    coarse = truth.smooth.inverse_um(np.stack([columns, rows], axis=1)).reshape(*nodes, 2)
    at = places[:, ::-1].T / (step * mpp) + 4
    found = [ndimage.map_coordinates(coarse[..., i], at, order=3, mode="nearest") for i in (0, 1)]
    whole = ~(missing | gap)
    return np.stack(found, axis=1), whole.reshape(shape).astype(np.float64)


def _fields(
    tissue: _Architecture, places: Floats, shape: tuple[int, ...]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Inside, lumen, nest and fibre (h, w) of pixel places (h·w, 2)."""
    inside = tissue.at("inside", places).reshape(shape)
    nest = tissue.at("nest", places).reshape(shape)
    open_ = tissue.open(places).astype(np.float64).reshape(shape)
    return inside, open_, nest, tissue.at("fibre", places).reshape(shape)


def _sampled(tissue: _Architecture, raster: Floats, points: Floats) -> Floats:
    place = (points[:, ::-1] + tissue.margin) / RASTER_UM
    return np.asarray(ndimage.map_coordinates(raster, place.T, order=1), np.float64)


def _nuclei(
    places_um: Floats,
    tissue: _Architecture,
    shape: tuple[int, ...],
    mpp: float,
    chance: np.random.Generator,
    origin_um: Floats,
) -> Floats:
    """Amount of nuclear stain (h, w): soft discs at places, their kind from where they grew."""
    nest, crowd = tissue.at("nest", origin_um), tissue.at("crowd", origin_um)
    kind = np.where(crowd > 1.1, 0, np.where(nest > 0, 1, 2))
    out = np.zeros(shape)
    for k, radius in enumerate(KERNELS_UM):
        amount = np.where(kind == k, chance.uniform(0.6, 1.2, len(kind)), 0)
        out += ndimage.gaussian_filter(_splat(places_um / mpp, amount, shape), radius / mpp / 2) * (
            np.pi * (radius / mpp) ** 2
        )
    return out


def _splat(places: Floats, amount: Floats, shape: tuple[int, ...]) -> Floats:
    """Amounts spread over the four pixels around each place."""
    out = np.zeros(shape)
    base = np.floor(places - 0.5).astype(np.intp)
    part = places - 0.5 - base
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = base[:, 0] + dx, base[:, 1] + dy
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1]) * amount
            ok = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
            np.add.at(out, (y[ok], x[ok]), share[ok])
    return out


def _mixed(
    blue: Floats, eosin: Floats, brown: Floats, chance: np.random.Generator
) -> NDArray[np.uint8]:
    out = np.empty((*blue.shape, 3), np.uint8)
    grain = chance.normal(0, 1.5, blue.shape)
    for channel in range(3):
        density = (
            np.maximum(blue, 0) * HAEMATOXYLIN[channel]
            + np.maximum(eosin, 0) * EOSIN[channel]
            + np.maximum(brown, 0) * DAB[channel]
        )
        out[..., channel] = np.clip(np.rint(GLASS * 10**-density + grain), 0, 255)
    return out
