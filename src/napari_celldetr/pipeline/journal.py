"""One slide's corrections: every edit, undo and redo as an entry that is never changed again.

What stands is derived from the entries: an edit is put on the undo stack and empties the redo
stack, an undo moves the topmost edit over, a redo moves it back. So undo reaches to the first
edit, through any number of sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from napari_celldetr.core.annotations import Annotations, Edit
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.atomic import replacing
from napari_celldetr.pipeline.journal_errors import DamagedJournalError, said_plainly
from napari_celldetr.pipeline.journal_file import FIRST_SEAL, JournalFile, Row
from napari_celldetr.pipeline.journal_payload import decode, encode

Kind = Literal["edit", "undo", "redo"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the history.

    Attributes
    ----------
    seq : int
        From 1, without gaps.
    time : str
        When the person did it: UTC, ISO 8601.
    author, what : str
    kind : ``edit``, ``undo`` or ``redo``
    target : int or None
        The edit that is undone or redone.
    model, weights : str
        Name and weights sha256 of the model whose claims were edited; empty where there were none.
    cells, areas : int
        How many the edit speaks of.
    seal : str
        sha256 (hex) of this entry and all before.
    edit : Edit or None
        What to apply now; for an undo it is turned round. None in a history list.
    """

    seq: int
    time: str
    author: str
    kind: Kind
    target: int | None
    what: str
    model: str
    weights: str
    cells: int
    areas: int
    seal: str
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """An edit on the undo or redo stack, and who made it."""

    seq: int
    what: str
    author: str


