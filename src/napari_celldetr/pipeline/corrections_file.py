"""Corrections from a GeoJSON file on a slide: the cells are found anew where the file speaks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.nets.celldetr_config import NUCLEUS_UM
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.detect import detect
from napari_celldetr.pipeline.import_geojson import ImportReport, edit_from_geojson
from napari_celldetr.slides.slide import Slide

AROUND_UM = 50.0
"""So far around the file's cells others are found, as cells that nobody touched."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """A slide's cells with a file's corrections on top, and what became of the file."""

    table: CellTable
    report: ImportReport


def correct_from_file(
    slide: Slide, path: str | Path, predictor: Predictor, *, workspace: Path | None = None
) -> Job[Corrected]:
    """Find the cells where a GeoJSON file speaks of some, and let it correct them.

    Parameters
    ----------
    slide : Slide
        Open, with a known pixel size.
    path
        See `napari_celldetr.pipeline.import_geojson.edit_from_geojson`.
    predictor : Predictor
        The model that is taught.
    workspace : Path, optional
        Where runs are kept, see `napari_celldetr.pipeline.detect.detect`.

    Raises what `edit_from_geojson` and `detect` raise, and `AnnotationError` for a file without
    cells.
    """
    yield Progress(0, 0, f"Reading {Path(path).name}…")
    um = slide.mpp[0] if slide.mpp else predictor.card.mpp
    offset = (float(slide.bounds.x), float(slide.bounds.y))
    nucleus_px, names = NUCLEUS_UM / um, predictor.card.class_names
    edit, _ = edit_from_geojson(
        path, present=None, class_names=names, nucleus_px=nucleus_px, offset=offset
    )
    if not len(edit):
        raise AnnotationError(
            f"{Path(path).name} says nothing of cells.",
            expected="cells with a class",
            found="none",
            remedy="export corrected cells from the viewer or from QuPath",
        )
    region = _around(edit.after.boxes, AROUND_UM / um, slide.size)
    table = CellTable(names, cell_ids, threshold=predictor.card.threshold)
    claims = yield from _found(slide, predictor, region, workspace)
    table.replace(claims)
    edit, report = edit_from_geojson(
        path,
        present=table.corrected(),
        class_names=names,
        nucleus_px=nucleus_px,
        offset=offset,
    )
    table.apply(edit)
    return Corrected(table, report)


def _found(
    slide: Slide, predictor: Predictor, region: Region, workspace: Path | None
) -> Generator[Progress, None, Claims]:
    config = DetectConfig(model=predictor.card.name, tissue_only=False)
    job = detect(
        slide, config, predictor=predictor, region=region, workspace=workspace, keep_floor=True
    )
    cells = yield from job
    return Claims.prepared(cells, cell_ids)


def _around(boxes: np.ndarray, margin: float, size: tuple[int, int]) -> Region:
    low = np.maximum(np.floor(boxes[:, :2].min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(boxes[:, 2:].max(axis=0) + margin), size).astype(int)
    if (high <= low).any():
        raise AnnotationError(
            "The corrections lie outside the slide.",
            expected=f"cells within {size[0]} × {size[1]} px",
            found=f"x {low[0]}..{high[0]}, y {low[1]}..{high[1]}",
            remedy="give the slide that was corrected",
        )
    return Region.from_edges(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
