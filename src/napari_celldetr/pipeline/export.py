"""Cells to files and back, the format chosen by suffix, each file whole or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, ExportError
from napari_celldetr.pipeline.atomic import replacing, why
from napari_celldetr.pipeline.measure import DIAMETER, size_columns

SUFFIXES = (".parquet", ".csv", ".geojson", ".geojson.gz", ".h5ad")
READABLE = SUFFIXES[:-1]

Color = tuple[int, int, int]


def export(
    detections: Detections,
    path: str | Path,
    *,
    slide: Any = None,
    colors: Mapping[str, Color] | None = None,
    overwrite: bool = True,
) -> Path:
    """Write cells to `path`; its suffix says how.

    Parameters
    ----------
    detections : Detections
        Level-0 px. ``diameter_um`` and ``area_um2`` are added when its source knows the pixel
        size.
    path
        ``.parquet`` (lossless), ``.csv``, ``.geojson`` or ``.geojson.gz`` (QuPath), ``.h5ad``.
    slide
        The slide; its scanned bounds are subtracted in GeoJSON, as QuPath shows only those.
    colors
        Class name to (r, g, b), for formats that have colours.
    overwrite
        Whether an existing file may be replaced.

    Returns the path. Raises `ExportError` for an unknown suffix, a folder that is missing or
    cannot be written, a full disk, or a package that is not installed; the old file is then
    untouched.
    """
    target = Path(path)
    suffix = suffix_of(target)
    if target.exists() and not overwrite:
        raise ExportError(
            f"{target.name} exists already.",
            expected="a new file",
            found="an old one",
            remedy="choose another name, or allow overwriting",
        )
    cells = _with_sizes(detections)
    try:
        with replacing(target) as temporary:
            _writer(suffix, slide, colors)(cells, temporary)
    except CellDETRError:
        raise
    except OSError as error:
        raise ExportError(
            f"{target.name} cannot be written.",
            expected="a writable folder with free space",
            found=why(error),
            remedy="choose another folder or free some space",
        ) from error
    return target


def read_detections(path: str | Path) -> Detections:
    """Read back what `export` wrote as .parquet, .csv, .geojson or .geojson.gz.

    Raises `ExportError` for another suffix and for a file that is not what its suffix says.
    """
    import pyarrow as pa

    source = Path(path)
    suffix = suffix_of(source, READABLE)
    if not source.is_file():
        raise ExportError(
            f"The file {source.name!r} does not exist.",
            expected="a result written before",
            found="a folder" if source.is_dir() else "nothing",
            remedy="check the path",
        )
    try:
        return _reader(suffix)(source)
    except ExportError:
        raise
    except OSError as error:
        raise _unreadable(source, why(error)) from error
    except (pa.ArrowException, CellDETRError, KeyError, ValueError, TypeError, EOFError) as error:
        raise _unreadable(source, f"{type(error).__name__}: {str(error)[:150]}") from error


def suffix_of(path: Path, allowed: tuple[str, ...] = SUFFIXES) -> str:
    """The suffix in `allowed` that a path ends with (case does not matter), or `ExportError`."""
    name = path.name.lower()
    for suffix in allowed:
        if name.endswith(suffix) and len(name) > len(suffix):
            return suffix
    raise ExportError(
        f"The format of {path.name!r} is not known.",
        expected="a name ending in " + ", ".join(allowed),
        found=path.suffix or "no suffix",
        remedy="choose one of these suffixes",
    )


def _with_sizes(cells: Detections) -> Detections:
    if cells.source.mpp is None or DIAMETER in cells.columns:
        return cells
    return cells.with_columns(**size_columns(cells.boxes, cells.source.mpp))


def _writer(
    suffix: str, slide: Any, colors: Mapping[str, Color] | None
) -> Callable[[Detections, Path], None]:
    if suffix == ".parquet":
        from napari_celldetr.pipeline.parquet import write_parquet

        return lambda cells, path: write_parquet(cells, path, derived=True)
    if suffix == ".csv":
        from napari_celldetr.pipeline.csv_file import write_csv

        return write_csv
    if suffix == ".h5ad":
        from napari_celldetr.pipeline.anndata_file import write_h5ad

        return write_h5ad
    from napari_celldetr.pipeline.qupath import write_geojson

    bounds = getattr(slide, "bounds", None)
    offset = (0, 0) if bounds is None else (bounds.x, bounds.y)
    return lambda cells, path: write_geojson(
        cells, path, offset=offset, colors=colors, compress=suffix.endswith(".gz")
    )


def _reader(suffix: str) -> Callable[[Path], Detections]:
    if suffix == ".parquet":
        from napari_celldetr.pipeline.parquet import read_parquet

        return read_parquet
    if suffix == ".csv":
        from napari_celldetr.pipeline.csv_file import read_csv

        return read_csv
    from napari_celldetr.pipeline.qupath import read_geojson

    return lambda path: read_geojson(path, compressed=suffix.endswith(".gz"))


def _unreadable(path: Path, found: str) -> ExportError:
    return ExportError(
        f"{path.name} cannot be read as cells.",
        expected=f"a {''.join(path.suffixes)} file as `export` writes it",
        found=found,
        remedy="export the cells again",
    )
