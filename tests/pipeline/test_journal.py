"""The journal: entries that hold, that can be undone, on any disk and beside other programs."""

import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_edits import add, filled, relabel, same
from killable_journal import Hand, quick_folder

from napari_celldetr.core.annotations import Annotations
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline import journal_file
from napari_celldetr.pipeline.journal import Journal
from napari_celldetr.pipeline.journal_errors import DamagedJournalError


@pytest.fixture
def path():
    with quick_folder() as name:
        yield Path(name) / "corrections.sqlite"


def test_what_was_said_is_there_for_the_next_one(path):
    edit = relabel(3)
    with Journal.open(path, author="ada") as journal:
        entry = journal.append(edit, model="he-small", weights="f" * 64)
        assert (entry.seq, entry.edit) == (1, edit)
    with Journal.open(path, author="bob") as journal:
        (entry,) = journal.entries()
        assert (entry.kind, entry.author, entry.what) == ("edit", "ada", "relabel 3 cells")
        assert (entry.model, entry.weights, entry.cells) == ("he-small", "f" * 64, 3)
        assert entry.time.endswith("+00:00")
        assert same(journal.edit(1), edit)
        said = journal.annotations()
        assert len(said) == 3
        assert {cell.author for cell in said.cells.values()} == {"ada"}
        assert {cell.claim[1] for cell in said.cells.values()} == {0}
        assert journal.weights() == {"f" * 64}


def test_undo_and_redo_reach_through_sessions(path):
    first, second = relabel(seed=1), relabel(2, seed=2)
    with Journal.open(path, author="ada") as journal:
        assert journal.can_undo is None
        assert journal.undo() is None
        journal.append(first)
        journal.append(second)
        assert journal.can_undo == "relabel 2 cells"
    with Journal.open(path, author="bob") as journal:
        entry = journal.undo()
        assert (entry.kind, entry.target, entry.author) == ("undo", 2, "bob")
        assert same(entry.edit, second.reversed())
        assert journal.can_redo == "relabel 2 cells"
        assert len(journal.annotations()) == 1
    with Journal.open(path, author="cleo") as journal:
        assert same(journal.undo().edit, first.reversed())
        assert journal.undo() is None
        assert same(journal.redo().edit, first)
    with Journal.open(path, author="cleo") as journal:
        assert same(journal.redo().edit, second)
        assert (journal.can_redo, journal.standing()) == (None, (1, 2))
        assert {c.author for c in journal.annotations().cells.values()} == {"ada"}


def test_a_new_edit_ends_what_could_be_redone(path):
    filled(path, 2)
    with Journal.open(path, author="ada") as journal:
        journal.undo()
        journal.append(add(what="other"))
        assert (journal.can_redo, journal.redo()) == (None, None)
        assert journal.standing() == (1, 4)
        assert [e.seq for e in journal.entries(newest_first=True)] == [4, 3, 2, 1]


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 120))
def test_replay_equals_what_a_viewer_saw(seed, count):
    live = Annotations()
    with quick_folder() as folder, Journal.open(Path(folder, "c"), author="ada") as journal:
        hand = Hand(journal, seed)
        stack, undone = [], []
        for _ in range(count):
            entry = hand.act()
            if entry is None:
                continue
            live.apply(entry.edit)
            if entry.kind == "edit":
                stack.append(entry.edit)
                undone.clear()
            elif entry.kind == "undo":
                undone.append(stack.pop())
            else:
                stack.append(undone.pop())
        slow = Annotations()
        for edit in stack:
            slow.apply(edit)
        assert journal.annotations().digest() == live.digest() == slow.digest()
        with Journal.open(journal.path, author="bob", read_only=True) as other:
            assert other.annotations().digest() == live.digest()


def test_a_history_is_read_as_it_is_asked_for(path):
    with Journal.open(path, author="ada") as journal:
        for seed in range(100):
            journal.append(relabel(500, seed=seed))
    tracemalloc.start()
    with Journal.open(path, author="ada") as journal:
        held = tracemalloc.get_traced_memory()[0]
        history = journal.entries(newest_first=True)
        assert next(history).seq == 100
        assert len(list(history)) == 99
    tracemalloc.stop()
    assert held < path.stat().st_size / 10


