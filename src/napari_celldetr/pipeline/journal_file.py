"""The file a journal is kept in: an SQLite table that only grows, each row sealing those before.

A row's seal is the sha256 of the previous row's seal and of everything the row says. So a row
that was changed, left out or put in is found when the file is read, and what stands before it
can still be trusted. Triggers refuse changes already while SQLite writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.atomic import flush_folder
from napari_celldetr.pipeline.journal_errors import (
    DamagedJournalError,
    foreign,
    newer,
    said_plainly,
)
from napari_celldetr.pipeline.journal_payload import MAX_BYTES
from napari_celldetr.pipeline.locks import on_network

SCHEMA = 1
APPLICATION = 0x43444A31
"""SQLite's application id: ``CDJ1``."""
BUSY_SECONDS = 5.0
FIRST_SEAL = hashlib.sha256(b"napari-celldetr journal 1").digest()
_CHUNK = 64
"""Rows read at once: a reader that rests holds nothing that a writer could wait for."""

_TABLE = (
    "CREATE TABLE entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, "
    "author TEXT NOT NULL, kind TEXT NOT NULL, target INTEGER, what TEXT NOT NULL, "
    "model TEXT NOT NULL, weights TEXT NOT NULL, cells INTEGER NOT NULL, "
    "areas INTEGER NOT NULL, payload BLOB NOT NULL, seal BLOB NOT NULL)"
)
_TRIGGERS = {
    f"no_{verb.lower()}": f"CREATE TRIGGER no_{verb.lower()} BEFORE {verb} ON entries "
    "BEGIN SELECT RAISE(ABORT, 'a journal only grows'); END"
    for verb in ("UPDATE", "DELETE")
} | {
    # REPLACE deletes without asking the trigger above.
    "in_order": "CREATE TRIGGER in_order BEFORE INSERT ON entries "
    "WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entries) "
    "BEGIN SELECT RAISE(ABORT, 'a journal only grows'); END"
}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as it is stored. `seal` is empty before it is sealed."""

    seq: int
    time: str
    author: str
    kind: str
    target: int | None
    what: str
    model: str
    weights: str
    cells: int
    areas: int
    payload: bytes
    seal: bytes = b""

    def sealed_after(self, previous: bytes) -> bytes:
        """What the seal has to be, 32 bytes."""
        said = [self.seq, self.time, self.author, self.kind, self.target, self.what]
        said += [self.model, self.weights, self.cells, self.areas, len(self.payload)]
        return hashlib.sha256(previous + json.dumps(said).encode() + self.payload).digest()

    def is_well_formed(self) -> bool:
        """Whether every value has its type: SQLite itself stores anything anywhere."""
        texts = (self.time, self.author, self.kind, self.what, self.model, self.weights)
        return (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in (self.seq, self.cells, self.areas))
            and (self.target is None or isinstance(self.target, int))
            and isinstance(self.payload, bytes)
            and isinstance(self.seal, bytes)
        )


_NAMES = tuple(field.name for field in fields(Row))
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INSERT INTO entries ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"


class JournalFile:
    """One journal's file, opened for reading or for appending; made when it is not there.

    A file opened for reading may be missing: it reads as empty until it is there. Reading and
    appending may happen in different threads. Every method raises `AnnotationError`; the file
    is never changed otherwise than by appending.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._shut = False
        self.open(create=not read_only)

    def open(self, *, create: bool = False) -> None:
        """Connect, again if need be; without `create` the file has to be there already."""
        self._disconnect()
        with said_plainly():
            if self.read_only:
                self._open_reader()
                return
            self._writer = _connect(self.path, "rwc" if create else "rw")
            try:
                _prepare(self._writer, self.path)
                self._file = _number(self.path)
                self._open_reader()
            except BaseException:
                self._disconnect()
                raise

    def close(self) -> None:
        """Close for good; may be called twice."""
        self._shut = True
        self._disconnect()

    def _disconnect(self) -> None:
        """The writer goes last and leaves one tidy file."""
        with self._reading, said_plainly():
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        with self._writing, said_plainly():
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    # -- reading -------------------------------------------------------------------------

    def rows(self, after: int = 0, *, upto: int | None = None) -> Iterator[Row]:
        """Rows with `after` < seq ≤ `upto` in order, a few at a time, unchecked."""
        last = 2**63 - 1 if upto is None else upto
        count = _CHUNK
        while after < last:  # Not one look further: what follows may be damaged.
            try:
                chunk = self._some("seq > ? AND seq <= ? ORDER BY seq", after, last, count=count)
            except DamagedJournalError:
                if count == 1:
                    raise
                count = 1  # One by one up to the very row that is damaged.
                continue
            if not chunk:
                return
            for row in chunk:
                if after == last:
                    return
                if not after < row.seq <= last:
                    raise DamagedJournalError(after, "entries are not in order")
                after = row.seq
                yield row

    def rows_back(self, before: int) -> Iterator[Row]:
        """Rows with seq < `before`, the newest first and without payloads."""
        columns = _COLUMNS.replace("payload", "x''")
        while chunk := self._some("seq < ? ORDER BY seq DESC", before, columns=columns):
            for row in chunk:
                if not 0 < row.seq < before:
                    raise DamagedJournalError(0, "entries are not in order")
                before = row.seq
                yield row

    def row(self, seq: int) -> Row | None:
        """One row, unchecked."""
        return next(iter(self._some("seq = ?", seq)), None)

    def intact(self, after: int, seal: bytes) -> Iterator[Row]:
        """Rows after one whose seal is known, each checked.

        Raises `DamagedJournalError` at the first bad one, and when rows that were written are
        missing at the end.
        """
        promised = self._promised()
        broken = self._missing_trigger()
        last = after
        for row in self.rows(after):
            if not row.is_well_formed():
                raise DamagedJournalError(last, f"entry {last + 1} holds values of a wrong kind")
            if row.seq != last + 1:
                raise DamagedJournalError(last, f"entries {last + 1} to {row.seq - 1} are missing")
            if row.sealed_after(seal) != row.seal:
                raise DamagedJournalError(last, f"entry {row.seq} was changed, or one before it")
            last, seal = row.seq, row.seal
            yield row
        if last < promised:
            raise DamagedJournalError(
                last, f"entries {last + 1} to {promised} are missing at the end"
            )
        if broken:
            raise DamagedJournalError(
                last, f"the rule {broken!r} that protects entries was removed"
            )

    def weights(self) -> set[str]:
        """sha256 of all weights whose claims entries speak of, undone ones included."""
        with self._reading, said_plainly():
            if not self._connected():
                return set()
            found = self._read("SELECT DISTINCT weights FROM entries WHERE weights <> ''")
            return {str(value) for (value,) in found}

    def _some(
        self, where: str, *seqs: int, columns: str = _COLUMNS, count: int = _CHUNK
    ) -> list[Row]:
        query = f"SELECT {columns} FROM entries WHERE {where} LIMIT {count}"
        with self._reading, said_plainly(seqs[0]):
            return [Row(*row) for row in self._read(query, *seqs)] if self._connected() else []

    def _promised(self) -> int:
        """The largest seq there ever was; SQLite keeps it for AUTOINCREMENT."""
        with self._reading, said_plainly():
            if not self._connected():
                return 0
            found = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
            return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    def _missing_trigger(self) -> str:
        with self._reading, said_plainly():
            if not self._connected():
                return ""
            there = {name for (name,) in self._read("SELECT name FROM sqlite_master")}
            return next((name for name in _TRIGGERS if name not in there), "")

    def _read(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        assert self._reader is not None
        return self._reader.execute(query, values).fetchall()

    def _connected(self) -> bool:
        if self._reader is None:
            if self._shut or not self.read_only:
                raise _closed()
            self._open_reader()
        return self._reader is not None

    def _open_reader(self) -> None:
        if self.read_only and not (self.path.exists() and self.path.stat().st_size):
            return
        try:
            self._reader = _reading(self.path, "ro")
        except sqlite3.OperationalError as error:
            if not _may_be_unwritable_folder(error, self.path):
                raise
            self._reader = _reading(self.path, "ro&immutable=1")

    # -- appending -----------------------------------------------------------------------

    def append(self, rows: Iterable[Row]) -> None:
        """Put the next rows on disk, all or none. Giving them again after a failure is safe.

        `AnnotationError` when they are not safely there: then they may be given again.
        """
        with self._writing, said_plainly():
            if self._writer is None:
                raise _read_only() if self.read_only else _closed()
            if _number(self.path) != self._file:
                raise _moved()
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for row in rows:
                    self._insert(row)
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    with contextlib.suppress(sqlite3.Error):  # The first error is the one to tell.
                        self._writer.execute("ROLLBACK")

    def _insert(self, row: Row) -> None:
        assert self._writer is not None
        last = self._writer.execute("SELECT seq, seal FROM entries ORDER BY seq DESC LIMIT 1")
        seq, seal = last.fetchone() or (0, FIRST_SEAL)
        if (seq, seal) == (row.seq, row.seal):
            return  # A failed attempt had reached the disk after all.
        if seq != row.seq - 1:
            raise _two_writers()
        self._writer.execute(_INSERT, [getattr(row, name) for name in _NAMES])


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    text = path.absolute().as_posix()
    uri = "file://" + ("" if text.startswith("/") else "/") + quote(text) + f"?mode={mode}"
    db = sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES + 2**24)
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=FULL"):
            db.execute(f"PRAGMA {setting}")
    except BaseException:
        db.close()
        raise
    return db


