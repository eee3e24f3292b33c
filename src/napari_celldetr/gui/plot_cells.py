"""The cells of a slide that have an embedding, and where a projection puts them. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.space.density import Bounds, bounds_of
from napari_celldetr.core.space.pca import fitting_pca

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

    @classmethod
    def made(cls, cells: Embedded, points: NDArray[np.float32], method: str, axes: str) -> Placed:
        """With bounds that hold nearly all, and the way back from rows."""
        at = np.full(int(cells.rows.max()) + 1, -1, np.int32)
        at[cells.rows] = np.arange(len(cells), dtype=np.int32)
        return cls(cells, points, method, axes, bounds_of(points), at)

    def places(self, rows: Rows) -> NDArray[np.int64]:
        """Places in `points` of those of `rows` that have one."""
        known = rows[rows < len(self.at)]
        found = self.at[known].astype(np.int64)
        return found[found >= 0]


def place_job(table: CellTable, method: str = PCA) -> Job[Placed]:
    """Put the cells of a table (a copy) into the plane.

    `method` is ``pca`` or ``umap``. Raises `EmbeddingError` where there are too few, `JobError`
    where umap-learn is missing.
    """
    yield Progress(0, 0, "Gathering the cells…")
    cells = Embedded.of(table)
    if method == UMAP:
        from napari_celldetr.pipeline.landmark_umap import landmark_umap

        points = yield from landmark_umap(cells.vectors)
        return Placed.made(cells, points, UMAP, "UMAP: near is alike, far says little")
    fit = yield from fitting_pca(cells.vectors, components=2, sample=FIT_ON)
    points = yield from fit.projecting(cells.vectors)
    first, second = (100 * fit.explained).tolist()
    axes = f"Main axes: {first:.0f} % and {second:.0f} % of the differences between cells"
    return Placed.made(cells, points, PCA, axes)
