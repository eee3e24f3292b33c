"""What is known of a HER2 slide, and the step from cells that were read to a score.

That step touches no pixels, so that other cut-offs or another tumour take some µs a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Assessment, Cutoffs, JudgedCells, Minimum, assess
from napari_celldetr.core.regions import Region
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.pipeline.detect import DetectReport
from napari_celldetr.pipeline.her2.coverage import StainCoverage
from napari_celldetr.pipeline.her2.networks import NetworkReadings, Networks
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.settings import SCORED_UP_TO_MPP, Her2Config
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.stain_kind import StainKind
from napari_celldetr.pipeline.her2.tumour_areas import Refusal, Tumour
from napari_celldetr.pipeline.her2.zone_shapes import Zone
from napari_celldetr.slides.slide import Slide

MOST_REGIONS = 50
"""A network may find hundreds of zones: no more than the largest are assessed one by one."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Where one kind of staining ends and the next begins, and how many cells it takes."""

    cutoffs: Cutoffs = field(default_factory=Cutoffs)
    minimum: Minimum = field(default_factory=Minimum)


@dataclass(frozen=True, slots=True)
class Control:
    """Control tissue on the slide, level-0 px, and the DAB density it has in a reference lot."""

    region: Region
    expected_od: float


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
    control : Control or None
        What the stain's gain was calibrated with.
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
    card : ModelCard or None
        Of the model that detected the nuclei.
    kinds : tuple of (str, StainKind)
        "IHC" or "H&E", and what that slide looks stained with.
    notes : tuple of str
    """

    slide: Slide
    config: Her2Config
    rules: Rules
    tumour: Tumour
    stain: SlideStain
    control: Control | None = None
    reading: Her2Reading | None = None
    judged: JudgedCells | None = None
    inside: NDArray[np.bool_] | None = None
    assessment: Assessment | None = None
    regions: tuple[tuple[Zone, Assessment], ...] = ()
    coverage: StainCoverage | None = None
    refusal: Refusal | None = None
    networks: NetworkReadings = field(default_factory=NetworkReadings)
    asked: Networks = field(default_factory=Networks)
    given: bool = False
    detection: DetectReport | None = None
    card: ModelCard | None = None
    kinds: tuple[tuple[str, StainKind], ...] = ()
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


def conclude(result: Her2Result, reading: Her2Reading, rules: Rules | None = None) -> Her2Result:
    """Judge what was read, with other rules if given: some µs a cell, touches no pixels."""
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
            # What is cut out or aligned badly is out of `inside` already.
            (zone, assessed(inside & zone.contains(judged.centres)))
            for zone in _largest(result.tumour.zones)
        ),
        refusal=refusal,
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


def _largest(zones: Sequence[Zone]) -> list[Zone]:
    """The zones worth figures of their own, in their order."""
    if not zones:
        return []
    sizes = sorted((zone.area_px for zone in zones), reverse=True)[:MOST_REGIONS]
    return [zone for zone in zones if zone.area_px >= sizes[-1]][:MOST_REGIONS]
