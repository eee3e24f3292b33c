"""Learning and going back, as jobs: all that takes time, so that the window only takes it over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_celldetr.core.annotations import SAID, SHOWN
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.changes import Changes, changes
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.head import Head
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.raster import CellRaster, raster_keys
from napari_celldetr.pipeline.ask_next import queue_job
from napari_celldetr.pipeline.blas import one_blas_thread
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.lessons import LessonStore
from napari_celldetr.pipeline.teach import (
    TeachSettings,
    still_wrong,
    teach,
    what_differs,
)

Size = tuple[int, int]
Mpp = tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Learned:
    """A lesson (or none) ready to hold: what it changes, where, and the raster painted with it."""

    lesson: Lesson | None
    changes: Changes
    rows: Rows
    """Of the cells whose class is another than before."""
    raster: CellRaster


def learn_job(
    table: CellTable,
    how: TeachSettings,
    store: LessonStore | None,
    *,
    parent: Lesson | None,
    size: Size,
) -> Job[Learned]:
    """Fit a lesson on what people said of `table` (a copy), and keep it.

    Raises what `teach` does, and `AnnotationError` where lessons cannot be kept.
    """
    if store is None:
        raise AnnotationError(
            "A lesson could not be kept.",
            expected="a slide whose record in the project is open",
            found="a project that cannot be used, or is still being opened",
            remedy="see what Review cells says about saving",
        )
    lesson = yield from teach(table, how, parent=parent)
    yield Progress(0, 0, "Seeing what changes…")
    found, rows = _taught(table, lesson.head)
    raster = painted(table, size, how.mpp)
    yield Progress(0, 0, "Keeping the lesson…")
    # With the very head that the claims were taught by: it is not read again from the disk.
    store.save(lesson)
    return Learned(lesson, found, rows, raster)


def _taught(table: CellTable, head: Head | None) -> tuple[Changes, Rows]:
    """Let a head name the cells of `table`; what changed of the kept ones, and which these are."""
    kept, before = np.flatnonzero(table.kept), table.class_ids.copy()
    table.teach(head)
    found = changes(before[kept], table.class_ids[kept], table.class_names)
    return found, kept[found.changed]


def go_back_job(
    table: CellTable, store: LessonStore | None, lesson: Lesson | None, *, mpp: Mpp, size: Size
) -> Job[Learned]:
    """Let another lesson hold, or none."""
    yield Progress(0, 0, "Going back…")
    found, rows = _taught(table, None if lesson is None else lesson.head)
    raster = painted(table, size, mpp)
    if store is not None:
        store.hold("" if lesson is None else lesson.id)
    return Learned(lesson, found, rows, raster)


def compare_job(
    table: CellTable, first: Lesson | None, second: Lesson | None, *, mpp: Mpp
) -> Job[tuple[Changes, Rows]]:
    """Which cells two lessons (None: the model itself) give different classes."""
    yield Progress(0, 0, "Comparing…")
    found, rows = what_differs(table, first, second, mpp=mpp)
    return found, rows[found.changed]


@dataclass(frozen=True, eq=False)
class Asked:
    """Cells to look at next, and how much is still wrong as far as one knows."""

    rows: Rows
    random: np.ndarray[tuple[int], np.dtype[np.bool_]]
    sentence: str


def next_job(table: CellTable, store: LessonStore | None, *, mpp: Mpp, seed: int) -> Job[Asked]:
    """The next cells to ask about; those drawn at random are written down before any answer."""
    with one_blas_thread():
        queue = yield from queue_job(table, mpp=mpp, seed=seed)
    asked = set() if store is None else store.asked()
    sentence = still_wrong(table, asked).sentence()
    if store is not None:
        keys = table.keys_of(queue.rows[queue.random]).tolist()
        store.add_asked((int(a), int(b)) for a, b in keys)
    return Asked(queue.rows, queue.random, sentence)


def painted(table: CellTable, size: Size, mpp: Mpp) -> CellRaster:
    """The far view of a table as it stands."""
    raster = CellRaster(size, mpp=mpp[0] if mpp else None)
    rows = np.flatnonzero(SHOWN[table.status])
    keys = raster_keys(table.scores[rows], table.class_ids[rows], SAID[table.status[rows]])
    raster.paint(table.boxes[rows], keys, table.threshold)
    return raster
