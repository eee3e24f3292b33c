"""What belongs beside a score: who says where tumour is, settings of one's own, what is missing.

And the notes of a report, of which these are the ones that can change how a score is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from napari_celldetr.core.config import describe
from napari_celldetr.pipeline.her2.placement import reaching_out
from napari_celldetr.pipeline.her2.result import Control, Her2Result
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.stain_kind import StainKind
from napari_celldetr.pipeline.her2.tumour_areas import IHC, NETWORK
from napari_celldetr.pipeline.self_check import check_cells, check_sureness, is_far


def score_caveats(result: Her2Result) -> tuple[str, ...]:
    """What a reader of the score must know besides the rule's own remarks, in sentences."""
    return (
        *_tumour(result),
        *_registration(result),
        *own_settings("Cut-offs", result.rules.cutoffs),
        *own_settings("Minimum", result.rules.minimum),
        *evened_out(result.control, result.stain),
        *_missing(result),
        *stain_doubts(result.kinds),
        *size_doubts(result, clear=True),
    )


def report_notes(result: Her2Result) -> tuple[str, ...]:
    """Everything else that a reader may want to know, each once."""
    report = result.detection
    said = (
        *result.slide.warnings,
        *stain_doubts(result.kinds),
        *result.notes,
        reaching_out(result.tumour.zones, result.slide.size, IHC),
        *_missing(result),
        *(() if report is None else report.warnings),
        *size_doubts(result),
    )
    return tuple(dict.fromkeys(note for note in said if note))


def stain_doubts(kinds: Iterable[tuple[str, StainKind]]) -> tuple[str, ...]:
    """Which slides cannot be told to be what they were given as."""
    return tuple(
        f"Could not confirm from its colours that the slide is {side}: {found.why}. Check that it "
        "is the right one."
        for side, found in kinds
        if found.kind == "unknown"
    )


def size_doubts(result: Her2Result, *, clear: bool = False) -> tuple[str, ...]:
    """What the nuclei say against the pixel size; `clear` leaves out what odd tissue may be."""
    if result.reading is None or result.slide.mpp is None:
        return ()
    cells = result.reading.measured.cells
    mpp, card = result.slide.mpp, result.card
    found = []
    if not clear or is_far(cells, mpp, card=card):
        found += check_cells(cells, mpp, card=card)
    if card is not None:
        # Given nuclei may have scores of anyone's.
        found += check_sureness(cells, mpp, card=card)
    return tuple(finding.text for finding in found if finding.level == "doubt")


def _tumour(result: Her2Result) -> Iterator[str]:
    if result.tumour.source == NETWORK:
        yield "A network found the tumour on the H&E slide: nobody drew it."


def _registration(result: Her2Result) -> Iterator[str]:
    alignment = result.tumour.alignment
    if alignment is not None and alignment.error_um is None:
        yield (
            "How well the H&E slide lies on this one was not measured: areas carried across may "
            "be elsewhere, and none is left out for it."
        )


def evened_out(control: Control | None, stain: SlideStain) -> Iterator[str]:
    """That a control made the stain darker or paler, and how much."""
    if control is not None:
        yield f"Stain evened out to a control on the slide: DAB × {stain.gain:.2f}."


def own_settings(name: str, chosen: Any) -> Iterator[str]:
    """Settings that are not the usual ones, with both values."""
    changed = [
        f"{setting.info.label} {getattr(chosen, setting.name):g} (usually {setting.default:g})"
        for setting in describe(type(chosen))
        if getattr(chosen, setting.name) != setting.default
    ]
    if changed:
        yield f"{name} of one's own: {', '.join(changed)}."


def _missing(result: Her2Result) -> Iterator[str]:
    report = result.detection
    if report is not None and report.failed:
        where = "in or near the tumour " if result.tumour.zones else ""
        looked = report.tiles - report.skipped
        yield f"{report.failed} of {looked} tiles {where}failed: their cells are missing."
