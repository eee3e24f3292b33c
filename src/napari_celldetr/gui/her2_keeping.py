"""What outlives the window: measured cells, and what was chosen for them, in the slide's record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.her2_choices import Choices
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import single_shot
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.pipeline.her2.kept import (
    KeptReading,
    MeasuredWith,
    read_reading,
    write_reading,
)

READING, CHOICES = "her2.npz", "her2.json"
NOTED_MS = 1_000
"""Choices are written down this long after the last of them."""
Keep = Callable[[KeptReading], None]


@dataclass(frozen=True)
class Restored:
    """What a project holds of a slide's HER2: cells, choices, when they were measured."""

    state: Her2State
    choices: Choices | None
    time: str
    problem: str = ""

    def sentence(self) -> str:
        """In words for people."""
        when = datetime.fromisoformat(self.time).astimezone()
        cells = f"{len(self.state.reading):,} cells"
        back = f"{cells}, measured on {when:%d %B %Y at %H:%M}, are back."
        return f"{back} {self.problem}".strip()


def restore_job(path: Path, said: MeasuredWith, chosen: Callable[[], Any]) -> Job[Restored | None]:
    """Read what was kept, ready to be shown; None where nothing was.

    `DataError` where it is damaged, or of other nuclei, another pixel size or version.
    """
    yield Progress(0, 0, "Reading what was measured earlier…")
    try:
        kept = read_reading(path, said)
    except FileNotFoundError:
        return None
    choices, problem = None, ""
    try:
        choices = Choices.from_dict(chosen())
    except CellDETRError as error:
        problem = str(error)
    yield Progress(0, 0, "Judging the cells…")
    state = Her2State(
        kept.reading,
        stain=kept.stain,
        refused=kept.refused,
        control=kept.control,
        notes=kept.notes,
    )
    return Restored(state, choices, kept.time, problem)


def measured_with(session: SlideSession) -> MeasuredWith | None:
    """What measurements of a slide depend on now; None where nothing can be kept of it."""
    record, mpp = session.record, session.frame.mpp
    if record is None or mpp is None:
        return None
    return MeasuredWith(record.facts.identity, (float(mpp[0]), float(mpp[1])), session.weights)


def keep_in(session: SlideSession) -> Keep | None:
    """What keeps measurements of a slide, in any thread; None where it cannot be kept."""
    said, record = measured_with(session), session.record
    if said is None or record is None or record.read_only:
        return None
    return lambda kept: write_reading(record.file(READING, write=True), kept, said)


class Her2Keeping(QObject):
    """Brings measurements back with a slide, and writes choices down once they rest.

    `restored` gets a `Restored`; `told` is why there is nothing to restore although something was
    kept.
    """

    restored = Signal(object)
    told = Signal(str)

    def __init__(self, choices: Callable[[], Choices], parent: QObject) -> None:
        super().__init__(parent)
        self._choices = choices
        self._session: SlideSession | None = None
        self._tried: SlideSession | None = None
        self._reader = JobRunner(self)
        self._reader.finished.connect(self._on_read)
        self._reader.failed.connect(lambda error: self.told.emit(_words(error)))
        self._noted = single_shot(self, NOTED_MS, self._write)

    @property
    def running(self) -> bool:
        """Whether something is being read."""
        return self._reader.running

    def follow(self, session: SlideSession | None) -> None:
        """Keep for another slide from now on; what the last one's layers became is not its."""
        self._noted.stop()
        self._reader.abandon()
        self._session = self._tried = None
        if session is not None:
            self._session = session

    def restore(self) -> None:
        """Bring back what was measured, once, as soon as the slide's record is open."""
        session = self._session
        if session is None or session is self._tried or session.state != "open":
            return
        said, record = measured_with(session), session.record
        if said is None or record is None:
            return
        self._tried = session
        try:
            path = record.file(READING)
        except CellDETRError as error:
            self.told.emit(_words(error))
            return
        if path.exists():
            self._reader.start(lambda: restore_job(path, said, lambda: record.read_json(CHOICES)))

    def abandon(self) -> None:
        """Something newer is being measured."""
        self._reader.abandon()

    def note(self) -> None:
        """Something was chosen."""
        if self._session is not None and not self.running:
            self._noted.start()

    def flush(self) -> None:
        """Write down what was chosen and is not written yet."""
        if self._noted.isActive():
            self._noted.stop()
            self._write()

    def _write(self) -> None:
        record = None if self._session is None else self._session.record
        if record is None or record.read_only:
            return
        try:
            record.write_json(CHOICES, self._choices().to_dict())
        except CellDETRError as error:
            self.told.emit(_words(error))

    def _on_read(self, found: Restored | None) -> None:
        if found is not None:
            self.restored.emit(found)


def _words(error: CellDETRError) -> str:
    found = f" Found: {error.found}." if error.found else ""
    return f"{error.message}{found}"
