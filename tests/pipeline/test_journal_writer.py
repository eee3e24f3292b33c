"""The saving thread: nobody waits for it, and what it cannot save it keeps and tries again."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_edits import add, filled, relabel, same
from killable_journal import quick_folder

from napari_celldetr.core.annotations import Annotations
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline import journal_writer
from napari_celldetr.pipeline.journal import Journal
from napari_celldetr.pipeline.journal_file import JournalFile
from napari_celldetr.pipeline.journal_writer import JournalWriter


@pytest.fixture
def path():
    with quick_folder() as name:
        yield Path(name) / "corrections.sqlite"


@pytest.fixture
def disk(monkeypatch):
    """A disk that fails while `broken` is set, and waits while `slow` is."""
    return Disk(monkeypatch)


class Disk:
    def __init__(self, monkeypatch):
        self.broken, self.slow = threading.Event(), threading.Event()
        self.after_the_fact = False
        self.times = []
        append = JournalFile.append

        def disturbed(file, rows):
            while self.slow.is_set():
                time.sleep(0.002)
            if self.broken.is_set() and not self.after_the_fact:
                self._fail()
            append(file, rows)
            if self.broken.is_set():
                self._fail()

        monkeypatch.setattr(JournalFile, "append", disturbed)

    def _fail(self):
        self.times.append(time.monotonic())
        raise AnnotationError("No disk.", found="the disk is full", remedy="free some space")


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def words(path):
    with Journal.open(path, author="reader", read_only=True) as journal:
        return [(entry.kind, entry.what) for entry in journal.entries()]


def test_edits_are_saved_in_order_and_the_state_says_so(path):
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        assert writer.state.kind == "saved"
        for i in range(30):
            writer.append(add(what=f"step {i}"), model="m", weights="f" * 64)
        assert writer.flush(10)
        assert (writer.state.kind, writer.state.pending) == ("saved", 0)
        assert words(path) == [("edit", f"step {i}") for i in range(30)]
        assert journal.weights() == {"f" * 64}
        writer.close()
        with pytest.raises(AnnotationError, match="has been closed"):
            writer.append(add())


def test_nobody_waits_for_the_disk_and_undo_works_on_what_is_not_saved(path, disk):
    filled(path, 2)
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        disk.slow.set()
        edit = relabel(5000)
        began = time.perf_counter()
        writer.append(edit)
        assert same(writer.undo(), edit.reversed())
        assert (writer.can_undo, writer.can_redo) == ("step 2", "relabel 5000 cells")
        assert same(writer.redo(), edit)
        assert same(writer.undo(), edit.reversed())
        old = writer.undo()
        assert time.perf_counter() - began < 1
        assert old.what == "step 2"
        assert (writer.state.kind, writer.state.pending) == ("saving", 5)
        assert len(words(path)) == 2
        disk.slow.clear()
        writer.close()
        assert [kind for kind, _ in words(path)[2:]] == ["edit", "undo", "redo", "undo", "undo"]
        assert journal.standing() == (1,)


def test_a_failed_write_is_told_and_tried_again(path, disk):
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        disk.broken.set()
        writer.append(add(what="first"))
        wait_until(lambda: writer.state.kind == "failed")
        writer.append(add(what="second"))
        state = writer.state
        assert state.pending == 2
        assert "2 corrections are not saved yet, but kept" in state.words
        assert "the disk is full" in state.words
        assert "free some space" in state.words
        wait_until(lambda: len(disk.times) > 3)
        assert words(path) == []
        with pytest.raises(AnnotationError, match="No disk"):
            writer.close(timeout=0.05)
        disk.broken.clear()
        assert writer.flush(10)
        assert writer.state.kind == "saved"
        assert words(path) == [("edit", "first"), ("edit", "second")]
        writer.append(add(what="third"))
        writer.close()
    assert words(path)[-1] == ("edit", "third")


def test_tries_come_at_longer_intervals_up_to_five_seconds(path, disk, monkeypatch):
    assert journal_writer.LONGEST_WAIT_S <= 5
    monkeypatch.setattr(journal_writer, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(journal_writer, "LONGEST_WAIT_S", 0.16)
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        disk.broken.set()
        writer.append(add())
        wait_until(lambda: len(disk.times) == 7)
        disk.broken.clear()
        writer.close()
    waits = [b - a for a, b in zip(disk.times, disk.times[1:], strict=False)]
    for wait, least in zip(waits, (0.02, 0.04, 0.08, 0.16, 0.16, 0.16), strict=True):
        assert wait >= least - 0.005
    assert waits[-1] < 0.3 + 0.16


def test_what_reached_the_disk_though_it_seemed_to_fail_is_there_once(path, disk):
    disk.after_the_fact = True
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        disk.broken.set()
        writer.append(add(what="a"))
        writer.append(add(what="b"))
        writer.undo()
        wait_until(lambda: len(disk.times) > 1)
        disk.broken.clear()
        writer.close()
    assert words(path) == [("edit", "a"), ("edit", "b"), ("undo", "b")]


def test_a_folder_that_is_gone_for_a_while_takes_what_was_kept(path):
    away = path.parent / "away"
    inside = path.parent / "project" / path.name
    inside.parent.mkdir()
    with Journal.open(inside, author="ada") as journal:
        writer = JournalWriter(journal)
        writer.append(add(what="before"))
        assert writer.flush(10)
        inside.parent.rename(away)
        writer.append(add(what="meanwhile"))
        wait_until(lambda: writer.state.kind == "failed")
        assert not inside.exists()
        away.rename(inside.parent)
        writer.close()
    assert words(inside) == [("edit", "before"), ("edit", "meanwhile")]


def test_a_journal_to_read_gets_no_writer(path):
    with (
        Journal.open(path, author="ada", read_only=True) as journal,
        pytest.raises(AnnotationError, match="reading only"),
    ):
        JournalWriter(journal)


def test_giving_up_ends_it(path, disk):
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        disk.broken.set()
        writer.append(add())
        writer.close(timeout=0.05, give_up=True)
        assert not writer._thread.is_alive()
        assert writer.state.pending == 1


def test_an_unforeseen_error_does_not_end_the_thread(path, monkeypatch):
    real = Journal.append
    calls = []

    def fails_once(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("no memory")
        return real(*args, **options)

    monkeypatch.setattr(Journal, "append", fails_once)
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        writer.append(add(what="kept"))
        writer.close()
    assert words(path) == [("edit", "kept")]


def test_a_too_large_edit_is_refused_at_once(path, monkeypatch):
    monkeypatch.setattr(journal_writer, "MAX_CELLS", 3)
    with Journal.open(path, author="ada") as journal:
        writer = JournalWriter(journal)
        with pytest.raises(AnnotationError, match="too large"):
            writer.append(relabel(4))
        writer.append(relabel(3))
        writer.close()
    assert len(words(path)) == 1


ACTIONS = st.lists(st.sampled_from(["edit", "undo", "redo", "flush"]), max_size=40)


@settings(max_examples=20)
@given(ACTIONS)
def test_the_thread_writes_what_a_person_saw(actions):
    live = Annotations()
    with quick_folder() as folder, Journal.open(Path(folder, "c"), author="ada") as journal:
        writer = JournalWriter(journal)
        for i, action in enumerate(actions):
            if action == "flush":
                writer.flush(10)
            elif action == "edit":
                edit = relabel(2, seed=i)
                writer.append(edit)
                live.apply(edit)
            elif (edit := getattr(writer, action)()) is not None:
                live.apply(edit)
        undo, redo = writer.can_undo, writer.can_redo
        writer.close()
        assert (journal.can_undo, journal.can_redo) == (undo, redo)
        assert journal.annotations().digest() == live.digest()
