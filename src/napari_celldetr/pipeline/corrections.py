"""Corrections that a model is to learn from: out of a project or a file, and checked.

What does not fit together is refused before anything is learned: corrections of another slide or
pixel size, two of them on the same cell, too few to learn from.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area, CorrectedCells, Status, new_keys
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.nets.celldetr_config import NUCLEUS_UM
from napari_celldetr.pipeline.import_features import ClassWords, FileObjects
from napari_celldetr.pipeline.import_geojson import read_objects
from napari_celldetr.pipeline.qupath import AREA_CLASSES
from napari_celldetr.slides.slide import Slide
from napari_celldetr.training.finetune_tiles import POINT, Taught, overlapping

FEWEST = 10
"""Corrections below which nothing can be learned."""
MPP_SLACK = 0.02
SMALLEST_UM, LARGEST_UM = 2.0, 40.0
"""Of the median corrected box."""


def corrections_from_geojson(
    path: str | Path, slide: Slide, *, class_names: tuple[str, ...]
) -> CorrectedCells:
    """Corrections in a GeoJSON file of QuPath or of our own, level-0 px of `slide`.

    A cell without a word on who said it counts as a person's. Areas classed ``Region*`` or
    ``Training*`` are complete. Raises `ExportError` where the file cannot be read, and
    `AnnotationError` where it is of another slide.
    """
    nucleus_px = NUCLEUS_UM / float(np.mean(slide.known_mpp()))
    words = ClassWords(class_names)
    found = FileObjects(nucleus_px, words)
    about = read_objects(Path(path), found, (slide.bounds.x, slide.bounds.y))
    cells = found.cells()
    status = np.where(cells.status < 0, int(Status.ADDED), cells.status).astype(np.uint8)
    keys = cells.keys.copy()
    nameless = ~keys.any(axis=1)
    keys[nameless] = new_keys(int(nameless.sum()))
    table = Detections(
        cells.boxes,
        np.ones(len(status), np.float32),
        cells.class_ids,
        tuple(words.all),
        None,
        {POINT: (~cells.has_size).astype(np.float32)},
        _source(about.get("source")),
    )
    authors = np.full(len(status), "", np.str_)
    areas = {key: _kind_of(area) for key, area in found.areas.items()}
    return CorrectedCells(table, keys, status, authors, areas)


def _source(told: object) -> Source:
    try:
        return Source.from_json(json.dumps(told)) if isinstance(told, dict) else Source()
    except (TypeError, ValueError, LookupError):
        # Another program's word on where the cells come from: the file's cells serve all the same.
        return Source()


def _kind_of(area: Area) -> Area:
    word = AREA_CLASSES["complete"][0].rstrip("*").casefold()
    if area.name.casefold().startswith((word, "training")):
        return Area(area.polygon, "complete", area.name)
    return area


def check_corrections(slide: Slide, corrections: CorrectedCells, taught: Taught) -> None:
    """Raise `AnnotationError` where corrections cannot be those of `slide`, or say too little."""
    _check_source(slide, corrections.cells.source)
    _check_places(slide, taught)
    _check_sizes(slide, taught)
    _check_contradictions(taught)
    if taught.corrections < FEWEST:
        raise AnnotationError(
            "There are too few corrections to learn from.",
            expected=f"at least {FEWEST} cells that were corrected, confirmed, deleted, or lie in "
            "an area marked as complete",
            found=str(taught.corrections),
            remedy="correct more cells; an area reviewed completely teaches most",
        )


def _check_source(slide: Slide, source: Source) -> None:
    if source.slide_id and source.slide_id != slide.identity():
        raise AnnotationError(
            "These corrections are of another slide.",
            expected=f"corrections of {slide.name}",
            found=f"corrections of {source.slide or 'another slide'}",
            remedy="name the slide that was corrected",
        )
    mpp = slide.known_mpp()
    if source.mpp is None:
        return
    if not all(abs(a / b - 1) <= MPP_SLACK for a, b in zip(source.mpp, mpp, strict=True)):
        raise AnnotationError(
            "These corrections were made at another pixel size.",
            expected=f"{mpp[0]:g} µm/px, as the slide has it",
            found=f"{source.mpp[0]:g} µm/px",
            remedy="open the slide with the pixel size it was corrected with (--mpp)",
        )


def _check_places(slide: Slide, taught: Taught) -> None:
    centres = taught.centres[taught.said]
    outside = ~((centres >= 0) & (centres < slide.size)).all(axis=1)
    if outside.any():
        x, y = centres[outside][0]
        raise AnnotationError(
            f"{int(outside.sum())} corrected cells lie outside the slide.",
            expected=f"0 ≤ x < {slide.size[0]} and 0 ≤ y < {slide.size[1]} level-0 px",
            found=f"x {x:g}, y {y:g}",
            remedy="name the slide that was corrected",
        )


def _check_sizes(slide: Slide, taught: Taught) -> None:
    boxes = taught.boxes[taught.said & taught.sized]
    if not len(boxes):
        return
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(slide.known_mpp())
    size = float(np.median(np.sqrt(sides.prod(axis=1))))
    if not SMALLEST_UM <= size <= LARGEST_UM:
        raise AnnotationError(
            "The corrected cells are not of a size that nuclei have.",
            expected=f"a median side of {SMALLEST_UM:g} to {LARGEST_UM:g} µm",
            found=f"{size:.1f} µm",
            remedy="check the slide's pixel size, and that the corrections are of this slide",
        )


def _check_contradictions(taught: Taught) -> None:
    rows = np.flatnonzero(taught.said & taught.sized)
    pairs = rows[overlapping(taught.boxes[rows])]
    if not len(pairs):
        return
    raise AnnotationError(
        f"{len(pairs)} pairs of corrected boxes lie on the same cell.",
        expected="one box for each cell",
        found="; ".join(_told(taught, pair) for pair in pairs[:3]),
        remedy="delete one of each pair",
    )


def _told(taught: Taught, pair: NDArray[np.int64]) -> str:
    x, y = taught.centres[pair[0]]
    names = [taught.class_names[i] if i >= 0 else "unknown" for i in taught.class_ids[pair]]
    return f"{' and '.join(names)} at x {x:.0f}, y {y:.0f}"
