import errno
import os
import sqlite3

import numpy as np
import pytest
from killable import table

from napari_celldetr.core.errors import JobError
from napari_celldetr.pipeline import ledger as module
from napari_celldetr.pipeline.ledger import (
    DONE,
    FAILED,
    SKIPPED,
    Ledger,
    TileResult,
    cache_folder,
    code_version,
    on_network,
    run_key,
    thread_count,
)

KEY = "k" * 64


def result(index, count=5, state=DONE, reason=""):
    cells = table(count, seed=index[0] * 100 + index[1]) if state == DONE else None
    return TileResult(index, state, reason, cells)


def open_ledger(folder, **options):
    return Ledger(folder, key=KEY, **options)


def test_what_was_recorded_is_there_for_the_next_one(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((0, 0)), result((0, 1), count=0)])
        ledger.commit([result((1, 0), state=FAILED, reason="unreadable")])
        ledger.commit([TileResult((5, 5), SKIPPED)])
    with open_ledger(tmp_path) as ledger:
        rows = ledger.rows()
        assert {i: (r.state, r.cells) for i, r in rows.items()} == {
            (0, 0): (DONE, 5),
            (0, 1): (DONE, 0),
            (1, 0): (FAILED, 0),
            (5, 5): (SKIPPED, 0),
        }
        assert rows[(1, 0)].reason == "unreadable"
        read = dict(ledger.read(rows))
    assert list(read) == [(0, 0)]
    assert read[(0, 0)] == table(5, seed=0)


def test_a_batch_shares_a_part_and_its_tiles_are_told_apart(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((2, c)) for c in range(4)])
        assert len(list(ledger.parts.iterdir())) == 1
        read = dict(ledger.read([(2, 1), (2, 3)]))
    assert read == {(2, 1): table(5, seed=201), (2, 3): table(5, seed=203)}


def test_orphans_of_a_killed_run_are_swept(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((0, 0))])
    (tmp_path / "parts" / ".x.parquet.1-ab.celldetr-tmp").write_bytes(b"half")
    (tmp_path / "parts" / "9_9-deadbeef.parquet").write_bytes(b"renamed but not recorded")
    with open_ledger(tmp_path) as ledger:
        assert len(list(ledger.parts.iterdir())) == 1
        assert set(ledger.rows()) == {(0, 0)}


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_lost_part_means_work_to_do_never_no_cells(tmp_path, damage):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((0, 0))])
        ledger.commit([result((0, 1))])
        part = ledger.parts / ledger.rows()[(0, 0)].part
    part.unlink() if damage == "gone" else part.write_bytes(part.read_bytes()[:-1])
    with open_ledger(tmp_path) as ledger:
        assert set(ledger.rows()) == {(0, 1)}
        assert ledger.repaired == 1


def test_a_part_damaged_in_place_is_an_error(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((0, 0), count=200)])
        part = ledger.parts / ledger.rows()[(0, 0)].part
        raw = bytearray(part.read_bytes())
        raw[-200:] = b"\x00" * 200
        part.write_bytes(raw)
        with pytest.raises(JobError, match="damaged"):
            list(ledger.read([(0, 0)]))


def test_a_damaged_database_is_an_error_and_fresh_helps(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.commit([result((0, 0))])
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JobError, match="--fresh"):
        open_ledger(tmp_path)
    with open_ledger(tmp_path, fresh=True) as ledger:
        assert ledger.rows() == {}


def test_two_writers_are_refused_and_a_dead_ones_lock_is_gone(tmp_path):
    first = open_ledger(tmp_path)
    with pytest.raises(JobError, match="Another run"):
        open_ledger(tmp_path)
    first.commit([result((0, 0))])
    first.close()
    first.close()
    with open_ledger(tmp_path) as second:
        assert set(second.rows()) == {(0, 0)}


def test_another_runs_folder_is_refused(tmp_path):
    open_ledger(tmp_path).close()
    with pytest.raises(JobError, match="another run"):
        Ledger(tmp_path, key="z" * 64)


@pytest.mark.parametrize("at", ["fsync", "replace", "parquet", "sqlite"])
def test_a_full_disk_is_said_and_earlier_work_is_whole(tmp_path, monkeypatch, at):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger = open_ledger(tmp_path)
    ledger.commit([result((0, 0))])
    with monkeypatch.context() as patch:
        if at == "parquet":
            patch.setattr("napari_celldetr.pipeline.parquet.write_parquet", full)
        elif at == "sqlite":
            ledger._db.execute("PRAGMA max_page_count=1")
            ledger._db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON tiles BEGIN "
                "SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
        else:
            patch.setattr(os, at, full)
        with pytest.raises(JobError, match="disk is full") as caught:
            ledger.commit([result((0, 1))])
        assert "goes on where it was" in caught.value.remedy
    if at == "sqlite":
        ledger._db.execute("DROP TRIGGER full")
    ledger.close()
    with open_ledger(tmp_path) as after:
        assert set(after.rows()) == {(0, 0)}
        assert dict(after.read([(0, 0)])) == {(0, 0): table(5, seed=0)}
        after.commit([result((0, 1))])
        assert set(after.rows()) == {(0, 0), (0, 1)}


def test_a_workspace_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JobError, match="cannot be written"):
        open_ledger(tmp_path / "file" / "work")


def test_durability_settings(tmp_path, monkeypatch):
    with open_ledger(tmp_path / "local") as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    monkeypatch.setattr(module, "on_network", lambda _: True)
    with open_ledger(tmp_path / "remote") as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_network_paths_are_recognised(tmp_path):
    from pathlib import Path

    assert on_network(Path("//server/share/x"))
    assert not on_network(tmp_path)


def test_the_run_key_depends_on_everything_and_on_nothing_else():
    assert run_key(a=1, b=2) == run_key(b=2, a=1)
    assert run_key(a=1, b=2) != run_key(a=1, b=3)
    assert len(run_key()) == 64


def test_threads_and_code_are_part_of_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert thread_count() >= 1
    assert code_version().startswith("0.")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLDETR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CELLDETR_CACHE")
    assert "celldetr" in str(cache_folder())


def test_no_path_is_stored(tmp_path):
    with open_ledger(tmp_path / "secret-name") as ledger:
        ledger.commit([result((0, 0))])
    db = sqlite3.connect(tmp_path / "secret-name" / "ledger.sqlite")
    text = "\n".join(db.iterdump())
    db.close()
    assert "secret-name" not in text


def test_embeddings_are_stored_bit_by_bit(tmp_path):
    from dataclasses import replace

    cells = table(50, 1)
    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float16)
    cells = replace(cells, embeddings=vectors)
    with open_ledger(tmp_path) as ledger:
        ledger.commit([TileResult((0, 0), DONE, "", cells)])
        assert dict(ledger.read([(0, 0)]))[(0, 0)] == cells
