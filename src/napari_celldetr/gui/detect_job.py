"""The job behind *Detect cells*: all that takes time, and nothing that touches the viewer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Annotations
from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections, concatenate
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.merge import merge
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region, Tile
from napari_celldetr.core.taught import Teacher
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.prepared import Prepared, prepare, with_earlier


class SlideSource(Protocol):
    """How to get at a slide from any thread."""

    def open(self) -> Any:
        """The slide, to be closed by the caller."""
        ...


class Models(Protocol):
    """Where predictors come from."""

    def load(self, name: str, *, device: str, flips: bool) -> Predictor:
        """A loaded model; takes seconds the first time."""
        ...


@dataclass
class LoadedModels:
    """Installed models; the one used last stays loaded."""

    _last: tuple[tuple[str, str, bool], Predictor] | None = field(default=None, repr=False)

    def cards(self) -> list[Any]:
        """Cards of the installed models."""
        from napari_celldetr.nets.registry import list_models

        return list_models()

    def load(self, name: str, *, device: str, flips: bool) -> Predictor:
        """The model, from memory when it is the one used last."""
        from napari_celldetr.gui.own_llvm import import_triton_apart
        from napari_celldetr.nets.registry import load_model

        import_triton_apart()
        key = (name, device, flips)
        if self._last is None or self._last[0] != key:
            self._last = None
            # Lessons start from the probabilities of all classes.
            model = load_model(name, device=device, flips=flips, class_columns=True)
            self._last = (key, model)
        return self._last[1]


_SHARED = LoadedModels()


def shared_models() -> LoadedModels:
    """The models that all docks of this process share, so that one stays loaded only."""
    return _SHARED


@dataclass(frozen=True)
class DetectRequest:
    """What the user asked for. `region` None is the whole slide; `workspace` None the cache."""

    source: SlideSource
    config: DetectConfig
    region: Region | None = None
    first: tuple[float, float] | None = None
    workspace: Path | None = None


@dataclass(frozen=True)
class DetectResult:
    """All cells above the model's floor, ready to be shown, and what became of the tiles."""

    cells: Prepared
    report: Any = None


@dataclass(frozen=True)
class Earlier:
    """What the slide's session holds when a run begins.

    `claims` of the same model with the same settings, which stay outside the run's region;
    `annotations` as they are when asked for; `seen`, centres of the cells in complete areas;
    `teacher`, the lesson that holds.
    """

    claims: Detections | None = None
    annotations: Callable[[], Annotations | None] = lambda: None
    seen: NDArray[np.floating] | None = None
    threshold: float = 0.0
    teacher: Teacher | None = None


def detect_job(
    request: DetectRequest, models: Models, earlier: Earlier | None = None
) -> Job[DetectResult]:
    """Load the model, open the slide, detect; the result is made ready to be shown here too."""
    config = request.config
    started = time.perf_counter()
    yield Progress(0, 0, "Loading the model and reading the first tile…")
    predictor = models.load(config.model, device=config.device, flips=config.flips)
    yield Progress(0, 0, "Opening the slide…", seconds=time.perf_counter() - started)
    with request.source.open() as slide:
        table, report = yield from _detect(slide, request, predictor)
        mpp = config.mpp or (slide.mpp[0] if slide.mpp else None)
        size = slide.size
    region = request.region or Region(0, 0, *size)
    return DetectResult(_ready(table, region, size, mpp, earlier or Earlier()), report)


def merge_job(
    tiles: Sequence[tuple[Tile, Detections]],
    frame: Frame,
    size: tuple[int, int],
    card: Any,
    earlier: Earlier | None = None,
    *,
    within: Region | None = None,
) -> Job[DetectResult]:
    """Join the tiles of a run that was stopped, so that no cell on a seam counts twice.

    `within` is the run's region: earlier claims beside it stay.
    """
    from napari_celldetr.pipeline.tiles import SLACK_MODEL_PX

    yield Progress(0, 0, "Joining the finished tiles…")
    mpp = frame.mpp or (card.mpp, card.mpp)
    slack = SLACK_MODEL_PX * card.mpp / math.sqrt(mpp[0] * mpp[1])
    table = merge(tiles, slack_px=slack)
    earlier = earlier or Earlier()
    if earlier.claims is not None:
        for tile, _ in tiles:
            room = tile.core if within is None else tile.core.intersect(within)
            if room is not None:
                outside = ~inside(earlier.claims.centres, room)
                earlier = replace(earlier, claims=earlier.claims.select(outside))
    whole = None if earlier.claims is None else concatenate([table, earlier.claims]).ordered()
    um = frame.mpp[0] if frame.mpp else None
    nowhere = Region(-1, -1, 1, 1)
    rest = replace(earlier, claims=None)
    claims = table if whole is None else whole
    return DetectResult(_ready(claims, nowhere, size, um, rest, within=within))


def _ready(
    table: Detections,
    region: Region,
    size: tuple[int, int],
    mpp: float | None,
    earlier: Earlier,
    *,
    within: Region | None = None,
) -> Prepared:
    return prepare(
        with_earlier(table, earlier.claims, region),
        size,
        mpp=mpp,
        annotations=earlier.annotations(),
        threshold=earlier.threshold,
        seen=earlier.seen,
        within=within or region,
        teacher=earlier.teacher,
    )


@dataclass(frozen=True)
class SlideFrame:
    """What an export asks of a slide: `size` (width, height) and scanned part, level-0 px."""

    size: tuple[int, int]
    bounds: Region | None


def _detect(
    slide: Any, request: DetectRequest, predictor: Predictor
) -> Generator[Progress, None, tuple[Detections, Any]]:
    from napari_celldetr.pipeline.detect import detect

    job = detect(
        slide,
        request.config,
        predictor=predictor,
        region=request.region,
        first=request.first,
        workspace=request.workspace,
        keep_floor=True,
    )
    report = None

    def watched(step: Progress) -> Progress:
        nonlocal report
        report = getattr(step, "report", report)
        return step

    table = yield from _mapped(job, watched)
    return table, report


def _mapped(
    job: Job[Detections], see: Callable[[Progress], Progress]
) -> Generator[Progress, None, Detections]:
    """Pass every step on, close the inner job when the outer one is closed."""
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                table: Detections = end.value
                return table
            yield see(step)
    finally:
        job.close()
