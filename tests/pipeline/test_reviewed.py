"""Reviewed cells and their history, read from a project that a viewer may have open."""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from journal_edits import tampered
from killable_journal import quick_folder
from project_child import table

from napari_celldetr.cli import main
from napari_celldetr.core.annotations import Area, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.edits import add, confirm, delete, mark, move, relabel
from napari_celldetr.core.errors import AnnotationError, CellDETRError, ExportError
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids
from napari_celldetr.pipeline.export import read_corrected
from napari_celldetr.pipeline.history import COLUMNS, history_job, is_history
from napari_celldetr.pipeline.journal import Journal
from napari_celldetr.pipeline.journal_errors import DamagedJournalError
from napari_celldetr.pipeline.project import Project, SlideFacts
from napari_celldetr.pipeline.project_cells import RunAbout
from napari_celldetr.pipeline.reviewed import find_record, reviewed_cells

FACTS = SlideFacts("s.svs", "0123456789abcdef" * 4, (6000, 6000), (0.5, 0.5))
THRESHOLD = 0.3
AROUND = Area(((0, 0), (2000, 0), (2000, 2000), (0, 2000)), name="left, above")


class Desk:
    """A person at work: a table as the viewer has it, and a record that is written to."""

    def __init__(self, root):
        self.root = root
        self.record = Project.open(root, author="ada").slide(FACTS)
        self.claims = table(200, seed=1)
        self.record.save_cells(self.claims, RunAbout(threshold=THRESHOLD))
        self.cells = CellTable(self.claims.class_names, cell_ids, threshold=THRESHOLD)
        self.cells.replace(Claims.prepared(self.claims, cell_ids))
        self.journal = self.record.journal()

    def do(self, edit):
        self.journal.append(edit, model="he", weights="f" * 64)
        self.cells.apply(edit, author="ada")
        return edit

    def undo(self):
        self.cells.apply(self.journal.undo().edit, author="ada", back=True)

    def kept(self, n):
        return np.flatnonzero(self.cells.kept)[:n]

    def work(self):
        self.do(relabel(self.cells, self.kept(3), "b"))
        self.do(delete(self.cells, self.kept(9)[4:]))
        self.do(add(self.cells, np.array([[10, 20, 30, 44]]), "new, kind"))
        self.do(move(self.cells, int(self.kept(1)[0]), (100, 100, 120, 130)))
        self.do(mark(self.cells, AROUND))
        self.do(confirm(self.cells, self.kept(20)))
        self.undo()

    def close(self):
        self.journal.close()
        self.record.close()


@pytest.fixture
def desk():
    with quick_folder() as name:
        desk = Desk(Path(name) / "project")
        yield desk
        desk.close()


def same_cells(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.cells.boxes, other.cells.boxes)
    np.testing.assert_array_equal(one.cells.class_labels, other.cells.class_labels)
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_array_equal(one.authors, other.authors)
    assert one.areas == other.areas


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_reviewed_cells_are_those_of_the_viewer_which_keeps_its_lock(desk):
    desk.work()
    record = find_record(FACTS, desk.root)
    found = reviewed_cells(record)
    same_cells(found, desk.cells.corrected())
    assert found.cells.columns["diameter_um"].min() > 0
    assert record.read_only
    assert not desk.record.read_only
    record.close()
    desk.do(delete(desk.cells, desk.kept(1)))
    same_cells(reviewed_cells(find_record(FACTS, desk.root)), desk.cells.corrected())


def test_reading_locks_nobody_out(desk):
    desk.close()
    record = find_record(FACTS, desk.root)
    reviewed_cells(record)
    with Project.open(desk.root, author="bob").slide(FACTS) as other:
        assert not other.read_only


def test_the_threshold_last_looked_at_counts(desk):
    desk.record.save_view({"threshold": 0.8})
    desk.cells.threshold = 0.8
    same_cells(reviewed_cells(find_record(FACTS, desk.root)), desk.cells.corrected())
    desk.record.save_view({"threshold": "no number"})
    desk.cells.threshold = THRESHOLD
    same_cells(reviewed_cells(find_record(FACTS, desk.root)), desk.cells.corrected())


def test_corrections_of_an_earlier_model_hold_on_a_later_result(desk):
    desk.do(relabel(desk.cells, desk.kept(3), "b"))
    middles = desk.cells.centres[desk.kept(3)].copy()
    boxes = desk.claims.boxes + np.float32(0.4)
    later = table(200, seed=1).with_source(desk.claims.source)
    later = type(later)(
        boxes, later.scores, later.class_ids, later.class_names, None, {}, later.source
    )
    desk.record.save_cells(later, RunAbout(threshold=THRESHOLD))
    found = reviewed_cells(find_record(FACTS, desk.root))
    assert len(found) == int(desk.cells.kept.sum())
    said = found.status == Status.RECLASSED
    said |= found.status == Status.CONFIRMED
    assert sorted(map(tuple, found.cells.centres[said])) == sorted(map(tuple, middles))


