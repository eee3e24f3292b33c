"""What is measured on one HER2 slide, which of it is tumour, and what it amounts to. No Qt here.

Cells are measured once; places are asked about as often as one likes. Other cut-offs and another
tumour make another verdict: of ten thousand cells in some hundredths of a second, of a million in
seconds, and then not in the window's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.grid_index import GridIndex, inside
from napari_celldetr.core.her2 import (
    Assessment,
    Cutoffs,
    Exclusion,
    JudgedCells,
    Pattern,
    cell_scores,
)
from napari_celldetr.core.her2.assessment import DRAWS
from napari_celldetr.core.progress import Job, drain
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_verdict import (
    Asked,
    Verdict,
    box_numbers,
    intervals_job,
    verdict_job,
)
from napari_celldetr.pipeline.her2.caveats import evened_out, own_settings
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

    What is chosen counts from the next `settle` on, or from when a verdict of `asking` is taken;
    until then all answers are those of the verdict that stands. `refused` says why the slide must
    not be scored, None where it may be; `stain` is what the cells were read with, `control` what
    evened it out, and `notes` what could not be told of the slide.
    """

    def __init__(
        self,
        reading: Her2Reading,
        *,
        stain: SlideStain | None = None,
        refused: Refusal | None = None,
        control: Control | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.reading = reading
        self.stain = stain or SlideStain()
        self.control = control
        self.notes = notes
        self.branch = ""
        self._index = GridIndex(self.centres)
        self.asked = Asked(refused=refused)
        self.verdict: Verdict = drain(verdict_job(reading, self.asked))
        self._drawn: Assessment | None = None

    def __len__(self) -> int:
        return int(self.verdict.present.sum())

    @property
    def centres(self) -> NDArray[np.float32]:
        """x, y (N, 2) of the nuclei, level-0 px."""
        return self.reading.measured.outlines.centres

    def remarks(self) -> list[str]:
        """What a person changed that moves the score: cut-offs of the verdict, and the stain."""
        own = own_settings("Cut-offs", self.cutoffs)
        return [*own, *evened_out(self.control, self.stain)]

    # What is chosen ---------------------------------------------------------------------

    def choose(self, *, cutoffs: Cutoffs | None = None, tumour: Tumour | None = None) -> None:
        """Choose other cut-offs or another tumour, for the next verdict."""
        asked = self.asked
        self.asked = replace(asked, cutoffs=cutoffs or asked.cutoffs, tumour=tumour or asked.tumour)

    def keep(self, boxes: NDArray[np.float32]) -> None:
        """From the next verdict on count only cells whose nucleus is among `boxes`."""
        self.asked = replace(self.asked, boxes=boxes)

    @property
    def is_settled(self) -> bool:
        """Whether what stands is what is chosen."""
        return self.verdict.asked is self.asked

    def asking(self) -> Callable[[], Job[Verdict]]:
        """What makes the verdict on what is chosen now, in any thread."""
        reading, asked, before = self.reading, self.asked, self.verdict
        return lambda: verdict_job(reading, asked, before)

    def take(self, verdict: Verdict) -> None:
        """Let another verdict stand."""
        self.verdict, self._drawn = verdict, None

    def settle(self) -> None:
        """Wait for the verdict on what is chosen, and let it stand."""
        if not self.is_settled:
            self.take(drain(self.asking()()))

    def use_cutoffs(self, cutoffs: Cutoffs) -> None:
        """Judge the cells anew at once; only the lowest cut-off takes more than a moment."""
        self.choose(cutoffs=cutoffs)
        self.settle()

    def use_tumour(self, tumour: Tumour) -> None:
        """Count inside another tumour at once."""
        self.choose(tumour=tumour)
        self.settle()

    def light(self, branch: str) -> None:
        """Light up the cells of a branch of the tree; '' for none."""
        self.branch = branch

    # What stands ------------------------------------------------------------------------

    @property
    def cutoffs(self) -> Cutoffs:
        """Cut-offs of the verdict."""
        return self.verdict.asked.cutoffs

    @property
    def tumour(self) -> Tumour:
        """Tumour of the verdict."""
        return self.verdict.asked.tumour

    @property
    def membranes(self) -> Membranes:
        """Completeness and intensity of each cell."""
        return self.verdict.membranes

    @property
    def judged(self) -> JudgedCells:
        """What each cell is."""
        return self.verdict.judged

    @property
    def in_tumour(self) -> Bools:
        """Which cells (N,) are present and in the tumour."""
        return self.verdict.in_tumour

    @property
    def refusal(self) -> Refusal | None:
        """Why there must be no score, and what to do; None where there may be one."""
        return self.verdict.asked.refusal

    @property
    def unmeasured(self) -> int:
        """How many nuclei of the slide are new or changed, and not measured."""
        return self.verdict.unmeasured

    @property
    def is_whole(self) -> bool:
        """Whether all measured cells are still there."""
        return bool(self.verdict.present.all())

    # What it amounts to -----------------------------------------------------------------

    def of_slide(self, *, draws: int = DRAWS) -> Assessment:
        """All cells of the tumour; `draws` 0 leaves out what is slow about intervals."""
        if not draws:
            return self._drawn or self.verdict.whole
        if self._drawn is None:
            self._drawn = drain(intervals_job(self.verdict))
        return self._drawn

    def take_intervals(self, found: Assessment) -> None:
        """What `intervals_job` gave for the verdict that stands."""
        self._drawn = found

    def of_rows(self, rows: Rows) -> Assessment:
        """Those of some cells that are in the tumour."""
        if len(rows) == len(self):
            return self.verdict.whole
        judged = self.judged
        part = replace(
            judged,
            centres=judged.centres[rows],
            patterns=judged.patterns[rows],
            areas_um2=judged.areas_um2[rows],
            excluded=judged.excluded[rows],
        )
        return self.verdict.asked.assess(part, self.in_tumour[rows], 0)

    def of_view(self, region: Region) -> Assessment:
        """What is on the screen."""
        return self.of_rows(self.rows_in(region))

    def of_zone(self, zone: Zone) -> Assessment:
        """What is in one zone of the tumour."""
        inner = zone.contains(self.centres) & self.verdict.present
        return self.of_rows(np.flatnonzero(inner))

    # Cells ------------------------------------------------------------------------------

    def rows_in(self, region: Region) -> Rows:
        """Present cells whose centre lies in a region."""
        rows = self._index.near(region)
        return rows[inside(self.centres[rows], region) & self.verdict.present[rows]]

    def rows_of_branch(self, key: str) -> Rows:
        """Cells that a branch of the tree counts: of the tumour, and not left out."""
        branches = [b for b in self.of_slide(draws=0).score.tree if b.key == key]
        patterns = [int(p) for b in branches for p in b.patterns]
        return np.flatnonzero(self.verdict.counted & np.isin(self.judged.patterns, patterns))

    def values(self) -> NDArray[np.uint8]:
        """How each cell (N,) is drawn: 1 + index into `SCORES`, `NOT_COUNTED` or `NOT_DRAWN`.

        While a branch is lit, all other cells are drawn as not counted.
        """
        values = (1 + cell_scores(self.judged.patterns)).astype(np.uint8)
        counted = self.verdict.counted
        if self.branch:
            lit = np.zeros(len(values), bool)
            lit[self.rows_of_branch(self.branch)] = True
            counted = counted & lit
        values[~counted] = NOT_COUNTED
        values[~self.verdict.present] = NOT_DRAWN
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
        have = box_numbers(self.reading.measured.cells.boxes)
        found = np.flatnonzero(have == box_numbers(box[None])[0])
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
        if not self.verdict.present[row]:
            return "deleted or changed since it was measured"
        return "" if self.in_tumour[row] else "outside the tumour"
