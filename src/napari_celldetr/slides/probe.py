"""Open an unknown file first where it can do no harm: a child process with hard limits.

The child opens the slide and reads a little of every level. If it crashes, hangs or eats
memory, only the child is lost and the caller gets a `SlideError`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.limits import refuse

MEMORY_BYTES = 2 * 2**30
CPU_SECONDS = 20
# Generous: a busy machine must not turn a good slide away, and the child's CPU time is limited.
WALL_SECONDS = 120
SAMPLE_PX = 64

_passed: set[tuple[str, int, int]] = set()


def probe(path: Path) -> None:
    """Raise `SlideError` when opening `path` in a limited child process fails.

    A file that passed is not probed again in this process unless its size or time changed.
    """
    key = _key(path)
    if key in _passed:
        return
    answer = _run_child(path)
    if answer is not None:
        raise SlideError(**answer)
    _passed.add(key)


def _key(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


def _run_child(path: Path) -> dict[str, str] | None:
    # -P: never import from the folder the user happens to be in. One thread: thread pools
    # reserve address space that counts against the child's limit.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "napari_celldetr.slides.probe", os.path.abspath(path)]
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        found = f"nothing after {WALL_SECONDS} s"
        raise refuse(path.name, "an answer from the trial opening", found) from error
    lines = child.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if child.returncode == 0 and lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise refuse(
            path.name,
            "a file that can be opened",
            f"the trial opening ended with status {child.returncode} (crash, memory or time)",
        )
    return answer.get("error")


def _limit_self() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's clock still holds there.
        return
    for kind, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_SECONDS)):
        _, hard = resource.getrlimit(kind)
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try(path: Path) -> dict[str, object]:
    from napari_celldetr.slides.formats import open_backend, read_head

    try:
        backend = open_backend(path, read_head(path))
        for level, (width, height) in enumerate(backend.facts.level_sizes):
            for x, y in ((0, 0), (width // 2, height // 2)):
                box = (x, y, min(SAMPLE_PX, width - x), min(SAMPLE_PX, height - y))
                try:
                    backend.read(level, *box)
                except SlideError:
                    continue  # a bad tile is for the reader to report, not a reason to refuse
        backend.close()
    except SlideError as error:
        parts = ("message", "expected", "found", "remedy")
        return {"error": {part: getattr(error, part) for part in parts}}
    return {"error": None}


def main() -> None:
    """Entry of the child process: limits first, then the file, one line of JSON out."""
    _limit_self()
    sys.stdout.write("\n" + json.dumps(_try(Path(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
