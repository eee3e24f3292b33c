"""How much of each cell's membrane is stained, and how strongly.

DAB optical density is read in a band of ±0.75 µm along the outline, one bin for each direction.
A bin is stained if its 90th percentile reaches the lowest cut-off and stands out from what lies
beside it: brown cytoplasm and brown nuclei, its own or a neighbour's, are no membranes.
Completeness is the stained share of the outline; intensity is the median of the stained bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS, Floats, Ints, Outlines, sample

Bools = NDArray[np.bool_]

BAND_UM = 0.75
STEP_UM = 0.25
CONTRAST = 1.25
"""A stained bin's density over that of what lies on either side."""
BROWNEST = 80
"""Percentile of DAB within a nucleus that stands for it: a stained one is paler at its rim."""
OVER = 1.2
"""A shared line is the neighbour's alone if its membrane is stained this many times as far."""
WHOLE, WHOLE_OVER = 0.85, 1.05
"""From this completeness on a neighbour's membrane is whole, and less of a difference will do."""
TAIL = 4
"""Bins by which a neighbour's line may go on past the corner where it ends."""
LEAST_FREE = 0.1
"""Smallest share of the outline that a cell is judged by alone."""


@dataclass(frozen=True, slots=True)
class Bands:
    """What was read of N cells' surroundings; enough to judge them anew with other cut-offs.

    Attributes
    ----------
    band : (N, RAYS)
        DAB optical density of the outline in each direction.
    beside : (N, RAYS)
        DAB of what a membrane there must stand out from: cytoplasm, nucleus, the nucleus faced.
    arcs : (N, RAYS)
        Length of outline that each direction stands for.
    neighbours : (N, RAYS)
        Row of the cell met in each direction, or `NOBODY`.
    cytoplasm : (N,)
        Median DAB optical density between nucleus and membrane.
    """

    band: Floats
    beside: Floats
    arcs: Floats
    neighbours: Ints
    cytoplasm: Floats

    def __len__(self) -> int:
        return len(self.band)


@dataclass(frozen=True, slots=True)
class Membranes:
    """Measurements of N cells.

    Attributes
    ----------
    intensity : (N,)
        Median DAB optical density of the stained bins; of all bins where none is stained.
    completeness : (N,)
        Stained share of the outline, by length.
    stained : (N, RAYS) bool
        Which bins are stained.
    free : (N, RAYS) bool
        Bins the cell was judged by: those whose staining cannot be a neighbour's.
    """

    intensity: Floats
    completeness: Floats
    stained: Bools
    free: Bools


def read_bands(outlines: Outlines, dab: Floats, *, mpp: float) -> Bands:
    """Read what lies along and beside the outlines.

    Parameters
    ----------
    outlines : Outlines
        In px of `dab`.
    dab : (H, W) float32
        DAB optical density.
    mpp : float
        µm per px.
    """
    nuclei = _nuclei(outlines, dab)
    between, cytoplasm = _between(outlines, dab, nuclei, mpp)
    facing = outlines.neighbours
    faced = nuclei[facing] * (facing != NOBODY)
    beside = np.maximum(np.maximum(between, nuclei[:, None]), faced)
    return Bands(_band(outlines, dab, mpp), beside, outlines.arcs(), facing, cytoplasm)


def judge(bands: Bands, cutoffs: Cutoffs | None = None) -> Membranes:
    """Completeness and intensity of each cell; only the lowest cut-off matters here."""
    weak = (cutoffs or Cutoffs()).weak
    stained = (bands.band >= weak) & (bands.band >= CONTRAST * bands.beside)
    free = _free_bins(bands, stained)
    completeness = _completeness(stained, bands.arcs, free)
    return Membranes(_median_where(bands.band, stained & free), completeness, stained, free)


def _band(outlines: Outlines, dab: Floats, mpp: float) -> Floats:
    """90th percentile (N, RAYS) of DAB across the outline and half a bin to either side."""
    steps = round(BAND_UM / STEP_UM)
    turns = (-np.pi / RAYS / 2, np.pi / RAYS / 2)
    samples = [
        sample(dab, outlines.centres, outlines.radii + np.float32(k * STEP_UM / mpp), turn)
        for k in range(-steps, steps + 1)
        for turn in turns
    ]
    return np.asarray(np.percentile(np.stack(samples), 90, axis=0), np.float32)


def _nuclei(outlines: Outlines, dab: Floats) -> Floats:
    """DAB of each nucleus (N,)."""
    at = [sample(dab, outlines.centres, outlines.nuclear * share) for share in (0.3, 0.6, 0.8)]
    dark = (
        np.percentile(np.concatenate(at, axis=1), BROWNEST, axis=1)
        if len(outlines)
        else np.zeros(0)
    )
    return np.asarray(np.maximum(dark, 0), np.float32)


def _between(outlines: Outlines, dab: Floats, nuclei: Floats, mpp: float) -> tuple[Floats, Floats]:
    """DAB between nucleus and membrane in each direction (N, RAYS), and of the cytoplasm (N,).

    Where there is no room between the two, 0; of a cell without any room, its nucleus'.
    """
    low = outlines.nuclear + np.float32(0.25 / mpp)
    high = outlines.radii - np.float32((BAND_UM + 0.25) / mpp)
    room = high > low
    gap = np.asarray(np.maximum(high - low, 0), np.float32)
    levels = [
        sample(dab, outlines.centres, low + np.float32(share) * gap)
        for share in (0.0, 0.33, 0.67, 1.0)
    ]
    middle = np.maximum(np.median(np.stack(levels), axis=0), 0)
    cytoplasm = np.where(room.any(axis=1), _median_where(middle, room), nuclei)
    return np.asarray(middle * room, np.float32), np.asarray(cytoplasm, np.float32)


def _free_bins(bands: Bands, stained: Bools) -> Bools:
    """Bins whose staining cannot be that of a neighbour whose own membrane is more complete.

    Where two cells meet, one line is seen, and how brown it is does not say whose it is. How far
    each goes on around its own cell does: an unstained cell beside stained ones has lines only
    there. Two cells stained about as far share their lines. A line that goes on past the corner
    of a neighbour is still the neighbour's.

    A cell with too few such bins is judged by all of them, as cells in the middle of a nest are.
    """
    everything, facing = np.ones(stained.shape, bool), bands.neighbours
    own = _completeness(stained, bands.arcs, everything)
    theirs = own[facing] * (facing != NOBODY)
    share = np.where(theirs >= WHOLE, WHOLE_OVER, OVER)
    explained = stained & (theirs > share * own[:, None])
    for _ in range(TAIL):
        explained |= stained & (np.roll(explained, 1, axis=1) | np.roll(explained, -1, axis=1))
    free = ~explained
    free[_completeness(free, bands.arcs, everything) < LEAST_FREE] = True
    return free


def _completeness(which: Bools, arcs: Floats, among: Bools) -> Floats:
    whole = (arcs * among).sum(axis=1)
    return np.asarray((arcs * (which & among)).sum(axis=1) / np.maximum(whole, 1e-6), np.float32)


def _median_where(values: Floats, which: Bools) -> Floats:
    """Median of each row over the picked values; over all where none is picked."""
    picked = np.where(which.any(axis=1, keepdims=True), which, True)
    count = picked.sum(axis=1)
    ordered = np.sort(np.where(picked, values, np.inf), axis=1)
    rows = np.arange(len(values))
    low, high = ordered[rows, (count - 1) // 2], ordered[rows, count // 2]
    return np.asarray((low + high) / 2, np.float32)
