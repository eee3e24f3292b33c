"""While a slide is open nothing is collected in other threads, and afterwards all is as before."""

from __future__ import annotations

import gc
import threading
import weakref

from pytestqt.qtbot import QtBot

from napari_celldetr.gui import collector


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_in_the_window_s_thread_alone(qtbot: QtBot) -> None:
    owner, where = object(), []
    collector.begin(owner)
    try:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 1000

        def tie() -> None:
            for _ in range(3000):
                knot = Knot()
                weakref.finalize(knot, lambda: where.append(threading.current_thread().name))
                # References to the finalizers keep nothing alive.
                del knot

        thread = threading.Thread(target=tie, name="somebody")
        thread.start()
        thread.join()
        assert where == []
        qtbot.waitUntil(lambda: len(where) == 3000, timeout=10_000)
        assert set(where) == {threading.main_thread().name}
    finally:
        collector.end(owner)
    qtbot.waitUntil(lambda: not collector.is_on(), timeout=5000)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_it_goes_on_until_the_last_slide_is_closed_and_our_threads_have_ended(
    qtbot: QtBot,
) -> None:
    first, second, done = object(), object(), threading.Event()
    collector.begin(first)
    collector.begin(second)
    thread = threading.Thread(target=done.wait, name="celldetr-job")
    thread.start()
    collector.end(first)
    collector.end(first)
    qtbot.wait(2 * collector.TURN_MS)
    assert collector.is_on()
    collector.end(second)
    qtbot.wait(2 * collector.TURN_MS)
    assert collector.is_on()
    done.set()
    thread.join()
    qtbot.waitUntil(lambda: not collector.is_on(), timeout=5000)


def test_very_many_new_objects_are_set_aside(qtbot: QtBot) -> None:
    owner = object()
    collector.begin(owner)
    try:
        before = gc.get_freeze_count()
        many = [[i] for i in range(2 * collector.MOST_AT_ONCE)]
        qtbot.waitUntil(lambda: gc.get_freeze_count() > before + len(many) // 2, timeout=5000)
    finally:
        collector.end(owner)
    qtbot.waitUntil(lambda: not collector.is_on(), timeout=5000)
    assert gc.get_freeze_count() == 0
