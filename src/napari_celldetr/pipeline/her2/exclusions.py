"""Cells that must not be counted: at the tissue's edge, folded, crushed, pigmented, or none at all.

What a cell's surroundings look like is compared with those of the slide's own cells, so that a
dark or pale slide is judged by its own measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_celldetr.core.her2 import Exclusion
from napari_celldetr.core.progress import Job
from napari_celldetr.pipeline.her2.measure import Her2Cells
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.surroundings import Surroundings, read_surroundings
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import Floats

__all__ = ["Surroundings", "find_exclusions", "judge_surroundings", "read_surroundings"]

EDGE_UM = 30.0
"""Stain gathers in the outermost two rows of cells; the tissue mask is about 8 µm generous."""
EDGE_EXCESS = 0.08
"""DAB in the cytoplasm of a cell at the edge over what nine in ten cells inside stay below."""
FEWEST_INSIDE, USUAL_CYTOPLASM = 20, 0.12
"""With fewer cells inside, this is what they are taken to stay below."""

TOGETHER_UM, TOGETHER_SHARE, FEWEST_TOGETHER = 25.0, 0.4, 3
"""Folds and crushed parts are larger than cells: this share of the cells this near look alike."""
FOLD_MEAN, FOLD_FLOOR = 1.35, 1.8
"""Double tissue has twice the stain, and nuclei of one layer lie in the gaps of the other."""
LEAST_REFERENCE = 0.05
"""Haematoxylin below which a slide's own measure is noise."""

CRUSH_MEAN = 1.25
CRUSH_COHERENCE = 0.5
"""0 where edges run all ways, as around round nuclei; 1 where all run one way."""
PIGMENT_UM2 = 5.0
"""A grain 2.5 µm across; a smaller one hides little of a membrane."""


def find_exclusions(
    slide: Slide, measured: Her2Cells, *, stain: SlideStain | None = None
) -> Job[NDArray[np.int8]]:
    """Codes of `Exclusion` (N,), one for each cell, in the order of `measured.cells`.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    measured : Her2Cells
    stain : SlideStain, optional
        As the cells were measured with.

    Yields
    ------
    Progress
        After every tile.

    Raises
    ------
    SlideError
        The slide cannot be read, or its pixel size is not known.
    """
    around = yield from read_surroundings(slide, measured, stain=stain)
    codes = judge_surroundings(around)
    codes[measured.specks] = Exclusion.SPECK
    return codes


def judge_surroundings(around: Surroundings) -> NDArray[np.int8]:
    """Codes of `Exclusion` (N,); where several hold, the one that hides most."""
    mean = around.mean / _reference(around.mean)
    floor = around.floor / _reference(around.floor)
    codes = np.full(len(mean), Exclusion.NONE, np.int8)
    codes[_at_stained_edge(around)] = Exclusion.EDGE
    codes[around.pigment >= PIGMENT_UM2] = Exclusion.PIGMENT
    double = (mean >= FOLD_MEAN) & (floor >= FOLD_FLOOR)
    smeared = (mean >= CRUSH_MEAN) & (around.coherence >= CRUSH_COHERENCE)
    either = double | smeared
    near, among, every = (
        _counts(around.places, which) for which in (smeared, either, np.ones(len(mean), bool))
    )
    spoilt = either & (among >= FEWEST_TOGETHER) & (among >= TOGETHER_SHARE * every)
    # Borders of a fold run one way too: what most cells around look like decides.
    codes[spoilt] = np.where((near > among / 2)[spoilt], Exclusion.CRUSHED, Exclusion.FOLD)
    return codes


def _counts(places: Floats, which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the cells `which` lie around each place (N, 2), µm."""
    if not which.any():
        return np.zeros(len(places), np.int64)
    tree = cKDTree(places[which])
    return np.asarray(tree.query_ball_point(places, TOGETHER_UM, return_length=True), np.int64)


def _at_stained_edge(around: Surroundings) -> NDArray[np.bool_]:
    """Which cells near the border have more DAB in their cytoplasm than those inside."""
    within = around.cytoplasm[around.depth >= 2 * EDGE_UM]
    enough = len(within) >= FEWEST_INSIDE
    usual = float(np.percentile(within, 90)) if enough else USUAL_CYTOPLASM
    return np.asarray((around.depth < EDGE_UM) & (around.cytoplasm >= usual + EDGE_EXCESS))


def _reference(values: Floats) -> float:
    return max(float(np.median(values)) if len(values) else 0.0, LEAST_REFERENCE)
