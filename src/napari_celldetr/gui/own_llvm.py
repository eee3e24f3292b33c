"""Keep two LLVMs apart: Mesa's, which draws the viewer, and triton's, which comes with torch."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec


def import_triton_apart() -> None:
    """Import triton, where it is installed, so that it binds to its own symbols.

    On Linux, Mesa's software and AMD drivers bring libLLVM into the process as soon as the
    viewer draws. triton's library exports an LLVM of its own; imported later it binds to Mesa's
    and the process dies (torch imports it without being asked). Call before the first import of
    torch in a process with a viewer.
    """
    deep = getattr(os, "RTLD_DEEPBIND", 0)
    if not deep or "triton" in sys.modules or find_spec("triton") is None:
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(before | deep)
    try:
        import_module("triton")
    except ImportError:
        # torch does without it, and says so itself where it matters.
        return
    finally:
        sys.setdlopenflags(before)
