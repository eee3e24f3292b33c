"""Score a HER2 slide: nuclei, membranes, tumour, rule; and where no score may be given, why.

Whatever could be measured is in the result, whether there is a score or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import check
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.her2 import Assessment, Cutoffs, JudgedCells, Minimum, assess
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region, bounding_region
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.detect import DetectProgress, DetectReport, detect
from napari_celldetr.pipeline.her2.coverage import StainCoverage, stain_coverage
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.networks import (
    NetworkReadings,
    Networks,
    ask_networks,
    installed_networks,
)
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.settings import (
    CELLS_UP_TO_MPP,
    SCORED_UP_TO_MPP,
    Her2Config,
)
from napari_celldetr.pipeline.her2.slide_stain import SlideStain, estimate_slide_stain
from napari_celldetr.pipeline.her2.tumour import (
    ASSUMED,
    Refusal,
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


@dataclass(frozen=True, slots=True)
class Rules:
    """Where one kind of staining ends and the next begins, and how many cells it takes."""

    cutoffs: Cutoffs = Cutoffs()
    minimum: Minimum = Minimum()


@dataclass(frozen=True, slots=True, eq=False)
class Her2Result:
    """Everything that is known of a slide.

    Attributes
    ----------
    slide : Slide
        The IHC slide; its pixels are needed for pictures alone.
    config, rules
        What was asked.
    tumour : Tumour
    stain : SlideStain
    reading : Her2Reading or None
        None where cells were not measured.
    judged : JudgedCells or None
    inside : (N,) bool or None
        Cells in the tumour, whether they count or not.
    assessment : Assessment or None
        Of the tumour, or of all that was measured where no tumour is confirmed.
    regions : tuple of (Zone, Assessment)
        Each zone of the tumour by itself.
    coverage : StainCoverage or None
        By pixels, where cells were not measured.
    refusal : Refusal or None
        Why there is no score, and what to do.
    networks : NetworkReadings
    asked : Networks
        Which networks were there to be asked.
    given : bool
        Whether nuclei were given, and not detected.
    detection : DetectReport or None
    notes : tuple of str
    """

    slide: Slide
    config: Her2Config
    rules: Rules
    tumour: Tumour
    stain: SlideStain
    reading: Her2Reading | None = None
    judged: JudgedCells | None = None
    inside: NDArray[np.bool_] | None = None
    assessment: Assessment | None = None
    regions: tuple[tuple[Zone, Assessment], ...] = ()
    coverage: StainCoverage | None = None
    refusal: Refusal | None = None
    networks: NetworkReadings = NetworkReadings()
    asked: Networks = Networks()
    given: bool = False
    detection: DetectReport | None = None
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> str | None:
        """'0', '1+', '2+', '3+', or None."""
        return None if self.assessment is None else self.assessment.score.score

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Cells (N,) that count."""
        if self.judged is None or self.inside is None:
            return np.zeros(0, bool)
        return self.inside & (self.judged.excluded == 0)


def score_her2(
    ihc: Slide,
    config: Her2Config | None = None,
    *,
    tumour: TumourRequest | None = None,
    rules: Rules | None = None,
    cells: Detections | None = None,
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
    """
    asked = tumour or TumourRequest()
    chosen = check(config or Her2Config())
    used = networks or _networks(chosen, asked, ihc)
    _require_stains(ihc, asked.he)
    known = yield from _tumour(ihc, asked, chosen, used)
    start = Her2Result(ihc, chosen, rules or Rules(), known, SlideStain(), asked=used)
    if ihc.mpp is None or max(ihc.mpp) > CELLS_UP_TO_MPP:
        return (yield from _covered(replace(start, stain=_plain_stain(ihc))))
    stain = estimate_slide_stain(ihc)
    yield Progress(0, 0, "stain estimated")
    nuclei, report = cells, None
    if nuclei is None:
        nuclei, report = yield from _detected(ihc, known, chosen, predictor, workspace, fresh)
    reading = yield from _read(ihc, nuclei, stain)
    found = replace(start, stain=stain, given=cells is not None, detection=report)
    done = conclude(found, reading)
    if done.judged is None or not done.counted.any():
        return done
    said = yield from ask_networks(
        ihc, used, known, reading.measured.outlines, done.judged, done.counted
    )
    return replace(done, networks=said)


def conclude(result: Her2Result, reading: Her2Reading, rules: Rules | None = None) -> Her2Result:
    """Judge what was read, with other rules if given: takes milliseconds, touches no pixels."""
    laws = rules or result.rules
    judged = reading.judged(laws.cutoffs)
    inside = result.tumour.inside(judged.centres)
    refusal = result.tumour.refusal or too_coarse(result.slide)
    reason = refusal.reason if refusal else ""
    confirmed = result.tumour.confirmed

    def assessed(which: NDArray[np.bool_]) -> Assessment:
        return assess(
            judged, which, tumour_confirmed=confirmed, minimum=laws.minimum, refusal=reason
        )

    whole = assessed(inside)
    if refusal is None and whole.score.score is None:
        refusal = Refusal(whole.score.reason, _for_few(laws.minimum))
    return replace(
        result,
        rules=laws,
        reading=reading,
        judged=judged,
        inside=inside,
        assessment=whole,
        regions=tuple(
            (zone, assessed(result.tumour.inside(judged.centres, zone)))
            for zone in result.tumour.zones
        ),
        refusal=refusal,
        notes=(*result.notes, *_detection_notes(result.detection)),
    )


def too_coarse(slide: Slide) -> Refusal | None:
    """Why a slide's pixels do not allow for a score; None if they do."""
    if slide.mpp is None:
        return Refusal(
            f"the slide's pixel size is not known ({slide.mpp_source}), so that membranes cannot "
            "be measured; coverage is by pixels alone",
            "give the true µm per pixel with --mpp",
        )
    if max(slide.mpp) <= SCORED_UP_TO_MPP:
        return None
    return Refusal(
        f"{max(slide.mpp):.3g} µm/px is too coarse to see whether a membrane is complete: no "
        f"score above {SCORED_UP_TO_MPP} µm/px, coverage only",
        "scan the slide at 0.25 µm/px (40×), or check the pixel size and give it with --mpp",
    )


def _for_few(minimum: Minimum) -> str:
    return (
        f"confirm more invasive tumour, until at least {minimum.cells} of its cells are measured, "
        "and check that nuclei were found there"
    )


def _detection_notes(report: DetectReport | None) -> tuple[str, ...]:
    if report is None:
        return ()
    missing = f"{report.failed} tiles failed: their cells are missing."
    return (*((missing,) if report.failed else ()), *report.warnings)


def _networks(config: Her2Config, asked: TumourRequest, ihc: Slide) -> Networks:
    needed = asked.he is not None and not asked.zones and not asked.assumed
    others = config.networks and ihc.mpp is not None
    return installed_networks(config.device, tumour=needed, others=others)


def _require_stains(ihc: Slide, he: Slide | None) -> None:
    """`SlideError` where an H&E slide is given as the IHC slide, or the reverse."""


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
    excluded = np.zeros(len(cells), np.int8)
    mpp = float(np.mean(ihc.known_mpp()))
    return Her2Reading(measured, excluded, mpp)
