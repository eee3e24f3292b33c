"""The cells of a slide that have an embedding, and where a projection puts them. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.space.batches import slide_mixing
from napari_celldetr.core.space.density import Bounds, bounds_of
from napari_celldetr.core.space.pca import fitting_pca
from napari_celldetr.pipeline.blas import one_blas_thread

PCA, UMAP = "pca", "umap"
FIT_ON = 200_000
"""Main axes are found on so many cells; all are then placed by them."""
FEWEST = 3


@dataclass(frozen=True, eq=False)
class Embedded:
    """Rows (M,) of a table whose claims have embeddings, and these, (M, D) float16."""

    rows: Rows
    vectors: NDArray[Any]
    weights: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, table: CellTable) -> Embedded:
        """What a table has; raises `EmbeddingError` where that is too little to be shown."""
        every = np.arange(len(table), dtype=np.int64)
        parts = [
            (mine, claims.embeddings if len(local) == len(claims) else claims.embeddings[local])
            for mine, local, claims in table.claims_behind(every)
            if claims.embeddings is not None and claims.embeddings.shape[1]
        ]
        sizes = {vectors.shape[1] for _, vectors in parts}
        count = sum(len(mine) for mine, _ in parts)
        if len(sizes) != 1 or count < FEWEST:
            raise EmbeddingError(
                "There is nothing to show yet.",
                expected=f"at least {FEWEST} cells with embeddings of one model",
                found=_found(len(table), count, len(sizes)),
                remedy="find cells with Detect cells",
            )
        weights = table.source.weights_sha256
        if len(parts) == 1:
            # A million embeddings are not copied.
            return cls(parts[0][0], parts[0][1], weights)
        rows, vectors = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return cls(rows, vectors, weights)


def _found(cells: int, embedded: int, sizes: int) -> str:
    if sizes > 1:
        return f"embeddings of {sizes} sizes"
    return f"{embedded:,} embeddings of {cells:,} cells"


@dataclass(frozen=True, eq=False)
class Placed:
    """Cells in the plot: `points` (M, 2) of the rows of `cells`, and what the axes are."""

    cells: Embedded
    points: NDArray[np.float32]
    method: str
    axes: str
    bounds: Bounds
    at: NDArray[np.int32] = field(repr=False)
    """(N,) by row of the table: place in `points`, -1 for rows without one."""
    beside: tuple[tuple[str, NDArray[np.float32]], ...] = ()
    """Names of other slides and where their cells lie (m, 2)."""

    @classmethod
    def made(
        cls,
        cells: Embedded,
        points: NDArray[np.float32],
        method: str,
        axes: str,
        names: Sequence[tuple[str, int]] = (),
    ) -> Placed:
        """With bounds, and the way back from rows.

        In `points`, cells of other slides follow those of `cells`: their names, and how many.
        """
        at = np.full(int(cells.rows.max()) + 1, -1, np.int32)
        at[cells.rows] = np.arange(len(cells), dtype=np.int32)
        beside, start = [], len(cells)
        for name, count in names:
            beside.append((name, points[start : start + count]))
            start += count
        own = points[: len(cells)]
        return cls(cells, own, method, axes, bounds_of(points), at, tuple(beside))

    def places(self, rows: Rows) -> NDArray[np.int64]:
        """Places in `points` of those of `rows` that have one."""
        known = rows[rows < len(self.at)]
        found = self.at[known].astype(np.int64)
        return found[found >= 0]


@dataclass(frozen=True, eq=False)
class Beside:
    """Another slide whose cells are laid out with these: a copy of its table."""

    name: str
    table: CellTable


def place_job(
    table: CellTable, method: str = PCA, *, name: str = "", beside: Sequence[Beside] = ()
) -> Job[Placed]:
    """Put the cells of a table (a copy) into the plane, with those of other slides if there are.

    `method` is ``pca`` or ``umap``. Other slides' cells are drawn down to those of this one, and
    left out where they are of another model. Raises `EmbeddingError` where there are too few
    cells, `JobError` where umap-learn is missing.
    """
    yield Progress(0, 0, "Gathering the cells…")
    cells = Embedded.of(table)
    others = [(b, e) for b in beside if (e := _like(cells, b.table)) is not None]
    vectors = cells.vectors
    if others:
        vectors = np.concatenate([vectors, *(e.vectors for _, e in others)])
    names = [(b.name, len(e)) for b, e in others]
    apart = _apart(table, cells, name, others)
    if method == UMAP:
        from napari_celldetr.pipeline.landmark_umap import landmark_umap

        points = yield from landmark_umap(vectors)
        return Placed.made(
            cells, points, UMAP, f"UMAP: near is alike, far says little{apart}", names
        )
    with one_blas_thread():
        fit = yield from fitting_pca(vectors, components=2, sample=FIT_ON)
        points = yield from fit.projecting(vectors)
    first, second = (100 * fit.explained).tolist()
    axes = f"Main axes: {first:.0f} % and {second:.0f} % of the differences between cells{apart}"
    return Placed.made(cells, points, PCA, axes, names)


def _like(cells: Embedded, table: CellTable) -> Embedded | None:
    """The kept cells of another slide, at most as many as of this one; None of another model."""
    try:
        found = Embedded.of(table)
    except EmbeddingError:
        return None
    if found.weights != cells.weights or found.vectors.shape[1] != cells.vectors.shape[1]:
        return None
    kept = np.flatnonzero(table.kept[found.rows])
    if len(kept) > len(cells):
        kept = kept[np.linspace(0, len(kept) - 1, len(cells)).astype(np.int64)]
    return Embedded(found.rows[kept], found.vectors[kept], found.weights) if len(kept) else None


def _apart(
    table: CellTable, cells: Embedded, name: str, others: Sequence[tuple[Beside, Embedded]]
) -> str:
    """How far the slides lie apart, in words."""
    if not others:
        return ""
    names = table.class_names
    tables = [(name, cells.vectors, table.class_ids[cells.rows])]
    for other, found in others:
        ids = other.table.class_ids[found.rows].astype(np.int64)
        order = [names.index(n) if n in names else -1 for n in other.table.class_names]
        tables.append((other.name, found.vectors, np.array([*order, -1])[ids]))
    mixing = slide_mixing(tables, names)
    if not mixing:
        return ". Too few cells to say how far the slides lie apart"
    return f". The slides lie {100 * mixing[0].apart:.0f} % apart (0: mixed as by chance)"
