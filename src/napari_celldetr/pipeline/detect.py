"""Detect cells: a slide goes in, one table of cells comes out, and any run can be stopped.

Reading threads run ahead of the network, the network runs in a thread of its own, and the job
itself only records and reports: it yields at least once a batch and never waits longer than
250 ms. A tile's result is in the ledger before anyone sees it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from napari_celldetr import __version__
from napari_celldetr.core.config import DetectConfig, check, to_json
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ConfigError, JobError
from napari_celldetr.core.merge import merge
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress, TileEvent
from napari_celldetr.core.regions import Region, Tile
from napari_celldetr.pipeline.engine import Engine, batches_of
from napari_celldetr.pipeline.ledger import (
    DONE,
    FAILED,
    SATURATED,
    SKIPPED,
    WITH_RESULT,
    Ledger,
    TileResult,
    TileRow,
    cache_folder,
    run_key,
    thread_count,
)
from napari_celldetr.pipeline.measure import size_columns
from napari_celldetr.pipeline.self_check import check_cells
from napari_celldetr.pipeline.tiles import Geometry, SlideLike, inside, plan_geometry

F = TypeVar("F")

REUSED = "reused"
_WAIT_S = 0.2
_RECALL = 64


@dataclass(frozen=True, slots=True)
class DetectReport:
    """What became of the tiles of one run.

    `tiles` is all that were planned; `done`, `reused`, `failed`, `saturated` and `skipped` (no
    tissue) add up to it at the end (`saturated` tiles are not in `done`; reused ones count once,
    as reused). `reasons` holds (tile key, reason) of each failed or saturated tile.
    """

    tiles: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    saturated: int = 0
    skipped: int = 0
    cells: int = 0
    seconds: float = 0.0
    device: str = ""
    reasons: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people; names what is missing from the result, if anything is."""
        parts = [f"{self.cells} cells in {self.tiles - self.skipped} tiles"]
        for name in ("reused", "failed", "saturated", "skipped"):
            if getattr(self, name):
                parts.append(f"{getattr(self, name)} {name}")
        counted = Counter(reason for _, reason in self.reasons)
        parts += [f"{reason} ({n}×)" for reason, n in counted.most_common(3)]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class DetectProgress(Progress):
    """A `Progress` of a detect job with the report so far; the last one has the final report."""

    report: DetectReport = field(default_factory=DetectReport)


def detect(
    slide: SlideLike,
    config: DetectConfig | None = None,
    *,
    predictor: Predictor | None = None,
    region: Region | None = None,
    first: tuple[float, float] | None = None,
    workspace: str | Path | None = None,
    fresh: bool = False,
    keep_floor: bool = False,
) -> Job[Detections]:
    """Find the cells of a slide or of a region of it.

    Parameters
    ----------
    slide
        An open `Slide`; it must stay open until the job has ended.
    config
        Defaults to ``DetectConfig()``.
    predictor
        A loaded model; by default ``config.model`` is loaded when the first tile needs it.
    region
        Level-0 px; cells with their centre inside are returned. Default: the scanned part.
    first
        A point (x, y) in level-0 px to start from.
    workspace
        Folder under which this run is stored, in a folder of its own named after its run key;
        by default in the user's cache. The same run started again goes on where it was, and
        a run on another region reuses the tiles they share.
    fresh
        Discard what was stored.
    keep_floor
        Return every cell above the model's score floor instead of above the threshold.

    Yields
    ------
    DetectProgress
        After every batch with its tiles' cells, and at least every 250 ms.

    Returns
    -------
    Detections
        Level-0 px, canonical order. When some tiles failed, the rest is returned and the last
        progress's report says which and why.

    Raises
    ------
    SlideError
        The pixel size is not known, or the slide cannot be read.
    ConfigError
        A setting or the region is out of range.
    ModelError
        The model cannot be loaded.
    JobError
        Every tile failed, or the workspace cannot be written.
    """
    run = _Run.prepare(slide, config or DetectConfig(), predictor, region, first, keep_floor)
    folder = Path(workspace) if workspace is not None else cache_folder()
    with Ledger(folder / run.key[:24], key=run.key, fresh=fresh) as ledger:
        report = yield from run.compute(ledger)
        cells = run.collect(ledger)
    looked_at = report.tiles - report.skipped - report.failed
    warnings = (*report.warnings, *run.doubts(cells, looked_at))
    report = replace(report, cells=len(cells), warnings=warnings)
    yield run.progress(report, message=report.summary())
    return cells