def _reading(path: Path, mode: str) -> sqlite3.Connection | None:
    """A connection to a journal, None for an empty file, an error for anything else."""
    reader = _connect(path, mode)
    try:
        if _is_ours(reader):
            return reader
    except BaseException:
        reader.close()
        raise
    reader.close()
    return None


def _is_ours(db: sqlite3.Connection) -> bool:
    """True for a journal, False for an empty file, an error for anything else."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    objects = dict(db.execute("SELECT name, sql FROM sqlite_master LIMIT 20"))
    if not application and not version and not objects:
        return False
    if application != APPLICATION:
        raise foreign()
    if version > SCHEMA:
        raise newer(version, SCHEMA)
    ours = {"entries": _TABLE, **_TRIGGERS}
    objects.pop("sqlite_sequence", None)
    # Anything else in it could be made to run when we read.
    if version != SCHEMA or objects.get("entries") != _TABLE or not objects.items() <= ours.items():
        raise foreign()
    return True


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Look before anything is written: a file that is not ours stays as it is."""
    ours = _is_ours(db)
    wanted = "delete" if on_network(path) else "wal"
    (mode,) = db.execute(f"PRAGMA journal_mode={wanted}").fetchone()
    if mode == "wal" != wanted:
        raise sqlite3.OperationalError("database is locked")
    if ours:
        return
    db.execute("BEGIN IMMEDIATE")
    if not _is_ours(db):
        for statement in (_TABLE, *_TRIGGERS.values()):
            db.execute(statement)
        db.execute(f"PRAGMA application_id={APPLICATION}")
        db.execute(f"PRAGMA user_version={SCHEMA}")
    db.execute("COMMIT")
    flush_folder(path.parent)


