"""One slide in a project: corrections, results and the view of it, written by one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.journal import Journal, now, recover
from napari_celldetr.pipeline.journal_file import JournalFile
from napari_celldetr.pipeline.lessons import LessonStore
from napari_celldetr.pipeline.project_cells import KEEP, RunAbout, RunStore
from napari_celldetr.pipeline.project_files import (
    inside,
    names_in,
    read_json,
    refused,
    sweep,
    unwritable,
    write_json,
)
from napari_celldetr.pipeline.project_lock import Holder, SlideLock

SCHEMA = 1
SLIDE, VIEW = "slide.json", "view.json"
MAX_VIEW_BYTES = 64 * 1024
_MAX_SIDE = 2**40
_JOURNAL = re.compile(r"corrections(?:-([1-9]\d{0,3}))?\.sqlite")


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """All that a project keeps of a slide itself.

    Attributes
    ----------
    name : str
        File name without folders.
    identity : str
        sha256 (hex) that knows the slide again under any name.
    size : (width, height) in level-0 px
    mpp : (x, y) µm/px or None
    bounds : Region or None
        The scanned part, level-0 px.
    path : str
        Where it was last; empty when not known.
    opened : str
        When a person last worked on it: UTC, ISO 8601; filled in by the project.
    """

    name: str
    identity: str
    size: tuple[int, int]
    mpp: tuple[float, float] | None = None
    bounds: Region | None = None
    path: str = ""
    opened: str = ""

    @classmethod
    def of(cls, slide: Any) -> SlideFacts:
        """The facts of an open slide. `SlideError` when it cannot be read."""
        path = getattr(slide, "path", None)
        return cls(
            slide.name,
            slide.identity(),
            (int(slide.size[0]), int(slide.size[1])),
            slide.mpp and (float(slide.mpp[0]), float(slide.mpp[1])),
            getattr(slide, "bounds", None),
            "" if path is None else str(Path(path).absolute()),
        )


class SlideRecord:
    """The folder of one slide. The first to open it may write; others read, and see who writes.

    Attributes
    ----------
    facts : SlideFacts
    folder : Path
    read_only : bool
    hindrance : str
        Why it is read-only, for people; empty when it is not.
    lessons : LessonStore
        What was taught here.

    Close it, or use it in a ``with``. Methods that write raise `AnnotationError` when it is
    read-only or the disk refuses.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        facts: SlideFacts,
        *,
        author: str,
        read_only: bool = False,
    ) -> None:
        self.folder = inside(root, folder)
        self.facts = facts
        self._root, self._author = root, author
        self._lock = SlideLock(root, folder, user=author)
        self._runs = RunStore(root, folder / "cells", referred=self._referred)
        self.lessons = LessonStore(root, folder / "lessons", must_write=self._must_write)
        self._problems: list[str] = []
        self._check_facts()
        if read_only:
            self._lock.hindrance = "It was opened for reading only."
        else:
            self.try_take_over()

    def __enter__(self) -> SlideRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others in; may be called twice. Close its journals first."""
        self._lock.release()

    # -- who writes ----------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """Whether somebody else holds it, or it cannot be written."""
        return not self._lock.held

    @property
    def hindrance(self) -> str:
        """Why it is read-only, e.g. ``It is open elsewhere: ada on ws-7 since …``."""
        return "" if self._lock.held else self._lock.hindrance

    @property
    def holder(self) -> Holder | None:
        """Who else had it open when we last tried; None when nobody had."""
        return self._lock.holder() if self._lock.taken else None

    def try_take_over(self) -> bool:
        """Become the one who writes, if nobody does; whether we are. Open the journal anew then."""
        if self._lock.held:
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder.name, error) from error
        if not self._lock.take():
            return False
        try:
            for folder in (self.folder, self.folder / "cells", self.folder / "lessons"):
                sweep(inside(self._root, folder))
            self._write_facts()
        except AnnotationError as error:
            self._lock.release()
            self._lock.hindrance = str(error)
        return self._lock.held

    # -- corrections ---------------------------------------------------------------------

    @property
    def journal_path(self) -> Path:
        """The journal in use; earlier, damaged ones have smaller numbers."""
        return self.folder / (self._journals() or ["corrections.sqlite"])[-1]

    def journal(self) -> Journal:
        """Open the journal of corrections; read-only when the record is. See `Journal.open`."""
        return Journal.open(
            self._checked(self.journal_path), author=self._author, read_only=self.read_only
        )

    def recover_journal(self) -> int:
        """Go on in a new journal with what is intact of the present one, which is kept.

        Returns the number of entries. For a journal that `journal` refuses as damaged.
        """
        self._must_write()
        damaged = self._checked(self.journal_path)
        return recover(damaged, self.folder / f"corrections-{_number(damaged.name) + 1}.sqlite")

    def _journals(self) -> list[str]:
        return sorted(filter(_JOURNAL.fullmatch, names_in(self.folder)), key=_number)

    def _checked(self, path: Path) -> Path:
        for suffix in ("", "-wal", "-shm", "-journal"):
            inside(self._root, path.with_name(path.name + suffix))
        return path

    def _referred(self) -> set[str]:
        """sha256 of weights that any correction ever spoke of, undone and damaged ones included."""
        found: set[str] = set()
        for name in self._journals():
            file = JournalFile(self._checked(self.folder / name), read_only=True)
            try:
                found |= file.weights()
            finally:
                file.close()
        return found

    # -- results -------------------------------------------------------------------------

    def save_cells(
        self, table: Detections, about: RunAbout | None = None, *, keep: int = KEEP
    ) -> RunAbout:
        """Save a result beside the older ones; see `RunStore.save`."""
        self._must_write()
        return self._runs.save(table, about or RunAbout(), keep=keep)

    def latest_cells(self) -> tuple[Detections, RunAbout] | None:
        """The newest whole result and how it came about, or None."""
        return self._runs.latest()

    def runs(self) -> list[RunAbout]:
        """All results, the newest first."""
        return self._runs.runs()

    def load_cells(self, name: str) -> tuple[Detections, RunAbout]:
        """One result by its name."""
        return self._runs.load(name)

    # -- what else is known of the slide ---------------------------------------------------

    def file(self, name: str, *, write: bool = False) -> Path:
        """Where another part of the program keeps `name` of this slide; to `write` it, if so."""
        if write:
            self._must_write()
        return inside(self._root, self.folder / name)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON object of at most 4 MiB under a name."""
        write_json(self._root, self.file(name, write=True), dict(value))

    def read_json(self, name: str) -> dict[str, Any]:
        """What `write_json` kept; empty when there is nothing."""
        if name not in names_in(self.folder):
            return {}
        return read_json(self._root, self.folder / name)

    # -- the view ------------------------------------------------------------------------

    def save_view(self, view: Mapping[str, Any]) -> None:
        """Keep how the slide is looked at: any JSON object of at most 64 KiB."""
        self._must_write()
        said = {"schema": SCHEMA, "view": dict(view)}
        write_json(self._root, self.folder / VIEW, said, limit=MAX_VIEW_BYTES)

    def view(self) -> dict[str, Any]:
        """What `save_view` kept; empty when there is nothing, or nothing usable (`problems`)."""
        if VIEW not in names_in(self.folder):
            return {}
        try:
            said = read_json(self._root, self.folder / VIEW, limit=MAX_VIEW_BYTES)
            if said.get("schema") != SCHEMA or not isinstance(said.get("view"), dict):
                raise refused(VIEW, "another schema")
        except AnnotationError as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return {}
        view: dict[str, Any] = said["view"]
        return view

    @property
    def problems(self) -> list[str]:
        """What was left out because it is damaged, in words."""
        return [*self._problems, *self._runs.problems, *self.lessons.problems]

    # -- the slide -----------------------------------------------------------------------

    def _check_facts(self) -> None:
        """A slide of the same name in here that is another, or of a newer version, is refused."""
        if SLIDE not in names_in(self.folder):
            return
        try:
            known = read_facts(self._root, self.folder)
        except NewerRecordError:
            raise
        except AnnotationError as error:  # What it said is known from the slide itself.
            self._problems.append(str(error))
            return
        if known.identity != self.facts.identity:
            raise refused(SLIDE, "the identity of another slide")
        if not self.facts.path:
            self.facts = replace(self.facts, path=known.path)

    def _write_facts(self) -> None:
        facts = self.facts
        said = {
            "schema": SCHEMA,
            "name": facts.name,
            "identity": facts.identity,
            "size": facts.size,
            "mpp": facts.mpp,
            "bounds": facts.bounds and [getattr(facts.bounds, n) for n in _SIDES],
            "path": facts.path,
            "opened": now(),
        }
        write_json(self._root, self.folder / SLIDE, said)

    def _must_write(self) -> None:
        if self.read_only:
            raise AnnotationError(
                "This slide is open for reading only.",
                expected="to be the one who writes",
                found=self.hindrance,
                remedy="wait until it is closed there, then take over",
            )


