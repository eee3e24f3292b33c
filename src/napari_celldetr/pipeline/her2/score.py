"""Score a HER2 slide: nuclei, membranes, tumour, rule; and where no score may be given, why.

Whatever could be measured is in the result, whether there is a score or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_celldetr.core.config import check
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region, bounding_region
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.detect import DetectProgress, DetectReport, detect
from napari_celldetr.pipeline.her2.coverage import stain_coverage
from napari_celldetr.pipeline.her2.exclusions import find_exclusions
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.networks import (
    Networks,
    ask_networks,
    installed_networks,
)
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.result import Control, Her2Result, Rules, conclude, too_coarse
from napari_celldetr.pipeline.her2.settings import (
    CELLS_UP_TO_MPP,
    Her2Config,
)
from napari_celldetr.pipeline.her2.slide_stain import SlideStain, calibrate, estimate_slide_stain
from napari_celldetr.pipeline.her2.stain_kind import require_stain
from napari_celldetr.pipeline.her2.tumour import (
    ASSUMED,
    Tumour,
    carried_tumour,
    drawn_tumour,
    unconfirmed,
)
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask

T = TypeVar("T")
AROUND_UM = 60.0
"""Nuclei are looked for this far around the tumour: cells at its edge have neighbours outside."""


@dataclass(frozen=True, slots=True)
class TumourRequest:
    """How the invasive tumour is to be known; the first that is given counts.

    Attributes
    ----------
    zones, cut_out : tuple of Zone
        Drawn by a person, on the H&E slide if `on_he`.
    on_he : bool
    he : Slide or None
        An open H&E slide of the same block; without `zones` a network looks for tumour there.
    transform : SlideTransform or None
        From the H&E slide; without it the slides are registered.
    assumed : bool
        A person says that all tissue is invasive tumour.
    """

    zones: tuple[Zone, ...] = ()
    cut_out: tuple[Zone, ...] = ()
    on_he: bool = False
    he: Slide | None = None
    transform: SlideTransform | None = None
    assumed: bool = False


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
        A slide cannot be read, or is stained otherwise than it should be.
    ModelError, ConfigError, JobError
        As `detect` raises them.
    DataError
        The control is too little, or too far from what is expected.
    """
    asked = tumour or TumourRequest()
    chosen = check(config or Her2Config())
    used = networks or _networks(chosen, asked, ihc)
    told = require_stains(ihc, asked.he)
    yield Progress(0, 0, "stains recognised")
    known = yield from _tumour(ihc, asked, chosen, used)
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
    return replace(found, notes=(*told, *found.notes))


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
    found = replace(start, stain=stain, control=control, given=cells is not None, detection=report)
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


def require_stains(ihc: Slide, he: Slide | None = None) -> tuple[str, ...]:
    """What cannot be told of stains; `SlideError` where one slide is surely the other kind."""
    kinds = [("IHC", require_stain(ihc, "H-DAB"))]
    if he is not None:
        kinds.append(("H&E", require_stain(he, "H&E")))
    return tuple(
        f"Whether the {side} slide is one cannot be told from its colours: {found.why}."
        for side, found in kinds
        if found.kind == "unknown"
    )


def _tumour(
    ihc: Slide, asked: TumourRequest, config: Her2Config, networks: Networks
) -> Generator[Progress, None, Tumour]:
    if asked.assumed:
        return Tumour(ASSUMED)
    if asked.zones and not asked.on_he:
        return drawn_tumour(asked.zones, asked.cut_out)
    if asked.he is None and asked.transform is None:
        return unconfirmed()
    refusal = None if ihc.mpp else too_coarse(ihc)
    if refusal is not None:
        return Tumour(refusal=refusal)
    return (
        yield from carried_tumour(
            asked.he,
            ihc,
            asked.transform,
            zones=asked.zones,
            cut_out=asked.cut_out,
            predictor=networks.tumour,
            tumour_from=config.tumour_from,
            limit_um=config.limit_um,
        )
    )


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
    mpp = float(np.mean(ihc.known_mpp()))
    return Her2Reading(measured, excluded, mpp)