def _may_be_unwritable_folder(error: sqlite3.Error, path: Path) -> bool:
    """Reading WAL makes a file beside; where that cannot be, a file without a WAL is complete."""
    name = str(getattr(error, "sqlite_errorname", ""))
    beside = path.with_name(path.name + "-wal")
    refused = name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
    return refused and not (beside.exists() and beside.stat().st_size)


def _number(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _read_only() -> AnnotationError:
    return AnnotationError(
        "This journal is open for reading only.",
        expected="a journal opened for writing",
        found="a read-only one; somebody else may be writing to it",
        remedy="open the slide again when nobody else has it open",
    )


def _closed() -> AnnotationError:
    return AnnotationError(
        "The journal is not connected to its file.",
        expected="an open journal",
        found="a closed one, or one whose file could not be reached again",
        remedy="make the project folder reachable, or open the slide again",
    )


def _moved() -> AnnotationError:
    return AnnotationError(
        "The journal was moved or replaced while it was open.",
        expected="the file that was opened",
        found="another one under its name",
        remedy="put the project folder back where it was",
    )


def _two_writers() -> AnnotationError:
    return AnnotationError(
        "Another program has written to this journal.",
        expected="one writer at a time",
        found="entries that are not ours",
        remedy="close the other program and open the slide again",
    )
