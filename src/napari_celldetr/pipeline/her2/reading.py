"""A slide's cells as read once, and as judged with any cut-offs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Cutoffs, JudgedCells, classify_cells
from napari_celldetr.pipeline.her2.measure import Her2Cells
from napari_celldetr.pipeline.her2.membrane import AT_ONCE, Membranes
from napari_celldetr.pipeline.her2.outline import RAYS, Outlines
from napari_celldetr.slides.slide import Slide


@dataclass(frozen=True, slots=True, eq=False)
class Her2Reading:
    """N cells of a slide, and which of them must not be counted.

    Attributes
    ----------
    measured : Her2Cells
    excluded : (N,) int8
        Codes of `Exclusion`; 0 counts.
    mpp : float
        µm per level-0 px, as `square_mpp` gives it.
    """

    measured: Her2Cells
    excluded: NDArray[np.int8]
    mpp: float

    def __len__(self) -> int:
        return len(self.excluded)

    def judged(self, cutoffs: Cutoffs | None = None) -> JudgedCells:
        """What each cell is with these cut-offs; about 5 to 10 µs a cell."""
        cut = cutoffs or Cutoffs()
        return self.judged_by(self.measured.membranes(cut), cut, self.areas_um2())

    def judged_by(
        self, membranes: Membranes, cutoffs: Cutoffs, areas_um2: NDArray[np.float32]
    ) -> JudgedCells:
        """The same of membranes and areas (N,) that are known already."""
        return JudgedCells(
            self.measured.outlines.centres,
            classify_cells(membranes.intensity, membranes.completeness, cutoffs),
            areas_um2,
            self.excluded,
            self.mpp,
        )

    def areas_um2(self) -> NDArray[np.float32]:
        """Area (N,) of each cell."""
        return cell_areas(self.measured.outlines) * np.float32(self.mpp**2)


def cell_areas(outlines: Outlines) -> NDArray[np.float32]:
    """Area (N,) of each cell, in px² of its outlines."""
    found = np.zeros(len(outlines), np.float32)
    for start in range(0, len(outlines), AT_ONCE):
        radii = outlines.radii[start : start + AT_ONCE]
        halves = (radii * np.roll(radii, -1, axis=1)).sum(axis=1) * np.sin(2 * np.pi / RAYS) / 2
        found[start : start + AT_ONCE] = halves
    return found


def square_mpp(slide: Slide) -> float:
    """µm per level-0 px in one number: the side of a square as large as a pixel.

    So that areas come out right on slides whose pixels are not square. `SlideError` where the
    pixel size is not known.
    """
    return math.sqrt(math.prod(slide.known_mpp()))
