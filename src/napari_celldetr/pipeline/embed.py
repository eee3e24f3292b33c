"""Embed: what the model sees in each cell, as a table that other programs read.

It is a detect run, found again where one was stored, written with its embeddings first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.pipeline.cell_rows import CellRows, finish
from napari_celldetr.pipeline.detect import detect
from napari_celldetr.pipeline.export import reading_as, suffix_of
from napari_celldetr.pipeline.export_check import compare

SUFFIXES = (".parquet", ".h5ad")


def embed(slide: Any, config: Any = None, **options: Any) -> Job[Detections]:
    """The cells of a slide with their embeddings; arguments, steps and errors are `detect`'s.

    The run key is that of `detect`: what either of them stored, the other finds again. Raises
    `EmbeddingError` as well, when the model gives no embeddings.
    """
    cells = yield from detect(slide, config, **options)
    if len(cells) and cells.embeddings is None:
        raise no_embeddings(cells.source.model)
    return cells


def write_embeddings(cells: Detections, path: str | Path) -> Path:
    """Write cells with ids, boxes, classes and embeddings to ``.parquet`` or ``.h5ad``.

    In Parquet they are the column ``embedding``, D halves a cell, and ``id`` is a column too; in
    AnnData they are ``X``, and everything else is ``obs``. The file is read back and compared
    before it takes its place. Raises `ExportError` as `export` does, and `EmbeddingError` for
    cells without embeddings.
    """
    target = Path(path)
    suffix = suffix_of(target, SUFFIXES)
    if len(cells) and cells.embeddings is None:
        raise no_embeddings(cells.source.model)
    rows = CellRows.of(cells)
    try:
        with replacing(target) as temporary:
            _write(rows, temporary, suffix)
            back = finish(reading_as(suffix, temporary, name=target.name))
            compare(rows, back, has_ids=suffix == ".h5ad")
            _same_vectors(rows.cells, back.cells, target.name)
    except OSError as error:
        raise not_written(target.name, error) from error
    return target


def no_embeddings(model: str) -> EmbeddingError:
    """The error for cells without embeddings."""
    return EmbeddingError(
        "These cells have no embeddings.",
        expected="cells of a model with a representation decoder",
        found=f"cells of {model or 'an unknown model'}, without",
        remedy="choose another model, or import embeddings made elsewhere",
    )


def _write(rows: CellRows, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        from napari_celldetr.pipeline.parquet import writing_parquet

        finish(writing_parquet(rows, path, ids=True))
    else:
        from napari_celldetr.pipeline.anndata_file import writing_h5ad

        finish(writing_h5ad(rows, path, embedding_as_x=True))


def _same_vectors(one: Detections, other: Detections, name: str) -> None:
    if one.embeddings is None or not len(one):
        return
    if other.embeddings is not None and one.embeddings.tobytes() == other.embeddings.tobytes():
        return
    raise EmbeddingError(
        f"{name} was not written: its embeddings read back differently.",
        expected=f"{one.embeddings.shape[0]} × {one.embeddings.shape[1]} numbers as they are",
        found="others",
        remedy="try again, or write the other format",
    )
