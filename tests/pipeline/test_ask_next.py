"""The queue on a table: untouched cells, doubtful under the lesson that holds."""

from __future__ import annotations

import numpy as np
from taught_slide import MPP, NAMES, say, some, taught_slide

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.ask_next import queue_job
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.teach import TeachSettings, teach


def test_untouched_cells_alone_are_asked() -> None:
    table, truth = taught_slide(200)
    say(table, truth, some(table, 150))
    queue = drain(queue_job(table, mpp=MPP))
    assert len(queue) == 20
    assert (table.status[queue.rows] == Status.CLAIMED).all()


def test_the_lesson_that_holds_says_what_is_doubtful() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 120))
    head = drain(teach(table.copy(), TeachSettings(mpp=MPP))).head
    assert head is not None
    table.teach(head)
    queues = [drain(queue_job(table, mpp=MPP, seed=s)) for s in range(5)]
    asked = np.concatenate([q.rows[~q.random] for q in queues])
    p = np.sort(head.all_probabilities(table.claims[0].table), axis=1)
    margin = p[:, -1] - p[:, -2]
    assert margin[asked].mean() < margin.mean() - 0.05


def test_tables_of_several_tiles_and_of_none() -> None:
    table, _ = taught_slide(100)
    cells = table.claims[0].table
    tiles = CellTable(NAMES, cell_ids, threshold=0.5)
    tiles.add(cells.select(slice(0, 50)))
    tiles.add(cells.select(slice(50, 100)))
    whole, parts = (drain(queue_job(t, mpp=MPP, seed=4)) for t in (table, tiles))
    assert np.array_equal(whole.rows, parts.rows)
    assert len(drain(queue_job(CellTable(NAMES, cell_ids)))) == 0


def test_without_embeddings_the_queue_is_random() -> None:
    table, _ = taught_slide(100)
    cells = table.claims[0].table
    bare = Detections(cells.boxes, cells.scores, cells.class_ids, NAMES)
    table.replace(Claims.prepared(bare, cell_ids))
    queue = drain(queue_job(table))
    assert queue.random.all()
    assert len(queue) == 20
