"""CSV for spreadsheets: a row a cell, and no cell a spreadsheet would run as a formula.

Areas that people drew stand in a second file beside it, a row per corner.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import cell_ids, letters
from napari_celldetr.pipeline.cell_rows import SAID_COLUMNS, CellRows, Steps, known_kind
from napari_celldetr.pipeline.parquet import read_said_columns, read_words
from napari_celldetr.pipeline.text_rows import Piece, decimals, join, words

LEADING = ("x", "y", "x0", "y0", "x1", "y1", "score", "class")
MICROMETRES = ("x_um", "y_um")
AREA_COLUMNS = ("area", "kind", "name", "x", "y")
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
_BLOCK = 65536


def areas_path(path: Path) -> Path:
    """The file of the areas that belong to a CSV file: ``cells.csv`` -> ``cells.areas.csv``."""
    return path.with_name(path.name[: -len(".csv")] + ".areas.csv")


def writing_csv(rows: CellRows, path: Path) -> Steps[None]:
    """Columns x y x0 y0 x1 y1 score class, then the measurements; level-0 px, two decimals.

    Where the pixel size is known, x_um y_um (centre from the slide's corner) come before the
    measurements, and for corrected cells id, status and author before those. Not atomically: the
    caller gives a temporary path. Embeddings are left out. Yields how many cells are written.
    """
    cells = rows.cells
    names = [*LEADING, *(SAID_COLUMNS if rows.is_corrected else ())]
    names += [*(MICROMETRES if cells.source.mpp else ()), *cells.columns]
    done = 0
    with path.open("wb") as file:
        file.write((",".join(safe_text(n) for n in names) + "\n").encode())
        for block in rows.blocks(_BLOCK):
            file.write(_rows(block))
            done += len(block)
            yield done


def reading_csv(path: Path, areas: Path | None = None) -> Steps[CellRows]:
    """The cells of a CSV file with at least the leading columns (``x`` and ``y`` may be absent).

    Classes are numbered in order of their names; `areas` is the file of the areas, if there is
    one. Raises `ExportError` for anything else.
    """
    texts = {name: pa.string() for name in ("class", *SAID_COLUMNS)}
    try:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=texts),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:150]}") from error
    missing = [n for n in LEADING[2:] if n not in table.column_names]
    if missing:
        raise _refused("no column " + ", ".join(missing))
    yield len(table)
    try:
        rows = _corrected(table, _cells(table))
        return replace(rows, areas=_read_areas(areas)) if areas is not None else rows
    except (LookupError, ValueError, TypeError) as error:
        raise _refused(f"{type(error).__name__}: {str(error)[:150]}") from error


def write_areas(areas: Mapping[str, Area], path: Path) -> None:
    """A row per corner: area, kind, name, x, y; coordinates come back as they are."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(AREA_COLUMNS) + "\n")
        for key, area in areas.items():
            about = ",".join(safe_text(t) for t in (key, area.kind, area.name))
            file.writelines(f"{about},{x!r},{y!r}\n" for x, y in area.polygon)


def holds_areas(path: Path) -> bool:
    """Whether a file is one that `write_areas` wrote."""
    with path.open("rb") as file:
        return file.readline(100) == (",".join(AREA_COLUMNS) + "\n").encode()


def _cells(table: pa.Table) -> Detections:
    names, class_ids = _classes(table.column("class"))
    said = SAID_COLUMNS if set(SAID_COLUMNS) <= set(table.column_names) else ()
    return Detections(
        np.stack([_floats(table, n) for n in LEADING[2:6]], axis=1),
        _floats(table, "score"),
        class_ids,
        names,
        None,
        {
            _unquoted(n): _measurement(table.column(n))
            for n in table.column_names
            if n not in (*LEADING, *MICROMETRES, *said)
        },
        Source(mpp=_pixel_size(table)),
    )


def _corrected(table: pa.Table, cells: Detections) -> CellRows:
    if not set(SAID_COLUMNS) <= set(table.column_names):
        return CellRows(cells, cell_ids(cells))
    return CellRows(cells, *read_said_columns(table, _unquoted))


def _read_areas(path: Path) -> dict[str, Area]:
    if not holds_areas(path):
        raise ValueError(f"{path.name} holds no areas")
    found: dict[str, tuple[str, str, list[tuple[float, float]]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            texts = [_unquoted(row[name]) for name in AREA_COLUMNS[:3]]
            corners = found.setdefault(texts[0], (texts[1], texts[2], []))[2]
            corners.append((float(row["x"]), float(row["y"])))
    return {
        key: Area(tuple(corners), known_kind(kind), name)
        for key, (kind, name, corners) in found.items()
    }


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
    """A text cell: a leading ``'`` where a spreadsheet would see a formula, quoted where needed.

    A text that has such a ``'`` already gets another, so that reading can take one away.
    """
    if text.lstrip("'").startswith(_DANGEROUS):
        text = "'" + text
    if any(c in text for c in ',"\n\r'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def _rows(rows: CellRows) -> bytes:
    cells = rows.cells
    numbers = [*cells.centres.T, *cells.boxes.T]
    pieces: list[Piece | bytes] = []
    for values in numbers:
        pieces += [decimals(values, 2), b","]
    labels = words([safe_text(n) for n in (*cells.class_names, "unknown")])
    pieces += [decimals(cells.scores, 4), b",", labels[cells.class_ids]]
    if rows.authors is not None:
        pieces += [b",", letters(rows.ids), b",", _value(rows.status_words)]
        pieces += [b",", _value(rows.authors)]
    if cells.source.mpp:
        for values in (cells.centres * np.array(cells.source.mpp)).T:
            pieces += [b",", decimals(values, 3)]
    for values in cells.columns.values():
        pieces += [b",", _value(values)]
    return join([*pieces, b"\n"], len(cells))


def _value(values: NDArray[Any]) -> Piece:
    if values.dtype.kind not in "buif":
        known, which = np.unique(values.astype(np.str_), return_inverse=True)
        return words([safe_text(str(v)) for v in known])[which]
    return decimals(values, 4 if values.dtype.kind == "f" else 0)


def _classes(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    texts, which = read_words(column, _unquoted)
    names = tuple(sorted(set(texts.tolist()) - {"unknown"}))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number.get(t, -1) for t in texts.tolist()], np.int16)[which]


def _unquoted(text: str) -> str:
    marked = text.startswith("'") and text.lstrip("'").startswith(_DANGEROUS)
    return text[1:] if marked else text


def _floats(table: pa.Table, name: str) -> NDArray[np.float32]:
    return np.asarray(table.column(name)).astype(np.float32)


def _measurement(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, np.float32)
    values = np.asarray(column)
    if values.dtype == object:
        texts, which = read_words(column, _unquoted)
        return texts[which]
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _refused(found: str) -> ExportError:
    return ExportError(
        "The CSV file cannot be read as cells.",
        expected="the columns " + ",".join(LEADING),
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
