"""AnnData (.h5ad) for scanpy and squidpy: cells as observations, centres in obsm["spatial"]."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import as_text, come_twice, from_text
from napari_celldetr.pipeline.cell_rows import (
    AUTHOR,
    STATUS,
    CellRows,
    Steps,
    areas_from_json,
    areas_to_json,
    status_numbers,
)
from napari_celldetr.pipeline.parquet import CORNERS

MAX_CELLS = 20_000_000
MAX_VALUES = 1 << 32
"""In all arrays that are read together; a file says in 100 bytes that an array is endless."""
READ = ("obs", "var", "X", "obsm/embedding", "uns")
CHECKED = (*READ, "obsm/spatial")
EMBEDDING = "embedding"


def writing_h5ad(rows: CellRows, path: Path, *, embedding_as_x: bool = False) -> Steps[None]:
    """Write one file (not atomically: the caller gives a temporary path).

    ``X`` holds the numeric measurements, ``obs`` score, class and box, and status and author of
    corrected cells, ``obs_names`` the ids, ``obsm["spatial"]`` the centres in level-0 px,
    ``obsm["embedding"]`` the embeddings, ``uns`` source, note and areas. With `embedding_as_x`
    the embeddings are ``X``, and the measurements stand in ``obs``. Raises `ExportError` when
    anndata is not installed.
    """
    anndata, pandas = _packages()
    cells = rows.cells
    numeric = [n for n, v in cells.columns.items() if v.dtype.kind in "buif"]
    vectors = None if cells.embeddings is None else cells.embeddings.astype(np.float32)
    obs = pandas.DataFrame(
        {"score": cells.scores, **dict(zip(CORNERS, cells.boxes.T, strict=True))},
        index=as_text(rows.ids),
    )
    obs["class"] = pandas.Categorical(cells.class_labels, _categories(cells))
    if rows.authors is not None:
        obs[STATUS] = pandas.Categorical(rows.status_words)
        obs[AUTHOR] = pandas.Categorical(rows.authors)
    for name in (n for n in cells.columns if n not in numeric):
        obs[name] = cells.columns[name].astype(str)
    obsm = {"spatial": cells.centres}
    uns = {"source": cells.source.to_json(), "note": RESEARCH_USE}
    if embedding_as_x:
        for name in numeric:
            obs[name] = cells.columns[name]
        matrix = np.zeros((len(cells), 0), np.float32) if vectors is None else vectors
        numeric = [f"{EMBEDDING}_{i}" for i in range(matrix.shape[1])]
        uns["X"] = EMBEDDING
    else:
        if vectors is not None:
            obsm[EMBEDDING] = vectors
        matrix = np.empty((len(cells), len(numeric)), np.float32)
        for i, name in enumerate(numeric):
            matrix[:, i] = cells.columns[name]
    uns["class_names"] = json.dumps(cells.class_names)
    uns["areas"] = json.dumps(areas_to_json(rows.areas))
    var = pandas.DataFrame(index=numeric)
    yield 0
    try:
        anndata.AnnData(matrix, obs=obs, var=var, obsm=obsm, uns=uns).write_h5ad(path)
    except (RuntimeError, OSError) as error:
        raise _system_error(error) from error


def reading_h5ad(path: Path) -> Steps[CellRows]:
    """What `writing_h5ad` wrote.

    Only what we wrote is read, and only after its size was checked; links out of the file are
    refused. Raises `ExportError` for anything else.
    """
    _packages()
    import h5py
    from anndata.io import read_elem

    with h5py.File(path, "r") as file:
        check_sizes(file)
        yield 0
        found = {name: read_elem(file[name]) for name in READ if name in file}
    try:
        return _rows(found)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:150]}") from error


def _rows(found: dict[str, Any]) -> CellRows:
    obs, uns, matrix = found["obs"], found["uns"], np.asarray(found["X"])
    names = [str(n) for n in found["var"].index]
    if matrix.shape != (len(obs), len(names)):
        raise ValueError(f"X of {matrix.shape}, {len(obs)} cells, {len(names)} measurements")
    classes = tuple(str(n) for n in json.loads(uns["class_names"]))
    number = {"unknown": UNKNOWN, **{name: i for i, name in enumerate(classes)}}
    labels, which = _texts(obs["class"])
    taken = {"score", "class", STATUS, AUTHOR, *CORNERS}
    as_x = uns.get("X") == EMBEDDING
    columns = {} if as_x else {name: matrix[:, i] for i, name in enumerate(names)}
    columns |= {n: _column(obs[n]) for n in obs.columns if n not in taken}
    vectors = matrix if as_x and names else found.get(f"obsm/{EMBEDDING}")
    cells = Detections(
        np.stack([obs[name].to_numpy(np.float32) for name in CORNERS], axis=1),
        obs["score"].to_numpy(np.float32),
        np.array([number[t] for t in labels], np.int16)[which],
        classes,
        None if vectors is None else np.asarray(vectors, np.float16),
        columns,
        Source.from_json(uns["source"]),
    )
    ids = from_text([str(i) for i in obs.index])
    if come_twice(ids):
        raise ValueError("an id that comes twice")
    areas = areas_from_json(json.loads(uns.get("areas", "{}")))
    if STATUS not in obs:
        return CellRows(cells, ids, areas=areas)
    words, status = _texts(obs[STATUS])
    authors, by = _texts(obs[AUTHOR])
    return CellRows(cells, ids, status_numbers(words)[status], authors[by], areas)


def _column(found: Any) -> NDArray[Any]:
    values = found.to_numpy()
    return values if values.dtype.kind in "buif" else np.array(found.astype(str), np.str_)


def _texts(column: Any) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Different texts of a column, and which one each cell has."""
    categories = column.astype("category").cat
    codes = categories.codes.to_numpy(np.int64)
    if len(codes) and codes.min() < 0:
        raise ValueError(f"cells without a {column.name}")
    return np.array([str(c) for c in categories.categories], np.str_), codes


