"""No long pauses of Python's garbage collector while somebody works on a slide.

napari, Qt and torch are half a million objects, and a full collection that walks through all of
them stops the window for a quarter of a second. While a slide is open they are set aside
(``gc.freeze``); what comes after them is collected as ever. When the last slide is closed
everything is as it was.
"""

from __future__ import annotations

import gc

_open: set[int] = set()


def begin(owner: object) -> None:
    """`owner` opens a slide."""
    _open.add(id(owner))
    set_aside()


def set_aside() -> None:
    """What was loaded since is set aside as well; without an open slide nothing is."""
    if _open:
        gc.collect()
        gc.freeze()


def end(owner: object) -> None:
    """`owner` is done with its slide; with the last one everything can be collected again."""
    if id(owner) in _open:
        _open.discard(id(owner))
        if not _open:
            gc.unfreeze()
