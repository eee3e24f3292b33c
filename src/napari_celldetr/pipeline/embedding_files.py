"""Embeddings from files: ours, and those that other programs made of the same cells.

A foreign file says which cell each vector is of by id, by box or by centre. Vectors are matched
onto the cells that stand, by id where there are ids, and else to the nearest centre within 3 µm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import CellDETRError, EmbeddingError
from napari_celldetr.core.space.batches import Mixing, slide_mixing
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.embed import no_embeddings
from napari_celldetr.pipeline.reapply import reach_px
from napari_celldetr.pipeline.vector_tables import SUFFIXES, VectorTable, read_vector_table

MADE_BY = "embeddings of "
"""In the name of the model of cells whose embeddings another program made; its file follows."""
LEAST_SHARE = 0.5
"""Of the cells that must get a vector: with fewer the file is of something else."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Vectors found for cells.

    Attributes
    ----------
    rows : (M,) int64
        Cells that have one, in order.
    vectors : (M, D) float16
    by : str
        ``id`` or ``place``.
    cells, given : int
        Cells that were asked for, and vectors in the file.
    name : str
        Of the file.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float16]
    by: str
    cells: int
    given: int
    name: str

    def sentence(self) -> str:
        """The match in words for people."""
        return (
            f"{len(self.rows):,} of {self.cells:,} cells have one of {self.given:,} embeddings "
            f"({self.vectors.shape[1]} numbers each), matched by {self.by}."
        )

    def onto(self, cells: Detections) -> Detections:
        """The cells that have a vector, with it; their model's name says whose it is."""
        source = cells.source
        model = f"{source.model.split(' with ' + MADE_BY)[0]} with {MADE_BY}{self.name}"
        some = cells.select(self.rows).with_source(replace(source, model=model))
        return replace(some, embeddings=self.vectors)


def embedding_origin(source: Source) -> str:
    """What made the embeddings of a table: the weights' hash, or the file they came from.

    Empty where nothing is known.
    """
    _, made_by, name = source.model.partition(MADE_BY)
    return name if made_by else source.weights_sha256


def read_embeddings(path: str | Path) -> Detections:
    """Cells with embeddings from a file, ours or another program's with boxes.

    Parameters
    ----------
    path
        ``.parquet``, ``.h5ad``, ``.csv`` or ``.npz``; see `read_vector_table` for what it must
        hold. Boxes are in level-0 px. Where scores and classes are missing, they are 1 and
        unknown.

    Raises
    ------
    EmbeddingError
        The file holds no embeddings, or no boxes.
    ExportError
        Its suffix is none of these.
    """
    table = read_vector_table(path)
    if table.boxes is None:
        raise EmbeddingError(
            f"{table.name} says nothing of where its cells are.",
            expected="columns x0, y0, x1, y1 in level-0 px",
            found="embeddings alone" if table.centres is None else "centres without boxes",
            remedy="open the slide's cells and match the embeddings onto them by id or centre",
        )
    n = len(table.vectors)
    return Detections(
        table.boxes,
        np.ones(n, np.float32) if table.scores is None else table.scores,
        np.full(n, UNKNOWN, np.int16) if table.class_ids is None else table.class_ids,
        table.class_names,
        table.vectors,
        source=table.source or Source(model=f"{MADE_BY}{table.name}"),
    )


def match_embeddings(
    cells: Detections, path: str | Path, *, ids: NDArray[np.uint64] | None = None
) -> Matched:
    """Find the vector of each cell in a file.

    Parameters
    ----------
    cells : Detections
        N cells, level-0 px.
    path
        As `read_embeddings` takes it; ids or centres are enough.
    ids : (N, 2) uint64, optional
        Of the cells; by default those that `cell_ids` gives them.

    Raises
    ------
    EmbeddingError
        The file says nothing of which cells its vectors are of; fewer than half of the cells get
        one; or the file names another slide.
    """
    table = read_vector_table(path)
    _refuse_other_slide(cells.source, table)
    if table.ids is None and table.centres is None:
        raise EmbeddingError(
            f"{table.name} does not say which cells its embeddings are of.",
            expected="a column id, columns x and y, or x0, y0, x1, y1",
            found=f"{len(table.vectors)} embeddings alone; there are {len(cells)} cells",
            remedy="write the ids or boxes of the cells beside the embeddings",
        )
    rows, which, by = np.zeros(0, np.int64), np.zeros(0, np.int64), "id"
    if table.ids is not None:
        rows, which = _by_id(cell_ids(cells) if ids is None else ids, table.ids)
    if table.centres is not None and len(rows) < LEAST_SHARE * len(cells):
        mpp = cells.source.mpp
        reach = reach_px(None if mpp is None else sum(mpp) / 2)
        rows, which = _by_place(cells.centres, table.centres, reach)
        by = "place"
    if not len(rows) or len(rows) < LEAST_SHARE * len(cells):
        raise _too_few(table, len(cells), len(rows), by)
    return Matched(rows, table.vectors[which], by, len(cells), len(table.vectors), table.name)


