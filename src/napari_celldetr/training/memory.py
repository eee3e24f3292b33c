"""Memory that a training process keeps instead of handing it back after every step."""

from __future__ import annotations

import ctypes
import platform
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT = 2**31 - 1
"""mallopt takes a C int, so this is the most that can be asked for, in bytes."""
_PAD = 2**29


def keep_memory() -> bool:
    """Ask glibc to keep freed memory; whether it agreed.

    A training step allocates and frees the same large arrays again and again. By default glibc
    maps each of them anew, and the kernel clears every page once more. Elsewhere than on Linux
    with glibc nothing is done. It holds for the whole process, so only commands that do nothing
    but train call it, before they train.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _PAD))
    agreed = [mallopt(name, value) for name, value in wishes]
    return all(answer == 1 for answer in agreed)
