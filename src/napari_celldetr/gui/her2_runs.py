"""Running *Measure HER2*: nuclei where there are none yet, then membranes; one run at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.progress import Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import DetectRequest, DetectResult, detect_job
from napari_celldetr.gui.her2_body import TUMOUR_AREAS, WHOLE
from napari_celldetr.gui.her2_job import (
    Measured,
    MeasureRequest,
    MeasureStep,
    check_job,
    coverage_job,
    measure_job,
)
from napari_celldetr.gui.her2_keeping import keep_in
from napari_celldetr.gui.her2_nuclei import Search, search_for
from napari_celldetr.gui.her2_report import config_of
from napari_celldetr.gui.her2_where import bounds_of
from napari_celldetr.gui.her2_words import error_words
from napari_celldetr.gui.panel import JobRunner, RunBar
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.settings import CELLS_UP_TO_MPP
from napari_celldetr.pipeline.her2.tumour import Tumour

NO_CELLS = "No cells were found there. Measure another part of the slide."
STOPPED = "Stopped. What was found is kept and used again."


class Her2Runs(QObject):
    """Finds nuclei and measures them, one slide at a time.

    `measured` gets a `Measured`, first of the cells in view and at last of all; `ended` says in
    words how a run ended, whichever way.
    """

    measured = Signal(object)
    ended = Signal(str)

    def __init__(
        self, bar: RunBar, *, models: Any, workspace: Path | None, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._bar, self._models, self._workspace = bar, models, workspace
        self._session: SlideSession | None = None
        self._within: Region | None = None
        self._search: Search | None = None
        self._stopping = False
        self._checker, self._finder, self._reader = (JobRunner(self) for _ in range(3))
        self._checker.finished.connect(self._on_checked)
        self._finder.progressed.connect(self._on_found)
        self._finder.finished.connect(self._on_all_found)
        self._reader.progressed.connect(self._on_read)
        self._reader.finished.connect(self._on_all_read)
        for runner in self._runners:
            runner.failed.connect(self._on_failed)
            runner.stopped.connect(lambda: self._end(STOPPED))

    @property
    def _runners(self) -> tuple[JobRunner, ...]:
        return self._checker, self._finder, self._reader

    @property
    def running(self) -> bool:
        """Whether something is being found or measured."""
        return any(runner.running for runner in self._runners)

    def begin(self, session: SlideSession, where: str, tumour: Tumour, cutoffs: Cutoffs) -> None:
        """Measure a part of the slide, see `part_of`; coverage alone where there can be no cells.

        Raises
        ------
        CellDETRError
            There is nothing to measure, or no model for nuclei.
        """
        if session.frame.mpp is None or max(session.frame.mpp) > CELLS_UP_TO_MPP:
            self.cover(session, tumour, cutoffs)
        else:
            self.start(session, part_of(session, where, tumour))

    def start(self, session: SlideSession, region: Region) -> None:
        """Measure the cells of a region; those of the slide that are known are measured too.

        Raises
        ------
        CellDETRError
            There is no model for nuclei.
        """
        self._stopping = False
        search = search_for(session, region, self._models)
        if search is None:
            self.measure(session)
        else:
            source = source_of_layer(session.layer, mpp=session.frame.mpp)
            self._session, self._within, self._search = session, region, search
            self._bar.show_busy("Looking at the stain…")
            self._checker.start(lambda: check_job(source))

    def _on_checked(self, _result: None) -> None:
        if self._stopping:
            self._end(STOPPED)
        elif self._session is not None and self._search is not None and self._within is not None:
            self._find(self._session, self._within, self._search)

    def _find(self, session: SlideSession, region: Region, search: Search) -> None:
        whole = region == Region(0, 0, *session.size)
        view = session.view()
        request = DetectRequest(
            source=source_of_layer(session.layer, mpp=session.frame.mpp),
            config=search.config,
            region=None if whole else region,
            first=(view or region).centre,
            workspace=self._workspace,
        )
        seen = session.seen()
        session.begin(search.card, search.identity(session), search.card.threshold)
        models, earlier = self._models, session.earlier(seen)
        self._bar.show_busy("Loading the model that finds nuclei…")
        self._finder.start(lambda: detect_job(request, models, earlier))

    def measure(self, session: SlideSession, *, control: Control | None = None) -> None:
        """Measure all cells of a slide, the stain evened out by a control if there is one."""
        if self._stopping or not session.cells.kept.any():
            self._end(STOPPED if self._stopping else NO_CELLS)
            return
        source = source_of_layer(session.layer, mpp=session.frame.mpp)
        request = MeasureRequest(
            source, session.snapshot(), session.view(), control, keep_in(session)
        )
        self._session = session
        self._bar.show_busy("Reading the membranes…")
        self._reader.start(lambda: measure_job(request))

    def cover(self, session: SlideSession, tumour: Tumour, cutoffs: Cutoffs) -> None:
        """Coverage by pixels, where cells cannot be measured."""
        source = source_of_layer(session.layer, mpp=session.frame.mpp)
        self._session = session
        self._bar.show_busy("Measuring how much is stained…")
        config = config_of(source)
        self._reader.start(lambda: coverage_job(source, tumour, cutoffs, config))

    def stop(self) -> None:
        """Ask for an end. Nuclei found so far and finished tiles stay."""
        if self.running:
            self._stopping = True
            self._bar.show_stopping()
            for runner in self._runners:
                runner.stop()

    def abandon(self) -> None:
        """Stop, and tell no more."""
        for runner in self._runners:
            runner.abandon()
        self._session, self._stopping = None, False

    def _on_found(self, step: Progress) -> None:
        session = self._session
        if session is None:
            return
        for event in step.events:
            session.add_tile(event, within=self._within)
        if step.events:
            session.refresh()
        if self._bar.cancel_button.isEnabled():
            self._bar.show_progress(replace(step, cells=int(session.cells.kept.sum())))

    def _on_all_found(self, result: DetectResult) -> None:
        if self._session is not None:
            self._session.take(result.cells)
            self.measure(self._session)

    def _on_read(self, step: Progress) -> None:
        if isinstance(step, MeasureStep) and step.early is not None:
            self.measured.emit(Measured(step.early))
        if self._bar.cancel_button.isEnabled():
            self._bar.show_progress(step)

    def _on_all_read(self, result: Measured) -> None:
        self.measured.emit(result)
        if result.state is not None:
            self._end(f"{len(result.state):,} cells are measured. {result.problem}".strip())
        else:
            self._end("Coverage is measured by pixels, without cells.")

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._end(error_words(error))

    def _end(self, text: str) -> None:
        self._session, self._stopping = None, False
        self.ended.emit(text)


def part_of(session: SlideSession, where: str, tumour: Tumour) -> Region:
    """The part of a slide that a choice of `Her2Body.where` means.

    Raises
    ------
    ConfigError
        Nothing of the slide is there.
    """
    whole = Region(0, 0, *session.size)
    if where == WHOLE:
        return whole
    asked = bounds_of(tumour) if where == TUMOUR_AREAS else session.view()
    found = None if asked is None else asked.intersect(whole)
    if found is None:
        raise ConfigError(
            "Nothing of the slide is there.",
            expected="a part of the slide",
            found="none",
            remedy="move the slide into view, or draw the tumour on it",
        )
    return found