@dataclass
class _Run:
    """One detect job: what was asked, resolved once; and the tally as it goes."""

    slide: SlideLike
    config: DetectConfig
    card: Any
    predictor: Predictor | None
    region: Region
    cut: bool
    geometry: Geometry
    tiles: list[Tile]
    threshold: float
    source: Source
    key: str
    started: float

    @classmethod
    def prepare(
        cls,
        slide: SlideLike,
        config: DetectConfig,
        predictor: Predictor | None,
        region: Region | None,
        first: tuple[float, float] | None,
        keep_floor: bool,
    ) -> _Run:
        started = time.perf_counter()
        check(config)
        card = predictor.card if predictor is not None else _card(config.model)
        threshold = card.score_floor if keep_floor else _threshold(config, card)
        geometry = plan_geometry(slide, config, card.mpp)
        asked = _region(slide, region)
        source = Source(
            slide=slide.name,
            slide_id=slide.identity(),
            mpp=geometry.mpp,
            model=card.name,
            weights_sha256=card.weights_sha256,
            config=to_json(config),
            version=__version__,
        )
        return cls(
            slide=slide,
            config=config,
            card=card,
            predictor=predictor,
            region=asked,
            cut=region is not None and asked != region,
            geometry=geometry,
            tiles=geometry.grid.plan(asked, first=first),
            threshold=threshold,
            source=source,
            key=_key(source, config, card, geometry, predictor),
            started=started,
        )

    @cached_property
    def by_index(self) -> dict[tuple[int, int], Tile]:
        """Planned tiles by grid position, made once: every batch looks its tiles up."""
        return {t.index: t for t in self.tiles}

    def compute(self, ledger: Ledger) -> Generator[Progress, None, DetectReport]:
        """Make every planned tile known to the ledger, and report."""
        known = ledger.rows()
        state = {t.index: known[t.index].state for t in self.tiles if t.index in known}
        usable = {*WITH_RESULT, SKIPPED} if self.config.tissue_only else {*WITH_RESULT}
        # A failed tile is tried again: the disk or the memory may have come back.
        todo = [t for t in self.tiles if state.get(t.index) not in usable]
        reused = [t for t in self.tiles if state.get(t.index) in WITH_RESULT]
        report = DetectReport(tiles=len(self.tiles), warnings=tuple(_repairs(ledger)))
        todo, bare = yield from self._sort_out(todo, report)
        ledger.commit([TileResult(t.index, SKIPPED) for t in bare])
        report = replace(report, skipped=len(self.tiles) - len(todo) - len(reused))
        busy = {t.index for t in (*todo, *reused)}
        empty = [TileEvent(t, SKIPPED) for t in self.tiles if t.index not in busy]
        if empty:
            yield self.progress(report, events=empty, message="finding tissue")
        report = yield from self._recall(ledger, reused, known, report)
        if todo:
            report = yield from self._infer(ledger, todo, report)
        self._refuse_nothing(report)
        return report

    def collect(self, ledger: Ledger) -> Detections:
        """The merged result, always as it lies on disk."""
        by_index = self.by_index
        stored = ((by_index[index], table) for index, table in ledger.read(by_index))
        merged = merge(
            ((tile, table.above(self.threshold)) for tile, table in stored),
            slack_px=self.geometry.slack_px,
        )
        if not len(merged):
            return self._empty()
        cells = inside(merged, self.region).with_source(self.source)
        return cells.with_columns(**size_columns(cells.boxes, self.geometry.mpp))

    def doubts(self, cells: Detections, looked_at: int) -> Iterator[str]:
        """What the result itself says against the settings."""
        if self.cut:
            size = f"{self.region.width} × {self.region.height} px"
            yield f"The region reaches beyond the slide; only {size} of it were analysed."
        if not len(cells) and looked_at and self.config.tissue_only:
            source = getattr(self.slide, "mpp_source", "") or "as given"
            yield (
                f"No cells in {looked_at} tiles with tissue. Check the pixel size "
                f"({self.geometry.mpp[0]:.4g} µm/px, from: {source}) and the model's stain."
            )
        findings = check_cells(cells, self.geometry.mpp, card=self.card)
        yield from (finding.text for finding in findings if finding.level == "doubt")

    def progress(
        self, report: DetectReport, *, events: Sequence[TileEvent] = (), message: str = ""
    ) -> DetectProgress:
        """One step; tiles without tissue are not counted as work."""
        seconds = time.perf_counter() - self.started
        return DetectProgress(
            done=report.done + report.reused + report.failed + report.saturated,
            total=report.tiles - report.skipped,
            message=message,
            cells=report.cells,
            seconds=seconds,
            events=tuple(events),
            report=replace(report, seconds=seconds),
        )

    def _sort_out(
        self, todo: list[Tile], report: DetectReport
    ) -> Generator[Progress, None, tuple[list[Tile], list[Tile]]]:
        """Tiles with tissue and tiles without; the mask is only made when it is needed."""
        if not todo or not self.config.tissue_only:
            return todo, []
        yield self.progress(report, message="finding tissue")
        from napari_celldetr.slides.tissue import tissue_mask

        mask = tissue_mask(cast(Any, self.slide))
        covered = [mask.covers(tile.core) for tile in todo]
        return (
            [t for t, yes in zip(todo, covered, strict=True) if yes],
            [t for t, yes in zip(todo, covered, strict=True) if not yes],
        )

    def _recall(
        self, ledger: Ledger, tiles: list[Tile], known: dict[Any, TileRow], report: DetectReport
    ) -> Generator[Progress, None, DetectReport]:
        """Show what is stored, a handful of tiles at a time so that memory stays flat."""
        for start in range(0, len(tiles), _RECALL):
            some = tiles[start : start + _RECALL]
            tables = dict(ledger.read(t.index for t in some))
            rows = [known[t.index] for t in some]
            results = [
                TileResult(r.index, r.state, r.reason, tables.get(r.index, self._empty()))
                for r in rows
            ]
            tally, events = self._tally(report, results)
            report = replace(tally, done=0, saturated=0, reused=report.reused + len(some))
            events = [replace(e, state=REUSED) if e.state == DONE else e for e in events]
            yield self.progress(report, events=events, message="recalling")
        return report

    def _infer(
        self, ledger: Ledger, todo: list[Tile], report: DetectReport
    ) -> Generator[Progress, None, DetectReport]:
        with Engine(self.slide, self.config, self.card, self.geometry) as engine:
            yield from self._await(engine.load(self._load), report, engine)
            for future in engine.run(batches_of(todo, engine.batch_size)):
                results = yield from self._await(future, report, engine)
                ledger.commit(results)
                engine.recorded()
                report, events = self._tally(report, results)
                report = replace(report, device=engine.device)
                yield self.progress(report, events=events, message="detecting")
        return replace(report, warnings=(*report.warnings, *engine.warnings))

    def _await(
        self, future: Future[F], report: DetectReport, engine: Engine
    ) -> Generator[Progress, None, F]:
        while not wait([future], timeout=_WAIT_S).done:
            yield self.progress(report, message=engine.doing)
        return future.result()

    def _tally(
        self, report: DetectReport, results: list[TileResult]
    ) -> tuple[DetectReport, list[TileEvent]]:
        by_index = self.by_index
        states = Counter(r.state for r in results)
        reasons = [
            (by_index[r.index].key, r.reason) for r in results if r.state in (FAILED, SATURATED)
        ]
        events = [
            TileEvent(
                by_index[r.index],
                r.state,
                None if r.detections is None else self._shown(r.detections),
                r.reason,
            )
            for r in results
        ]
        found = sum(len(e.detections) for e in events if e.detections is not None)
        tally = replace(
            report,
            done=report.done + states["done"],
            failed=report.failed + states[FAILED],
            saturated=report.saturated + states[SATURATED],
            reasons=(*report.reasons, *reasons),
            cells=report.cells + found,
        )
        return tally, events

    def _shown(self, cells: Detections) -> Detections:
        return inside(cells.above(self.threshold), self.region).with_source(self.source)

    def _empty(self) -> Detections:
        empty = Detections.empty(self.card.class_names, source=self.source)
        return empty.with_columns(**size_columns(empty.boxes, self.geometry.mpp))

    def _load(self) -> Predictor:
        if self.predictor is not None:
            # A lazy model is loaded here, so that its real device is known before batches are.
            return cast(Predictor, getattr(self.predictor, "loaded", self.predictor))
        from napari_celldetr.nets.registry import load_model

        return load_model(self.config.model, device=self.config.device, flips=self.config.flips)

    def _refuse_nothing(self, report: DetectReport) -> None:
        if report.failed and report.failed == report.tiles - report.skipped:
            raise _all_failed(report)


