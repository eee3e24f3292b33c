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
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.pipeline.her2.outline import (
    NOBODY,
    RAYS,
    Bools,
    DrawnOutlines,
    Floats,
    arcs_of,
    sample,
)
from napari_celldetr.pipeline.her2.ownership import Sides, SidesSoFar, weigh_job
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows

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
LOWEST_CUTOFF = 0.02
"""No cut-off can be lower."""
AT_ONCE, EVERY = 1024, 16
"""Cells judged at once, and after how many times of that a step is told."""
ALL = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """What was read of N cells' surroundings; enough to judge them anew with other cut-offs.

    A direction whose density does not stand out from what lies beside it, or is below all
    cut-offs there may be, is never stained: of these nothing is kept.

    Attributes
    ----------
    radii : (N, RAYS)
        The outlines' radii, of which its length follows.
    lines : SparseRows of (N, RAYS) float32
        DAB optical density of the outline where it may be stained.
    level : (N,)
        DAB that `USUAL` of the whole outline stay below.
    faced : SparseRows of (N, RAYS) int32
        Row of the cell met, or `NOBODY`, from each direction in which it is another.
    cytoplasm : (N,)
        Median DAB optical density between nucleus and membrane.
    """

    radii: Floats
    lines: SparseRows
    level: Floats
    faced: SparseRows
    cytoplasm: Floats

    def __len__(self) -> int:
        return len(self.level)

    def neighbours(self, rows: slice = ALL) -> NDArray[np.int32]:
        """Row of the cell met in each direction (n, RAYS) from some cells, or `NOBODY`."""
        return self.faced.held(self.faced.of_rows(rows), rows)


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
    """

    intensity: Floats
    completeness: Floats


def read_bands(outlines: DrawnOutlines, dab: Floats, *, mpp: float) -> Bands:
    """Read what lies along and beside the outlines.

    Parameters
    ----------
    outlines : DrawnOutlines
        In px of `dab`.
    dab : (H, W) float32
        DAB optical density.
    mpp : float
        µm per px.
    """
    nuclei = _nuclei(outlines, dab)
    between, cytoplasm = _between(outlines, dab, nuclei, mpp)
    facing = outlines.neighbours
    theirs = nuclei[facing] * (facing != NOBODY)
    # What a membrane must stand out from: cytoplasm, nucleus, the nucleus faced.
    beside = np.maximum(np.maximum(between, nuclei[:, None]), theirs)
    beside[_lines_in_brown(outlines, dab, mpp)] = 0
    band = _band(outlines, dab, mpp)
    may_be = (band >= CONTRAST * beside) & (band >= LOWEST_CUTOFF)
    level = _level(band, np.ones(band.shape, bool), USUAL)
    faced = SparseRows.of_runs(facing.astype(np.int32))
    return Bands(outlines.radii, SparseRows.of(band, may_be), level, faced, cytoplasm)


def judge(bands: Bands, cutoffs: Cutoffs | None = None) -> Membranes:
    """Completeness and intensity of each cell; only the lowest cut-off matters here.

    About 5 µs a cell where few are stained, 10 where most are.
    """
    return drain(judge_job(bands, cutoffs))


def judge_job(bands: Bands, cutoffs: Cutoffs | None = None) -> Job[Membranes]:
    """`judge`, a thousand cells at a time; meanwhile sides take about 400 bytes a cell."""
    weak = (cutoffs or Cutoffs()).weak
    parts = [slice(i, min(i + AT_ONCE, len(bands))) for i in range(0, len(bands), AT_ONCE)]
    sides = yield from _sides_job(bands, parts, weak)
    own = yield from weigh_job(sides)
    intensity, completeness = np.zeros((2, len(bands)), np.float32)
    for done, part in enumerate(parts):
        intensity[part], completeness[part] = _judged(bands, part, weak, sides.along(own, part))
        if done % EVERY == 0:
            yield Progress(done, len(parts), "judging the cells")
    return Membranes(intensity, completeness)


def _sides_job(bands: Bands, parts: list[slice], weak: float) -> Job[Sides]:
    """What of each outline faces one neighbour, or nobody."""
    found = SidesSoFar(bands.faced)
    for done, part in enumerate(parts):
        lines, stained = stained_lines(bands, part, weak)
        found.add(part, arcs_of(bands.radii[part]), stained, lines)
        if done % EVERY == 0:
            yield Progress(done, len(parts), "finding shared lines")
    return (yield from found.all_job())


def stained_lines(bands: Bands, rows: slice, weak: float) -> tuple[Floats, Bools]:
    """Density (n, RAYS) of some cells' lines, 0 where none can be, and which bins are stained."""
    lines = bands.lines.dense(rows, 0.0)
    return lines, lines >= weak


def _judged(bands: Bands, part: slice, weak: float, own: Floats) -> tuple[Floats, Floats]:
    """Intensity and completeness (n,) of some cells, whose lines are their own by `own`."""
    lines, stained = stained_lines(bands, part, weak)
    arcs = arcs_of(bands.radii[part])
    whole = np.maximum(arcs.sum(axis=1), 1e-6)
    completeness = np.asarray((arcs * own * stained).sum(axis=1) / whole, np.float32)
    free = stained & (own >= OWN)
    some = free.any(axis=1)
    intensity = bands.level[part].copy()
    intensity[some] = _level(lines[some], free[some], USUAL)
    return intensity, completeness


def _band(outlines: DrawnOutlines, dab: Floats, mpp: float) -> Floats:
    """90th percentile (N, RAYS) of DAB across the outline and half a bin to either side."""
    steps = round(BAND_UM / STEP_UM)
    turns = (-np.pi / RAYS / 2, np.pi / RAYS / 2)
    samples = [
        sample(dab, outlines.centres, outlines.radii + np.float32(k * STEP_UM / mpp), turn)
        for k in range(-steps, steps + 1)
        for turn in turns
    ]
    return np.asarray(np.percentile(np.stack(samples), 90, axis=0), np.float32)


def _lines_in_brown(outlines: DrawnOutlines, dab: Floats, mpp: float) -> Bools:
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


def _nuclei(outlines: DrawnOutlines, dab: Floats) -> Floats:
    """DAB of each nucleus (N,)."""
    at = [sample(dab, outlines.centres, outlines.nuclear * share) for share in (0.3, 0.6, 0.8)]
    dark = (
        np.percentile(np.concatenate(at, axis=1), BROWNEST, axis=1)
        if len(outlines)
        else np.zeros(0)
    )
    return np.asarray(np.maximum(dark, 0), np.float32)


def _between(
    outlines: DrawnOutlines, dab: Floats, nuclei: Floats, mpp: float
) -> tuple[Floats, Floats]:
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
    ordered = np.where(picked, values, np.float32(np.inf))
    ordered.sort(axis=1)
    rows, low = np.arange(len(values)), np.floor(rank).astype(np.int64)
    high, part = np.ceil(rank).astype(np.int64), rank - low
    between = ordered[rows, low] * (1 - part) + ordered[rows, high] * part
    return np.asarray(between, np.float32)
