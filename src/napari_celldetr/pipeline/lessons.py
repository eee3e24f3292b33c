"""Lessons of a slide: every version is kept, one holds, and going back is naming another.

In the folder ``lessons`` of the slide's record lie, for each lesson, its arrays (``.npz``) and a
JSON file that names their sha256; ``current.json`` says which holds, ``asked.json`` which cells
were drawn at random to be asked about. A lesson's id is the hash of its content: what is not what
its id says is told and never used. Nothing is ever written over but the two small files.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Key
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.pipeline.atomic import replacing, why
from napari_celldetr.pipeline.lesson import Lesson, Verdict
from napari_celldetr.pipeline.project_files import (
    inside,
    names_in,
    read_json,
    refused,
    unwritable,
    write_json,
)

SCHEMA = 1
CURRENT, ASKED = "current.json", "asked.json"
MAX_BYTES = 512 * 2**20
_NAME = re.compile(r"[0-9a-f]{64}\.json")
_ID = re.compile(r"[0-9a-f]{64}")
_ODD = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What values that nobody expects make Python raise."""


class LessonStore:
    """The folder ``lessons`` of one slide.

    `problems` collects what was left out because it is damaged, in words. Methods that write
    raise `AnnotationError` when the record is read-only or the disk refuses; then nothing changed.
    """

    def __init__(self, root: Path, folder: Path, *, must_write: Callable[[], None]) -> None:
        self._root, self._folder, self._must_write = root, folder, must_write
        self.problems: list[str] = []

    # -- versions ------------------------------------------------------------------------

    def save(self, lesson: Lesson, *, hold: bool = True) -> Lesson:
        """Keep a lesson, and let it hold; it is read back before it counts."""
        self._must_write()
        lesson = lesson.sealed()
        if f"{lesson.id}.json" not in names_in(self._folder):
            self._write(lesson)
        if hold:
            self.hold(lesson.id)
        return lesson

    def lessons(self) -> list[Lesson]:
        """All that are whole, the newest first."""
        found = []
        for name in names_in(self._folder):
            if _NAME.fullmatch(name):
                try:
                    found.append(self.load(name.removesuffix(".json")))
                except AnnotationError as error:
                    self._tell(error)
        return sorted(found, key=lambda lesson: (lesson.time, lesson.id), reverse=True)

    def load(self, id: str) -> Lesson:
        """One lesson. `AnnotationError` when it is missing or not what its id says."""
        if not _ID.fullmatch(id):
            raise refused(id[:70], "a name that no lesson has")
        said = read_json(self._root, self._folder / f"{id}.json")
        if said.get("schema") != SCHEMA:
            raise refused(f"{id[:12]}….json", "another schema")
        arrays = self._read_arrays(id, said)
        try:
            return Lesson.of(said["lesson"], arrays, id)
        except AnnotationError:
            raise
        except (*_ODD, CellDETRError) as error:
            found = f"values that cannot be ({type(error).__name__})"
            raise refused(f"{id[:12]}….json", found) from error

    # -- which one holds -----------------------------------------------------------------

    def hold(self, id: str) -> Lesson | None:
        """Let one hold, or none with an empty id: so one goes back. Returns it."""
        self._must_write()
        lesson = self.load(id) if id else None
        self._make_folder()
        write_json(self._root, self._folder / CURRENT, {"schema": SCHEMA, "lesson": id})
        return lesson

    def current(self) -> Lesson | None:
        """The one that holds. A damaged one is told; then the last good one before it holds."""
        id = str(self._small(CURRENT).get("lesson") or "")
        seen = set()
        while id and id not in seen:
            seen.add(id)
            try:
                return self.load(id)
            except AnnotationError as error:
                self._tell(error)
                id = self._parent_of(id)
        return None

    def history(self, lesson: Lesson) -> list[Lesson]:
        """A lesson, its parent, and so on back to the first that is there."""
        line, seen = [lesson], {lesson.id}
        while line[-1].parent and line[-1].parent not in seen:
            try:
                line.append(self.load(line[-1].parent))
            except AnnotationError as error:
                self._tell(error)
                break
            seen.add(line[-1].id)
        return line

    # -- cells drawn at random -----------------------------------------------------------

    def asked(self) -> set[Key]:
        """Keys of cells that were drawn at random to be asked about."""
        try:
            return {(int(a, 16), int(b, 16)) for a, b in self._small(ASKED).get("keys", [])}
        except (TypeError, ValueError):
            self._tell(refused(ASKED, "values that cannot be"))
            return set()

    def add_asked(self, keys: Iterable[Key]) -> None:
        """Remember cells that were drawn at random, before a person answers."""
        self._must_write()
        every = sorted(self.asked() | set(keys))
        self._make_folder()
        said = {"schema": SCHEMA, "keys": [[f"{a:016x}", f"{b:016x}"] for a, b in every]}
        write_json(self._root, self._folder / ASKED, said)

    # -- files ---------------------------------------------------------------------------

    def _write(self, lesson: Lesson) -> None:
        self._make_folder()
        path = inside(self._root, self._folder / f"{lesson.id}.npz")
        try:
            with replacing(path) as temporary:
                with temporary.open("wb") as file:
                    np.savez(file, **lesson.arrays())  # type: ignore[arg-type]
                raw = temporary.read_bytes()
        except OSError as error:
            raise unwritable(path.name, error) from error
        said = {
            "schema": SCHEMA,
            "lesson": lesson.plain(),
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
        try:
            write_json(self._root, path.with_suffix(".json"), said)
            self.load(lesson.id)
        except AnnotationError:
            for suffix in (".json", ".npz"):
                path.with_suffix(suffix).unlink(missing_ok=True)
            raise

    def _read_arrays(self, id: str, said: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        path = inside(self._root, self._folder / f"{id}.npz")
        name = f"{id[:12]}….npz"
        try:
            size = path.stat().st_size
            if size != said.get("bytes") or size > MAX_BYTES:
                raise refused(name, f"{size:,} bytes")
            raw = path.read_bytes()
            if hashlib.sha256(raw).hexdigest() != said.get("sha256"):
                raise refused(name, "other bytes than were written")
            with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except OSError as error:
            raise refused(name, why(error)) from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise refused(name, f"no arrays ({type(error).__name__})") from error

    def _small(self, name: str) -> dict[str, Any]:
        if name not in names_in(self._folder):
            return {}
        try:
            said = read_json(self._root, self._folder / name)
            if said.get("schema") != SCHEMA:
                raise refused(name, "another schema")
        except AnnotationError as error:
            self._tell(error)
            return {}
        return said

    def _parent_of(self, id: str) -> str:
        """Parent of a lesson that cannot be used, if at least that can be read."""
        try:
            said = read_json(self._root, self._folder / f"{id}.json")
            return str(said["lesson"]["parent"])
        except (AnnotationError, KeyError, TypeError) as error:
            self._tell(refused(f"{id[:12]}….json", f"no parent ({type(error).__name__})"))
            return ""

    def _make_folder(self) -> None:
        try:
            inside(self._root, self._folder).mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder.name, error) from error

    def _tell(self, error: AnnotationError) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))


