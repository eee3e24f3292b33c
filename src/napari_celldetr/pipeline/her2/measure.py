"""The cells of a slide, each with what lies along its membrane: read tile by tile, judged at once.

Reading takes seconds to minutes and does not depend on any cut-off; judging takes 5 to
10 µs a cell.
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
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS, Outlines, draw_outlines
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows
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
    found = _Collected(len(cells))
    yield Progress(0, len(corners), "reading membranes")
    for done, corner in enumerate(corners, start=1):
        found.add(_read_tile(slide, cells, index, corner * core, core, mpp, stain))
        yield Progress(done, len(corners), "reading membranes")
    return found.cells(cells, mpp)


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
    # Where pixels are not square, an outline keeps its area.
    scale = np.float32(np.sqrt(step.prod()))
    drawn = Outlines(
        np.asarray(outlines.centres[own] * step + low, np.float32),
        outlines.radii[own] * scale,
    )
    faced = bands.faced.select(own)
    rows = near.astype(np.int32)[faced.values]
    faced = replace(faced, values=np.where(faced.values == NOBODY, NOBODY, rows))
    lines = bands.lines.select(own)
    read = Bands(drawn.radii, lines, bands.level[own], faced, bands.cytoplasm[own])
    return _Part(near[own], drawn, read, specks[own])


class _Collected:
    """All N cells, filled in tile by tile: a large slide is never held twice."""

    def __init__(self, n: int) -> None:
        self._outlines = Outlines(np.zeros((n, 2), np.float32), np.zeros((n, RAYS), np.float32))
        self._level, self._cytoplasm = np.zeros((2, n), np.float32)
        self._specks = np.zeros(n, bool)
        self._lines: list[tuple[NDArray[np.int64], SparseRows]] = []
        self._faced: list[tuple[NDArray[np.int64], SparseRows]] = []

    def add(self, part: _Part) -> None:
        """What one tile holds."""
        rows, bands = part.rows, part.bands
        self._outlines.centres[rows] = part.outlines.centres
        self._outlines.radii[rows] = part.outlines.radii
        self._level[rows], self._cytoplasm[rows] = bands.level, bands.cytoplasm
        self._specks[rows] = part.specks
        self._lines.append((rows, bands.lines))
        self._faced.append((rows, bands.faced))

    def cells(self, cells: Detections, mpp: float) -> Her2Cells:
        """All of them, in the order of `cells`."""
        n, drawn = len(cells), self._outlines
        if not n:
            none = draw_outlines(np.zeros((0, 4)), np.zeros((1, 1), np.float32), mpp=mpp)
            empty = read_bands(none, np.zeros((1, 1), np.float32), mpp=mpp)
            return Her2Cells(cells, drawn, empty, self._specks, mpp)
        lines = SparseRows.assembled(self._lines, n)
        faced = SparseRows.assembled(self._faced, n)
        bands = Bands(drawn.radii, lines, self._level, faced, self._cytoplasm)
        return Her2Cells(cells, drawn, bands, self._specks, mpp)