def test_cells_added_by_hand_need_no_run():
    with quick_folder() as name, Project.open(Path(name) / "p").slide(FACTS) as record:
        empty = CellTable((), cell_ids)
        with Journal.open(record.journal_path, author="ada") as journal:
            journal.append(add(empty, np.array([[10, 20, 30, 44]]), "mine"))
        found = reviewed_cells(find_record(FACTS, Path(name) / "p"))
        assert found.cells.class_labels.tolist() == ["mine"]
        assert found.cells.columns["diameter_um"] == pytest.approx(0.5 * np.sqrt(20 * 24))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(AnnotationError, match="no such project"):
        find_record(FACTS, tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    Project.open(tmp_path / "p")
    with pytest.raises(AnnotationError, match="Nobody has worked"):
        find_record(FACTS, tmp_path / "p")
    Project.open(tmp_path / "p").slide(FACTS).close()
    with pytest.raises(AnnotationError, match="no cells"):
        reviewed_cells(find_record(FACTS, tmp_path / "p"))


def test_the_history_says_who_what_and_from_what_to_what(desk, tmp_path):
    desk.work()
    path = tmp_path / "said.history.csv"
    rows = drain(history_job(desk.record.journal_path, path))
    read = rows_of(path)
    assert len(read) == rows
    assert tuple(read[0]) == COLUMNS
    assert {r["author"] for r in read} == {"ada"}
    entries = {r["entry"]: r["action"] for r in read}
    assert list(entries) == [str(i) for i in range(1, 8)]
    assert list(entries.values()) == ["edit"] * 6 + ["undo"]
    gone = [r for r in read if r["entry"] == "2"]
    assert len(gone) == 5
    assert {(r["before_status"], r["after_status"]) for r in gone} == {("claimed", "deleted")}
    (new,) = [r for r in read if r["entry"] == "3"]
    assert (new["before_status"], new["before_class"], new["before_x0"]) == ("absent", "", "")
    assert (new["after_status"], new["after_class"]) == ("added", "new, kind")
    box = [new[f"after_{side}"] for side in ("x0", "y0", "x1", "y1")]
    assert box == ["10.00", "20.00", "30.00", "44.00"]
    assert new["cell"] in as_text(desk.cells.corrected().ids)
    (area,) = [r for r in read if r["area"]]
    assert area["after_class"] == "left, above"
    assert area["after_outline"] == "0.00 0.00;2000.00 0.00;2000.00 2000.00;0.00 2000.00"
    said, back = ([r for r in read if r["entry"] == n] for n in "67")
    assert [(r["cell"], r["before_status"]) for r in said] == [
        (r["cell"], r["after_status"]) for r in back
    ]


def test_a_history_that_cannot_be_written_leaves_the_old_one(desk, tmp_path):
    desk.work()
    with pytest.raises(ExportError, match="cannot be written"):
        drain(history_job(desk.record.journal_path, tmp_path / "nowhere" / "a.history.csv"))
    path = tmp_path / "a.history.csv"
    path.write_text("old")
    other = tmp_path / "no.sqlite"
    other.write_bytes(b"no journal at all" * 100)
    with pytest.raises(CellDETRError):
        drain(history_job(other, path))
    assert path.read_text() == "old"
    assert is_history(path)
    assert not is_history("a.csv")


def test_the_history_of_a_damaged_journal_is_refused(desk, tmp_path):
    desk.work()
    desk.close()
    tampered(desk.record.journal_path, "UPDATE entries SET author = 'eve' WHERE seq = 3")
    path = tmp_path / "a.history.csv"
    with pytest.raises(DamagedJournalError):
        drain(history_job(desk.record.journal_path, path))
    with pytest.raises(DamagedJournalError):
        reviewed_cells(find_record(FACTS, desk.root))
    assert not path.exists()


def test_keys_can_be_asked_for_by_two_threads_at_once():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            for seed in range(30):
                claims = Claims(table(400, seed=seed))
                keys = cell_ids(claims.table)

                def ask(claims=claims, keys=keys):
                    claims.find_by_key(cell_ids)
                    return claims.rows_of(keys).tolist()

                found = [threads.submit(ask) for _ in range(2)]
                assert [f.result() for f in found] == [list(range(400))] * 2
    finally:
        sys.setswitchinterval(before)


def test_the_command_writes_cells_and_history(tmp_path, monkeypatch, capsys):
    import tifffile
    from fakes import cell_field

    from napari_celldetr.slides.readers import open_slide

    slide = tmp_path / "slide.tif"
    tifffile.imwrite(slide, cell_field((300, 200)), photometric="rgb", tile=(64, 64))
    project = tmp_path / "project"
    with open_slide(slide) as opened, Project.open(project).slide(opened) as record:
        assert main(["corrections", str(slide), str(tmp_path / "a.csv"), "--project", "none"]) == 1
        assert "no such project" in capsys.readouterr().err
        with Journal.open(record.journal_path, author="ada") as journal:
            said = add(CellTable((), cell_ids), np.array([[10, 20, 30, 44]]), "mine")
            journal.append(said)
            monkeypatch.setenv("CELLDETR_PROJECT", str(project))
            for name in ("cells.geojson", "said.history.csv"):
                assert main(["corrections", str(slide), str(tmp_path / name)]) == 0
    assert "1 row written" in capsys.readouterr().out
    back = read_corrected(tmp_path / "cells.geojson")
    assert (back.cells.class_labels.tolist(), back.authors.tolist()) == (["mine"], ["ada"])
    (row,) = rows_of(tmp_path / "said.history.csv")
    assert row["cell"] == as_text(back.ids)[0]
    assert main(["corrections", str(slide), str(tmp_path / "cells.txt")]) == 1
