"""How much of each cell's membrane is stained, and how strongly.

DAB optical density is read in a band of ±0.75 µm along the outline, one bin for each direction.
A bin is stained if its 90th percentile reaches the lowest cut-off and stands out from what lies
beside it: brown cytoplasm and brown nuclei, its own or a neighbour's, are no membranes.
Completeness is the stained share of the outline, intensity the usual density of its stained part.
A line where two cells meet counts as far as it is likely to be the cell's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.pipeline.her2.outline import (
    NOBODY,
    RAYS,
    Bools,
    Floats,
    Ints,
    Outlines,
    sample,
)
from napari_celldetr.pipeline.her2.ownership import own_shares

BAND_UM = 0.75
STEP_UM = 0.25
CONTRAST = 1.25
"""A stained bin's density over that of what lies on either side."""
FLANKS_UM, LINE_UM = (1.5, 2.25), (-0.5, -0.25, 0.0, 0.25, 0.5)
"""Where, seen from the outline, cytoplasm is looked at on either side of a line, and the line."""
ALONG = 13
"""Bins that a line in brown cytoplasm is averaged over: about 5 µm."""
RISE, RISE_SHARE = 0.03, 0.15
"""How far such a line rises over the browner side: in optical density, and of that side's."""
ALIKE = 0.5
"""Paler over browner side. Where they differ more it is the rim of a brown nucleus or cell."""
BROWNEST = 80
"""Percentile of DAB within a nucleus that stands for it: a stained one is paler at its rim."""
OWN = 0.5
"""From this chance on a line counts as the cell's own."""
USUAL = 0.35
"""Share of the stained bins that are paler than a cell's intensity: a line that two stained cells
share is as dark as the darker one's."""


@dataclass(frozen=True, slots=True)
class Bands:
    """What was read of N cells' surroundings; enough to judge them anew with other cut-offs.

    Attributes
    ----------
    band : (N, RAYS)
        DAB optical density of the outline in each direction.
    beside : (N, RAYS)
        DAB of what a membrane there must stand out from: cytoplasm, nucleus, the nucleus faced.
        0 where a line runs through brown cytoplasm.
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
        DAB optical density that `USUAL` of its own stained bins stay below; of all bins where
        none is stained.
    completeness : (N,)
        Share of the outline, by length, on which it has a stained line of its own.
    stained : (N, RAYS) bool
        Which bins are stained.
    free : (N, RAYS) bool
        Bins whose line is more likely its own than a neighbour's.
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
    beside[_lines_in_brown(outlines, dab, mpp)] = 0
    return Bands(_band(outlines, dab, mpp), beside, outlines.arcs(), facing, cytoplasm)


def judge(bands: Bands, cutoffs: Cutoffs | None = None) -> Membranes:
    """Completeness and intensity of each cell; only the lowest cut-off matters here."""
    stained = stained_bins(bands, cutoffs)
    own = own_shares(bands.neighbours, bands.arcs, stained, bands.band)
    whole = np.maximum(bands.arcs.sum(axis=1), 1e-6)
    completeness = np.asarray((bands.arcs * own * stained).sum(axis=1) / whole, np.float32)
    free = own >= OWN
    return Membranes(_level(bands.band, stained & free, USUAL), completeness, stained, free)


def stained_bins(bands: Bands, cutoffs: Cutoffs | None = None) -> Bools:
    """Which bins (N, RAYS) are stained and stand out from what lies beside them."""
    weak = (cutoffs or Cutoffs()).weak
    return (bands.band >= weak) & (bands.band >= CONTRAST * bands.beside)


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


def _lines_in_brown(outlines: Outlines, dab: Floats, mpp: float) -> Bools:
    """Where (N, RAYS) a line is a ridge between sides that are brown alike."""

    def at(um: float) -> Floats:
        return sample(dab, outlines.centres, outlines.radii + np.float32(um / mpp))

    line = np.max([at(um) for um in LINE_UM], axis=0)
    inner, outer = (np.mean([at(sign * um) for um in FLANKS_UM], axis=0) for sign in (-1, 1))
    browner, paler = np.maximum(inner, outer), np.minimum(inner, outer)
    line, browner, paler = (
        uniform_filter1d(v, ALONG, axis=1, mode="wrap") for v in (line, browner, paler)
    )
    rises = line >= browner + RISE + RISE_SHARE * np.maximum(browner, 0)
    return np.asarray(rises & (paler >= ALIKE * np.maximum(browner, RISE)), np.bool_)


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
    cytoplasm = np.where(room.any(axis=1), _level(middle, room, 0.5), nuclei)
    return np.asarray(middle * room, np.float32), np.asarray(cytoplasm, np.float32)


def _level(values: Floats, which: Bools, share: float) -> Floats:
    """Of each row's picked values the one that `share` lie below; of all where none is picked."""
    picked = np.where(which.any(axis=1, keepdims=True), which, True)
    rank = (picked.sum(axis=1) - 1) * share
    ordered = np.sort(np.where(picked, values, np.inf), axis=1)
    rows, low = np.arange(len(values)), np.floor(rank).astype(np.int64)
    high, part = np.ceil(rank).astype(np.int64), rank - low
    between = ordered[rows, low] * (1 - part) + ordered[rows, high] * part
    return np.asarray(between, np.float32)
