"""A journal that was changed, damaged, or is something else: found, said, and never overwritten."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from journal_edits import add, filled, relabel, tampered
from killable_journal import quick_folder

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline import journal_file
from napari_celldetr.pipeline.journal import Journal, recover
from napari_celldetr.pipeline.journal_errors import DamagedJournalError


@pytest.fixture
def path():
    with quick_folder() as name:
        yield Path(name) / "corrections.sqlite"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET what = 'x'",
        "DELETE FROM entries WHERE seq = 5",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries WHERE seq = 3",
        "INSERT INTO entries SELECT 9, time, author, kind, target, what, model, weights, "
        "cells, areas, payload, seal FROM entries WHERE seq = 5",
    ],
)
def test_the_file_itself_refuses_changes(path, statement):
    db = sqlite3.connect(filled(path))
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statements", "intact"),
    [
        (["UPDATE entries SET what = 'delete all' WHERE seq = 3"], 2),
        (["UPDATE entries SET author = 'eve' WHERE seq = 1"], 0),
        (["UPDATE entries SET payload = (SELECT payload FROM entries WHERE seq = 2) "
          "WHERE seq = 4"], 3),
        (["UPDATE entries SET payload = 7 WHERE seq = 4"], 3),
        (["UPDATE entries SET what = CAST(x'ff41' AS TEXT) WHERE seq = 4"], 3),
        (["DELETE FROM entries WHERE seq = 2"], 1),
        (["DELETE FROM entries WHERE seq = 1"], 0),
        (["DELETE FROM entries WHERE seq = 5"], 4),
        (["DELETE FROM entries"], 0),
        (["DELETE FROM entries WHERE seq = 2", "UPDATE entries SET seq = seq - 1 WHERE seq > 2"],
         1),
        (["INSERT INTO entries SELECT 6, time, author, kind, target, what, model, weights, "
          "cells, areas, payload, seal FROM entries WHERE seq = 5"], 5),
        (["INSERT INTO entries SELECT 6, time, author, 'undo', 2, what, model, weights, "
          "cells, areas, payload, seal FROM entries WHERE seq = 5"], 5),
    ],
)  # fmt: skip
def test_a_changed_or_missing_entry_is_found_and_the_rest_stays(path, statements, intact):
    tampered(filled(path), *statements)
    before = path.read_bytes()
    with pytest.raises(DamagedJournalError, match="damaged") as caught:
        Journal.open(path, author="ada")
    assert caught.value.intact == intact
    assert f"the {intact} before are intact" in caught.value.found
    with Journal.open(path, author="ada", read_only=True) as journal:
        assert journal.damage.intact == intact
        assert [e.what for e in journal.entries()] == [f"step {i + 1}" for i in range(intact)]
        assert len(journal.annotations()) == intact
        with pytest.raises(AnnotationError, match="reading only"):
            journal.append(add())
    assert path.read_bytes() == before


def test_an_entry_that_was_changed_while_open_is_found_by_verify(path):
    with Journal.open(filled(path), author="ada") as journal:
        journal.verify()
        tampered(path, "UPDATE entries SET what = 'x' WHERE seq = 3")
        with pytest.raises(DamagedJournalError, match="entry 3"):
            journal.verify()


def test_a_journal_without_its_rules_is_not_written(path):
    db = sqlite3.connect(filled(path))
    db.execute("DROP TRIGGER no_update")
    db.close()
    with pytest.raises(DamagedJournalError, match="no_update"):
        Journal.open(path, author="ada")
    with Journal.open(path, author="ada", read_only=True) as journal:
        assert len(journal.annotations()) == 5


def test_an_undo_of_something_else_is_damage(path):
    filled(path, 2)
    with Journal.open(path, author="eve") as journal:
        last = journal._file.row(2)
        row = journal_file.Row(3, last.time, "eve", "undo", 1, "", "", "", 0, 0, b"")
        sealed = journal_file.Row(*[getattr(row, n) for n in row.__slots__[:-1]],
                                  row.sealed_after(last.seal))  # fmt: skip
        journal._file.append([sealed])
    with pytest.raises(DamagedJournalError, match="entry 3 undoes what is not there"):
        Journal.open(path, author="ada")


@pytest.mark.parametrize("seed", range(6))
def test_a_file_with_a_bad_page_gives_what_is_before_it(path, seed):
    with Journal.open(path, author="ada") as journal:
        for i in range(60):
            journal.append(relabel(50, seed=i))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    start = int(rng.integers(10, len(data) // 4096 - 1)) * 4096
    # Noise, or zeros, as a disk gives them that lost a sector; at any place.
    start += int(rng.integers(0, 2)) * 2048
    data[start : start + 4096] = rng.bytes(4096) if seed % 2 else bytes(4096)
    path.write_bytes(data)
    with pytest.raises(AnnotationError):
        Journal.open(path, author="ada")
    with Journal.open(path, author="ada", read_only=True) as journal:
        assert journal.damage is not None
        assert [e.seq for e in journal.entries()] == list(range(1, len(journal) + 1))
        assert len(journal.annotations()) == 50 * len(journal)
        assert len(journal) > 0
    assert path.read_bytes() == data


@pytest.mark.parametrize("seed", range(25))
def test_a_file_damaged_anywhere_neither_hangs_nor_says_what_was_not_said(path, seed):
    with Journal.open(path, author="ada") as journal:
        for i in range(30):
            journal.append(relabel(30, seed=i))
        seals = [entry.seal for entry in journal.entries()]
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 4)):
        size = int(rng.choice([1, 4, 600]))
        start = int(rng.integers(0, rng.choice([200, 8192, len(data)]) - size % 200))
        data[start : start + size] = rng.bytes(size)
    path.write_bytes(data)
    for read_only in (True, False):
        try:
            with Journal.open(path, author="ada", read_only=read_only) as journal:
                found = [entry.seal for entry in journal.entries()]
                assert found == seals[: len(found)]
                assert len(found) == 30 or journal.damage is not None
                journal.annotations()
                journal.weights()
        except AnnotationError:
            continue


def test_work_goes_on_from_the_intact_entries_in_a_new_file(path):
    tampered(filled(path), "UPDATE entries SET what = 'x' WHERE seq = 4")
    before = path.read_bytes()
    assert recover(path, path.with_name("new.sqlite")) == 3
    with Journal.open(path.with_name("new.sqlite"), author="ada") as journal:
        assert journal.can_undo == "step 3"
        assert journal.append(add()).seq == 4
        journal.verify()
    assert path.read_bytes() == before
    with pytest.raises(AnnotationError, match="exists already"):
        recover(path, path.with_name("new.sqlite"))
    assert not list(path.parent.glob("*celldetr-tmp*"))


# -- files that are something else -------------------------------------------------------


def other_sqlite(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE entries (seq INTEGER)")
    db.commit()
    db.close()


def posing_sqlite(path):
    """The right number in front, and a view that would run for ever when it is read."""
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA application_id={journal_file.APPLICATION}")
    db.execute("PRAGMA user_version=1")
    db.execute(
        "CREATE VIEW entries AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 "
        "FROM n) SELECT seq FROM n"
    )
    db.commit()
    db.close()


def added_trigger(path):
    filled(path)
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER more AFTER INSERT ON entries BEGIN SELECT 1; END")
    db.commit()
    db.close()


def newer_version(path):
    filled(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=2")
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_sqlite, "not a journal"),
        (posing_sqlite, "not a journal"),
        (added_trigger, "not a journal"),
        (newer_version, "newer version"),
        (lambda path: path.write_text("x" * 5000), "not a journal"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(90)), "not a journal|damag"),
        (lambda path: path.mkdir(), "cannot be reached"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_something_else_is_refused_and_left_alone(path, make, words, read_only):
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(AnnotationError, match=words) as caught:
        Journal.open(path, author="ada", read_only=read_only)
    assert caught.value.remedy
    assert before is None or path.read_bytes() == before
    beside = path.with_name(path.name + "-wal")
    assert not beside.exists() or beside.stat().st_size == 0


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be reached"):
        Journal.open(tmp_path / "no" / "c.sqlite", author="ada")
