"""Files that are either the old one or the complete new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from napari_celldetr.core.errors import ExportError

TEMPORARY = ".celldetr-tmp"
"""Suffix of files being written; whatever carries it after a crash is an orphan."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, durably.

    The order is write, fsync, rename, fsync the folder: after a power cut the name points to
    complete data or to what it pointed to before. On any exception the temporary file goes.
    Raises `OSError` as the file system gives it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can (Windows cannot open folders)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse to sync folders; the rename itself has happened.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def why(error: OSError) -> str:
    """An `OSError` in words for people, without the path (paths stay out of logs)."""
    words = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the folder is read-only",
        errno.EACCES: "no permission to write there",
        errno.EPERM: "no permission to write there",
        errno.ENOENT: "the folder does not exist",
        errno.ENOTDIR: "a part of the path is not a folder",
    }
    return words.get(error.errno or 0, error.strerror or type(error).__name__)


def not_written(name: str, error: OSError) -> ExportError:
    """That an export could not be written, and why."""
    return ExportError(
        f"{name} cannot be written.",
        expected="a writable folder with free space",
        found=why(error),
        remedy="choose another folder or free some space",
    )
