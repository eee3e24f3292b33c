"""Locks and durable files on any disk: SQLite's own locking, which a killed process lets go of."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def try_lock(path: Path, *, seconds: float = 2.0) -> sqlite3.Connection | None:
    """Hold an exclusive lock on the file `path` (made if needed) until the result is closed.

    None when somebody else holds it for longer than `seconds`. It works on every system, and a
    killed process lets go of it. Nothing but SQLite may open that file: closing any other handle
    of it would let go of the lock as well. Raises `sqlite3.Error` where no lock can be made.
    """
    connection = sqlite3.connect(
        path, timeout=seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" not in str(error):
            raise
        return None
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def on_network(path: Path) -> bool:
    """Whether a path lies on a network file system, where WAL's shared memory cannot work."""
    text = str(path.absolute())
    if text.startswith(("\\\\", "//")):
        return True
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    network = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs")
    best, kind = "", ""
    for line in mounts:
        _, point, fs, *_ = line.split(" ")
        inside = text == point or text.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fs
    return kind.startswith(network)