def _card(model: str) -> Any:
    # The card alone says whether stored results can be reused; weights are loaded when needed.
    from napari_celldetr.nets.card import DETECT, read_card
    from napari_celldetr.nets.registry import find_model, refuse_other_task

    card = read_card(find_model(model))
    # Before anything is read or written: a slide without tissue would never load the model.
    refuse_other_task(card, DETECT)
    return card


def _threshold(config: DetectConfig, card: Any) -> float:
    if config.threshold is None:
        return float(card.threshold)
    if config.threshold < card.score_floor:
        raise ConfigError(
            "The score threshold is below what the model returns.",
            expected=f"at least {card.score_floor:g}, the score floor of {card.name}",
            found=f"{config.threshold:g}",
            remedy="raise the threshold",
        )
    return config.threshold


def _region(slide: SlideLike, region: Region | None) -> Region:
    whole = Region(0, 0, *slide.size)
    asked = getattr(slide, "bounds", whole) if region is None else region
    common = whole.intersect(asked)
    if common is None:
        raise ConfigError(
            "The region lies outside the slide.",
            expected=f"a region within {slide.size[0]} × {slide.size[1]} px",
            found=f"x {asked.x}, y {asked.y}, {asked.width} × {asked.height} px",
            remedy="give X Y WIDTH HEIGHT in level-0 pixels of this slide",
        )
    return common


