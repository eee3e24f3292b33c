"""Everything a report says, as plain JSON values: what the page shows and the replay compares."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE, __version__
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.her2 import GUIDELINE, SCORES, Assessment, Exclusion, Margin, Pattern
from napari_celldetr.pipeline.her2.pixel_agreement import PIXEL_CLASSES
from napari_celldetr.pipeline.her2.remarks import remarks
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.settings import SCORED_UP_TO_MPP

KIND, SCHEMA = "celldetr-her2-report", 1
SCOPE = "breast only"
NUCLEI_ROLE, TUMOUR_ROLE = "nuclei", "tumour in H&E"
STAIN_ROLE, PIXEL_ROLE = "stain of patches", "score of pixels"
BY_CELLS = "cells that count, by their area"
BY_PIXELS = "pixels of stained tissue, by DAB optical density; cells were not measured"
NO_INTERVAL = dict.fromkeys(SCORES)
Content = dict[str, Any]


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
        "remarks": remarks(
            result.rules.cutoffs, None if result.control is None else result.stain.gain
        ),
        "slide": _slide(result),
        "tumour": _tumour(result),
        "registration": _registration(result),
        "regions": [
            {
                "name": zone.name,
                "zone": result.tumour.zones.index(zone),
                **assessment_figures(found),
            }
            for zone, found in result.regions
        ],
        "exclusions": _exclusions(result),
        "networks": _networks(result),
        "models": list(_models(result)),
        "stain": _stain(result),
        "cutoffs": asdict(result.rules.cutoffs),
        "minimum": asdict(result.rules.minimum),
        "config": asdict(result.config),
        "limits": {"scored_up_to_mpp": SCORED_UP_TO_MPP},
        "nuclei": _nuclei(result),
        "detection": _detection(result),
        "corrections": None if corrections is None else dict(corrections),
        "notes": [*result.slide.warnings, *result.notes],
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
    if result.assessment is not None:
        figures = assessment_figures(result.assessment)
        figures["reason"] = found["reason"] or result.assessment.score.reason
        return {**found, **figures, "area_basis": BY_CELLS}
    coverage = NO_INTERVAL if result.coverage is None else result.coverage.percent
    return {**found, **_no_figures(), "percent_area": coverage, "area_basis": BY_PIXELS}


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


# -- where it comes from -------------------------------------------------------------------


def _slide(result: Her2Result) -> Content:
    slide = result.slide
    return {
        "name": slide.name,
        "identity": slide.identity(),
        "size": list(slide.size),
        "mpp": None if slide.mpp is None else list(slide.mpp),
        "mpp_source": slide.mpp_source,
        "objective": slide.objective,
    }


def _tumour(result: Her2Result) -> Content:
    tumour = result.tumour
    area = None
    if tumour.zones and result.slide.mpp is not None:
        area = sum(z.area_px for z in tumour.zones) * math.prod(result.slide.mpp)
    return {
        "source": tumour.source,
        "words": tumour.words,
        "area_um2": area,
        "zones": [z.to_dict() for z in tumour.zones],
        "cut_out": [z.to_dict() for z in tumour.cut_out],
        "badly_aligned": [z.to_dict() for z in tumour.untrusted],
    }


def _registration(result: Her2Result) -> Content | None:
    alignment = result.tumour.alignment
    if alignment is None:
        return None
    lost = 0
    if result.judged is not None:
        lost = int(result.tumour.misplaced(result.judged.centres).sum())
    return {**asdict(alignment), "excluded_cells": lost}


def _exclusions(result: Her2Result) -> Content:
    known = {} if result.assessment is None else result.assessment.n_excluded
    reasons = [
        {"reason": e.name.lower(), "words": e.words, "cells": known.get(int(e), 0)}
        for e in Exclusion
        if e is not Exclusion.NONE
    ]
    outside = 0 if result.inside is None else int((~result.inside).sum())
    return {"by_reason": reasons, "cells": sum(known.values()), "outside_tumour": outside}


def _networks(result: Her2Result) -> Content:
    patches, pixels = result.networks.patches, result.networks.pixels
    return {
        "patches": None
        if patches is None
        else {
            "counts": patches.counts(),
            "maximum_rule": result.networks.maximum,
            "side_px": list(patches.cell),
        },
        "pixels": None
        if pixels is None
        else {
            "percent_area": pixels.percent_area,
            "disagreement": pixels.disagreement,
            "classes": list(PIXEL_CLASSES),
            "confusion": pixels.confusion,
            "mpp": pixels.mpp,
        },
    }


def _models(result: Her2Result) -> Iterator[Content]:
    if result.reading is not None:
        yield _nuclei_model(result.reading.measured.cells.source)
    asked, said = result.asked, result.networks
    used = (
        (TUMOUR_ROLE, asked.tumour, result.tumour.map),
        (STAIN_ROLE, asked.stain, said.patches),
        (PIXEL_ROLE, asked.pixels, said.pixels),
    )
    for role, predictor, answer in used:
        if predictor is not None and answer is not None:
            card = predictor.card
            yield {"role": role, "name": card.name, "weights_sha256": card.weights_sha256}


def _nuclei_model(source: Source) -> Content:
    return {"role": NUCLEI_ROLE, "name": source.model, "weights_sha256": source.weights_sha256}


def _stain(result: Her2Result) -> Content:
    stain, control = result.stain, result.control
    return {
        "white": list(stain.white),
        "vectors": stain.vectors,
        "gain": stain.gain,
        "control": None if control is None else asdict(control),
        "notes": list(stain.notes),
    }


def _nuclei(result: Her2Result) -> Content:
    if result.reading is None:
        return {"source": "none", "count": None, "boxes": None}
    cells = result.reading.measured.cells
    # Detected nuclei can be detected again; given ones are nowhere else.
    boxes = pack_boxes(cells.boxes) if result.given else None
    return {
        "source": "given" if result.given else "detected",
        "count": len(cells),
        "boxes": boxes,
        "finest_mpp": result.reading.measured.mpp,
    }


def pack_boxes(boxes: NDArray[np.float32]) -> str:
    """Boxes (N, 4) as text."""
    raw = np.ascontiguousarray(boxes, "<f4").tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack_nuclei(content: Mapping[str, Any], source: Source) -> Detections:
    """Nuclei out of the ``nuclei`` of a report. `ValueError` when they are broken."""
    raw = zlib.decompress(base64.b64decode(content["boxes"], validate=True))
    boxes = np.frombuffer(raw, "<f4").reshape(-1, 4)
    n = len(boxes)
    return Detections(
        boxes, np.ones(n, np.float32), np.zeros(n, np.int16), ("nucleus",), source=source
    )


def _detection(result: Her2Result) -> Content | None:
    report = result.detection
    if report is None:
        return None
    return {
        "tiles": report.tiles,
        "skipped": report.skipped,
        "failed": report.failed,
        "saturated": report.saturated,
    }
