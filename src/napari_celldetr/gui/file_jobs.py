"""The jobs that write and read files of a session. Nothing touches Qt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_celldetr.core.annotations import CorrectedCells, Edit
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import SlideFrame
from napari_celldetr.pipeline.export_check import ExportCheck
from napari_celldetr.pipeline.import_geojson import ImportReport

FLUSH_S = 10.0
"""So long an export of the history waits for the disk."""


def import_job(
    path: Path,
    present: Callable[[], CorrectedCells],
    *,
    class_names: tuple[str, ...],
    nucleus_px: float,
    bounds: Region | None,
) -> Job[tuple[Edit, ImportReport]]:
    """Read a GeoJSON file as an edit."""
    from napari_celldetr.pipeline.import_geojson import edit_from_geojson

    yield Progress(0, 0, f"Reading {path.name}…")
    offset = (0.0, 0.0) if bounds is None else (float(bounds.x), float(bounds.y))
    return edit_from_geojson(
        path, present=present(), class_names=class_names, nucleus_px=nucleus_px, offset=offset
    )


def write_job(
    cells: Callable[[], CorrectedCells],
    path: str | Path,
    frame: SlideFrame,
    colors: Mapping[str, tuple[int, int, int]],
) -> Job[ExportCheck]:
    """Export cells that are put together here, and read the file back."""
    from napari_celldetr.pipeline.export import export_job

    yield Progress(0, 0, f"Writing {Path(path).name}")
    return (yield from export_job(cells(), path, slide=frame, colors=colors))


def record_job(journal: Path, writer: Any, path: Path) -> Job[int]:
    """Write the history of a journal, once `writer` (or None) has put all on disk."""
    from napari_celldetr.pipeline.history import history_job

    yield Progress(0, 0, f"Writing {path.name}")
    if writer is not None and not writer.flush(FLUSH_S):
        raise AnnotationError(
            "Not all corrections are on disk yet.",
            expected=f"everything saved within {FLUSH_S:g} s",
            found=writer.state.words,
            remedy="wait until the dock says that they are saved, then export again",
        )
    return (yield from history_job(journal, path))
