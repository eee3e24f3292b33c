"""The cells of a slide, each with what lies along its membrane: read tile by tile, judged at once.

Reading takes seconds to minutes and does not depend on any cut-off; judging takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.grid_index import GridIndex, inside
from napari_celldetr.core.her2 import CELL_CLASSES, Cutoffs, cell_scores, classify_cells
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.membrane import Bands, Membranes, judge, read_bands
from napari_celldetr.pipeline.her2.outline import NOBODY, Outlines, draw_outlines
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.specks import find_specks
from napari_celldetr.slides.slide import Slide

FINEST_MPP = 0.25
"""Finer slides are read at this: a membrane is a micrometre wide."""
CORE_UM = 256.0
HALO_UM = 24.0
"""Neighbours within this around a tile are outlined too."""
INTENSITY, COMPLETENESS, CYTOPLASM = "her2_intensity", "her2_completeness", "her2_cytoplasm"
PATTERN = "her2_pattern"


@dataclass(frozen=True, slots=True)
class Her2Cells:
    """N cells of a slide with their surroundings; lengths in level-0 px.

    Attributes
    ----------
    cells : Detections
        The nuclei.
    outlines : Outlines
    bands : Bands
    specks : (N,) bool
        Which are pieces of membrane that were taken for nuclei.
    mpp : float
        µm per px at which the slide was read.
    """

    cells: Detections
    outlines: Outlines
    bands: Bands
    specks: NDArray[np.bool_]
    mpp: float

    def membranes(self, cutoffs: Cutoffs | None = None) -> Membranes:
        """Completeness and intensity of each cell."""
        return judge(self.bands, cutoffs)

    def table(self, cutoffs: Cutoffs | None = None) -> Detections:
        """The cells with classes `CELL_CLASSES` and their measurements as columns."""
        cut = cutoffs or Cutoffs()
        found = self.membranes(cut)
        patterns = classify_cells(found.intensity, found.completeness, cut)
        columns = {
            INTENSITY: found.intensity,
            COMPLETENESS: found.completeness,
            CYTOPLASM: self.bands.cytoplasm,
            PATTERN: patterns.astype(np.float32),
        }
        return replace(
            self.cells,
            class_ids=cell_scores(patterns).astype(np.int16),
            class_names=CELL_CLASSES,
            columns={**self.cells.columns, **columns},
        )


def measure_cells(
    slide: Slide, cells: Detections, *, stain: SlideStain | None = None
) -> Job[Her2Cells]:
    """Outline the cells of a slide and read their membranes.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    cells : Detections
        Nuclei, level-0 px.
    stain : SlideStain, optional
        The slide's light and stains; without it white is 255 and the stains are the usual ones.

    Yields
    ------
    Progress
        After every tile.

    Raises
    ------
    SlideError
        A tile cannot be read, or the pixel size is not known.
    """
    stain = stain or SlideStain()
    scale = np.array(slide.known_mpp(), np.float64)
    mpp = max(FINEST_MPP, float(scale.mean()))
    centres = _centres(cells.boxes)
    core = CORE_UM / scale
    tile = np.floor(centres / core).astype(np.int64)
    corners = np.unique(tile, axis=0)
    index = GridIndex(centres)
    parts = []
    yield Progress(0, len(corners), "reading membranes")
    for done, corner in enumerate(corners, start=1):
        parts.append(_read_tile(slide, cells, index, corner * core, core, mpp, stain))
        yield Progress(done, len(corners), "reading membranes")
    return _joined(cells, parts, mpp)


def _centres(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    return (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2


@dataclass(frozen=True, slots=True)
class _Part:
    rows: NDArray[np.int64]
    outlines: Outlines
    bands: Bands
    specks: NDArray[np.bool_]


def _read_tile(
    slide: Slide,
    cells: Detections,
    index: GridIndex,
    corner: NDArray[np.float64],
    core: NDArray[np.float64],
    mpp: float,
    stain: SlideStain,
) -> _Part:
    halo = HALO_UM / CORE_UM * core
    low = np.maximum(np.floor(corner - halo), 0).astype(int)
    high = np.minimum(np.ceil(corner + core + halo), slide.size).astype(int)
    region = Region(int(low[0]), int(low[1]), *(int(n) for n in high - low))
    amounts = stain.amounts(slide.read(region, mpp))
    dab = np.ascontiguousarray(amounts[..., 1])
    # The picture's own scale: its sides are whole pixels.
    step = (high - low) / np.array(dab.shape[::-1])
    near = np.sort(index.near(region))
    centres = _centres(cells.boxes[near])
    seen = inside(centres, region)
    near, centres = near[seen], centres[seen]
    boxes = (cells.boxes[near] - np.tile(low, 2)) / np.tile(step, 2)
    specks = find_specks(boxes, amounts, mpp=mpp)
    outlines = draw_outlines(boxes, dab, mpp=mpp, ignored=specks)
    bands = read_bands(outlines, dab, mpp=mpp)
    own = np.asarray(((centres >= corner) & (centres < corner + core)).all(axis=1))
    return _kept(outlines, bands, specks, near, own, low, step)


def _kept(
    outlines: Outlines,
    bands: Bands,
    specks: NDArray[np.bool_],
    near: NDArray[np.int64],
    own: NDArray[np.bool_],
    low: NDArray[Any],
    step: NDArray[Any],
) -> _Part:
    """The tile's own cells, in level-0 px, neighbours by their row in the slide's table."""
    scale = np.float32(step.mean())
    facing = outlines.neighbours[own]
    neighbours = np.where(facing == NOBODY, NOBODY, near[facing])
    drawn = Outlines(
        np.asarray(outlines.centres[own] * step + low, np.float32),
        outlines.nuclear[own] * scale,
        outlines.radii[own] * scale,
        neighbours,
    )
    read = Bands(
        bands.band[own], bands.beside[own], bands.arcs[own], neighbours, bands.cytoplasm[own]
    )
    return _Part(near[own], drawn, read, specks[own])


def _joined(cells: Detections, parts: list[_Part], mpp: float) -> Her2Cells:
    """All parts in the order of `cells`."""
    if not parts:
        none = draw_outlines(np.zeros((0, 4)), np.zeros((1, 1), np.float32), mpp=mpp)
        empty = read_bands(none, np.zeros((1, 1), np.float32), mpp=mpp)
        return Her2Cells(cells, none, empty, np.zeros(0, bool), mpp)
    order = np.argsort(np.concatenate([p.rows for p in parts]), kind="stable")

    def column(which: str, name: str) -> Any:
        return np.concatenate([getattr(getattr(p, which), name) for p in parts])[order]

    outlines = Outlines(*(column("outlines", n) for n in Outlines.__dataclass_fields__))
    # Who faces whom is the same column in both, and a fifth of what is kept of a cell.
    read = {n: column("bands", n) for n in Bands.__dataclass_fields__ if n != "neighbours"}
    bands = Bands(neighbours=outlines.neighbours, **read)
    specks = np.concatenate([p.specks for p in parts])[order]
    return Her2Cells(cells, outlines, bands, specks, mpp)
