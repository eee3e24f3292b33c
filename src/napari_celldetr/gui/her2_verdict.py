"""What follows from cut-offs and tumour for measured cells: worked out whole, in any thread.

What stands is replaced by another verdict only once that is ready. No Qt here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Assessment, Cutoffs, JudgedCells, assess
from napari_celldetr.core.her2.assessment import DRAWS
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.pipeline.her2.membrane import Membranes, judge_job
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.tumour import Refusal, Tumour

Bools = NDArray[np.bool_]
Boxes = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a person has chosen; `boxes` (M, 4) are the slide's nuclei now, None for all measured.

    `refused` says why the slide must not be scored.
    """

    cutoffs: Cutoffs = field(default_factory=Cutoffs)
    tumour: Tumour = field(default_factory=Tumour)
    boxes: Boxes | None = None
    refused: Refusal | None = None

    @property
    def refusal(self) -> Refusal | None:
        """Why there must be no score, and what to do; None where there may be one."""
        return self.tumour.refusal or self.refused

    def assess(self, cells: JudgedCells, which: Bools, draws: int) -> Assessment:
        """What some cells amount to."""
        return assess(
            cells,
            which,
            tumour_confirmed=self.tumour.confirmed,
            refusal=self.refusal.reason if self.refusal else "",
            draws=draws,
        )


@dataclass(frozen=True, eq=False)
class Verdict:
    """What N measured cells are, and amount to, with what was asked.

    `present` (N,) are the cells that are still there, `in_tumour` (N,) those of them in the
    tumour; `unmeasured` is how many nuclei of the slide were not measured.
    """

    asked: Asked
    membranes: Membranes
    judged: JudgedCells
    present: Bools
    in_tumour: Bools
    unmeasured: int
    whole: Assessment

    @property
    def counted(self) -> Bools:
        """Cells (N,) that count."""
        return np.asarray(self.in_tumour & (self.judged.excluded == 0))


def verdict_job(reading: Her2Reading, asked: Asked, before: Verdict | None = None) -> Job[Verdict]:
    """Work out what is another than it was `before`; without intervals by drawing."""
    old = None if before is None else before.asked
    if before is None or old is None or asked.cutoffs.weak != old.cutoffs.weak:
        membranes = yield from judge_job(reading.measured.bands, asked.cutoffs)
    else:
        membranes = before.membranes
    yield Progress(0, 0, "counting the cells")
    if before is None or old is None or asked.cutoffs != old.cutoffs:
        areas = reading.areas_um2() if before is None else before.judged.areas_um2
        judged = reading.judged_by(membranes, asked.cutoffs, areas)
    else:
        judged = before.judged
    yield Progress(0, 0, "counting the cells")
    if before is None or old is None or asked.boxes is not old.boxes:
        present, unmeasured = _present(reading, asked.boxes)
    else:
        present, unmeasured = before.present, before.unmeasured
    yield Progress(0, 0, "counting the cells")
    in_tumour = present & asked.tumour.inside(judged.centres)
    yield Progress(0, 0, "counting the cells")
    whole = asked.assess(judged, in_tumour, 0)
    return Verdict(asked, membranes, judged, present, in_tumour, unmeasured, whole)


def intervals_job(verdict: Verdict) -> Job[Assessment]:
    """The whole tumour with intervals by drawing squares of the slide again."""
    yield Progress(0, 0, "drawing parts of the tumour again")
    return verdict.asked.assess(verdict.judged, verdict.in_tumour, DRAWS)


def _present(reading: Her2Reading, boxes: Boxes | None) -> tuple[Bools, int]:
    """Which measured cells are among `boxes`, and how many of these were not measured.

    A corrected cell has another box, so it leaves the count until it is measured.
    """
    if boxes is None:
        return np.ones(len(reading), bool), 0
    have, now = box_numbers(reading.measured.cells.boxes), box_numbers(boxes)
    return np.isin(have, now), int((~np.isin(now, have)).sum())


def box_numbers(boxes: NDArray[Any]) -> NDArray[np.uint64]:
    """One number (N,) for each box (N, 4) float32; of a million boxes two hardly ever share one."""
    halves = np.ascontiguousarray(boxes, np.float32).view(np.uint64).reshape(-1, 2)
    mixed = halves * np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
    mixed ^= mixed >> np.uint64(29)
    return np.asarray(mixed[:, 0] * np.uint64(0xBF58476D1CE4E5B9) + mixed[:, 1])
