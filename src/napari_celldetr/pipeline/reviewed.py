"""What people made of a slide's cells, read from a project without opening a viewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_celldetr.core.annotations import Annotations, CorrectedCells
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.journal import Journal
from napari_celldetr.pipeline.measure import size_columns
from napari_celldetr.pipeline.project import Project, default_folder
from napari_celldetr.pipeline.project_record import SlideFacts, SlideRecord
from napari_celldetr.pipeline.reapply import reach_px, reapply


def find_record(slide: Any, project: str | Path | None = None) -> SlideRecord:
    """The record of an open slide, or of `SlideFacts`, for reading only: nobody is locked out.

    `project` is `default_folder` unless given. Raises `AnnotationError` when there is no such
    project, or when nobody has worked on the slide in it.
    """
    folder = Path(default_folder() if project is None else project)
    facts = slide if isinstance(slide, SlideFacts) else SlideFacts.of(slide)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise AnnotationError(
            "There is no such project.",
            expected="the folder of a project",
            found=f"nothing at {folder.name!r}",
            remedy="name the folder with --project, or set CELLDETR_PROJECT",
        )
    record = Project.open(folder).slide(facts, read_only=True)
    if not record.folder.is_dir():
        raise AnnotationError(
            f"Nobody has worked on {facts.name} in this project.",
            expected="a slide that was opened in the viewer",
            found="no record of it",
            remedy="open it in the viewer and find cells, or name another project with --project",
        )
    return record


def reviewed_table(record: SlideRecord) -> CellTable:
    """The latest result of a slide with all corrections on top, as the viewer holds it.

    Claims scored lower than the threshold that was chosen in the viewer are not kept; a lesson
    that holds has named the cells. Raises `AnnotationError` when there are neither results nor
    corrections, or the journal is damaged.
    """
    with Journal.open(record.journal_path, author="", read_only=True) as journal:
        said = journal.annotations()
        if journal.damage is not None:
            raise journal.damage
    found = record.latest_cells()
    if found is None and not (said.cells or said.areas):
        raise AnnotationError(
            f"There are no cells of {record.facts.name} yet.",
            expected="a finished run, or cells added by hand",
            found="neither",
            remedy="find cells in the viewer first",
        )
    if found is None:
        table = CellTable(said.class_names, cell_ids)
        table.load(said)
        return table
    claims, about = found
    threshold = _threshold(record, about.threshold)
    mpp = claims.source.mpp or record.facts.mpp
    table = CellTable(claims.class_names, cell_ids, threshold=threshold)
    table.load(said)
    prepared = Claims.prepared(claims, cell_ids)
    reach = reach_px(mpp[0] if mpp else None)
    joined = reapply(prepared, said, reach_px=reach, threshold=threshold)
    table.replace(prepared, covered=joined.covered)
    _teach(table, record)
    return table


def _teach(table: CellTable, record: SlideRecord) -> None:
    """Let the lesson that holds name the cells, if it is of the model that found them."""
    lesson = record.lessons.current()
    if lesson is not None and lesson.fits(table.source.weights_sha256):
        table.teach(lesson.head)


def reviewed_cells(record: SlideRecord) -> CorrectedCells:
    """`reviewed_table` as cells for a file, with their sizes in µm."""
    return reviewed_and_said(record)[0]


def reviewed_and_said(record: SlideRecord) -> tuple[CorrectedCells, Annotations]:
    """`reviewed_cells`, and everything people said of them, deleted cells included."""
    table = reviewed_table(record)
    cells = with_sizes(table.corrected(), table.source.mpp or record.facts.mpp)
    return cells, table.annotations


def class_colors(record: SlideRecord) -> dict[str, tuple[int, int, int]]:
    """Class name to (r, g, b), as the viewer showed the latest result; empty where not known."""
    for about in record.runs()[:1]:
        try:
            said = json.loads(about.report)["colors"]
            return {str(name): (int(r), int(g), int(b)) for name, (r, g, b) in said.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # Another program's result: the format's own colours serve as well.
            return {}
    return {}


def with_sizes(now: CorrectedCells, mpp: tuple[float, float] | None) -> CorrectedCells:
    """Cells with their sizes in µm, where the pixel size is known."""
    if mpp is None or not len(now):
        return now
    cells = now.cells.with_columns(**size_columns(now.cells.boxes, mpp))
    return CorrectedCells(cells, now.ids, now.status, now.authors, now.areas)


def _threshold(record: SlideRecord, saved: float | None) -> float:
    # The one last looked at: it may have been moved after the run was saved.
    chosen = record.view().get("threshold")
    for value in (chosen, saved):
        if isinstance(value, int | float) and np.isfinite(value) and 0 < value < 1:
            return float(value)
    return 0.5
