"""A project: one folder with what people said of slides, and nothing of the slides themselves.

``project.json`` · ``slides/<first 32 hex of the identity>/`` with ``slide.json``,
``corrections.sqlite``, ``cells/``, ``view.json``. It never lies beside a slide, and a slide is
known again wherever it is moved to.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.user_folders import user_data_folder
from napari_celldetr.pipeline.atomic import why
from napari_celldetr.pipeline.journal import now
from napari_celldetr.pipeline.project_files import (
    inside,
    names_in,
    read_json,
    refused,
    unwritable,
    write_json,
)
from napari_celldetr.pipeline.project_record import SlideFacts, SlideRecord, read_facts

SCHEMA = 1
KIND = "napari-celldetr project"
PROJECT, SLIDES = "project.json", "slides"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_HARMLESS = ("desktop.ini", "Thumbs.db")


def default_folder() -> Path:
    """``$CELLDETR_PROJECT``, or ``projects/default`` among the user's data of this program."""
    asked = os.environ.get("CELLDETR_PROJECT")
    if asked:
        return Path(asked)
    return user_data_folder() / "projects" / "default"


class Project:
    """An open project. Several programs may have it open; a slide is written by one at a time.

    Attributes
    ----------
    folder : Path
    name, created : str
        `created` is UTC, ISO 8601; empty when not known.
    author : str
        Who makes corrections here.
    problems : list of str
        What was left out because it is damaged, in words.
    """

    def __init__(self, folder: Path, *, author: str) -> None:
        self.folder = folder
        self.author = author
        self.name, self.created = folder.name, ""
        self.problems: list[str] = []

    @classmethod
    def open(cls, folder: str | Path | None = None, *, author: str | None = None) -> Project:
        """Open a project, or begin one in a folder that is new or empty.

        Parameters
        ----------
        folder
            `default_folder` unless given.
        author
            The user's name on this computer unless given.

        Raises `AnnotationError` for a folder that holds other things (a project never mixes
        with what is there), a newer project, and a place that cannot be written.
        """
        project = cls(
            Path(default_folder() if folder is None else folder).absolute(),
            author=author or user_name(),
        )
        project._begin_or_read()
        return project

    def slide(self, slide: Any, *, read_only: bool = False) -> SlideRecord:
        """The record of an open slide, or of `SlideFacts`; made when it is new.

        Look at its `read_only`: somebody else may have it open. With `read_only` nothing is made
        and nobody is kept from writing.
        """
        facts = slide if isinstance(slide, SlideFacts) else SlideFacts.of(slide)
        folder = self.folder / SLIDES / _folder_of(facts.identity)
        inside(self.folder, folder)
        return SlideRecord(self.folder, folder, facts, author=self.author, read_only=read_only)

    def slides(self) -> list[SlideFacts]:
        """Every slide of the project, the one opened last first; damaged ones go to `problems`."""
        found = []
        for name in names_in(inside(self.folder, self.folder / SLIDES)):
            if not _FOLDER.fullmatch(name):
                continue
            try:
                facts = read_facts(self.folder, self.folder / SLIDES / name)
                if _folder_of(facts.identity) != name:
                    raise refused(f"{name}/slide.json", "the identity of another slide")
                found.append(facts)
            except AnnotationError as error:
                self._tell(error)
        return sorted(found, key=lambda facts: facts.opened, reverse=True)

    def _begin_or_read(self) -> None:
        names = self._names()
        if PROJECT in names:
            self._read(names)
            return
        if names and not self._looks_like_ours(names):
            raise _not_a_project("other files")
        try:
            (self.folder / SLIDES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(SLIDES, error) from error
        self.created = now()
        said = {"kind": KIND, "schema": SCHEMA, "name": self.name, "created": self.created}
        write_json(self.folder, self.folder / PROJECT, said)

    def _read(self, names: list[str]) -> None:
        try:
            said = read_json(self.folder, self.folder / PROJECT)
            if said.get("kind") != KIND or not isinstance(said.get("schema"), int):
                raise refused(PROJECT, "a file of something else")
        except AnnotationError as error:
            if not self._looks_like_ours(names):
                raise
            self._tell(error)
            return
        if said["schema"] > SCHEMA:
            raise _newer(said["schema"])
        self.name = str(said.get("name") or self.name)[:200]
        self.created = str(said.get("created") or "")[:40]

    def _names(self) -> list[str]:
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise _not_a_project("a file")
        except OSError as error:
            raise _not_a_project(why(error)) from error
        return [n for n in names_in(self.folder) if not n.startswith(".") and n not in _HARMLESS]

    def _looks_like_ours(self, names: list[str]) -> bool:
        """Nothing but slides' folders: a project whose own file was lost."""
        if not set(names) <= {PROJECT, SLIDES} or SLIDES not in names:
            return False
        inner = names_in(self.folder / SLIDES)
        return bool(inner) and all(_FOLDER.fullmatch(n) or n.startswith(".") for n in inner)

    def _tell(self, error: AnnotationError) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))


def user_name() -> str:
    """The user's name on this computer, ``unknown`` where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # Containers may run as a number without a name.
        return "unknown"


def _folder_of(identity: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32,}", identity):
        identity = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()
    return identity[:32]


def _not_a_project(found: str) -> AnnotationError:
    return AnnotationError(
        "This folder is not a project.",
        expected="a project of napari-celldetr, or a new or empty folder",
        found=found,
        remedy="choose another folder; nothing in this one was changed",
    )


def _newer(schema: int) -> AnnotationError:
    return AnnotationError(
        "The project was made by a newer version.",
        expected=f"schema {SCHEMA} at most",
        found=f"schema {schema}",
        remedy="update napari-celldetr; nothing in the project was changed",
    )