def test_names_that_are_no_text_can_be_kept(path):
    with Journal.open(path, author="ad\udce9") as journal:
        journal.append(add(what="x\x00y \udcff"))
        assert next(journal.entries()).author == "ad?"
    with Journal.open(path, author="ada") as journal:
        assert journal.can_undo == "x\x00y ?"


# -- disks and other programs ------------------------------------------------------------


@pytest.fixture(params=["wal", "delete"])
def mode(request, monkeypatch):
    monkeypatch.setattr(journal_file, "on_network", lambda _: request.param == "delete")
    return request.param


def test_durability_settings(path, mode):
    with Journal.open(path, author="ada") as journal:
        db = journal._file._writer
        assert db.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_reader_sees_what_another_writes(path, mode):
    reader = Journal.open(path, author="bob", read_only=True)
    assert len(reader.annotations()) == 0
    with Journal.open(path, author="ada") as journal:
        for i in range(150):
            journal.append(add(what=f"step {i}"))
        history = reader.entries(newest_first=True)
        assert reader.refresh() == 150
        assert reader.can_undo == "step 149"
        history = reader.entries()
        next(history)
        # A reader half way through its list does not stand in the writer's way.
        journal.undo()
        assert len(list(history)) == 149
        assert len(reader.annotations()) == 149
        assert (reader.damage, len(reader)) == (None, 151)
        with pytest.raises(AnnotationError, match="reading only"):
            reader.undo()
    reader.close()


def test_two_writers_do_not_mix(path, mode):
    with Journal.open(path, author="ada") as one, Journal.open(path, author="bob") as two:
        one.append(add(what="by ada"))
        with pytest.raises(AnnotationError, match="Another program has written"):
            two.append(add(what="by bob"))
        one.append(add(what="by ada again"))
    with Journal.open(path, author="ada") as journal:
        assert [e.author for e in journal.entries()] == ["ada", "ada"]


def test_a_locked_file_is_an_error_and_nothing_is_lost(path, mode, monkeypatch):
    monkeypatch.setattr(journal_file, "BUSY_SECONDS", 0.05)
    with Journal.open(filled(path), author="ada") as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AnnotationError, match="another program is using"):
            journal.append(add())
        other.execute("ROLLBACK")
        other.close()
        assert journal.append(add()).seq == 6


def append_many(journal):
    for _ in range(50):
        journal.append(relabel(50))


def test_a_full_disk_is_an_error_and_nothing_is_lost(path, mode):
    with Journal.open(filled(path), author="ada") as journal:
        db = journal._file._writer
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(AnnotationError, match="disk is full") as caught:
            append_many(journal)
        assert "is kept" in caught.value.remedy
        count = len(journal)
        db.execute("PRAGMA max_page_count=100000")
        assert journal.append(relabel(50)).seq == count + 1
        journal.verify()
    with Journal.open(path, author="ada") as journal:
        assert len(journal) == count + 1


def test_a_failing_disk_is_an_error_and_nothing_is_lost(path, mode):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(filled(path), author="ada") as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        try:
            with pytest.raises(AnnotationError, match="full, failing or not reachable"):
                append_many(journal)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        count = len(journal)
        journal.append(relabel(50))
    with Journal.open(path, author="ada") as journal:
        assert len(journal) == count + 1


def test_a_journal_that_was_moved_while_open_takes_nothing(path):
    with Journal.open(filled(path), author="ada") as journal:
        shutil.move(path, path.with_name("elsewhere.sqlite"))
        with pytest.raises(AnnotationError, match="does not exist"):
            journal.append(add())
        filled(path, 1)
        with pytest.raises(AnnotationError, match="moved or replaced"):
            journal.append(add())
        with pytest.raises(DamagedJournalError, match=r"gone|not the one"):
            journal.reopen()


def test_an_entry_that_had_reached_the_disk_is_not_written_twice(path):
    with Journal.open(filled(path), author="ada") as journal:
        edit, time = add(what="once"), "2026-01-01T00:00:00.000+00:00"
        before = journal._seq, journal._seal, list(journal._undo)
        journal.append(edit, time=time)
        # As if the commit had raised although it took place.
        journal._seq, journal._seal, journal._undo = before
        assert journal.append(edit, time=time).seq == 6
    with Journal.open(path, author="ada") as journal:
        assert [e.what for e in journal.entries()].count("once") == 1
