"""Cells with membranes, drawn: shapes around nuclei, staining of known pattern, and the truth.

For generated slides and training images. Optical densities are those the finished picture shows;
the optics' blur is allowed for. Where two cells meet, the stronger of the two makes the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Pattern, cell_scores

Floats = NDArray[np.float32]
Chance = np.random.Generator

CORNERS = 72
_ANGLES = np.asarray(2 * np.pi * np.arange(CORNERS) / CORNERS, np.float32)
LINE_UM = 0.38
"""Standard deviation across a membrane line, as seen."""
GAP_UM = (7.0, 18.0)
"""Wavelengths of the field that makes gaps in membranes."""
NO_CELL = 0

# Lowest and highest apparent density and stained share of the outline of each pattern.
RANGES = {
    Pattern.NONE: ((0.0, 0.05), (0.0, 1.0)),
    Pattern.FAINT_INCOMPLETE: ((0.16, 0.26), (0.3, 0.7)),
    Pattern.COMPLETE_WEAK_MODERATE: ((0.2, 0.52), (0.93, 1.0)),
    Pattern.COMPLETE_INTENSE: ((0.72, 1.3), (0.93, 1.0)),
    Pattern.STRONG_INCOMPLETE: ((0.42, 1.1), (0.3, 0.65)),
}


@dataclass(frozen=True)
class Shapes:
    """N cells as radii in `CORNERS` directions around their nuclei; lengths in px.

    `centres` (N, 2) x, y; `nuclear` and `radii` (N, CORNERS).
    """

    centres: Floats
    nuclear: Floats
    radii: Floats

    def __len__(self) -> int:
        return len(self.centres)

    def boxes(self) -> Floats:
        """xyxy (N, 4) around the nuclei."""
        x = self.centres[:, :1] + self.nuclear * np.cos(_ANGLES)
        y = self.centres[:, 1:] + self.nuclear * np.sin(_ANGLES)
        sides = (x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1))
        return np.stack(sides, axis=1) if len(self) else np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Staining:
    """What was drawn for N cells.

    Attributes
    ----------
    patterns : (N,) int8
        Codes of `Pattern`.
    intensity : (N,)
        DAB optical density of the stained line.
    completeness : (N,)
        Stained share of the outline.
    cytoplasm : (N,)
        DAB optical density inside the cell.
    profile : (N, CORNERS)
        Density of the line in each direction.
    """

    patterns: NDArray[np.int8]
    intensity: Floats
    completeness: Floats
    cytoplasm: Floats
    profile: Floats


def ellipse_radii(axes: NDArray[Any], angle: NDArray[Any]) -> Floats:
    """Radii (N, CORNERS) of ellipses with half `axes` (N, 2), the first at `angle` (N,)."""
    turn = _ANGLES[None, :] - np.asarray(angle, np.float32)[:, None]
    a, b = np.asarray(axes, np.float32)[:, :1], np.asarray(axes, np.float32)[:, 1:]
    return np.asarray(a * b / np.hypot(b * np.cos(turn), a * np.sin(turn)), np.float32)


def grow_shapes(
    centres: NDArray[Any], nuclear: Floats, rng: Chance, *, mpp: float, rim_um: float = 3.2
) -> Shapes:
    """Draw an uneven cell around each nucleus; neighbours meet somewhere in the gap between.

    Parameters
    ----------
    centres : (N, 2)
        x, y in px.
    nuclear : (N, CORNERS)
        Radii of the nuclei, px.
    rng : Generator
    mpp : float
    rim_um : float
        Usual width of the cytoplasm.
    """
    centres = np.asarray(centres, np.float32).reshape(-1, 2)
    n = len(centres)
    rim = rim_um / mpp * rng.lognormal(0, 0.25, (n, 1)) * (1 + _bumps(n, rng, 0.18))
    radii = nuclear + np.maximum(rim, 0.6 / mpp)
    radii = np.minimum(radii, _meeting(centres, nuclear, rng, reach=4 * rim_um / mpp))
    radii *= 1 + _bumps(n, rng, 0.015)
    return Shapes(centres, nuclear, np.asarray(np.maximum(radii, 0.6 * nuclear), np.float32))


def _bumps(n: int, rng: Chance, size: float) -> Floats:
    """Smooth periodic unevenness (n, CORNERS), mean 0, deviation about `size`."""
    orders = np.arange(2, 6)
    weight = rng.normal(0, size, (n, len(orders), 1)) / orders[None, :, None] * 1.6
    phase = rng.uniform(0, 2 * np.pi, (n, len(orders), 1))
    waves = weight * np.cos(orders[None, :, None] * _ANGLES + phase)
    return np.asarray(waves.sum(axis=1), np.float32)


def _meeting(centres: Floats, nuclear: Floats, rng: Chance, *, reach: float) -> Floats:
    """Radius (N, CORNERS) where each ray meets the line between two cells; inf where none."""
    from scipy.spatial import cKDTree

    limit = np.full(nuclear.shape, np.inf, np.float32)
    if len(centres) < 2:
        return limit
    widest = 2 * float(nuclear.max())
    pairs = cKDTree(centres).query_pairs(reach + widest, output_type="ndarray")
    share = rng.uniform(0.35, 0.65, len(pairs)).astype(np.float32)
    for (own, other), part in ((pairs.T, share), (pairs[:, ::-1].T, 1 - share)):
        between = centres[other] - centres[own]
        distance = np.maximum(np.hypot(between[:, 0], between[:, 1]), 1e-3)
        bearing = np.arctan2(between[:, 1], between[:, 0])
        ray = np.rint(bearing / (2 * np.pi) * CORNERS).astype(np.int64)
        mine = nuclear[own, ray % CORNERS]
        theirs = nuclear[other, (ray + CORNERS // 2) % CORNERS]
        at = np.clip(mine + part * (distance - mine - theirs), 0.15 * distance, 0.85 * distance)
        cosine = np.cos(_ANGLES[None, :] - bearing[:, None].astype(np.float32))
        with np.errstate(divide="ignore"):
            radius = np.where(cosine > 0.05, at[:, None] / cosine, np.inf).astype(np.float32)
        np.minimum.at(limit, own, radius)
    return limit


def draw_staining(
    shapes: Shapes,
    patterns: NDArray[Any],
    rng: Chance,
    *,
    mpp: float,
    blush: float = 0.08,
    uneven: float = 0.12,
) -> Staining:
    """Draw density and gaps of each cell's membrane from the ranges of its pattern.

    Gaps lie where a field over the slide is low, so that two cells that meet have them at the
    same places: what they share is one line in the picture.

    Parameters
    ----------
    shapes : N cells
    patterns : (N,)
        Codes of `Pattern`.
    rng : Generator
    mpp : float
    blush : float
        Highest DAB density of cytoplasm.
    uneven : float
        Relative deviation of the density along a line.
    """
    codes = np.asarray(patterns, np.int8)
    low, high = np.array([RANGES[p] for p in Pattern]).transpose(2, 0, 1)[:, codes]
    drawn = rng.uniform(low, high)
    intensity, completeness = drawn.reshape(-1, 2).T
    stained = _stained(shapes, completeness, rng, mpp)
    line = intensity[:, None] * stained * (1 + _bumps(len(codes), rng, uneven))
    inside = rng.uniform(0, blush, len(codes)) * (1 + 0.5 * (intensity > 0.3))
    return Staining(
        codes,
        np.asarray(intensity, np.float32),
        np.asarray(completeness, np.float32),
        np.asarray(inside, np.float32),
        np.asarray(np.maximum(line, 0), np.float32),
    )


def _stained(
    shapes: Shapes, completeness: NDArray[Any], rng: Chance, mpp: float
) -> NDArray[np.bool_]:
    """Stained directions (N, CORNERS): of each cell the given share, where the field is highest."""
    x = (shapes.centres[:, :1] + shapes.radii * np.cos(_ANGLES)) * mpp
    y = (shapes.centres[:, 1:] + shapes.radii * np.sin(_ANGLES)) * mpp
    bearing = rng.uniform(0, 2 * np.pi, 12)
    pace = 2 * np.pi / rng.uniform(*GAP_UM, 12)
    phase = rng.uniform(0, 2 * np.pi, 12)
    field = np.zeros(x.shape)
    for b, k, p in zip(bearing, pace, phase, strict=True):
        field += np.cos(k * (np.cos(b) * x + np.sin(b) * y) + p)
    rank = field.argsort(axis=1).argsort(axis=1)
    return np.asarray(rank >= np.rint(CORNERS * (1 - completeness))[:, None])


def paint_membranes(
    shapes: Shapes,
    staining: Staining,
    *,
    origin: tuple[int, int],
    size: tuple[int, int],
    mpp: float,
) -> tuple[Floats, NDArray[np.int32]]:
    """DAB optical density and the cells' areas of one window.

    Parameters
    ----------
    shapes, staining : N cells
    origin, size : (x, y), (width, height)
        The window, in the cells' px.
    mpp : float

    Returns
    -------
    dab : (height, width) float32
    owner : (height, width) int32
        1 + row of the cell a pixel belongs to, 0 between cells.
    """
    width, height = size
    dab = np.zeros((height, width), np.float32)
    owner = np.zeros((height, width), np.int32)
    depth = np.full((height, width), -np.inf, np.float32)
    sigma = LINE_UM / mpp
    margin = 3 * sigma
    reach = shapes.radii.max(axis=1) + margin if len(shapes) else np.zeros(0, np.float32)
    x, y = (shapes.centres - np.asarray(origin, np.float32)).T
    near = (x > -reach) & (x < width + reach) & (y > -reach) & (y < height + reach)
    for cell in np.flatnonzero(near):
        x0, x1 = max(int(x[cell] - reach[cell]), 0), min(int(x[cell] + reach[cell]) + 2, width)
        y0, y1 = max(int(y[cell] - reach[cell]), 0), min(int(y[cell] + reach[cell]) + 2, height)
        if x0 >= x1 or y0 >= y1:
            continue
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - x[cell]
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - y[cell]
        turn = np.arctan2(dy, dx) * np.float32(CORNERS / (2 * np.pi)) % CORNERS
        before = turn.astype(np.int64) % CORNERS
        part = turn - np.floor(turn)
        after = (before + 1) % CORNERS

        def along(values: Floats, a=before, b=after, p=part) -> Floats:  # type: ignore[no-untyped-def]
            return np.asarray(values[a] * (1 - p) + values[b] * p, np.float32)

        inward = along(shapes.radii[cell]) - np.hypot(dx, dy)
        line = along(staining.profile[cell]) * np.exp(-0.5 * (inward / sigma) ** 2)
        cover = np.clip(inward + 0.5, 0, 1)
        here = (slice(y0, y1), slice(x0, x1))
        np.maximum(dab[here], np.maximum(line, cover * staining.cytoplasm[cell]), out=dab[here])
        mine = (inward > 0) & (inward > depth[here])
        owner[here][mine] = cell + 1
        depth[here][mine] = inward[mine]
    return dab, owner


def pixel_classes(owner: NDArray[Any], patterns: NDArray[Any]) -> NDArray[np.uint8]:
    """Class of each pixel: `NO_CELL` between cells, else 1 + index into the four scores."""
    scores = np.concatenate([[NO_CELL], 1 + cell_scores(patterns)]).astype(np.uint8)
    return scores[owner]
