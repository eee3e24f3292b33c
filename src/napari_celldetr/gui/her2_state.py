"""What is measured on one HER2 slide, which of it is tumour, and what it amounts to. No Qt here.

Cells are measured once; cut-offs, tumour and places are asked about as often as one likes, each
answer taking milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.grid_index import GridIndex, inside
from napari_celldetr.core.her2 import (
    Assessment,
    Cutoffs,
    Exclusion,
    JudgedCells,
    Pattern,
    assess,
    cell_scores,
    classify_cells,
)
from napari_celldetr.core.her2.assessment import DRAWS
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.membrane import Membranes
from napari_celldetr.pipeline.her2.outline import ANGLES, RAYS
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.tumour import Refusal, Tumour
from napari_celldetr.pipeline.her2.zones import Zone

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]
NOT_DRAWN, NOT_COUNTED = 0, 5
"""Values of `Her2State.values` beside 1 + index into `SCORES`."""


@dataclass(frozen=True)
class CellFacts:
    """All that is known of one measured cell; `why_not` is empty for one that counts."""

    row: int
    pattern: Pattern
    intensity: float
    completeness: float
    cytoplasm: float
    area_um2: float
    why_not: str


class Her2State:
    """Measured cells of one slide with the cut-offs, the tumour and the branch that are chosen.

    `refused` says why the slide must not be scored, None where it may be; `stain` is what the
    cells were read with, and `control` what evened it out.
    """

    def __init__(
        self,
        reading: Her2Reading,
        *,
        stain: SlideStain | None = None,
        refused: Refusal | None = None,
    ) -> None:
        self.reading = reading
        self.stain = stain or SlideStain()
        self.refused = refused
        self.control: Control | None = None
        self.cutoffs = Cutoffs()
        self.tumour = Tumour()
        self.branch = ""
        self._present = np.ones(len(reading), bool)
        self._index = GridIndex(self.centres)
        self._forget()
        self.membranes: Membranes = reading.measured.membranes(self.cutoffs)
        self.judged: JudgedCells = reading.judged(self.cutoffs)

    def __len__(self) -> int:
        return int(self._present.sum())

    @property
    def centres(self) -> NDArray[np.float32]:
        """x, y (N, 2) of the nuclei, level-0 px."""
        return self.reading.measured.outlines.centres

    # What is chosen ---------------------------------------------------------------------

    def use_cutoffs(self, cutoffs: Cutoffs) -> None:
        """Judge the cells anew; only the lowest cut-off takes more than a moment."""
        if cutoffs == self.cutoffs:
            return
        if cutoffs.weak != self.cutoffs.weak:
            self.membranes = self.reading.measured.membranes(cutoffs)
        found, self.cutoffs = self.membranes, cutoffs
        patterns = classify_cells(found.intensity, found.completeness, cutoffs)
        self.judged = replace(self.judged, patterns=patterns)
        self._forget()

    def use_tumour(self, tumour: Tumour) -> None:
        """Count inside another tumour."""
        self.tumour = tumour
        self._forget()

    def light(self, branch: str) -> None:
        """Light up the cells of a branch of the tree; '' for none."""
        self.branch = branch

    def keep(self, boxes: NDArray[np.float32]) -> int:
        """Count only cells whose nucleus is among `boxes`; how many of these are not measured.

        A corrected cell has another box, so it leaves the count until it is measured.
        """
        have, now = _as_words(self.reading.measured.cells.boxes), _as_words(boxes)
        self._present = np.isin(have, now)
        self._forget()
        return int((~np.isin(now, have)).sum())

    def _forget(self) -> None:
        self.__dict__.pop("in_tumour", None)
        self._of_slide: dict[int, Assessment] = {}

    @cached_property
    def in_tumour(self) -> Bools:
        """Which cells (N,) are present and in the tumour."""
        return self._present & self.tumour.inside(self.centres)

    @property
    def refusal(self) -> Refusal | None:
        """Why there must be no score, and what to do; None where there may be one."""
        return self.tumour.refusal or self.refused

    @property
    def is_whole(self) -> bool:
        """Whether all measured cells are still there."""
        return bool(self._present.all())

    # What it amounts to -----------------------------------------------------------------

    def of_slide(self, *, draws: int = DRAWS) -> Assessment:
        """All cells of the tumour; `draws` 0 leaves out what is slow about intervals."""
        if draws not in self._of_slide:
            self._of_slide[draws] = self._assess(self.judged, self.in_tumour, draws)
        return self._of_slide[draws]

    def of_rows(self, rows: Rows) -> Assessment:
        """Those of some cells that are in the tumour."""
        judged = self.judged
        part = replace(
            judged,
            centres=judged.centres[rows],
            patterns=judged.patterns[rows],
            areas_um2=judged.areas_um2[rows],
            excluded=judged.excluded[rows],
        )
        return self._assess(part, self.in_tumour[rows], 0)

    def of_view(self, region: Region) -> Assessment:
        """What is on the screen."""
        return self.of_rows(self.rows_in(region))

    def of_zone(self, zone: Zone) -> Assessment:
        """What is in one zone of the tumour."""
        return self.of_rows(np.flatnonzero(zone.contains(self.centres)))

    def _assess(self, cells: JudgedCells, which: Bools, draws: int) -> Assessment:
        return assess(
            cells,
            which,
            tumour_confirmed=self.tumour.confirmed,
            refusal=self.refusal.reason if self.refusal else "",
            draws=draws,
        )

    # Cells ------------------------------------------------------------------------------

    def rows_in(self, region: Region) -> Rows:
        """Present cells whose centre lies in a region."""
        rows = self._index.near(region)
        return rows[inside(self.centres[rows], region) & self._present[rows]]

    def rows_of_branch(self, key: str) -> Rows:
        """Cells that a branch of the tree counts: of the tumour, and not left out."""
        branches = [b for b in self.of_slide(draws=0).score.tree if b.key == key]
        patterns = [int(p) for b in branches for p in b.patterns]
        counted = self.in_tumour & (self.judged.excluded == 0)
        return np.flatnonzero(counted & np.isin(self.judged.patterns, patterns))

    def values(self) -> NDArray[np.uint8]:
        """How each cell (N,) is drawn: 1 + index into `SCORES`, `NOT_COUNTED` or `NOT_DRAWN`.

        While a branch is lit, all other cells are drawn as not counted.
        """
        values = (1 + cell_scores(self.judged.patterns)).astype(np.uint8)
        counted = self.in_tumour & (self.judged.excluded == 0)
        if self.branch:
            lit = np.zeros(len(values), bool)
            lit[self.rows_of_branch(self.branch)] = True
            counted &= lit
        values[~counted] = NOT_COUNTED
        values[~self._present] = NOT_DRAWN
        return values

    def cell_at(self, xy: tuple[float, float]) -> int | None:
        """The cell whose outline holds a point, the one in which it lies deepest."""
        outlines = self.reading.measured.outlines
        reach = 200
        rows = self.rows_in(Region(int(xy[0]) - reach, int(xy[1]) - reach, 2 * reach, 2 * reach))
        if not len(rows):
            return None
        apart = np.asarray(xy) - outlines.centres[rows]
        step = ANGLES[1]
        ray = np.rint(np.arctan2(apart[:, 1], apart[:, 0]) / step).astype(np.int64) % RAYS
        depth = outlines.radii[rows, ray] - np.hypot(apart[:, 0], apart[:, 1])
        best = int(np.argmax(depth))
        return int(rows[best]) if depth[best] >= 0 else None

    def polygons(self, rows: Rows) -> NDArray[np.float32]:
        """Corners (N, RAYS, 2) x, y of the outlines of some cells."""
        outlines = self.reading.measured.outlines
        turn = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
        reach = outlines.radii[rows][..., None] * turn
        return np.asarray(outlines.centres[rows][:, None] + reach, np.float32)

    def row_of_box(self, box: NDArray[np.float32]) -> int | None:
        """The measured cell whose nucleus has this box (4,)."""
        have = _as_words(self.reading.measured.cells.boxes)
        found = np.flatnonzero(have == _as_words(box[None])[0])
        return int(found[0]) if len(found) else None

    def facts(self, row: int) -> CellFacts:
        """What came out for one cell, and why it does not count if it does not."""
        found, judged = self.membranes, self.judged
        return CellFacts(
            row,
            Pattern(int(judged.patterns[row])),
            float(found.intensity[row]),
            float(found.completeness[row]),
            float(self.reading.measured.bands.cytoplasm[row]),
            float(judged.areas_um2[row]),
            self._why_not(row),
        )

    def _why_not(self, row: int) -> str:
        if self.judged.excluded[row]:
            return Exclusion(int(self.judged.excluded[row])).words
        if not self._present[row]:
            return "deleted or changed since it was measured"
        return "" if self.in_tumour[row] else "outside the tumour"


def _as_words(boxes: NDArray[Any]) -> NDArray[Any]:
    """Boxes (N, 4) float32 as one comparable value each."""
    return np.ascontiguousarray(boxes, np.float32).view("V16").ravel()