def _key(
    source: Source,
    config: DetectConfig,
    card: Any,
    geometry: Geometry,
    predictor: Predictor | None,
) -> str:
    """Everything a tile's result depends on; the threshold and the region are not part of it."""
    # Tiles with more columns and tiles with fewer are not mixed: what is not in all would be lost.
    more = {"class_columns": True} if getattr(predictor, "class_columns", False) else {}
    return run_key(
        **more,
        slide=source.slide_id,
        weights=source.weights_sha256,
        class_rule=card.class_rule,
        # What a card may change without new weights.
        calibration=getattr(card, "calibration", None),
        score_floor=card.score_floor,
        mpp=geometry.mpp,
        core=geometry.grid.core,
        halo=geometry.grid.halo,
        tile_px=config.tile_px,
        batch=config.batch,
        device=config.device,
        flips=config.flips,
        threads=thread_count(),
    )


def _repairs(ledger: Ledger) -> Iterator[str]:
    if ledger.repaired:
        yield f"{ledger.repaired} stored tiles were damaged on disk and are computed again."


def _all_failed(report: DetectReport) -> JobError:
    counted = Counter(reason for _, reason in report.reasons)
    return JobError(
        f"All {report.failed} tiles failed.",
        expected="tiles that can be read and computed",
        found="; ".join(f"{reason} ({n}×)" for reason, n in counted.most_common(3)),
        remedy="check the slide and the model, e.g. with another slide or another device",
    )
