"""Results in a project: never written over, read only when whole, and old ones kept with reason."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from journal_edits import relabel
from killable_journal import quick_folder
from project_child import table

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline import project_cells
from napari_celldetr.pipeline.project import Project, SlideFacts
from napari_celldetr.pipeline.project_cells import RunAbout

FACTS = SlideFacts("s.svs", "0123456789abcdef" * 4, (5000, 4000))


@pytest.fixture
def record():
    with quick_folder() as name, Project.open(Path(name, "p"), author="ada").slide(FACTS) as record:
        yield record


def names(record):
    return [run.name for run in record.runs()]


def save(record, seed=0, *, weights="", **about):
    cells = table(20, seed=seed)
    cells = cells.with_source(replace(cells.source, weights_sha256=weights, model="he"))
    return record.save_cells(cells, RunAbout(**about))


def test_every_run_is_kept_under_a_name_of_its_own(record):
    saved = [save(record, seed) for seed in range(4)]
    assert names(record) == [run.name for run in reversed(saved)]
    for seed, run in enumerate(saved):
        assert record.load_cells(run.name)[0] == table(20, seed=seed)
    assert record.latest_cells()[0] == table(20, seed=3)


def test_the_last_one_saved_is_the_latest_whatever_the_clock_says(record):
    first = save(record, 1)
    path = record.folder / "cells" / f"{first.name}.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"time": "2199-01-01T00:00:00.000+00:00"}))
    second = save(record, 2)
    assert second.time > "2199"
    assert record.latest_cells()[0] == table(20, seed=2)


@pytest.mark.parametrize(
    "cells",
    [
        Detections.empty(("a", "b")),
        Detections.empty(),
        Detections(
            np.array([[0, 0, 5, 5]] * 3), np.ones(3), np.zeros(3), ("a",),
            np.arange(12).reshape(3, 4).astype(np.float16),
            {"od": np.array([1, np.nan, 3], np.float32), "note": np.array(["x", "", "long text"])},
            Source("s", "i", (0.5, 0.5), "m", "f" * 64),
        ),
    ],
)  # fmt: skip
def test_tables_of_every_kind_come_back(record, cells):
    record.save_cells(cells)
    back, about = record.latest_cells()
    assert back == cells
    assert (about.model, about.weights) == (cells.source.model, cells.source.weights_sha256)


def test_only_the_newest_are_kept_and_those_that_corrections_speak_of(record):
    whole = [save(record, 0, weights="a" * 64, config="1") for _ in range(2)]
    part = save(record, 1, weights="a" * 64, config="1", region=Region(0, 0, 9, 9))
    other = save(record, 2, weights="b" * 64)
    unsaid = save(record, 3, weights="c" * 64)
    with record.journal() as journal:
        journal.append(relabel(), weights="a" * 64)
        journal.append(relabel(), weights="b" * 64)
        journal.undo()  # It can be redone.
    newest = [save(record, seed, weights="d" * 64) for seed in range(5)]
    kept = [*reversed(newest), other, part, whole[1]]
    assert names(record) == [run.name for run in kept]
    assert unsaid.name not in names(record)
    files = {p.name for p in (record.folder / "cells").iterdir()}
    assert files == {run.name + suffix for run in kept for suffix in (".json", ".parquet")}


def test_a_kept_run_of_the_same_kind_stands_for_an_older_one(record):
    with record.journal() as journal:
        journal.append(relabel(), weights="a" * 64)
    runs = [save(record, seed, weights="a" * 64) for seed in range(8)]
    assert names(record) == [run.name for run in reversed(runs[-5:])]


def test_nothing_is_removed_when_it_is_not_known_what_corrections_speak_of(record):
    (record.folder / "corrections.sqlite").write_text("nonsense " * 100)
    runs = [save(record, seed) for seed in range(7)]
    assert len(names(record)) == len(runs)
    assert "not a journal" in record.problems[0]


@pytest.mark.parametrize("damage", ["flip", "short", "gone", "swapped", "json", "far", "cells"])
def test_a_damaged_run_is_told_and_the_one_before_is_used(record, damage):
    first, last = save(record, 1), save(record, 2)
    folder = record.folder / "cells"
    path, about = folder / f"{last.name}.parquet", folder / f"{last.name}.json"
    raw, said = path.read_bytes(), json.loads(about.read_text())
    if damage == "flip":
        path.write_bytes(raw[:99] + bytes([raw[99] ^ 1]) + raw[100:])
    elif damage == "short":
        path.write_bytes(raw[:-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "swapped":
        path.write_bytes((folder / f"{first.name}.parquet").read_bytes())
    elif damage == "json":
        about.write_text("{")
    elif damage == "far":
        about.write_text(json.dumps(said | {"time": "9999-12-31T23:59:59.999+00:00"}))
    else:
        about.write_text(json.dumps(said | {"cells": 21}))
    cells, found = record.latest_cells()
    assert cells == table(20, seed=1)
    assert found == first
    assert len(record.problems) == 1
    assert last.name in record.problems[0]
    with pytest.raises(AnnotationError, match="cannot be used"):
        record.load_cells(last.name)
    assert save(record, 3).name in names(record)


def test_a_file_that_is_no_table_but_has_the_right_hash_is_refused(record):
    save(record, 1)
    last = save(record, 2)
    path = record.folder / "cells" / f"{last.name}.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    about = path.with_suffix(".json")
    said = json.loads(about.read_text())
    said |= {"bytes": path.stat().st_size, "sha256": project_cells._sha256(path)}
    about.write_text(json.dumps(said))
    assert record.latest_cells()[0] == table(20, seed=1)


def test_a_result_that_cannot_be_written_changes_nothing(record, monkeypatch):
    save(record, 1)
    before = sorted(p.name for p in (record.folder / "cells").iterdir())

    def full(*_, **__):
        raise AnnotationError("No space.", found="the disk is full")

    monkeypatch.setattr(project_cells, "write_json", full)
    with pytest.raises(AnnotationError, match="disk is full"):
        save(record, 2)
    monkeypatch.undo()
    monkeypatch.setattr(project_cells, "_same", lambda *_: False)
    with pytest.raises(AnnotationError, match="other values"):
        save(record, 2)
    monkeypatch.undo()
    with pytest.raises(AnnotationError, match="cannot be"):
        save(record, 2, config="x" * 2**21)
    assert sorted(p.name for p in (record.folder / "cells").iterdir()) == before


@pytest.mark.parametrize("name", ["../../x", "", "20260101T000000000-abcdef/../x"])
def test_a_name_that_no_run_has_is_refused(record, name):
    with pytest.raises(AnnotationError, match="cannot be used"):
        record.load_cells(name)
