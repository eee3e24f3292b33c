"""The ledger: which tile is done, by what, with what result, on disk before anyone sees it.

A run is a folder: ``ledger.sqlite`` with a row per tile, and ``parts/`` with one Parquet file per
batch. A tile is done when its row says so; its row is written after its part is safely on disk.
So a run that is killed at any moment goes on where it was and ends with the same table.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_celldetr import __version__
from napari_celldetr.core.detections import Detections, concatenate
from napari_celldetr.core.errors import CellDETRError, JobError
from napari_celldetr.pipeline.atomic import TEMPORARY, flush_folder, replacing, why
from napari_celldetr.pipeline.locks import on_network, try_lock

SCHEMA = 1
DONE, SATURATED, FAILED, SKIPPED = "done", "saturated", "failed", "skipped"
WITH_RESULT = (DONE, SATURATED)

Index = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TileRow:
    """What the ledger says of one tile; `part` is None when the tile has no cells."""

    index: Index
    state: str
    reason: str = ""
    cells: int = 0
    part: str | None = None


@dataclass(frozen=True, slots=True)
class TileResult:
    """One tile's outcome on its way into the ledger. `detections` in level-0 px, or None."""

    index: Index
    state: str
    reason: str = ""
    detections: Detections | None = None


def run_key(**parts: Any) -> str:
    """sha256 (64 hex digits) of everything that can change a tile's result, plus the code's."""
    text = json.dumps({**parts, "code": code_version(), "schema": SCHEMA}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_CELL_CODE = ("detect.py", "engine.py", "tiles.py", "measure.py")


@cache
def code_version() -> str:
    """Package version and a hash of the code that turns pixels into cells.

    The hash makes a changed network or tile rule start anew instead of reusing what an older
    state of the same version found.
    """
    sha = hashlib.sha256()
    package = Path(__file__).parents[1]
    for file in [
        *sorted((package / "nets").glob("*.py")),
        *sorted((package / "slides").glob("*.py")),
        *(package / "pipeline" / name for name in _CELL_CODE),
    ]:
        if file.is_file():
            sha.update(file.read_bytes())
    return f"{__version__}+{sha.hexdigest()[:12]}"


def thread_count() -> int:
    """Threads a CPU run may use: results differ in the last bits with it."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Where runs without a workspace are kept: ``$CELLDETR_CACHE`` or the user's cache folder."""
    asked = os.environ.get("CELLDETR_CACHE")
    if asked:
        return Path(asked)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "napari-celldetr" / "runs"


class Ledger:
    """One run's folder, locked against other writers while open.

    Parameters
    ----------
    folder : Path
        The run's own folder; made if needed.
    key : str
        The run key; a folder that holds another run is refused.
    fresh : bool
        Discard what is there.

    Every method raises `JobError` for a locked, damaged or unwritable ledger and a full disk.
    """

    def __init__(self, folder: Path, *, key: str, fresh: bool = False) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self.repaired = 0
        with _as_job_error():
            self.parts.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(folder / "lock.sqlite")
            try:
                if fresh:
                    _discard(folder)
                self._db = _connect(folder / "ledger.sqlite", key)
                self._sweep()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and let others in; may be called twice."""
        for connection in (getattr(self, "_db", None), self._lock):
            if connection is not None:
                connection.close()

    def rows(self) -> dict[Index, TileRow]:
        """What is known of every tile ever looked at."""
        with _as_job_error():
            found = self._db.execute("SELECT row, col, state, reason, cells, part FROM tiles")
            return {(r, c): TileRow((r, c), *rest) for r, c, *rest in found}

    def commit(self, results: Sequence[TileResult]) -> None:
        """Record a batch: all of it or nothing. Returns when it is safely on disk."""
        with _as_job_error():
            part, size = self._write_part(results)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                if part is not None:
                    self._db.execute("INSERT INTO parts VALUES (?, ?)", (part, size))
                self._db.executemany(
                    "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?)",
                    [_as_row(result, part) for result in results],
                )

    def read(self, indices: Iterable[Index]) -> Iterator[tuple[Index, Detections]]:
        """The detections of these tiles, part by part; tiles without cells are left out."""
        wanted = set(indices)
        by_part: dict[str, list[Index]] = {}
        for row in self.rows().values():
            if row.index in wanted and row.part is not None:
                by_part.setdefault(row.part, []).append(row.index)
        for part, members in sorted(by_part.items()):
            yield from self._read_part(part, set(members))

    def _write_part(self, results: Sequence[TileResult]) -> tuple[str | None, int]:
        full = [r for r in results if r.detections is not None and len(r.detections)]
        if not full:
            return None, 0
        from napari_celldetr.pipeline.parquet import write_parquet

        row, column = results[0].index
        name = f"{row}_{column}-{secrets.token_hex(4)}.parquet"
        path = self.parts / name
        with replacing(path) as temporary:
            write_parquet(_with_tiles(full), temporary)
            size = temporary.stat().st_size
        return name, size

    def _read_part(self, part: str, members: set[Index]) -> Iterator[tuple[Index, Detections]]:
        import pyarrow as pa

        from napari_celldetr.pipeline.parquet import read_parquet

        try:
            table = read_parquet(self.parts / part)
            rows, cols = table.columns["tile_row"], table.columns["tile_col"]
        except (pa.ArrowException, KeyError, ValueError, OSError, CellDETRError) as error:
            raise _damaged(f"part {part}: {type(error).__name__}") from error
        plain = {k: v for k, v in table.columns.items() if k not in ("tile_row", "tile_col")}
        bare = replace(table, columns=plain)
        for index in sorted(members):
            mine = np.flatnonzero((rows == index[0]) & (cols == index[1]))
            if len(mine):
                yield index, bare.select(mine)

    def _sweep(self) -> None:
        """Remove what a killed run left half done; forget tiles whose part is gone or short."""
        known = dict(self._db.execute("SELECT name, bytes FROM parts"))
        found = {file.name: file for file in self.parts.iterdir()}
        for name, file in found.items():
            if name.endswith(TEMPORARY) or name not in known:
                file.unlink(missing_ok=True)
        lost = [
            name
            for name, size in known.items()
            if name not in found or found[name].stat().st_size != size
        ]
        with self._db:
            for name in lost:
                # Work lost to a damaged disk is done again, never read as "no cells".
                gone = self._db.execute("DELETE FROM tiles WHERE part = ?", (name,))
                self.repaired += gone.rowcount
                self._db.execute("DELETE FROM parts WHERE name = ?", (name,))


def _as_row(result: TileResult, part: str | None) -> tuple[int, int, str, str, int, str | None]:
    cells = 0 if result.detections is None else len(result.detections)
    return (*result.index, result.state, result.reason, cells, part if cells else None)


def _with_tiles(results: Sequence[TileResult]) -> Detections:
    tables = [r.detections for r in results if r.detections is not None]
    counts = [len(t) for t in tables]
    index = np.array([r.index for r in results], np.int32)
    joined = concatenate(tables)
    return joined.with_columns(
        tile_row=np.repeat(index[:, 0], counts), tile_col=np.repeat(index[:, 1], counts)
    )


def _take_lock(path: Path) -> sqlite3.Connection:
    connection = try_lock(path)
    if connection is None:
        raise JobError(
            "Another run is working on the same slide with the same settings.",
            expected="one run at a time in this workspace",
            found="its ledger is locked",
            remedy="wait for the other run or stop it, or give another workspace",
        )
    return connection


def _connect(path: Path, key: str) -> sqlite3.Connection:
    # The generator that owns the ledger may be advanced and closed by different threads,
    # never by two at once.
    db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA journal_mode={'DELETE' if on_network(path) else 'WAL'}")
        db.execute("PRAGMA synchronous=FULL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
            db.execute("CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, bytes INTEGER)")
            db.execute(
                "CREATE TABLE IF NOT EXISTS tiles (row INTEGER, col INTEGER, state TEXT, "
                "reason TEXT, cells INTEGER, part TEXT, PRIMARY KEY (row, col))"
            )
            db.execute("INSERT OR IGNORE INTO meta VALUES ('key', ?)", (key,))
        (stored,) = db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()
    except BaseException:
        db.close()
        raise
    if stored != key:
        db.close()
        raise JobError(
            "The workspace belongs to another run.",
            expected=f"run {key[:16]}",
            found=f"run {stored[:16]}",
            remedy="give another workspace, or run fresh",
        )
    return db


def _discard(folder: Path) -> None:
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / "parts").mkdir(exist_ok=True)
    flush_folder(folder)


@contextlib.contextmanager
def _as_job_error() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text:
            raise _unwritable("the disk is full") from error
        if "I/O" in text:
            # What SQLite says where a write fails half way; discarding results would not help.
            raise _unwritable(f"{text}: the disk is full or failing") from error
        if "locked" in text or "readonly" in text or "unable to open" in text:
            raise _unwritable(text) from error
        raise _damaged(text) from error
    except OSError as error:
        raise _unwritable(why(error), error.errno) from error


def _unwritable(found: str, code: int | None = None) -> JobError:
    full = code in (errno.ENOSPC, errno.EDQUOT) or "full" in found
    return JobError(
        "The run's ledger cannot be written; everything recorded before is kept.",
        expected="a writable workspace with free space",
        found=found,
        remedy="free some space and start again: it goes on where it was"
        if full
        else "give a writable workspace and start again",
    )


def _damaged(found: str) -> JobError:
    return JobError(
        "The run's ledger is damaged.",
        expected="a readable ledger.sqlite and its parts",
        found=found,
        remedy="start again with --fresh, which discards what this run had stored",
    )