@dataclass(frozen=True)
class Compared:
    """Two versions beside each other.

    Attributes
    ----------
    first, second : Verdict or None
        Each on its own guard set.
    relabelled : int
        Cells whose label differs between the two.
    new, gone : int
        Labels that only the second has, and only the first.
    classes_new, classes_gone : tuple of str
    """

    first: Verdict | None
    second: Verdict | None
    relabelled: int
    new: int
    gone: int
    classes_new: tuple[str, ...]
    classes_gone: tuple[str, ...]


def compare(first: Lesson, second: Lesson) -> Compared:
    """What two lessons were taught and were worth.

    Which cells they class differently says `napari_celldetr.pipeline.teach.what_differs`.
    """
    one, other = (_named_labels(lesson) for lesson in (first, second))
    both = one.keys() & other.keys()
    return Compared(
        first.verdict,
        second.verdict,
        sum(one[key] != other[key] for key in both),
        len(other) - len(both),
        len(one) - len(both),
        tuple(n for n in second.class_names if n not in first.class_names),
        tuple(n for n in first.class_names if n not in second.class_names),
    )


def _named_labels(lesson: Lesson) -> dict[Key, str]:
    names = [lesson.class_names[i] for i in lesson.labels.tolist()]
    return {(a, b): name for (a, b), name in zip(lesson.keys.tolist(), names, strict=True)}
