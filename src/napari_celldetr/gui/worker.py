"""One guarded thread for one job: it never touches Qt, and it always says how it ended."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from napari_celldetr.core.errors import CellDETRError, JobError
from napari_celldetr.core.progress import Job, Progress

EXIT_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """The job yielded."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Done:
    """The job ran to its end."""

    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with an error the user can read."""

    error: CellDETRError


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job was asked to stop, and did."""


Message: TypeAlias = Step | Done | Failed | Stopped


class JobThread:
    """Runs ``make_job()`` in a thread; everything it has to say waits in a queue.

    napari's own workers swallow `RuntimeError` (torch's out-of-memory included), leave the
    generator open after an abort and change the process-wide warning filters while they run.
    Here the thread shares nothing with Qt: the owner asks with `take`, so that a closed window
    leaves nothing that a late signal could reach. A dropped `JobThread` stops its job. `discard`
    gets the result of a job that was stopped too late, for what must be closed.
    """

    def __init__(
        self, make_job: Callable[[], Job[Any]], *, discard: Callable[[Any], None] | None = None
    ) -> None:
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_work,
            args=(make_job, self._messages.put, self._stop, discard),
            name="celldetr-job",
            daemon=True,
        )
        # The thread's function holds no reference to self, so this fires when the owner is gone.
        weakref.finalize(self, self._stop.set).atexit = False

    def start(self) -> None:
        """Begin. Call once."""
        _RUNNING[self._thread] = self._stop
        self._thread.start()

    def stop(self) -> None:
        """Ask the job to stop at its next step; returns at once."""
        self._stop.set()

    def take(self) -> Message | None:
        """The next message, or None when there is none yet."""
        try:
            return self._messages.get_nowait()
        except Empty:
            return None

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False when it has not after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


_RUNNING: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()


@atexit.register
def stop_all() -> None:
    """Stop every job and wait for it."""
    # A daemon thread inside torch while the interpreter goes down can crash the process.
    running = [(thread, stop) for thread, stop in _RUNNING.items() if thread.is_alive()]
    for _, stop in running:
        stop.set()
    for thread, _ in running:
        thread.join(EXIT_WAIT_S)


def _work(
    make_job: Callable[[], Job[Any]],
    put: Callable[[Message], None],
    stop: threading.Event,
    discard: Callable[[Any], None] | None,
) -> None:
    message = _run(make_job, put, stop)
    if isinstance(message, Done) and stop.is_set() and discard is not None:
        discard(message.result)
        message = Stopped()
    put(message)


def _run(
    make_job: Callable[[], Job[Any]], put: Callable[[Message], None], stop: threading.Event
) -> Message:
    try:
        with closing(make_job()) as job:
            while not stop.is_set():
                try:
                    put(Step(next(job)))
                except StopIteration as end:
                    return Done(end.value)
        return Stopped()
    except CellDETRError as error:
        return Failed(error)
    except Exception as error:  # noqa: BLE001 - the last line: whatever happens must be told
        return Failed(as_job_error(error))


def as_job_error(error: Exception) -> JobError:
    """A `JobError` that says in plain words what an unexpected exception means."""
    text = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        told = JobError(
            "There was not enough memory for the next tiles.",
            expected="room for one batch of tiles",
            found=text,
            remedy="choose the CPU as device, or a smaller batch or tile under Advanced, "
            "and run again; finished tiles are kept",
        )
    else:
        told = JobError(
            "The detection stopped because of an unexpected error.",
            found=text,
            remedy="run again; finished tiles are kept. If it comes back, report it with this text",
        )
    told.__cause__ = error
    return told
