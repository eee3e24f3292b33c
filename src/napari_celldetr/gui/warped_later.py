"""Makes the chunks of warped pictures beside the window's thread; the newest view comes first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.warped import Key, WarpedPyramid
from napari_celldetr.gui.warped_level import THREADS

Wish = tuple[WarpedPyramid, Key]


class Wishes:
    """Which chunks are wanted, each asker's newest list alone. For several threads."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Wish]] = {}
        self._refused: set[Wish] = set()
        self._lock = Lock()

    def set(self, asker: str, wishes: list[Wish]) -> None:
        """Want these, and no more what the asker wanted before."""
        with self._lock:
            self._lists[asker] = [wish for wish in wishes if wish not in self._refused]

    def take(self, count: int) -> list[Wish]:
        """The next ones, which nobody wants any more then; empty when there are none."""
        with self._lock:
            wanted = [wish for wishes in self._lists.values() for wish in wishes]
            taken = list(dict.fromkeys(wanted))[:count]
            for asker, wishes in self._lists.items():
                self._lists[asker] = [wish for wish in wishes if wish not in taken]
            return taken

    def refuse(self, wish: Wish) -> None:
        """It cannot be made: never want it again."""
        with self._lock:
            self._refused.add(wish)

    def clear(self) -> None:
        """Want nothing."""
        with self._lock:
            self._lists.clear()
            self._refused.clear()

    def __bool__(self) -> bool:
        with self._lock:
            return any(self._lists.values())


class ChunkMaker(QObject):
    """A `Later` whose chunks come with `made`; `failed` gets the error of one that cannot be."""

    made = Signal()
    failed = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._wishes = Wishes()
        self._runner = JobRunner(self)
        self._runner.progressed.connect(lambda _: self.made.emit())
        self._runner.finished.connect(lambda _: self._go_on())
        self._runner.failed.connect(self._on_failed)

    @property
    def running(self) -> bool:
        """Whether chunks are being made."""
        return self._runner.running

    def want(self, pyramid: WarpedPyramid, keys: list[Key], *, asker: str) -> None:
        """Make these chunks next; what the same asker wanted before is wanted no longer."""
        self._wishes.set(asker, [(pyramid, key) for key in keys])
        self._go_on()

    def stop(self) -> None:
        """Make no more."""
        self._wishes.clear()
        self._runner.abandon()

    def _go_on(self) -> None:
        wishes = self._wishes
        if wishes and not self._runner.running:
            self._runner.start(lambda: making_job(wishes))

    def _on_failed(self, error: CellDETRError) -> None:
        self.failed.emit(error)
        self._go_on()


def making_job(wishes: Wishes) -> Job[None]:
    """Make what is wanted until nothing is. `JobError` for a chunk that cannot be made."""
    with ThreadPoolExecutor(THREADS, "celldetr-warped") as pool:
        for batch in _batches(wishes):
            errors = list(pool.map(_make, batch))
            for wish, error in zip(batch, errors, strict=True):
                if error is not None:
                    wishes.refuse(wish)
            yield Progress(0, 0, "showing the H&E")
            if (first := next((e for e in errors if e is not None), None)) is not None:
                raise _not_shown(first) from first


def _batches(wishes: Wishes) -> Iterator[list[Wish]]:
    while batch := wishes.take(THREADS):
        yield batch


def _make(wish: Wish) -> Exception | None:
    pyramid, key = wish
    try:
        pyramid.chunk(*key)
    except Exception as error:  # noqa: BLE001 - readers raise anything; it is told, not hidden
        return error
    return None


def _not_shown(error: Exception) -> JobError:
    return JobError(
        "A part of the H&E slide cannot be shown; it stays blurred.",
        found=f"{type(error).__name__}: {error}"[:300],
        remedy="check that the slide's file is still there and whole, then open it again",
    )
