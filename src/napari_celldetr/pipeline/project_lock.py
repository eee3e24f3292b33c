"""Who works on a slide: the lock decides, and a file beside it says who holds it."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.journal import now
from napari_celldetr.pipeline.locks import try_lock
from napari_celldetr.pipeline.project_files import inside, read_json, write_json

LOCK, HOLDER = "lock.sqlite", "holder.json"
WAIT_S = 0.3
"""How long another one may take to let go."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slide: name, computer, process, and since when (UTC, ISO 8601)."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} since {self.since[:16].replace('T', ' ')} UTC"


class SlideLock:
    """The lock of one slide's folder. A killed process lets go of it by itself.

    What `HOLDER` says is only for people: whoever gets the lock writes it anew.
    """

    def __init__(self, root: Path, folder: Path, *, user: str) -> None:
        self._root, self._folder, self._user = root, folder, user
        self._lock: sqlite3.Connection | None = None
        self.taken = False
        self.hindrance = ""

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._lock is not None

    def take(self) -> bool:
        """Try to get it; `hindrance` says why not, `taken` whether somebody else has it."""
        if self._lock is not None:
            return True
        self.hindrance, self.taken = "", False
        try:
            path = inside(self._root, self._folder / LOCK)
            self._lock = try_lock(path, seconds=WAIT_S)
            if self._lock is not None and not _writable(path):
                # SQLite would grant this "lock" to any number of readers.
                self.release()
                self.hindrance = "The slide's folder cannot be locked: it is read-only."
        except AnnotationError as error:
            self.hindrance = str(error)
        except sqlite3.Error as error:
            self.hindrance = f"The slide's folder cannot be locked ({error})."
        if self._lock is None:
            if not self.hindrance:
                self.taken, self.hindrance = True, f"It is open elsewhere: {self.holder()}."
            return False
        try:
            mine = Holder(self._user, platform.node(), os.getpid(), now())
            write_json(self._root, self._folder / HOLDER, asdict(mine))
        except AnnotationError as error:
            self.release()
            self.hindrance = str(error)
        return self.held

    def release(self) -> None:
        """Let others in; may be called twice."""
        if self._lock is None:
            return
        # Before the lock is gone: afterwards the note would be the next one's.
        with contextlib.suppress(OSError):  # It is only a note; the lock is what counts.
            (self._folder / HOLDER).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def holder(self) -> Holder:
        """Who holds it, as they said themselves."""
        try:
            said = read_json(self._root, self._folder / HOLDER, limit=10_000)
        except AnnotationError:
            said = {}
        pid = said.get("pid")
        return Holder(
            _line(said.get("user")) or "somebody",
            _line(said.get("host")) or "another computer",
            pid if isinstance(pid, int) else 0,
            _line(said.get("since")) or "an unknown time",
        )


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _line(value: Any) -> str:
    """A short line that is safe to show."""
    text = value if isinstance(value, str) else ""
    return "".join(c for c in text[:100] if c.isprintable())
