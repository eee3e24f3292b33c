"""Matrix products on one thread, where many small ones follow each other.

OpenBLAS's threads wait for each other by spinning. Of products this small a second thread makes a
fit ten times as expensive, and on a busy machine it takes the processor from the viewer's window.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_users = 0
_limits: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let linear algebra use one thread meanwhile, in this whole process.

    May be entered by several jobs at once, in any order: the last one that leaves puts back what
    the first one found.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users, _limits
    with _lock:
        _users += 1
        if _users == 1:
            from threadpoolctl import threadpool_limits

            _limits = threadpool_limits(limits=1, user_api="blas")


def _leave() -> None:
    global _users, _limits
    with _lock:
        _users -= 1
        if not _users:
            _limits.restore_original_limits()
            _limits = None