def refuse_other_embeddings(cells: Detections, *, size: int, origin: str) -> None:
    """`EmbeddingError` unless cells have embeddings of `size` numbers and of this origin.

    `origin` is as `embedding_origin` tells it; an empty one on either side is not compared.
    """
    if cells.embeddings is None:
        raise no_embeddings(cells.source.model)
    found, theirs = cells.embeddings.shape[1], embedding_origin(cells.source)
    if found == size and (not theirs or not origin or theirs == origin):
        return
    raise EmbeddingError(
        "These embeddings are of another model.",
        expected=f"{size} numbers a cell, made by {origin[:40] or 'any model'}",
        found=f"{found} numbers a cell, made by {theirs[:40] or 'an unknown model'}",
        remedy="run the same model on this slide, or start from its own embeddings",
    )


def read_cohort(paths: Sequence[str | Path]) -> list[Detections]:
    """Cells of several slides with embeddings of one model; raises `EmbeddingError` otherwise."""
    tables = [read_embeddings(path) for path in paths]
    full = [t for t in tables if len(t)]
    for table in full[1:]:
        first = full[0]
        assert first.embeddings is not None
        size, origin = first.embeddings.shape[1], embedding_origin(first.source)
        refuse_other_embeddings(table, size=size, origin=origin)
        if table.class_names != first.class_names:
            raise EmbeddingError(
                "These slides do not have the same classes.",
                expected=", ".join(first.class_names),
                found=", ".join(table.class_names),
                remedy="embed all slides with the same model",
            )
    return tables


def compare_slides(paths: Sequence[str | Path]) -> list[Mixing]:
    """How far the slides of several files lie apart, see `slide_mixing`."""
    tables = [t for t in read_cohort(paths) if len(t)]
    if len(tables) < 2:
        return []
    named = [
        (t.source.slide or f"slide {i + 1}", t.embeddings, t.class_ids)
        for i, t in enumerate(tables)
        if t.embeddings is not None
    ]
    return slide_mixing(named, tables[0].class_names)


def _by_id(
    ours: NDArray[np.uint64], theirs: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ours, in order, and of theirs with the same id (N, 2)."""
    one, other = (
        np.ascontiguousarray(a).view([("a", "u8"), ("b", "u8")])[:, 0] for a in (ours, theirs)
    )
    _, rows, which = np.intersect1d(one, other, return_indices=True)
    order = np.argsort(rows)
    return rows[order].astype(np.int64), which[order].astype(np.int64)


def _by_place(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ours, in order, and of theirs that are each other's nearest within reach."""
    if not len(ours) or not len(theirs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    from scipy.spatial import cKDTree

    apart, which = cKDTree(theirs).query(ours)
    _, back = cKDTree(ours).query(theirs)
    rows = np.flatnonzero((apart <= reach) & (back[which] == np.arange(len(ours))))
    return rows, which[rows].astype(np.int64)


def _refuse_other_slide(source: Source, table: VectorTable) -> None:
    theirs = table.source.slide_id if table.source is not None else ""
    if theirs and source.slide_id and theirs != source.slide_id:
        assert table.source is not None
        raise EmbeddingError(
            f"{table.name} is of another slide.",
            expected=source.slide or "this slide",
            found=table.source.slide or "another",
            remedy="choose the file of this slide",
        )


def _too_few(table: VectorTable, cells: int, found: int, by: str) -> CellDETRError:
    how = "the same id" if by == "id" else "a centre within 3 µm of theirs"
    return EmbeddingError(
        f"{table.name} does not fit these cells.",
        expected=f"an embedding for at least half of the {cells} cells",
        found=f"{found} of {len(table.vectors)} have {how}",
        remedy="choose the file of this slide and run; places are in level-0 px",
    )


__all__ = [
    "SUFFIXES",
    "Matched",
    "compare_slides",
    "embedding_origin",
    "match_embeddings",
    "read_cohort",
    "read_embeddings",
    "refuse_other_embeddings",
]
