"""Where a report's figures come from: slide, tumour, registration, stains, models, nuclei."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.her2 import Exclusion
from napari_celldetr.pipeline.her2.pixel_agreement import PIXEL_CLASSES
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.zone_area import covered_px

NUCLEI_ROLE, TUMOUR_ROLE = "nuclei", "tumour in H&E"
STAIN_ROLE, PIXEL_ROLE = "stain of patches", "score of pixels"
Content = dict[str, Any]


def slide_facts(result: Her2Result) -> Content:
    """Which slide it was."""
    slide = result.slide
    return {
        "name": slide.name,
        "identity": slide.identity(),
        "size": list(slide.size),
        "mpp": None if slide.mpp is None else list(slide.mpp),
        "mpp_source": slide.mpp_source,
        "objective": slide.objective,
    }


def tumour_facts(result: Her2Result) -> Content:
    """Where the tumour is, and who says so; its area counts overlaps once, and no cut-outs."""
    tumour = result.tumour
    area = None
    if tumour.zones and result.slide.mpp is not None:
        area = covered_px(tumour.zones, result.slide.size, tumour.cut_out)
        area *= math.prod(result.slide.mpp)
    return {
        "source": tumour.source,
        "words": tumour.words,
        "area_um2": area,
        "zones": [z.to_dict() for z in tumour.zones],
        "cut_out": [z.to_dict() for z in tumour.cut_out],
        "badly_aligned": [z.to_dict() for z in tumour.untrusted],
    }


def registration_facts(result: Her2Result) -> Content | None:
    """How areas were carried across, and which cells that left out."""
    alignment = result.tumour.alignment
    if alignment is None:
        return None
    lost = 0
    if result.judged is not None:
        lost = int(result.tumour.misplaced(result.judged.centres).sum())
    return {**asdict(alignment), "excluded_cells": lost}


def exclusion_facts(result: Her2Result) -> Content:
    """Cells that were left out, by reason."""
    known = {} if result.assessment is None else result.assessment.n_excluded
    reasons = [
        {"reason": e.name.lower(), "words": e.words, "cells": known.get(int(e), 0)}
        for e in Exclusion
        if e is not Exclusion.NONE
    ]
    outside = 0 if result.inside is None else int((~result.inside).sum())
    return {"by_reason": reasons, "cells": sum(known.values()), "outside_tumour": outside}


def network_facts(result: Her2Result) -> Content:
    """What the networks say beside the measurement."""
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


def model_facts(result: Her2Result) -> Iterator[Content]:
    """Every model that had a say, with the hash of its weights."""
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


def stain_facts(result: Her2Result) -> Content:
    """Light, stains and control."""
    stain, control = result.stain, result.control
    return {
        "white": list(stain.white),
        "vectors": stain.vectors,
        "gain": stain.gain,
        "control": None if control is None else asdict(control),
        "kinds": [{"slide": side, **asdict(found)} for side, found in result.kinds],
        "notes": list(stain.notes),
    }


def nuclei_facts(result: Her2Result) -> Content:
    """Where the nuclei come from; those that were given are kept."""
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


def detection_facts(result: Her2Result) -> Content | None:
    """What became of the tiles; None of given nuclei."""
    report = result.detection
    if report is None:
        return None
    return {
        "tiles": report.tiles,
        "skipped": report.skipped,
        "failed": report.failed,
        "saturated": report.saturated,
    }
