"""Python's garbage collector while a slide is open: in the window's own thread, never for long.

A collection runs in whichever thread happens to allocate. When it runs in a job's thread and
finds Qt objects among the garbage, they are destroyed there, and the process may crash. And a
full collection walks through half a million objects of napari, Qt and torch, which stops the
window for a quarter of a second. So while a slide is open, or one of our threads runs, Python
does not collect by itself: a timer does it in the window's thread, and what was there before is
set aside (``gc.freeze``). When the last slide is closed everything is as it was.
"""

from __future__ import annotations

import gc
import threading
from typing import Any

from qtpy.QtCore import QCoreApplication, QTimer

TURN_MS = 100
MOST_AT_ONCE = 50_000
"""More new objects than this, as an import of torch makes, are set aside, not walked through."""
THREADS = "celldetr"
"""Names of our threads begin so."""

_owners: set[int] = set()
_timer: QTimer | None = None


def begin(owner: object) -> None:
    """`owner` opens a slide. Call in the window's thread."""
    global _timer
    _owners.add(id(owner))
    app = QCoreApplication.instance()
    if _timer is not None or app is None:
        return
    gc.disable()
    gc.collect()
    gc.freeze()
    _timer = QTimer(app)
    _timer.setInterval(TURN_MS)
    _timer.timeout.connect(_turn)
    _timer.start()
    app.aboutToQuit.connect(_quit)


def end(owner: object) -> None:
    """`owner` is done with its slide; soon after the last one all is as it was."""
    _owners.discard(id(owner))


def is_on() -> bool:
    """Whether collecting is in our hands."""
    return _timer is not None


def _turn() -> None:
    if not _owners and not _threads():
        _restore()
        return
    new, *old = gc.get_count()
    limits = gc.get_threshold()
    if new > MOST_AT_ONCE:
        gc.freeze()
    elif new > limits[0]:
        ready = [count > limit for count, limit in zip(old, limits[1:], strict=True)]
        gc.collect(0 if not ready[0] else 2 if ready[1] else 1)


def _threads() -> list[Any]:
    return [t for t in threading.enumerate() if t.name.startswith(THREADS)]


def _quit() -> None:
    # No timer will come any more, but a script may go on.
    from napari_celldetr.gui.worker import stop_all

    _owners.clear()
    stop_all()
    _restore()


def _restore() -> None:
    global _timer
    timer, _timer = _timer, None
    app = QCoreApplication.instance()
    if timer is not None:
        timer.stop()
        timer.deleteLater()
        if app is not None:
            app.aboutToQuit.disconnect(_quit)
        gc.unfreeze()
        # Here, where it does no harm.
        gc.collect()
        gc.enable()
