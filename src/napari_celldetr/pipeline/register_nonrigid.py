"""Small windows are looked for near where they should be; a smooth map is fitted to what is found.

Each match says how sure it is. The fit is robust (far-off matches lose their weight) and holds
bending down, so that it goes through where many agree and stays calm where nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.sparse.linalg import spsolve

from napari_celldetr.core.transform import SlideTransform, SplineWarp, TransformError
from napari_celldetr.pipeline.register_similarity import resampled, structure
from napari_celldetr.slides.registration_images import DensityImage

BATCH = 64
LEAST_TISSUE = 0.3
LEAST_PEAK = 0.08
LEAST_LEAD = 0.02
"""How far the best place must be ahead of the next best one elsewhere."""
ROUNDS = 8
STIFFEST = 4.0**14
"""How much stiffer than asked a fit may be made before it is given up."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Windows that were found on the other slide.

    Attributes
    ----------
    points, found : (N, 2)
        Where a window is in H&E µm, and where its match is in IHC µm.
    offset_um : (N, 2)
        How far the match lies from where the transform had it, in H&E µm.
    peak, lead : (N,)
        Correlation there, and how far it is ahead of the next best place.
    sure : (N,) bool
        Whether it is distinct enough to be used.
    """

    points: Floats
    found: Floats
    offset_um: Floats
    peak: Floats
    lead: Floats
    sure: NDArray[np.bool_]

    def select(self, which: NDArray[Any]) -> Matches:
        """The rows a mask or index array picks."""
        return Matches(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    @property
    def weight(self) -> Floats:
        """Weight (N,) in a fit."""
        return np.asarray(np.where(self.sure, np.clip(self.lead, 0, 0.5), 0), np.float64)


def match(
    he: DensityImage,
    ihc: DensityImage,
    transform: SlideTransform,
    *,
    half_px: int,
    radius_px: int,
    step_px: int,
    start_px: int = 0,
    own: NDArray[np.float32] | None = None,
) -> Matches:
    """Windows of 2 · `half_px` every `step_px` of the H&E, looked for within `radius_px`.

    `start_px` shifts the grid, so that two grids need not share a window's centre; `own` is the
    structure of the H&E, where it is known already.
    """
    warped = resampled(ihc, transform, he)
    centres = _centres(he, warped, half_px, step_px, start_px)
    if not len(centres):
        return _none()
    pad = half_px + radius_px
    ours, theirs = (
        np.pad(s, ((0, 0), (pad, pad), (pad, pad)))
        for s in (structure(he) if own is None else own, structure(warped))
    )
    masks = [np.pad(i.tissue.astype(np.float32), pad) for i in (he, warped)]
    parts = [
        _match_batch(ours, theirs, masks, centres[i : i + BATCH], half_px, radius_px)
        for i in range(0, len(centres), BATCH)
    ]
    shift, peak, lead = (np.concatenate(p) for p in zip(*parts, strict=True))
    # A window's middle is where its two middle pixels meet.
    points = centres * np.array(he.step)
    offset = shift * he.step
    edge = np.abs(shift).max(axis=1) >= radius_px - 0.5
    sure = (peak > LEAST_PEAK) & (lead > LEAST_LEAD) & ~edge
    return Matches(points, transform.forward_um(points + offset), offset, peak, lead, sure)


def _none() -> Matches:
    empty, flat = np.zeros((0, 2)), np.zeros(0)
    return Matches(empty, empty, empty, flat, flat, np.zeros(0, bool))


def _centres(
    he: DensityImage, warped: DensityImage, half: int, step: int, start: int
) -> NDArray[np.int64]:
    """Window centres (N, 2) x, y px where both have enough tissue."""
    height, width = he.density.shape
    x = np.arange(start + half // 2, width - half // 2, step)
    y = np.arange(start + half // 2, height - half // 2, step)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    enough = [_tissue_share(i.tissue, grid, half) >= LEAST_TISSUE for i in (he, warped)]
    return np.asarray(grid[enough[0] & enough[1]], np.int64)


def _tissue_share(tissue: NDArray[np.bool_], centres: NDArray[Any], half: int) -> Floats:
    """Share of tissue (N,) in the window around each centre."""
    total = np.pad(tissue, ((1, 0), (1, 0))).astype(np.float64).cumsum(0).cumsum(1)
    height, width = tissue.shape
    x0, x1 = (np.clip(centres[:, 0] + d, 0, width) for d in (-half, half))
    y0, y1 = (np.clip(centres[:, 1] + d, 0, height) for d in (-half, half))
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return np.asarray(inside / (4.0 * half * half), np.float64)


def _match_batch(
    ours: NDArray[np.float32],
    theirs: NDArray[np.float32],
    masks: list[NDArray[np.float32]],
    centres: NDArray[np.int64],
    half: int,
    radius: int,
) -> tuple[Floats, Floats, Floats]:
    """Shift (n, 2) x, y px, correlation and lead (n,) of each window; pictures are padded."""
    side = 2 * (half + radius)
    size = fft.next_fast_len(side, real=True)
    area = np.stack([theirs[:, y : y + side, x : x + side] for x, y in centres])
    near = [
        (slice(y + radius, y + radius + 2 * half), slice(x + radius, x + radius + 2 * half))
        for x, y in centres
    ]
    window = np.stack([ours[:, r, c] for r, c in near])
    cover = np.stack([masks[0][r, c] for r, c in near])
    there = np.stack([masks[1][y : y + side, x : x + side] for x, y in centres])
    shape = (size, size)

    def correlated(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        product = np.conj(fft.rfft2(a, shape)) * fft.rfft2(b, shape)
        if product.ndim == 4:
            product = product.sum(axis=1)
        return fft.irfft2(product, shape)[:, : 2 * radius + 1, : 2 * radius + 1]

    # Only where both have tissue does a window say anything.
    own = correlated((window**2).sum(axis=1), there)
    other = correlated(cover, (area**2).sum(axis=1))
    whole = (window**2).sum(axis=(1, 2, 3))[:, None, None]
    floor = 0.3 * whole
    energy = np.sqrt(np.maximum(own, floor) * np.maximum(other, floor)) + 1e-6
    return _peaks(correlated(window, area) / energy, radius)


def _peaks(surface: NDArray[Any], radius: int) -> tuple[Floats, Floats, Floats]:
    """Best place to a fraction of a pixel, its value, and its lead over other places."""
    count, side = len(surface), surface.shape[1]
    flat = surface.reshape(count, -1)
    best = flat.argmax(axis=1)
    row, column = best // side, best % side
    peak = flat[np.arange(count), best]
    far = np.abs(np.arange(side)[None, :] - row[:, None])[:, :, None]
    far = np.maximum(far, np.abs(np.arange(side)[None, :] - column[:, None])[:, None, :])
    away = np.where(far > max(2, radius // 3), surface, -1.0).reshape(count, -1).max(axis=1)
    fine = [_vertex(surface, row, column, axis) for axis in (1, 0)]
    shift = np.stack([column + fine[0] - radius, row + fine[1] - radius], axis=1)
    return shift.astype(np.float64), peak.astype(np.float64), (peak - away).astype(np.float64)


def _vertex(surface: NDArray[Any], row: Any, column: Any, axis: int) -> Floats:
    """Where a parabola through a peak and its neighbours is highest, -0.5..0.5; 0 at the rim."""
    side = surface.shape[1]
    which = np.arange(len(surface))
    at = column if axis == 1 else row
    inside = (at > 0) & (at < side - 1)
    step = np.where(inside, 1, 0)
    d = (0 * step, step) if axis == 1 else (step, 0 * step)
    below = surface[which, row - d[0], column - d[1]]
    above = surface[which, row + d[0], column + d[1]]
    middle = surface[which, row, column]
    bend = below - 2 * middle + above
    ratio = np.divide(below - above, 2 * bend, out=np.zeros_like(bend), where=bend < -1e-9)
    return np.asarray(np.clip(ratio, -0.5, 0.5) * inside, np.float64)


# -- fits ------------------------------------------------------------------------------------


def fit_affine(
    points: Floats, found: Floats, weight: Floats, *, scale_um: float, rigid: bool = False
) -> Floats | None:
    """Robust affine (2, 3) from H&E µm to IHC µm; None with too few matches.

    `rigid` allows rotation, flip, shift and one scale alone. Misses of over about `scale_um`
    lose their weight.
    """
    if (weight > 0).sum() < 6:
        return None
    robust = weight.copy()
    affine = np.eye(2, 3)
    for _ in range(ROUNDS):
        affine = similarity(points, found, robust) if rigid else _least(points, found, robust)
        miss = np.hypot(*(points @ affine[:, :2].T + affine[:, 2] - found).T)
        robust = weight * _trust(miss, weight, scale_um)
    return affine if np.isfinite(affine).all() else None


def _least(points: Floats, found: Floats, weight: Floats) -> Floats:
    full = np.column_stack([points, np.ones(len(points))])
    root = np.sqrt(weight)[:, None]
    solution, *_ = np.linalg.lstsq(full * root, found * root, rcond=1e-8)
    return np.asarray(solution.T, np.float64)


def similarity(points: Floats, found: Floats, weight: Floats) -> Floats:
    """Affine (2, 3) of rotation, flip, shift and one scale that fits weighted pairs best."""
    share = weight / weight.sum()
    a, b = points - share @ points, found - share @ found
    u, s, vt = np.linalg.svd((b * share[:, None]).T @ a)
    # The sign of the linear map is that of the matches: a flipped section stays flipped.
    turn = u @ vt
    scale = s.sum() / max(float((share[:, None] * a**2).sum()), 1e-9)
    matrix = scale * turn
    return np.column_stack([matrix, share @ found - matrix @ (share @ points)])


def _trust(miss: Floats, weight: Floats, scale_um: float) -> Floats:
    """Cauchy weights (N,) of misses in µm."""
    used = miss[weight > 0]
    spread = float(np.clip(1.5 * np.median(used), 0.25 * scale_um, scale_um))
    return np.asarray(1 / (1 + (miss / (2 * spread)) ** 2), np.float64)


def fit_warp(
    transform: SlideTransform,
    points: Floats,
    found: Floats,
    weight: Floats,
    *,
    spacing_um: float,
    stiffness: float,
    scale_um: float,
) -> SlideTransform:
    """`transform` with another displacement: the smoothest that goes near the matches.

    Minimises the weighted squared misses plus `stiffness` times bending, in units that do not
    depend on the number of nodes; made stiffer until nothing folds. `TransformError` if it
    always does.
    """
    base = replace(transform, warp=None)
    start = base.forward_um(points)
    grid = _Grid.over(start, base, spacing_um)
    rows = grid.basis(start)
    bend = grid.bending()
    total = max(float(weight.sum()), 1e-9)
    robust = weight.copy()
    coefficients = np.zeros((bend.shape[0], 2))
    for _ in range(ROUNDS):
        coefficients = _solved(rows, bend * (stiffness * total), robust, found - start)
        miss = np.hypot(*(start + rows @ coefficients - found).T)
        robust = weight * _trust(miss, weight, scale_um)
    stiffer = 1.0
    while stiffer <= STIFFEST:
        warp = SplineWarp(grid.origin, grid.spacing, coefficients.reshape(*grid.shape, 2))
        if warp.determinants().min() > 0.2:
            return replace(transform, warp=warp)
        stiffer *= 4
        coefficients = _solved(rows, bend * (stiffness * total * stiffer), robust, found - start)
    raise TransformError(
        "The displacement folds the tissue onto itself.",
        expected="matches that a smooth map can follow",
        found="a Jacobian determinant below 0 however smooth it is made",
        remedy="add landmarks by hand, or register without the non-rigid step",
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Nodes of a B-spline that cover all places with a margin."""

    origin: tuple[float, float]
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @classmethod
    def over(cls, places: Floats, base: SlideTransform, spacing_um: float) -> _Grid:
        width, height = base.he.extent_um
        corners = base.forward_um(np.array([[0, 0], [width, 0], [0, height], [width, height]]))
        low, high = corners.min(axis=0), corners.max(axis=0)
        columns, rows = (int(np.ceil(s / spacing_um)) + 3 for s in high - low)
        return cls(
            (float(low[0]) - spacing_um, float(low[1]) - spacing_um),
            (spacing_um, spacing_um),
            (rows + 1, columns + 1),
        )

    def basis(self, points: Floats) -> sparse.csr_matrix:
        """Matrix (N, nodes): displacement at points per unit of each coefficient."""
        rows, columns = self.shape
        place = (points - self.origin) / self.spacing
        node = np.clip(np.floor(place), 1, (columns - 3, rows - 3)).astype(np.intp)
        t = np.clip(place - node, 0, 1)
        weights = (
            np.stack(
                [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
            )
            / 6
        )
        data, index = [], []
        for j in range(4):
            for i in range(4):
                data.append(weights[i, :, 0] * weights[j, :, 1])
                index.append((node[:, 1] + j - 1) * columns + node[:, 0] + i - 1)
        which = np.tile(np.arange(len(points)), 16)
        entries = (np.concatenate(data), (which, np.concatenate(index)))
        return sparse.csr_matrix(entries, shape=(len(points), rows * columns))

    def bending(self) -> sparse.csr_matrix:
        """Quadratic form (nodes, nodes): mean squared second differences."""
        rows, columns = self.shape
        second = [
            sparse.kron(sparse.eye(rows), _difference(columns, 2)),
            sparse.kron(_difference(rows, 2), sparse.eye(columns)),
            np.sqrt(2) * sparse.kron(_difference(rows, 1), _difference(columns, 1)),
        ]
        whole = sum(d.T @ d for d in second) / (rows * columns)
        return (whole + 1e-7 * sparse.eye(rows * columns)).tocsr()


def _difference(count: int, order: int) -> sparse.csr_matrix:
    values = {1: (-1.0, 1.0), 2: (1.0, -2.0, 1.0)}[order]
    shape = (count - order, count)
    return sparse.diags(values, range(order + 1), shape=shape).tocsr()


def _solved(
    rows: sparse.csr_matrix, bend: sparse.csr_matrix, weight: Floats, wanted: Floats
) -> Floats:
    weighted = rows.T @ sparse.diags(weight)
    return np.asarray(spsolve((weighted @ rows + bend).tocsc(), weighted @ wanted), np.float64)