class Journal:
    """The journal of one slide. Open it with `Journal.open`; close it or use it in a ``with``.

    An entry that a method has returned is on disk and survives the process being killed. Every
    method raises `AnnotationError`; when one does, nothing has changed, and it may be called
    again. One thread may write while others read.

    Attributes
    ----------
    path, author, read_only
    damage : DamagedJournalError or None
        Why entries after the last one are not to be had; only of a journal opened read-only.
    """

    def __init__(self, file: JournalFile, *, author: str) -> None:
        self.path = file.path
        self.read_only = file.read_only
        self.author = _clean(author)
        self.damage: DamagedJournalError | None = None
        self._file = file
        self._seq, self._seal = 0, FIRST_SEAL
        self._undo: list[Step] = []
        self._redo: list[Step] = []
        self._changing = threading.RLock()

    @classmethod
    def open(cls, path: str | Path, *, author: str, read_only: bool = False) -> Journal:
        """Open a journal, or begin one, and check every entry.

        Read-only, a missing journal is an empty one, and one whose end is damaged shows what
        comes before (`damage` says why). Raises `DamagedJournalError` for a damaged one
        otherwise, and `AnnotationError` for a file that is something else, of a newer version,
        in use, or not to be reached; the file is then as it was.
        """
        journal = cls(JournalFile(Path(path), read_only=read_only), author=author)
        try:
            journal.refresh()
            if journal.damage and not read_only:
                raise journal.damage
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of entries."""
        return self._seq

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    # -- saying --------------------------------------------------------------------------

    def append(
        self, edit: Edit, *, model: str = "", weights: str = "", time: str | None = None
    ) -> Entry:
        """Write an edit down. `time` is that of the person's doing, now unless given."""
        row = Row(
            0, time or now(), self.author, "edit", None, _clean(edit.what),
            _clean(model), _clean(weights), len(edit), len(edit.areas), encode(edit),
        )  # fmt: skip
        return replace(self._write(row), edit=edit)

    def undo(self, *, time: str | None = None) -> Entry | None:
        """Take the last standing edit back. The entry's edit is its opposite; None without one."""
        return self._turn("undo", self._undo, time)

    def redo(self, *, time: str | None = None) -> Entry | None:
        """Let the edit hold again that was undone last; None without one."""
        return self._turn("redo", self._redo, time)

    @property
    def can_undo(self) -> str | None:
        """The words of the edit that `undo` would take back."""
        return self._undo[-1].what if self._undo else None

    @property
    def can_redo(self) -> str | None:
        """The words of the edit that `redo` would bring back."""
        return self._redo[-1].what if self._redo else None

    def _turn(self, kind: Kind, stack: list[Step], time: str | None) -> Entry | None:
        if not stack:
            return None
        row = self._row(stack[-1].seq)
        edit = decode(row.payload, row.what)
        turn = replace(
            row, time=time or now(), author=self.author, kind=kind, target=row.seq, payload=b""
        )
        entry = self._write(turn)
        return replace(entry, edit=edit.reversed() if kind == "undo" else edit)

    def _write(self, row: Row) -> Entry:
        with self._changing:
            row = replace(row, seq=self._seq + 1, seal=b"")
            row = replace(row, seal=row.sealed_after(self._seal))
            self._file.append([row])
            self._take(row)
        return _entry(row)

    # -- reading -------------------------------------------------------------------------

    def annotations(self) -> Annotations:
        """All that stands now, replayed from the entries, with authors."""
        if self.read_only:
            self.refresh()
        standing, last = set(self.standing()), self._seq
        said = Annotations()
        for row in self._file.rows(upto=last):
            if row.seq in standing:
                said.apply(decode(row.payload, row.what), author=row.author)
        return said

    def entries(self, *, newest_first: bool = False) -> Iterator[Entry]:
        """The history, read as it is asked for."""
        rows = (
            self._file.rows_back(self._seq + 1) if newest_first else self._file.rows(upto=self._seq)
        )
        return (_entry(row) for row in rows)

    def edit(self, seq: int) -> Edit:
        """The edit of an entry of that kind, as it was said."""
        row = self._row(seq)
        return decode(row.payload, row.what)

    def standing(self) -> tuple[int, ...]:
        """seq of every edit that stands, in order."""
        with self._changing:
            return tuple(step.seq for step in self._undo)

    def steps(self) -> tuple[list[Step], list[Step]]:
        """The undo and the redo stack, topmost last."""
        with self._changing:
            return list(self._undo), list(self._redo)

    def weights(self) -> set[str]:
        """sha256 of all weights whose claims were ever edited."""
        return self._file.weights()

    def verify(self) -> None:
        """Check the whole chain again, as it is on disk. Raises `DamagedJournalError`."""
        seq, seal = 0, FIRST_SEAL
        for row in self._file.intact(0, FIRST_SEAL):
            seq, seal = row.seq, row.seal
            if seq == self._seq and seal != self._seal:
                raise DamagedJournalError(0, "every entry was written again")
        if seq < self._seq:
            raise DamagedJournalError(seq, f"{self._seq - seq} entries are gone")

    def refresh(self) -> int:
        """Take in what another program has written since; how many entries that are."""
        before = self._seq
        with self._changing:
            try:
                for row in self._file.intact(self._seq, self._seal):
                    self._take(row)
            except DamagedJournalError as error:
                self.damage = error
        return self._seq - before

    def reopen(self) -> None:
        """Connect to the file again, e.g. after a network was gone; the same file or an error."""
        self._file.open()
        if self._seq and self._row(self._seq).seal != self._seal:
            raise DamagedJournalError(0, "the file is not the one that was open before")

    def _row(self, seq: int) -> Row:
        row = self._file.row(seq)
        if row is None or not row.is_well_formed():
            raise DamagedJournalError(seq - 1, f"entry {seq} is gone")
        return row

    def _take(self, row: Row) -> None:
        """Let a row that is on disk take its place on the stacks."""
        step = Step(row.seq, row.what, row.author)
        if row.kind == "edit":
            self._undo.append(step)
            self._redo.clear()
        else:
            source, other = self._undo, self._redo
            if row.kind == "redo":
                source, other = other, source
            fits = row.kind in ("undo", "redo") and source and source[-1].seq == row.target
            if not fits:
                raise DamagedJournalError(row.seq - 1, f"entry {row.seq} undoes what is not there")
            other.append(source.pop())
        self._seq, self._seal = row.seq, row.seal


def recover(damaged: str | Path, into: str | Path) -> int:
    """Begin a new journal with all intact entries of a damaged one; the number of them.

    `damaged` stays as it is. Raises `AnnotationError` when `into` exists or cannot be written.
    """
    target = Path(into)
    if target.exists():
        raise AnnotationError(
            f"{target.name} exists already.",
            expected="a name for a new journal",
            found="a file",
            remedy="choose another name",
        )
    with (
        closing(Journal.open(damaged, author="", read_only=True)) as old,
        said_plainly(),
        replacing(target) as temporary,
        closing(JournalFile(temporary, read_only=False)) as new,
    ):
        new.append(old._file.rows(upto=len(old)))
        new.close()
        return len(old)


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _clean(text: str) -> str:
    """Text that SQLite can store: names of users may hold bytes that are no characters."""
    return text.encode("utf-8", "replace").decode()


def _entry(row: Row) -> Entry:
    kind: Kind = "edit" if row.kind == "edit" else "undo" if row.kind == "undo" else "redo"
    return Entry(
        row.seq, row.time, row.author, kind, row.target, row.what, row.model, row.weights,
        row.cells, row.areas, row.seal.hex(),
    )  # fmt: skip
