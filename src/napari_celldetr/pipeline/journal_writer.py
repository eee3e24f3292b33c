"""Saves what a person does while they go on: edits, undo and redo in order, in a thread of its own.

Nothing here waits for the disk, and nothing is forgotten: what cannot be written stays in memory,
the state says why, and it is tried again until it is on disk.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from napari_celldetr.core.annotations import Edit
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.journal import Entry, Journal, Kind, now
from napari_celldetr.pipeline.journal_payload import MAX_CELLS

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
EXIT_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class WriterState:
    """``saved``, ``saving`` or ``failed``; `pending` actions are not on disk yet.

    `words` say what a person should know, the reason and the remedy of a failure included.
    """

    kind: Literal["saved", "saving", "failed"]
    words: str
    pending: int


@dataclass(slots=True)
class _Step:
    """An edit on a stack: in memory until it is saved, then known by its seq."""

    what: str
    author: str
    edit: Edit | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class _Action:
    """One thing to write down, as it was at `time`."""

    kind: Kind
    step: _Step
    time: str
    edit: Edit | None = None
    model: str = ""
    weights: str = ""


class JournalWriter:
    """Takes what a person does to one journal. While it lives, nobody else may write to that.

    `append`, `undo` and `redo` return at once; `state` says what is on disk. Ask it as often as
    you like, e.g. from a timer. A journal opened read-only is refused (`AnnotationError`).
    """

    def __init__(self, journal: Journal) -> None:
        if journal.read_only:
            raise AnnotationError(
                "This journal is open for reading only.",
                expected="a journal opened for writing",
                found="a read-only one; somebody else may be writing to it",
                remedy="take the slide over when nobody else has it open",
            )
        self.journal = journal
        undo, redo = journal.steps()
        self._undo = [_Step(s.what, s.author, seq=s.seq) for s in undo]
        self._redo = [_Step(s.what, s.author, seq=s.seq) for s in redo]
        self._queue: deque[_Action] = deque()
        self._failure: AnnotationError | None = None
        self._hurry = self._closing = self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="celldetr-journal", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    # -- what a person does --------------------------------------------------------------

    def append(self, edit: Edit, *, model: str = "", weights: str = "") -> None:
        """Keep an edit. `AnnotationError` for one that is too large, or after `close`."""
        if len(edit) > MAX_CELLS:
            raise AnnotationError(
                "This edit is too large to be kept as one entry.",
                expected=f"at most {MAX_CELLS:,} cells",
                found=f"{len(edit):,} cells",
                remedy="make it in several steps",
            )
        step = _Step(edit.what, self.journal.author, edit)
        with self._changed:
            self._put(_Action("edit", step, now(), edit, model, weights))
            self._undo.append(step)
            self._redo.clear()

    def undo(self) -> Edit | None:
        """Take the last edit back: the edit to apply for that, or None when there is none."""
        edit = self._turn("undo", self._undo, self._redo)
        return None if edit is None else edit.reversed()

    def redo(self) -> Edit | None:
        """Bring the last undone edit back: the edit to apply, or None when there is none."""
        return self._turn("redo", self._redo, self._undo)

    @property
    def can_undo(self) -> str | None:
        """The words of the edit that `undo` would take back."""
        with self._changed:
            return self._undo[-1].what if self._undo else None

    @property
    def can_redo(self) -> str | None:
        """The words of the edit that `redo` would bring back."""
        with self._changed:
            return self._redo[-1].what if self._redo else None

    @property
    def redo_author(self) -> str:
        """Who made the edit that `redo` would bring back: it is still that person's word."""
        with self._changed:
            return self._redo[-1].author if self._redo else ""

    def _turn(self, kind: Kind, source: list[_Step], other: list[_Step]) -> Edit | None:
        """Move the topmost step over; an older one is read from the file, past the thread."""
        with self._changed:
            if not source:
                return None
            step = source[-1]
            edit = step.edit
            if edit is None:
                assert step.seq is not None  # It loses its edit only after it has got a seq.
                edit = self.journal.edit(step.seq)
            self._put(_Action(kind, step, now()))
            other.append(source.pop())
        return edit

    def _put(self, action: _Action) -> None:
        if self._closing:
            raise AnnotationError(
                "The journal has been closed.",
                expected="an open one",
                found="one that takes no more edits",
                remedy="open the slide again",
            )
        self._queue.append(action)
        self._changed.notify_all()

    # -- what became of it ---------------------------------------------------------------

    @property
    def state(self) -> WriterState:
        """What is on disk at this moment."""
        with self._changed:
            pending, failure = len(self._queue), self._failure
        if not pending:
            return WriterState("saved", "All corrections are saved.", 0)
        if failure is None:
            return WriterState("saving", "Saving corrections.", pending)
        noun = "correction is" if pending == 1 else "corrections are"
        words = f"{pending} {noun} not saved yet, but kept while the program runs. {failure}"
        return WriterState("failed", words, pending)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is on disk; False when it is not within `timeout` seconds."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._queue, timeout)

    def close(self, *, timeout: float = 30.0, give_up: bool = False) -> None:
        """Save what is left and end.

        Raises `AnnotationError` when that fails within `timeout` seconds: the writer then goes
        on trying, and takes more edits. With `give_up` it ends, and what is not saved is lost.
        """
        if not self.flush(timeout) and not give_up:
            state = self.state
            raise self._failure or AnnotationError(
                "Corrections are still being saved.",
                expected=f"everything on disk within {timeout:g} s",
                found=state.words,
                remedy="wait, or see whether the disk answers",
            )
        with self._changed:
            self._closing, self._given_up = True, give_up
            self._changed.notify_all()
        self._thread.join(EXIT_WAIT_S)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.flush(EXIT_WAIT_S)

    # -- the thread ----------------------------------------------------------------------

    def _work(self) -> None:
        wait = FIRST_WAIT_S
        while (action := self._next()) is not None:
            try:
                if self._failure is not None:
                    self.journal.reopen()
                entry = self._write(action)
            except Exception as error:  # noqa: BLE001 - the thread must not end with edits in it
                self._rest(_as_failure(error), wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
                continue
            wait = FIRST_WAIT_S
            with self._changed:
                if action.kind == "edit":
                    action.step.seq, action.step.edit = entry.seq, None
                self._queue.popleft()
                self._failure = None
                self._changed.notify_all()

    def _next(self) -> _Action | None:
        """The oldest action, which stays in the queue until it is on disk; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue[0] if self._queue and not self._given_up else None

    def _write(self, action: _Action) -> Entry:
        """Giving the same action again, with its own time, gives the very same entry."""
        if action.edit is not None:
            return self.journal.append(
                action.edit, model=action.model, weights=action.weights, time=action.time
            )
        turn = self.journal.undo if action.kind == "undo" else self.journal.redo
        entry = turn(time=action.time)
        assert entry is not None  # Both stacks took the same steps.
        return entry

    def _rest(self, failure: AnnotationError, seconds: float) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()
            self._hurry = False
            self._changed.wait_for(lambda: self._hurry or self._closing, seconds)


def _as_failure(error: Exception) -> AnnotationError:
    if isinstance(error, AnnotationError):
        return error
    return AnnotationError(
        "The corrections cannot be saved.",
        found=f"{type(error).__name__}: {str(error)[:150]}",
        remedy="free memory and disk space; it is tried again",
    )
