"""Outlines of cells around their nuclei: limited growth that meets neighbours half-way.

An outline is a radius for each of `RAYS` directions from the nucleus' centre. Where neighbours
are near, it lies where the gap between the two nuclei is halved; elsewhere at a set distance from
the nucleus; and from there it is drawn to a ridge of DAB, if one is near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, median_filter, uniform_filter1d
from scipy.spatial import cKDTree

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RAYS = 96
"""Directions; one every 0.4 µm along the outline of a cell 12 µm wide."""
ANGLES = np.asarray(2 * np.pi * np.arange(RAYS) / RAYS, np.float32)
_COS, _SIN = np.cos(ANGLES), np.sin(ANGLES)
NOBODY = -1


@dataclass(frozen=True, slots=True)
class Growth:
    """How far a cell reaches around its nucleus, in µm.

    Attributes
    ----------
    usual_um : float
        Width of the cytoplasm where there is no neighbour.
    most_um : float
        No outline lies farther from the nucleus.
    search_um : float
        How far beyond the half-way line to a neighbour a membrane may lie.
    pull : float
        DAB optical density that outweighs a ridge 1 µm away from where it is expected.
    """

    usual_um: float = 3.5
    most_um: float = 7.0
    search_um: float = 1.2
    pull: float = 0.02


@dataclass(frozen=True, slots=True)
class Outlines:
    """Outlines of N cells; lengths in px of the image they were drawn on.

    Attributes
    ----------
    centres : (N, 2)
        Centre x, y of each nucleus.
    radii : (N, RAYS)
        Radius of the cell in each direction.
    """

    centres: Floats
    radii: Floats

    def __len__(self) -> int:
        return len(self.centres)

    def polygons(self) -> Floats:
        """Corners (N, RAYS, 2) of each outline, x, y."""
        return np.stack(
            [
                self.centres[:, :1] + self.radii * _COS,
                self.centres[:, 1:] + self.radii * _SIN,
            ],
            axis=2,
        )


@dataclass(frozen=True, slots=True)
class DrawnOutlines(Outlines):
    """Outlines as they are drawn, with all that is needed to read what lies along them.

    Attributes
    ----------
    nuclear : (N, RAYS)
        Radius of the nucleus in each direction.
    neighbours : (N, RAYS)
        Row of the cell met in that direction, or `NOBODY`.
    """

    nuclear: Floats
    neighbours: Ints


def arcs_of(radii: Floats) -> Floats:
    """Length (N, RAYS) of the outline that each ray stands for, in the unit of `radii`."""
    following = np.roll(radii, -1, axis=1)
    step = np.float32(2 * np.pi / RAYS)
    middle = (radii + following) / 2
    along, across = middle * step, following - radii
    # In double precision this is what `hypot` gives, at half its time.
    square = np.square(along, dtype=np.float64) + np.square(across, dtype=np.float64)
    chord = np.sqrt(square).astype(np.float32)
    return np.asarray((chord + np.roll(chord, 1, axis=1)) / 2, np.float32)


def draw_outlines(
    boxes: NDArray[Any],
    dab: Floats,
    *,
    mpp: float,
    growth: Growth | None = None,
    ignored: Bools | None = None,
) -> DrawnOutlines:
    """Outlines of the cells whose nuclei are in `boxes`.

    Parameters
    ----------
    boxes : (N, 4)
        xyxy of the nuclei in px of `dab`.
    dab : (H, W) float32
        DAB optical density.
    mpp : float
        µm per px of `dab`.
    growth : Growth, optional
    ignored : (N,) bool, optional
        Cells that are no neighbours to others.
    """
    growth = growth or Growth()
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    centres = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
    nuclear = ellipse_radii(boxes)
    limit, neighbours = _half_way(centres, nuclear, ignored, reach=2 * growth.most_um / mpp)
    usual = nuclear + np.float32(growth.usual_um / mpp)
    expected = np.minimum(usual, np.maximum(limit, 0.5 * nuclear))
    neighbours = np.where(limit < nuclear + growth.most_um / mpp, neighbours, NOBODY)
    radii = _drawn_to_ridges(centres, nuclear, expected, limit, dab, mpp=mpp, growth=growth)
    return DrawnOutlines(centres, radii, nuclear, neighbours)


def ellipse_radii(boxes: Floats) -> Floats:
    """Radii (N, RAYS) of the ellipses in boxes (N, 4)."""
    half = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 0.5)
    a, b = half[:, :1], half[:, 1:]
    return np.asarray(a * b / np.hypot(b * _COS, a * _SIN), np.float32)


def _half_way(
    centres: Floats, nuclear: Floats, ignored: Bools | None, *, reach: float
) -> tuple[Floats, Ints]:
    """Radius (N, RAYS) at which each ray meets the nearest neighbour, and which; inf if none."""
    n = len(centres)
    limit = np.full((n, RAYS), np.inf, np.float32)
    who = np.full((n, RAYS), NOBODY, np.int64)
    if n < 2:
        return limit, who
    widest = 2 * float(np.quantile(nuclear.max(axis=1), 0.99))
    pairs = cKDTree(centres).query_pairs(reach + widest, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    own, other = (both if ignored is None else both[~ignored[both[:, 1]]]).T
    between = centres[other] - centres[own]
    distance = np.maximum(np.hypot(between[:, 0], between[:, 1]), 1e-3).astype(np.float32)
    bearing = np.arctan2(between[:, 1], between[:, 0])
    ray = np.rint(bearing / (2 * np.pi) * RAYS).astype(np.int64)
    facing = nuclear[own, ray % RAYS]
    opposite = nuclear[other, (ray + RAYS // 2) % RAYS]
    # The gap between the two nuclei is halved, so that a small nucleus beside a large one gets
    # as much cytoplasm.
    meet = np.clip((distance + facing - opposite) / 2, 0.2 * distance, 0.8 * distance)
    for start in range(0, len(own), 20_000):
        part = slice(start, start + 20_000)
        cosine = np.cos(ANGLES[None, :] - bearing[part, None].astype(np.float32))
        with np.errstate(divide="ignore"):
            radius = np.where(cosine > 0.05, meet[part, None] / cosine, np.inf)
        _keep_nearest(limit, who, own[part], other[part], radius.astype(np.float32))
    return limit, who


def _keep_nearest(limit: Floats, who: Ints, own: Ints, other: Ints, radius: Floats) -> None:
    before = limit.copy()
    np.minimum.at(limit, own, radius)
    pair, ray = np.nonzero((radius == limit[own]) & (radius < before[own]))
    who[own[pair], ray] = other[pair]


def _drawn_to_ridges(
    centres: Floats,
    nuclear: Floats,
    expected: Floats,
    limit: Floats,
    dab: Floats,
    *,
    mpp: float,
    growth: Growth,
) -> Floats:
    """`expected` radii moved to where DAB is highest nearby."""
    step = np.float32(0.25 / mpp)
    nearest = np.minimum(nuclear + 0.4 / mpp, expected)
    farthest = np.minimum(nuclear + growth.most_um / mpp, limit + growth.search_um / mpp)
    farthest = np.maximum(farthest, expected)
    steps = int(np.ceil(float((farthest - nearest).max(initial=0)) / step)) + 1
    best = np.full(expected.shape, -np.inf, np.float32)
    radii = expected.copy()
    for k in range(steps):
        radius = nearest + k * step
        away_um = (radius - expected) * np.float32(mpp)
        value = sample(dab, centres, radius) - np.float32(growth.pull) * away_um**2
        better = (value > best) & (radius <= farthest)
        best, radii = np.where(better, value, best), np.where(better, radius, radii)
    # One speck must not make a spike of the outline.
    around = np.pad(radii, ((0, 0), (6, 6)), mode="wrap")
    smooth = uniform_filter1d(median_filter(around, size=(1, 9)), 3, axis=1)[:, 6:-6]
    return np.asarray(np.maximum(smooth, 1), np.float32)


def sample(image: Floats, centres: Floats, radii: Floats, turn: float = 0.0) -> Floats:
    """Values (N, RAYS) of `image` at `radii` from the centres, bilinear; edges are repeated.

    `turn` is added to each ray's angle.
    """
    x = centres[:, :1] + radii * np.cos(ANGLES + np.float32(turn)) - 0.5
    y = centres[:, 1:] + radii * np.sin(ANGLES + np.float32(turn)) - 0.5
    return np.asarray(map_coordinates(image, [y, x], order=1, mode="nearest"), np.float32)
