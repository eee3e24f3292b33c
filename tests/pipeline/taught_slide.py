"""A slide of cells whose true class its embedding shows and its claims often miss, for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import relabel
from napari_celldetr.pipeline.cell_ids import cell_ids

NAMES = ("round", "long")
TRUE = (*NAMES, "spotted")
MPP = (0.5, 0.5)


def taught_slide(
    n: int = 600, *, size: int = 8, stored: bool = True, seed: int = 0, side: float = 6000
) -> tuple[CellTable, NDArray[np.int64]]:
    """A table of `n` claims, and the true class (N,) of each of its rows by `TRUE`.

    The model takes ``spotted`` cells for ``long`` ones.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    centres = np.round(rng.uniform(20, side, (n, 2)), 1)
    vectors = rng.normal(size=(n, size)) * 0.4
    vectors[np.arange(n), truth] += 2
    p = np.full((n, 2), 0.1)
    p[np.arange(n), np.minimum(truth, 1)] = 0.9
    columns = {"class_probability": p.max(axis=1).astype(np.float32)}
    if stored:
        columns |= {f"probability_{m}": p[:, i].astype(np.float32) for i, m in enumerate(NAMES)}
    cells = Detections(
        np.column_stack((centres - 8, centres + 8)),
        rng.uniform(0.6, 1, n),
        p.argmax(axis=1),
        NAMES,
        vectors.astype(np.float16),
        columns,
        Source(slide="s", slide_id="a" * 64, mpp=MPP, model="m", weights_sha256="b" * 64),
    )
    order = np.lexsort((cells.centres[:, 0], cells.centres[:, 1]))
    table = CellTable(NAMES, cell_ids, threshold=0.5)
    table.replace(Claims.prepared(cells.select(order), cell_ids))
    return table, truth[order]


def say(table: CellTable, truth: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Label rows as they are, in the way a person does."""
    for class_id in np.unique(truth[rows]):
        edit = relabel(table, rows[truth[rows] == class_id], TRUE[class_id])
        table.apply(edit, author="ada")


def some(table: CellTable, count: int, *, seed: int = 1) -> NDArray[np.int64]:
    """Rows drawn at random."""
    return np.sort(np.random.default_rng(seed).choice(len(table), count, replace=False))
