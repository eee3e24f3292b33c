"""The job behind *Measure HER2*: outlines and membranes of a slide's cells; nothing touches Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np

from napari_celldetr.core.annotations import CorrectedCells
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.pipeline.her2.measure import HALO_UM, measure_cells
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.slide_stain import (
    SlideStain,
    calibrate,
    estimate_slide_stain,
)
from napari_celldetr.slides.slide import Slide

COARSEST_MPP = 0.55
"""A membrane is a micrometre wide: on coarser slides it cannot be told from what is beside it."""


@dataclass(frozen=True)
class MeasureRequest:
    """Which cells of which slide; those in `first` are measured, and shown, before the others."""

    source: SlideSource
    cells: Callable[[], CorrectedCells]
    first: Region | None = None
    control: tuple[Region, float] | None = None
    """An on-slide control and the DAB optical density that is expected of it."""


@dataclass(frozen=True)
class Measured:
    """What was measured, ready to be asked, and with which stains."""

    state: Her2State
    stain: SlideStain


@dataclass(frozen=True, slots=True)
class MeasureStep(Progress):
    """A step that brings the cells in view before all others are measured."""

    early: Her2State | None = None


def measure_job(request: MeasureRequest) -> Job[Measured]:
    """Open the slide, see whether it can be measured, read the membranes."""
    started = time.perf_counter()
    yield Progress(0, 0, "Opening the slide…")
    cells = request.cells().cells
    with request.source.open() as slide:
        prepared = yield from _prepare(slide, request.control)
        if request.first is not None:
            early = _in_view(cells, request.first, slide)
            if 0 < len(early) < len(cells):
                state = yield from _measure(slide, early, prepared, started)
                yield MeasureStep(0, 0, "Measuring all other cells…", early=state)
        state = yield from _measure(slide, cells, prepared, started)
    return Measured(state, prepared.stain)


@dataclass(frozen=True)
class _Prepared:
    stain: SlideStain
    refusal: str


def _prepare(
    slide: Slide, control: tuple[Region, float] | None
) -> Generator[Progress, None, _Prepared]:
    """The slide's light and stains, and why it must not be scored."""
    mpp = float(np.mean(slide.known_mpp()))
    yield Progress(0, 0, "Looking at the stain…")
    stain = estimate_slide_stain(slide)
    if control is not None:
        yield Progress(0, 0, "Reading the control…")
        stain = calibrate(stain, slide, control[0], expected_od=control[1])
    return _Prepared(stain, refusal_of(mpp))


def refusal_of(mpp: float) -> str:
    """Why a slide of such a pixel size must not be scored, '' where it may be."""
    if mpp <= COARSEST_MPP:
        return ""
    return (
        f"a pixel is {mpp:.2f} µm wide, and membranes are judged up to {COARSEST_MPP} µm only: "
        "the figures are coverage without a score; scan at 20× or 40×"
    )


def _in_view(cells: Detections, view: Region, slide: Slide) -> Detections:
    margin = round(HALO_UM / float(np.mean(slide.known_mpp())))
    return cells.select(inside(cells.centres, view.grow(margin)))


def _measure(
    slide: Slide, cells: Detections, prepared: _Prepared, started: float
) -> Generator[Progress, None, Her2State]:
    job = measure_cells(slide, cells, stain=prepared.stain)
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                measured = end.value
                break
            yield replace(step, seconds=time.perf_counter() - started)
    finally:
        job.close()
    yield Progress(0, 0, "Judging the cells…")
    excluded = np.zeros(len(cells), np.int8)
    reading = Her2Reading(measured, excluded, float(np.mean(slide.known_mpp())))
    return Her2State(reading, refusal=prepared.refusal)
