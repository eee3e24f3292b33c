"""HER2 figures in words a pathologist reads: score, margins, doubts, one cell. No Qt here."""

from __future__ import annotations

import math

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.her2 import (
    SCORES,
    Assessment,
    Branch,
    Exclusion,
    Margin,
    Pattern,
    cell_scores,
)
from napari_celldetr.core.her2.assessment import UNCONFIRMED
from napari_celldetr.gui.her2_state import CellFacts
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.tumour import NETWORK, Refusal, Tumour

MEANINGS = {
    "0": "negative",
    "1+": "negative",
    "2+": "equivocal",
    "3+": "positive",
}
ISH = "In situ hybridisation (ISH) is needed."
NO_SCORE = "No HER2 score"
IN_THE_DOCK = {
    "give the true µm per pixel with --mpp": "enter the true pixel size above",
    "check the pixel size and give it with --mpp": "check the pixel size that the file gives",
}
"""What to do, where there is no command line."""
NO_CELL = "Point at a cell to see what was measured of it."


def title_of(found: Assessment) -> str:
    """``HER2 2+ (equivocal)``."""
    score = found.score
    if score.score is None:
        return NO_SCORE
    return f"HER2 {score.score} ({MEANINGS[score.score]})"


def next_step_of(found: Assessment) -> str:
    """What the guideline asks for with this score, '' for nothing."""
    return ISH if found.score.needs_ish else ""


def reason_of(found: Assessment) -> str:
    """Why this score, or why none, as a sentence."""
    reason = found.score.reason
    if found.score.score is None and reason == UNCONFIRMED:
        reason = "say above where the invasive tumour is; the figures are of all measured cells"
    return sentence(reason)


def sentence(text: str) -> str:
    """A clause as a sentence; '' stays ''."""
    text = text.rstrip(".")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def remedy_of(refusal: Refusal) -> str:
    """What to do so that there can be a score, as a sentence."""
    text = refusal.remedy
    for there, here in IN_THE_DOCK.items():
        text = text.replace(there, here)
    return sentence(text)


def error_words(error: CellDETRError) -> str:
    """What went wrong and what to do, in one line of the dock."""
    remedy = sentence(error.remedy or "")
    found = f" Found: {error.found}." if error.found else ""
    return f"{error.message}{found} {remedy}".strip()


def covered_words(found: Her2Result) -> str:
    """What coverage without cells is of."""
    assert found.coverage is not None
    where = "the tumour" if found.tumour.zones else "the whole slide"
    pixels = f"{found.coverage.pixels:,} pixels of stained tissue"
    return f"Of {where}, wherever you look: {pixels}, by DAB alone."


def pinned_words(found: Assessment, refusal: Refusal | None) -> str:
    """The score in one line, for when its box is out of sight."""
    cells = "1 cell" if found.n_cells == 1 else f"{found.n_cells:,} cells"
    title = title_of(found) if refusal is None else NO_SCORE
    return f"{title} · {cells}"


def doubts_of(found: Assessment) -> list[str]:
    """What a reader should know besides the score, one sentence each."""
    score = found.score
    if score.score is None:
        return []
    notes = [n for n in score.notes if not n.startswith("Equivocal")]
    nearest = [margin_words(m) for m in (found.lower, found.higher) if m is not None]
    return [*notes, *nearest, *_redrawn(found)]


def margin_words(margin: Margin) -> str:
    """How far the next score is."""
    one = margin.cells == 1
    number, cells = ("", "cell") if one else (f"{margin.cells:,} ", "cells")
    if margin.pattern is Pattern.NONE:
        were = "was" if one else "were"
        return (
            f"If the {number}most strongly stained {cells} {were} unstained, it would be "
            f"{margin.score}."
        )
    found = f"With {margin.cells:,} more {cells} of {margin.pattern.words} staining"
    return f"{found} it would be {margin.score}."


def _redrawn(found: Assessment) -> list[str]:
    share = found.redrawn.get(found.score.score or "", 1.0)
    if share >= 0.95:
        return []
    shares = {**found.redrawn, "no score": 1 - sum(found.redrawn.values())}
    others = [f"{s} {100 * v:.0f} %" for s, v in shares.items() if v >= 0.005]
    return [f"Drawing parts of the tumour again gives {', '.join(others)}."]


def scope_words(found: Assessment, *, score: bool) -> str:
    """One line of figures: cells, H-score, and the score of this part alone if asked for."""
    cells = "1 cell" if found.n_cells == 1 else f"{found.n_cells:,} cells"
    words = [cells]
    if found.n_cells:
        words.append(f"H-score {found.h_score:.0f}{_h_range(found)}")
    if score and found.score.score is not None:
        words.append(f"alone it would be {found.score.score}")
    return " · ".join(words)


def source_words(tumour: Tumour) -> str:
    """Who says where the tumour is, where that is no person; else ''."""
    return sentence(f"tumour {tumour.words}") if tumour.source == NETWORK else ""


def _h_range(found: Assessment) -> str:
    low, high = found.h_score_interval
    return "" if math.isnan(low) else f" ({low:.0f}–{high:.0f})"


def excluded_words(found: Assessment) -> str:
    """Cells left out, by reason; '' where there are none."""
    if not found.n_excluded:
        return ""
    parts = [f"{n:,} {Exclusion(code).words}" for code, n in sorted(found.n_excluded.items())]
    return f"Not counted: {'; '.join(parts)}."


def share_words(found: Assessment, score: str) -> tuple[str, str]:
    """Per cent of cells with its interval, and per cent of area, of one class."""
    percent, area = found.percent_cells[score], found.percent_area[score]
    if math.isnan(percent):
        return "–", "–"
    low, high = (found.bootstrap or found.wilson)[score]
    return f"{percent:.1f} % ({low:.0f}–{high:.0f})", percent_words(area)


def percent_words(percent: float) -> str:
    """A share of area."""
    return "–" if math.isnan(percent) else f"{percent:.0f} %"


def branch_words(branch: Branch, *, deciding: bool) -> tuple[str, str, str]:
    """Mark, question and counts of a branch of the tree."""
    if not branch.asked:
        mark = "not asked"
    elif deciding:
        mark = f"yes → {branch.leads_to}"
    else:
        mark = "yes" if branch.answer else "no"
    low, high = branch.interval
    if not branch.total:
        return mark, branch.question, "no cells"
    percent = 100 * branch.cells / branch.total
    counts = f"{branch.cells:,} of {branch.total:,} = {percent:.1f} %"
    return mark, branch.question, f"{counts} ({100 * low:.1f}–{100 * high:.1f})"


def cell_words(facts: CellFacts) -> str:
    """What was measured of one cell, and what follows from it."""
    score = SCORES[int(cell_scores([facts.pattern])[0])]
    first = f"{score}: {facts.pattern.words}."
    stained = f"{100 * facts.completeness:.0f} % of its outline is stained"
    density = f"membrane {facts.intensity:.2f} OD, cytoplasm {facts.cytoplasm:.2f} OD"
    text = f"{first} {stained}; {density}; {facts.area_um2:.0f} µm²."
    return f"{text} Not counted: {facts.why_not}." if facts.why_not else text


def unmeasured_words(cells: int) -> str:
    """What to do about cells that were changed or added since; '' where there are none."""
    if not cells:
        return ""
    some = "1 cell is" if cells == 1 else f"{cells:,} cells are"
    return f"{some} new or changed and not measured: press Measure HER2 again."
