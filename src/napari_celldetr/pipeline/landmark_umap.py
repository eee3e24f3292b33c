"""UMAP of a million cells: landmarks are laid out in a child process, the others placed by them.

Principal components first, then UMAP of at most some thousand landmarks, then every cell at the
weighted mean of its nearest landmarks. The child process keeps numba's compiler away from the
viewer's graphics driver, and cancelling is killing it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import Field, check
from napari_celldetr.core.errors import EmbeddingError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.space.pca import fitting_pca
from napari_celldetr.core.space.placing import placing
from napari_celldetr.core.space.similar import landmarks
from napari_celldetr.pipeline.umap_child import POINTS, POSITIONS, SETTINGS

FEWEST = 10
_POLL_S = 0.2
_SHARES = (0.1, 0.8, 0.1)
"""Of the bar: components, the child process, placing."""


@dataclass(frozen=True)
class UmapConfig:
    """Settings of the UMAP projection."""

    landmarks: Annotated[
        int,
        Field("Landmarks", "Cells that UMAP itself lays out", ge=100, le=50_000),
    ] = 10_000
    neighbours: Annotated[
        int, Field("Neighbours", "More show the whole, fewer the detail", ge=2, le=200)
    ] = 15
    min_distance: Annotated[
        float, Field("Least distance", "How tightly like cells are packed", ge=0.0, le=1.0)
    ] = 0.1
    components: Annotated[
        int, Field("Components", "Main axes kept before", ge=2, le=200, advanced=True)
    ] = 50
    seed: Annotated[int, Field("Seed", "Of the layout", ge=0, le=2**31 - 1, advanced=True)] = 0


def umap_installed() -> bool:
    """Whether umap-learn can be imported; nothing is loaded to find out."""
    return importlib.util.find_spec("umap") is not None


def landmark_umap(
    vectors: NDArray[Any], config: UmapConfig | None = None
) -> Job[NDArray[np.float32]]:
    """Positions (N, 2) of embeddings (N, D) in a UMAP layout.

    Yields a `Progress` in percent at least every 250 ms. Closing the job kills the child process.

    Raises
    ------
    EmbeddingError
        Fewer than 10 cells, or numbers that are not finite.
    JobError
        umap-learn is not installed, or it failed.
    """
    config = check(config or UmapConfig())
    if not umap_installed():
        raise JobError(
            "UMAP needs a package that is not installed.",
            expected="umap-learn",
            found="nothing",
            remedy="pip install 'napari-celldetr[umap]', or stay with principal components",
        )
    if len(vectors) < FEWEST:
        raise EmbeddingError(
            "UMAP needs more cells.",
            expected=f"at least {FEWEST}",
            found=str(len(vectors)),
            remedy="choose a larger part of the slide",
        )
    bar = _Bar()
    size = min(config.components, vectors.shape[1], len(vectors))
    pca = yield from bar.part(0, fitting_pca(vectors, components=size, sample=200_000))
    places = yield from bar.part(0, pca.projecting(vectors), half=True)
    rows = landmarks(places, config.landmarks, seed=config.seed)
    laid = yield from bar.part(1, _laid_out(places[rows], config))
    return (yield from bar.part(2, placing(places, places[rows], laid)))


def _laid_out(points: NDArray[np.float32], config: UmapConfig) -> Job[NDArray[np.float32]]:
    """Positions (L, 2) of the landmarks, from the child process."""
    with tempfile.TemporaryDirectory(prefix="celldetr-umap-") as name:
        folder = Path(name)
        np.save(folder / POINTS, points)
        (folder / SETTINGS).write_text(json.dumps(asdict(config)), encoding="utf-8")
        yield from _run_child(folder, len(points))
        return np.load(folder / POSITIONS, allow_pickle=False)


def _run_child(folder: Path, count: int) -> Generator[Progress, None, None]:
    log = folder / "log.txt"
    command = [sys.executable, "-m", "napari_celldetr.pipeline.umap_child", str(folder)]
    with log.open("wb") as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err
        )
        try:
            while child.poll() is None:
                done, total = _epochs(log)
                yield Progress(done, total, f"UMAP of {count:,} landmarks")
                time.sleep(_POLL_S)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    if child.returncode or not (folder / POSITIONS).is_file():
        raise _failed(child.returncode, log)


def _epochs(log: Path) -> tuple[int, int]:
    """The last "12/200" that the child wrote of its epochs."""
    found = re.findall(rb"(\d+)/(\d+) \[", log.read_bytes()[-4000:])
    return (int(found[-1][0]), max(int(found[-1][1]), 1)) if found else (0, 1)


def _failed(code: int, log: Path) -> JobError:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "no message")
    return JobError(
        "UMAP failed.",
        expected="a layout",
        found=f"killed by signal {-code}" if code < 0 else last[:300],
        remedy="try fewer landmarks, or stay with principal components",
    )


class _Bar:
    """Parts of the work as one bar of 100."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def part(self, number: int, job: Job[Any], *, half: bool = False) -> Job[Any]:
        """Follow one part; `half` is the second half of it."""
        before, share = sum(_SHARES[:number]), _SHARES[number]
        try:
            while True:
                step = next(job)
                at = (step.fraction + half) / 2 if number == 0 else step.fraction
                yield Progress(
                    round(100 * (before + share * at)),
                    100,
                    step.message,
                    seconds=time.perf_counter() - self._started,
                )
        except StopIteration as stop:
            return stop.value
        finally:
            job.close()
