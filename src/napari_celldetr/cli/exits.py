"""What the exit code of `celldetr` says."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, as docs/cli.md promises them to scripts."""

    OK = 0
    ERROR = 1
    """A `CellDETRError`: what was asked could not be done; the message says why."""
    USAGE = 2
    """The command line itself is wrong."""
    INCOMPLETE = 3
    """Finished, but some tiles failed: the result is not the whole slide."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C; the same command goes on where it was."""
