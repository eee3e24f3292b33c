"""How far off a transform still is, in µm and place by place, from windows the fit never saw.

Fresh windows, between those of the fit, are looked for on the other slide. What neighbours miss by
together is the map's error; how they scatter says how well that can be seen. Far from any window
that was found the error grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_celldetr.core.transform import ErrorMap, SlideTransform
from napari_celldetr.pipeline.register_nonrigid import Matches, match
from napari_celldetr.pipeline.register_similarity import resampled
from napari_celldetr.slides.registration_images import DensityImage

CELLS = 64
"""Cells of the map along the longer side."""
HALF_PX, RADIUS_PX = 28, 18
NEIGHBOURS = 12
SAFETY = 1.8
"""What is seen is multiplied by this. Chosen on 11 generated pairs of very different sections, so
that the error is understated in at most a tenth of the tissue of the worst of them; measured on
others by benchmarks/bench_registration.py."""
NEAR_SHARE = 0.25
"""A window agrees when it is found within this share of the reach."""

PARTNER_SHARE = 0.25
"""Tissue the IHC slide must have in a cell, as a share of what the H&E slide has there."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Where fresh windows were found instead of where the transform has them.

    Attributes
    ----------
    points : (N, 2)
        H&E µm, windows that were distinct.
    miss : (N, 2)
        What is left, H&E µm.
    lost : (M, 2)
        H&E µm, windows that were not found, or only at the end of the reach.
    agreement : float
        Share of all windows found near where they should be, 0..1.
    coherence : float
        Share of all windows found near where their neighbours' misses would have them, 0..1.
    floor_um : float
        Nothing smaller can be seen: a pixel of the pictures compared.
    """

    points: Floats
    miss: Floats
    lost: Floats
    agreement: float
    coherence: float
    floor_um: float

    @property
    def count(self) -> int:
        """Windows looked for."""
        return len(self.points) + len(self.lost)

    @property
    def typical_um(self) -> float:
        """Median miss in µm; infinite without any."""
        return float(np.median(np.hypot(*self.miss.T))) if len(self.miss) else np.inf


def residuals(
    he: DensityImage,
    ihc: DensityImage,
    fine_he: DensityImage,
    fine_ihc: DensityImage,
    transform: SlideTransform,
) -> Residuals:
    """What fresh windows of two scales say of `transform`."""
    wide = _wide(he, ihc, transform)
    fine = match(fine_he, fine_ihc, transform, half_px=36, radius_px=14, step_px=36, start_px=19)
    reach = NEAR_SHARE * RADIUS_PX * he.mpp
    return Residuals(
        np.concatenate([wide.points[wide.sure], fine.points[fine.sure]]),
        np.concatenate([wide.offset_um[wide.sure], fine.offset_um[fine.sure]]),
        wide.points[~wide.sure],
        _share(wide.sure & (np.hypot(*wide.offset_um.T) <= reach)),
        _coherence(wide, reach),
        fine_he.mpp,
    )


def coherence(he: DensityImage, ihc: DensityImage, transform: SlideTransform) -> float:
    """Share of windows found about where their neighbours' misses would have them, 0..1.

    An affine map need not be near: the misses of one tissue's windows vary slowly from place to
    place, those of strangers at random. Measured after the affine stages on generated and real
    pairs: 0.5 to 0.98 where the tissue was the same, 0.06 to 0.14 where it was not.
    """
    return _coherence(_wide(he, ihc, transform), NEAR_SHARE * RADIUS_PX * he.mpp)


def _wide(he: DensityImage, ihc: DensityImage, transform: SlideTransform) -> Matches:
    return match(
        he, ihc, transform, half_px=HALF_PX, radius_px=RADIUS_PX, step_px=HALF_PX, start_px=9
    )


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else 0.0


def _coherence(found: Matches, reach: float) -> float:
    """Share of windows that miss by about as much as the median of their neighbours."""
    sure = found.select(found.sure)
    if len(sure.points) <= NEIGHBOURS:
        return 0.0
    _, near = cKDTree(sure.points).query(sure.points, k=NEIGHBOURS + 1)
    usual = np.median(sure.offset_um[near[:, 1:]], axis=1)
    agrees = np.hypot(*(sure.offset_um - usual).T) <= reach
    return float(agrees.sum() / len(found.points))


def error_map(
    transform: SlideTransform, left: Residuals, he: DensityImage, ihc: DensityImage
) -> ErrorMap:
    """The expected error of `transform` per cell of a grid over the H&E slide.

    Tissue whose place on the IHC slide is empty has no partner: its error is not known.
    """
    width, height = transform.he.extent_um
    side = max(width, height) / CELLS
    columns, rows = (max(1, int(np.ceil(s / side - 1e-9))) for s in (width, height))
    middle = (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1) + 0.5) * side
    tissue = _tissue_share(he, (rows, columns), side)
    partner = _tissue_share(resampled(ihc, transform, he), (rows, columns), side)
    error = _expected(left, middle.reshape(-1, 2), side).reshape(rows, columns)
    known = (tissue > 0) & (partner >= PARTNER_SHARE * tissue)
    return ErrorMap((side, side), np.where(known, np.round(error, 2), np.nan), tissue)


def _expected(left: Residuals, places: NDArray[Any], side: float) -> Floats:
    """Error (N,) in µm at places (N, 2): from the nearest windows, more where they are far."""
    count = min(NEIGHBOURS, len(left.points))
    if not count:
        return np.full(len(places), np.nan)
    apart, which = cKDTree(left.points).query(places, k=count)
    apart, which = apart.reshape(len(places), -1), which.reshape(len(places), -1)
    miss = left.miss[which]
    usual = np.median(miss, axis=1)
    spread = np.median(np.hypot(*np.moveaxis(miss - usual[:, None], -1, 0)), axis=1)
    # What neighbours share is error of the map; how they scatter is mostly that of looking.
    local = np.hypot(*usual.T) + spread / 2
    # Beyond the windows' own distance nothing holds the map.
    far = np.maximum(apart.mean(axis=1) / (2 * side) - 1, 0)
    error = SAFETY * np.maximum(local, np.median(local)) * (1 + far)
    return np.asarray(np.maximum(error, left.floor_um), np.float64)


def _tissue_share(he: DensityImage, shape: tuple[int, int], side: float) -> Floats:
    height, width = he.tissue.shape
    x = np.minimum((np.arange(width) + 0.5) * he.step[0] / side, shape[1] - 1).astype(np.intp)
    y = np.minimum((np.arange(height) + 0.5) * he.step[1] / side, shape[0] - 1).astype(np.intp)
    cell = (y[:, None] * shape[1] + x[None, :]).ravel()
    whole = np.bincount(cell, minlength=shape[0] * shape[1])
    inside = np.bincount(cell, he.tissue.ravel(), minlength=shape[0] * shape[1])
    share = inside / np.maximum(whole, 1)
    return np.round(share, 3).reshape(shape)
