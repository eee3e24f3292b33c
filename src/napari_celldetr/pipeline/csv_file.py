"""CSV for spreadsheets: a row a cell, and no cell a spreadsheet would run as a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.text_rows import Piece, decimals, join, words

LEADING = ("x", "y", "x0", "y0", "x1", "y1", "score", "class")
MICROMETRES = ("x_um", "y_um")
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
_BLOCK = 65536


def write_csv(cells: Detections, path: Path) -> None:
    """Columns x y x0 y0 x1 y1 score class, then the measurements; level-0 px, two decimals.

    Where the pixel size is known, x_um y_um (centre from the slide's corner) come before the
    measurements. Not atomically: the caller gives a temporary path. Embeddings are left out.
    """
    names = [*LEADING, *(MICROMETRES if cells.source.mpp else ()), *cells.columns]
    with path.open("wb") as file:
        file.write((",".join(safe_text(n) for n in names) + "\n").encode())
        for start in range(0, len(cells), _BLOCK):
            file.write(_rows(cells.select(slice(start, start + _BLOCK))))


def read_csv(path: Path) -> Detections:
    """The table of a CSV file with at least the leading columns (``x`` and ``y`` may be absent).

    Classes are numbered in order of their names. Raises `ExportError` for anything else.
    """
    try:
        table = pa_csv.read_csv(path, read_options=pa_csv.ReadOptions(use_threads=False))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:150]}") from error
    missing = [n for n in LEADING[2:] if n not in table.column_names]
    if missing:
        raise _refused("no column " + ", ".join(missing))
    names, class_ids = _classes(table.column("class"))
    try:
        return Detections(
            np.stack([_floats(table, n) for n in LEADING[2:6]], axis=1),
            _floats(table, "score"),
            class_ids,
            names,
            None,
            {
                _unquoted(n): _measurement(table.column(n))
                for n in table.column_names
                if n not in (*LEADING, *MICROMETRES)
            },
            Source(mpp=_pixel_size(table)),
        )
    except (ValueError, TypeError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:150]}") from error


def _pixel_size(table: pa.Table) -> tuple[float, float] | None:
    """µm/px as the centres in px and in µm say it; None where they do not."""
    if not set(MICROMETRES) <= set(table.column_names) or not len(table):
        return None
    sizes = []
    for px, um in zip(LEADING[:2], MICROMETRES, strict=True):
        at = np.asarray(table.column(px), np.float64)
        # The cell farthest out, where the rounding of both numbers weighs least.
        far = int(np.argmax(at))
        sizes.append(float(table.column(um)[far].as_py()) / at[far] if at[far] > 0 else 0.0)
    return (round(sizes[0], 6), round(sizes[1], 6)) if min(sizes) > 0 else None


def safe_text(text: str) -> str:
    """A text cell: a leading ``'`` where a spreadsheet would see a formula, quoted where needed."""
    if text.startswith(_DANGEROUS):
        text = "'" + text
    if any(c in text for c in ',"\n\r'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def _rows(cells: Detections) -> bytes:
    numbers = [*cells.centres.T, *cells.boxes.T]
    pieces: list[Piece | bytes] = []
    for values in numbers:
        pieces += [decimals(values, 2), b","]
    labels = words([safe_text(n) for n in (*cells.class_names, "unknown")])
    pieces += [decimals(cells.scores, 4), b",", labels[cells.class_ids]]
    if cells.source.mpp:
        for values in (cells.centres * np.array(cells.source.mpp)).T:
            pieces += [b",", decimals(values, 3)]
    for values in cells.columns.values():
        pieces += [b",", _value(values)]
    return join([*pieces, b"\n"], len(cells))


def _value(values: NDArray[Any]) -> Piece:
    if values.dtype.kind not in "buif":
        return words([safe_text(str(v)) for v in values])
    return decimals(values, 4 if values.dtype.kind == "f" else 0)


def _classes(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    texts = np.array([_unquoted(str(v)) for v in column.unique().to_pylist()])
    codes = column.combine_chunks().dictionary_encode().indices
    names = tuple(sorted(set(texts.tolist()) - {"unknown"}))
    number = {name: i for i, name in enumerate(names)}
    ids = np.array([number.get(t, -1) for t in texts] or [-1], np.int16)
    return names, ids[np.asarray(codes)] if len(column) else np.zeros(0, np.int16)


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(_DANGEROUS) else text


def _floats(table: pa.Table, name: str) -> NDArray[np.float32]:
    return np.asarray(table.column(name)).astype(np.float32)


def _measurement(column: pa.ChunkedArray) -> NDArray[Any]:
    values = np.asarray(column)
    if values.dtype == object:
        return np.array([_unquoted("" if v is None else str(v)) for v in values], dtype=np.str_)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _refused(found: str) -> ExportError:
    return ExportError(
        "The CSV file cannot be read as cells.",
        expected="the columns " + ",".join(LEADING),
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
