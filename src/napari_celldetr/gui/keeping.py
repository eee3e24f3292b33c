"""What outlives the window: opening a slide's record in the project, and saving to it. No Qt."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_celldetr.core.annotations import Annotations
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.coverage import Coverage
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.prepared import Prepared, prepare
from napari_celldetr.gui.sources import ArraySlide
from napari_celldetr.pipeline.journal_errors import DamagedJournalError
from napari_celldetr.pipeline.journal_writer import JournalWriter
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.project import Project
from napari_celldetr.pipeline.project_cells import RunAbout
from napari_celldetr.pipeline.project_record import SlideFacts, SlideRecord
from napari_celldetr.pipeline.self_check import Finding, check_slide

Color = tuple[int, int, int]
OWN_TRIES, OWN_WAIT_S = 5, 0.2


@dataclass(frozen=True)
class Result:
    """Claims that were saved, and all it takes to show them as they were."""

    cells: Prepared
    colors: Mapping[str, Color]
    threshold: float
    identity: tuple[Any, ...]
    coverage: Coverage | None
    model: str
    weights: str
    lesson: Lesson | None = None


@dataclass(frozen=True)
class Kept:
    """What a project holds of a slide. `writer` is None where the slide is read-only here."""

    record: SlideRecord
    writer: JournalWriter | None
    annotations: Annotations
    result: Result | None = None
    view: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def open_job(source: SlideSource, *, author: str) -> Job[Kept]:
    """Open the slide's record, its journal and its latest result.

    Raises `AnnotationError` when the project cannot be used at all.
    """
    yield Progress(0, 0, "Looking for earlier work on this slide…")
    with source.open() as slide:
        size, mpp = slide.size, slide.mpp
        findings = tuple(check_slide(slide)) if is_file(slide) else ()
        facts = SlideFacts.of(slide)
        if isinstance(slide, ArraySlide):
            # The same picture, whatever pixel size a person has given it since.
            facts = replace(facts, identity=slide.pixels_identity())
        record = Project.open(author=author).slide(facts)
    _outwait_ourselves(record)
    writer: JournalWriter | None = None
    try:
        problems: list[str] = []
        writer, annotations = _journal(record, problems)
        yield Progress(0, 0, "Reading the cells found earlier…")
        result = _result(record, size, mpp, annotations, problems)
        problems += record.problems
        view = record.view()
        return Kept(record, writer, annotations, result, view, tuple(problems), findings)
    except BaseException:
        # The window may be gone while this is read: nothing may stay open behind it.
        close(record, writer)
        raise


def _outwait_ourselves(record: SlideRecord) -> None:
    """Where this very program is still closing the slide, e.g. after switching to and fro."""
    for _ in range(OWN_TRIES):
        holder = record.holder
        if not record.read_only or holder is None or holder.pid != os.getpid():
            return
        time.sleep(OWN_WAIT_S)
        record.try_take_over()


def is_file(slide: Any) -> bool:
    """Whether a slide is a file, which says of itself how large its pixels are."""
    return Path(slide.path).is_file()


def _journal(record: SlideRecord, problems: list[str]) -> tuple[JournalWriter | None, Annotations]:
    try:
        journal = record.journal()
    except DamagedJournalError as error:
        saved = record.recover_journal()
        problems.append(f"{error} {saved} entries were saved into a new journal.")
        journal = record.journal()
    annotations = journal.annotations()
    if journal.damage is not None:
        problems.append(str(journal.damage))
    if record.read_only:
        journal.close()
        return None, annotations
    return JournalWriter(journal), annotations


def _result(
    record: SlideRecord,
    size: tuple[int, int],
    mpp: tuple[float, float] | None,
    annotations: Annotations,
    problems: list[str],
) -> Result | None:
    found = record.latest_cells()
    if found is None:
        return None
    table, about = found
    try:
        identity = _tuples(json.loads(about.config))
        said = json.loads(about.report)
        coverage = Coverage.from_json(said["coverage"]) if said.get("coverage") else None
        colors = {str(k): (int(r), int(g), int(b)) for k, (r, g, b) in said["colors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"The result of {about.time[:16]} cannot be shown: {error!r:.100}")
        return None
    um = table.source.mpp or mpp
    threshold = about.threshold if about.threshold is not None else 0.5
    lesson = _lesson(record, about.weights, problems)
    cells = prepare(
        table,
        size,
        mpp=um[0] if um else None,
        annotations=annotations,
        threshold=threshold,
        teacher=None if lesson is None else lesson.head,
    )
    return Result(cells, colors, threshold, identity, coverage, about.model, about.weights, lesson)


def _lesson(record: SlideRecord, weights: str, problems: list[str]) -> Lesson | None:
    """The lesson that holds, where it is of the model that found the cells."""
    lesson = record.lessons.current()
    problems += record.lessons.problems
    return lesson if lesson is not None and lesson.fits(weights) else None


def save_job(
    record: SlideRecord,
    table: Detections,
    *,
    threshold: float,
    identity: tuple[Any, ...],
    colors: Mapping[str, Color],
    coverage: Mapping[str, Any] | None,
) -> Job[RunAbout]:
    """Save claims as a result of their own."""
    yield Progress(0, 0, "Saving the cells…")
    # Which claims they are stands apart from how they are shown: by the first, runs are compared.
    about = RunAbout(
        config=json.dumps(identity),
        report=json.dumps({"colors": dict(colors), "coverage": coverage}),
        threshold=threshold,
    )
    return record.save_cells(table, about)


def close(record: SlideRecord | None, writer: JournalWriter | None) -> str:
    """Save what is left and let others in; what went wrong, in words."""
    trouble = ""
    if writer is not None:
        try:
            writer.close(timeout=5.0)
        except CellDETRError as error:
            trouble = str(error)
        else:
            writer.journal.close()
    if record is not None and not trouble:
        record.close()
    return trouble


def close_kept(kept: Kept) -> None:
    """Close what was opened for a window that is gone."""
    close(kept.record, kept.writer)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, so that they compare with what was kept."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
