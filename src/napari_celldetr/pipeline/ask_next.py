"""What to look at next on a slide: the queue, from the cells that nobody touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import SAID, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.guard import squares_of
from napari_celldetr.core.head import Head, offsets
from napari_celldetr.core.next_cells import COUNT, Queue, next_cells
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.pipeline.gather import of_claims


def queue_job(
    table: CellTable,
    *,
    mpp: tuple[float, float] | None = None,
    count: int = COUNT,
    seed: int = 0,
) -> Job[Queue]:
    """The next cells to ask a person about, as rows of `table` (a copy, for the job's thread).

    Cells that somebody touched, or that are not kept, are not asked. Remember the random ones
    (`napari_celldetr.pipeline.lessons.LessonStore.add_asked`) before the first answer. Without
    embeddings all are drawn at random.
    """
    yield Progress(0, 3, "Looking for doubtful cells…")
    open_ = table.kept & (table.status == Status.CLAIMED)
    probability = _probabilities(table)
    if probability is None:
        rows = np.flatnonzero(open_)
        drawn = np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)
        return Queue(drawn.astype(np.int64), np.ones(len(drawn), bool))
    yield Progress(1, 3, "Looking for new ones among them…")
    said = np.flatnonzero(SAID[table.status])
    vectors = _Embeddings(table)
    queue = next_cells(
        vectors,
        probability,
        squares_of(table.centres, mpp),
        taught=vectors[said],
        open_=open_,
        count=count,
        seed=seed,
    )
    yield Progress(3, 3)
    return queue


@dataclass(frozen=True, eq=False)
class _Embeddings:
    """Embeddings of the table's rows, which lie with its claims."""

    table: CellTable

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        return of_claims(self.table, np.asarray(rows, np.int64), ())[0]


def _probabilities(table: CellTable) -> NDArray[np.float32] | None:
    """Class probabilities (N, K) as things stand; NaN for rows that no claim stands behind.

    None where there are no embeddings.
    """
    if not table.claims or any(c.table.embeddings is None for c in table.claims):
        return None
    head, names = table.teacher, table.claims[0].table.class_names
    if isinstance(head, Head):
        names = head.class_names
    p = np.full((len(table), len(names)), np.nan, np.float32)
    for mine, local, claims in table.claims_behind(np.arange(len(table))):
        if isinstance(head, Head):
            p[mine] = head.all_probabilities(claims)[local]
        else:
            p[mine] = np.exp(offsets(claims, names))[local]
    return p
