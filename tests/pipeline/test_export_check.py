"""What was written is read back; a file that says something else is not kept."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module

import corrected_cells
import numpy as np
import pytest
from corrected_cells import corrected

from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.progress import Progress, drain
from napari_celldetr.pipeline import csv_file, export_check
from napari_celldetr.pipeline.cell_rows import CellRows
from napari_celldetr.pipeline.export import SUFFIXES, export, export_job, read_corrected
from napari_celldetr.pipeline.export_check import ExportCheck, compare


class Slide:
    size = (9_200, 9_200)
    bounds = None


@pytest.fixture(scope="module")
def cells():
    return corrected(500, side=9_000)


def writer_of(suffix: str) -> str:
    module, name = {
        ".parquet": ("parquet", "writing_parquet"),
        ".csv": ("csv_file", "writing_csv"),
        ".h5ad": ("anndata_file", "writing_h5ad"),
        ".coco.json": ("coco_file", "writing_coco"),
        ".ome.zarr": ("label_raster", "writing_labels"),
    }.get(suffix, ("qupath", "writing_geojson"))
    return f"napari_celldetr.pipeline.{module}.{name}"


def shifted(rows: CellRows) -> CellRows:
    boxes = rows.cells.boxes.copy()
    boxes[17] += 0.02
    return replace(rows, cells=replace(rows.cells, boxes=boxes))


def swapped(rows: CellRows) -> CellRows:
    order = np.arange(len(rows))
    order[[3, 4]] = 4, 3
    return replace(rows, ids=rows.ids[order])


def other_class(rows: CellRows) -> CellRows:
    ids = rows.cells.class_ids.copy()
    ids[5] = (ids[5] + 1) % 4
    return replace(rows, cells=replace(rows.cells, class_ids=ids))


def other_author(rows: CellRows) -> CellRows:
    authors = rows.authors.copy()
    authors[9] = "who"
    return replace(rows, authors=authors)


def other_area(rows: CellRows) -> CellRows:
    return replace(rows, areas=dict(list(rows.areas.items())[1:]))


FAULTS = {
    "one missing": lambda rows: rows.select(slice(0, -1)),
    "boxes": shifted,
    "ids": swapped,
    "classes": other_class,
    "authors": other_author,
    "areas": other_area,
    "status": lambda rows: replace(rows, status=np.roll(rows.status, 1)),
}


def let_writer_err(monkeypatch, suffix: str, fault: str) -> None:
    if (suffix, fault) == (".csv", "areas"):
        # The areas of a CSV file are a file of their own.
        write = csv_file.write_areas
        fewer = lambda areas, path: write(dict(list(areas.items())[1:]), path)  # noqa: E731
        monkeypatch.setattr(csv_file, "write_areas", fewer)
    module, name = writer_of(suffix).rsplit(".", 1)
    true = getattr(import_module(module), name)
    monkeypatch.setattr(writer_of(suffix), lambda rows, *a, **k: true(FAULTS[fault](rows), *a, **k))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_writer_that_errs_is_found_and_the_old_file_stays(
    cells, tmp_path, monkeypatch, suffix, fault
):
    few = corrected(5, seed=1, side=900)
    path = export(few, tmp_path / f"c{suffix}", slide=Slide())
    names = sorted(p.name for p in tmp_path.iterdir())
    let_writer_err(monkeypatch, suffix, fault)
    with pytest.raises(ExportError, match="reads back differently"):
        export(cells, path, slide=Slide())
    monkeypatch.undo()
    corrected_cells.assert_same(read_corrected(path), few)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".coco.json"])
@pytest.mark.parametrize("fault", ["one missing", "boxes", "ids"])
def test_a_sample_finds_it_too(cells, tmp_path, monkeypatch, suffix, fault):
    monkeypatch.setattr(export_check, "CHECK_ALL", 100)
    check = drain(export_job(cells, tmp_path / f"c{suffix}", slide=Slide()))
    assert (check.cells, check.compared, check.areas) == (500, 500, 2)
    monkeypatch.setattr(export_check, "SAMPLE", 50)
    check = drain(export_job(cells, tmp_path / f"c{suffix}", slide=Slide()))
    assert (check.cells, check.compared, check.areas) == (500, 50, 2)
    assert "500 cells and 2 areas written and counted, 50 read back" in check.sentence()
    monkeypatch.setattr(export_check, "SAMPLE", 500)
    let_writer_err(monkeypatch, suffix, fault)
    with pytest.raises(ExportError, match="reads back differently"):
        export(cells, tmp_path / f"d{suffix}", slide=Slide())


def test_labels_that_are_elsewhere_are_found(tmp_path, monkeypatch):
    from napari_celldetr.pipeline import label_raster

    cells, true = corrected(60, side=1_800), label_raster.draw_block
    for change in (
        lambda pixels: np.roll(pixels, 3, axis=1),
        lambda pixels: np.where(pixels == 7, 0, pixels),
        np.zeros_like,
    ):
        monkeypatch.setattr(label_raster, "draw_block", lambda *a, c=change: c(true(*a)))
        with pytest.raises(ExportError, match="reads back differently"):
            export(cells, tmp_path / "c.ome.zarr")
        # Without a check nobody looks.
        export(cells, tmp_path / "unchecked.ome.zarr", check=False)
    assert [p.name for p in tmp_path.iterdir()] == ["unchecked.ome.zarr"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_the_check_says(cells, tmp_path, suffix):
    steps: list[Progress] = []
    check = drain(export_job(cells, tmp_path / f"c{suffix}", slide=Slide()), steps.append)
    assert (check.cells, check.compared, check.areas) == (500, 500, 2)
    limit = 0.5 if suffix == ".ome.zarr" else 0.01
    assert 0 <= check.largest_offset_px <= limit
    assert check.largest_offset_px > 0 or suffix in (".parquet", ".h5ad")
    said = check.sentence()
    assert said.startswith("500 cells and 2 areas written and read back: places exact to 0.")
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert all(0 <= s.done <= s.total == 1000 for s in steps)
    assert {s.message.split()[0] for s in steps} == {"Writing", "Checking"}


def test_sentences():
    assert ExportCheck(1204, 1204, 0.0041).sentence() == (
        "1,204 cells written and read back: places exact to 0.004 px"
    )
    assert ExportCheck(1, 1, 0.0, 1).sentence().startswith("1 cell and 1 area written and read")
    assert ExportCheck(0, 0, None).sentence() == "0 cells written"
    assert ExportCheck(7, 0, None).sentence() == "7 cells written"


def test_the_offset_is_that_of_the_worst_side(cells):
    rows = CellRows.of(cells)
    boxes = rows.cells.boxes.astype(np.float64)
    boxes[3, 2] += 0.0078125
    moved = replace(rows, cells=replace(rows.cells, boxes=boxes))
    found = compare(rows, moved, has_ids=True).largest_offset_px
    assert found == pytest.approx(0.0078125, abs=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_job_that_is_closed_leaves_nothing(cells, tmp_path, suffix):
    job = export_job(cells, tmp_path / f"c{suffix}", slide=Slide())
    next(job)
    job.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".geojson", ".coco.json", ".ome.zarr"])
def test_steps_come_often(tmp_path, suffix):
    """A dock redraws between steps: none works on more than a block of cells."""
    many = corrected(40_000 if suffix != ".ome.zarr" else 400, side=9_000)
    cpu, longest = time.thread_time(), 0.0
    for _ in export_job(many, tmp_path / f"c{suffix}", slide=Slide()):
        now = time.thread_time()
        cpu, longest = now, max(longest, now - cpu)
    # A quarter of a second is promised; the rest is for slow machines.
    assert longest < 1.0