_SIDES = ("x", "y", "width", "height")


class NewerRecordError(AnnotationError):
    """A slide's record that a newer version wrote."""


def read_facts(root: Path, folder: Path) -> SlideFacts:
    """What `SLIDE` says. `AnnotationError` when it is missing, damaged, newer or not plausible."""
    said = read_json(root, folder / SLIDE)
    schema = said.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerRecordError(
            "The slide's record was made by a newer version.",
            expected=f"schema {SCHEMA} at most",
            found=f"schema {schema}",
            remedy="update napari-celldetr; nothing was changed",
        )
    try:
        return _facts(said)
    except (KeyError, TypeError, ValueError, OverflowError, CellDETRError) as error:
        raise refused(SLIDE, f"values that cannot be ({type(error).__name__})") from error


def _facts(said: dict[str, Any]) -> SlideFacts:
    if said["schema"] != SCHEMA:
        raise ValueError("schema")
    texts = {key: said[key] for key in ("name", "identity", "path", "opened")}
    if not all(isinstance(text, str) and len(text) < 10_000 for text in texts.values()):
        raise ValueError("text")
    width, height = (int(side) for side in said["size"])
    mpp, bounds = said["mpp"], said["bounds"]
    if mpp is not None:
        mpp = (float(mpp[0]), float(mpp[1]))
        if not 0 < min(mpp) <= max(mpp) < 1e6:
            raise ValueError("mpp")
    if not 0 < min(width, height) <= max(width, height) < _MAX_SIDE:
        raise ValueError("size")
    return SlideFacts(
        **texts,
        size=(width, height),
        mpp=mpp,
        bounds=None if bounds is None else Region(*(int(side) for side in bounds)),
    )


def _number(name: str) -> int:
    found = _JOURNAL.fullmatch(name)
    return int(found[1] or 1) if found else 0
