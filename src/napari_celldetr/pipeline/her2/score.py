"""Score a HER2 slide: nuclei, membranes, tumour, rule; and where no score may be given, why.

Whatever could be measured is in the result, whether there is a score or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_celldetr.core.config import check
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region, bounding_region
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.registry import find_model
from napari_celldetr.pipeline.detect import DetectProgress, DetectReport, detect
from napari_celldetr.pipeline.her2.coverage import stain_coverage
from napari_celldetr.pipeline.her2.exclusions import find_exclusions
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.networks import (
    Networks,
    ask_networks,
    installed_networks,
)
from napari_celldetr.pipeline.her2.reading import Her2Reading, square_mpp
from napari_celldetr.pipeline.her2.result import Control, Her2Result, Rules, conclude, too_coarse
from napari_celldetr.pipeline.her2.settings import (
    CELLS_UP_TO_MPP,
    Her2Config,
)
from napari_celldetr.pipeline.her2.slide_stain import SlideStain, calibrate, estimate_slide_stain
from napari_celldetr.pipeline.her2.tumour_areas import Tumour
from napari_celldetr.pipeline.her2.tumour_request import (
    TumourRequest,
    find_tumour,
    refuse_no_pair,
    refuse_tumour_elsewhere,
    require_stains,
)
from napari_celldetr.pipeline.her2.zone_shapes import Zone
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask

__all__ = ["TumourRequest", "score_her2", "score_tumour"]

AROUND_UM = 60.0
"""Nuclei are looked for this far around the tumour: cells at its edge have neighbours outside."""


def score_her2(
    ihc: Slide,
    config: Her2Config | None = None,
    *,
    tumour: TumourRequest | None = None,
    rules: Rules | None = None,
    cells: Detections | None = None,
    control: Control | None = None,
    networks: Networks | None = None,
    predictor: Predictor | None = None,
    workspace: str | Path | None = None,
    fresh: bool = False,
) -> Job[Her2Result]:
    """Measure and score an IHC slide.

    Parameters
    ----------
    ihc : Slide
        Open; it must stay open until the job has ended.
    config, rules : optional
    tumour : TumourRequest, optional
        Without it, everything is measured and nothing scored.
    cells : Detections, optional
        Nuclei that are known, perhaps corrected; by default they are detected.
    control : Control, optional
        Control tissue that evens out how strongly this lot is stained.
    networks : Networks, optional
        By default those that are installed, if ``config.networks``.
    predictor, workspace, fresh
        As `detect` takes them.

    Yields
    ------
    Progress
        After every tile of every step.

    Raises
    ------
    SlideError
        A slide cannot be read, is stained otherwise than it should be, or is given twice.
    TransformError
        The transform is that of other slides.
    ModelError, ConfigError, JobError
        As `detect` raises them.
    DataError
        The control is too little, or too far from what is expected; or no tumour area lies on
        the slide that it was drawn on.
    """
    asked = tumour or TumourRequest()
    chosen = check(config or Her2Config())
    refuse_no_pair(asked, ihc)
    refuse_tumour_elsewhere(asked, ihc)
    used = networks or _networks(chosen, asked, ihc)
    kinds = require_stains(ihc, asked.he)
    yield Progress(0, 0, "stains recognised")
    known = yield from find_tumour(ihc, asked, chosen, used)
    found = yield from score_tumour(
        ihc,
        known,
        chosen,
        rules=rules,
        cells=cells,
        control=control,
        networks=used,
        predictor=predictor,
        workspace=workspace,
        fresh=fresh,
    )
    return replace(found, kinds=kinds)


def score_tumour(
    ihc: Slide,
    tumour: Tumour,
    config: Her2Config,
    *,
    rules: Rules | None = None,
    cells: Detections | None = None,
    control: Control | None = None,
    networks: Networks | None = None,
    predictor: Predictor | None = None,
    workspace: str | Path | None = None,
    fresh: bool = False,
) -> Job[Her2Result]:
    """`score_her2` of a tumour that is known already; no networks are asked but those given."""
    used = networks or Networks()
    start = Her2Result(ihc, config, rules or Rules(), tumour, SlideStain(), asked=used)
    if ihc.mpp is None or max(ihc.mpp) > CELLS_UP_TO_MPP:
        return (yield from _covered(replace(start, stain=_plain_stain(ihc))))
    yield Progress(0, 0, "estimating the stain")
    stain = estimate_slide_stain(ihc)
    if control is not None:
        stain = calibrate(stain, ihc, control.region, expected_od=control.expected_od)
    nuclei, report = cells, None
    if nuclei is None:
        nuclei, report = yield from _detected(ihc, tumour, config, predictor, workspace, fresh)
    reading = yield from _read(ihc, nuclei, stain)
    found = replace(
        start,
        stain=stain,
        control=control,
        given=cells is not None,
        detection=report,
        card=_card(config, predictor) if cells is None else None,
    )
    done = conclude(found, reading)
    if done.judged is None or not done.counted.any():
        return done
    outlines = reading.measured.outlines
    said = yield from ask_networks(ihc, used, tumour, outlines, done.judged, done.counted)
    return replace(done, networks=said)


def _networks(config: Her2Config, asked: TumourRequest, ihc: Slide) -> Networks:
    needed = asked.he is not None and not asked.zones and not asked.assumed
    others = config.networks and ihc.mpp is not None
    return installed_networks(config.device, tumour=needed, others=others)


def _covered(start: Her2Result) -> Generator[Progress, None, Her2Result]:
    """Coverage by pixels, where there can be no cells."""
    found = yield from stain_coverage(start.slide, start.stain, start.tumour, start.rules.cutoffs)
    return replace(start, coverage=found, refusal=too_coarse(start.slide))


def _plain_stain(slide: Slide) -> SlideStain:
    """The glass of the tissue mask and the usual stains: nothing here needs a pixel size."""
    glass = tissue_mask(slide).glass
    notes = (
        f"White: {glass[0]:.0f}/{glass[1]:.0f}/{glass[2]:.0f}, the slide's glass.",
        "Stains: the usual ones.",
    )
    return SlideStain(glass, notes=notes)


def _detected(
    ihc: Slide,
    tumour: Tumour,
    config: Her2Config,
    predictor: Predictor | None,
    workspace: str | Path | None,
    fresh: bool,
) -> Generator[Progress, None, tuple[Detections, DetectReport]]:
    """Nuclei of the tumour and around it, or of all tissue; and what became of the tiles."""
    job = detect(
        ihc,
        config.detecting(),
        predictor=predictor,
        region=_around(ihc, tumour.zones),
        workspace=workspace,
        fresh=fresh,
    )
    report = DetectReport()
    while True:
        try:
            step = next(job)
        except StopIteration as stop:
            return stop.value, report
        report = step.report if isinstance(step, DetectProgress) else report
        yield step


def _card(config: Her2Config, predictor: Predictor | None) -> ModelCard:
    return predictor.card if predictor is not None else read_card(find_model(config.model))


def _around(slide: Slide, zones: Sequence[Zone]) -> Region | None:
    """What holds the zones and a little around them; None for the whole slide."""
    boxes = []
    for zone in zones:
        low, high = zone.outline.corners.min(axis=0), zone.outline.corners.max(axis=0)
        x0, y0 = np.floor(low).astype(int).tolist()
        x1, y1 = (np.ceil(high).astype(int) + 1).tolist()
        boxes.append(Region.from_edges(x0, y0, x1, y1))
    whole = bounding_region(boxes)
    if whole is None:
        return None
    return whole.grow(int(AROUND_UM / min(slide.known_mpp()))).intersect(slide.region)


def _read(
    ihc: Slide, cells: Detections, stain: SlideStain
) -> Generator[Progress, None, Her2Reading]:
    """Membranes, and which cells must not be counted."""
    measured = yield from measure_cells(ihc, cells, stain=stain)
    excluded = yield from find_exclusions(ihc, measured, stain=stain)
    return Her2Reading(measured, excluded, square_mpp(ihc))
