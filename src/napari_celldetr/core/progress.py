"""Jobs are generators of Progress: a script drains them, a dock hands them to a worker."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.regions import Tile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TileEvent:
    """What became of one tile.

    `state` is ``done``, ``reused`` (from the ledger), ``failed``, ``saturated`` or ``skipped``
    (no tissue); `detections` are the cells the tile owns before seams are merged, level-0 px
    (None when failed or skipped); `reason` says why it failed or what to know.
    """

    tile: Tile
    state: str
    detections: Detections | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a job. `done` and `total` count tiles unless `message` says otherwise.

    `message` is what goes on now; `note` is a line worth keeping, which no later step replaces.
    """

    done: int
    total: int
    message: str = ""
    cells: int = 0
    seconds: float = 0.0
    events: tuple[TileEvent, ...] = field(default=())
    note: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0..1."""
        return self.done / self.total if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to go, or None before anything is known."""
        if not self.done or self.seconds <= 0:
            return None
        return self.seconds * (self.total - self.done) / self.done


Job: TypeAlias = Generator[Progress, None, T]


def drain(job: Job[T], on_progress: Callable[[Progress], None] | None = None) -> T:
    """Run a job to its end, calling `on_progress` for each step, and return its result."""
    while True:
        try:
            step = next(job)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if on_progress is not None:
            on_progress(step)
