"""Ctrl-C while a step is done: it waits until the step is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def kept_whole() -> Iterator[None]:
    """What is done inside is done to its end before Ctrl-C stops the program.

    A second Ctrl-C stops it at once. Outside the main thread, where Ctrl-C never arrives, and
    where Ctrl-C is not Python's to handle, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    asked: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if asked:
            before(number, frame)
        asked.append((number, frame))

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        before(*asked[0])


def leave_to_parent(_: int = 0) -> None:
    """Let a loading process live through Ctrl-C: its parent decides when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
