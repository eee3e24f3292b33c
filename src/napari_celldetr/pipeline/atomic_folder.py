"""Folders that are either the old one or the complete new one, as `atomic` does it for files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from napari_celldetr.pipeline.atomic import TEMPORARY, flush_folder

_EXCHANGE = 2
_AT_FDCWD = -100
_AT_ONCE = 16
_PAUSES_S = (0.0, 0.05, 0.2, 1.0)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary folder beside `path`; on success it becomes `path`, durably.

    Linux exchanges the old folder and the new one in one step. Elsewhere the old one is moved
    away first, and moved back when the new one cannot take its place. On any exception the
    temporary folder goes. Raises `OSError` as the file system gives it.
    """
    temporary = _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        _flush_all(temporary)
        _take_place(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    flush_folder(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        _remove(new)
        return
    old = _beside(path)
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove a folder into which another thread may still be writing its last file."""
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _exchange(one: Path, other: Path) -> bool:
    """Let two names stand for each other's folder; False where the system cannot."""
    call = _renameat2()
    if call is None:
        return False
    return call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0


def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    return found


def _flush_all(folder: Path) -> None:
    """Bring every file and folder below `folder` to the disk."""
    places = [(Path(place), names) for place, _, names in os.walk(folder)]
    files = [place / name for place, names in places for name in names]
    # A disk takes many files at once in hardly more time than one.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(_flush, files):
            pass
    for place, _ in places:
        flush_folder(place)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
