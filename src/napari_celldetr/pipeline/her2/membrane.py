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
from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.pipeline.her2.outline import (
    NOBODY,
    RAYS,
    DrawnOutlines,
    Floats,
    Ints,
    arcs_of,
    sample,
)
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows

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
        Median DAB of the whole outline.
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
        Median DAB optical density of the stained bins; of all bins where none is stained.
    completeness : (N,)
        Stained share of the outline, by length.
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
    faced = nuclei[facing] * (facing != NOBODY)
    # What a membrane must stand out from: cytoplasm, nucleus, the nucleus faced.
    beside = np.maximum(np.maximum(between, nuclei[:, None]), faced)
    band = _band(outlines, dab, mpp)
    may_be = (band >= CONTRAST * beside) & (band >= LOWEST_CUTOFF)
    level = _median_where(band, np.ones(band.shape, bool))
    return Bands(outlines.radii, SparseRows.of(band, may_be), level, _runs(facing), cytoplasm)


def _runs(facing: Ints) -> SparseRows:
    """Rows (N, RAYS) as the places where they change; the first place always counts as one."""
    change = facing != np.roll(facing, 1, axis=1)
    change[:, 0] = True
    return SparseRows.of(facing.astype(np.int32), change)


def judge(bands: Bands, cutoffs: Cutoffs | None = None) -> Membranes:
    """Completeness and intensity of each cell; only the lowest cut-off matters here.

    About 3 µs a cell.
    """
    return drain(judge_job(bands, cutoffs))


def judge_job(bands: Bands, cutoffs: Cutoffs | None = None) -> Job[Membranes]:
    """`judge`, a thousand cells at a time, so that no more memory is needed than for these."""
    weak = (cutoffs or Cutoffs()).weak
    own, intensity = np.zeros((2, len(bands)), np.float32)
    parts = [slice(i, min(i + AT_ONCE, len(bands))) for i in range(0, len(bands), AT_ONCE)]
    for done, part in enumerate(parts):
        stained = _stained(bands, part, weak)
        own[part] = _share(stained, arcs_of(bands.radii[part]))
        if done % EVERY == 0:
            yield Progress(done, 2 * len(parts), "judging the cells")
    completeness = own.copy()
    for done, part in enumerate(parts, start=len(parts)):
        intensity[part], completeness[part] = _judged(bands, part, weak, own)
        if done % EVERY == 0:
            yield Progress(done, 2 * len(parts), "judging the cells")
    return Membranes(intensity, completeness)


def _stained(bands: Bands, part: slice, weak: float) -> Bools:
    """Which bins (n, RAYS) of some cells are stained."""
    found = bands.lines.filled(part)
    found[found] = bands.lines.of_rows(part) >= weak
    return found


def _judged(bands: Bands, part: slice, weak: float, own: Floats) -> tuple[Floats, Floats]:
    """Intensity and completeness (n,) of some cells, `own` (N,) being what is stained of all."""
    stained, completeness = _stained(bands, part, weak), own[part].copy()
    explained = stained & bands.faced.held(_goes_farther(bands, part, own), part)
    rows = np.flatnonzero(explained.any(axis=1))
    if len(rows):
        arcs = arcs_of(bands.radii[part][rows])
        free = _free_bins(stained[rows], explained[rows], arcs)
        stained[rows] &= free
        completeness[rows] = _share_among(stained[rows], arcs, free)
    return _median_of_lines(bands, part, stained), completeness


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
    cytoplasm = np.where(room.any(axis=1), _median_where(middle, room), nuclei)
    return np.asarray(middle * room, np.float32), np.asarray(cytoplasm, np.float32)


def _goes_farther(bands: Bands, part: slice, own: Floats) -> Bools:
    """Whether the membrane of each cell that is faced is that much more complete (one per run).

    Where two cells meet, one line is seen, and how brown it is does not say whose it is. How far
    each goes on around its own cell does: an unstained cell beside stained ones has lines only
    there. Two cells stained about as far share their lines.
    """
    who, starts = bands.faced.of_rows(part), bands.faced.starts
    start, stop, _ = part.indices(len(bands))
    mine = np.repeat(own[part], np.diff(starts[start : stop + 1]))
    theirs = own[who] * (who != NOBODY)
    return np.asarray(theirs > np.where(theirs >= WHOLE, WHOLE_OVER, OVER) * mine)


def _free_bins(stained: Bools, explained: Bools, arcs: Floats) -> Bools:
    """Bins (n, RAYS) whose staining cannot be a neighbour's.

    A line that goes on past the corner of a neighbour is still the neighbour's. A cell with too
    few such bins is judged by all of them, as cells in the middle of a nest are.
    """
    for _ in range(TAIL):
        explained |= stained & (np.roll(explained, 1, axis=1) | np.roll(explained, -1, axis=1))
    free = ~explained
    free[_share(free, arcs) < LEAST_FREE] = True
    return free


def _share(which: Bools, arcs: Floats) -> Floats:
    """Share (n,) of the outline, by length."""
    whole = np.maximum(arcs.sum(axis=1), 1e-6)
    return np.asarray((arcs * which).sum(axis=1) / whole, np.float32)


def _share_among(which: Bools, arcs: Floats, among: Bools) -> Floats:
    """The same of the part `among`."""
    whole = np.maximum((arcs * among).sum(axis=1), 1e-6)
    return np.asarray((arcs * which).sum(axis=1) / whole, np.float32)


def _median_of_lines(bands: Bands, part: slice, which: Bools) -> Floats:
    """Median density (n,) of the picked bins; of the whole outline where none is picked."""
    found, count = bands.level[part].copy(), which.sum(axis=1)
    some = np.flatnonzero(count)
    values = np.where(which, bands.lines.dense(part, np.inf), np.float32(np.inf))[some]
    found[some] = _lower_median(values, count[some])
    return found


def _median_where(values: Floats, which: Bools) -> Floats:
    """Median of each row over the picked values; over all where none is picked."""
    picked = np.where(which.any(axis=1, keepdims=True), which, True)
    return _lower_median(np.where(picked, values, np.float32(np.inf)), picked.sum(axis=1))


def _lower_median(values: Floats, count: NDArray[np.int64]) -> Floats:
    """Median of the `count` lowest values (n,) of each row, which is sorted in place."""
    values.sort(axis=1)
    rows = np.arange(len(values))
    low, high = values[rows, (count - 1) // 2], values[rows, count // 2]
    return np.asarray((low + high) / 2, np.float32)
