"""The job behind *Measure HER2*: outlines and membranes of a slide's cells; nothing touches Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from napari_celldetr.core.annotations import CorrectedCells
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.pipeline.her2.caveats import stain_doubts
from napari_celldetr.pipeline.her2.exclusions import find_exclusions
from napari_celldetr.pipeline.her2.kept import KeptReading
from napari_celldetr.pipeline.her2.measure import HALO_UM, measure_cells
from napari_celldetr.pipeline.her2.reading import Her2Reading, square_mpp
from napari_celldetr.pipeline.her2.result import Control, Her2Result, Rules, too_coarse
from napari_celldetr.pipeline.her2.score import score_tumour
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.slide_stain import (
    SlideStain,
    calibrate,
    estimate_slide_stain,
)
from napari_celldetr.pipeline.her2.stain_kind import require_stain
from napari_celldetr.pipeline.her2.tumour import Refusal, Tumour
from napari_celldetr.pipeline.her2.tumour_request import require_stains
from napari_celldetr.slides.slide import Slide

T = TypeVar("T")


@dataclass(frozen=True)
class MeasureRequest:
    """Which cells of which slide; those in `first` are measured, and shown, before the others.

    `keep` writes down what was measured.
    """

    source: SlideSource
    cells: Callable[[], CorrectedCells]
    first: Region | None = None
    control: Control | None = None
    keep: Callable[[KeptReading], None] | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured: cells ready to be asked, or, without them, coverage by pixels.

    The slide of `covered` is closed. `problem` says why cells could not be kept.
    """

    state: Her2State | None = None
    covered: Her2Result | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class MeasureStep(Progress):
    """A step that brings the cells in view before all others are measured."""

    early: Her2State | None = None


def check_job(source: SlideSource) -> Job[None]:
    """`SlideError` where the slide is surely stained otherwise: nothing is looked for there."""
    yield Progress(0, 0, "Looking at the stain…")
    with source.open() as slide:
        require_stain(slide, "H-DAB")


def measure_job(request: MeasureRequest) -> Job[Measured]:
    """Open the slide, see whether it can be measured, read the membranes."""
    started = time.perf_counter()
    yield Progress(0, 0, "Opening the slide…")
    cells = request.cells().cells
    with request.source.open() as slide:
        yield Progress(0, 0, "Looking at the stain…")
        notes = stain_doubts(require_stains(slide))
        stain = yield from _stain(slide, request.control)
        if request.first is not None:
            early = _in_view(cells, request.first, slide)
            if 0 < len(early) < len(cells):
                state = yield from _measure(slide, early, stain, started)
                yield MeasureStep(0, 0, "Measuring all other cells…", early=state)
        state = yield from _measure(
            slide, cells, stain, started, control=request.control, excluding=True
        )
        state.notes = notes
        yield Progress(0, 0, "Keeping what was measured…")
        return Measured(state, problem=_kept(request, state, too_coarse(slide)))


def _kept(request: MeasureRequest, state: Her2State, refused: Refusal | None) -> str:
    """Keep what was measured; why that failed: the cells are there all the same."""
    if request.keep is None:
        return ""
    try:
        request.keep(
            KeptReading(state.reading, state.stain, state.control, refused, notes=state.notes)
        )
    except CellDETRError as error:
        return str(error)
    return ""


def coverage_job(
    source: SlideSource, tumour: Tumour, cutoffs: Cutoffs, config: Her2Config | None = None
) -> Job[Measured]:
    """How much is stained how strongly, pixel by pixel, where cells cannot be measured."""
    yield Progress(0, 0, "Opening the slide…")
    with source.open() as slide:
        kinds = require_stains(slide)
        rules = Rules(cutoffs)
        found = yield from score_tumour(slide, tumour, config or Her2Config(), rules=rules)
        return Measured(covered=replace(found, kinds=kinds))


def _stain(slide: Slide, control: Control | None) -> Generator[Progress, None, SlideStain]:
    """The slide's light and stains, evened out by a control if there is one."""
    stain = estimate_slide_stain(slide)
    if control is not None:
        yield Progress(0, 0, "Reading the control…")
        stain = calibrate(stain, slide, control.region, expected_od=control.expected_od)
    return stain


def _in_view(cells: Detections, view: Region, slide: Slide) -> Detections:
    margin = round(HALO_UM / float(np.mean(slide.known_mpp())))
    return cells.select(inside(cells.centres, view.grow(margin)))


def _measure(
    slide: Slide,
    cells: Detections,
    stain: SlideStain,
    started: float,
    *,
    control: Control | None = None,
    excluding: bool = False,
) -> Generator[Progress, None, Her2State]:
    """The cells ready to be asked; `excluding` leaves out those that must not be counted."""
    measured = yield from _timed(measure_cells(slide, cells, stain=stain), started)
    excluded = np.zeros(len(cells), np.int8)
    if excluding:
        excluded = yield from _timed(find_exclusions(slide, measured, stain=stain), started)
    yield Progress(0, 0, "Judging the cells…")
    reading = Her2Reading(measured, excluded, square_mpp(slide))
    return Her2State(reading, stain=stain, refused=too_coarse(slide), control=control)


def _timed(job: Job[T], started: float) -> Generator[Progress, None, T]:
    """A job whose steps say how long all of it has taken."""
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                found: T = end.value
                return found
            yield replace(step, seconds=time.perf_counter() - started)
    finally:
        job.close()
