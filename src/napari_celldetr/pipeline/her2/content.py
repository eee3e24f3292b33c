"""Everything a report says, as plain JSON values: what the page shows and the replay compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from napari_celldetr import RESEARCH_USE, __version__
from napari_celldetr.core.her2 import GUIDELINE, SCORES, Assessment, Margin, Pattern
from napari_celldetr.pipeline.her2.caveats import report_notes, score_caveats
from napari_celldetr.pipeline.her2.content_sources import (
    NUCLEI_ROLE,
    PIXEL_ROLE,
    STAIN_ROLE,
    TUMOUR_ROLE,
    Content,
    detection_facts,
    exclusion_facts,
    model_facts,
    network_facts,
    nuclei_facts,
    pack_boxes,
    registration_facts,
    slide_facts,
    stain_facts,
    tumour_facts,
    unpack_nuclei,
)
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.settings import SCORED_UP_TO_MPP

__all__ = [
    "BY_CELLS",
    "BY_PIXELS",
    "KIND",
    "NUCLEI_ROLE",
    "PIXEL_ROLE",
    "SCHEMA",
    "SCOPE",
    "STAIN_ROLE",
    "TUMOUR_ROLE",
    "Content",
    "assessment_figures",
    "finite",
    "pack_boxes",
    "report_content",
    "unpack_nuclei",
]

KIND, SCHEMA = "celldetr-her2-report", 2
SCOPE = "breast only"
BY_CELLS = "cells that count, by their area"
BY_PIXELS = "pixels of stained tissue, by DAB optical density; cells were not measured"
NO_INTERVAL = dict.fromkeys(SCORES)


def report_content(
    result: Her2Result, *, corrections: Mapping[str, Any] | None = None, created: str = ""
) -> Content:
    """The report of a result, without its seal.

    Parameters
    ----------
    result : Her2Result
    corrections : mapping, optional
        What people changed of the nuclei, where they were not merely detected: counts by kind,
        and whatever else identifies it.
    created : str
        Time of writing (ISO 8601); now if empty.
    """
    content = {
        "kind": KIND,
        "schema": SCHEMA,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"name": "napari-celldetr", "version": __version__},
        "research_use": RESEARCH_USE,
        "scope": SCOPE,
        "guideline": GUIDELINE,
        **_conclusion(result),
        "slide": slide_facts(result),
        "tumour": tumour_facts(result),
        "registration": registration_facts(result),
        "regions": [
            {
                "name": zone.name,
                "zone": result.tumour.zones.index(zone),
                **assessment_figures(found),
            }
            for zone, found in result.regions
        ],
        "exclusions": exclusion_facts(result),
        "networks": network_facts(result),
        "models": list(model_facts(result)),
        "stain": stain_facts(result),
        "cutoffs": asdict(result.rules.cutoffs),
        "minimum": asdict(result.rules.minimum),
        "config": asdict(result.config),
        "limits": {"scored_up_to_mpp": SCORED_UP_TO_MPP},
        "nuclei": nuclei_facts(result),
        "detection": detection_facts(result),
        "corrections": None if corrections is None else dict(corrections),
        "notes": list(report_notes(result)),
    }
    plain: Content = finite(content)
    return plain


def finite(value: Any) -> Any:
    """`value` as JSON has it: no NaN, no tuples, no numpy."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        return finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -- what it comes to ----------------------------------------------------------------------


def _conclusion(result: Her2Result) -> Content:
    refusal = result.refusal
    found = {
        "score": result.score,
        "reason": refusal.reason if refusal else "",
        "remedy": refusal.remedy if refusal else "",
        "tumour_confirmed": result.tumour.confirmed,
    }
    caveats = score_caveats(result)
    if result.assessment is not None:
        figures = assessment_figures(result.assessment)
        figures["reason"] = found["reason"] or result.assessment.score.reason
        figures["score_notes"] += caveats
        return {**found, **figures, "area_basis": BY_CELLS}
    coverage = NO_INTERVAL if result.coverage is None else result.coverage.percent
    figures = {**_no_figures(), "score_notes": list(caveats), "percent_area": coverage}
    return {**found, **figures, "area_basis": BY_PIXELS}


def assessment_figures(found: Assessment) -> Content:
    """What an assessment says, of a slide or of one region."""
    score = found.score
    return {
        "score": score.score,
        "reason": score.reason,
        "branch": score.branch,
        "is_covered": score.is_covered,
        "is_borderline": score.is_borderline,
        "needs_ish": score.needs_ish,
        "score_notes": list(score.notes),
        "tumour_confirmed": found.tumour_confirmed,
        "n_cells": found.n_cells,
        "cell_area_um2": found.cell_area_um2,
        "h_score": found.h_score,
        "percent_cells": found.percent_cells,
        "percent_area": found.percent_area,
        "patterns": {p.name.lower(): found.counts[p] for p in Pattern},
        "intervals": {
            "level": 0.95,
            "wilson": found.wilson,
            "bootstrap": found.bootstrap or NO_INTERVAL,
            "h_score": list(found.h_score_interval),
        },
        "redrawn": found.redrawn,
        "tree": [_branch(b) for b in score.tree],
        "margins": {"lower": _margin(found.lower), "higher": _margin(found.higher)},
        "maximum_rule": found.maximum,
    }


def _no_figures() -> Content:
    return {
        "branch": "",
        "is_covered": False,
        "is_borderline": False,
        "needs_ish": False,
        "score_notes": [],
        "n_cells": None,
        "cell_area_um2": None,
        "h_score": None,
        "percent_cells": NO_INTERVAL,
        "patterns": {p.name.lower(): None for p in Pattern},
        "intervals": {
            "level": 0.95,
            "wilson": NO_INTERVAL,
            "bootstrap": NO_INTERVAL,
            "h_score": None,
        },
        "redrawn": {},
        "tree": [],
        "margins": {"lower": None, "higher": None},
        "maximum_rule": None,
    }


def _branch(branch: Any) -> Content:
    share = 100 * branch.cells / branch.total if branch.total else math.nan
    return {
        "key": branch.key,
        "question": branch.question,
        "patterns": [p.name.lower() for p in branch.patterns],
        "cells": branch.cells,
        "total": branch.total,
        "percent": share,
        "interval": [100 * edge for edge in branch.interval],
        "answer": branch.answer,
        "leads_to": branch.leads_to,
        "asked": branch.asked,
    }


def _margin(margin: Margin | None) -> Content | None:
    if margin is None:
        return None
    return {
        "score": margin.score,
        "cells": margin.cells,
        "pattern": margin.pattern.name.lower(),
        "words": margin.pattern.words,
    }
