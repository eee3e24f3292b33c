"""Cells to files and back, the format chosen by suffix, each file whole or not there at all."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_celldetr.core.annotations import SAID, CorrectedCells
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, ExportError
from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.pipeline.atomic import not_written, replacing, why

if TYPE_CHECKING:
    from napari_celldetr.pipeline.cell_rows import CellRows, Steps
    from napari_celldetr.pipeline.export_check import ExportCheck
    from napari_celldetr.pipeline.label_raster import LabelOptions

SUFFIXES = (".parquet", ".csv", ".geojson", ".geojson.gz", ".h5ad", ".coco.json", ".ome.zarr")
READABLE = SUFFIXES

Color = tuple[int, int, int]


def export(
    cells: Detections | CorrectedCells,
    path: str | Path,
    *,
    slide: Any = None,
    colors: Mapping[str, Color] | None = None,
    overwrite: bool = True,
    check: bool | None = None,
    labels: LabelOptions | None = None,
) -> Path:
    """Write cells to `path`; its suffix says how.

    Parameters
    ----------
    cells : Detections or CorrectedCells
        Level-0 px. ``diameter_um`` and ``area_um2`` are added when the source knows the pixel
        size. Corrected cells keep their own ids; status, author and areas are written too.
    path
        ``.parquet`` (lossless), ``.csv``, ``.geojson`` or ``.geojson.gz`` (QuPath), ``.h5ad``,
        ``.coco.json``, ``.ome.zarr`` (a label image; a folder). Areas of ``NAME.csv`` go to
        ``NAME.areas.csv``.
    slide
        The slide; its scanned bounds are subtracted in GeoJSON, as QuPath shows only those, and
        its size is that of a label image and of the image in COCO. Without it, these reach to
        the last cell.
    colors
        Class name to (r, g, b), for formats that have colours.
    overwrite
        Whether an existing file may be replaced.
    check
        Whether to read the file back and compare before it takes its place. By default every
        cell is compared; of more than 200,000 in GeoJSON or COCO, and of a large label image,
        all are counted and a sample is compared. True compares every cell, False none.
    labels
        How a label image is written.

    Returns the path. Raises `ExportError` for an unknown suffix, a folder that is missing or
    cannot be written, a full disk, a package that is not installed, or a file that reads back
    differently; the old file is then untouched.
    """
    job = export_job(
        cells, path, slide=slide, colors=colors, overwrite=overwrite, check=check, labels=labels
    )
    drain(job)
    return Path(path)


def export_job(
    cells: Detections | CorrectedCells,
    path: str | Path,
    *,
    slide: Any = None,
    colors: Mapping[str, Color] | None = None,
    overwrite: bool = True,
    check: bool | None = None,
    labels: LabelOptions | None = None,
) -> Job[ExportCheck]:
    """`export` as a job: a step per block of cells, and in the end what the check showed.

    `Progress` counts cells, written and then read back. Closing the job keeps the old file.
    """
    from napari_celldetr.pipeline.cell_rows import CellRows
    from napari_celldetr.pipeline.export_check import ExportCheck

    target = Path(path)
    suffix = suffix_of(target)
    _refuse_what_is_there(target, suffix, overwrite=overwrite)
    rows = CellRows.of(cells)
    form = _Form.of(suffix, rows, slide, colors or {}, labels)
    steps = _Steps(target.name, len(rows), reads=check is not False)
    found = ExportCheck(len(rows), 0, None, len(rows.areas))
    try:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(form.replacing(target))
            beside = _areas_beside(stack, target, rows) if suffix == ".csv" else None
            yield from steps.follow(form.write(temporary), "Writing")
            if check is not False:
                found = yield from steps.follow(
                    _checked(form, temporary, beside, check, target.name), "Checking"
                )
        if suffix == ".csv" and beside is None:
            _forget_areas(target)
    except CellDETRError:
        raise
    except OSError as error:
        raise not_written(target.name, error) from error
    return found


def read_detections(path: str | Path) -> Detections:
    """Read back what `export` wrote: the cells, without what people said of them.

    Raises `ExportError` for another suffix and for a file that is not what its suffix says.
    """
    return _read(path).cells


def read_corrected(path: str | Path) -> CorrectedCells:
    """Read back what `export` wrote, with ids, status, authors and areas.

    In a file of a plain result all cells are claims. Raises `ExportError` as `read_detections`.
    """
    return _read(path).corrected()


def read_cells(path: str | Path) -> Detections | CorrectedCells:
    """Read back what `export` wrote, as what it was given; see `read_detections`."""
    rows = _read(path)
    return rows.corrected() if rows.is_corrected else rows.cells


def above(cells: Detections | CorrectedCells, threshold: float) -> Detections | CorrectedCells:
    """The cells scored at least `threshold`, and those that a person vouches for."""
    if isinstance(cells, Detections):
        return cells.above(threshold)
    kept = SAID[cells.status] | (cells.cells.scores >= threshold)
    rows = np.flatnonzero(kept)
    some = cells.cells.select(rows)
    return CorrectedCells(
        some, cells.ids[rows], cells.status[rows], cells.authors[rows], cells.areas
    )


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


@dataclass(frozen=True)
class _Form:
    """One file to be written: what, and all that its format wants to know."""

    suffix: str
    rows: CellRows
    offset: tuple[float, float]
    size: tuple[int, int]
    colors: Mapping[str, Color]
    labels: LabelOptions

    @classmethod
    def of(
        cls,
        suffix: str,
        rows: CellRows,
        slide: Any,
        colors: Mapping[str, Color],
        labels: LabelOptions | None,
    ) -> _Form:
        from napari_celldetr.pipeline.label_raster import LabelOptions

        bounds = getattr(slide, "bounds", None)
        offset = (0, 0) if bounds is None else (bounds.x, bounds.y)
        size = getattr(slide, "size", None) or _reach(rows, bounds)
        return cls(suffix, rows, offset, size, colors, labels or LabelOptions())

    def replacing(self, target: Path) -> AbstractContextManager[Path]:
        if self.suffix != ".ome.zarr":
            return replacing(target)
        from napari_celldetr.pipeline.atomic_folder import replacing_folder

        return replacing_folder(target)

    def write(self, path: Path) -> Steps[None]:
        """Write to a temporary path."""
        rows = self.rows
        if self.suffix == ".parquet":
            from napari_celldetr.pipeline.parquet import writing_parquet

            return writing_parquet(rows, path)
        if self.suffix == ".csv":
            from napari_celldetr.pipeline.csv_file import writing_csv

            return writing_csv(rows, path)
        if self.suffix == ".h5ad":
            from napari_celldetr.pipeline.anndata_file import writing_h5ad

            return writing_h5ad(rows, path)
        if self.suffix == ".coco.json":
            from napari_celldetr.pipeline.coco_file import writing_coco

            return writing_coco(rows, path, size=self.size)
        if self.suffix == ".ome.zarr":
            from napari_celldetr.pipeline.label_raster import writing_labels

            return writing_labels(
                rows, path, size=self.size, options=self.labels, colors=self.colors
            )
        from napari_celldetr.pipeline.qupath import writing_geojson

        packed = self.suffix.endswith(".gz")
        return writing_geojson(rows, path, offset=self.offset, colors=self.colors, compress=packed)


def _checked(
    form: _Form, path: Path, areas: Path | None, check: bool | None, name: str
) -> Steps[ExportCheck]:
    """Read a temporary file back as its format wants it, and compare."""
    from napari_celldetr.pipeline import export_check
    from napari_celldetr.pipeline.cell_rows import finish
    from napari_celldetr.pipeline.coco_file import AnnotationCollector
    from napari_celldetr.pipeline.qupath import FeatureCollector

    rows, suffix = form.rows, form.suffix
    everything = bool(check) or len(rows) <= export_check.CHECK_ALL
    if not everything and suffix in (".geojson", ".geojson.gz"):
        packed = suffix.endswith(".gz")
        lines = export_check.checking_lines(rows, path, FeatureCollector, compressed=packed)
        return (yield from lines)
    if not everything and suffix == ".coco.json":
        return (yield from export_check.checking_lines(rows, path, AnnotationCollector))
    reading = reading_as(suffix, path, areas, name=name)
    back = finish(reading) if suffix == ".ome.zarr" else (yield from reading)
    found = export_check.compare(rows, back, has_ids=suffix not in (".csv", ".parquet"))
    if suffix != ".ome.zarr":
        return found
    size, labels = form.size, form.labels
    image = export_check.checking_labels(
        rows, path, size=size, options=labels, everything=bool(check)
    )
    return (yield from image)


def _read(path: str | Path) -> CellRows:
    from napari_celldetr.pipeline.cell_rows import finish

    source = Path(path)
    suffix = suffix_of(source, READABLE)
    folder = suffix == ".ome.zarr"
    if not (source.is_dir() if folder else source.is_file()):
        raise ExportError(
            f"The file {source.name!r} does not exist.",
            expected="a result written before",
            found="a file" if source.is_file() else "a folder" if source.is_dir() else "nothing",
            remedy="check the path",
        )
    areas = None
    if suffix == ".csv":
        from napari_celldetr.pipeline.csv_file import areas_path

        areas = areas_path(source) if areas_path(source).is_file() else None
    return finish(reading_as(suffix, source, areas))


def reading_as(
    suffix: str, path: Path, areas: Path | None = None, *, name: str | None = None
) -> Steps[CellRows]:
    """Read a file as its suffix says; whatever goes wrong is an `ExportError`.

    `name` is what messages call the file.
    """
    import pyarrow as pa

    try:
        return (yield from _reader(suffix, areas)(path))
    except ExportError:
        raise
    except OSError as error:
        raise _unreadable(suffix, name or path.name, why(error)) from error
    except (pa.ArrowException, CellDETRError, LookupError, ValueError, TypeError) as error:
        raise _unreadable(
            suffix, name or path.name, f"{type(error).__name__}: {str(error)[:150]}"
        ) from error
    except (EOFError, RuntimeError, MemoryError) as error:
        raise _unreadable(
            suffix, name or path.name, f"{type(error).__name__}: {str(error)[:150]}"
        ) from error


def _reader(suffix: str, areas: Path | None) -> Callable[[Path], Steps[CellRows]]:
    if suffix == ".parquet":
        from napari_celldetr.pipeline.parquet import reading_parquet

        return reading_parquet
    if suffix == ".ome.zarr":
        from napari_celldetr.pipeline.label_raster import reading_labels

        return reading_labels
    if suffix == ".csv":
        from napari_celldetr.pipeline.csv_file import reading_csv

        return lambda path: reading_csv(path, areas)
    if suffix == ".h5ad":
        from napari_celldetr.pipeline.anndata_file import reading_h5ad

        return reading_h5ad
    if suffix == ".coco.json":
        from napari_celldetr.pipeline.coco_file import reading_coco

        return reading_coco
    from napari_celldetr.pipeline.qupath import reading_geojson

    return lambda path: reading_geojson(path, compressed=suffix.endswith(".gz"))


@dataclass
class _Steps:
    """Steps of writers and readers as `Progress`."""

    name: str
    cells: int
    reads: bool
    started: float = field(default_factory=time.perf_counter)

    def follow(self, steps: Steps[Any], what: str) -> Job[Any]:
        """Say how far `steps` have come, and return what they return."""
        before = self.cells if what == "Checking" else 0
        total = self.cells * (1 + self.reads)
        try:
            while True:
                yield Progress(
                    before + min(next(steps), self.cells),
                    total,
                    f"{what} {self.name}",
                    cells=self.cells,
                    seconds=time.perf_counter() - self.started,
                )
        except StopIteration as stop:
            return stop.value
        finally:
            steps.close()


def _refuse_what_is_there(target: Path, suffix: str, *, overwrite: bool) -> None:
    from napari_celldetr.pipeline.csv_file import areas_path, holds_areas
    from napari_celldetr.pipeline.label_raster import is_ours

    if target.exists() and not overwrite:
        raise ExportError(
            f"{target.name} exists already.",
            expected="a new file",
            found="an old one",
            remedy="choose another name, or allow overwriting",
        )
    foreign = suffix == ".ome.zarr" and target.exists() and not is_ours(target)
    if suffix == ".csv":
        target = areas_path(target)
        foreign = target.is_file() and (not overwrite or not holds_areas(target))
    if foreign:
        raise ExportError(
            f"{target.name} is there and would be replaced.",
            expected="a new name, or an earlier export that may be overwritten",
            found="something else, which is kept",
            remedy="choose another name",
        )


def _areas_beside(stack: contextlib.ExitStack, target: Path, rows: CellRows) -> Path | None:
    """Write the areas of a CSV file to a temporary path that takes its place with the file's."""
    from napari_celldetr.pipeline.csv_file import areas_path, write_areas

    if not rows.areas:
        return None
    temporary = stack.enter_context(replacing(areas_path(target)))
    write_areas(rows.areas, temporary)
    return temporary


def _forget_areas(target: Path) -> None:
    """Areas of an earlier export would be read as this one's."""
    from napari_celldetr.pipeline.csv_file import areas_path

    areas_path(target).unlink(missing_ok=True)


def _reach(rows: CellRows, bounds: Any) -> tuple[int, int]:
    """Width and height that hold the scanned bounds and every box."""
    ends = rows.cells.boxes[:, 2:].max(axis=0, initial=1)
    far = (0, 0) if bounds is None else (bounds.x1, bounds.y1)
    return max(math.ceil(ends[0]), far[0], 1), max(math.ceil(ends[1]), far[1], 1)


def _unreadable(suffix: str, name: str, found: str) -> ExportError:
    return ExportError(
        f"{name} cannot be read as cells.",
        expected=f"a {suffix} file as `export` writes it",
        found=found,
        remedy="export the cells again",
    )
