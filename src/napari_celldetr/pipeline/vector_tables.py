"""A table with a vector per cell, from Parquet, AnnData, CSV or NumPy files of any program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import EmbeddingError, ExportError
from napari_celldetr.pipeline.cell_ids import come_twice, from_text
from napari_celldetr.pipeline.cell_rows import finish
from napari_celldetr.pipeline.export import suffix_of

SUFFIXES = (".parquet", ".h5ad", ".csv", ".npz")
NAMES = ("embedding", "embeddings", "vectors", "features", "X")
"""What vectors may be called, the likeliest first."""
CORNERS = ("x0", "y0", "x1", "y1")
MAX_SIZE = 1 << 14
"""Numbers a cell; a table of expressed genes has more."""
_NUMBERED = re.compile(r"(.*?)_?(\d+)")
_FEWEST = 2


@dataclass(frozen=True, eq=False)
class VectorTable:
    """What a file says of N cells: vectors, and whatever else there is.

    `centres` are those of `boxes` where the file has none; `source` is there in files of ours.
    """

    name: str
    vectors: NDArray[np.float16]
    ids: NDArray[np.uint64] | None = None
    boxes: NDArray[np.float32] | None = None
    centres: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    class_ids: NDArray[np.int16] | None = None
    class_names: tuple[str, ...] = ()
    source: Source | None = None


def read_vector_table(path: str | Path) -> VectorTable:
    """Vectors of cells from a file.

    Vectors are a column of lists, an array, or numbered columns (``embedding_0``, ``f1`` …);
    a cell is known by ``id`` (a UUID of ours), by ``x0 y0 x1 y1``, or by ``x y``, in level-0 px.
    In AnnData they are ``X`` or ``obsm["embedding"]``, ids the names, centres
    ``obsm["spatial"]``. ``score`` and ``class`` are read where they are there.

    Raises
    ------
    EmbeddingError
        There is no such file, it cannot be read, or holds no vectors of finite numbers.
    ExportError
        Its suffix is none of these.
    """
    import pyarrow as pa

    source = Path(path)
    suffix = suffix_of(source, SUFFIXES)
    if not source.is_file():
        raise _refused(source.name, "no such file")
    try:
        if suffix == ".h5ad":
            return _from_h5ad(source)
        columns, about = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}[suffix](source)
        return _table(source.name, columns, about)
    except EmbeddingError:
        raise
    except (OSError, pa.ArrowException, BadZipFile, EOFError) as error:
        raise _refused(source.name, f"{type(error).__name__}: {str(error)[:150]}") from error
    except (ValueError, TypeError, LookupError, ExportError, MemoryError, RuntimeError) as error:
        raise _refused(source.name, f"{type(error).__name__}: {str(error)[:150]}") from error


Columns = Mapping[str, NDArray[Any]]


def _parquet(path: Path) -> tuple[Columns, Detections | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from napari_celldetr.pipeline.parquet import METADATA, from_arrow

    table = pq.read_table(path, use_threads=False)
    columns: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            columns[name] = _lists(name, column)
        else:
            columns[name] = np.asarray(column)
    ours = METADATA in (table.schema.metadata or {})
    return columns, from_arrow(table) if ours else None


def _lists(name: str, column: Any) -> NDArray[Any]:
    import pyarrow.compute as pc

    sizes = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(sizes) > 1 or None in sizes:
        raise ValueError(f"{name} of different lengths")
    return np.asarray(column.flatten()).reshape(len(column), sizes.pop() if sizes else 1)


def _csv(path: Path) -> tuple[Columns, None]:
    import pyarrow.csv as pc

    table = pc.read_csv(path)
    return {n: np.asarray(table.column(n).combine_chunks()) for n in table.column_names}, None


def _npz(path: Path) -> tuple[Columns, None]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}, None


def _from_h5ad(path: Path) -> VectorTable:
    from napari_celldetr.pipeline.anndata_file import check_sizes

    try:
        import anndata  # noqa: F401
        import h5py
    except ImportError as error:
        raise EmbeddingError(
            "AnnData files need a package that is not installed.",
            expected="anndata",
            found="nothing",
            remedy="pip install 'napari-celldetr[export]'",
        ) from error
    with h5py.File(path, "r") as file:
        check_sizes(file)
        # `obsm` before `X`: where measurements are X, the embeddings are there.
        where = next((n for n in ("obsm/embedding", "X") if n in file), None)
        if where is None:
            raise ValueError("neither X nor obsm/embedding")
        if "uns/source" in file and "uns/class_names" in file:
            return _ours(path)
        vectors, obs = _element(file, where), _element(file, "obs")
        spatial = _element(file, "obsm/spatial") if "obsm/spatial" in file else None
    if len(vectors.shape) != 2 or vectors.shape[1] > MAX_SIZE:
        raise ValueError(f"{where} of shape {vectors.shape}")
    vectors = vectors.toarray() if hasattr(vectors, "toarray") else vectors
    columns: dict[str, NDArray[Any]] = {"embedding": np.asarray(vectors)}
    for name in ("id", "x", "y", "score", "class", *CORNERS):
        if name in obs:
            texts = name in ("id", "class")
            columns[name] = (obs[name].astype(str) if texts else obs[name]).to_numpy()
    columns.setdefault("id", np.array([str(i) for i in obs.index]))
    if spatial is not None and "x" not in columns:
        columns["x"], columns["y"] = np.asarray(spatial)[:, :2].T
    return _table(path.name, columns, None)


def _element(file: Any, name: str) -> Any:
    from anndata.io import read_elem

    try:
        return read_elem(file[name])
    except Exception as error:  # anndata has kinds of its own for what it does not know
        raise ValueError(f"{name}: {str(error)[:100]}") from error


def _ours(path: Path) -> VectorTable:
    from napari_celldetr.pipeline.anndata_file import reading_h5ad

    rows = finish(reading_h5ad(path))
    cells = rows.cells
    if cells.embeddings is None:
        raise ValueError("cells without embeddings")
    return VectorTable(
        path.name,
        cells.embeddings,
        rows.ids,
        cells.boxes,
        cells.centres,
        cells.scores,
        cells.class_ids,
        cells.class_names,
        cells.source,
    )


def _table(name: str, columns: Columns, ours: Detections | None) -> VectorTable:
    vectors = _vectors(name, columns)
    n = len(vectors)
    wrong = next((k for k in ("id", "x", "y", *CORNERS) if len(columns.get(k, vectors)) != n), None)
    if wrong is not None:
        raise _refused(name, f"{n} embeddings and {len(columns[wrong])} values of {wrong}")
    boxes = _boxes(columns)
    centres = _stacked(columns, ("x", "y"))
    if centres is None and boxes is not None:
        centres = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
    scores = columns.get("score")
    names, ids = _classes(columns.get("class"), ours)
    return VectorTable(
        name,
        vectors,
        _ids(columns.get("id")),
        boxes,
        centres,
        None if scores is None else np.asarray(scores, np.float32),
        ids,
        names,
        None if ours is None else ours.source,
    )


def _vectors(name: str, columns: Columns) -> NDArray[np.float16]:
    """Vectors (N, D): one column or array of them, or numbered columns side by side."""
    whole = next((n for n in NAMES if n in columns and columns[n].ndim == 2), None)
    found = columns[whole] if whole is not None else _side_by_side(columns)
    if found is None or found.dtype.kind not in "fiu":
        raise _refused(name, "columns " + ", ".join(list(columns)[:8]))
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(found, np.float16)
    if not np.isfinite(vectors).all():
        raise EmbeddingError(
            f"{name} holds embeddings that cannot be kept.",
            expected="finite numbers up to 65504, as they are stored with half precision",
            found="NaN, infinity or larger numbers",
            remedy="leave these cells out, or divide the embeddings by a constant",
        )
    return vectors


def _side_by_side(columns: Columns) -> NDArray[Any] | None:
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, values in columns.items():
        word = _NUMBERED.fullmatch(name)
        if word and values.ndim == 1 and values.dtype.kind in "fiu" and name not in CORNERS:
            groups.setdefault(word[1], []).append((int(word[2]), name))
    largest = max(groups.values(), key=len, default=[])
    if len(largest) < _FEWEST:
        return None
    return np.stack([columns[name] for _, name in sorted(largest)], axis=1)


def _boxes(columns: Columns) -> NDArray[np.float32] | None:
    found = columns.get("boxes")
    if found is not None and found.ndim == 2 and found.shape[1] == 4:
        return np.asarray(found, np.float32)
    return _stacked(columns, CORNERS)


def _stacked(columns: Columns, names: tuple[str, ...]) -> NDArray[np.float32] | None:
    if not all(n in columns for n in names):
        return None
    found = np.stack([np.asarray(columns[n], np.float32) for n in names], axis=1)
    if not np.isfinite(found).all():
        raise ValueError(f"{', '.join(names)} that are not numbers")
    return found


def _ids(column: NDArray[Any] | None) -> NDArray[np.uint64] | None:
    """Ids (N, 2); None where they are another program's."""
    if column is None:
        return None
    try:
        ids = from_text([str(v) for v in column])
    except ValueError:
        return None
    if come_twice(ids):
        raise ValueError("an id that comes twice")
    return ids


def _classes(
    column: NDArray[Any] | None, ours: Detections | None
) -> tuple[tuple[str, ...], NDArray[np.int16] | None]:
    if ours is not None:
        return ours.class_names, ours.class_ids
    if column is None or column.ndim != 1:
        return (), None
    words, which = np.unique(column.astype(str), return_inverse=True)
    names = tuple(str(w) for w in words if w not in ("unknown", "", "nan", "None"))
    number = {w: i for i, w in enumerate(names)}
    return names, np.array([number.get(str(w), UNKNOWN) for w in words], np.int16)[which]


def _refused(name: str, found: str) -> EmbeddingError:
    return EmbeddingError(
        f"{name} cannot be read as embeddings.",
        expected="a column embedding, or numbered columns, with a row for each cell",
        found=found,
        remedy="see docs/embedding.md for what such a file must hold",
    )