def _categories(cells: Detections) -> list[str]:
    return list(dict.fromkeys([*cells.class_names, "unknown"]))


def check_sizes(file: Any) -> None:
    """Refuse a file whose arrays are larger than cells can need, or lie elsewhere."""
    import h5py

    values = 0

    def look(name: str, node: Any) -> None:
        nonlocal values
        for key in node if isinstance(node, h5py.Group) else ():
            if not isinstance(node.get(key, getlink=True), h5py.HardLink):
                raise _refused("a link to somewhere else")
        if not isinstance(node, h5py.Dataset) or not name.startswith(CHECKED):
            return
        if node.external or node.is_virtual:
            raise _refused("an array that lies in another file")
        if node.shape and node.shape[0] > MAX_CELLS:
            raise _refused(f"an array of {node.shape[0]} rows")
        values += int(np.prod([int(n) for n in node.shape or ()], dtype=object))
        if values > min(MAX_VALUES, 4096 * max(file.id.get_filesize(), 1)):
            raise _refused(f"{values} values in a file of {file.id.get_filesize()} bytes")

    look("", file)
    file.visititems(look)


def _system_error(error: Exception) -> OSError:
    """What the system said when HDF5 could not write; HDF5 has it in its own message alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    said = re.search(r"errno = (\d+)", f"{error} {error.__cause__} {error.__context__}")
    number = int(said[1]) if said else errno.EIO
    return OSError(number, os.strerror(number))


def _packages() -> tuple[Any, Any]:
    try:
        import anndata
        import pandas
    except ImportError as error:
        raise ExportError(
            "AnnData files need a package that is not installed.",
            expected="anndata",
            found="nothing",
            remedy="pip install 'napari-celldetr[export]'",
        ) from error
    return anndata, pandas


def _refused(found: str) -> ExportError:
    return ExportError(
        "The AnnData file cannot be read as cells.",
        expected="a .h5ad file as `export` writes it",
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
