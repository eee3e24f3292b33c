"""What goes wrong with a journal's file, in words for people."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.atomic import why

KEPT = "what was saved before is kept"


class DamagedJournalError(AnnotationError):
    """A journal whose entries were changed, lost or became unreadable. `intact` of them are not."""

    def __init__(self, intact: int, detail: str) -> None:
        self.intact = intact
        self.detail = detail
        super().__init__(
            "The journal of corrections is damaged.",
            expected="every entry as it was written",
            found=f"{detail}; the {intact:,} before are intact",
            remedy="open it read-only to see them, or go on from them in a new journal; "
            "the damaged file stays as it is",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.intact, self.detail)


@contextlib.contextmanager
def said_plainly(intact: int = 0) -> Iterator[None]:
    """Turn what SQLite and the system raise into `AnnotationError`.

    `intact` is the number of entries read before, for a file that turns out to be damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, intact) from error
    except OSError as error:
        raise _unsaved(why(error)) from error


def _translated(error: sqlite3.Error, intact: int) -> AnnotationError:
    name = str(getattr(error, "sqlite_errorname", ""))
    text = str(error)
    if name.startswith("SQLITE_FULL"):
        return _unsaved("the disk is full")
    if name.startswith("SQLITE_IOERR"):
        return _unsaved("the disk is full, failing or not reachable")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")) or "locked" in text:
        return _unsaved("another program is using the file")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return _unsaved("the file or its folder is read-only")
    if name.startswith("SQLITE_CANTOPEN"):
        return _unsaved("the file cannot be opened: its folder is missing or not permitted")
    if name.startswith("SQLITE_NOTADB"):
        return foreign()
    return DamagedJournalError(intact, f"SQLite says {text[:120]!r}")


def _unsaved(found: str) -> AnnotationError:
    return AnnotationError(
        "The corrections cannot be reached on disk.",
        expected="a folder that can be read and written, with free space",
        found=found,
        remedy=f"free some space, or make the folder reachable and writable again; {KEPT}",
    )


def foreign() -> AnnotationError:
    """For a file that some other program made."""
    return AnnotationError(
        "This file is not a journal of corrections.",
        expected="a file that napari-celldetr made",
        found="something else, or a file damaged beyond reading",
        remedy="choose another project folder; the file was not changed",
    )


def newer(found: int, known: int) -> AnnotationError:
    """For a file of a version to come."""
    return AnnotationError(
        "The journal was written by a newer version.",
        expected=f"schema {known} at most",
        found=f"schema {found}",
        remedy="update napari-celldetr; the file was not changed",
    )
