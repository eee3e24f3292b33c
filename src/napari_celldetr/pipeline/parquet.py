"""Detections <-> Parquet files: the lossless form, used by the ledger and as an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids, come_twice, from_text
from napari_celldetr.pipeline.cell_rows import (
    AUTHOR,
    ID,
    SAID_COLUMNS,
    STATUS,
    CellRows,
    Steps,
    areas_from_json,
    areas_to_json,
    status_numbers,
)

CORNERS = ("x0", "y0", "x1", "y1")
DERIVED = ("x", "y", "class")
EMBEDDING = "embedding"
METADATA = b"celldetr"
BLOCK = 1 << 17


def to_arrow(detections: Detections, *, derived: bool = False) -> pa.Table:
    """A table with x0 y0 x1 y1 score class_id, the measurements, and the embedding if any.

    `derived` puts the centre ``x``, ``y`` first and the class name as ``class`` beside, for
    readers that know nothing of this package.
    """
    columns: dict[str, Any] = {}
    if derived:
        columns["x"], columns["y"] = (pa.array(v) for v in detections.centres.T.copy())
    for name, values in zip(CORNERS, detections.boxes.T.copy(), strict=True):
        columns[name] = pa.array(values)
    columns["score"] = pa.array(detections.scores)
    if derived:
        columns["class"] = _class_column(detections)
    columns["class_id"] = pa.array(detections.class_ids)
    for name, column in detections.columns.items():
        columns[name] = pa.array(column)
    if detections.embeddings is not None:
        columns[EMBEDDING] = _embedding_column(detections.embeddings)
    return pa.table(columns).replace_schema_metadata({METADATA: _metadata(detections).encode()})


def from_arrow(table: pa.Table) -> Detections:
    """The table `to_arrow` made, or any table with at least x0 y0 x1 y1 score.

    Raises ``KeyError`` when one of those is missing.
    """
    raw = (table.schema.metadata or {}).get(METADATA)
    about = json.loads(raw) if raw else {}
    boxes = np.stack([_numbers(table, name, np.float32) for name in CORNERS], axis=1)
    names = tuple(about.get("class_names", ()))
    class_ids = (
        _numbers(table, "class_id", np.int16)
        if "class_id" in table.column_names and names
        else np.full(len(boxes), -1, np.int16)
    )
    taken = {*CORNERS, *DERIVED, ID, "score", "class_id", EMBEDDING}
    return Detections(
        boxes,
        _numbers(table, "score", np.float32),
        class_ids,
        names,
        _embeddings(table, about),
        {n: _plain(table.column(n)) for n in table.column_names if n not in taken},
        Source.from_json(about["source"]) if "source" in about else Source(),
    )


def write_parquet(detections: Detections, path: Path, *, derived: bool = False) -> None:
    """Write one Parquet file (not atomically: the caller gives a temporary path)."""
    pq.write_table(to_arrow(detections, derived=derived), path, compression="zstd")


def read_parquet(path: Path) -> Detections:
    """Read one Parquet file; raises what pyarrow raises, and ``KeyError`` for missing columns."""
    # Memory mapping off and one thread: parts are small, and pools cost more than they give.
    return from_arrow(pq.read_table(path, use_threads=False))


def writing_parquet(rows: CellRows, path: Path, *, ids: bool = False) -> Steps[None]:
    """One file with centres and class names beside, and id, status and author of corrected cells.

    `ids` writes the ids of cells that nobody corrected as well. Not atomically: the caller gives
    a temporary path. Yields how many cells are written.
    """
    schema, done = _table(rows.select(slice(0, BLOCK)), ids).schema, 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for block in rows.blocks(BLOCK):
            file.write_table(_table(block, ids).cast(schema))
            done += len(block)
            yield done


def reading_parquet(path: Path) -> Steps[CellRows]:
    """What `writing_parquet` wrote, or any Parquet file with at least x0 y0 x1 y1 score.

    Raises what pyarrow raises, ``KeyError`` for missing columns, ``ValueError`` for wrong ids.
    """
    table = pq.read_table(path, use_threads=False)
    yield len(table)
    raw = (table.schema.metadata or {}).get(METADATA)
    about = json.loads(raw) if raw else {}
    areas = areas_from_json(about.get("areas"))
    if not about.get("corrected"):
        cells = from_arrow(table)
        return CellRows(cells, cell_ids(cells), areas=areas)
    ids, status, authors = read_said_columns(table)
    cells = from_arrow(table.drop_columns(list(SAID_COLUMNS)))
    return CellRows(cells, ids, status, authors, areas)


def read_said_columns(
    table: pa.Table, clean: Callable[[str], str] = str
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.str_]]:
    """Ids, status and authors of a table; `clean` makes a text what it was.

    ``ValueError`` for ids that are none or come twice, ``KeyError`` for a word that is no status.
    """
    # Some at a time: a million texts take much more memory than the ids that they say.
    parts = [
        from_text(table.column(ID).slice(start, BLOCK).to_pylist())
        for start in range(0, len(table), BLOCK)
    ]
    ids = np.concatenate([np.zeros((0, 2), np.uint64), *parts])
    if come_twice(ids):
        raise ValueError("an id that comes twice")
    words, which = read_words(table.column(STATUS), clean)
    authors, by = read_words(table.column(AUTHOR), clean)
    return ids, status_numbers(words)[which], authors[by]


def read_words(
    column: pa.ChunkedArray, clean: Callable[[str], str] = str
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The different texts of a column, and which one each row has."""
    found = column.cast(pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    texts = ["" if v is None else clean(str(v)) for v in found.dictionary.to_pylist()]
    return np.array(texts, np.str_), np.asarray(found.indices).astype(np.int64)


def _table(rows: CellRows, ids: bool = False) -> pa.Table:
    table = to_arrow(rows.cells, derived=True)
    if rows.authors is None:
        return table.add_column(0, ID, pa.array(as_text(rows.ids), pa.string())) if ids else table
    texts = (as_text(rows.ids), rows.status_words, rows.authors)
    at = table.column_names.index("class_id") + 1
    for name, values in reversed(tuple(zip(SAID_COLUMNS, texts, strict=True))):
        table = table.add_column(at, name, pa.array(values, pa.string()))
    about = json.loads(table.schema.metadata[METADATA])
    about |= {"corrected": True, "areas": areas_to_json(rows.areas)}
    return table.replace_schema_metadata({METADATA: json.dumps(about).encode()})


def _metadata(detections: Detections) -> str:
    size = None if detections.embeddings is None else detections.embeddings.shape[1]
    return json.dumps(
        {
            "class_names": detections.class_names,
            "embedding_size": size,
            "source": detections.source.to_json(),
            "note": RESEARCH_USE,
        }
    )


def _class_column(detections: Detections) -> pa.Array:
    names = pa.array([*detections.class_names, "unknown"])
    ids = np.where(detections.class_ids < 0, len(detections.class_names), detections.class_ids)
    return pa.DictionaryArray.from_arrays(pa.array(ids.astype(np.int16)), names)


def _embedding_column(vectors: NDArray[np.float16]) -> pa.Array:
    flat = pa.array(vectors.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, max(vectors.shape[1], 1))


def _embeddings(table: pa.Table, about: dict[str, Any]) -> NDArray[np.float16] | None:
    if EMBEDDING not in table.column_names:
        return None
    column = table.column(EMBEDDING).combine_chunks()
    size = about.get("embedding_size") or column.type.list_size
    return np.asarray(column.flatten()).astype(np.float16).reshape(-1, size)


def _numbers(table: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    return np.asarray(table.column(name)).astype(kind, copy=False)


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    values = np.asarray(column)
    return values.astype(str) if values.dtype == object else values
